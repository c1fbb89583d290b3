"""What people's scripts and the chat's own services send in: HTTP in, Kafka and HTTP out."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import httpx
import pytest

from shared.contracts.topics import CHAT_INBOUND
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap, TopicRecord

WHOLE = {
    "text": "**Build 7** is out: see <https://ci.example/7>",
    "username": "Deploy bot",
    "icon_url": "https://ci.example/icon.png",
    "thread_id": "thread-1",
    "attachments": [
        {"url": "https://ci.example/log.txt", "filename": "log.txt", "content_type": "text/plain"},
        {"url": "https://ci.example/shot.png"},
    ],
    "embeds": [
        {
            "title": "Build 7",
            "description": "All _green_, ünï¢ödé too",
            "url": "https://ci.example/7",
            "color": "#00aa00",
            "fields": [
                {"name": "took", "value": "5 s", "inline": True},
                {"name": "by", "value": "ada", "inline": False},
            ],
        }
    ],
}


@dataclass(frozen=True)
class Incoming:
    """An incoming webhook with a channel of its own, and what arrives in the chat from now on."""

    id: str
    url: str
    channel: str
    tap: Tap

    def post(self, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(self.url, json=body, headers=headers, timeout=10)

    def messages(self, count: int) -> list[dict[str, Any]]:
        """The channel's messages, once there are `count`: others may use the same bus."""
        eventually(lambda: len(self._mine()) >= count)
        mine = self._mine()
        assert len(mine) == count
        for stored in mine:
            assert stored.attributes["ce_type"] == "inbound.message.created"
            assert stored.attributes["ce_subject"] == stored.data["channel_id"] == self.channel
        return [stored.data for stored in mine]

    def _mine(self) -> list[TopicRecord]:
        return [stored for stored in self.tap.look() if stored.key == self.channel.encode()]


hub = hub_with(services=("gateway", "delivery", "sync"))


@pytest.fixture
def incoming(hub: Hub, bus: Bus) -> Iterator[Incoming]:
    channel = f"c-{token_hex(6)}"
    body = {"name": "Builds", "target_channel_id": channel, "rate_limit": 1000}
    created = hub.call("POST", "/api/incoming-webhooks", body, expect=201)
    assert created["token"] in created["url"]
    yield Incoming(created["id"], created["url"], channel, Tap(bus, CHAT_INBOUND.name))
    hub.call("DELETE", f"/api/incoming-webhooks/{created['id']}", expect=204)


def test_everything_that_a_message_can_have_reaches_the_chat(incoming: Incoming) -> None:
    answer = incoming.post(WHOLE)
    assert answer.status_code == 200
    payload = answer.json()
    assert (payload["success"], payload["channel_id"]) == (True, incoming.channel)
    [message] = incoming.messages(1)
    assert message["message_id"] == payload["message_id"]
    assert message["text"] == WHOLE["text"]
    assert message["thread_id"] == "thread-1"
    author = message["author"]
    assert author.pop("id").startswith("author_")
    assert author == {
        "name": "Deploy bot",
        "user_id": None,
        "avatar_url": "https://ci.example/icon.png",
        "icon_url": "https://ci.example/icon.png",
        "bot": True,
    }
    assert message["sent_at"] == message["created_at"]
    assert [file["url"] for file in message["attachments"]] == [
        "https://ci.example/log.txt",
        "https://ci.example/shot.png",
    ]
    assert (message["attachments"][0]["filename"], message["attachments"][0]["content_type"]) == (
        "log.txt",
        "text/plain",
    )
    [embed] = message["embeds"]
    [values] = WHOLE["embeds"]
    assert {name: embed[name] for name in values} == values
    assert (message["origin"]["provider"], message["origin"]["endpoint_id"]) == ("incoming", incoming.id)


@pytest.mark.parametrize(
    ("body", "text", "name"),
    [
        ({"text": "plain"}, "plain", None),
        ({"content": "as Discord says it", "username": "D"}, "as Discord says it", "D"),
        ({"text": "see <https://a.example/x|the page>"}, "see [the page](https://a.example/x)", None),
    ],
)
def test_other_shapes_of_the_same(
    incoming: Incoming, body: dict[str, str], text: str, name: str | None
) -> None:
    assert incoming.post(body).status_code == 200
    [message] = incoming.messages(1)
    assert message["text"] == text
    assert name in (None, message["author"]["name"])


def test_fifty_posts_in_sequence_keep_their_order(incoming: Incoming) -> None:
    with httpx.Client(timeout=10) as client:
        payload = [client.post(incoming.url, json={"text": f"number {n}"}) for n in range(50)]
    assert {answer.status_code for answer in payload} == {200}
    messages = incoming.messages(50)
    assert [message["text"] for message in messages] == [f"number {n}" for n in range(50)]
    assert [message["message_id"] for message in messages] == [one.json()["message_id"] for one in payload]


def test_a_repeat_with_the_same_key_is_one_message(incoming: Incoming) -> None:
    first = incoming.post({"text": "once"}, **{"idempotency-key": "k1"})
    repeat = incoming.post({"text": "once"}, **{"idempotency-key": "k1"})
    assert incoming.post({"text": "another"}).status_code == 200
    assert (first.status_code, repeat.status_code) == (200, 200)
    assert first.json()["message_id"] == repeat.json()["message_id"]
    assert [message["text"] for message in incoming.messages(2)] == ["once", "another"]


def test_what_is_refused_never_reaches_the_chat(hub: Hub, incoming: Incoming) -> None:
    path = f"/api/incoming-webhooks/{incoming.id}"
    assert incoming.post({}).status_code == 422
    assert incoming.post({"embeds": [{"color": "no"}]}).status_code == 422
    assert httpx.post(incoming.url, content=b"not json", timeout=10).status_code == 400
    wrong = incoming.url[:-4] + ("aaaa" if not incoming.url.endswith("aaaa") else "bbbb")
    assert httpx.post(wrong, json={"text": "x"}, timeout=10).status_code == 404
    hub.call("PATCH", path, {"enabled": False})
    assert incoming.post({"text": "x"}).status_code == 410
    hub.call("PATCH", path, {"enabled": True})
    assert incoming.post({"text": "good"}).status_code == 200
    assert [message["text"] for message in incoming.messages(1)] == ["good"]


# Events of the chat's own services


def cloud_event(kind: str, data: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"evt-{token_hex(8)}",
        "type": kind,
        "source": "/chat",
        "subject": "room-1",
        "data": data,
        **fields,
    }


def body_of(got: WebhookRequest) -> dict[str, Any]:
    return dict(json.loads(got.body))


def test_one_event_reaches_its_subscriber_as_it_was_posted(hub: Hub) -> None:
    kind = f"message{token_hex(4)}.created"
    data = {"messageId": "m1", "content": "hällo", "nested": {"n": [1, 2.5, None, True]}}
    event = cloud_event(kind, data, time="2026-02-03T04:05:06.789Z")
    with Subscriber() as subscriber:
        subscriber.secret = hub.outgoing_webhook(subscriber.url, events=[kind])["secret"]
        assert hub.call("POST", "/api/events", event, expect=202) == {"accepted": [event["id"]]}
        [got] = subscriber.wait_for(1)
    body = body_of(got)
    assert body.pop("sequence").isdecimal()
    assert body == {
        "id": event["id"],
        "type": kind,
        "version": "1",
        "workspace": hub.workspace,
        "occurred_at": "2026-02-03T04:05:06.789Z",
        "origin": None,
        "actor": None,
        "data": data,
        "changed": None,
    }


def test_a_batch_arrives_in_order_and_only_where_it_is_wanted(hub: Hub) -> None:
    family = f"t{token_hex(4)}"
    with Subscriber() as every, Subscriber() as some:
        hub.outgoing_webhook(every.url, events=[f"{family}.*"], ordering="strict")
        hub.outgoing_webhook(some.url, events=[f"{family}.odd"], ordering="strict")
        batch = [cloud_event(f"{family}.{('even', 'odd')[n % 2]}", {"n": n}) for n in range(100)]
        accepted = hub.call("POST", "/api/events", batch, expect=202)["accepted"]
        assert accepted == [event["id"] for event in batch]
        every.wait_for(100)
        some.wait_for(50)
        assert [body_of(got)["data"]["n"] for got in every.got] == list(range(100))
        assert [body_of(got)["data"]["n"] for got in some.got] == list(range(1, 100, 2))


def test_a_batch_with_one_bad_event_is_refused_whole(hub: Hub) -> None:
    kind = f"t{token_hex(4)}.made"
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=[kind])
        bad = [cloud_event(kind, {"n": 1}), cloud_event(kind) | {"specversion": "0.3"}]
        problem = hub.call("POST", "/api/events", bad, expect=422)
        assert [fault["field"] for fault in problem["errors"]] == ["1.specversion"]
        hub.call("POST", "/api/events", cloud_event(kind, {"n": 2}), expect=202)
        subscriber.wait_for(1)
        assert [body_of(got)["data"]["n"] for got in subscriber.got] == [2]


@pytest.mark.parametrize("kind", ["github.push", "github.anything", "incoming.message"])
def test_a_providers_type_cannot_be_posted(hub: Hub, kind: str) -> None:
    """Only a verified webhook says `github.push`: a subscriber may rely on it."""
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        problem = hub.call("POST", "/api/events", cloud_event(kind, {}), expect=422)
        assert [fault["field"] for fault in problem["errors"]] == ["0.type"]
        assert hub.deliveries(webhook_id=webhook["id"]) == []


@pytest.mark.parametrize("field", ["subject", "source"])
def test_what_is_accepted_fits_the_envelope(hub: Hub, field: str) -> None:
    """A 202 for an event that would then be a dead letter for its length is a broken promise."""
    kind = f"t{token_hex(4)}.made"
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=[kind])
        maximum, too_long = cloud_event(kind, **{field: "ü" * 500}), cloud_event(kind, **{field: "漢" * 500})
        hub.call("POST", "/api/events", maximum, expect=202)
        problem = hub.call("POST", "/api/events", too_long, expect=422)
        assert [fault["field"] for fault in problem["errors"]] == [f"0.{field}"]
        assert body_of(subscriber.wait_for(1)[0])["id"] == maximum["id"]


def test_interlink_send_publishes_for_a_person(hub: Hub) -> None:
    kind = f"t{token_hex(4)}.created"
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=[kind])
        sent = subprocess.run(
            [sys.executable, "-m", "interlink", "send", kind, "--data", '{"text": "hi"}', "--subject", "r1"],
            env=hub.env,
            cwd=hub.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert sent.returncode == 0, sent.stderr
        [got] = subscriber.wait_for(1)
    body = body_of(got)
    assert body["id"] == sent.stdout.strip()
    assert (body["type"], body["data"]) == (kind, {"text": "hi"})


def test_interlink_send_says_in_one_line_what_is_wrong(hub: Hub) -> None:
    for arguments in (["made", "--data", "{"], ["made", "--topic", "nowhere"]):
        sent = subprocess.run(
            [sys.executable, "-m", "interlink", "send", *arguments],
            env=hub.env,
            cwd=hub.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert sent.returncode == 2
        assert len(sent.stderr.strip().splitlines()) == 1
        assert "Traceback" not in sent.stderr
