"""Inbound endpoints over HTTP: what can be set on them, their executions, and senders described by hand."""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import monotonic, time
from typing import Any

import httpx
import jwt
import psutil
import pytest
from pymongo import MongoClient

from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.tap import Tap, TopicRecord

BODY = b'{"action":"opened","issue":{"number":1,"title":"gr\\u00fc\\u00df \\/ dich"}}'
AGAIN = json.dumps(json.loads(BODY), ensure_ascii=False, separators=(",", ":")).encode()
"""The same as BODY, written anew."""
BATCHES = {
    "verification": [{"scheme": "token", "from": "{header:x-api-key}"}],
    "batch": ["items[*]"],
    "delivery_id": "{item:id}",
}


hub = hub_with(services=("gateway",), workspace="endpoints")


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


@pytest.fixture(scope="module")
def tap(hub: Hub, bus: Bus) -> Tap:
    return Tap(bus, "webhooks.received")


def put(tap: Tap, event_id: str) -> TopicRecord:
    """The record of an event."""
    results: list[TopicRecord] = []

    def there() -> bool:
        results[:] = [record for record in tap.look() if record.attributes["ce_id"] == event_id]
        return bool(results)

    eventually(there)
    [execution] = results
    return execution


def make(hub: Hub, provider: str = "github", **fields: Any) -> dict[str, Any]:
    created: dict[str, Any] = hub.call(
        "POST", "/api/inbound-endpoints", {"provider": provider, "name": "x", **fields}, expect=201
    )
    return created


def post(hub: Hub, endpoint: dict[str, Any], body: bytes = BODY, **headers: str) -> httpx.Response:
    """As GitHub would send it."""
    values = signed(endpoint["secret"], "issues", body) | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    path = endpoint["url"].partition("/api/")[2]
    return httpx.post(f"{hub.url('gateway')}/api/{path}", content=body, headers=values, timeout=10)


def send(hub: Hub, endpoint: dict[str, Any], body: bytes = b"", **options: Any) -> httpx.Response:
    path = endpoint["url"].partition("/api/")[2]
    method = options.pop("method", "POST")
    url = f"{hub.url('gateway')}/api/{path}"
    return httpx.request(method, url, content=body, timeout=10, **options)


def executions(hub: Hub, endpoint: dict[str, Any], count: int = 1) -> list[dict[str, Any]]:
    """The newest first, once there are so many."""
    path = f"/api/inbound-endpoints/{endpoint['id']}/events"
    results: list[dict[str, Any]] = []

    def there() -> bool:
        results[:] = hub.call("GET", path)["items"]
        return len(results) >= count

    eventually(there)
    return results


def read(hub: Hub, endpoint: dict[str, Any]) -> dict[str, Any]:
    current: dict[str, Any] = hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}")
    return current


def refused(hub: Hub, body: dict[str, Any], *, path: str = "/api/inbound-endpoints") -> dict[str, str]:
    """The faults of a body that is not accepted."""
    answer = hub.call("POST", path, {"name": "x", **body}, expect=422)
    return {fault["field"]: fault["message"] for fault in answer["errors"]}


# Executions


def test_an_execution_shows_the_request_and_its_events(hub: Hub) -> None:
    endpoint = make(hub, channel_id="general")
    answer = post(hub, endpoint, x_github_delivery="d-1")
    assert answer.status_code == 202
    [execution] = executions(hub, endpoint)
    assert execution["outcome"] == "accepted"
    assert execution["verdict"] == "verified"
    assert execution["status"] == 202
    assert execution["types"] == ["issues"]
    assert execution["triggers"] == ["github_trigger_new_issue"]
    assert execution["event_ids"] == [answer.json()["event_id"]]
    assert execution["delivery_ids"] == ["d-1"]
    assert execution["bytes"] == len(BODY)
    assert 0 <= execution["duration_ms"] < 10_000
    assert execution["detail"] == ""
    assert hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}") == execution
    current = read(hub, endpoint)
    assert (current["trigger_count"], current["error_count"], current["status"]) == (1, 0, "active")
    assert current["last_triggered"]


@pytest.mark.parametrize(
    ("headers", "body", "verdict"),
    [
        ({"x_hub_signature_256": "sha256=" + "0" * 64}, BODY, "wrong_secret"),
        ({"x_hub_signature_256": ""}, BODY, "unreadable"),
        ({}, json.dumps(json.loads(BODY)).encode(), "body_changed"),
        (
            {},
            json.dumps(json.loads(BODY), ensure_ascii=False, separators=(",", ":")).encode(),
            "body_changed",
        ),
        ({}, BODY + b"\n", "body_changed"),
        ({}, BODY.replace(b"opened", b"closed"), "wrong_secret"),
    ],
)
def test_why_a_signature_was_refused(hub: Hub, headers: dict[str, str], body: bytes, verdict: str) -> None:
    """A body that a proxy rewrote is distinguished from one that somebody else signed."""
    endpoint = make(hub)
    values = signed(endpoint["secret"], "issues", BODY)
    values |= {name.replace("_", "-"): value for name, value in headers.items()}
    assert send(hub, endpoint, body, headers=values).status_code == 401
    [execution] = executions(hub, endpoint)
    assert execution["verdict"] == verdict
    assert execution["outcome"] == "signature"
    assert execution["events"] == 0
    current = hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}/payload")
    assert current["items"][0]["data"] == body.decode()
    assert endpoint["secret"] not in json.dumps([execution, current])


def test_a_body_that_is_too_deep_to_be_rewritten_stops_nothing(hub: Hub) -> None:
    endpoint = make(hub)
    deep = b'{"a":' + b"[" * 990 + b"]" * 990 + b"}"
    values = signed(endpoint["secret"], "issues", BODY)
    assert send(hub, endpoint, deep, headers=values).status_code == 401
    assert executions(hub, endpoint)[0]["verdict"] == "wrong_secret"
    assert post(hub, endpoint).status_code == 202
    assert executions(hub, endpoint, 2)[0]["verdict"] == "verified"


def test_missing_malformed_and_old(hub: Hub) -> None:
    endpoint = make(hub)
    assert send(hub, endpoint, BODY).status_code == 401
    bad = b"{no json"
    assert post(hub, endpoint, bad).status_code == 400
    rotate = f"/api/inbound-endpoints/{endpoint['id']}/rotate-secret"
    new = hub.call("POST", rotate, {"overlap_hours": 1})
    assert post(hub, endpoint, x_github_delivery="a").status_code == 202
    assert post(hub, new, x_github_delivery="b").status_code == 202
    newest = hub.call("POST", rotate, {"overlap_hours": 0})
    assert post(hub, endpoint).status_code == 401
    assert post(hub, newest, x_github_delivery="c").status_code == 202
    verdicts = [execution["verdict"] for execution in executions(hub, endpoint, 6)]
    assert verdicts[1] in ("old_secret", "wrong_secret")
    assert sorted(filter(None, [*verdicts[:1], *verdicts[2:]])) == ["missing", *["verified"] * 4]
    malformed = next(
        execution for execution in executions(hub, endpoint) if execution["outcome"] == "malformed"
    )
    assert malformed["verdict"] == "verified"
    assert "not JSON" in malformed["detail"]


def test_changes_at_the_same_time_lose_none_that_was_acknowledged(hub: Hub) -> None:
    """A secret that a rotation has answered verifies, and of the settings only the given ones change."""
    endpoint, other = make(hub), make(hub, "discord_interactions", secret="ab" * 32)
    rotate = f"{hub.url('gateway')}/api/inbound-endpoints/{endpoint['id']}/rotate-secret"
    path = f"{hub.url('gateway')}/api/inbound-endpoints/{other['id']}"
    settings = [{"reply": "Hello"}, {"answer": "deferred"}]
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    with ThreadPoolExecutor(6) as pool:
        rotations = [pool.submit(httpx.post, rotate, json={}, headers=headers, timeout=30) for _ in range(4)]
        patches = [
            pool.submit(httpx.patch, path, json={"settings": item}, headers=headers, timeout=30)
            for item in settings
        ]
        rotated, patched = ([call.result() for call in calls] for calls in (rotations, patches))
    assert {answer.status_code for answer in (*rotated, *patched)} <= {200, 409}
    given = [answer.json()["secret"] for answer in rotated if answer.status_code == 200]
    assert given
    for secret in given:
        assert post(hub, endpoint | {"secret": secret}, x_github_delivery=secret[-8:]).status_code == 202
    stored = read(hub, other)["settings"]
    for item, answer in zip(settings, patched, strict=True):
        assert answer.status_code == 409 or item.items() <= stored.items(), (item, stored)


def test_five_refused_in_a_row_are_an_error_until_one_is_accepted(hub: Hub) -> None:
    endpoint, bad = make(hub), b"{no json"
    for _ in range(5):
        assert post(hub, endpoint, bad).status_code == 400
    eventually(lambda: read(hub, endpoint)["status"] == "error")
    assert read(hub, endpoint)["error_count"] == 5
    post(hub, endpoint)
    eventually(lambda: read(hub, endpoint)["status"] == "active")
    hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/disable")
    assert read(hub, endpoint)["status"] == "inactive"
    assert post(hub, endpoint).status_code == 410
    hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/enable")
    assert post(hub, endpoint).status_code == 202


def test_a_list_in_every_order_and_by_status(hub: Hub) -> None:
    mark = token_hex(4)
    made = [make(hub, name=f"{name} {mark}") for name in ("Beta", "alpha", "Gamma")]
    ids = [endpoint["id"] for endpoint in made]
    beta, alpha, gamma = ids
    for endpoint, count in zip(made, (2, 1, 3), strict=True):
        for _ in range(count):
            assert post(hub, endpoint).status_code == 202
    for _ in range(5):
        assert post(hub, made[2], b"{no json").status_code == 400
    hub.call("POST", f"/api/inbound-endpoints/{alpha}/disable")
    eventually(lambda: read(hub, made[2])["error_count"] == 5)

    def listed(**query: str) -> list[str]:
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            params = httpx.QueryParams(query | cursor | {"limit": "2"})
            page = hub.call("GET", f"/api/inbound-endpoints?{params}")
            found += [item["id"] for item in page["items"] if item["id"] in ids]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    assert listed() == [gamma, alpha, beta]
    assert listed(order="oldest") == ids
    assert listed(order="name") == [alpha, beta, gamma]
    assert listed(order="most_webhooks") == [gamma, beta, alpha]
    assert listed(order="last_webhook") == [gamma, alpha, beta]
    assert listed(order="most_errors")[0] == gamma
    assert [listed(status=status) for status in ("inactive", "active", "error")] == [[alpha], [beta], [gamma]]
    assert listed(since=made[1]["created_at"], order="name") == [alpha, gamma]
    first = hub.call("GET", "/api/inbound-endpoints?limit=1")["next_cursor"]
    for order, cursor in (("name", first), ("newest", "e30="), ("newest", "WyJhIiwiYiJd")):
        hub.call("GET", f"/api/inbound-endpoints?order={order}&cursor={cursor}", expect=400)
    other = hub.other_workspace()
    eventually(lambda: hub.knows("gateway", other))
    assert hub.call("GET", "/api/inbound-endpoints?order=name", key=other)["items"] == []


def test_what_strangers_send_is_counted_and_changes_no_status(hub: Hub) -> None:
    endpoint = make(hub)
    for _ in range(6):
        assert send(hub, endpoint, BODY).status_code == 401
    eventually(lambda: read(hub, endpoint)["error_count"] == 6)
    assert read(hub, endpoint)["status"] == "active"


def test_a_payload_is_read_from_its_topic_and_replayed(hub: Hub, tap: Tap) -> None:
    endpoint = make(hub)
    event_id = post(hub, endpoint, x_github_delivery="d-7").json()["event_id"]
    assert post(hub, endpoint, x_github_delivery="d-7").json()["duplicate"] is True
    repeat, first = executions(hub, endpoint, 2)
    assert [repeat["outcome"], first["outcome"]] == ["duplicate", "accepted"]
    for execution in (repeat, first):
        path = f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}"
        [payload] = hub.call("GET", f"{path}/payload")["items"]
        assert payload["event_id"] == event_id
        assert payload["type"] == "github.issues"
        assert payload["data"] == BODY.decode()
    repeated = hub.call("POST", f"{path}/replay", expect=202)["accepted"]
    once_more = hub.call("POST", f"{path}/replay", expect=202)["accepted"]
    assert len({event_id, *repeated, *once_more}) == 3
    replayed = put(tap, repeated[0])
    assert replayed.value == BODY
    assert replayed.attributes["replay_of"] == event_id
    assert hub.call("GET", path)["replays"] == 2


def test_a_replay_has_all_events_or_none(hub: Hub, tap: Tap) -> None:
    """Those of a repeat are where several earlier requests published them."""
    endpoint = make(hub, "generic", secret="a token of ours", source=BATCHES)
    for numbers in (range(15), range(15, 30), range(30), range(28, 32), range(200, 301)):
        body = json.dumps({"items": [{"id": number} for number in numbers]}).encode()
        assert send(hub, endpoint, body, headers={"x-api-key": "a token of ours"}).status_code == 202
    large, mixed, repeat, second, _ = executions(hub, endpoint, 5)
    assert (repeat["outcome"], mixed["outcome"], large["events"]) == ("duplicate", "accepted", 101)
    events = f"/api/inbound-endpoints/{endpoint['id']}/events"
    for execution, count in ((repeat, 30), (mixed, 4)):
        ids = execution["event_ids"]
        replayed = hub.call("POST", f"{events}/{execution['id']}/replay", expect=202)["accepted"]
        assert len(ids) == len(replayed) == count
        put(tap, replayed[-1])
        originals = {record.attributes["ce_id"]: record.attributes.get("replay_of") for record in tap.look()}
        assert [originals[event_id] for event_id in replayed] == ids
        payloads = hub.call("GET", f"{events}/{execution['id']}/payload")["items"]
        assert [payload["event_id"] for payload in payloads] == ids[:20]
    problem = hub.call("POST", f"{events}/{large['id']}/replay", expect=409)
    assert "1 of the 101 events" in problem["detail"]
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        stored = mongo.get_default_database()["webhook_executions"]
        lost = {"places.0.1": 10**9, "places.1": []}  # as if Kafka had lost its data
        assert stored.update_one({"_id": second["id"]}, {"$set": lost}).modified_count == 1
    problem = hub.call("POST", f"{events}/{second['id']}/replay", expect=409)
    assert "2 of the 15 events" in problem["detail"]
    assert "1 no longer on Kafka" in problem["detail"]
    assert "1 published neither" in problem["detail"]
    assert len(hub.call("GET", f"{events}/{second['id']}/payload")["items"]) == 13
    assert hub.call("GET", f"{events}/{second['id']}")["replays"] == 0


def test_the_events_of_a_repeat_are_looked_for_among_the_earliest_only(hub: Hub) -> None:
    """A sender can repeat a request as often as it likes."""
    endpoint = make(hub)
    post(hub, endpoint, x_github_delivery="d-8")
    post(hub, endpoint, x_github_delivery="d-8")
    repeat, _ = executions(hub, endpoint, 2)
    path = f"/api/inbound-endpoints/{endpoint['id']}/events/{repeat['id']}/payload"
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        stored = mongo.get_default_database()["webhook_executions"]
        document = stored.find_one({"_id": repeat["id"]})
        assert document is not None
        for number, minutes in ((150, 1), (150, -1)):
            at = document["created_at"] + timedelta(minutes=minutes)
            stored.insert_many(
                [{**document, "_id": f"exe_{token_hex(8)}", "created_at": at} for _ in range(number)]
            )
            if minutes > 0:
                assert len(hub.call("GET", path)["items"]) == 1
            else:
                hub.call("GET", path, expect=409)


def test_payloads_of_a_workspace_are_read_two_at_a_time(hub: Hub) -> None:
    """Each read has connections and memory of its own."""
    endpoint = make(hub)
    post(hub, endpoint)
    [execution] = executions(hub, endpoint)
    path = f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}/payload"
    process = psutil.Process(hub.pid("gateway"))
    port = int(hub.env["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2])

    def connections() -> int:
        return sum(item.raddr[1:] == (port,) for item in process.net_connections("tcp"))

    before, max_seen = connections(), 0
    with ThreadPoolExecutor(30) as pool:
        reads = [pool.submit(hub.call, "GET", path) for _ in range(60)]
        while not all(read.done() for read in reads):
            max_seen = max(max_seen, connections())
    assert all(len(read.result()["items"]) == 1 for read in reads)
    assert before < max_seen <= before + 8


def test_what_is_no_event_has_nothing_to_replay(hub: Hub) -> None:
    endpoint = make(hub)
    send(hub, endpoint, BODY)
    [execution] = executions(hub, endpoint)
    path = f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}"
    hub.call("POST", f"{path}/replay", expect=409)
    hub.call("GET", f"{path}x", expect=404)
    other = make(hub)
    hub.call("GET", f"/api/inbound-endpoints/{other['id']}/events/{execution['id']}", expect=404)


def test_refused_requests_are_all_counted_and_some_stored(hub: Hub) -> None:
    endpoint = make(hub)
    started = monotonic()
    with httpx.Client(timeout=10) as client:
        url = hub.url("gateway") + "/api/" + endpoint["url"].partition("/api/")[2]
        for _ in range(100):
            client.post(url, content=b"x" * 5000)
    refilled = monotonic() - started  # one a second
    eventually(lambda: read(hub, endpoint)["error_count"] == 100)
    stored = hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}/events?limit=500")["items"]
    assert 50 <= len(stored) <= 65 + refilled
    path = f"/api/inbound-endpoints/{endpoint['id']}/events/{stored[0]['id']}/payload"
    [current] = hub.call("GET", path)["items"]
    assert len(current["data"]) < 5000
    assert current["truncated"] is True


# What can be set


def test_a_body_limit_of_its_own(hub: Hub) -> None:
    endpoint = make(hub, body_limit=2048)
    long = json.dumps({"x": "a" * 3000}).encode()
    assert post(hub, endpoint, long).status_code == 413
    packed = gzip.compress(long)
    assert len(packed) < 2048
    assert post(hub, endpoint, packed, content_encoding="gzip").status_code == 413
    hub.call("PATCH", f"/api/inbound-endpoints/{endpoint['id']}", {"body_limit": None})
    assert post(hub, endpoint, long).status_code == 202


def test_a_dedupe_window_of_its_own(hub: Hub) -> None:
    endpoint = make(hub, dedupe_window_s=0)
    answers = [post(hub, endpoint, x_github_delivery="same").json() for _ in range(2)]
    assert [answer.get("duplicate") for answer in answers] == [None, None]
    assert answers[0]["event_id"] == answers[1]["event_id"]


def test_only_the_events_that_are_asked_for_go_to_the_channel(hub: Hub, tap: Tap) -> None:
    endpoint = make(hub, channel_id="general", events=["push", "pull_request*"])
    for kind, current in (("push", True), ("pull_request_review", True), ("issues", False)):
        answer = post(hub, endpoint, x_github_event=kind)
        event = put(tap, answer.json()["event_id"])
        assert event.attributes.get("channel_id") == ("general" if current else None)
        assert event.attributes["endpoint_id"] == endpoint["id"]


def test_unsigned_requests_need_a_reason(hub: Hub) -> None:
    assert "unsigned_reason" in refused(hub, {"provider": "github", "require_signature": False})
    endpoint = make(hub)
    path = f"/api/inbound-endpoints/{endpoint['id']}"
    hub.call("PATCH", path, {"require_signature": False}, expect=422)
    why = "an old device that cannot sign"
    current = hub.call("PATCH", path, {"require_signature": False, "unsigned_reason": why})
    assert (current["require_signature"], current["unsigned_reason"]) == (False, why)
    headers = {"x-github-event": "issues"}
    assert send(hub, endpoint, BODY, headers=headers).status_code == 202
    wrong = headers | {"x-hub-signature-256": "sha256=" + "0" * 64}
    assert send(hub, endpoint, BODY, headers=wrong).status_code == 401  # a wrong one is never accepted
    assert {execution["verdict"] for execution in executions(hub, endpoint, 2)} == {
        "unsigned",
        "wrong_secret",
    }
    current = hub.call("PATCH", path, {"require_signature": True})
    assert (current["require_signature"], current["unsigned_reason"]) == (True, "")
    assert send(hub, endpoint, BODY, headers=headers).status_code == 401


def test_what_cannot_be_set(hub: Hub) -> None:
    assert "settings.nonsense" in refused(hub, {"provider": "github", "settings": {"nonsense": "x"}})
    assert "source" in refused(hub, {"provider": "github", "source": {"event": "x"}})
    assert "public_url" in refused(hub, {"provider": "github", "public_url": "https://a.example.com/path"})
    assert "events.0" in refused(hub, {"provider": "github", "events": ["no blanks"]})
    assert "provider" in refused(hub, {"provider": "nobody"})
    endpoint = make(hub)
    path = f"/api/inbound-endpoints/{endpoint['id']}"
    hub.call("PATCH", path, {"settings": {"nonsense": "x"}}, expect=422)
    hub.call("POST", f"{path}/handed-over-secret", expect=409)


def test_a_test_delivery_takes_the_whole_way(hub: Hub, tap: Tap) -> None:
    endpoint = make(hub, channel_id="general")
    path = f"/api/inbound-endpoints/{endpoint['id']}/test"
    for _ in range(2):  # never a repeat of itself
        content = hub.call("POST", path, {"event": "push"})
        assert content["status"] == 202
        event = put(tap, json.loads(content["answer"])["event_id"])
        assert event.attributes["ce_type"] == "github.push"
        assert event.attributes["test"] == "true"
        assert event.attributes["channel_id"] == "general"
    assert [execution["test"] for execution in executions(hub, endpoint, 2)] == [True, True]
    fault = hub.call("POST", path, {"event": "nothing.such"}, expect=422)
    assert fault["errors"][0]["field"] == "event"


def test_an_endpoint_from_a_template(hub: Hub) -> None:
    templates = {item["id"]: item for item in hub.call("GET", "/api/endpoint-templates")}
    template = templates["github-to-channel"]
    assert template["provider"] == "github"
    created = hub.call("POST", "/api/endpoint-templates/github-to-channel", {"channel_id": "dev"}, expect=201)
    assert created["secret"]
    assert (created["name"], created["channel_id"]) == (template["name"], "dev")
    assert created["events"] == template["events"]
    assert any(created["url"] in step for step in created["setup_steps"])
    assert post(hub, created).status_code == 202
    hub.call("POST", "/api/endpoint-templates/no-such", {"channel_id": "dev"}, expect=404)


# A sender described by hand


def test_a_generic_sender_as_it_is(hub: Hub, tap: Tap) -> None:
    endpoint = make(hub, "generic")
    body = '{"event":"build/finished now","text":"grün"}'.encode()
    digest = hmac.new(endpoint["secret"].encode(), body, hashlib.sha256).hexdigest()
    for value in (digest, f"sha256={digest}"):
        answer = send(hub, endpoint, body, headers={"x-webhook-signature": value})
        assert answer.status_code == 202, answer.text
        event = put(tap, answer.json()["event_id"])
        assert event.attributes["ce_type"] == "generic.build.finished_now"
        assert event.value == body
    assert send(hub, endpoint, body + b" ", headers={"x-webhook-signature": digest}).status_code == 401


SOURCES: dict[str, dict[str, Any]] = {
    "token in a header": {"verification": [{"scheme": "token", "from": "{header:x-api-key}"}]},
    "bearer": {"verification": [{"scheme": "token", "from": "{header:authorization}", "prefix": "Bearer "}]},
    "token in the query": {"verification": [{"scheme": "token", "from": "{query:token}"}]},
    "token in the body": {"verification": [{"scheme": "token", "from": "{json:token}"}]},
    "basic": {"verification": [{"scheme": "basic"}]},
    "base64 of SHA-512 over time and body": {
        "verification": [
            {
                "scheme": "hmac",
                "algorithm": "sha512",
                "signature": {"header": "x-sign", "encoding": "base64"},
                "signed": "{timestamp}.{body}",
                "timestamp": {"from": "{header:x-time}"},
            }
        ]
    },
}


def _sent(kind: str, secret: str) -> tuple[bytes, dict[str, Any]]:
    token = secret if kind == "token in the body" else "of no meaning"
    body = json.dumps({"type": "alarm.raised", "id": token_hex(4), "token": token}).encode()
    at = str(int(time()))
    by_kind: dict[str, dict[str, Any]] = {
        "token in a header": {"headers": {"x-api-key": secret}},
        "bearer": {"headers": {"authorization": f"Bearer {secret}"}},
        "token in the query": {"params": {"token": secret}},
        "token in the body": {},
        "basic": {"headers": {"authorization": "Basic " + base64.b64encode(secret.encode()).decode()}},
        "base64 of SHA-512 over time and body": {
            "headers": {
                "x-time": at,
                "x-sign": base64.b64encode(
                    hmac.new(secret.encode(), f"{at}.".encode() + body, "sha512").digest()
                ).decode(),
            }
        },
    }
    return body, by_kind[kind]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_sender_that_its_owner_describes(hub: Hub, kind: str) -> None:
    secret = f"user:{token_hex(16)}"
    endpoint = make(hub, "generic", secret=secret, source=SOURCES[kind])
    assert endpoint["source"] == SOURCES[kind]
    body, options = _sent(kind, secret)
    assert send(hub, endpoint, body, **options).status_code == 202
    body, options = _sent(kind, "user:another")
    assert send(hub, endpoint, body, **options).status_code == 401
    assert send(hub, endpoint, b'{"type":"alarm.raised"}').status_code == 401
    results = {execution["verdict"]: execution["types"] for execution in executions(hub, endpoint, 3)}
    assert results.keys() == {"missing", "wrong_secret", "verified"}
    assert results["verified"] == ["alarm.raised"]


def test_a_secret_in_the_body_goes_no_further(hub: Hub, tap: Tap) -> None:
    secret = f"user:{token_hex(16)}/\u00e4"
    endpoint = make(hub, "generic", secret=secret, source=SOURCES["token in the body"])
    body = json.dumps({"type": "alarm.raised", "token": secret}).encode()
    answer = send(hub, endpoint, body)
    assert answer.status_code == 202
    stored = put(tap, answer.json()["event_id"])
    assert stored.data == {"type": "alarm.raised", "token": "***"}
    broken = body[:-1]
    assert send(hub, endpoint, broken).status_code == 400
    for execution in executions(hub, endpoint, 2):
        path = f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}/payload"
        assert "user:" not in json.dumps(hub.call("GET", path))


def test_an_endpoint_whose_secret_does_not_open_asks_for_patience_until_it_has_a_new_one(hub: Hub) -> None:
    old, new = token_hex(16), token_hex(16)
    endpoint = make(hub, "generic", secret=old, source=SOURCES["token in a header"])
    assert send(hub, endpoint, b"{}", headers={"x-api-key": old}).status_code == 202
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        endpoints = mongo.get_default_database()["inbound_endpoints"]
        deleted = {"secrets.0.sealed.k": "00000000", "changed_at": datetime.now(UTC)}
        assert endpoints.update_one({"_id": endpoint["id"]}, {"$set": deleted}).modified_count == 1
    eventually(lambda: send(hub, endpoint, b"{}", headers={"x-api-key": old}).status_code == 503)
    path = f"/api/inbound-endpoints/{endpoint['id']}"
    assert hub.call("GET", path)["id"] == endpoint["id"]
    hub.call("POST", f"{path}/rotate-secret", {"secret": new})
    assert send(hub, endpoint, b"{}", headers={"x-api-key": new}).status_code == 202


def test_a_secret_of_somebody_else_is_not_stored_either(hub: Hub) -> None:
    """It came to the wrong URL: in the body as a token, or handed over to an endpoint that has one."""
    theirs = f"theirs-{token_hex(16)}"
    described = make(hub, "generic", secret=f"ours-{token_hex(16)}", source=SOURCES["token in the body"])
    assert send(hub, described, json.dumps({"type": "x", "token": theirs}).encode()).status_code == 401
    handed = make(hub, "notion", secret=f"ours-{token_hex(16)}")
    assert send(hub, handed, json.dumps({"verification_token": theirs}).encode()).status_code == 409
    for endpoint in (described, handed):
        [execution] = executions(hub, endpoint, 1)
        path = f"/api/inbound-endpoints/{endpoint['id']}/events/{execution['id']}/payload"
        assert '"***"' in json.dumps(hub.call("GET", path)).replace("\\", "")


def test_a_description_can_be_taken_away(hub: Hub) -> None:
    secret = token_hex(16)
    endpoint = make(hub, "generic", secret=secret, source=SOURCES["token in a header"])
    path = f"/api/inbound-endpoints/{endpoint['id']}"
    assert send(hub, endpoint, b"{}", headers={"x-api-key": secret}).status_code == 202
    assert hub.call("PATCH", path, {"source": None})["source"] is None
    assert send(hub, endpoint, b"{}", headers={"x-api-key": secret}).status_code == 401
    digest = hmac.new(secret.encode(), b"{}", hashlib.sha256).hexdigest()
    assert send(hub, endpoint, b"{}", headers={"x-webhook-signature": digest}).status_code == 202


def test_a_stale_time_is_refused_as_such(hub: Hub) -> None:
    kind = "base64 of SHA-512 over time and body"
    secret = token_hex(16)
    endpoint = make(hub, "generic", secret=secret, source=SOURCES[kind])
    for off in (-301, 302):
        at = str(int(time()) + off)
        sign = base64.b64encode(hmac.new(secret.encode(), f"{at}.{{}}".encode(), "sha512").digest()).decode()
        answer = send(hub, endpoint, b"{}", headers={"x-time": at, "x-sign": sign})
        assert answer.status_code == 401
        assert "too old" in answer.json()["detail"]
    assert [execution["verdict"] for execution in executions(hub, endpoint, 2)] == ["stale", "stale"]


def test_a_described_batch_and_handshake(hub: Hub, tap: Tap) -> None:
    source = {
        "verification": [{"scheme": "token", "from": "{header:x-api-key}"}],
        "batch": ["items[*]"],
        "event": "{item:kind}",
        "delivery_id": "{item:id}",
        "handshakes": [
            {
                "about": "The sender asks for its challenge back.",
                "when": {"method": "GET", "query:challenge": "present"},
                "answer": {"status": 200, "text": "{query:challenge}"},
            }
        ],
        "answers": [{"status": 200, "text": "ok"}],
    }
    endpoint = make(hub, "generic", secret="a token of ours", source=source)
    handshake_spec = send(hub, endpoint, method="GET", params={"challenge": "<b>c&1"})
    assert (handshake_spec.status_code, handshake_spec.text) == (200, "<b>c&1")
    assert handshake_spec.headers["content-type"].startswith("text/plain")
    assert handshake_spec.headers["x-content-type-options"] == "nosniff"
    assert send(hub, endpoint, method="GET").status_code == 405
    body = json.dumps({"of": "x", "items": [{"kind": "a", "id": 1}, {"kind": "b", "id": 2}]}).encode()
    answer = send(hub, endpoint, body, headers={"x-api-key": "a token of ours"})
    assert (answer.status_code, answer.text) == (200, "ok")
    received = executions(hub, endpoint, 3)[0]
    assert received["events"] == 2
    data = [put(tap, event_id).data for event_id in received["event_ids"]]
    assert data == [
        {"of": "x", "items": [{"kind": kind, "id": number}]} for kind, number in (("a", 1), ("b", 2))
    ]


def test_repeats_and_requests_without_events_use_up_the_rate_limit_too(hub: Hub) -> None:
    """They cost as much work: six requests with one new event need six tokens."""
    endpoint = make(hub, "generic", secret="a token of ours", source=BATCHES, rate_limit=6)

    def posted(*ids: int) -> tuple[int, bool]:
        body = json.dumps({"items": [{"id": number} for number in ids]}).encode()
        answer = send(hub, endpoint, body, headers={"x-api-key": "a token of ours"})
        assert answer.status_code == 202 or int(answer.headers["retry-after"]) >= 1
        return answer.status_code, answer.json().get("duplicate", False)

    assert posted(1) == (202, False)
    assert [posted(1), posted(1, 1), posted(1)] == [(202, True)] * 3
    assert [posted(), posted()] == [(202, False)] * 2
    assert [posted(1), posted(), posted(2)] == [(429, False)] * 3


SIGNED = {"signature": {"header": "x-sign"}}
INSECURE = {"url": "http://keys.example.com/key.pem", "hosts": ["keys.example.com"]}
TELLING = {"about": "x", "when": {"method": "GET"}, "answer": {"text": "{setting:secret}"}}


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"verification": []}, "source.verification"),
        ({"verification": [{"scheme": "none"}]}, "source.verification.0"),
        ({"verification": [{"scheme": "token", "from": "{env:HOME}"}]}, "source.verification.0.token.from"),
        ({"event": "{json:a"}, "source.event.from"),
        ({"batch": ["items"]}, "source.batch"),
        ({"nonsense": 1}, "source.nonsense"),
        ({"handled": {}}, "source.handled"),
        # What anybody could pass, and what could never work.
        ({"verification": [{"scheme": "token", "from": "{setting:secret}"}]}, "source.verification.0"),
        ({"verification": [{"scheme": "token", "from": "X-Token"}]}, "source.verification.0"),
        ({"verification": [{"scheme": "digest", **SIGNED, "signed": "{body}"}]}, "source.verification.0"),
        ({"verification": [{"scheme": "hmac", **SIGNED, "signed": "fixed"}]}, "source.verification.0"),
        ({"verification": [{"scheme": "jwt", "algorithms": ["RS256"]}]}, "source.verification.0"),
        ({"verification": [{"scheme": "rsa", **SIGNED, "keys": INSECURE}]}, "source.verification.0"),
        ({"handshakes": [{"about": "x", "when": {}, "answer": {}}]}, "source.handshakes"),
        ({"handshakes": [TELLING]}, "source.handshakes"),
    ],
)
def test_a_description_that_is_none(hub: Hub, source: dict[str, Any], field: str) -> None:
    faults = refused(hub, {"provider": "generic", "source": source})
    assert any(name.startswith(field) for name in faults), faults


def test_a_secret_fits_its_signature_scheme(hub: Hub) -> None:
    basic = {"verification": [{"scheme": "basic"}]}
    assert ":" in make(hub, "generic", source=basic)["secret"]
    assert "secret" in refused(hub, {"provider": "generic", "secret": "without a colon", "source": basic})
    public = {"verification": [{"scheme": "ed25519", **SIGNED, "key": {"form": "hex"}}]}
    waiting = make(hub, "generic", source=public)
    assert (waiting["secret"], waiting["awaits"]) == (None, "secret")
    assert "secret" in refused(hub, {"provider": "generic", "secret": "not a key at all", "source": public})
    for secret in ("a good secret\n", " a good secret", "        "):
        assert "secret" in refused(hub, {"provider": "github", "secret": secret})


def test_without_its_secret_an_endpoint_asks_for_patience(hub: Hub) -> None:
    """Platforms show the secret after the address was entered: what comes before is sent again."""
    public = {"verification": [{"scheme": "ed25519", **SIGNED, "key": {"form": "hex"}}]}
    endpoint = make(hub, "generic", source=public)
    answer = send(hub, endpoint, b"{}", headers={"x-sign": "00" * 64})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "60"
    [execution] = executions(hub, endpoint)
    assert (execution["outcome"], execution["status"]) == ("no_secret", 503)


def test_tokens_without_an_end(hub: Hub) -> None:
    """As Netlify signs: a token with its name and the digest of the body, and no time."""
    scheme = {
        "scheme": "jwt",
        "header": "x-webhook-signature",
        "prefix": "",
        "algorithms": ["HS256"],
        "issuer": ["netlify"],
        "body_hash": {"claim": "sha256"},
        "expires": False,
    }
    secret = token_hex(32)
    endpoint = make(hub, "generic", secret=secret, source={"verification": [scheme]})
    body = b'{"state":"ready"}'
    verdicts: list[str] = []
    claims = {"iss": "netlify", "sha256": hashlib.sha256(body).hexdigest()}
    for changed, status, verdict in (
        ({}, 202, "verified"),
        ({"iss": "other"}, 401, "claims"),
        ({"sha256": "00" * 32}, 401, "body_changed"),
    ):
        token = jwt.encode({**claims, **changed}, secret)
        answer = send(hub, endpoint, body, headers={"x-webhook-signature": token})
        assert answer.status_code == status, answer.text
        verdicts.append(verdict)
    eventually(
        lambda: [execution["verdict"] for execution in reversed(executions(hub, endpoint, 3))] == verdicts, 10
    )
