"""A connection over a checked socket that is read and written by lines, within bounds."""

import asyncio
import socket
import ssl
from typing import Final

MAX_LINE_LENGTH: Final = 8 * 1024
MAX_LINES: Final = 200
"""Lines of one connection."""


class TooManyLines(Exception):
    """The server sends a line that is too long, or too many lines; the text says which."""


class LineConnection:
    """A connection that is read and written by lines. Made by `open_line_connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tcp_writer: asyncio.StreamWriter | None = None
        self._lines = 0

    async def read_line(self) -> bytes:
        """Return the next line, without its end.

        Raises `TooManyLines` if the line is longer than 8 KiB or the 201st; `EOFError`, `OSError`.
        """
        self._lines += 1
        if self._lines > MAX_LINES:
            raise TooManyLines("it sends too many lines")
        try:
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError:
            raise TooManyLines("it sends a line that is too long") from None

    async def send(self, line: bytes) -> None:
        """Send a line. Raises `OSError`."""
        check_open(self._writer)
        self._writer.write(line + b"\r\n")
        await self._writer.drain()

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """Encrypt the connection from here on. Raises `ssl.SSLError`, `OSError`.

        Unread plaintext is dropped: an attacker on the network could have injected it.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE_LENGTH)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(self._writer.transport, protocol, tls, server_hostname=host)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        # The TLS transport uses this writer's transport, which a collected writer would close.
        self._tcp_writer = self._writer
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def close(self) -> None:
        """Close the connection at once, without waiting for the server to answer the end of TLS."""
        self._writer.transport.abort()


def check_open(writer: asyncio.StreamWriter) -> None:
    """Raise `ConnectionResetError` if a connection is closed: to uvloop, writing then is a defect."""
    if writer.transport.is_closing():
        raise ConnectionResetError("the server closed the connection")


async def open_line_connection(opened: socket.socket) -> LineConnection:
    """Return a connection over a connected socket, which it closes. Raises `OSError`."""
    try:
        return LineConnection(*await asyncio.open_connection(sock=opened, limit=MAX_LINE_LENGTH))
    except BaseException:
        opened.close()
        raise
