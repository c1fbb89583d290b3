"""The HTTP protocol under every service: uvicorn's, which would hold a head without an end in memory.

A body is bounded where it is read. What stands around it (request line, headers, chunk sizes, trailers)
is kept by the parser until it is complete, so it is bounded here, in size and in time.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.runtime.problems import MEDIA_TYPE, problem

MOST_HEAD: Final = 64 * 1024
HEAD_WITHIN_S: Final = 10.0
_LOOK_S: Final = 1.0
_FRAMING: Final = 8
"""Bytes of chunk framing for one of the body, at most: a chunk of one byte has five."""


class BoundedHead(HttpToolsProtocol):
    """Refuses more than 64 KiB around a body, and a head that takes more than 10 s."""

    _body = 0
    _around = 0
    _head_since: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._timer = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._around += len(data)
        super().data_received(data)
        if self._around > MOST_HEAD + _FRAMING * self._body and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._around -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body = self._around = 0
        super().on_message_complete()

    def _look(self) -> None:
        """Close the connection when its head is late; one timer a connection, none a request."""
        since = self._head_since
        at_work = self.cycle is not None and not self.cycle.response_complete
        if since is not None and not at_work and self.loop.time() - since >= HEAD_WITHIN_S:
            self.transport.close()
            return
        self._timer = self.loop.call_later(_LOOK_S, self._look)


def _refusal() -> bytes:
    body = problem(431, f"the request line and headers have more than {MOST_HEAD} bytes")
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_REFUSAL: Final = _refusal()
