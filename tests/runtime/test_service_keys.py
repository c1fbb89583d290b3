"""Service keys: they name the member for whom a service acts, and open in a rolling upgrade."""

import base64
from datetime import timedelta
from typing import Any, get_args

import orjson
import pytest

from shared.contracts.errors import Unauthenticated
from shared.runtime.clock import utcnow
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.api_keys import Scope
from shared.runtime.web.service_keys import Actor, Customer, open_service_key, service_key

VAULT = Vault(LocalKeyProvider([b"k" * 32]))
ACTOR = Actor("key_1", "Ada's key", "ada")


def sealed_parts(key: str) -> dict[str, Any]:
    parts = orjson.loads(base64.urlsafe_b64decode(key.removeprefix("ils_")))
    return {name: base64.b64decode(value) if name != "k" else value for name, value in parts.items()}


def key_of(values: list[Any]) -> str:
    """Return a key with these values in it, sealed as the earlier release does."""
    sealed = VAULT.seal(orjson.dumps(values).decode(), workspace="", record="service key", field="key")
    parts = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in sealed.items()
    }
    return "ils_" + base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


@pytest.mark.parametrize("acting", [ACTOR, Actor("key_1"), Actor("k", '"]:acting:', "\u00e4\n"), None])
def test_a_key_names_the_acting_member(acting: Actor | None) -> None:
    opened = open_service_key(VAULT, service_key(VAULT, "oauth", "ws_1", ["integrations:write"], acting))
    assert (opened.service, opened.workspace, opened.acting) == ("oauth", "ws_1", acting)
    assert opened.scopes == {"integrations:write"}


def test_a_key_of_the_earlier_release_opens_without_a_member() -> None:
    expires_at = (utcnow() + timedelta(seconds=60)).isoformat()
    opened = open_service_key(VAULT, key_of(["oauth", "ws_1", ["integrations:write"], expires_at]))
    assert opened.acting is None
    assert opened.scopes == {"integrations:write"}


def test_the_earlier_release_opens_a_key_with_a_member() -> None:
    """It wants exactly four values, and gives the scopes that it knows."""
    key = service_key(VAULT, "oauth", "ws_1", ["integrations:write"], ACTOR)
    text = VAULT.open(sealed_parts(key), workspace="", record="service key", field="key")  # type: ignore[arg-type]
    service, workspace, scopes, _ = orjson.loads(text)
    assert (service, workspace) == ("oauth", "ws_1")
    assert "integrations:write" in scopes
    assert "admin" not in scopes


@pytest.mark.parametrize(
    "scopes",
    [["acting:"], ["acting:{}"], ["acting:[]"], ["acting:[1,2,3,4]"], [1], "acting:x", None, {"a": 1}],
)
def test_a_key_with_a_malformed_member_is_rejected_or_has_none(scopes: Any) -> None:
    expires_at = (utcnow() + timedelta(seconds=60)).isoformat()
    try:
        opened = open_service_key(VAULT, key_of(["oauth", "ws_1", scopes, expires_at]))
    except Unauthenticated:
        return
    assert opened.acting is None


def test_a_key_expires() -> None:
    expired = key_of(["oauth", "ws_1", [], (utcnow() - timedelta(seconds=1)).isoformat()])
    with pytest.raises(Unauthenticated):
        open_service_key(VAULT, expired)


def test_a_key_of_a_customer_has_no_scope_in_any_release() -> None:
    customer = Customer("acme", ("message.created",))
    key = service_key(VAULT, "console", "ws_1", [], ACTOR, customer=customer)
    opened = open_service_key(VAULT, key)
    assert (opened.scopes, opened.acting, opened.customer) == (frozenset(), ACTOR, customer)
    text = VAULT.open(sealed_parts(key), workspace="", record="service key", field="key")  # type: ignore[arg-type]
    assert not set(orjson.loads(text)[2]) & set(get_args(Scope))
    with pytest.raises(ValueError, match="no scopes"):
        service_key(VAULT, "console", "ws_1", ["admin"], None, customer=customer)
