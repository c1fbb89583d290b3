"""Proxy to the other services: one address for all management APIs without a reverse proxy."""

import asyncio
from collections.abc import KeysView, Mapping
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from shared.contracts.errors import Malformed
from shared.contracts.routes import service_for_path
from shared.runtime.http_client import ApiClient, Unreachable
from shared.runtime.web.problems import problem_response

_MAX_URL_LENGTH: Final = 16 * 1024
_NOT_FORWARDED: Final = frozenset(
    {
        b"date",
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"content-length",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and those that each connection sets itself."""
_FORWARDED_HEADERS: Final = frozenset(
    {
        b"forwarded",
        b"true-client-ip",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""Headers that name the caller. The services trust the proxy, so it never passes on a caller's own claim."""


class ServiceProxy:
    """An ASGI app that forwards calls to the services at `peers`."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        """`peers` are base URLs by service name."""
        self._peers = {name: url.rstrip("/") for name, url in peers.items()}
        self._client = ApiClient(timeout_s=60)

    @property
    def peers(self) -> KeysView[str]:
        """The names of the services behind the proxy."""
        return self._peers.keys()

    async def stop(self) -> None:
        await self._client.close()

    def handles(self, path: str) -> bool:
        """Return whether a path belongs to one of the services."""
        return service_for_path(path) in self._peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a call and return the response. `BodyLimit` in front has read the whole body already."""
        base = self._peers[service_for_path(scope["path"])]
        bodiless = scope["method"] in ("GET", "HEAD", "OPTIONS")
        body = b"" if bodiless else (await receive()).get("body", b"")
        query = scope["query_string"].decode("ascii", "replace")
        url = (
            base
            + scope["raw_path"].decode("ascii", "replace").partition("?")[0]
            + (f"?{query}" if query else "")
        )
        if len(url) > _MAX_URL_LENGTH:
            await problem_response(
                414, "the URL is longer than 16 KiB: send fewer or shorter query parameters"
            )(scope, receive, send)
            return
        headers = [
            (name, value.strip(b" \t"))
            for name, value in scope["headers"]
            if name not in _NOT_FORWARDED and name not in _FORWARDED_HEADERS
        ]
        if scope["client"]:
            headers.append((b"x-forwarded-for", scope["client"][0].encode()))
        try:
            status, received, content = await self._client.call(scope["method"], url, headers, body)
        except Malformed as error:
            await problem_response(error.status, error.detail)(scope, receive, send)
            return
        except Unreachable as error:
            response = problem_response(503, str(error), headers={"Retry-After": "2"})
            await response(scope, receive, send)
            return
        response_headers = [(name, value) for name, value in received if name.lower() not in _NOT_FORWARDED]
        # The response to HEAD has no body, but the length that the response to GET would have.
        if scope["method"] == "HEAD":
            response_headers += [
                (name, value) for name, value in received if name.lower() == b"content-length"
            ]
        elif status not in (204, 304):
            response_headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": response_headers})
        await send({"type": "http.response.body", "body": content})

    async def openapi(self) -> dict[str, dict[str, Any]]:
        """Return the OpenAPI documents of the services that answer, by service name."""
        results = await asyncio.gather(
            *(self._client.get_json(f"{base}/openapi/{name}.json") for name, base in self._peers.items()),
            return_exceptions=True,
        )
        return {
            name: document
            for name, document in zip(self._peers, results, strict=True)
            if isinstance(document, dict)
        }
