"""Whose account it is, what it is called, and that a list of one person's accounts costs only those."""

from itertools import product
from typing import Any

import orjson
import pytest

from shared.webhooks.event_fields import EventFields
from shared.webhooks.filters import EventFilter
from tests.support.accounts import Accounts
from tests.support.person import Person
from tests.support.rotating import Rotating

ADA, BOB = "usr_ada", "7"


def connected(there: Accounts, rotating: Rotating, login: str, **fields: Any) -> dict[str, Any]:
    """An account of this login, connected with these fields of the call; as the API shows it."""
    rotating.login(login)
    with Person(there.hub, login) as person:
        return there.shown(person.connected("oidc", **fields))


def listed(there: Accounts, query: str) -> set[str]:
    return {each["id"] for each in there.hub.call("GET", f"/api/integrations?{query}")["items"]}


def told(there: Accounts, integration: str) -> list[dict[str, Any]]:
    """The data of what was told of an integration, each event once."""
    once = {
        record.attributes["ce_id"]: record.data
        for record in there.tap.look()
        if record.key == integration.encode()
    }
    return list(once.values())


def test_the_user_is_shown_told_and_asked_for(there: Accounts, rotating: Rotating) -> None:
    of_ada = connected(there, rotating, "asked-ada", user=ADA)["id"]
    of_bob = connected(there, rotating, "asked-bob", user=BOB)["id"]
    of_nobody = connected(there, rotating, "asked-nobody")
    assert (there.shown(of_ada)["user"], of_nobody["user"]) == (ADA, None)
    assert listed(there, f"user={ADA}") == {of_ada}
    assert listed(there, f"user={BOB}&provider=oidc&status=connected") == {of_bob}
    assert listed(there, f"user={BOB}&provider=github") == set()
    assert listed(there, f"user={BOB}&status=error") == set()
    assert {of_ada, of_bob, of_nobody["id"]} <= listed(there, "limit=500")
    there.hub.call("GET", "/api/integrations?user=", expect=422)
    other = there.hub.other_workspace()
    assert there.hub.call("GET", f"/api/integrations?user={ADA}", key=other)["items"] == []
    there.call(of_ada, "refresh")
    there.call(of_ada, "disconnect")
    assert listed(there, f"user={ADA}") == {of_ada}, "the record stays"
    assert [data["user"] for data in told(there, of_ada)] == [ADA] * 3
    assert [data["user"] for data in told(there, of_nobody["id"])] == [None]


def test_an_outgoing_webhook_can_ask_for_a_users_events(there: Accounts, rotating: Rotating) -> None:
    integration = connected(there, rotating, "filtered", user=ADA)["id"]
    (data,) = told(there, integration)
    raw = orjson.dumps(data)
    facts = EventFields("evt_1", "integration.connected", "default", "", integration, "1", raw, data)
    for user, wanted in ((ADA, True), (BOB, False)):
        found = EventFilter.of({"condition": f"data.user == '{user}'"})
        assert found
        assert found.matches(facts, "") is wanted


def test_another_user_has_it_once_it_was_taken_over(there: Accounts, rotating: Rotating) -> None:
    """Connected again, by whichever call: another user takes it over when told; nobody named leaves it."""
    first = connected(there, rotating, "shared", user=ADA)["id"]
    assert connected(there, rotating, "shared")["user"] == ADA
    assert first not in listed(there, f"user={BOB}")
    assert connected(there, rotating, "shared", user=BOB, takeover=True)["user"] == BOB
    assert first in listed(there, f"user={BOB}")
    assert first not in listed(there, f"user={ADA}")
    with Person(there.hub, "shared") as person:
        person.go(person.reconnect(first)["authorization_url"])
        assert there.shown(first)["user"] == BOB
        begun = person.reconnect(first, user=ADA, takeover=True)
        assert there.shown(first)["user"] == BOB, "begun is not connected"
        person.go(begun["authorization_url"])
        assert there.shown(first)["user"] == ADA
    assert [data["user"] for data in told(there, first)] == [ADA, ADA, BOB, BOB, BOB, ADA, ADA]


@pytest.mark.parametrize("user", ["", "x" * 201, "a\nb", 7], ids=["empty", "long", "two-lines", "number"])
def test_a_user_that_is_refused(there: Accounts, rotating: Rotating, user: Any) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("auth/oauth/connect", {}), ("integrations", {"fields": {}})]
    for path, body in calls:
        said = there.hub.call("POST", f"/api/{path}", {"provider": "oidc", **body, "user": user}, expect=422)
        assert [fault["field"] for fault in said["errors"]] == ["user"]


def test_an_account_is_called_by_its_label_unless_it_was_given_a_name(
    there: Accounts, rotating: Rotating
) -> None:
    rotating.login("called")
    with Person(there.hub, "called") as person:
        begun = person.connect("oidc")
        integration = begun["integration_id"]
        assert there.shown(integration)["name"] == "oidc", "it is not known yet whose it is"
        person.go(begun["authorization_url"])
    assert there.shown(integration)["name"] == "called@example.com"
    assert connected(there, rotating, "named", name="Of the team")["name"] == "Of the team"
    assert connected(there, rotating, "named")["name"] == "Of the team"
    there.hub.call("PATCH", f"/api/integrations/{integration}", {"name": "Mine"})
    assert connected(there, rotating, "called")["name"] == "Mine"


def test_people_are_told_what_they_can_do(there: Accounts, rotating: Rotating) -> None:
    mine = connected(there, rotating, "mine")["id"]
    other = connected(there, rotating, "other")["id"]
    with Person(there.hub, "other") as person:
        page = person.go(person.reconnect(mine)["authorization_url"])
        assert "or connect other@example.com as an account of its own" in page.text
        assert "any_account" not in page.text
        page = person.go(person.reconnect(mine, any_account=True)["authorization_url"])
        assert "Other@example.com is connected already." in page.text
    assert there.shown(other)["status"] == "connected"


def test_what_is_not_connected_is_not_enabled(there: Accounts, rotating: Rotating) -> None:
    integration = connected(there, rotating, "ended")["id"]
    there.call(integration, "enable")
    there.call(integration, "disconnect")
    assert "is disconnected" in there.call(integration, "enable", expect=409)["detail"]
    with Person(there.hub, "begun") as person:
        begun = person.connect("oidc")["integration_id"]
    assert "is pending" in there.call(begun, "enable", expect=409)["detail"]


def test_a_list_of_a_users_accounts_is_answered_from_an_index(there: Accounts, rotating: Rotating) -> None:
    connected(there, rotating, "indexed", user=ADA)
    own = {"workspace": there.hub.workspace, "user": ADA, "deleted_at": None}
    for provider, status in product((None, "oidc"), (None, "connected")):
        more = {"provider": provider, "status": status}
        query = own | {name: value for name, value in more.items() if value}
        order = {"created_at": -1, "_id": -1}
        find = {"find": "integrations", "filter": query, "sort": order, "limit": 51}
        plan = there.database.command({"explain": find, "verbosity": "executionStats"})["queryPlanner"]
        assert "IXSCAN" in str(plan["winningPlan"]), query
        assert "COLLSCAN" not in str(plan["winningPlan"]), query
