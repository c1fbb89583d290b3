"""`POST /api/messages/preview`: what a webhook would become, through the entrance, without publishing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest

from shared.manifests.fixtures import Fixture, read_fixtures
from shared.manifests.registry import provider_folders, registry
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.tap import Tap

PATH = "/api/messages/preview"
_MAX_OF_PROVIDER = 5


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    services, workspace = ("gateway", "sync"), f"preview-{token_hex(4)}"
    started = Hub(folder, bus, store, services=services, workspace=workspace, entrance=True)
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture(scope="module")
def client(hub: Hub) -> Iterator[httpx.Client]:
    with hub.client("gateway") as client:
        yield client


def preview(client: httpx.Client, expect: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json=body)
    assert answer.status_code == expect, answer.text
    return dict(answer.json())


def test_the_preview_is_the_message_that_is_published(hub: Hub, bus: Bus, client: httpx.Client) -> None:
    """All but the ids and the time, which the real event has."""
    quiet = registry().providers["github"].quiet
    events = ((case, case.expected["events"][0]) for case in _cases("github"))
    case = next(case for case, event in events if event.get("message") and event["event"] not in quiet)
    tap = Tap(bus, "chat.inbound")
    endpoint = hub.github_endpoint(channel_id="general")
    headers = signed(endpoint["secret"], case.headers["x-github-event"], case.body)
    answer = httpx.post(
        f"{hub.url('gateway')}/api/webhooks/github/{endpoint['id']}", content=case.body, headers=headers
    )
    assert answer.status_code == 202, answer.text
    [record] = eventually(tap.look)
    [shown] = preview(client, provider="github", body=case.body.decode(), headers=dict(case.headers))[
        "events"
    ]
    assert shown["outcome"] == "relayed"
    published, message = record.data, shown["message"]
    for of_the_event in ("message_id", "channel_id", "sent_at", "created_at"):
        assert published.pop(of_the_event) != message.pop(of_the_event)
    assert published["author"].pop("id") != message["author"].pop("id")  # derived from the endpoint, too
    for of_the_event in ("endpoint_id", "delivery_id"):
        published["origin"].pop(of_the_event)
        message["origin"].pop(of_the_event)
    assert message == published


def test_recorded_webhooks_of_every_provider_have_the_recorded_messages(client: httpx.Client) -> None:
    """Some of each: `tests/providers` has the messages of all of them, without the service."""
    cases = [
        (provider.id, case)
        for provider in registry().providers.values()
        for case in islice(filter(_is_plain, _cases(provider.id)), _MAX_OF_PROVIDER)
    ]
    assert len({provider_id for provider_id, _ in cases}) > 50
    assert len(cases) > 200
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda item: _has_the_recorded_messages(client, *item), cases):
            pass


def _is_plain(case: Fixture) -> bool:
    """Return whether a call of the preview can have all of a recorded webhook."""
    try:
        case.body.decode()
    except UnicodeDecodeError:
        return False
    return case.method == "POST" and not case.query and not case.settings


def _has_the_recorded_messages(client: httpx.Client, provider_id: str, case: Fixture) -> None:
    answer = client.post(
        PATH,
        json={
            "provider": provider_id,
            "body": case.body.decode(),
            "headers": {name: value for name, value in case.headers.items() if name != "content-type"},
            "content_type": case.headers.get("content-type", "application/json"),
        },
    )
    shown = answer.json()
    where = (provider_id, case.name, shown)
    assert answer.status_code == 200, where
    expected = case.expected["events"]
    assert [event["event"] for event in shown["events"]] == [event["event"] for event in expected[:10]], where
    assert shown["left_out"] == max(0, len(expected) - 10), where
    for event, recorded in zip(shown["events"], expected, strict=False):
        message = recorded.get("message")
        assert (event["message"] or {}).get("text") == (message["text"] if message else None), where
        assert (event["outcome"] == "relayed") is bool(message), where
        assert (event["reason"] is None) is bool(message), where


def test_a_named_event_needs_no_headers(client: httpx.Client) -> None:
    payload = {"zen": "Keep it simple.", "repository": {"full_name": "acme/api"}, "sender": {"login": "ada"}}
    [shown] = preview(client, provider="github", event="ping", payload=payload)["events"]
    assert shown["event"] == "ping"
    assert shown["outcome"] in ("relayed", "ignored")
    [shown] = preview(client, provider="github", event="never.heard", payload={})["events"]
    assert (shown["outcome"], shown["message"]) == ("unknown", None)
    assert "does not name" in shown["reason"]
    ignored = next(iter(registry().providers["github"].ignored))
    [shown] = preview(client, provider="github", event=ignored, payload={})["events"]
    assert (shown["outcome"], shown["message"]) == ("ignored", None)


def test_a_payload_that_the_manifest_has_no_message_for(client: httpx.Client) -> None:
    [item] = preview(client, provider="github", event="workflow_run", payload={"action": "requested"})[
        "events"
    ]
    assert item["outcome"] == "ignored"
    assert "not with this payload" in item["reason"]


def test_a_message_to_an_incoming_webhook(client: httpx.Client) -> None:
    [shown] = preview(client, provider="incoming", payload={"text": "*hello* <!here>"})["events"]
    assert shown["outcome"] == "relayed"
    assert "hello" in shown["message"]["text"]
    assert shown["message"]["author"]["name"] == "Incoming webhook"
    [shown] = preview(client, provider="incoming", payload={"text": ""})["events"]
    assert (shown["outcome"], shown["message"]) == ("dead_letter", None)
    assert "text" in shown["reason"]


def test_a_handshake_is_no_event(client: httpx.Client) -> None:
    shown = preview(client, provider="slack", payload={"type": "url_verification", "challenge": "x"})
    assert shown["events"] == []
    assert "checks the address" in shown["reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"provider": "nobody", "payload": {}}, 422),
        ({"provider": "github"}, 422),
        ({"provider": "github", "event": "push"}, 422),
        ({"provider": "github", "payload": {}, "body": "{}"}, 422),
        ({"provider": "github", "payload": {}, "content_type": "text/plain"}, 422),
        ({"provider": "github", "payload": {}, "event": "no such\nevent"}, 422),
        ({"provider": "github", "payload": {}, "other": 1}, 422),
        ({"provider": "github", "payload": {}}, 400),
        ({"provider": "github", "body": "no json", "headers": {"X-GitHub-Event": "push"}}, 400),
        ({"provider": "github", "payload": [], "headers": {"X-GitHub-Event": "push"}}, 400),
        ({"provider": "github", "payload": {}, "headers": {str(number): "x" for number in range(51)}}, 422),
        ({"provider": "github", "payload": {}, "headers": {"x": "y" * 4001}}, 422),
    ],
)
def test_what_is_not_acceptable(client: httpx.Client, body: dict[str, Any], status: int) -> None:
    answer = client.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"provider":"github","event":"push","payload":"\\ud800"}',
        b'{"provider":"github","event":"push","payload":{"\\ud800":1}}',
        b'{"provider":"github","event":"push","body":"\\ud800"}',
        b'{"provider":"github","event":"push","body":"{\\"ref\\":\\"\\\\ud800\\"}"}',
        b'{"provider":"github","event":"push","payload":NaN}',
        b'{"provider":"github","event":"push","payload":' + b"9" * 4000 + b"}",
        b'{"provider":"github","event":"push","payload":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"provider":"github","event":"push","payload":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b'{"provider":"\\ud800","payload":{}}',
        b'{"provider":"github","payload":{},"headers":{"\\ud800":"\\ud800"}}',
        b'{"provider":"github","event":"push","payload":null}',
        b'{"provider":"incoming","body":"payload=%7B","content_type":"application/x-www-form-urlencoded"}',
        b'{"provider":"incoming","payload":{"blocks":' + json.dumps([{}] * 60).encode() + b"}}",
    ],
)
def test_hostile_values_are_no_error_of_ours(hub: Hub, client: httpx.Client, raw: bytes) -> None:
    with hub.unbroken("sync"):
        answer = client.post(PATH, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code == 200:
            assert {event["outcome"] for event in answer.json()["events"]} <= {"dead_letter", "relayed"}


def test_a_batch_shows_its_first_events(client: httpx.Client) -> None:
    payload = {
        "events": [
            {"action": "changed", "resource": {"gid": str(n), "resource_type": "task"}} for n in range(300)
        ]
    }
    shown = preview(client, provider="asana", payload=payload)
    assert len(shown["events"]) == 10
    assert shown["left_out"] == 290


def test_nothing_is_published_and_a_body_has_a_limit(hub: Hub, bus: Bus, client: httpx.Client) -> None:
    taps = [Tap(bus, name) for name in ("chat.inbound", "webhooks.received", "dead.letters")]
    relayed = hub.metric("sync", "interlink_relayed_total")
    preview(client, provider="incoming", payload={"text": "hello"})
    preview(client, provider="incoming", payload={"text": ""})
    assert client.post(PATH, json={"provider": "incoming", "body": "x" * 1_100_000}).status_code == 413
    assert [record for tap in taps for record in tap.look()] == []
    assert hub.metric("sync", "interlink_relayed_total") == relayed


def test_the_entrance_shows_the_call_in_its_document(client: httpx.Client) -> None:
    document = client.get("/api/openapi.json").json()
    assert document["paths"][PATH]["post"]["operationId"] == "preview_messages"


def _cases(provider: str) -> list[Fixture]:
    folder = next(Path(str(folder)) for folder in provider_folders() if folder.name == provider)
    return [case for case in read_fixtures(folder) if case.expected.get("events")]
