"""Tokens of incoming webhooks: in a header at Discord's address, rotated, and only from listed addresses."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process

PATH = "/api/incoming-webhooks"
DISCORD = "/api/webhooks/discord"

hub = hub_with(services=("gateway",), workspace="tokens")


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


def make(hub: Hub, **fields: Any) -> dict[str, Any]:
    body = {"name": "x", "target_channel_id": "general", **fields}
    created: dict[str, Any] = hub.call("POST", PATH, body, expect=201)
    return created


def post(hub: Hub, token: str) -> int:
    """Post at the address with the token in it."""
    url = f"{hub.url('gateway')}/api/webhooks/incoming/{token}"
    return httpx.post(url, json={"text": "x"}, timeout=10).status_code


def post_discord(hub: Hub, authorization: str | None, body: Any = None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    url = hub.url("gateway") + DISCORD
    return httpx.post(url, json=body or {"content": "hello"}, headers=headers, timeout=10)


def test_a_message_as_the_chat_writes_it_to_discord(hub: Hub) -> None:
    webhook = make(hub, target_channel_id="announcements")
    answer = post_discord(hub, f"Bearer {webhook['token']}")
    assert answer.status_code == 200
    assert answer.json()["channel_id"] == "announcements"
    assert post_discord(hub, f"bearer {webhook['token']}").status_code == 200
    assert post_discord(hub, f"Bearer {webhook['token']}", {"nothing": 1}).status_code == 422
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {webhook['token']}",
        webhook["token"],
        f"Bearer {hub.admin_key}",
    ):
        answer = post_discord(hub, authorization)
        assert answer.status_code == 401, authorization
        assert answer.headers["content-type"] == "application/problem+json"
    headers = {"authorization": f"Bearer {webhook['token']}"}
    assert httpx.get(hub.url("gateway") + DISCORD, headers=headers).status_code == 404
    alias = f"{hub.url('gateway')}/integrations/discord/webhook"
    assert httpx.post(alias, json={"content": "x"}, headers=headers).status_code == 404
    hub.call("PATCH", f"{PATH}/{webhook['id']}", {"enabled": False})
    assert post_discord(hub, f"Bearer {webhook['token']}").status_code == 410
    hub.call("DELETE", f"{PATH}/{webhook['id']}", expect=204)
    assert post_discord(hub, f"Bearer {webhook['token']}").status_code == 401


def test_only_listed_addresses_may_post(hub: Hub) -> None:
    webhook = make(hub, allow_ips=["192.0.2.7/24"])
    assert webhook["allow_ips"] == ["192.0.2.0/24"]
    item = f"{PATH}/{webhook['id']}"
    assert post(hub, webhook["token"]) == post_discord(hub, f"Bearer {webhook['token']}").status_code == 403
    assert hub.call("PATCH", item, {"allow_ips": ["127.0.0.1"]})["allow_ips"] == ["127.0.0.1/32"]
    assert post(hub, webhook["token"]) == 200
    hub.call("PATCH", item, {"allow_ips": ["192.0.2.1"]})
    assert post(hub, webhook["token"]) == 403
    assert hub.call("PATCH", item, {"allow_ips": []})["allow_ips"] == []
    assert post(hub, webhook["token"]) == 200
    refused = hub.call("PATCH", item, {"allow_ips": ["x"]}, expect=422)
    assert [error["field"] for error in refused["errors"]] == ["allow_ips.0"]


def test_a_token_is_rotated(hub: Hub, bus: Bus, store: Store, tmp_path: Any) -> None:
    webhook = make(hub)
    item = f"{PATH}/{webhook['id']}"

    def rotate(hours: int) -> str:
        answer = hub.call("POST", f"{item}/rotate-token", {"overlap_hours": hours})
        assert answer["id"] == webhook["id"]
        assert answer["url"].endswith(f"/api/webhooks/incoming/{answer['token']}")
        return str(answer["token"])

    with second_process("gateway", hub, tmp_path, bus, store) as another:

        def statuses(*tokens: str) -> list[int]:
            found = [post(hub, token) for token in tokens]
            assert found == [post(another, token) for token in tokens]
            return found

        first = webhook["token"]
        second = rotate(1)
        assert statuses(first, second) == [200, 200]
        third = rotate(1)
        assert statuses(first, second, third) == [404, 200, 200]
        assert post_discord(another, f"Bearer {second}").status_code == 200
        fourth = rotate(0)
        assert statuses(second, third, fourth) == [404, 404, 200]
        fifth = rotate(168)
        assert statuses(fourth, fifth) == [200, 200]
        # When its time is over, no process accepts it.
        with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
            soon = datetime.now(UTC) + timedelta(seconds=1)
            fields = {"old_token_expires_at": soon, "changed_at": datetime.now(UTC)}
            endpoints = mongo.get_default_database()["inbound_endpoints"]
            assert endpoints.update_one({"_id": webhook["id"]}, {"$set": fields}).modified_count == 1
        hub.call("PATCH", item, {"name": "y"})
        eventually(lambda: statuses(fifth) == [200] and post(hub, fourth) == 404)
        assert statuses(fourth, fifth) == [404, 200]
        # Of those who rotate it at the same time, nobody is given a token that never counts.
        urls = [process.url("gateway") + f"{item}/rotate-token" for process in (hub, another)] * 4
        headers = {"authorization": f"Bearer {hub.admin_key}"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda url: httpx.post(url, json={}, headers=headers, timeout=30), urls))
        assert {answer.status_code for answer in answers} <= {200, 409}, [answer.text for answer in answers]
        given = [answer.json()["token"] for answer in answers if answer.status_code == 200]
        assert statuses(*given).count(200) == min(len(given), 2) > 0, "two tokens are valid at a time"
    hub.call("DELETE", item, expect=204)
    assert [post(hub, token) for token in (fourth, fifth)] == [404, 404]
    for hours in (-1, 169, "x"):
        hub.call("POST", f"{item}/rotate-token", {"overlap_hours": hours}, expect=422)
    hub.call("POST", f"{item}/rotate-token", {}, expect=404)
