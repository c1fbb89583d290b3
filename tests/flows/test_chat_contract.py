"""A chat without Kafka gets `chat.inbound` by an outgoing webhook on `inbound.*`; no other webhook does."""

import json
from secrets import token_hex
from typing import Any

import httpx

from shared.contracts.event_types import EVENT_TYPES
from shared.contracts.topics import CHAT_EVENTS, CHAT_INBOUND
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import new_type, publish
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, put

hub = hub_with(services=("gateway", "delivery", "sync"))


def test_only_a_pattern_of_inbound_gets_inbound_messages(hub: Hub) -> None:
    key = hub.other_workspace()
    channel = f"c-{token_hex(6)}"
    incoming = hub.call(
        "POST",
        "/api/incoming-webhooks",
        {"name": "Builds", "target_channel_id": channel},
        key=key,
        expect=201,
    )
    with Subscriber() as chat, Subscriber() as everything:
        for sink, events in ((chat, ["inbound.*"]), (everything, ["*"])):
            body = {"name": events[0], "url": sink.url, "events": events, "format": "envelope"}
            hub.call("POST", "/api/outgoing-webhooks", body, key=key, expect=201)
        posted = httpx.post(incoming["url"], json={"text": "built"}, timeout=10).raise_for_status().json()
        last = {
            "messageId": "m",
            "channelId": channel,
            "content": "x",
            "author": {"id": "u", "username": "u"},
        }
        publish(hub, "message.created", last, subject=channel, key=key)

        def types_of(sink: Subscriber) -> list[str]:
            return sorted({json.loads(request.body)["type"] for request in sink.got})

        eventually(lambda: "inbound.message.created" in types_of(chat), 30)
        eventually(lambda: types_of(everything) == ["incoming.message", "message.created"], 30)
        assert types_of(chat) == ["inbound.message.created"]
        [request] = chat.got
    event: dict[str, Any] = json.loads(request.body)
    assert event["data"]["message_id"] == posted["message_id"]
    assert (event["data"]["channel_id"], event["data"]["text"]) == (channel, "built")


def test_an_inbound_event_that_the_chat_repeats_goes_nowhere(hub: Hub, bus: Bus) -> None:
    """A chat that publishes again what it got would otherwise be sent it without end."""
    other = new_type()
    example = json.dumps(EVENT_TYPES["inbound.message.created"].example).encode()
    with Subscriber() as chat:
        body = {"name": "chat", "url": chat.url, "events": ["inbound.*", other]}
        webhook = hub.call("POST", "/api/outgoing-webhooks", body, expect=201)
        records = [_record(name, hub.workspace, example) for name in ("inbound.message.created", other)]
        put(bus, CHAT_EVENTS.name, records, partition=0)
        eventually(lambda: chat.got, 30)
        assert [json.loads(request.body)["type"] for request in chat.got] == [other]
        hub.call("DELETE", f"/api/outgoing-webhooks/{webhook['id']}", expect=204)


def test_messages_that_only_the_chat_reads_are_not_unmatched(hub: Hub, bus: Bus) -> None:
    key = hub.other_workspace()
    channel = f"c-{token_hex(6)}"
    body = {"name": "Builds", "target_channel_id": channel}
    incoming = hub.call("POST", "/api/incoming-webhooks", body, key=key, expect=201)
    tap = Tap(bus, CHAT_INBOUND.name)
    httpx.post(incoming["url"], json={"text": "built"}, timeout=10).raise_for_status()
    eventually(lambda: [stored for stored in tap.look() if stored.key == channel.encode()], 30)

    def unmatched_types() -> set[str]:
        found = hub.call("GET", "/api/events/unmatched", key=key)
        return {item["type"] for item in found["types"]}

    later = new_type()
    publish(hub, later, {}, key=key)
    eventually(lambda: {"incoming.message", later} <= unmatched_types())
    assert unmatched_types() == {"incoming.message", later}


def _record(event_type: str, workspace: str, data: bytes) -> RawRecord:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": f"evt_{token_hex(8)}",
        "ce_type": event_type,
        "ce_source": "/chat",
        "ce_time": "2026-01-02T03:04:05.000Z",
        "content-type": "application/json",
        "workspace": workspace,
    }
    return RawRecord(b"general", data, [(name, value.encode()) for name, value in headers.items()])
