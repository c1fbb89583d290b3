"""The user and the name of an integration, and the cost of listing the integrations of one user."""

from itertools import product
from typing import Any

import orjson
import pytest

from shared.webhooks.event_fields import EventFields
from shared.webhooks.filters import EventFilter
from tests.support.accounts import Accounts
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer

ADA, BOB = "usr_ada", "7"


def connected(
    shared_accounts: Accounts, rotating: RotatingServer, login: str, **fields: Any
) -> dict[str, Any]:
    """An account of this login, connected with these fields of the call; as the API shows it."""
    rotating.login(login)
    with Person(shared_accounts.hub, login) as person:
        return shared_accounts.shown(person.connected("oidc", **fields))


def listed(shared_accounts: Accounts, query: str) -> set[str]:
    return {item["id"] for item in shared_accounts.hub.call("GET", f"/api/integrations?{query}")["items"]}


def published(shared_accounts: Accounts, integration: str) -> list[dict[str, Any]]:
    """The data of the events of an integration, each event once."""
    once = {
        record.attributes["ce_id"]: record.data
        for record in shared_accounts.tap.look()
        if record.key == integration.encode()
    }
    return list(once.values())


def test_the_user_is_shown_published_and_filtered_by(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    of_ada = connected(shared_accounts, rotating, "asked-ada", user=ADA)["id"]
    of_bob = connected(shared_accounts, rotating, "asked-bob", user=BOB)["id"]
    of_nobody = connected(shared_accounts, rotating, "asked-nobody")
    assert (shared_accounts.shown(of_ada)["user"], of_nobody["user"]) == (ADA, None)
    assert listed(shared_accounts, f"user={ADA}") == {of_ada}
    assert listed(shared_accounts, f"user={BOB}&provider=oidc&status=connected") == {of_bob}
    assert listed(shared_accounts, f"user={BOB}&provider=github") == set()
    assert listed(shared_accounts, f"user={BOB}&status=error") == set()
    assert {of_ada, of_bob, of_nobody["id"]} <= listed(shared_accounts, "limit=500")
    shared_accounts.hub.call("GET", "/api/integrations?user=", expect=422)
    other = shared_accounts.hub.other_workspace()
    assert shared_accounts.hub.call("GET", f"/api/integrations?user={ADA}", key=other)["items"] == []
    shared_accounts.call(of_ada, "refresh")
    shared_accounts.call(of_ada, "disconnect")
    assert listed(shared_accounts, f"user={ADA}") == {of_ada}, "the record stays"
    assert [data["user"] for data in published(shared_accounts, of_ada)] == [ADA] * 3
    assert [data["user"] for data in published(shared_accounts, of_nobody["id"])] == [None]


def test_an_outgoing_webhook_can_ask_for_a_users_events(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    integration = connected(shared_accounts, rotating, "filtered", user=ADA)["id"]
    (data,) = published(shared_accounts, integration)
    raw = orjson.dumps(data)
    facts = EventFields("evt_1", "integration.connected", "default", "", integration, "1", raw, data)
    for user, expected in ((ADA, True), (BOB, False)):
        found = EventFilter.from_stored({"condition": f"data.user == '{user}'"})
        assert found
        assert found.matches(facts, "") is expected


def test_the_integration_belongs_to_another_user_after_a_takeover(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    """Connected again, by whichever call: another user takes it over when told; nobody named leaves it."""
    first = connected(shared_accounts, rotating, "shared", user=ADA)["id"]
    assert connected(shared_accounts, rotating, "shared")["user"] == ADA
    assert first not in listed(shared_accounts, f"user={BOB}")
    assert connected(shared_accounts, rotating, "shared", user=BOB, takeover=True)["user"] == BOB
    assert first in listed(shared_accounts, f"user={BOB}")
    assert first not in listed(shared_accounts, f"user={ADA}")
    with Person(shared_accounts.hub, "shared") as person:
        person.go(person.reconnect(first)["authorization_url"])
        assert shared_accounts.shown(first)["user"] == BOB
        started = person.reconnect(first, user=ADA, takeover=True)
        assert shared_accounts.shown(first)["user"] == BOB, "begun is not connected"
        person.go(started["authorization_url"])
        assert shared_accounts.shown(first)["user"] == ADA
    assert [data["user"] for data in published(shared_accounts, first)] == [ADA, ADA, BOB, BOB, BOB, ADA, ADA]


@pytest.mark.parametrize("user", ["", "x" * 201, "a\nb", 7], ids=["empty", "long", "two-lines", "number"])
def test_a_user_that_is_refused(shared_accounts: Accounts, rotating: RotatingServer, user: Any) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("auth/oauth/connect", {}), ("integrations", {"fields": {}})]
    for path, body in calls:
        detail = shared_accounts.hub.call(
            "POST", f"/api/{path}", {"provider": "oidc", **body, "user": user}, expect=422
        )
        assert [fault["field"] for fault in detail["errors"]] == ["user"]


def test_an_integration_is_named_by_its_account_unless_it_has_a_name(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    rotating.login("called")
    with Person(shared_accounts.hub, "called") as person:
        started = person.connect("oidc")
        integration = started["integration_id"]
        assert shared_accounts.shown(integration)["name"] == "oidc", "it is not known yet whose it is"
        person.go(started["authorization_url"])
    assert shared_accounts.shown(integration)["name"] == "called@example.com"
    assert connected(shared_accounts, rotating, "named", name="Of the team")["name"] == "Of the team"
    assert connected(shared_accounts, rotating, "named")["name"] == "Of the team"
    shared_accounts.hub.call("PATCH", f"/api/integrations/{integration}", {"name": "Mine"})
    assert connected(shared_accounts, rotating, "called")["name"] == "Mine"


def test_error_pages_name_what_to_do(shared_accounts: Accounts, rotating: RotatingServer) -> None:
    mine = connected(shared_accounts, rotating, "mine")["id"]
    other = connected(shared_accounts, rotating, "other")["id"]
    with Person(shared_accounts.hub, "other") as person:
        page = person.go(person.reconnect(mine)["authorization_url"])
        assert "or connect other@example.com as an account of its own" in page.text
        assert "any_account" not in page.text
        page = person.go(person.reconnect(mine, any_account=True)["authorization_url"])
        assert "Other@example.com is connected already." in page.text
    assert shared_accounts.shown(other)["status"] == "connected"


def test_an_integration_that_is_not_connected_cannot_be_enabled(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    integration = connected(shared_accounts, rotating, "ended")["id"]
    shared_accounts.call(integration, "enable")
    shared_accounts.call(integration, "disconnect")
    assert "is disconnected" in shared_accounts.call(integration, "enable", expect=409)["detail"]
    with Person(shared_accounts.hub, "begun") as person:
        started = person.connect("oidc")["integration_id"]
    assert "is pending" in shared_accounts.call(started, "enable", expect=409)["detail"]


def test_a_list_of_a_users_accounts_is_answered_from_an_index(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    connected(shared_accounts, rotating, "indexed", user=ADA)
    own = {"workspace": shared_accounts.hub.workspace, "user": ADA, "deleted_at": None}
    for provider, status in product((None, "oidc"), (None, "connected")):
        more = {"provider": provider, "status": status}
        query = own | {name: value for name, value in more.items() if value}
        order = {"created_at": -1, "_id": -1}
        find = {"find": "integrations", "filter": query, "sort": order, "limit": 51}
        plan = shared_accounts.database.command({"explain": find, "verbosity": "executionStats"})[
            "queryPlanner"
        ]
        assert "IXSCAN" in str(plan["winningPlan"]), query
        assert "COLLSCAN" not in str(plan["winningPlan"]), query
