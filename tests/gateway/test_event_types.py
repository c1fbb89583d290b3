"""The catalogue of event types over HTTP: what is in it, types of one's own, and the check at publish."""

import asyncio
import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from secrets import token_hex
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from interlink.embedded import EmbeddedPair
from services.gateway.api.event_type_records import event_type_id
from services.gateway.api.event_type_registry import FixedEventTypes, SchemaChecks
from services.gateway.api.publish_events import PublishEventsApi
from shared.contracts.errors import OverLimit
from shared.contracts.event_types import EVENT_TYPES, is_published_by_hub
from shared.contracts.ids import ApiKeyId, WorkspaceId
from shared.manifests.registry import registry
from shared.runtime.kafka.producer import Record
from shared.runtime.web.access import ApiKey
from shared.wire.json_schema import BoundedSchema
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process
from tests.support.tap import Tap

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ORDER = {
    "type": "object",
    "required": ["number", "lines"],
    "properties": {
        "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}},
}
GOOD = {"number": "AB-1", "lines": [{"count": 2}]}


hub = hub_with(services=("gateway",), workspace="types")


@pytest.fixture(scope="module")
def client(hub: Hub) -> Iterator[httpx.Client]:
    with hub.client("gateway") as client:
        yield client


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


@pytest.fixture
def name() -> str:
    """A type that nobody has."""
    return f"order.t{token_hex(4)}"


def _faults(answer: httpx.Response, status: int = 422) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["field"].removeprefix("0."): error["message"] for error in answer.json().get("errors", [])}


def _publish(client: httpx.Client, kind: str, data: Any) -> httpx.Response:
    event = {"specversion": "1.0", "id": token_hex(8), "type": kind, "source": "/test", "data": data}
    return client.post("/api/events", json=event)


def _all(client: httpx.Client, limit: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = client.get(
            "/api/event-types", params={"limit": limit, **({"cursor": cursor} if cursor else {})}
        )
        assert page.status_code == 200, page.text
        assert len(page.json()["items"]) <= limit
        items += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return items


# The catalogue


def test_the_catalogue_has_every_type_once(client: httpx.Client) -> None:
    own = [f"zz.{token_hex(4)}" for _ in range(3)]
    for entry in own:
        assert client.post("/api/event-types", json={"name": entry, "about": "x"}).status_code == 201
    provided = {name for provider in registry().providers.values() for name in provider.trigger_types}
    for limit in (7, 500):
        items = _all(client, limit)
        names = [item["name"] for item in items]
        assert len(names) == len(set(names))
        by_source = {
            source: [item["name"] for item in items if item["source"] == source]
            for source in ("built-in", "provider", "workspace")
        }
        assert by_source["built-in"] == sorted(EVENT_TYPES)
        assert by_source["provider"] == sorted(provided)
        assert set(own) <= set(by_source["workspace"])
        assert by_source["workspace"] == sorted(by_source["workspace"])
        assert names == [*by_source["built-in"], *by_source["provider"], *by_source["workspace"]]
        assert all(item["about"] for item in items)


@pytest.mark.parametrize("cursor", ["x", "AAAA", "bnVsbA==", "WzEsMiwzXQ=="])
def test_a_cursor_that_is_none(client: httpx.Client, cursor: str) -> None:
    assert client.get("/api/event-types", params={"cursor": cursor}).status_code == 400


def test_a_built_in_type_by_each_of_its_names(client: httpx.Client) -> None:
    current = client.get("/api/event-types/message.created").json()
    assert current["aliases"] == ["message_created"]
    assert current["source"] == "built-in"
    assert len(current["schema"]["anyOf"]) == 4
    assert current["example"] == EVENT_TYPES["message.created"].example
    assert client.get("/api/event-types/message_created").json() == current
    assert client.get("/api/event-types/no.such").status_code == 404


def test_a_providers_type_has_what_all_of_them_have(client: httpx.Client) -> None:
    current = client.get("/api/event-types/github.push").json()
    assert current["source"] == "provider"
    assert current["triggers"] == ["github_trigger_new_commit"]
    assert current["schema"]["required"] == ["provider", "endpoint_id", "event", "delivery_id", "payload"]
    checked = BoundedSchema(json.dumps(current["schema"]).encode())
    assert checked.first_error(current["example"], 1) is None
    assert current["example"]["triggers"] == current["triggers"]


@pytest.mark.parametrize(
    "taken", ["message.created", "message_created", "github.push", "github.new", "incoming.x"]
)
def test_what_is_there_cannot_be_taken_or_changed(client: httpx.Client, taken: str) -> None:
    assert "name" in _faults(client.post("/api/event-types", json={"name": taken, "about": "x"}))
    assert client.patch(f"/api/event-types/{taken}", json={"about": "x"}).status_code == 404
    assert client.delete(f"/api/event-types/{taken}").status_code == 404


# Types of one's own


def test_an_own_types_life(client: httpx.Client, name: str) -> None:
    expected = {"name": name, "about": "An order was placed.", "schema": ORDER, "example": GOOD}
    created = client.post("/api/event-types", json=expected)
    assert created.status_code == 201
    registered = created.json()
    assert {field: registered[field] for field in expected} == expected
    assert (registered["source"], registered["aliases"]) == ("workspace", [])
    assert TIME.fullmatch(registered["created_at"])
    path = f"/api/event-types/{name}"
    assert client.get(path).json() == registered
    _faults(client.post("/api/event-types", json=expected), 409)

    changed = client.patch(path, json={"about": "An order."}).json()
    assert changed == {**registered, "about": "An order.", "updated_at": changed["updated_at"]}
    without = client.patch(path, json={"schema": None, "example": None}).json()
    assert (without["about"], without["schema"], without["example"]) == ("An order.", None, None)

    assert client.delete(path).status_code == 204
    for answer in (client.get(path), client.delete(path), client.patch(path, json={})):
        assert answer.status_code == 404
    assert name not in [item["name"] for item in _all(client, 500)]
    repeat = client.post("/api/event-types", json={"name": name, "about": "Anew."})
    assert repeat.status_code == 201
    assert client.get(path).json() == repeat.json()
    assert repeat.json()["schema"] is None


def test_another_workspace_has_types_of_its_own(hub: Hub, client: httpx.Client, name: str) -> None:
    client.post("/api/event-types", json={"name": name, "about": "Ours.", "schema": ORDER})
    key = hub.other_workspace()
    with hub.client("gateway", key) as theirs:
        assert eventually(lambda: theirs.get("/api/event-types").status_code == 200)
        assert theirs.get(f"/api/event-types/{name}").status_code == 404
        assert _publish(theirs, name, {"anything": 1}).status_code == 202
        assert theirs.post("/api/event-types", json={"name": name, "about": "Theirs."}).status_code == 201
    assert client.get(f"/api/event-types/{name}").json()["about"] == "Ours."


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "Order.Placed"}, "name"),
    ({"name": "order..placed"}, "name"),
    ({"name": "order.*"}, "name"),
    ({"name": "x" * 201}, "name"),
    ({"about": ""}, "about"),
    ({"about": "x" * 2001}, "about"),
    ({"schema": []}, "schema"),
    ({"schema": {"type": "strin"}}, "schema"),
    ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "schema"),
    ({"schema": {"enum": ["x" * 70_000]}}, "schema"),
    ({"schema": {"$ref": "#"}}, "schema"),
    ({"schema": {"pattern": r"(a)\1"}}, "schema"),
    ({"example": "x" * 70_000}, "example"),
    ({"schema": ORDER, "example": {"number": "AB-1"}}, "example.lines"),
    ({"schema": ORDER, "example": {"number": "AB-1", "lines": [{"count": 0}]}}, "example.lines.0.count"),
    ({"schema": ORDER, "example": 1}, "example"),
    ({"source": "built-in"}, "source"),
]


@pytest.mark.parametrize(("change", "field"), WRONG, ids=[str(change)[:50] for change, _ in WRONG])
def test_a_type_that_is_not_acceptable(
    client: httpx.Client, name: str, change: dict[str, Any], field: str
) -> None:
    answer = client.post("/api/event-types", json={"name": name, "about": "x", **change})
    assert field in _faults(answer)
    if not {"name", "source"} & change.keys():
        client.post("/api/event-types", json={"name": name, "about": "x"})
        assert field in _faults(client.patch(f"/api/event-types/{name}", json=change))


def test_an_example_must_fit_the_schema_that_it_meets(client: httpx.Client, name: str) -> None:
    path = f"/api/event-types/{name}"
    client.post("/api/event-types", json={"name": name, "about": "x", "example": {"number": 1}})
    assert "example.lines" in _faults(client.patch(path, json={"schema": ORDER}))
    assert client.patch(path, json={"schema": ORDER, "example": GOOD}).status_code == 200
    assert "example.number" in _faults(client.patch(path, json={"example": {**GOOD, "number": "ab"}}))


@pytest.mark.parametrize("depth", [60, 200, 900, 50_000])
def test_what_is_nested_deep(client: httpx.Client, depth: int) -> None:
    """Taken and shown again, or refused; never an error of ours."""
    for field, opened, closed in (("example", "[", "]"), ("schema", '{"not":', "}")):
        name = f"deep.t{token_hex(4)}"
        inner = "1" if field == "example" else "{}"
        deep = opened * depth + inner + closed * depth
        body = f'{{"name":"{name}","about":"x","{field}":{deep}}}'
        answer = client.post("/api/event-types", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in ((201,) if depth == 60 else (201, 400, 422)), answer.text
        if answer.status_code == 201:
            assert client.get(f"/api/event-types/{name}").json() == answer.json()


@pytest.mark.parametrize(
    "raw", ['"\\ud800"', "NaN", "Infinity", "1e999", "123456789012345678901234567890", '{"$a.b": {"": 1}}']
)
def test_values_that_json_can_just_say(client: httpx.Client, name: str, raw: str) -> None:
    body = f'{{"name":"{name}","about":"x","example":{raw},"schema":{{"const":{raw}}}}}'.encode()
    answer = client.post("/api/event-types", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (201, 400, 422), answer.text
    if answer.status_code == 201:
        assert client.get(f"/api/event-types/{name}").json() == answer.json()


def test_a_schema_fetches_nothing(client: httpx.Client, name: str) -> None:
    asked: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/schema.json"
    try:
        assert httpx.get(url).status_code == 200
        for schema in (
            {"$ref": url},
            {"$id": url, "$ref": "other.json"},
            {"properties": {"a": {"$ref": url + "#/$defs/x"}}},
            {"$schema": url},
            {"$dynamicRef": url},
            {"$ref": "file:///etc/hostname"},
        ):
            answer = client.post("/api/event-types", json={"name": name, "about": "x", "schema": schema})
            assert "schema" in _faults(answer), schema
        assert asked == ["/schema.json"]
    finally:
        server.shutdown()
        server.server_close()


def test_other_gateways_know_within_seconds(
    hub: Hub,
    client: httpx.Client,
    bus: Bus,
    store: Store,
    pair: EmbeddedPair,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
) -> None:
    """Also while the database takes longer than the gateway waits before it receives webhooks without it."""
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    with (
        second_process("gateway", hub, tmp_path_factory.mktemp("second"), bus, store) as second,
        httpx.Client(base_url=second.url("gateway"), headers=headers, timeout=30) as other,
    ):
        assert _publish(other, name, {}).status_code == 202
        client.post("/api/event-types", json={"name": name, "about": "x", "schema": ORDER})
        assert _publish(other, name, {}).status_code == 422
        assert _publish(other, name, GOOD).status_code == 202
        client.delete(f"/api/event-types/{name}")
        assert _publish(other, name, {}).status_code == 202
        client.post("/api/event-types", json={"name": name, "about": "x", "schema": ORDER})
        database = pair.database.child.pid
        if store.base_uri == pair.mongodb_uri and database:  # a real one is not stopped
            os.kill(database, signal.SIGSTOP)
            threading.Timer(2, os.kill, (database, signal.SIGCONT)).start()
        assert _publish(other, name, {}).status_code == 422


# The check at publish


@pytest.mark.parametrize(
    "kind",
    sorted(
        name for name in EVENT_TYPES if not name.startswith("incoming.") and not is_published_by_hub(name)
    ),
)
def test_every_example_can_be_published(client: httpx.Client, kind: str) -> None:
    answer = _publish(client, kind, EVENT_TYPES[kind].example)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    "kind", ["inbound.message.created", "inbound.made.up", "chat.signal", "history.messages"]
)
def test_what_only_the_hub_publishes_is_refused(client: httpx.Client, kind: str) -> None:
    """A chat that repeats what an outgoing webhook brought it makes no loop."""
    example = EVENT_TYPES["inbound.message.created"].example
    assert "by the hub only" in _faults(_publish(client, kind, example))["type"]
    assert "name" in _faults(client.post("/api/event-types", json={"name": kind, "about": "x"}))


def test_a_message_has_the_format_of_its_provider(client: httpx.Client) -> None:
    message = EVENT_TYPES["message.created"].example
    for wrong in (None, {}, {"text": "hi"}, [message], {**message, "author": None}):
        faults = _faults(_publish(client, "message.created", wrong))
        [(field, payload)] = faults.items()
        assert field.split(".")[0] == "data"
        assert payload.startswith("message.created: ")
        assert payload.endswith("is the closest")


def test_an_alias_is_published_as_its_type(client: httpx.Client, bus: Bus) -> None:
    tap = Tap(bus, "chat.events")
    chatwoot = {
        "id": 42,
        "content": None,
        "message_type": "incoming",
        "conversation": {"id": 12, "status": "open"},
        "sender": {"id": 7, "name": "Bo", "type": "contact"},
        "account": {"id": 1, "name": "Support"},
        "inbox": {"id": 3, "name": "Website"},
        "event": "message_created",
    }
    accepted = _publish(client, "message_created", chatwoot).json()["accepted"]
    [stored] = [stored for stored in tap.look() if stored.attributes["ce_id"] in accepted]
    assert stored.attributes["ce_type"] == "message.created"
    assert stored.data == chatwoot
    assert "data.id" in _faults(_publish(client, "contact_created", {"name": "Bo"}))


def test_an_own_types_events_are_checked(client: httpx.Client, name: str) -> None:
    assert _publish(client, name, {"free": True}).status_code == 202
    client.post("/api/event-types", json={"name": name, "about": "x", "schema": ORDER})
    assert _publish(client, name, GOOD).status_code == 202
    wrong: list[tuple[Any, str]] = [
        ({}, "data.number"),
        ({"number": "AB-1"}, "data.lines"),
        ({**GOOD, "number": "s3cret"}, "data.number"),
        ({**GOOD, "lines": [{"count": 1}, {"count": "s3cret"}]}, "data.lines.1.count"),
        ("s3cret", "data"),
    ]
    for data, field in wrong:
        answer = _publish(client, name, data)
        faults = _faults(answer)
        assert list(faults) == [field]
        assert name in faults[field]
        assert "s3cret" not in answer.text


def test_every_wrong_event_of_a_batch_is_named(client: httpx.Client, bus: Bus) -> None:
    tap = Tap(bus, "chat.events")
    head = {"specversion": "1.0", "type": "contact.created", "source": "/test"}
    batch = [
        {**head, "id": token_hex(8), "data": {"id": 1} if position % 2 else {}} for position in range(200)
    ]
    faults = _faults(client.post("/api/events", json=batch))
    assert list(faults) == ["data.id", *(f"{position}.data.id" for position in range(2, 100, 2))]
    assert not {stored.attributes["ce_id"] for stored in tap.look()} & {event["id"] for event in batch}


def test_a_check_cannot_hold_the_gateway_up(client: httpx.Client, name: str) -> None:
    """A pattern with many states is not tried on megabytes, nor again and again for one request."""
    schema = {"pattern": "^[abc]*a[abc]{800}[de]"}
    registered = client.post("/api/event-types", json={"name": name, "about": "x", "schema": schema})
    assert registered.status_code == 201
    text = "".join(random.Random(1).choices("abc", k=20_000))  # noqa: S311 -- no secret
    assert "too large" in _faults(_publish(client, name, text * 2))["data"]
    batch = [
        {"specversion": "1.0", "id": token_hex(8), "type": name, "source": "/t", "data": text}
        for _ in range(60)
    ]
    answer = client.post("/api/events", json=batch)
    faults = list(_faults(answer).values())
    assert "does not fit" in faults[0]
    assert "takes too long" in faults[-1]
    assert answer.elapsed.total_seconds() < 10
    # Numbers are compared with any precision: each of these comparisons takes 40 microseconds.
    digits = {"items": {"allOf": [{"multipleOf": 5e-324}] * 1600}}
    assert client.patch(f"/api/event-types/{name}", json={"schema": digits}).status_code == 200
    assert "too large" in _faults(_publish(client, name, [1e308] * 100))["data"]
    example = client.patch(f"/api/event-types/{name}", json={"example": [1e308] * 100})
    assert "too large" in _faults(example)["example"]


class _Publishing:
    """The route that publishes events, with a schema in the workspace `one`; the workspace is the API key."""

    def __init__(self) -> None:
        schema = BoundedSchema(json.dumps({"items": {"allOf": [{"minimum": 0}] * 1600}}).encode())
        self.published: list[str] = []
        own = {event_type_id("one", "order.made"): schema}
        parts: dict[str, Any] = {
            "types": SimpleNamespace(checks=lambda workspace: SchemaChecks(own, workspace)),
            "fixed": FixedEventTypes({}),
            "keyring": SimpleNamespace(authenticate=self._authenticate),
            "quotas": SimpleNamespace(check=lambda _: None, counted=lambda _, __: nullcontext()),
            "producer": SimpleNamespace(publish_all=self._publish_all),
        }
        self._api = PublishEventsApi(**parts)

    async def _authenticate(self, presented: str) -> ApiKey:
        return ApiKey(ApiKeyId("key_1"), WorkspaceId(presented), frozenset({"events:write"}), None)

    async def _publish_all(self, records: list[Record], *, timeout_s: float) -> None:  # noqa: ARG002
        self.published.append(records[0].key.decode())

    async def post(self, workspace: str, source: str, data: Any, count: int = 1) -> None:
        event = {"specversion": "1.0", "id": "1", "type": "order.made", "source": source, "data": data}
        body = json.dumps([event] * count).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        headers = [(b"authorization", workspace.encode())]
        await self._api.handle({"type": "http", "query_string": b"", "headers": headers}, receive)


async def test_only_the_own_workspace_waits_for_expensive_checks() -> None:
    """Its requests are checked one after another; up to a hundred at a time, so that few wait in memory."""
    publishing = _Publishing()
    calls = [publishing.post("one", "/expensive", [1] * 3000, count=3)]
    calls += [publishing.post("one", "/own", []) for _ in range(99)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    with pytest.raises(OverLimit):
        await publishing.post("one", "/own", [])
    await publishing.post("other", "/other", [])
    await asyncio.gather(*tasks)
    assert publishing.published == ["/other", "/expensive", *["/own"] * 99]


def test_most_types(client: httpx.Client, hub: Hub) -> None:
    """The 201st is refused, in a workspace of its own."""
    key = hub.other_workspace()
    with hub.client("gateway", key) as theirs:
        assert eventually(lambda: theirs.get("/api/event-types").status_code == 200)

        def make(number: int) -> httpx.Response:
            return theirs.post("/api/event-types", json={"name": f"t{number}", "about": "x"})

        assert {make(number).status_code for number in range(200)} == {201}
        _faults(make(200), 409)
        assert theirs.delete("/api/event-types/t0").status_code == 204
        assert make(200).status_code == 201
        assert len([item for item in _all(theirs, 500) if item["source"] == "workspace"]) == 200


def test_the_document_names_them(hub: Hub) -> None:
    document = httpx.get(f"{hub.url('gateway')}/openapi/gateway.json").json()
    for shape in ("EventTypeCreate", "EventTypeUpdate", "EventTypeOut"):
        properties = document["components"]["schemas"][shape]["properties"]
        assert "schema" in properties
        assert "schema_" not in properties
    assert json.dumps(document)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"messageId": "m", "channelId": "c", "content": "x"}, "data.author"),
        ({"id": 7, "message_type": "incoming"}, "data.conversation"),
        ({"message": {"content": "x"}}, "data.message.id"),
        ({"messageId": "m", "channelId": "c", "content": "x" * 20_000}, "data.author"),
    ],
)
def test_a_body_that_fits_no_form_gets_what_the_closest_one_misses(
    client: httpx.Client, data: dict[str, Any], field: str
) -> None:
    answers = [_publish(client, "message.created", data) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422] * 3
    faults = [_faults(answer) for answer in answers]
    assert faults[0] == faults[1] == faults[2]
    assert list(faults[0]) == [field]
    assert "is required: it fits none of 4 forms" in faults[0][field]
