"""Tags and metadata of integrations: set, shown, published, and listed by."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from shared.webhooks.event_fields import EventFields
from shared.webhooks.filters import EventFilter
from tests.oauth.test_integration_users import connected, listed, published
from tests.support.accounts import Accounts
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer

LABELS: dict[str, Any] = {"tags": ["sales", "eu"], "metadata": {"crm": "42", "note": "a:b=c"}}
NONE: dict[str, Any] = {"tags": [], "metadata": {}}


def labels(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: shown[name] for name in ("tags", "metadata")}


def change(accounts: Accounts, integration: str, body: dict[str, Any], expect: int = 200) -> dict[str, Any]:
    return dict(accounts.hub.call("PATCH", f"/api/integrations/{integration}", body, expect=expect))


def test_labels_are_shown_published_and_changed(shared_accounts: Accounts, rotating: RotatingServer) -> None:
    made = connected(shared_accounts, rotating, "labelled", **LABELS)
    assert labels(made) == LABELS
    [data] = published(shared_accounts, made["id"])
    assert labels(data) == LABELS
    raw = orjson.dumps(data)
    fields = EventFields("evt_1", "integration.connected", "default", "", made["id"], "1", raw, data)
    for condition, expected in (("data.metadata.crm == '42'", True), ("data.metadata.crm == '43'", False)):
        found = EventFilter.from_stored({"condition": condition})
        assert found
        assert found.matches(fields, "") is expected

    assert labels(change(shared_accounts, made["id"], {"tags": ["us", "us"]})) == LABELS | {"tags": ["us"]}
    assert change(shared_accounts, made["id"], {"name": "Mine"})["tags"] == ["us"]
    assert change(shared_accounts, made["id"], {"metadata": {}})["name"] == "Mine"
    shared_accounts.call(made["id"], "refresh")
    assert labels(published(shared_accounts, made["id"])[-1]) == {"tags": ["us"], "metadata": {}}
    assert labels(change(shared_accounts, made["id"], NONE)) == NONE


def test_connecting_again_changes_only_what_is_named(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    first = connected(shared_accounts, rotating, "relabelled", **LABELS)["id"]
    assert labels(connected(shared_accounts, rotating, "relabelled")) == LABELS
    again = connected(shared_accounts, rotating, "relabelled", tags=["new"])
    assert (again["id"], labels(again)) == (first, LABELS | {"tags": ["new"]})
    assert first in listed(shared_accounts, "tag=new")
    assert first not in listed(shared_accounts, "tag=sales")


def test_integrations_are_listed_by_labels(shared_accounts: Accounts, rotating: RotatingServer) -> None:
    both = connected(shared_accounts, rotating, "by-both", tags=["x1", "x2"], metadata={"k": "1"}, user="u1")
    one = connected(shared_accounts, rotating, "by-one", tags=["x1"], metadata={"k": "2"}, user="u2")
    with Person(shared_accounts.hub, "by-none") as person:
        pending = person.connect("oidc", tags=["x1"])["integration_id"]
    ids = {both["id"], one["id"]}
    assert listed(shared_accounts, "tag=x1") == {*ids, pending}
    for query, expected in (
        ("tag=x2", {both["id"]}),
        ("tag=x1&tag=x2", {both["id"]}),
        ("metadata=k:2", {one["id"]}),
        ("metadata=k:3", set()),
        ("tag=x1&metadata=k:1", {both["id"]}),
        ("tag=x1&status=connected", ids),
        ("tag=x1&status=pending&provider=oidc", {pending}),
        ("tag=x1&user=u2", {one["id"]}),
        ("tag=x1&provider=github", set()),
        ("tag=metadata:k:1", set()),
    ):
        assert listed(shared_accounts, query) == expected, query
    other = shared_accounts.hub.other_workspace()
    assert shared_accounts.hub.call("GET", "/api/integrations?tag=x1", key=other)["items"] == []
    change(shared_accounts, one["id"], {"tags": []})
    assert listed(shared_accounts, "tag=x1") == {both["id"], pending}
    assert listed(shared_accounts, "metadata=k:2") == {one["id"]}
    shared_accounts.hub.call("DELETE", f"/api/integrations/{both['id']}")
    assert listed(shared_accounts, "tag=x1") == {pending}


def test_a_filtered_list_goes_on_to_its_end(shared_accounts: Accounts) -> None:
    """Each integration once, in pages; those of the other filters are left out."""
    with Person(shared_accounts.hub, "paged") as person:
        made = [
            person.connect("oidc", tags=["paged"], user=f"u{number % 2}")["integration_id"]
            for number in range(7)
        ]
    for query, expected in (("tag=paged", made), ("tag=paged&user=u1", made[1::2])):
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            after = f"&cursor={cursor}" if cursor else ""
            page = shared_accounts.hub.call("GET", f"/api/integrations?{query}&limit=2{after}")
            assert len(page["items"]) <= 2
            found += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert found == expected[::-1], query


def test_labels_of_concurrent_changes_agree_with_the_list(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    """One call changes the tags, another the metadata: the list finds both."""
    made = connected(shared_accounts, rotating, "raced")["id"]
    for number in range(5):
        bodies: list[dict[str, Any]] = [{"tags": [f"t{number}"]}, {"metadata": {"m": str(number)}}]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda body: change(shared_accounts, made, body), bodies))
        assert listed(shared_accounts, f"tag=t{number}&metadata=m:{number}") == {made}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tags": [""]},
        {"tags": ["x" * 65]},
        {"tags": ["a\nb"]},
        {"tags": [str(number) for number in range(21)]},
        {"metadata": {"a.b": "x"}},
        {"metadata": {"$a": "x"}},
        {"metadata": {"": "x"}},
        {"metadata": {"a": "x" * 501}},
        {"metadata": {"a": {"b": "c"}}},
        {"metadata": {f"n{number}": "x" * 500 for number in range(9)}},
    ],
    ids=lambda body: str(body)[:30],
)
def test_labels_are_bounded(
    shared_accounts: Accounts, rotating: RotatingServer, body: dict[str, Any]
) -> None:
    with Person(shared_accounts.hub, "bounded") as person:
        made = person.connect("oidc")["integration_id"]
        change(shared_accounts, made, body, expect=422)
        if body:
            person.connect("oidc", expect=422, **body)
    assert labels(shared_accounts.shown(made)) == NONE


def test_a_list_by_a_label_is_answered_from_an_index(
    shared_accounts: Accounts, rotating: RotatingServer
) -> None:
    connected(shared_accounts, rotating, "indexed-label", **LABELS)
    for term in ("tag:sales", "metadata:crm:42"):
        query = {"workspace": shared_accounts.hub.workspace, "deleted_at": None, "terms": term}
        find = {
            "find": "integrations",
            "filter": query,
            "sort": {"created_at": -1, "_id": -1},
            "limit": 51,
        }
        plan = shared_accounts.database.command({"explain": find, "verbosity": "executionStats"})
        assert "IXSCAN" in str(plan["queryPlanner"]["winningPlan"])
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])


def test_a_filtered_list_examines_a_bounded_number(shared_accounts: Accounts) -> None:
    """However many integrations have the tag, a page costs so much, and the next one goes on."""
    integrations = shared_accounts.database.integrations
    now = datetime.now(UTC)
    integrations.insert_many(
        {
            "_id": f"int_many_{number}",
            "workspace": shared_accounts.hub.workspace,
            "deleted_at": None,
            "terms": ["tag:many"],
            "user": "others",
            "created_at": now,
        }
        for number in range(2_001)
    )
    try:
        path = "/api/integrations?tag=many&user=nobody"
        first = shared_accounts.hub.call("GET", path)
        assert first["items"] == []
        second = shared_accounts.hub.call("GET", f"{path}&cursor={first['next_cursor']}")
        assert second == {"items": [], "next_cursor": None}
    finally:
        integrations.delete_many({"terms": "tag:many"})
