"""More scopes for a connection: the union is asked for, and what was granted is stored."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.accounts import Accounts
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.tickets import bring_back, confirm, start


@pytest.fixture
def person(shared_accounts: Accounts, rotating: RotatingServer, request: pytest.FixtureRequest) -> Person:
    name = request.node.name.replace("_", "-")[:40]
    rotating.login(name)
    return Person(shared_accounts.hub, name)


def asked(url: str) -> list[str]:
    """The scopes in the address of the provider."""
    return parse_qs(urlsplit(url).query)["scope"][0].split()


def test_the_union_is_asked_for_and_the_grant_is_stored(
    shared_accounts: Accounts, rotating: RotatingServer, person: Person
) -> None:
    integration = person.connected("oidc", scopes=["openid", "email"])
    assert shared_accounts.shown(integration)["scopes"] == ["openid", "email"]
    started = person.reconnect(integration, add_scopes=["files", "email"])
    assert asked(started["authorization_url"]) == ["openid", "email", "files"]
    assert shared_accounts.shown(integration)["scopes"] == ["openid", "email"], "it is not granted yet"
    rotating.says = {"scope": "openid email"}
    person.go(started["authorization_url"])
    rotating.says = {}
    shown = shared_accounts.shown(integration)
    assert (shown["scopes"], shown["missing_scopes"]) == (["openid", "email"], ["files"])

    started = person.reconnect(integration)
    assert asked(started["authorization_url"]) == ["openid", "email", "files"], "it is asked for again"
    person.go(started["authorization_url"])
    shown = shared_accounts.shown(integration)
    assert (shown["scopes"], shown["missing_scopes"]) == (["openid", "email", "files"], [])
    assert shared_accounts.call(integration, "refresh")["scopes"] == ["openid", "email", "files"]


def test_scopes_can_be_named_again_and_added_to_the_manifests(
    shared_accounts: Accounts, person: Person
) -> None:
    integration = person.connected("oidc")
    manifest = asked(person.connect("oidc")["authorization_url"])
    added = person.reconnect(integration, add_scopes=["files"])["authorization_url"]
    assert asked(added) == [*manifest, "files"]
    named = person.reconnect(integration, scopes=["email"], add_scopes=["files"])["authorization_url"]
    assert asked(named) == ["email", "files"]
    assert asked(person.reconnect(integration, scopes=["email"])["authorization_url"]) == ["email"]
    assert shared_accounts.shown(integration)["status"] == "connected"


def test_scopes_are_added_by_a_ticket(shared_accounts: Accounts, person: Person) -> None:
    integration = person.connected("oidc", scopes=["openid"], user="usr_ada")
    came = bring_back(person, start(shared_accounts.hub, reconnect=integration, add_scopes=["files"]))
    assert shared_accounts.shown(integration)["scopes"] == ["openid"]
    answer = confirm(shared_accounts.hub, came["confirmation_code"]).json()
    assert (answer["id"], answer["scopes"]) == (integration, ["openid", "files"])


def test_scopes_are_bounded(person: Person) -> None:
    integration = person.connected("oidc", scopes=[f"s{number}" for number in range(60)])
    person.reconnect(integration, add_scopes=[f"s{number}" for number in range(100)])
    person.reconnect(integration, add_scopes=[f"t{number}" for number in range(41)], expect=422)
    person.reconnect(integration, add_scopes=["a b"], expect=422)
