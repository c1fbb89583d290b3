"""A span around each request to a service, whose context takes the place of the request's `traceparent`."""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.routes import WEBHOOKS_PREFIX

if TYPE_CHECKING:
    from shared.runtime.spans import Tracer

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class TracedRequests:
    """An ASGI app in front of a service's own."""

    def __init__(self, app: ASGIApp, tracer: "Tracer", *, is_edge: bool) -> None:
        """`is_edge` says that strangers call this service: then the hub decides what is recorded."""
        self._app = app
        self._tracer = tracer
        self._is_edge = is_edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, within its span if its trace is recorded."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = scope["headers"]
        parent = next((value.decode("latin-1") for name, value in headers if name == b"traceparent"), "")
        if self._is_edge:
            parent = self._tracer.admit(parent)
        elif not parent:
            return await self._app(scope, receive, send)  # a probe, or a call that the gateway has not seen
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        # Neither path nor query: tokens of incoming webhooks are in the one, codes of logins in the other.
        span = self._tracer.start(method, "server", parent, {"http.request.method": method})
        context = parent if span is None else span.traceparent
        scope["headers"] = [pair for pair in headers if pair[0] not in (b"traceparent", b"tracestate")]
        scope["headers"].append((b"traceparent", context.encode("latin-1")))
        if span is None:
            return await self._app(scope, receive, send)
        status = 0

        async def note_status(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        error: str | None = "cancelled"
        try:
            await self._app(scope, receive, note_status)
            error = str(status) if status >= 500 else None
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            if route := _route_of(scope):
                span.rename(f"{method} {route}")
                span.set({"http.route": route})
            if status:
                span.set({"http.response.status_code": status})
            span.end(error)
        return None


def _route_of(scope: Scope) -> str:
    """Return the template of the path; '' for a path that another service or nobody has."""
    path: str = scope["path"]
    if path.startswith(WEBHOOKS_PREFIX):
        has_name = "/" in path[len(WEBHOOKS_PREFIX) :]
        return f"{WEBHOOKS_PREFIX}{{provider}}" + ("/{endpoint}" if has_name else "")
    return getattr(scope.get("route"), "path", "")
