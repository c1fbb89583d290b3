"""One DNS question to one server: over UDP, and over TCP if the answer does not fit into a datagram."""

import asyncio
import secrets
import socket

from shared.runtime.egress.line_connection import check_open
from shared.wire.dns import (
    MAX_MESSAGE_BYTES,
    Addresses,
    AddressType,
    MalformedAnswer,
    NoSuchName,
    ServerAddress,
    ServerFailed,
    Truncated,
    decode_answer,
    encode_query,
)


async def query_server(server: ServerAddress, name: str, kind: AddressType) -> Addresses:
    """Ask one server for the addresses of a name. The caller sets the timeout.

    Raises what `decode_answer` raises except `Truncated`, and `OSError` or `EOFError` if the connection
    fails.
    """
    # A new port and a new random id for each query: together they make a forged answer hard to place.
    query_id = secrets.randbits(16)
    # Connected here, not by the loop: it would look the server's address up, which uvloop does in a thread.
    connection = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        connection.setblocking(False)
        connection.connect(server)
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _DnsDatagramProtocol(name, kind, query_id), sock=connection
        )
    except BaseException:
        connection.close()
        raise
    try:
        transport.sendto(encode_query(name, kind, query_id))
        return await protocol.answer
    except Truncated:
        return await _query_tcp(server, name, kind, query_id)
    finally:
        transport.close()


class _DnsDatagramProtocol(asyncio.DatagramProtocol):
    """Waits for the answer to one query among the datagrams that arrive at its port."""

    def __init__(self, name: str, kind: AddressType, query_id: int) -> None:
        self._question = (name, kind, query_id)
        self.answer: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- it is connected
        if self.answer.done():
            return
        try:
            self.answer.set_result(decode_answer(data, *self._question))
        except MalformedAnswer:
            return  # anybody can send a datagram: it must not end the wait for the server's answer
        except (Truncated, NoSuchName, ServerFailed) as error:
            self.answer.set_exception(error)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _query_tcp(server: ServerAddress, name: str, kind: AddressType, query_id: int) -> Addresses:
    reader, writer = await asyncio.open_connection(*server, limit=MAX_MESSAGE_BYTES)
    try:
        query = encode_query(name, kind, query_id)
        check_open(writer)
        writer.write(len(query).to_bytes(2) + query)
        length = int.from_bytes(await reader.readexactly(2))
        if length > MAX_MESSAGE_BYTES:
            raise ServerFailed("the answer is too long")
        answer = await reader.readexactly(length)
    finally:
        writer.transport.abort()
    try:
        return decode_answer(answer, name, kind, query_id)
    except Truncated:
        raise ServerFailed("the answer is cut off") from None
