"""Workspaces by API: who may manage them, their first key, and their deletion with all data."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import sleep
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from shared.runtime.workspaces import SERVICES_WITH_DATA
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber
from tests.support.tickets import RETURN_TO, bring_back, start

OPERATOR = "operator"
PATH = "/api/workspaces"
CALLS: tuple[tuple[str, str, Any], ...] = (
    ("POST", PATH, {"name": "x"}),
    ("GET", PATH, None),
    ("GET", f"{PATH}/x", None),
    ("PATCH", f"{PATH}/x", {"name": "x", "quotas": {"events": 10**9}}),
    ("DELETE", f"{PATH}/x", None),
    ("POST", f"{PATH}/x/api-keys", {}),
)
NO_QUOTAS = dict.fromkeys(("requests", "events", "deliveries", "stored_bytes"))
OWN_LISTS = {
    "gateway": "/api/inbound-endpoints",
    "delivery": "/api/outgoing-webhooks",
    "sync": "/api/mappings",
    "oauth": "/api/integrations",
    "importer": "/api/imports",
}

hub = hub_with(
    services=("gateway", "delivery", "sync", "oauth", "importer", "console"),
    env={
        "INTERLINK_OPERATOR_WORKSPACE": OPERATOR,
        "INTERLINK_RETURN_ORIGINS": RETURN_TO.removesuffix("/back"),
    },
    workspace=OPERATOR,
    entrance=True,
)


@pytest.fixture(scope="module")
def database(hub: Hub) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as client:
        yield client.get_default_database()


def new_id() -> str:
    return f"ws-{token_hex(6)}"


def make(hub: Hub, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = hub.call("POST", PATH, {"name": "Acme", **fields}, expect=201)
    return made


def call(
    hub: Hub, key: str, method: str, path: str, body: Any = None, *, service: str = "gateway", once: str = ""
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} | ({"idempotency-key": once} if once else {})
    return httpx.request(method, hub.url(service) + path, json=body, headers=headers, timeout=20)


def statuses(hub: Hub, key: str) -> dict[str, int]:
    """What each service answers to a key."""
    return {
        service: call(hub, key, "GET", path, service=service).status_code
        for service, path in OWN_LISTS.items()
    }


def test_a_workspaces_life(hub: Hub) -> None:
    own = new_id()
    made = make(hub, id=own, name="Acme")
    assert made["id"] == own
    assert (made["status"], made["deleted_at"]) == ("active", None)
    assert statuses(hub, made["key"]) == dict.fromkeys(OWN_LISTS, 200)
    [first] = call(hub, made["key"], "GET", "/api/api-keys").json()["items"]
    assert first["scopes"] == ["admin"]
    shown = made | {"key": None}
    assert hub.call("GET", f"{PATH}/{own}") == shown
    assert shown in hub.call("GET", PATH)["items"]
    assert made["quotas"] == NO_QUOTAS
    renamed = hub.call("PATCH", f"{PATH}/{own}", {"name": "Acme Ltd"})
    assert renamed == shown | {"name": "Acme Ltd"}
    another = hub.call("POST", f"{PATH}/{own}/api-keys", {"name": "found again"}, expect=201)
    assert statuses(hub, another["key"]) == dict.fromkeys(OWN_LISTS, 200)
    generated = make(hub)
    assert generated["id"].startswith("ws_")
    # Newest first, and the workspace of the operator is one of them: `interlink init` registers its own.
    ids = [item["id"] for item in hub.call("GET", PATH)["items"]]
    assert ids.index(generated["id"]) < ids.index(own) < ids.index(OPERATOR)
    page = hub.call("GET", f"{PATH}?limit=1")
    assert [item["id"] for item in page["items"]] == ids[:1]
    after = hub.call("GET", f"{PATH}?limit=1&cursor={page['next_cursor']}")
    assert [item["id"] for item in after["items"]] == ids[1:2]


def test_only_the_operator_manages_workspaces(hub: Hub) -> None:
    tenant = make(hub)
    reader = call(
        hub, tenant["key"], "POST", "/api/api-keys", {"name": "x", "scopes": ["webhooks:write"]}
    ).json()["key"]
    for method, path, body in CALLS:
        own = path.replace("/x", f"/{tenant['id']}")
        for key in (tenant["key"], reader):
            assert call(hub, key, method, own, body).status_code == 403, (method, path)
        assert call(hub, "ilk_wrong", method, own, body).status_code == 401
    assert hub.call("GET", f"{PATH}/{tenant['id']}")["status"] == "active"


@pytest.mark.parametrize("workspace", ["", "A", "a", "_a", "a b", "a/b", "a" * 64, "\u00fc1", 1])
def test_an_id_that_is_not_acceptable(hub: Hub, workspace: Any) -> None:
    answer = hub.call("POST", PATH, {"id": workspace, "name": "x"}, expect=422)
    assert [error["field"] for error in answer["errors"]] == ["id"]


def test_what_cannot_be_done(hub: Hub) -> None:
    made = make(hub)
    hub.call("POST", PATH, {"id": made["id"], "name": "x"}, expect=409)
    hub.call("POST", PATH, {"id": OPERATOR, "name": "x"}, expect=409)
    hub.call("DELETE", f"{PATH}/{OPERATOR}", expect=409)
    for method, path, body in CALLS[2:]:
        hub.call(method, path.replace("/x", "/ws-nobody"), body, expect=404)


def test_the_same_call_makes_one_workspace(hub: Hub) -> None:
    own, headers = new_id(), {"idempotency-key": token_hex(8)}
    with hub.client("gateway") as client:
        answers = [client.post(PATH, json={"id": own, "name": "x"}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


# Quotas


def usage(hub: Hub, key: str, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = hub.call("GET", f"/api/usage{query}", key=key)
    return found


def used(hub: Hub, key: str, quota: str) -> int:
    return next(int(item["used"]) for item in usage(hub, key)["quotas"] if item["quota"] == quota)


def publish(hub: Hub, key: str, event_type: str = "nobody.listens", *, count: int = 1) -> httpx.Response:
    """Publish events with 100 bytes of data each."""
    event = {"specversion": "1.0", "type": event_type, "source": "/t", "data": "x" * 98}
    return call(hub, key, "POST", "/api/events", [event | {"id": token_hex(8)} for _ in range(count)])


def is_over(answer: httpx.Response, quota: str) -> bool:
    """Whether a request was refused over a quota, with everything that the sender has to know."""
    if answer.status_code != 429:
        return False
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["type"]) == (429, "/api/problems/429")
    assert f"raise `{quota}`" in problem["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    return True


def test_a_quota_counts_what_is_verified_at_every_gateway(
    hub: Hub, tmp_path: Path, bus: Bus, store: Store
) -> None:
    tenant, neighbour = make(hub), make(hub)
    key, path = tenant["key"], f"{PATH}/{tenant['id']}"
    endpoint = hub.call("POST", "/api/inbound-endpoints", {"provider": "github", "name": "x"}, key=key)
    changed = hub.call("PATCH", path, {"quotas": {"events": 50, "stored_bytes": 100_000}})
    assert changed["name"] == "Acme"
    assert changed["quotas"] == NO_QUOTAS | {"events": 50, "stored_bytes": 100_000}
    for _ in range(5):
        assert deliver(hub, endpoint | {"secret": "wrong"}).status_code == 401
    delivery = token_hex(8)
    first = deliver(hub, endpoint, delivery)
    assert first.status_code == 202
    eventually(lambda: used(hub, key, "events") == 1, 30)
    assert used(hub, key, "requests") == 1
    with second_process("gateway", hub, tmp_path / "other", bus, store) as other:
        for at in (hub, other):
            assert publish(at, key, count=30).status_code == 202
        for at in (hub, other):
            own = 31
            while not is_over(answer := deliver(at, endpoint), "events"):
                assert answer.status_code == 202
                own += 1
                assert own < 50, "it has to know what the other one has counted"
                sleep(1)
            assert is_over(publish(at, key), "events")
            assert is_over(call(at, key, "POST", "/api/events", []), "events"), "it was read first"
        # A repeat of what was accepted is not refused: its sender only missed the answer.
        assert deliver(hub, endpoint, delivery).json() == first.json() | {"duplicate": True}
        for at in (hub, other):
            assert publish(at, neighbour["key"]).status_code == 202
            assert at.metric("gateway", "interlink_quota_refusals_total", quota="events") >= 2
            for kind in ("request", "event", "stored_byte", "refusal"):
                assert at.metric(
                    "gateway", "interlink_workspace_usage_total", workspace=tenant["id"], kind=kind
                )
        # A change is in effect at once.
        hub.call("PATCH", path, {"quotas": {"stored_bytes": 1}})
        for at in (hub, other):
            assert is_over(deliver(at, endpoint), "stored_bytes")
        hub.call("PATCH", path, {"quotas": {}})
        for at in (hub, other):
            assert deliver(at, endpoint).status_code == 202
            assert publish(at, key).status_code == 202
    # The other one has written its counts when it ended.
    eventually(lambda: usage(hub, key)["days"][0]["refused"] >= 6, 30)
    found = usage(hub, key)
    assert found["workspace"] == tenant["id"]
    [today] = found["days"]
    assert today["events"] >= 65
    assert today["requests"] >= 8
    assert today["deliveries"] == 0
    assert today["stored_bytes"] >= 62 * 100
    assert {item["quota"]: item["limit"] for item in found["quotas"]} == NO_QUOTAS
    assert found["resets_at"].endswith("T00:00:00.000Z"), found["resets_at"]
    assert usage(hub, hub.admin_key, f"?workspace={tenant['id']}") == found
    assert usage(hub, key, f"?workspace={tenant['id']}") == found
    hub.call("GET", f"/api/usage?workspace={tenant['id']}", key=neighbour["key"], expect=403)
    hub.call("GET", "/api/usage?workspace=ws-nobody", expect=404)
    reader = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["webhooks:read"]})["key"]
    hub.call("GET", f"/api/usage?workspace={tenant['id']}", key=reader, expect=403)


def test_events_are_refused_when_the_deliveries_are_used_up_and_none_is_lost(hub: Hub) -> None:
    tenant = make(hub)
    key = tenant["key"]
    hub.call("PATCH", f"{PATH}/{tenant['id']}", {"quotas": {"deliveries": 3}})
    with Subscriber() as subscriber:
        webhook = {"name": "x", "url": subscriber.url, "events": ["order.*"]}
        for _ in range(2):
            hub.call("POST", "/api/outgoing-webhooks?force=true", webhook, key=key)
        hub.call("POST", "/api/queue/pause", key=key)
        assert publish(hub, key, "order.made").status_code == 202
        # What waits without an attempt is stored all the same: the event, and two deliveries with its data.
        eventually(lambda: used(hub, key, "stored_bytes") > 3 * 100, 30)
        assert used(hub, key, "deliveries") == 0
        hub.call("POST", "/api/queue/resume", key=key)
        for _ in range(3):
            assert publish(hub, key, "order.made").status_code == 202
        subscriber.wait_for(8)
        eventually(lambda: is_over(publish(hub, key, "nobody.listens"), "deliveries"), 30)
    assert used(hub, key, "deliveries") == 8


def test_a_replay_counts_and_is_refused_as_the_event_was(hub: Hub) -> None:
    tenant = make(hub)
    key, path = tenant["key"], f"{PATH}/{tenant['id']}"
    endpoint = hub.call("POST", "/api/inbound-endpoints", {"provider": "github", "name": "x"}, key=key)
    events = f"/api/inbound-endpoints/{endpoint['id']}/events"
    assert deliver(hub, endpoint).status_code == 202
    [execution] = eventually(lambda: hub.call("GET", events, key=key)["items"])
    replay = f"{events}/{execution['id']}/replay"
    hub.call("PATCH", path, {"quotas": {"events": 2}})
    assert call(hub, key, "POST", replay).status_code == 202
    assert is_over(call(hub, key, "POST", replay, once="x"), "events")
    assert hub.call("GET", f"{events}/{execution['id']}", key=key)["replays"] == 1
    eventually(lambda: used(hub, key, "events") == 2, 30)
    hub.call("PATCH", path, {"quotas": {}})
    first, repeat = (call(hub, key, "POST", replay, once="x") for _ in range(2))
    assert (first.status_code, repeat.status_code) == (202, 202)
    assert first.text == repeat.text


def test_what_is_over_a_quota_uses_up_the_rate_limit_too(hub: Hub) -> None:
    """Or else a flood would cost the reading and the verification of each request."""
    tenant = make(hub)
    fields = {"provider": "github", "name": "x", "rate_limit": 3}
    endpoint = hub.call("POST", "/api/inbound-endpoints", fields, key=tenant["key"])
    hub.call("PATCH", f"{PATH}/{tenant['id']}", {"quotas": {"events": 0}})
    assert all(is_over(deliver(hub, endpoint), "events") for _ in range(3))
    limited = deliver(hub, endpoint)
    assert limited.status_code == 429
    assert "too many requests" in limited.json()["detail"]


@pytest.mark.parametrize("quota", [-1, 10**15 + 1, "many"])
def test_a_quota_that_is_not_acceptable(hub: Hub, quota: Any) -> None:
    tenant = make(hub)
    answer = hub.call("PATCH", f"{PATH}/{tenant['id']}", {"quotas": {"events": quota}}, expect=422)
    assert [error["field"] for error in answer["errors"]] == ["quotas.events"]
    hub.call("PATCH", f"{PATH}/{tenant['id']}", {"quotas": {"bytes": 1}}, expect=422)


# Deletion

LEFT = {
    "api_keys",
    "members",
    "idempotency_keys",
    "inbound_endpoints",
    "event_types",
    "outgoing_webhooks",
    "integrations",
    "oauth_states",  # without an integration they are of no use, and expire within an hour
    "platform_credentials",
    "sync_mappings",
    "workspaces",
    "workspace_deletions",
}
"""Collections that may have something of a deleted workspace: marks of the deletion, without secrets."""


def left(database: Any, workspace: str) -> dict[str, list[dict[str, Any]]]:
    """Return what the database has of a workspace, by collection."""
    query = {"$or": [{"workspace": workspace}, {"_id": workspace}]}
    found = {name: list(database[name].find(query)) for name in database.list_collection_names()}
    return {name: documents for name, documents in found.items() if documents}


def is_left(database: Any, workspace: str, name: str) -> bool:
    return name in left(database, workspace)


def fill(hub: Hub, tenant: Mapping[str, Any], subscriber: Subscriber) -> dict[str, Any]:
    """Make one of everything in a workspace; return its inbound endpoint."""
    key = tenant["key"]

    def made(path: str, body: Any, service: str = "gateway", method: str = "POST") -> Any:
        answer = call(hub, key, method, path, body, service=service)
        assert answer.is_success, answer.text
        return answer.json()

    endpoint = made("/api/inbound-endpoints", {"provider": "github", "name": "x", "channel_id": "general"})
    made("/api/incoming-webhooks", {"name": "x", "target_channel_id": "general"})
    made("/api/event-types", {"name": "own.thing", "about": "x"})
    made("/api/members", {"name": "Ada", "role": "admin"})
    legs = [{"provider": "chat", "conversation": name} for name in ("general", "lobby")]
    made("/api/mappings", {"name": "x", "legs": legs}, "sync")
    webhook = {"name": "x", "url": subscriber.url, "events": ["github.*", "order.*"]}
    made("/api/outgoing-webhooks", webhook, "delivery")
    portal = {"customer": "x", "events": ["order.*"], "origins": ["https://chat.example.com"]}
    made("/api/portal-sessions", portal, "console")
    app = {"client_id": "x", "client_secret": token_hex(16), "verified": True}
    urls = {name: f"http://127.0.0.1:9/{name}" for name in ("authorize_url", "token_url", "userinfo_url")}
    made("/api/platform-credentials/oidc", app | {"settings": urls}, "oauth", "PUT")
    made("/api/auth/oauth/connect", {"provider": "oidc"}, "oauth")
    assert deliver(hub, endpoint).status_code == 202
    event = {"specversion": "1.0", "id": token_hex(8), "type": "nobody.listens", "source": "/t", "data": {}}
    made("/api/events", event)
    return dict(endpoint)


def deliver(hub: Hub, endpoint: Mapping[str, Any], delivery: str = "") -> httpx.Response:
    body = json.dumps({"zen": token_hex(8)}).encode()
    url = f"{hub.url('gateway')}/api/{endpoint['url'].partition('/api/')[2]}"
    headers = {**signed(endpoint["secret"], "ping", body), "x-github-delivery": delivery or token_hex(8)}
    return httpx.post(url, content=body, headers=headers, timeout=10)


def finish(hub: Hub, database: Any, workspace: str) -> None:
    """Wait for the first pass of every service, then do the last one at once, and wait for its end."""
    deletions = database["workspace_deletions"]
    eventually(
        lambda: deletions.count_documents({"workspace": workspace, "passes": 1}) == len(SERVICES_WITH_DATA)
    )
    deletions.update_many({"workspace": workspace, "open": True}, {"$set": {"due_at": datetime.now(UTC)}})
    eventually(lambda: call(hub, hub.admin_key, "GET", f"{PATH}/{workspace}").status_code == 404)


def test_a_workspace_is_deleted_with_its_data_and_no_other(hub: Hub, database: Any) -> None:
    tenant, neighbour = make(hub), make(hub)
    with Subscriber() as subscriber:
        endpoint, other = (fill(hub, each, subscriber) for each in (tenant, neighbour))
        subscriber.wait_for(2)
        logs = (
            *("webhook_deliveries", "webhook_executions", "unmatched_events", "delivery_stats"),
            *("hourly_counts", "daily_usage"),
        )
        for each in (tenant, neighbour):
            for name in logs:
                eventually(partial(is_left, database, each["id"], name))
            for name in ("synced_messages", "message_links", "sync_queue", "sync_lanes", "sync_conflicts"):
                database[name].insert_one({"_id": token_hex(8), "workspace": each["id"]})
        before = left(database, neighbour["id"])
        deleted = hub.call("DELETE", f"{PATH}/{tenant['id']}", expect=202)
        assert (deleted["status"], deleted["id"]) == ("deleting", tenant["id"])
        assert statuses(hub, tenant["key"]) == dict.fromkeys(OWN_LISTS, 401)
        hub.call("DELETE", f"{PATH}/{tenant['id']}", expect=202)
        hub.call("POST", f"{PATH}/{tenant['id']}/api-keys", {}, expect=409)
        finish(hub, database, tenant["id"])
        assert deliver(hub, endpoint).status_code == 404
        remains = left(database, tenant["id"])
        assert remains.keys() <= LEFT
        for name in LEFT - {"workspaces", "workspace_deletions", "idempotency_keys", "oauth_states"}:
            for document in remains.get(name, ()):
                assert document["deleted_at"], name
                assert not document.get("secrets"), name
                assert not document.get("credential"), name
        # The neighbour has what it had, and works.
        after = left(database, neighbour["id"])
        counts = after.pop("hourly_counts")
        assert len(counts) >= len(before.pop("hourly_counts")), "they are written some seconds late"
        assert {name: len(documents) for name, documents in after.items()} == {
            name: len(documents) for name, documents in before.items()
        }
        assert deliver(hub, other).status_code == 202
        subscriber.wait_for(3)
        hub.call("POST", PATH, {"id": tenant["id"], "name": "again"}, expect=409)
        with pytest.raises(AssertionError, match="was deleted"):
            hub.init(tenant["id"])


def test_a_service_that_was_down_deletes_its_part_when_it_is_back(hub: Hub, database: Any) -> None:
    tenant = make(hub)
    with Subscriber() as subscriber:
        fill(hub, tenant, subscriber)
        subscriber.wait_for(1)
        eventually(lambda: left(database, tenant["id"]).get("webhook_deliveries"))
    hub.kill("delivery")
    hub.call("DELETE", f"{PATH}/{tenant['id']}", expect=202)
    assert left(database, tenant["id"])["webhook_deliveries"]
    assert hub.call("GET", f"{PATH}/{tenant['id']}")["status"] == "deleting"
    hub.start_service("delivery")
    hub.wait_ready("delivery")
    finish(hub, database, tenant["id"])
    assert left(database, tenant["id"]).keys() <= LEFT


def test_polling_triggers_end_with_their_workspace(hub: Hub, database: Any) -> None:
    tenant = make(hub)
    body = {"trigger": "rss_trigger_new_item", "params": {"url": "http://127.0.0.1:9/feed"}}
    hub.call("POST", "/api/polling-triggers", body, key=tenant["key"])
    assert left(database, tenant["id"])["polling_triggers"]
    hub.call("DELETE", f"{PATH}/{tenant['id']}", expect=202)
    finish(hub, database, tenant["id"])
    eventually(lambda: "polling_triggers" not in left(database, tenant["id"]), 30)
    assert left(database, tenant["id"]).keys() <= LEFT


def test_unconfirmed_grants_are_revoked_before_the_app_is_gone(hub: Hub, database: Any) -> None:
    tenant, name = make(hub), f"ada-{token_hex(4)}"
    back = hub.url("gateway") + "/api/auth/oauth/callback"
    with (
        RotatingServer("app", "the-secret", back) as server,
        Person(hub, name, entrance="gateway") as person,
    ):
        server.login(name)
        app = {"client_id": "app", "client_secret": "the-secret", "settings": server.settings}
        path = "/api/platform-credentials/oidc"
        hub.call("PUT", path, app | {"verified": True}, key=tenant["key"])
        bring_back(person, start(hub, key=tenant["key"], service="gateway"))
        assert len(server.grants_of(name)) == 1
        assert left(database, tenant["id"])["oauth_confirmations"]
        hub.call("DELETE", f"{PATH}/{tenant['id']}", expect=202)
        eventually(lambda: server.grants_of(name) == [])
        finish(hub, database, tenant["id"])
    assert left(database, tenant["id"]).keys() <= LEFT
