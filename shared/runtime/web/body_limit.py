"""Bodies of management calls, bounded in size and time before a framework holds them in memory."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.runtime.web.problems import problem_response

_BODY_TIMEOUT_S: Final = 15.0


class BodyLimit:
    """ASGI middleware: reads the body, at most `most` bytes within 15 s, and hands it on whole.

    FastAPI reads a body before it looks at the API key, so without this a stranger could fill memory.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        body: bytes | None
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await self._read(receive)
        except TimeoutError:
            response = problem_response(
                408,
                f"the body did not arrive within {_BODY_TIMEOUT_S:.0f} s",
                headers={"Connection": "close"},
            )
            await response(scope, receive, send)
            return
        if body is None:
            response = problem_response(
                413, f"the body has more than {self._max_bytes} bytes", headers={"Connection": "close"}
            )
            await response(scope, receive, send)
            return
        await self._app(scope, replay_body(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


def replay_body(body: bytes, rest: Receive) -> Receive:
    """A `receive` that gives this body once, then what the connection has to say."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await rest()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
