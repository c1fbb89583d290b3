"""The audit log: one entry for each call that changes something, in all services, and no secret in it."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, cast

import bson
import httpx
import pytest
import structlog
from pymongo import MongoClient
from starlette.types import Message, Receive, Scope, Send

from shared.contracts.ids import ApiKeyId, WorkspaceId, new_audit_entry_id
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from shared.runtime.web.access import ApiKey, Keyring
from shared.runtime.web.audit import Audit, AuditedRoute
from shared.runtime.web.audit_entries import COLLECTION, AuditActor, AuditEntries, AuditEntry
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.expiry import stored_ttls
from tests.support.hub import Hub, hub_with
from tests.support.recorded_secrets import record_secret
from tests.support.second_process import second_process

WEBHOOK = {"name": "x", "url": "http://127.0.0.1:9/x", "events": ["never.sent"]}


# The services with an API, behind the gateway as the only entrance.
hub = hub_with(workspace="audit", entrance=True)


def call(hub: Hub, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """Make a call at the entrance with the admin key."""
    sent = {"authorization": f"Bearer {hub.admin_key}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return httpx.request(method, hub.url("gateway") + path, json=body, headers=sent, timeout=30)


def entries(hub: Hub, key: str | None = None, **query: str) -> list[dict[str, Any]]:
    return list(hub.call("GET", "/api/audit", key=key, params={"limit": "500", **query})["items"])


def actor(hub: Hub, *scopes: str) -> dict[str, Any]:
    """Return a new API key of the workspace."""
    body = {"name": f"key of {token_hex(4)}", "scopes": list(scopes) or ["admin"]}
    return dict(hub.call("POST", "/api/api-keys", body, expect=201))


@contextmanager
def documents(hub: Hub) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        yield mongo.get_default_database()[COLLECTION]


# What an entry says


def test_a_call_leaves_an_entry_whichever_service_answers(hub: Hub) -> None:
    key = actor(hub)
    headers = {"authorization": f"Bearer {key['key']}", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    created: dict[str, str] = {}
    for path, body in (
        ("/api/outgoing-webhooks", WEBHOOK),
        ("/api/inbound-endpoints", {"provider": "github", "name": "x"}),
        ("/api/auth/oauth/connect", {"provider": "oidc", "user": "ada"}),
    ):
        if "oauth" in path:
            app = {"client_id": "x", "client_secret": "x", "settings": {}, "verified": True}
            httpx.put(hub.url("gateway") + "/api/platform-credentials/oidc", json=app, headers=headers)
        answer = httpx.post(hub.url("gateway") + path, json=body, headers=headers, timeout=30)
        created[path] = answer.json().get("id", "")
        [entry, *_] = entries(hub, actor=key["id"])
        assert entry["route"] == path
        assert entry["method"] == "POST"
        assert entry["status"] == answer.status_code
        assert entry["actor"]["key_id"] == key["id"]
        assert entry["actor"]["key_name"] == key["name"]
        assert entry["actor"]["service"] is None
        assert entry["trace_id"] == "a" * 32
        assert entry["client"] == "127.0.0.1"
        assert entry["fields"] == list(body)
        assert entry["other_fields"] == 0
        assert entry["idempotency_digest"] is None
    services = [entry["service"] for entry in entries(hub, actor=key["id"])]
    assert services[0] == "oauth"
    assert services[-2:] == ["gateway", "delivery"]
    assert entries(hub, actor=key["id"])[0]["actor"]["user"] == "ada"
    assert entries(hub, actor="ada")[0]["actor"]["key_id"] == key["id"]
    webhook = created["/api/outgoing-webhooks"]
    call(hub, "PATCH", f"/api/outgoing-webhooks/{webhook}", {"name": "y"})
    found = entries(hub, resource=webhook)
    assert [(entry["method"], entry["resources"]) for entry in found] == [
        ("PATCH", [webhook]),
        ("POST", [webhook]),
    ]


def test_only_names_of_the_routes_own_fields_are_stored(hub: Hub) -> None:
    secret, token = f"secret-{token_hex(8)}", f"name-{token_hex(8)}"
    record_secret("a secret in a body", secret)
    path = f"/api/inbound-endpoints?x={token}"
    body = {"provider": "github", "name": "x", "secret": secret, token: 1}
    assert call(hub, "POST", path, body, idempotency_key=secret).status_code == 422
    [entry, *_] = entries(hub)
    assert entry["fields"] == ["provider", "name", "secret"]
    assert entry["other_fields"] == 1
    assert len(entry["idempotency_digest"]) == 64
    with documents(hub) as stored:
        text = b"".join(bson.encode(document) for document in stored.find())
    for value in (secret, token, hub.admin_key):
        assert value.encode() not in text


@pytest.mark.parametrize(
    "body",
    [
        {"n" * 500_000: 1},
        {f"field{number}": number for number in range(10_000)},
        {"$set": {"x": 1}, "a.b": 1, "": 1, "\x00": 1, "\u2028": 1},
        [{"name": 1}] * 1000,
        "name",
        None,
        {"user": "u" * 100_000, "provider": "oidc"},
    ],
    ids=["huge name", "10,000 fields", "operators", "list", "text", "null", "huge user"],
)
def test_a_hostile_body_makes_a_small_entry(hub: Hub, body: Any) -> None:
    for path in ("/api/outgoing-webhooks", "/api/auth/oauth/connect"):
        assert call(hub, "POST", path, body).status_code in (400, 422)
        [entry, *_] = entries(hub)
        assert (entry["route"], entry["status"]) == (path, 422)
        assert set(entry["fields"]) <= {"user", "provider"}
        with documents(hub) as stored:
            assert len(bson.encode(stored.find_one({"_id": entry["id"]}))) < 2000


def test_a_body_that_is_no_json_is_recorded_too(hub: Hub) -> None:
    headers = {"authorization": f"Bearer {hub.admin_key}", "content-type": "application/json"}
    url = hub.url("gateway") + "/api/outgoing-webhooks"
    assert httpx.post(url, content=b"{" * 1000 + b"\xff", headers=headers).status_code == 400
    assert entries(hub)[0]["status"] == 400


@pytest.mark.parametrize("part", ["%00", "%ff%fe", "%F0%9F%92%A9", "x" * 5000, "%0A%0D", "a:b$c.d", "{id}"])
def test_odd_bytes_of_a_path_are_bounded_text(hub: Hub, part: str) -> None:
    path = f"/api/outgoing-webhooks/{part}"
    assert call(hub, "DELETE", path).status_code == 404
    [entry, *_] = entries(hub)
    assert (entry["route"], entry["status"]) == ("/api/outgoing-webhooks/{webhook_id}", 404)
    assert 1 <= len(entry["resources"][0]) <= 200
    assert entries(hub, resource=entry["resources"][0])[0]["id"] == entry["id"]


# Which calls leave one


def test_a_rejected_call_of_a_known_caller_leaves_an_entry(hub: Hub) -> None:
    key = actor(hub, "webhooks:read")
    hub.call("POST", "/api/outgoing-webhooks", WEBHOOK, key=key["key"], expect=403)
    hub.call("DELETE", "/api/api-keys/key_x", key=key["key"], expect=403)
    found = [(entry["service"], entry["route"], entry["status"]) for entry in entries(hub, actor=key["id"])]
    assert found == [("gateway", "/api/api-keys/{key_id}", 403), ("delivery", "/api/outgoing-webhooks", 403)]


def test_calls_that_change_nothing_leave_none(hub: Hub) -> None:
    before = entries(hub)
    event = {"specversion": "1.0", "id": "1", "type": "note.written", "source": "/t"}
    assert call(hub, "POST", "/api/events", event).status_code == 202
    assert call(hub, "POST", "/api/outgoing-webhooks/preview", {}).status_code == 200
    preview = {"provider": "github", "event": "ping", "payload": {}}
    assert call(hub, "POST", "/api/messages/preview", preview).status_code == 200
    assert call(hub, "GET", "/api/outgoing-webhooks").status_code == 200
    assert call(hub, "POST", "/api/no-such-thing", {}).status_code == 404
    assert call(hub, "POST", "/api/outgoing-webhooks", WEBHOOK, authorization="Bearer x").status_code == 401
    assert httpx.post(hub.url("gateway") + "/api/outgoing-webhooks", json=WEBHOOK).status_code == 401
    assert entries(hub) == before


def test_a_replay_of_an_idempotency_key_leaves_no_second_entry(hub: Hub) -> None:
    key, once = actor(hub), token_hex(8)
    headers = {"authorization": f"Bearer {key['key']}", "idempotency-key": once}
    url = hub.url("gateway") + "/api/outgoing-webhooks?force=true"
    answers = [httpx.post(url, json=WEBHOOK, headers=headers, timeout=30) for _ in range(3)]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert httpx.post(url, json={}, headers=headers).status_code == 422, "the key of another call"
    [entry] = entries(hub, actor=key["id"])
    assert entry["resources"] == [answers[0].json()["id"]]
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        stored = mongo.get_default_database()["idempotency_keys"]
        assert stored.find_one({"_id": entry["idempotency_digest"]})


# Who reads them


def test_another_workspace_sees_nothing(hub: Hub) -> None:
    webhook = hub.call("POST", "/api/outgoing-webhooks?force=true", WEBHOOK, expect=201)["id"]
    stranger = hub.other_workspace()
    assert entries(hub, resource=webhook)
    assert entries(hub, stranger) == []
    assert entries(hub, stranger, resource=webhook) == []
    hub.call("DELETE", f"/api/outgoing-webhooks/{webhook}", key=stranger, expect=404)
    assert [entry["status"] for entry in entries(hub, stranger)] == [404]
    assert 404 not in [entry["status"] for entry in entries(hub, resource=webhook)]


def test_entries_are_filtered_and_paged(hub: Hub) -> None:
    key = actor(hub)
    for number in range(5):
        hub.call(
            "POST", "/api/event-types", {"name": f"own.a{number}{token_hex(4)}", "about": "x"}, key=key["key"]
        )
    hub.call("POST", "/api/queue/resume", key=key["key"])
    found = entries(hub, actor=key["id"])
    assert [entry["at"] for entry in found] == sorted((entry["at"] for entry in found), reverse=True)
    pages: list[dict[str, Any]] = []
    query = {"limit": "2", "actor": key["id"]}
    while True:
        page = hub.call("GET", "/api/audit", params=query)
        pages += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert pages == found
    assert len(found) == 6
    assert [entry["route"] for entry in entries(hub, actor=key["id"], service="delivery")] == [
        "/api/queue/resume"
    ]
    middle = found[3]["at"]
    later = entries(hub, actor=key["id"], since=middle)
    assert [entry["id"] for entry in later] == [entry["id"] for entry in found if entry["at"] >= middle]
    earlier = entries(hub, actor=key["id"], until=middle)
    assert [entry["id"] for entry in earlier] == [entry["id"] for entry in found if entry["at"] < middle]
    hub.call("GET", "/api/audit", params={"since": "yesterday"}, expect=422)
    hub.call("GET", "/api/audit", params={"since": "2020-01-01T00:00:00"}, expect=422)
    hub.call("GET", "/api/audit", params={"cursor": "x"}, expect=400)


def test_two_processes_of_a_service_write_one_log(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = actor(hub)
    with second_process("delivery", hub, tmp_path_factory.mktemp("another"), bus, store) as other:
        for here in (hub, other):
            here.call("POST", "/api/queue/resume", key=key["key"])
    assert [entry["route"] for entry in entries(hub, actor=key["id"])] == ["/api/queue/resume"] * 2


# When something fails


def test_a_change_of_a_process_that_died_before_its_answer_has_an_entry(hub: Hub) -> None:
    hub.stop_service("gateway")
    hub.start_service("gateway", **{FAILPOINT_VARIABLE: "audit.before_status"})
    hub.wait_ready("gateway")
    with pytest.raises(httpx.HTTPError):
        call(hub, "POST", "/api/inbound-endpoints", {"provider": "github", "name": "made before the end"})
    eventually(lambda: hub.ended("gateway") == -signal.SIGKILL)
    hub.start_service("gateway")
    hub.wait_ready("gateway")
    assert "made before the end" in [
        item["name"] for item in hub.call("GET", "/api/inbound-endpoints")["items"]
    ]
    [entry, *_] = entries(hub)
    assert (entry["route"], entry["status"]) == ("/api/inbound-endpoints", None)


class OneKey:
    async def authenticate(self, _authorization: str) -> ApiKey:
        return ApiKey(ApiKeyId("key_1"), WorkspaceId("ws_1"), frozenset({"admin"}), None)


async def test_nothing_is_changed_while_the_log_cannot_be_written() -> None:
    done: list[str] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        done.append(scope["method"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    mongo = Mongo(MongoSettings(uri="mongodb://127.0.0.1:9/x", timeout_ms=100), app="test")
    audit = Audit(
        app,
        routes=[AuditedRoute("DELETE", "/api/x", re.compile("^/api/x$"), frozenset())],
        entries=AuditEntries(mongo, ttl=timedelta(days=1), per_workspace=100),
        keyring=cast("Keyring", OneKey()),
        service="gateway",
        log=structlog.get_logger(),
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "path": "/api/x",
        "query_string": b"",
        "headers": [],
        "client": None,
    }
    await audit({**scope, "method": "DELETE"}, receive, send)
    assert sent[0]["status"] == 503
    assert b"nothing was changed" in sent[1]["body"]
    assert done == []
    await audit({**scope, "method": "GET"}, receive, send)
    assert done == ["GET"]
    mongo.close()


# How much is stored


def entry(workspace: str, at: datetime) -> AuditEntry:
    return AuditEntry(
        id=new_audit_entry_id(),
        workspace=WorkspaceId(workspace),
        at=at,
        expires_at=at + timedelta(days=1),
        service="gateway",
        actor=AuditActor(key_id="key_1", key_name="x"),
        method="POST",
        route="/api/x",
        resources=(),
        fields=(),
        terms=(),
    )


async def test_rejected_calls_do_not_push_out_changes(store: Store) -> None:
    mongo = Mongo(MongoSettings(uri=store.uri()), app="test")
    repository = AuditEntries(mongo, ttl=timedelta(days=1), per_workspace=30)
    base = utcnow()
    for number in range(301):
        item = entry("insider", base + timedelta(seconds=number))
        await repository.insert(item)
        await repository.complete(item, 200 if number < 20 else 403, "")
    collection = mongo.collection(COLLECTION)
    statuses = [document["status"] for document in await collection.find().to_list(None)]
    assert (statuses.count(200), statuses.count(403)) == (20, 30 // 10 + 1), (
        "the last one came after the look"
    )
    mongo.close()


async def test_a_workspace_has_a_maximum_and_the_oldest_go_first(store: Store) -> None:
    mongo = Mongo(MongoSettings(uri=store.uri()), app="test")
    repository = AuditEntries(mongo, ttl=timedelta(days=1), per_workspace=20)
    base = utcnow()
    await repository.insert(entry("quiet", base))
    for number in range(201):
        await repository.insert(entry("flood", base + timedelta(seconds=number)))
    collection = mongo.collection(COLLECTION)
    left = [
        document["created_at"] for document in await collection.find({"workspace": "flood"}).to_list(None)
    ]
    assert sorted(left) == [base + timedelta(seconds=number) for number in range(181, 201)]
    assert await collection.count_documents({"workspace": "quiet"}) == 1
    mongo.close()


def test_entries_end_after_the_time_that_is_set(hub: Hub) -> None:
    with documents(hub) as stored:
        document = stored.find_one()
        assert document["expires_at"] - document["created_at"] == timedelta(days=365)
        assert stored_ttls(stored) == {("expires_at",): 0}
