"""One entrance without a reverse proxy: management calls of other services are passed on to them."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from shared.contracts.routes import owner_of
from shared.runtime.http import ApiClient, Unreachable
from shared.runtime.problems import problem_response

_HOP_BY_HOP: Final = frozenset(
    {
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


class Forwarder:
    """Knows where the peers are; `owns` says whether a path is one of theirs."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        self._peers = {name: url.rstrip("/") for name, url in peers.items()}
        self._client = ApiClient(timeout_s=30)

    async def start(self) -> None:
        """Nothing to prepare: connections are made when they are needed."""

    async def stop(self) -> None:
        await self._client.close()

    def owns(self, path: str) -> bool:
        """Whether a path is a peer's."""
        return owner_of(path) in self._peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and its answer back; `BoundedBody` in front has read the body whole."""
        base = self._peers[owner_of(scope["path"])]
        body = (await receive()).get("body", b"")
        query = scope["query_string"].decode("ascii", "replace")
        url = (
            base
            + scope["raw_path"].decode("ascii", "replace").partition("?")[0]
            + (f"?{query}" if query else "")
        )
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
        try:
            status, answer_headers, answer = await self._client.call(scope["method"], url, headers, body)
        except Unreachable as error:
            response = problem_response(503, str(error), headers={"Retry-After": "2"})
            await response(scope, receive, send)
            return
        kept = [(name, value) for name, value in answer_headers if name.lower() not in _HOP_BY_HOP]
        kept.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": answer})

    async def openapi(self) -> list[dict[str, Any]]:
        """The OpenAPI documents of the peers that answer."""
        found = await asyncio.gather(
            *(self._client.get_json(f"{base}/openapi/{name}.json") for name, base in self._peers.items()),
            return_exceptions=True,
        )
        return [document for document in found if isinstance(document, dict)]
