"""The HTTP protocol under every service: uvicorn's, which would hold a head without an end in memory.

A body is bounded where it is read. What stands around it (request line, headers, chunk sizes, trailers)
is kept by the parser until it is complete, so it is bounded here, in size and in time.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.runtime.web.problems import MEDIA_TYPE, problem

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_TIMEOUT_S: Final = 10.0
_CHECK_INTERVAL_S: Final = 1.0
_FRAMING_FACTOR: Final = 8
"""Bytes of chunk framing for one of the body, at most: a chunk of one byte has five."""


class BoundedHeadProtocol(HttpToolsProtocol):
    """Refuses more than 64 KiB around a body, and a head that takes more than 10 s."""

    _body_bytes = 0
    _overhead_bytes = 0
    _head_since: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._timer = self.loop.call_later(_CHECK_INTERVAL_S, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._overhead_bytes += len(data)
        super().data_received(data)
        if (
            self._overhead_bytes > MAX_HEAD_BYTES + _FRAMING_FACTOR * self._body_bytes
            and not self.transport.is_closing()
        ):
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_RESPONSE_431)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._overhead_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_bytes = self._overhead_bytes = 0
        super().on_message_complete()

    def _check_head(self) -> None:
        """Close the connection when its head is late; one timer a connection, none a request."""
        since = self._head_since
        at_work = self.cycle is not None and not self.cycle.response_complete
        if since is not None and not at_work and self.loop.time() - since >= HEAD_TIMEOUT_S:
            self.transport.close()
            return
        self._timer = self.loop.call_later(_CHECK_INTERVAL_S, self._check_head)


def _build_431_response() -> bytes:
    body = problem(431, f"the request line and headers have more than {MAX_HEAD_BYTES} bytes")
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_RESPONSE_431: Final = _build_431_response()
