"""The gateway's inbound endpoints, which watches bring their webhooks to: made and removed over its API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.contracts.errors import InterlinkError, Invalid
from shared.runtime.http_client import ApiClient, Unreachable
from shared.runtime.secrets import Vault
from shared.runtime.web.access import service_key
from shared.wire.bodies import parse_json


@dataclass(frozen=True, slots=True)
class GatewayEndpoint:
    """An inbound endpoint; `secret` is empty where the platform makes it."""

    id: str
    url: str
    secret: str


class GatewayEndpoints:
    """Calls of the gateway, with a service key of the workspace that they are for."""

    def __init__(self, client: ApiClient, vault: Vault, *, url: str) -> None:
        self._client = client
        self._vault = vault
        self._url = url.rstrip("/")

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        await self._client.close()

    async def create(
        self,
        workspace: str,
        idempotency_key: str,
        provider: str,
        name: str,
        settings: Mapping[str, str],
        secret: str,
        channel: str | None,
    ) -> GatewayEndpoint:
        """A new endpoint; the same one again under the same `once`, for a day.

        Raises `Unreachable`, and `Invalid` when the gateway does not take it.
        """
        body = {"provider": provider, "name": name, "settings": settings, "channel_id": channel}
        if secret:
            body["secret"] = secret
        shown = await self._call(
            "POST", "/api/inbound-endpoints", workspace, body, idempotency_key=idempotency_key
        )
        return GatewayEndpoint(shown["id"], shown["url"], shown.get("secret") or "")

    async def set_secret(self, workspace: str, endpoint: str, secret: str) -> None:
        """Set the secret that the platform made; one from before is accepted for an hour more.

        When too many are still valid, they end now: the platform signs with the new one already.
        """
        path = f"/api/inbound-endpoints/{endpoint}/rotate-secret"
        try:
            await self._call("POST", path, workspace, {"secret": secret, "overlap_hours": 1})
        except _EndpointConflict:
            await self._call("POST", path, workspace, {"secret": secret, "overlap_hours": 0})

    async def remove(self, workspace: str, endpoint: str) -> None:
        """Remove it; one that is not there is removed."""
        await self._call("DELETE", f"/api/inbound-endpoints/{endpoint}", workspace, None)

    async def _call(
        self,
        method: str,
        path: str,
        workspace: str,
        body: Mapping[str, Any] | None,
        *,
        idempotency_key: str = "",
    ) -> Any:
        key = service_key(self._vault, "oauth", workspace, ["integrations:write"])
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        if idempotency_key:
            headers.append((b"idempotency-key", idempotency_key.encode()))
        sent = b"" if body is None else orjson.dumps(body)
        status, _, answer = await self._client.call(method, self._url + path, headers, sent)
        if status >= 500 or status in (408, 425, 429):
            raise Unreachable(f"the gateway answered {status}")
        if status == 404 and method == "DELETE":
            return None
        if status == 409:
            raise _EndpointConflict(f"the gateway does not take the endpoint: {_problem_detail(answer)}")
        if status >= 400:
            raise Invalid(f"the gateway does not take the endpoint: {_problem_detail(answer)}")
        return parse_json(answer) if answer else None


class _EndpointConflict(Invalid):
    """The gateway answered 409."""


def _problem_detail(answer: bytes) -> str:
    try:
        problem = parse_json(answer)
        faults = [f"{fault['field']}: {fault['message']}" for fault in problem.get("errors", [])]
        return "; ".join([problem["detail"], *faults])[:300]
    except (InterlinkError, KeyError, TypeError, AttributeError):
        return "no reason given"
