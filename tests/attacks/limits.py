"""Attempts to take more than one's share, or to call everybody, with what a workspace is allowed to make."""

import json
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import httpx

from shared.contracts.topics import CHAT_INBOUND
from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.tap import Tap

_MAX = 4
_SETUP = Setup(
    services=("gateway", "sync"),
    env={
        "INTERLINK_ENDPOINTS_PER_WORKSPACE": str(_MAX),
        "INTERLINK_INCOMING_WEBHOOKS_PER_WORKSPACE": str(_MAX),
        "INTERLINK_API_KEYS_PER_WORKSPACE": str(_MAX),
    },
)
_KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/api/inbound-endpoints", {"provider": "github", "name": "x"}, "INTERLINK_ENDPOINTS_PER_WORKSPACE"),
    (
        "/api/incoming-webhooks",
        {"name": "x", "target_channel_id": "c"},
        "INTERLINK_INCOMING_WEBHOOKS_PER_WORKSPACE",
    ),
    ("/api/api-keys", {"name": "x", "scopes": ["events:write"]}, "INTERLINK_API_KEYS_PER_WORKSPACE"),
)


def _make_too_many(hub: Hub) -> None:
    key = hub.other_workspace()
    for path, body, setting in _KINDS:
        there = len(hub.call("GET", path, key=key)["items"])
        created = [hub.call("POST", path, body, key=key, expect=201) for _ in range(_MAX - there)]
        rejected = hub.call("POST", path, body, key=key, expect=409)
        assert str(_MAX) in rejected["detail"]
        assert setting in rejected["detail"]
        assert len(hub.call("GET", path, key=key)["items"]) == _MAX
        hub.call("DELETE", f"{path}/{created[0]['id']}", key=key, expect=204)
        hub.call("POST", path, body, key=key, expect=201)
        hub.call("POST", path, body, key=key, expect=409)
    neighbour = hub.other_workspace()
    for path, body, _ in _KINDS:
        hub.call("POST", path, body, key=neighbour, expect=201)


def _call_everybody(hub: Hub) -> None:
    key = hub.other_workspace()
    tap = Tap(hub.bus, CHAT_INBOUND.name)
    calls = "<!here> <!channel> <!everyone> @everyone @here"
    bodies: list[dict[str, Any]] = [
        {"text": calls, "username": "@everyone"},
        {"content": calls},
        {"embeds": [{"title": calls, "description": calls, "fields": [{"name": calls, "value": calls}]}]},
        {"attachments": [{"text": calls, "pretext": calls, "fallback": calls, "footer": calls}]},
        {"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": calls}}]},
        {"blocks": [_rich_text({"type": "broadcast", "range": "here"}, {"type": "text", "text": calls})]},
        {"@type": "MessageCard", "title": calls, "sections": [{"facts": [{"name": calls, "value": calls}]}]},
        {"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": calls}]},
        {"cardsV2": [{"card": {"sections": [{"widgets": [{"textParagraph": {"text": calls}}]}]}}]},
        {"alerts": [{"labels": {"alertname": calls}, "annotations": {"summary": calls}}], "receiver": "x"},
        {"heartbeat": {"status": 0, "msg": calls}, "monitor": {"name": calls}, "msg": calls},
        {"title": calls, "body": f"%%%\n{calls}\n%%%", "event_type": "x"},
        {"action": "created", "data": {"issue": {"title": calls, "culprit": calls}}},
    ]
    channel, allowed = f"c-{token_hex(4)}", f"c-{token_hex(4)}"
    created = _incoming(hub, key, channel)
    assert created["allow_mass_mentions"] is False
    for body in bodies:
        for sent in ({"json": body}, {"data": {"payload": json.dumps(body)}}):
            httpx.post(created["url"], **sent, timeout=10).raise_for_status()

    def received(to: str) -> list[str]:
        return [json.dumps(item.data) for item in tap.look() if item.key == to.encode()]

    eventually(lambda: len(received(channel)) == 2 * len(bodies))
    for message in received(channel):
        assert "here" in message
        for live in ("<!", "@here", "@channel", "@everyone"):
            assert live not in message, message
    able = _incoming(hub, key, allowed, allow_mass_mentions=True)
    httpx.post(able["url"], json=bodies[0], timeout=10).raise_for_status()
    eventually(lambda: received(allowed))
    everybody = " ".join(f"[@{one}](mention://{one})" for one in ("here", "channel", "everyone"))
    assert everybody in received(allowed)[0]
    path = f"/api/incoming-webhooks/{able['id']}"
    assert hub.call("PATCH", path, {"allow_mass_mentions": False}, key=key)["allow_mass_mentions"] is False
    httpx.post(able["url"], json=bodies[0], timeout=10).raise_for_status()
    eventually(lambda: len(received(allowed)) == 2)
    assert "@here" not in received(allowed)[1]


def _rich_text(*elements: dict[str, Any]) -> dict[str, Any]:
    section = {"type": "rich_text_section", "elements": list(elements)}
    return {"type": "rich_text", "elements": [section]}


def _show_an_internal_icon(hub: Hub) -> None:
    """The message is posted, but without the icon: in every format that has one."""
    tap, channel = Tap(hub.bus, CHAT_INBOUND.name), f"c-{token_hex(4)}"
    created = _incoming(hub, hub.other_workspace(), channel)
    names = ("icon_url", "iconUrl", "avatar_url", "avatarUrl", "avatar")
    urls = ("http://a.example/i", "https://127.0.0.1/i", "https://[::1]/", "https://vault.internal/")
    for name in names:
        for url in urls:
            answer = httpx.post(created["url"], json={"text": "x", name: url}, timeout=10)
            assert answer.status_code == 200, url
            assert [item.partition(":")[0] for item in answer.json()["warnings"]] == [name]

    def received() -> list[Any]:
        return [item.data for item in tap.look() if item.key == channel.encode()]

    eventually(lambda: len(received()) == len(names) * len(urls))
    assert {message["author"]["icon_url"] for message in received()} == {None}
    unknown = {"text": "x", "icon_url": f"https://{token_hex(8)}.example/i.png"}
    assert httpx.post(created["url"], json=unknown, timeout=10).status_code == 200, "names are not looked up"


def _incoming(hub: Hub, key: str, channel: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "x", "target_channel_id": channel, "rate_limit": 1000, **fields}
    return dict(hub.call("POST", "/api/incoming-webhooks", body, key=key, expect=201))


ATTACKS: Sequence[Attack] = (
    Attack("more endpoints, incoming webhooks and keys than allowed", _make_too_many, _SETUP),
    Attack("a message that calls everybody", _call_everybody, _SETUP),
    Attack("an icon at an internal address", _show_an_internal_icon, _SETUP),
)
