"""The HTTP protocol of every service: uvicorn's, with limits on the head of a request.

uvicorn notifies only the newest request of a connection that the connection is lost. A client that sends two
requests without waiting, and leaves, would have the first one go on: so that one is notified here.

A body is bounded where it is read. But the parser holds everything around the body (request line, headers,
chunk sizes, trailers) in memory until it is complete. So that is bounded here, in size and in time.
"""

import asyncio
import logging
from typing import Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.runtime.web.problems import MEDIA_TYPE, problem

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_TIMEOUT_S: Final = 10.0
_CHECK_INTERVAL_S: Final = 1.0
_FRAMING_FACTOR: Final = 8
"""Allowed bytes of chunk framing per byte of the body. A chunk of one byte has five."""


def _is_logged(record: logging.LogRecord) -> bool:
    """Return whether a record of uvicorn is logged.

    A streamed response that breaks off is ended without its end, and whoever ends it logs why. For uvicorn it
    is an error of the app, which a provider could cause at will.
    """
    return record.msg != "ASGI callable returned without completing response."


logging.getLogger("uvicorn.error").addFilter(_is_logged)


class BoundedHeadProtocol(HttpToolsProtocol):
    """Refuses more than 64 KiB around a body, and closes a connection whose head takes more than 10 s.

    When the connection is lost, the request in progress gets `http.disconnect`, and its response is dropped.
    """

    _body_bytes = 0
    _overhead_bytes = 0
    _head_since: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _in_progress: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._timer = self.loop.call_later(_CHECK_INTERVAL_S, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)
        if self._in_progress and not self._in_progress.response_complete:
            self._in_progress.disconnected = True
            self._in_progress.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._in_progress = cycle
        super()._start_asgi_task(cycle, app)

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
        """Close the connection if its head is late. One timer per connection is enough, none per request."""
        since = self._head_since
        is_responding = self.cycle is not None and not self.cycle.response_complete
        if since is not None and not is_responding and self.loop.time() - since >= HEAD_TIMEOUT_S:
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
