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
_FRAMING: Final = 8
"""Bytes of chunk framing for one of the body, at most: a chunk of one byte has five."""


class BoundedHead(HttpToolsProtocol):
    """Refuses more than 64 KiB around a body, and a head that takes more than 10 s."""

    _body = 0
    _around = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._around += len(data)
        super().data_received(data)
        if self._around > MOST_HEAD + _FRAMING * self._body and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_time()
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._around -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body = self._around = 0
        super().on_message_complete()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_WITHIN_S, self._late)

    def _late(self) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._wait()  # the head of a pipelined request: the one before it is still at work
        else:
            self.transport.close()

    def _in_time(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _refusal() -> bytes:
    body = problem(431, f"the request line and headers have more than {MOST_HEAD} bytes")
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_REFUSAL: Final = _refusal()
