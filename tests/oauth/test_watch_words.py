"""What a platform says when it refuses a watch is kept and shown: no secret that was sent is in it."""

from typing import Any, cast

import orjson
import pytest
import structlog

from services.oauth.endpoints import Endpoints
from services.oauth.watch_making import Making, kinds
from shared.catalog.connector import Refused
from shared.catalog.registry import connectors, providers
from shared.catalog.watch_calls import needs_account
from shared.catalog.watches import Watch
from shared.runtime.mongo import Collection
from shared.runtime.secrets import LocalKeys, Vault
from shared.runtime.tokens import Access, TokenSource
from shared.wire.oauth import JSON, Answered, Call

TOKEN, SECRET = "at-0123456789abcdef", "the-secret-of-the-endpoint"


class Repeating:
    """Tokens of a platform that repeats what it was sent."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def values(self, _account: object) -> dict[str, str]:
        return {"client_id": "app", "client_secret": "the-secret-of-the-app"}

    async def call(self, _name: str, make: Any) -> Answered:
        access = Access("int_1", self.provider, "ws_1", 1, {**self.values(None), "access_token": TOKEN}, None)
        return await self.ask(make(access))

    async def ask(self, _call: Call) -> Answered:
        said = f"no {TOKEN} {SECRET}"
        body = orjson.dumps({"error": said, "code": said, "errors": [{"code": said}], "message": said})
        return Answered(400, {"content-type": JSON}, body)


def repeats() -> list[str]:
    """Providers with watches whose API says its errors where the platform of this test does."""
    found = []
    for name in providers():
        if name in connectors() and _watch(name):
            answer = Answered(400, {"content-type": JSON}, orjson.dumps({"error": "x", "code": "x"}))
            if connectors()[name].failure(answer) == "x":
                found.append(name)
    return found


def _watch(provider: str) -> Watch | None:
    """One that is made with the account's token."""
    return next((each for each in kinds(provider) if each.own_endpoint and needs_account(each.create)), None)


@pytest.mark.parametrize("provider", repeats())
async def test_what_is_kept_of_a_refusal_has_no_secret(provider: str) -> None:
    making = Making(
        cast("Collection", None),
        Vault(LocalKeys([b"k" * 32])),
        cast("TokenSource", Repeating(provider)),
        cast("Endpoints", None),
        structlog.get_logger(),
    )
    watch = _watch(provider)
    assert watch is not None
    resource = {f"watch:{name}": "x" for name in watch.resource}
    values = resource | {"endpoint:url": "https://hub.example.com/in", "endpoint:secret": SECRET}
    values |= {"watch:name": "w", "watch:id": "1", "watch:expires_at": "x", "watch:expires_ms": "1"}
    account = {"_id": "int_1", "provider": provider, "kind": "oauth2"}
    with pytest.raises(Refused) as refused:
        await making._read(account, watch.create, values)
    assert TOKEN not in refused.value.code
    assert SECRET not in refused.value.code
    assert "[hidden]" in refused.value.code
