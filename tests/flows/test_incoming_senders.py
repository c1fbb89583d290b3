"""What senders of other chats and of monitoring get as an answer, and what arrives in the channel."""

import json
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from shared.contracts.topics import CHAT_INBOUND
from tests.support.alertmanager import PROGRAM, alertmanager
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.tap import Tap
from tests.webhooks.incoming_bodies import BODIES

hub = hub_with(services=("gateway", "sync"))
MESSAGES = json.loads(
    Path(__file__).parents[1].joinpath("webhooks", "incoming_messages.json").read_text("utf-8")
)


class Channel:
    """An incoming webhook, and the messages of its channel."""

    def __init__(self, hub: Hub, bus: Bus) -> None:
        self.name = f"c-{token_hex(6)}"
        body = {"name": "Alerts", "targetChannelId": self.name, "rate_limit": 1000}
        created = hub.call("POST", "/api/incoming-webhooks", body, expect=201)
        assert created["target_channel_id"] == self.name
        self.url, self.id = created["url"], created["id"]
        self._tap = Tap(bus, CHAT_INBOUND.name)

    def messages(self, count: int) -> list[dict[str, Any]]:
        """The channel's messages, once there are `count`."""

        def own() -> list[dict[str, Any]]:
            return [record.data for record in self._tap.look() if record.key == self.name.encode()]

        eventually(lambda: len(own()) >= count)
        assert len(own()) == count
        return own()


@pytest.fixture
def channel(hub: Hub, bus: Bus) -> Iterator[Channel]:
    made = Channel(hub, bus)
    yield made
    hub.call("DELETE", f"/api/incoming-webhooks/{made.id}", expect=204)


def test_the_bodies_of_other_systems_become_the_reviewed_messages(channel: Channel) -> None:
    for name, body in BODIES.items():
        answer = httpx.post(channel.url, json=body, timeout=10)
        assert answer.status_code == 200, (name, answer.text)
        assert (answer.json()["ok"], answer.json()["success"], answer.json()["warnings"]) == (True, True, [])
    for name, message in zip(BODIES, channel.messages(len(BODIES)), strict=True):
        expected = MESSAGES[name]
        assert message["text"] == expected.get("text", "")
        assert [embed["title"] for embed in message["embeds"]] == [
            embed.get("title") for embed in expected.get("embeds", [])
        ]
        assert [file["url"] for file in message["attachments"]] == [
            file["url"] for file in expected.get("attachments", [])
        ]


def test_aliases_of_the_seeds_documents(hub: Hub, channel: Channel) -> None:
    body = {
        "content": "hi",
        "avatarUrl": "https://a.example/i.png",
        "threadId": "t-1",
        "attachments": [{"url": "https://a.example/f.txt", "contentType": "text/plain"}],
    }
    payload = httpx.post(channel.url, json=body, timeout=10).json()
    assert payload["messageId"] == payload["message_id"]
    assert isinstance(payload["duration"], int)
    assert payload["warnings"] == []
    [message] = channel.messages(1)
    assert (message["message_id"], message["thread_id"]) == (payload["messageId"], "t-1")
    assert message["author"]["icon_url"] == "https://a.example/i.png"
    assert message["attachments"][0]["content_type"] == "text/plain"
    path = f"/api/incoming-webhooks/{channel.id}"
    assert hub.call("PATCH", path, {"targetChannelId": "other"})["target_channel_id"] == "other"


def test_what_is_cut_or_left_out_is_named_in_the_answer(channel: Channel) -> None:
    body = {
        "text": "x" * 5000,
        "username": "n" * 81,
        "icon_url": "nowhere",
        "embeds": [{"title": "t", "color": "blue"}],
    }
    answer = httpx.post(channel.url, json=body, timeout=10)
    assert answer.status_code == 200
    assert {item.partition(":")[0] for item in answer.json()["warnings"]} == {
        "text",
        "username",
        "icon_url",
        "embeds.0.color",
    }
    [message] = channel.messages(1)
    assert message["text"].endswith("… (cut: the text is longer)")
    assert (len(message["author"]["name"]), message["author"]["icon_url"]) == (80, None)
    assert (message["embeds"][0]["title"], message["embeds"][0]["color"]) == ("t", None)


def test_slacks_answer_is_ok(channel: Channel) -> None:
    """By the path, and to a form: its senders compare the text."""
    by_path = httpx.post(f"{channel.url}/slack", json={"text": "one"}, timeout=10)
    by_form = httpx.post(channel.url, data={"payload": '{"text": "two"}'}, timeout=10)
    for answer in (by_path, by_form):
        assert (answer.status_code, answer.text) == (200, "ok")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert [message["text"] for message in channel.messages(2)] == ["one", "two"]
    assert httpx.post(f"{channel.url}/slack", json={}, timeout=10).status_code == 422
    for suffix in ("/other", "/slack/", "/slack/x", "/"):
        assert httpx.post(f"{channel.url}{suffix}", json={"text": "x"}, timeout=10).status_code == 404


def test_discords_answer_is_the_message(channel: Channel) -> None:
    files = {"files[0]": ("graph.png", b"\x89PNG\0\xff", "image/png")}
    payload = {
        "content": "see <t:1772439092:F>",
        "username": "Uptime",
        "embeds": [{"title": "t", "color": 255, "author": {"name": "a"}}],
    }
    answer = httpx.post(
        channel.url,
        params={"wait": "true", "thread_id": "t-9"},
        data={"payload_json": json.dumps(payload)},
        files=files,
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert 0 < int(shown["id"]) < 2**63
    assert shown["content"].startswith("see 2026-03-02 08:11 UTC")
    assert (shown["type"], shown["channel_id"]) == (0, channel.name)
    assert (shown["author"]["username"], shown["author"]["bot"]) == ("Uptime", True)
    assert shown["embeds"] == [
        {"type": "rich", "title": "t", "fields": [], "color": 255, "author": {"name": "a"}}
    ]
    [message] = channel.messages(1)
    assert message["message_id"] == shown["message_id"]
    assert message["thread_id"] == "t-9"
    assert "graph.png" in message["text"]
    assert "id" not in httpx.post(channel.url, json={"content": "x"}, timeout=10).json()


def test_a_query_that_cannot_be_read_costs_no_message(channel: Channel) -> None:
    assert (
        httpx.post(f"{channel.url}?wait=%ff&thread_id=%zz", json={"text": "x"}, timeout=10).status_code == 200
    )
    channel.messages(1)


@pytest.mark.skipif(not PROGRAM, reason="no Alertmanager on the PATH (Debian: prometheus-alertmanager)")
@pytest.mark.parametrize("kind", ["webhook", "slack", "slack at its path", "discord"])
def test_a_real_alertmanager(channel: Channel, tmp_path: Path, kind: str) -> None:
    assert urlsplit(channel.url).hostname == "127.0.0.1"
    url = f"{channel.url}/slack" if kind == "slack at its path" else channel.url
    integration = kind.partition(" ")[0]
    receiver: dict[str, Any] = {
        "webhook": {"webhook_configs": [{"url": url, "send_resolved": False}]},
        "slack": {"slack_configs": [{"api_url": url, "channel": "#ops", "send_resolved": False}]},
        "discord": {"discord_configs": [{"webhook_url": url, "send_resolved": False}]},
    }[integration]
    with alertmanager(tmp_path, receiver) as started:
        started.fire("DiskFull", summary="No space on /var", description="1 % left")
        [message] = channel.messages(1)
        eventually(lambda: started.sent(integration) == 1)
        assert started.failed() == 0, started.log.read_text("utf-8")
    shown = json.dumps(message)
    assert "[FIRING:1" in message["text"].replace("\\", "") + "".join(
        embed["title"] or "" for embed in message["embeds"]
    )
    assert "DiskFull" in shown
    if kind in ("webhook", "discord"):
        assert "No space on /var" in shown
