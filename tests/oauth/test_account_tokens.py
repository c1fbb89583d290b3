"""Access tokens by the API: for callers that cannot send their calls through the hub."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import httpx
import pytest

from tests.support.account_calls import AccountCalls, account_calls
from tests.support.accounts import SECRET
from tests.support.backends import Bus, Store
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[AccountCalls]:
    with account_calls(tmp_path_factory.mktemp("tokens"), bus, store) as made:
        yield made


@pytest.fixture(scope="module")
def key(world: AccountCalls) -> str:
    return str(world.key("tokens:read")["key"])


def token(world: AccountCalls, integration: str, key: str, *, expect: int = 200) -> Any:
    return world.hub.call("POST", f"/api/integrations/{integration}/token", key=key, expect=expect)


def refused(world: AccountCalls, integration: str, key: str, version: int, *, expect: int = 200) -> Any:
    path = f"/api/integrations/{integration}/token/refused"
    return world.hub.call("POST", path, {"version": version}, key=key, expect=expect)


def test_the_access_token_alone(world: AccountCalls, key: str) -> None:
    integration, name = world.connected()
    answer = token(world, integration, key)
    assert answer.keys() == {"integration_id", "provider", "access_token", "expires_at", "version"}
    assert (answer["integration_id"], answer["provider"]) == (integration, "gitlab")
    assert world.api.access_tokens[answer["access_token"]] == name
    assert answer["expires_at"] is not None
    assert token(world, integration, key) == answer


def test_no_scope_includes_it(world: AccountCalls) -> None:
    integration = world.with_token()
    for scopes in (["admin"], ["integrations:write"], ["accounts:call"]):
        refusal = token(world, integration, world.key(*scopes)["key"], expect=403)
        assert "tokens:read" in refusal["detail"]
        refused(world, integration, world.key(*scopes)["key"], 1, expect=403)
    explicit = world.key("admin", "tokens:read")["key"]
    assert token(world, integration, explicit)["access_token"] in world.api.access_tokens


def test_the_limits_of_a_key_hold(world: AccountCalls) -> None:
    own, other = world.with_token(user="usr_1"), world.with_token(user="usr_2")
    for limits in ({"user": "usr_1"}, {"integrations": [own]}):
        limited = world.key("tokens:read", accounts=limits)["key"]
        assert token(world, own, limited)["access_token"]
        token(world, other, limited, expect=403)
        refused(world, other, limited, 1, expect=403)
    token(world, own, world.key("tokens:read", accounts={"providers": ["slack"]})["key"], expect=403)


def test_another_workspace_s_account_is_not_there(world: AccountCalls, key: str) -> None:
    stranger = world.hub.other_workspace()
    made = {"name": "x", "scopes": ["tokens:read"]}
    foreign = world.hub.call("POST", "/api/api-keys", made, key=stranger, expect=201)["key"]
    token(world, world.with_token(), foreign, expect=404)
    token(world, "int_unknown", key, expect=404)


def test_nobody_stores_the_answer(world: AccountCalls, key: str) -> None:
    """A repeat with the same idempotency key gets the newest token."""
    integration, name = world.connected()
    url = f"{world.hub.url('gateway')}/api/integrations/{integration}/token"
    headers = {"authorization": f"Bearer {key}", "idempotency-key": token_hex(8)}
    first = httpx.post(url, headers=headers, timeout=20)
    assert first.headers["cache-control"] == "no-store"
    world.api.spoil(name)
    newer = refused(world, integration, key, first.json()["version"])
    assert newer["access_token"] != first.json()["access_token"]
    assert httpx.post(url, headers=headers, timeout=20).json() == newer


def test_every_issue_is_in_the_audit_log(world: AccountCalls) -> None:
    integration = world.with_token(user="usr_7")
    made = world.key("tokens:read")
    version = token(world, integration, made["key"])["version"]
    refused(world, integration, made["key"], version)
    entries = [entry for entry in world.audit(integration) if "/token" in entry["route"]]
    assert [(entry["route"], entry["status"], entry["actor"]["key_id"]) for entry in entries] == [
        ("/api/integrations/{integration_id}/token", 200, made["id"]),
        ("/api/integrations/{integration_id}/token/refused", 200, made["id"]),
    ]


class TestRefused:
    def test_gets_a_newer_token_once_for_all(self, world: AccountCalls, key: str) -> None:
        integration, name = world.connected()
        first = token(world, integration, key)
        world.api.spoil(name)
        refreshes = world.api.refreshes
        second = refused(world, integration, key, first["version"])
        assert world.api.access_tokens[second["access_token"]] == name
        assert second["version"] > first["version"]
        assert refused(world, integration, key, first["version"]) == second
        assert world.api.refreshes == refreshes + 1

    def test_a_token_that_the_provider_accepts_stays(self, world: AccountCalls, key: str) -> None:
        integration = world.with_token()
        first = token(world, integration, key)
        assert refused(world, integration, key, first["version"]) == first

    def test_an_account_that_is_gone_is_a_conflict(self, world: AccountCalls, key: str) -> None:
        name = f"gone-{token_hex(4)}"
        integration = world.with_token(name)
        first = token(world, integration, key)
        world.api.spoil(name)
        answer = refused(world, integration, key, first["version"], expect=409)
        assert "connect the account again" in answer["detail"]
        token(world, integration, key, expect=409)

    def test_a_version_is_needed(self, world: AccountCalls, key: str) -> None:
        path = f"/api/integrations/{world.with_token()}/token/refused"
        for body in ({}, {"version": -1}, {"version": 2**60}, {"version": 1, "x": 1}):
            world.hub.call("POST", path, body, key=key, expect=422)


@pytest.fixture(scope="module")
def without_api(world: AccountCalls) -> Iterator[str]:
    """An account of a provider whose manifest has no address of an API."""
    back = world.hub.url("gateway") + "/api/auth/oauth/callback"
    with RotatingServer("app", SECRET, back) as server:
        app = {"client_id": "app", "client_secret": SECRET, "settings": server.settings, "verified": True}
        world.hub.call("PUT", "/api/platform-credentials/oidc", app)
        server.login("ada")
        with Person(world.hub, "ada", entrance="gateway") as person:
            yield person.connected("oidc")


class TestWithoutApi:
    def test_a_call_says_what_to_do(self, world: AccountCalls, without_api: str) -> None:
        answer = world.send("GET", without_api, "me")
        assert answer.status_code == 409
        assert "does not know the address of the API of oidc" in answer.json()["detail"]
        assert "/token" in answer.json()["detail"]

    def test_its_token_can_be_used(self, world: AccountCalls, without_api: str, key: str) -> None:
        assert token(world, without_api, key)["access_token"].startswith("at-")
