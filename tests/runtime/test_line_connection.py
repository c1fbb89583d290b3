"""Connections that are read and written by lines, on uvloop."""

import asyncio
import socket

import pytest
import uvloop

from shared.runtime.egress.line_connection import open_line_connection


def test_a_line_to_a_closed_connection_is_an_error_of_the_connection() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.write(b"hello\r\n"), "127.0.0.1", 0)
        async with server:
            opened = socket.create_connection(server.sockets[0].getsockname())
            opened.setblocking(False)
            line = await open_line_connection(opened)
            assert await line.read_line() == b"hello"
            line.close()
            await asyncio.sleep(0)
            with pytest.raises(ConnectionResetError):
                await line.send(b"NOOP")

    uvloop.run(run())
