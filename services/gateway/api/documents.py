"""`/api/openapi.json` and `/api/asyncapi.json`: the interfaces of all services, as documents."""

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from math import inf
from time import monotonic
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from services.gateway.api.proxy import ServiceProxy
from services.gateway.api.webhook_openapi import PATHS, SCHEMAS
from shared.contracts.asyncapi import asyncapi
from shared.runtime.version import VERSION
from shared.runtime.web.problems import SCHEMA_REF_PREFIX
from shared.runtime.web.routes import Routes

_INCOMPLETE_TTL_S: Final = 10.0
_JSON: Final = "application/json"


class DocumentsApi:
    """The routes of the documents. They need no API key."""

    def __init__(self, proxy: ServiceProxy) -> None:
        self._merged = MergedOpenApi(proxy, {"paths": PATHS, "components": {"schemas": SCHEMAS}})

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        routes = Routes(app, "/api")
        routes.add("/asyncapi.json", self.asyncapi, methods=["GET"], include_in_schema=False)
        routes.add("/openapi.json", self.openapi, methods=["GET"], include_in_schema=False)

    async def asyncapi(self) -> Response:
        """Return the topics as an AsyncAPI 3 document."""
        return Response(_asyncapi_text(), media_type=_JSON)

    async def openapi(self, request: Request) -> Response:
        """Return the routes of all services and the webhook addresses as one OpenAPI document."""
        return Response(await self._merged.text(request.app.openapi), media_type=_JSON)


@cache
def _asyncapi_text() -> bytes:
    return orjson.dumps(asyncapi(VERSION))


class MergedOpenApi:
    """The OpenAPI document of all services, built once.

    Anybody may request it, so a request must not cost more than sending it. While a service does not answer,
    the document without it is cached for 10 s.
    """

    def __init__(self, proxy: ServiceProxy, webhooks: Mapping[str, Any]) -> None:
        """`webhooks` is the OpenAPI document of the addresses that providers call."""
        self._proxy = proxy
        self._webhooks = webhooks
        self._text = b""
        self._expires = 0.0
        self._building = asyncio.Lock()

    async def text(self, own: Callable[[], Mapping[str, Any]]) -> bytes:
        """Return the document as JSON. `own` returns the gateway's part."""
        async with self._building:
            if monotonic() >= self._expires:
                peers = await self._proxy.openapi()
                merged = merge_openapi(own(), {"webhooks": self._webhooks, **peers})
                self._text = orjson.dumps({**merged, "info": {**merged["info"], "title": "Interlink"}})
                is_complete = peers.keys() == self._proxy.peers
                self._expires = inf if is_complete else monotonic() + _INCOMPLETE_TTL_S
            return self._text


def merge_openapi(own: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the OpenAPI documents of several services into one.

    `peers` are documents by service. A schema of a peer whose name is in use for another schema gets the name
    of its service as a prefix.
    """
    paths: dict[str, Any] = dict(own["paths"])
    schemas: dict[str, Any] = dict(own.get("components", {}).get("schemas", {}))
    for service, document in peers.items():
        peer_schemas = document.get("components", {}).get("schemas", {})
        text = orjson.dumps([document.get("paths", {}), peer_schemas]).decode()
        renamed: dict[str, str] = {}
        for name, schema in peer_schemas.items():
            # Equal schemas that refer to others may still differ, because the others are renamed.
            if name in schemas and (schemas[name] != schema or SCHEMA_REF_PREFIX in repr(schema)):
                renamed[name] = service.capitalize() + name
                text = text.replace(f'"{SCHEMA_REF_PREFIX}{name}"', f'"{SCHEMA_REF_PREFIX}{renamed[name]}"')
        new_paths, new_schemas = orjson.loads(text)
        paths |= new_paths
        schemas |= {renamed.get(name, name): schema for name, schema in new_schemas.items()}
    return {**own, "paths": paths, "components": {**own.get("components", {}), "schemas": schemas}}
