"""Accounts that are connected without a common host name: tickets, confirmations and revocations."""

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest

from shared.contracts.errors import Misconfigured
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from shared.runtime.secrets import LocalKeyProvider, Vault
from tests.support.accounts import Accounts
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.second_process import second_process
from tests.support.tickets import RETURN_TO, USER, Started, bring_back, confirm, press, returned, start


@pytest.fixture
def hub(shared_accounts: Accounts, rotating: RotatingServer) -> Hub:
    assert rotating.url
    return shared_accounts.hub


@pytest.fixture
def person(hub: Hub, rotating: RotatingServer, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Somebody of his own for each test, who logs in from now on."""
    name = request.node.name.replace("_", "-")[:40]
    rotating.login(name)
    with Person(hub, name) as made:
        yield made


def unconfirmed(accounts: Accounts) -> list[dict[str, Any]]:
    """What the store has of unconfirmed grants, the newest first."""
    return list(accounts.database.oauth_confirmations.find().sort("created_at", -1))


def end_time(accounts: Accounts, field: str) -> None:
    """Let the time of every unconfirmed grant be over."""
    accounts.database.oauth_confirmations.update_many({}, {"$set": {field: datetime.now(UTC)}})


def shown(hub: Hub, integration: str) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    answer = httpx.get(f"{hub.url('oauth')}/api/integrations/{integration}", headers=headers, timeout=30)
    return answer.status_code, answer.json()


# The way that people go


def test_an_account_is_connected_once_it_is_confirmed(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    started = start(hub, name="Mine")
    page = person.client.get(started.connect_url)
    assert page.status_code == 200
    host = rotating.url.removeprefix("http://")  # of the workspace's choice
    for text in (USER, hub.workspace, "OpenID Connect", f"<bdi>{host}</bdi>", "chat.example.com"):
        assert text in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

    came = bring_back(person, started)
    code = came.pop("confirmation_code")
    assert came == {"integration_id": started.integration, "status": "confirmation_required"}
    before = shared_accounts.shown(started.integration)
    assert (before["status"], before["reason"], before["account"]) == (
        "pending",
        "confirmation_required",
        None,
    )
    for what in ("refresh", "check"):
        shared_accounts.call(started.integration, what, expect=409)
    refused = shared_accounts.call(started.integration, "proxy/me", expect=409)["detail"]
    assert "confirm the account with POST /api/auth/oauth/confirm" in refused
    assert shared_accounts.stored(started.integration)["credential"] is None

    answer = confirm(hub, code)
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert (after["id"], after["status"], after["reason"]) == (started.integration, "connected", None)
    assert (after["account"]["id"], after["user"], after["name"]) == (person.name, USER, "Mine")
    assert after == shared_accounts.shown(started.integration)
    eventually(lambda: shared_accounts.events(started.integration) == ["connected"])
    assert shared_accounts.call(started.integration, "refresh")["health"] == "ok"
    assert unconfirmed(shared_accounts) == []
    assert len(rotating.grants_of(person.name)) == 1


def test_there_is_a_ticket_only_for_a_user_who_comes_back(hub: Hub) -> None:
    assert hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc"})["connect_url"] is None
    for fields in ({"user": USER}, {"return_to": RETURN_TO}, {"user": USER, "return_to": "/back"}):
        answer = hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", **fields})
        assert answer["connect_url"] is None
    assert start(hub).connect_url.startswith(hub.url("oauth") + "/api/auth/oauth/start?ticket=")


def test_the_flow_with_the_cookie_needs_no_confirmation(hub: Hub, person: Person) -> None:
    """The answer has both addresses; this one is used as before."""
    started = person.connect("oidc", user=USER, return_to=RETURN_TO)
    came = returned(person.client.get(person.consent(started["authorization_url"])))
    assert came == {"integration_id": started["integration_id"], "status": "connected"}
    with Person(hub, person.name) as other:  # the ticket has ended with it
        assert other.client.get(started["connect_url"]).status_code == 410


def test_a_repeated_callback_brings_the_same_code_to_the_same_browser(hub: Hub, person: Person) -> None:
    started = start(hub)
    onward = press(person, started.connect_url).headers["location"]
    came = person.consent(onward)
    first = returned(person.client.get(came))
    assert returned(person.client.get(came)) == first
    assert confirm(hub, first["confirmation_code"]).status_code == 200


def test_reconnecting_keeps_the_old_tokens_until_it_is_confirmed(
    shared_accounts: Accounts, hub: Hub, person: Person
) -> None:
    first = bring_back(person, start(hub))
    assert confirm(hub, first["confirmation_code"]).status_code == 200
    integration = first["integration_id"]
    version = shared_accounts.stored(integration)["version"]
    again = bring_back(person, start(hub, reconnect=integration))
    assert again["integration_id"] == integration
    assert shared_accounts.stored(integration)["version"] == version
    assert shared_accounts.shown(integration)["status"] == "connected"
    assert shared_accounts.call(integration, "refresh")["health"] == "ok"
    assert confirm(hub, again["confirmation_code"]).json()["id"] == integration
    assert shared_accounts.stored(integration)["version"] == version + 2
    assert shared_accounts.call(integration, "refresh")["health"] == "ok"


def test_an_account_that_is_connected_keeps_its_integration(hub: Hub, person: Person) -> None:
    first = bring_back(person, start(hub))
    second = bring_back(person, start(hub))
    assert first["integration_id"] != second["integration_id"]
    ids = [confirm(hub, came["confirmation_code"]).json()["id"] for came in (first, second)]
    assert ids == [first["integration_id"]] * 2
    assert shown(hub, second["integration_id"])[1]["id"] == first["integration_id"]


def test_a_person_who_refuses_comes_back_with_the_error(
    hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    started = start(hub)
    onward = press(person, started.connect_url).headers["location"]
    rotating.denies = True
    came = returned(person.client.get(person.consent(onward)))
    rotating.denies = False
    assert came == {"error": "access_denied", "integration_id": started.integration}
    assert shown(hub, started.integration)[0] == 404


# Tickets


def test_looking_at_a_ticket_uses_nothing_up(hub: Hub, person: Person) -> None:
    """A chat that shows a preview of the link, a scanner of mails."""
    started = start(hub)
    for _ in range(3):
        assert httpx.get(started.connect_url, timeout=10).status_code == 200
    assert bring_back(person, started)["status"] == "confirmation_required"


def test_a_ticket_belongs_to_the_browser_that_used_it(hub: Hub, person: Person) -> None:
    started = start(hub)
    first = press(person, started.connect_url)
    with Person(hub, "eve") as eve:
        for answer in (eve.client.get(started.connect_url), eve.client.post(started.connect_url)):
            assert answer.status_code == 410
            assert '<p class="code">used</p>' in answer.text
            assert "location" not in answer.headers
        eve.client.cookies.update(started.cookies)  # whoever made the start call
        assert eve.client.post(started.connect_url).status_code == 410
    again = press(person, started.connect_url)
    assert again.headers["location"] == first.headers["location"] == started.authorization_url
    bring_back(person, started)
    assert person.client.get(started.connect_url).status_code == 410


def test_the_button_works_only_on_the_page(hub: Hub, person: Person) -> None:
    """A form of another site cannot send the cookie along, and starts nothing."""
    started = start(hub)
    answer = person.client.post(started.connect_url)
    assert (answer.status_code, "no_cookie" in answer.text) == (403, True)
    assert bring_back(person, started)["status"] == "confirmation_required"


def test_unknown_and_expired_tickets_are_refused(shared_accounts: Accounts, hub: Hub) -> None:
    base = start(hub).connect_url.partition("=")[0]
    state = dict(httpx.QueryParams(start(hub).authorization_url.partition("?")[2]))["state"]
    for ticket in ("", "x", "%22%3E%3Cscript%3E", "0" * 64, state):
        answer = httpx.get(f"{base}={ticket}", timeout=10)
        assert (answer.status_code, "<script>" in answer.text) == (404, False)
        assert httpx.post(f"{base}={ticket}", timeout=10).status_code == 404
    started = start(hub)
    shared_accounts.database.oauth_states.update_many({}, {"$set": {"expires_at": datetime.now(UTC)}})
    for method in ("GET", "POST"):
        assert httpx.request(method, started.connect_url, timeout=10).status_code == 410


def test_two_browsers_at_two_processes_use_a_ticket_once(
    hub: Hub, bus: Bus, store: Store, tmp_path: Path
) -> None:
    with second_process("oauth", hub, tmp_path, bus, store) as other:
        for _ in range(5):
            started = start(hub)
            barrier = Barrier(2)

            def use(service: Hub, started: Started = started, barrier: Barrier = barrier) -> int:
                with Person(hub, "anybody") as browser:
                    url = started.connect_url.replace(hub.url("oauth"), service.url("oauth"))
                    assert browser.client.get(url).status_code == 200
                    barrier.wait(60)
                    return browser.client.post(url).status_code

            with ThreadPoolExecutor(2) as pool:
                assert sorted(pool.map(use, (hub, other))) == [303, 410]


def test_a_release_without_tickets_opens_no_state_of_a_used_one(
    shared_accounts: Accounts, hub: Hub, person: Person
) -> None:
    """Its processes run beside those of this one for a while, and know of no confirmation."""
    started = start(hub)
    state = dict(httpx.QueryParams(started.authorization_url.partition("?")[2]))["state"]
    query = {"_id": hashlib.sha256(state.encode()).hexdigest()}
    vault = Vault(LocalKeyProvider([base64.b64decode(hub.env["INTERLINK_ENCRYPTION_KEY"])]))

    def opened() -> str:
        stored = shared_accounts.database.oauth_states.find_one(query)
        return vault.open(
            stored["sealed"], workspace=stored["workspace"], record=stored["_id"], field="state"
        )

    assert USER in opened()
    press(person, started.connect_url)
    with pytest.raises(Misconfigured):
        opened()


# Confirmations


def test_each_step_may_meet_another_process(
    hub: Hub, bus: Bus, store: Store, tmp_path: Path, person: Person
) -> None:
    with second_process("oauth", hub, tmp_path, bus, store) as other:

        def there(url: str) -> str:
            return url.replace(hub.url("oauth"), other.url("oauth"), 1)

        started = start(hub)
        onward = press(person, there(started.connect_url)).headers["location"]
        came = returned(person.client.get(there(person.consent(onward))))
        assert confirm(hub, came["confirmation_code"]).status_code == 200
        again = bring_back(person, start(hub))
        assert confirm(other, again["confirmation_code"]).json()["id"] == came["integration_id"]


def test_a_code_is_accepted_once(hub: Hub, bus: Bus, store: Store, tmp_path: Path, person: Person) -> None:
    """Also when it is brought to two processes at once."""
    came = bring_back(person, start(hub))
    with second_process("oauth", hub, tmp_path, bus, store) as other, ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda there: confirm(there, came["confirmation_code"]).status_code, (hub, other, hub, other)
        )
        assert sorted(found) == [200, 404, 404, 404]
    assert confirm(hub, came["confirmation_code"]).status_code == 404
    assert confirm(hub, "x").status_code == 404


def test_a_code_of_another_workspace_is_unknown(hub: Hub, person: Person) -> None:
    came = bring_back(person, start(hub))
    assert confirm(hub, came["confirmation_code"], key=hub.other_workspace()).status_code == 404
    assert confirm(hub, came["confirmation_code"]).status_code == 200, "nothing was used up by it"


def test_a_code_of_another_user_ends_the_grant(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    came = bring_back(person, start(hub))
    assert confirm(hub, came["confirmation_code"], user="usr_bob").status_code == 403
    assert confirm(hub, came["confirmation_code"]).status_code == 404
    eventually(lambda: rotating.grants_of(person.name) == [])
    eventually(lambda: shown(hub, came["integration_id"])[0] == 404)
    assert shared_accounts.events(came["integration_id"]) == []


def test_an_account_of_another_user_is_not_taken_over(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    first = bring_back(person, start(hub))
    assert confirm(hub, first["confirmation_code"]).status_code == 200
    second = bring_back(person, start(hub, user="usr_bob"))
    answer = confirm(hub, second["confirmation_code"], user="usr_bob")
    assert (answer.status_code, answer.json()["errors"][0]["message"]) == (409, "account_in_use")
    eventually(lambda: len(rotating.grants_of(person.name)) == 1)
    assert shared_accounts.call(first["integration_id"], "refresh")["user"] == USER


def test_what_nobody_confirms_is_revoked(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    came = bring_back(person, start(hub))
    stored = unconfirmed(shared_accounts)[0]
    assert (stored["expires_at"] - stored["created_at"]).total_seconds() == 600
    assert stored["due_at"] == stored["expires_at"]
    assert person.name not in str(stored)
    end_time(shared_accounts, "expires_at")
    assert confirm(hub, came["confirmation_code"]).status_code == 404, "its time is over before it is revoked"
    assert len(rotating.grants_of(person.name)) == 1
    end_time(shared_accounts, "due_at")
    eventually(lambda: rotating.grants_of(person.name) == [])
    eventually(lambda: shown(hub, came["integration_id"])[0] == 404)
    eventually(lambda: unconfirmed(shared_accounts) == [])
    assert shared_accounts.events(came["integration_id"]) == []


def test_a_grant_is_revoked_when_its_workspace_is_deleted(
    shared_accounts: Accounts, rotating: RotatingServer, person: Person
) -> None:
    """With the app of the workspace, which is deleted too."""
    other = shared_accounts.at(rotating.settings, "app")
    came = bring_back(person, start(other.hub))
    stored = unconfirmed(shared_accounts)[0]
    assert len(rotating.grants_of(person.name)) == 1
    now = datetime.now(UTC)
    deletion = {"workspace": stored["workspace"], "service": "oauth", "open": True, "due_at": now}
    shared_accounts.database.workspace_deletions.insert_one(
        {"_id": f"oauth/{stored['workspace']}", **deletion, "fence": 0, "passes": 0, "created_at": now}
    )
    eventually(lambda: rotating.grants_of(person.name) == [])
    eventually(lambda: unconfirmed(shared_accounts) == [])
    assert confirm(other.hub, came["confirmation_code"], key=other.hub.admin_key).status_code == 404
    apps = shared_accounts.database.platform_credentials
    eventually(lambda: not apps.count_documents({"workspace": stored["workspace"], "deleted_at": None}))


def test_the_end_of_one_grant_leaves_the_others_of_the_account(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    first = bring_back(person, start(hub))
    assert confirm(hub, first["confirmation_code"]).status_code == 200
    for fields in ({}, {"reconnect": first["integration_id"]}):
        bring_back(person, start(hub, **fields))
        end_time(shared_accounts, "due_at")
        eventually(lambda: unconfirmed(shared_accounts) == [])
        assert len(rotating.grants_of(person.name)) == 1
        assert shared_accounts.call(first["integration_id"], "refresh")["health"] == "ok"


def test_a_grant_that_cannot_be_decrypted_waits_for_its_key(
    shared_accounts: Accounts, hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    """For a day: only with the key can it be revoked."""
    bring_back(person, start(hub))
    waiting = shared_accounts.database.oauth_confirmations
    of_this = {"_id": unconfirmed(shared_accounts)[0]["_id"]}
    key = waiting.find_one(of_this)["sealed"]["k"]
    waiting.update_one(of_this, {"$set": {"sealed.k": "gone", "due_at": datetime.now(UTC)}})
    eventually(lambda: waiting.find_one(of_this)["due_at"] > datetime.now(UTC))
    waiting.update_one(of_this, {"$set": {"sealed.k": key, "due_at": datetime.now(UTC)}})
    eventually(lambda: rotating.grants_of(person.name) == [])

    bring_back(person, start(hub))
    of_this = {"_id": unconfirmed(shared_accounts)[0]["_id"]}
    long_ago = datetime.now(UTC) - timedelta(days=2)
    waiting.update_one(of_this, {"$set": {"sealed.k": "gone", "created_at": long_ago, "due_at": long_ago}})
    eventually(lambda: waiting.find_one(of_this) is None)


def test_an_integration_that_was_deleted_is_not_connected(
    hub: Hub, rotating: RotatingServer, person: Person
) -> None:
    came = bring_back(person, start(hub))
    hub.call("DELETE", f"/api/integrations/{came['integration_id']}")
    assert confirm(hub, came["confirmation_code"]).status_code == 404
    eventually(lambda: rotating.grants_of(person.name) == [])


# Processes that die


def test_a_grant_outlives_the_process_that_got_it(
    hub: Hub, bus: Bus, store: Store, tmp_path: Path, person: Person
) -> None:
    """Killed between callback and confirmation."""
    with second_process("oauth", hub, tmp_path, bus, store) as other:
        started = start(hub)
        onward = press(person, started.connect_url).headers["location"]
        came = person.consent(onward).replace(hub.url("oauth"), other.url("oauth"), 1)
        code = returned(person.client.get(came))["confirmation_code"]
        other.kill("oauth")
    answer = confirm(hub, code)
    assert (answer.status_code, answer.json()["status"]) == (200, "connected")


@pytest.mark.parametrize("point", ["confirmation.claimed", "confirmation.stored"])
def test_a_confirmation_that_dies_leaves_no_grant_behind(
    shared_accounts: Accounts,
    hub: Hub,
    rotating: RotatingServer,
    bus: Bus,
    store: Store,
    tmp_path: Path,
    person: Person,
    point: str,
) -> None:
    """Either an integration has it, or it is revoked."""
    came = bring_back(person, start(hub))
    with second_process("oauth", hub, tmp_path, bus, store, **{FAILPOINT_VARIABLE: point}) as other:
        with pytest.raises(httpx.HTTPError):
            confirm(other, came["confirmation_code"])
        eventually(lambda: other.ended("oauth") is not None)
    assert confirm(hub, came["confirmation_code"]).status_code == 404
    end_time(shared_accounts, "due_at")
    eventually(lambda: unconfirmed(shared_accounts) == [])
    if point == "confirmation.stored":
        eventually(lambda: shared_accounts.events(came["integration_id"]) == ["connected"])
        assert shared_accounts.call(came["integration_id"], "refresh")["health"] == "ok"
    else:
        assert rotating.grants_of(person.name) == []
        assert shown(hub, came["integration_id"])[0] == 404
