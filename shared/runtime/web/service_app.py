"""The outermost ASGI app of every service: health, readiness, metrics, problem pages, then its own app."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.runtime import metrics
from shared.runtime.web.problem_pages import problem_page
from shared.runtime.web.problems import SANDBOX_HEADERS, problem_response
from shared.wire.forwarded import TrustedProxies
from shared.wire.paths import AMBIGUOUS_PATH_ERROR, is_ambiguous

Checks = Callable[[], Awaitable[Mapping[str, bool]]]
"""Returns the result of each check; a service is ready, or alive, if all are True."""
Exposition = Callable[[], Awaitable[bytes]]
"""Returns the response body of `/metrics`."""


class ServiceApp:
    """Answers `/healthz`, `/readyz`, `/metrics` and `/api/problems/...`; the service's app answers the rest.

    Set `draining` when the service stops: then it is not ready, and a request whose handler is cancelled gets
    status 503.
    """

    def __init__(
        self, app: ASGIApp, proxies: TrustedProxies, *, ready: Checks, alive: Checks, exposition: Exposition
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._ready = ready
        self._alive = alive
        self._exposition = exposition
        self.draining = False
        self._in_flight = 0
        metrics.REQUESTS_IN_FLIGHT.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            # Before anything reads the path: a proxy and the service could disagree on what it means.
            if is_ambiguous(scope["raw_path"].partition(b"?")[0]):
                rejection = problem_response(400, AMBIGUOUS_PATH_ERROR, headers=dict(SANDBOX_HEADERS))
                return await rejection(scope, receive, send)
            self._set_client(scope)
            if path == "/healthz":
                checks = await self._alive()
                alive = all(checks.values())
                body = orjson.dumps({"status": "alive" if alive else "stalled", "checks": checks})
                return await _send_response(send, 200 if alive else 503, body)
            if path == "/readyz":
                checks = {"not_draining": not self.draining, **await self._ready()}
                ready = all(checks.values())
                body = orjson.dumps({"ready": ready, "checks": checks})
                return await _send_response(send, 200 if ready else 503, body)
            if path == "/metrics":
                body = await self._exposition()
                return await _send_response(send, 200, body, b"text/plain; version=0.0.4; charset=utf-8")
            if page := problem_page(path):
                return await page(scope, receive, send)
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # uvicorn cancels requests that take longer than the drain. Their clients still get a response.
            if not self.draining or scope["type"] != "http":
                raise
            headers = {"Retry-After": "1", **SANDBOX_HEADERS}
            response = problem_response(503, "the service is stopping: send it again", headers=headers)
            with contextlib.suppress(RuntimeError):  # the response had begun
                await response(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _set_client(self, scope: Scope) -> None:
        """Set the request's client to the address that trusted proxies vouch for."""
        if scope["client"] and self._proxies.trusts(scope["client"][0]):
            forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            peer, port = scope["client"]
            client = self._proxies.client(peer, forwarded)
            scope["client"] = (client, port if client == peer else 0)


async def _send_response(
    send: Send, status: int, body: bytes, media_type: bytes = b"application/json"
) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
