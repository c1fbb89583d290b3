"""A route of a management app that is called as often as webhooks are, and is answered without the framework.

Routing, dependencies and response models of FastAPI cost more CPU than all the work of such a call. The route
is declared to FastAPI too, for the OpenAPI document and the answers to other methods
(docs/adr/0085-bare-routes-of-the-management-api.md).
"""

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.runtime.logs import Log
from shared.runtime.web.problems import KNOWN_ERRORS, error_response

BareHandler = Callable[[Scope, Receive], Awaitable[tuple[int, bytes]]]
"""Handles a call and returns the status and the JSON body. It checks the caller with `access.authorize`.

Raises the errors of `shared.contracts.errors`, which are answered as those of every route.
"""


class BareRoute:
    """ASGI middleware that answers `POST` of one path with a `BareHandler`, and passes on everything else."""

    def __init__(self, app: ASGIApp, *, path: str, handler: BareHandler, log: Log) -> None:
        self._app = app
        self.path = path
        self._handler = handler
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self  # as routers do: spans are named after its path
        try:
            status, body = await self._handler(scope, receive)
        except KNOWN_ERRORS as error:
            await error_response(error, scope["path"], self._log)(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
