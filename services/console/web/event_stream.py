"""Server-sent events as a response. It ends with its messages, or if the client leaves or is too slow."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_WRITE_TIMEOUT_S: Final = 30.0
"""The longest time in which a client may take one message."""


def message(event: str, data: Any = None, event_id: str = "") -> bytes:
    """Return one message. Its data is JSON, which has no line feed that would end the message."""
    line = f"id: {event_id}\n".encode() if event_id.isprintable() and event_id else b""
    return line + b"event: " + event.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


class EventStream(Response):
    """A response that sends each message when it is made."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        """`on_end` is called when the response has ended, by an error too."""
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._messages = messages
        self._on_end = on_end

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        relay = asyncio.create_task(self._relay(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        finally:
            relay.cancel()
            gone.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)
            await self._messages.aclose()
            self._on_end()

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._messages:
            try:
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                return
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
