"""The body of a request as a stream, bounded in bytes, for ASGI apps that do not hold it in memory."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.contracts.errors import TooLarge
from shared.runtime.web.problems import SANDBOX_HEADERS

_DISCARD_TIMEOUT_S: Final = 5.0
BLOCK_BYTES: Final = 1024 * 1024
INTERVAL_S: Final = 60.0
INTERVAL_BYTES: Final = 64 * 1024
"""Bytes that a large body has to bring in each interval: slower ones would hold the places of others."""


class RequestBody:
    """The body of one ASGI request, of at most `max_bytes` bytes."""

    def __init__(self, scope: Scope, receive: Receive, *, max_bytes: int) -> None:
        headers = dict(scope["headers"])
        self._receive = receive
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._received = 0
        self._complete = asyncio.Event()
        self.size: int | None = int(headers.get(b"content-length", b"0"))
        """The announced number of bytes; None for a chunked body."""
        if b"transfer-encoding" in headers:
            self.size = None
        if self.size == 0:
            self._complete.set()

    @property
    def complete(self) -> bool:
        """True if the whole body was received."""
        return self._complete.is_set()

    def check_size(self) -> None:
        """Raise `TooLarge` if the request announces more bytes than are allowed."""
        if self.size is not None and self.size > self._max_bytes:
            raise self._too_large()

    async def read(self, max_bytes: int) -> bytes | None:
        """Return the whole body if it has at most `max_bytes` bytes, else None: `stream` has all of it then.

        Raises `ClientDisconnect`, or `TooLarge`.
        """
        if self.size is not None and self.size > max_bytes:
            return None
        while not self.complete:
            self._chunks.append(await self._next())
            if self._received > max_bytes:
                return None
        return b"".join(self._chunks)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `ClientDisconnect`, or `TooLarge`."""
        while self._chunks:
            yield self._chunks.pop(0)
        while not self.complete:
            if chunk := await self._next():
                yield chunk

    def closing_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response that is sent now: it ends the connection if the body goes on."""
        return [] if self.complete else [(b"connection", b"close")]

    async def discard(self) -> None:
        """Read what is left, at most as much as is allowed and for at most 5 s.

        A connection that is closed with unread bytes is reset, and the client may lose the answer.
        """
        self._received = 0
        with suppress(ClientDisconnect, TooLarge, TimeoutError):
            async with asyncio.timeout(_DISCARD_TIMEOUT_S):
                while not self.complete:
                    await self._next()

    async def disconnected(self) -> None:
        """Wait until the client has gone, or got its answer. A client that still sends is not observed."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._received += len(chunk)
        if self._received > self._max_bytes:
            raise self._too_large()
        if not message.get("more_body"):
            self._complete.set()
        return chunk

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body has more than {self._max_bytes} bytes")


async def blocks(body: RequestBody) -> AsyncIterator[bytes]:
    """Yield the body in blocks of about 1 MB; when the client goes away, first what has arrived.

    Raises `ClientDisconnect`, and `TimeoutError` if an interval brings too few bytes.
    """
    parts: list[bytes] = []
    size = received = 0
    stream = body.stream()
    loop = asyncio.get_running_loop()
    until = loop.time() + INTERVAL_S
    try:
        while True:
            async with asyncio.timeout_at(until):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            received += len(chunk)
            if received >= INTERVAL_BYTES:
                received, until = 0, loop.time() + INTERVAL_S
            parts.append(chunk)
            size += len(chunk)
            if size >= BLOCK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
                received, until = 0, loop.time() + INTERVAL_S  # writing is the hub's time
    except (ClientDisconnect, TimeoutError):
        if parts:
            yield b"".join(parts)
        raise
    if parts:
        yield b"".join(parts)


async def until_disconnect(body: RequestBody, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it when the client goes away. Raises what it raises."""
    task, gone = asyncio.create_task(work), asyncio.create_task(body.disconnected())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return
        task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def send_early(send: Send, response: Response, body: RequestBody) -> None:
    """Send a response, also while the request's body is still on its way; no browser shows it as a page.

    The rest of the body is read before the connection is closed.
    """
    headers = [*response.raw_headers]
    headers += [(name.lower().encode(), value.encode()) for name, value in SANDBOX_HEADERS.items()]
    headers += body.closing_headers()
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    await body.discard()
    await send({"type": "http.response.body", "body": b""})
