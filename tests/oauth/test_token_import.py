"""Tokens that were issued before are imported: whose they are is asked, and whose app they are of matters."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.accounts import SECRET, Accounts
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer


@pytest.fixture(scope="module")
def own(shared_accounts: Accounts, rotating: RotatingServer) -> Accounts:
    """A workspace with an app of its own."""
    return shared_accounts.at(rotating.settings, "app")


@pytest.fixture
def issued(rotating: RotatingServer, request: pytest.FixtureRequest) -> dict[str, str]:
    """Tokens that another system got for somebody."""
    rotating.login(request.node.name.replace("_", "-")[:40])
    return rotating.issue()


def imported(accounts: Accounts, tokens: dict[str, Any], expect: int = 201, **fields: Any) -> dict[str, Any]:
    body = {"provider": "oidc", "tokens": tokens, **fields}
    return dict(accounts.hub.call("POST", "/api/integrations", body, expect=expect))


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_tokens_are_imported_and_refreshed(
    own: Accounts, rotating: RotatingServer, issued: dict[str, str]
) -> None:
    fields: dict[str, Any] = {
        "scopes": ["openid"],
        "user": "ada",
        "name": "Mine",
        "tags": ["moved"],
        "metadata": {"old": "7"},
    }
    made = imported(own, {**issued, "expires_at": in_seconds(3600)}, **fields)
    assert (made["status"], made["kind"], made["health"]) == ("connected", "oauth2", "ok")
    assert made["account"]["id"] == rotating.accounts[0].id
    assert {name: made[name] for name in fields} == fields
    ends = datetime.fromisoformat(made["expires_at"])
    assert timedelta(seconds=3500) < ends - datetime.now(UTC) < timedelta(seconds=3601)
    assert own.call(made["id"], "check")["health"] == "ok"
    assert own.call(made["id"], "refresh")["health"] == "ok"
    assert own.events(made["id"]) == ["connected", "refreshed"]
    assert len(rotating.grants_of(rotating.accounts[0].id)) == 1


def test_an_account_that_is_connected_keeps_its_integration(
    own: Accounts, rotating: RotatingServer, issued: dict[str, str]
) -> None:
    with Person(own.hub, rotating.accounts[0].id) as person:
        first = person.connected("oidc", user="ada")
    assert imported(own, issued, user="ada")["id"] == first
    assert [item["id"] for item in own.hub.call("GET", "/api/integrations?user=ada")["items"]].count(
        first
    ) == 1
    detail = imported(own, rotating.issue(), user="bob", expect=409)
    assert detail["errors"] == [{"field": "takeover", "message": "account_in_use"}]
    assert own.shown(first)["user"] == "ada"
    assert imported(own, rotating.issue(), user="bob", takeover=True)["id"] == first
    assert own.hub.call("GET", "/api/integrations?status=pending")["items"] == []


def test_an_access_token_that_the_provider_rejects_is_not_stored(
    own: Accounts, rotating: RotatingServer, issued: dict[str, str]
) -> None:
    before = own.hub.call("GET", "/api/integrations?limit=500")["items"]
    for tokens, field in (
        ({"access_token": "at-nobody-issued"}, "tokens.access_token"),
        ({**issued, "access_token": issued["refresh_token"]}, "tokens.access_token"),
        ({**issued, "expires_at": in_seconds(-1)}, "tokens.expires_at"),
    ):
        detail = imported(own, tokens, expect=422)
        assert [error["field"] for error in detail["errors"]] == [field]
        assert "at-nobody-issued" not in str(detail)
    assert own.hub.call("GET", "/api/integrations?limit=500")["items"] == before
    assert len(rotating.grants_of(rotating.accounts[0].id)) == 1, "what is not stored is not revoked"
    imported(own, issued)


def test_tokens_of_the_installations_app_are_the_operators(
    shared_accounts: Accounts, rotating: RotatingServer, issued: dict[str, str]
) -> None:
    """Of whichever app a token is: only the operator may claim accounts for the installation's app."""
    body = {"client_id": "app", "client_secret": SECRET, "settings": rotating.settings, "verified": True}
    shared_accounts.hub.call("PUT", "/api/platform-credentials/oidc", body | {"scope": "installation"})
    try:
        other = shared_accounts.hub.other_workspace()
        request = {"provider": "oidc", "tokens": issued}
        refused = shared_accounts.hub.call("POST", "/api/integrations", request, key=other, expect=409)
        assert "an app of the workspace only" in refused["detail"]
        assert shared_accounts.hub.call("GET", "/api/integrations", key=other)["items"] == []
        shared_accounts.hub.call("DELETE", "/api/platform-credentials/oidc")
        made = imported(shared_accounts, issued)
        assert shared_accounts.stored(made["id"])["app"] == ["", "app"]
    finally:
        shared_accounts.register(rotating.settings, "app")
        shared_accounts.hub.call("DELETE", "/api/platform-credentials/oidc?scope=installation")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"fields": {}, "tokens": {"access_token": "x"}},
        {"tokens": {}},
        {"tokens": {"access_token": ""}},
        {"tokens": {"access_token": "a b"}},
        {"tokens": {"access_token": "x" * 16385}},
        {"tokens": {"access_token": "x", "id_token": "y"}},
        {"tokens": {"access_token": "x", "expires_at": "2026-01-01T00:00:00"}},
        {"tokens": {"access_token": "x", "expires_at": "9999-12-31T23:59:59-12:00"}},
        {"tokens": {"access_token": "x"}, "kind": "oauth2"},
        {"fields": {}, "scopes": ["a"]},
        {"provider": "telegram", "tokens": {"access_token": "x"}},
        {"provider": "trello", "tokens": {"access_token": "x"}},
        {"provider": "notion", "tokens": {"access_token": "x"}},
        {"provider": "zalo", "tokens": {"access_token": "x"}},
    ],
    ids=lambda body: str(body)[:40],
)
def test_requests_that_cannot_be_imports_are_refused(own: Accounts, body: dict[str, Any]) -> None:
    own.hub.call("POST", "/api/integrations", {"provider": "oidc"} | body, expect=422)
