"""aiohttp for the egress client: its sessions, its responses, and how a body is read."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage

_CONNECT_TIMEOUT_S: Final = 10.0
"""For the connection alone. The timeout of the whole call may be longer, to wait for the response."""
_MAX_RESPONSES: Final = 100
"""Responses to one request: the final one, and interim ones (1xx) before it."""
_MAX_PARSED_BYTES: Final = 16 * 1024
"""Bytes that are parsed at a time: a response can have 17 bytes, and the system has up to 256 KB at once."""


class GuardedConnector(aiohttp.TCPConnector):
    """Connects with `GuardedProtocol`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = partial(GuardedProtocol, self._loop)  # type: ignore[assignment]


class GuardedProtocol(ResponseHandler):
    """A connection that a server can neither flood with responses nor hold open once it is closed."""

    _responses = 0

    def set_response_params(self, **settings: Any) -> None:
        """Begin with the response to another request."""
        self._responses = 0
        super().set_response_params(**settings)

    def feed_data(self, data: Any, size: int = 0) -> None:
        self._responses += 1
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; break off at too many responses, which would cost as much CPU as it has."""
        for start in range(0, len(data) or 1, _MAX_PARSED_BYTES):
            if self._responses > _MAX_RESPONSES:
                return
            super().data_received(data[start : start + _MAX_PARSED_BYTES])
            if self._responses > _MAX_RESPONSES:
                self.abort()
                self.set_exception(BadHttpMessage("too many responses to one request"))

    def close(self) -> None:
        """Close at once.

        A close of TLS would read on until the server ends it too, for up to 30 s, and any other would wait
        until the server has read the request. A WebSocket's close frame is sent before.
        """
        websocket: Any = self._payload_parser
        if websocket is None:  # not `upgraded`: a server can answer 101 to any request
            self.abort()
        else:
            super().close()


class PeerAwareResponse(aiohttp.ClientResponse):
    """Keeps the server's address: aiohttp releases the connection as soon as a short response is complete."""

    address: str | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport else None
        self.address = str(peer[0]) if peer else None
        return await super().start(connection)


def create_session(
    connector: aiohttp.TCPConnector, *middlewares: aiohttp.ClientMiddlewareType
) -> aiohttp.ClientSession:
    """Return a session that uses the connector; with middlewares, another session closes the connector."""
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=not middlewares,
        middlewares=middlewares,
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding", "User-Agent"),
        response_class=PeerAwareResponse,
        ws_response_class=AbortableWebSocket,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
    )


class AbortableWebSocket(aiohttp.ClientWebSocketResponse):
    """A WebSocket whose connection can be dropped: a close waits until the server has read what was sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection = self._response.connection
        self._transport = connection.transport if connection is not None else None

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._transport is not None:
            self._transport.abort()


async def require_upgrade(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Refuse every answer to a WebSocket handshake but 101, with a subprotocol that was offered if any."""
    response = await handler(request)
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    chosen = response.headers.getall("Sec-WebSocket-Protocol", [])
    if response.status == 101 and (not chosen or (len(chosen) == 1 and chosen[0] in offered)):
        return response
    message = "the server chose a subprotocol that was not offered" if response.status == 101 else ""
    response.close()
    raise aiohttp.WSServerHandshakeError(
        response.request_info, (), status=response.status, message=message, headers=response.headers
    )


async def read_body(response: aiohttp.ClientResponse, max_bytes: int, chunks: list[bytes]) -> None:
    """Append the body to `chunks` until it ends or is longer than `max_bytes`."""
    content = response.content
    with body_of_connection(response):
        size = 0
        while chunk := await content.read(max_bytes + 1 - size):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                response.close()
                return


@contextmanager
def body_of_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Make reads of the body fail when the connection closes, while the context lasts.

    After a chunk that it cannot parse, aiohttp closes the connection but leaves the reader waiting.
    """
    content, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None

    def fail_body(_: object = None) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    if protocol is None:  # the body is complete
        yield
        return
    closed = protocol.closed
    if closed is None:  # it is closed already
        fail_body()
        yield
        return
    # aiohttp makes this future because we ask for it, and nobody else awaits it. An error of the connection,
    # which its next use reports, would be logged as "never retrieved".
    closed.remove_done_callback(_mark_retrieved)  # once for each connection, however often it is used
    closed.add_done_callback(_mark_retrieved)
    closed.add_done_callback(fail_body)
    try:
        yield
    finally:
        closed.remove_done_callback(fail_body)


def _mark_retrieved(closed: "asyncio.Future[None]") -> None:
    if not closed.cancelled():
        closed.exception()
