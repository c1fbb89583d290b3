"""Create, rotate and remove the gateway's inbound endpoints of provider subscriptions, over its API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.contracts.errors import InterlinkError, Invalid
from shared.runtime.http_client import ApiClient, Unreachable
from shared.runtime.secrets import Vault
from shared.runtime.web.service_keys import CURRENT_ACTOR, service_key
from shared.wire.bodies import parse_json

_MAX_DETAIL_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class GatewayEndpoint:
    """An inbound endpoint. `secret` is empty if the provider chooses it."""

    id: str
    url: str
    secret: str


class GatewayEndpoints:
    """A client of the gateway's API.

    Each call has a service key of the workspace that it is for, and of the member who caused it.
    """

    def __init__(self, client: ApiClient, vault: Vault, *, url: str) -> None:
        self._client = client
        self._vault = vault
        self._url = url.rstrip("/")

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
        """Create an endpoint. For a day, the same `idempotency_key` returns the same endpoint.

        Without a `secret` the gateway generates one. `channel` is the chat channel whose messages the
        webhooks become. Raises `Unreachable`; `Invalid` if the gateway rejects the endpoint.
        """
        body = {"provider": provider, "name": name, "settings": settings, "channel_id": channel}
        if secret:
            body["secret"] = secret
        created = await self._call(
            "POST", "/api/inbound-endpoints", workspace, body, idempotency_key=idempotency_key
        )
        return GatewayEndpoint(created["id"], created["url"], created.get("secret") or "")

    async def create_polled(
        self, workspace: str, idempotency_key: str, provider: str, name: str, channel: str | None
    ) -> str:
        """Create the endpoint of a polling trigger and return its id. Otherwise as `create`."""
        body = {"provider": provider, "name": name, "channel_id": channel, "polled": True}
        created = await self._call(
            "POST", "/api/inbound-endpoints", workspace, body, idempotency_key=idempotency_key
        )
        return str(created["id"])

    async def publish_polled(
        self, workspace: str, endpoint: str, events: Sequence[Mapping[str, Any]]
    ) -> None:
        """Publish the events of a poll; when this returns, Kafka has acknowledged all of them.

        Raises `Unreachable`: then all have to be published again. Raises `EndpointClosed` if the endpoint was
        disabled or deleted, `Invalid`.
        """
        body = {"endpoint_id": endpoint, "events": events}
        await self._call("POST", "/api/polled-events", workspace, body)

    async def set_secret(self, workspace: str, endpoint: str, secret: str) -> None:
        """Set the secret that the provider chose. The previous one stays valid for one hour.

        If too many previous secrets are still valid, all of them end at once: the provider signs with the new
        one already. Raises `Unreachable`, `Invalid`.
        """
        path = f"/api/inbound-endpoints/{endpoint}/rotate-secret"
        try:
            await self._call("POST", path, workspace, {"secret": secret, "overlap_hours": 1})
        except _EndpointConflict:
            await self._call("POST", path, workspace, {"secret": secret, "overlap_hours": 0})

    async def remove(self, workspace: str, endpoint: str) -> None:
        """Remove an endpoint; do nothing if there is none. Raises `Unreachable`, `Invalid`."""
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
        """Return the parsed JSON of the answer; None without a body, or for the 404 of a DELETE.

        Raises `Unreachable` for what a repeat may change, `EndpointClosed` for 404 and 410,
        `_EndpointConflict` for 409, `Invalid` for other errors.
        """
        # The member whose call led to this one; None for a renewal, which the service does by itself.
        acting = CURRENT_ACTOR.get()
        key = service_key(self._vault, "oauth", workspace, ["integrations:write"], acting)
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        if idempotency_key:
            headers.append((b"idempotency-key", idempotency_key.encode()))
        content = b"" if body is None else orjson.dumps(body)
        status, _, answer = await self._client.call(method, self._url + path, headers, content)
        if status == 429:
            # Over a quota: the error is shown to people of the workspace, and the detail names the quota.
            raise Unreachable(f"the gateway answered 429: {_problem_detail(answer)}")
        if status >= 500 or status in (408, 425):
            raise Unreachable(f"the gateway answered {status}")
        if status == 404 and method == "DELETE":
            return None
        if status in (404, 410):
            raise EndpointClosed(_problem_detail(answer), is_deleted=status == 404)
        if status == 409:
            raise _EndpointConflict(f"the gateway rejected the endpoint: {_problem_detail(answer)}")
        if status >= 400:
            raise Invalid(f"the gateway rejected the endpoint: {_problem_detail(answer)}")
        return parse_json(answer) if answer else None


class EndpointClosed(Invalid):
    """The endpoint was deleted (`is_deleted`) or disabled."""

    def __init__(self, detail: str, *, is_deleted: bool) -> None:
        super().__init__(f"the gateway rejected the endpoint: {detail}")
        self.is_deleted = is_deleted


class _EndpointConflict(Invalid):
    """The gateway answered 409."""


def _problem_detail(answer: bytes) -> str:
    """Return the detail and the field errors of a problem document, at most 300 characters."""
    try:
        problem = parse_json(answer)
        errors = [f"{item['field']}: {item['message']}" for item in problem.get("errors", [])]
        return "; ".join([problem["detail"], *errors])[:_MAX_DETAIL_LENGTH]
    except (InterlinkError, KeyError, TypeError, AttributeError):
        return "no reason given"
