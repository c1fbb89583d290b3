"""The stored error of a rejected subscription has none of the secrets that were sent."""

from typing import Any, cast

import orjson
import pytest
import structlog

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.provider_calls import ProviderCalls
from services.oauth.subscriptions.records import SubscriptionRepository
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from shared.connections.integration_record import Integration
from shared.connections.tokens import Access, TokenSource
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import registry
from shared.manifests.subscription_requests import needs_account
from shared.manifests.subscriptions import SubscriptionSpec
from shared.runtime.clock import utcnow
from shared.wire.bodies import JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderRequest, ProviderResponse

TOKEN, SECRET = "at-0123456789abcdef", "the-secret-of-the-endpoint"


class Repeating:
    """Tokens of a platform that repeats what it was sent."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def values(self, _account: object) -> dict[str, str]:
        return {"client_id": "app", "client_secret": "the-secret-of-the-app"}

    async def call(self, _name: str, make: Any) -> ProviderResponse:
        access = Access(
            "int_1",
            registry().connectors[self.provider],
            "ws_1",
            1,
            {**self.values(None), "access_token": TOKEN},
            None,
        )
        return await self.send(make(access))

    async def send(self, _call: ProviderRequest) -> ProviderResponse:
        error_text = f"no {TOKEN} {SECRET}"
        body = orjson.dumps(
            {"error": error_text, "code": error_text, "errors": [{"code": error_text}], "message": error_text}
        )
        return ProviderResponse(400, {"content-type": JSON_CONTENT_TYPE}, body)


def repeats() -> list[str]:
    """Providers with watches whose API says its errors where the platform of this test does."""
    found = []
    for name in registry().providers:
        if name in registry().connectors and _watch(name):
            answer = ProviderResponse(
                400, {"content-type": JSON_CONTENT_TYPE}, orjson.dumps({"error": "x", "code": "x"})
            )
            if registry().connectors[name].api_error_code(answer) == "x":
                found.append(name)
    return found


def _watch(provider: str) -> SubscriptionSpec | None:
    """One that is made with the account's token."""
    return next(
        (
            item
            for item in SubscriptionTypes(registry()).of(provider)
            if item.own_endpoint and needs_account(item.create)
        ),
        None,
    )


@pytest.mark.parametrize("provider", repeats())
async def test_a_stored_error_has_no_secret(provider: str) -> None:
    making = ProviderCalls(
        cast("SubscriptionRepository", None),
        SubscriptionTypes(registry()),
        registry().connectors,
        cast("TokenSource", Repeating(provider)),
        cast("GatewayEndpoints", None),
        structlog.get_logger(),
    )
    watch = _watch(provider)
    assert watch is not None
    resource = {f"watch:{name}": "x" for name in watch.resource}
    values = resource | {"endpoint:url": "https://hub.example.com/in", "endpoint:secret": SECRET}
    values |= {"watch:name": "w", "watch:id": "1", "watch:expires_at": "x", "watch:expires_ms": "1"}
    now = utcnow()
    account = Integration(
        id="int_1",
        workspace="ws_1",
        provider=provider,
        kind="oauth2",
        name="",
        status="connected",
        created_at=now,
        changed_at=now,
        deleted_at=None,
        version=1,
        fence=0,
        settled_fence=0,
    )
    with pytest.raises(ProviderRejected) as refused:
        await making._fetch(account, watch.create, values)
    assert TOKEN not in refused.value.code
    assert SECRET not in refused.value.code
    assert "[hidden]" in refused.value.code
