"""One entrance without a reverse proxy: management calls of other services are passed on to them."""

import asyncio
from collections.abc import Callable, KeysView, Mapping
from math import inf
from time import monotonic
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

from shared.contracts.errors import Malformed
from shared.contracts.routes import service_for_path
from shared.runtime.http_client import ApiClient, Unreachable
from shared.runtime.web.problems import SCHEMA_REF_PREFIX, problem_response

_MAX_URL_LENGTH: Final = 16 * 1024
_HOP_BY_HOP: Final = frozenset(
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
"""Headers that say who calls. The peers trust this entrance, so it passes on no caller's word for it."""
_INCOMPLETE_TTL_S: Final = 10.0


class ServiceProxy:
    """Knows where the peers are; `owns` says whether a path is one of theirs."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        self._peers = {name: url.rstrip("/") for name, url in peers.items()}
        self._client = ApiClient(timeout_s=60)

    @property
    def peers(self) -> KeysView[str]:
        """The names of the services behind this entrance."""
        return self._peers.keys()

    async def start(self) -> None:
        """Nothing to prepare: connections are made when they are needed."""

    async def stop(self) -> None:
        await self._client.close()

    def handles(self, path: str) -> bool:
        """Whether a path is a peer's."""
        return service_for_path(path) in self._peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and its answer back; `BodyLimit` in front has read the body whole."""
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
            await problem_response(414, "the address is too long")(scope, receive, send)
            return
        headers = [
            (name, value.strip(b" \t"))
            for name, value in scope["headers"]
            if name not in _HOP_BY_HOP and name not in _FORWARDED_HEADERS
        ]
        if scope["client"]:
            headers.append((b"x-forwarded-for", scope["client"][0].encode()))
        try:
            status, answer_headers, answer = await self._client.call(scope["method"], url, headers, body)
        except Malformed as error:
            await problem_response(error.status, error.detail)(scope, receive, send)
            return
        except Unreachable as error:
            response = problem_response(503, str(error), headers={"Retry-After": "2"})
            await response(scope, receive, send)
            return
        kept = [(name, value) for name, value in answer_headers if name.lower() not in _HOP_BY_HOP]
        if scope["method"] == "HEAD":
            kept += [(name, value) for name, value in answer_headers if name.lower() == b"content-length"]
        elif status not in (204, 304):
            kept.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": answer})

    async def openapi(self) -> dict[str, dict[str, Any]]:
        """Return the OpenAPI documents of the peers that answer, by service."""
        found = await asyncio.gather(
            *(self._client.get_json(f"{base}/openapi/{name}.json") for name, base in self._peers.items()),
            return_exceptions=True,
        )
        return {
            name: document
            for name, document in zip(self._peers, found, strict=True)
            if isinstance(document, dict)
        }


class MergedOpenApi:
    """The OpenAPI document of all services, built once.

    Anybody may ask for it, so a request must not cost more than sending it. While a peer does not answer, the
    document without it is kept for 10 s.
    """

    def __init__(self, forwarder: ServiceProxy, webhooks: Mapping[str, Any]) -> None:
        """`webhooks` is the document of the addresses that platforms call."""
        self._forwarder = forwarder
        self._webhooks = webhooks
        self._text = b""
        self._until = 0.0
        self._building = asyncio.Lock()

    async def text(self, own: Callable[[], Mapping[str, Any]]) -> bytes:
        """Return the document as JSON; `own` is the gateway's part."""
        async with self._building:
            if monotonic() >= self._until:
                peers = await self._forwarder.openapi()
                merged = merge_openapi(own(), {"webhooks": self._webhooks, **peers})
                self._text = orjson.dumps({**merged, "info": {**merged["info"], "title": "Interlink"}})
                complete = peers.keys() == self._forwarder.peers
                self._until = inf if complete else monotonic() + _INCOMPLETE_TTL_S
            return self._text


def merge_openapi(own: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One OpenAPI document; a peer's schema whose name is taken for another one gets the peer's in front."""
    paths: dict[str, Any] = dict(own["paths"])
    schemas: dict[str, Any] = dict(own.get("components", {}).get("schemas", {}))
    for service, document in peers.items():
        theirs = document.get("components", {}).get("schemas", {})
        text = orjson.dumps([document.get("paths", {}), theirs]).decode()
        renamed: dict[str, str] = {}
        for name, schema in theirs.items():
            if name in schemas and (schemas[name] != schema or SCHEMA_REF_PREFIX in repr(schema)):
                renamed[name] = service.capitalize() + name
                text = text.replace(f'"{SCHEMA_REF_PREFIX}{name}"', f'"{SCHEMA_REF_PREFIX}{renamed[name]}"')
        more_paths, more_schemas = orjson.loads(text)
        paths |= more_paths
        schemas |= {renamed.get(name, name): schema for name, schema in more_schemas.items()}
    return {**own, "paths": paths, "components": {**own.get("components", {}), "schemas": schemas}}
