"""Several OAuth apps of a provider in a workspace: chosen at connect, and an account stays with its app."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.support.accounts import SECRET, Accounts
from tests.support.backends import Bus, Store
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.second_process import second_process
from tests.support.tickets import bring_back, confirm, start

PATH = "/api/platform-credentials/oidc"


@pytest.fixture(scope="module")
def second(shared_accounts: Accounts, rotating: RotatingServer) -> Iterator[RotatingServer]:
    """A server of its own for the app `second`; the default app is at the other one."""
    assert rotating.url
    with RotatingServer("second-app", SECRET, shared_accounts.redirect_uri) as made:
        register(shared_accounts, "second", "second-app", made)
        yield made
        assert made.faults == []


def register(
    accounts: Accounts,
    name: str | None,
    client_id: str,
    server: RotatingServer,
    expect: int = 200,
    **fields: Any,
) -> dict[str, Any]:
    body = {"client_id": client_id, "client_secret": SECRET, "settings": server.settings, "verified": True}
    return dict(accounts.hub.call("PUT", PATH, body | {"app": name} | fields, expect=expect))


@pytest.fixture
def person(
    shared_accounts: Accounts,
    rotating: RotatingServer,
    second: RotatingServer,
    request: pytest.FixtureRequest,
) -> Person:
    name = request.node.name.replace("_", "-")[:40]
    rotating.login(name)
    second.login(name)
    return Person(shared_accounts.hub, name)


def client_of(started: dict[str, Any]) -> str:
    return parse_qs(urlsplit(str(started["authorization_url"])).query)["client_id"][0]


def test_the_app_is_chosen_at_connect_and_stays(
    shared_accounts: Accounts, rotating: RotatingServer, second: RotatingServer, person: Person
) -> None:
    assert client_of(person.connect("oidc")) == "app", "the default stays"
    started = person.connect("oidc", app="second")
    assert client_of(started) == "second-app"
    assert person.go(started["authorization_url"]).status_code == 200
    integration = started["integration_id"]
    shown = shared_accounts.shown(integration)
    assert (shown["status"], shown["app"]) == ("connected", "second")
    assert shared_accounts.call(integration, "refresh")["health"] == "ok"
    assert shared_accounts.call(integration, "check")["health"] == "ok"
    again = person.reconnect(integration)
    assert client_of(again) == "second-app", "it stays with its app"
    person.go(again["authorization_url"])
    assert shared_accounts.call(integration, "refresh")["app"] == "second"
    grants = len(second.grants_of(person.name))
    shared_accounts.call(integration, "disconnect")
    assert len(second.grants_of(person.name)) == grants - 1
    assert rotating.grants_of(person.name) == []


def test_an_account_moves_to_another_app_only_when_that_is_named(
    shared_accounts: Accounts, person: Person
) -> None:
    first = person.connected("oidc")
    assert shared_accounts.shown(first)["app"] is None
    moved = person.reconnect(first, app="second")
    assert client_of(moved) == "second-app"
    person.go(moved["authorization_url"])
    assert shared_accounts.shown(first)["app"] == "second"
    assert shared_accounts.call(first, "refresh")["health"] == "ok"


def test_the_same_id_at_another_server_is_another_account(
    shared_accounts: Accounts, second: RotatingServer, person: Person
) -> None:
    """Each server numbers its own people: one of them must not get the integration of another."""
    first = person.connected("oidc", user="usr_ada")
    came = person.connect("oidc", app="second", user="usr_bob")
    assert person.go(came["authorization_url"]).status_code == 200
    other = came["integration_id"]
    # Also without users, where nothing else tells them apart; and each is found again.
    assert shared_accounts.shown(person.connected("oidc", app="second"))["id"] == other
    imported = {"provider": "oidc", "app": "second", "tokens": second.issue()}
    assert shared_accounts.hub.call("POST", "/api/integrations", imported)["id"] == other
    assert shared_accounts.shown(person.connected("oidc"))["id"] == first
    for integration, user, app in ((first, "usr_ada", None), (other, "usr_bob", "second")):
        shown = shared_accounts.call(integration, "refresh")
        assert (shown["user"], shown["app"], shown["health"]) == (user, app, "ok")
    moved = person.reconnect(first, app="second", takeover=True)
    page = person.go(moved["authorization_url"])
    assert (page.status_code, "is connected already" in page.text) == (400, True), page.text


def test_an_app_can_be_named_with_a_ticket_and_an_import(
    shared_accounts: Accounts, second: RotatingServer, person: Person
) -> None:
    came = bring_back(person, start(shared_accounts.hub, app="second"))
    answer = confirm(shared_accounts.hub, came["confirmation_code"]).json()
    assert (answer["status"], answer["app"]) == ("connected", "second")
    second.login("imported-with-second")
    body = {"provider": "oidc", "app": "second", "tokens": second.issue()}
    made = shared_accounts.hub.call("POST", "/api/integrations", body)
    assert made["app"] == "second"
    assert shared_accounts.call(made["id"], "refresh")["health"] == "ok"


def test_apps_are_listed_read_and_removed_by_name(
    shared_accounts: Accounts, rotating: RotatingServer, second: RotatingServer
) -> None:
    hub = shared_accounts.hub
    third = register(shared_accounts, "third", "third-app", second)
    assert (third["app"], third["client_id"], third["scope"]) == ("third", "third-app", "workspace")
    found = [
        item for item in hub.call("GET", "/api/platform-credentials")["items"] if item["provider"] == "oidc"
    ]
    assert [(item["app"], item["client_id"]) for item in found] == [
        (None, "app"),
        ("second", "second-app"),
        ("third", "third-app"),
    ]
    assert hub.call("GET", f"{PATH}?app=third") == third
    assert hub.call("GET", PATH)["client_id"] == "app"
    hub.call("DELETE", f"{PATH}?app=third")
    hub.call("GET", f"{PATH}?app=third", expect=404)
    assert hub.call("GET", f"{PATH}?app=second")["client_id"] == "second-app"
    detail = hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", "app": "third"}, expect=409)[
        "detail"
    ]
    assert "no app third is registered for oidc" in detail, "another app is no substitute"


def test_an_app_of_the_installation_can_have_a_name(
    shared_accounts: Accounts, second: RotatingServer, rotating: RotatingServer
) -> None:
    """Workspaces use it by its name; an app of their own with the same name goes before it."""
    hub = shared_accounts.hub
    register(shared_accounts, "shared", "second-app", second, scope="installation")
    key = hub.other_workspace()
    started = hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", "app": "shared"}, key=key)
    assert client_of(started) == "second-app"
    body = {"client_id": "app", "client_secret": SECRET, "settings": rotating.settings, "verified": True}
    hub.call("PUT", PATH, body | {"app": "shared"}, key=key)
    started = hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", "app": "shared"}, key=key)
    assert client_of(started) == "app"
    hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", "app": "second"}, key=key, expect=409)
    hub.call("DELETE", f"{PATH}?app=shared&scope=installation")


def test_apps_are_bounded_and_have_client_ids_of_their_own(
    shared_accounts: Accounts, second: RotatingServer
) -> None:
    hub = shared_accounts.hub
    detail = register(shared_accounts, "twin", "second-app", second, expect=409)["detail"]
    assert detail.startswith("second has this client id already")
    register(shared_accounts, "twin", "app", second, expect=409)
    register(shared_accounts, "Not a name", "x", second, expect=422)
    hub.call("GET", f"{PATH}?app=Not%20a%20name", expect=422)
    own = shared_accounts.at(second.settings, "default-app")
    for number in range(9):
        register(own, f"n{number}", f"client-{number}", second)
    register(own, "n9", "client-9", second, expect=409)
    register(own, "n8", "client-changed", second)


def test_apps_that_are_registered_at_once_are_bounded_too(
    shared_accounts: Accounts, second: RotatingServer, bus: Bus, store: Store, tmp_path: Path
) -> None:
    """By two processes: the app webhook would try the secrets of all, at everybody's cost."""
    own = shared_accounts.at(second.settings, "default-app")
    headers = {"authorization": f"Bearer {own.hub.admin_key}"}
    fields = {"client_secret": SECRET, "settings": second.settings, "verified": True}
    with second_process("oauth", shared_accounts.hub, tmp_path, bus, store) as other:
        urls = [hub.url("oauth") + PATH for hub in (own.hub, other)]

        def put(number: int) -> int:
            body = {**fields, "app": f"n{number}", "client_id": f"client-{number // 2}"}
            return httpx.put(urls[number % 2], json=body, headers=headers, timeout=30).status_code

        with ThreadPoolExecutor(30) as pool:
            statuses = list(pool.map(put, range(30)))
    assert set(statuses) == {200, 409}
    items = own.hub.call("GET", "/api/platform-credentials")["items"]
    mine = [item["client_id"] for item in items if item["scope"] == "workspace"]
    assert len(mine) == statuses.count(200) + 1 == 10
    assert len(set(mine)) == 10
