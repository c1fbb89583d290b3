"""Limits on the bodies of management calls, in size and time."""

from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.runtime.deadlines import DeadlineQueue
from shared.runtime.web.problems import problem_response

_BODY_TIMEOUT_S: Final = 15.0


class BodyLimit:
    """ASGI middleware that reads the body, at most `max_bytes` within 15 s, and passes it on in one message.

    FastAPI reads a body before it checks the API key, so without this limit anybody could fill the memory.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._deadlines = DeadlineQueue(_BODY_TIMEOUT_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            with self._deadlines.deadline():
                body = await self._read(receive)
        except ClientDisconnect:
            return  # nobody waits for an answer, and half a body is no request
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
        """Return the body, or None if it is too large. Raises `ClientDisconnect` if it is not whole."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


def replay_body(body: bytes, rest: Receive) -> Receive:
    """Return a `receive` that gives this body once, then the messages of `rest`, such as a disconnect."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await rest()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
