"""Polling triggers of feeds: what a person configures, what is published, and what happens when it fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.feed import FeedServer
from tests.support.hub import Hub
from tests.support.polling_hub import PATH, PollingHub
from tests.support.provider_hosts import Reply
from tests.support.subscription_hub import among
from tests.support.tap import Tap

HOST = "blog.example.com"
TRIGGER = "rss_trigger_new_item"


@dataclass
class World(PollingHub):
    feeds: FeedServer

    def feed(self, path: str, *titles: str) -> list[str]:
        """A feed with these items, the oldest first; what is added to the list is in the feed."""
        self.feeds.feeds[path] = list(titles)
        return self.feeds.feeds[path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.2", "INTERLINK_POLLING_TRIGGERS_PER_WORKSPACE": "20"}
    hub = Hub(
        tmp_path_factory.mktemp("hub"),
        bus,
        store,
        services=("gateway", "oauth", "sync"),
        env=env,
        entrance=True,
    )
    feeds = FeedServer()
    with among(hub, {HOST: feeds.handle}) as platforms:
        yield World(hub, platforms, Tap(bus, "webhooks.received"), feeds)


def url(path: str) -> str:
    return f"https://{HOST}{path}"


def test_new_items_become_events_and_messages(world: World, bus: Bus) -> None:
    hub, chat = world.hub, Tap(bus, "chat.inbound")
    items = world.feed("/news", "old")
    body = {"trigger": TRIGGER, "params": {"url": url("/news")}, "channel_id": "ch_1", "name": "News"}
    made = hub.call("POST", PATH, body, expect=201)
    assert (made["status"], made["provider"], made["interval_s"]) == ("pending", "rss", 900)
    shown = world.settled(made["id"])
    assert (shown["status"], shown["endpoint_id"], shown["last_error"]) == ("active", None, None)
    items += ["first", "second"]
    shown = world.poll(made["id"])
    first, second = world.events(shown["endpoint_id"])
    assert [first.data["title"], second.data["title"]] == ["first", "second"], "the oldest first"
    assert first.data["summary"] == "About first"
    assert first.data["feed"]["title"] == "Example blog"
    assert first.attributes["ce_type"] == "rss.item.published"
    assert first.attributes["triggers"] == TRIGGER
    assert first.attributes["delivery_id"] == "id-first"
    assert first.attributes["occurred_at"] == "2026-05-04T10:20:30.000Z"
    messages = [item.data for item in chat.wait_for(2)]
    assert [message["text"] for message in messages] == [
        "[first](https://blog.example.com/1)",
        "[second](https://blog.example.com/0)",
    ]
    assert {message["channel_id"] for message in messages} == {"ch_1"}
    # The endpoint has counts and executions, as that of a webhook.
    endpoint = f"/api/inbound-endpoints/{shown['endpoint_id']}"
    eventually(lambda: hub.call("GET", endpoint)["trigger_count"] == 2)
    shown_endpoint = hub.call("GET", endpoint)
    assert (shown_endpoint["polled"], shown_endpoint["url"], shown_endpoint["name"]) == (True, "", "News")
    executions = eventually(lambda: hub.call("GET", f"{endpoint}/events")["items"])
    assert executions[0]["triggers"] == [TRIGGER]
    listed = hub.call("GET", "/api/integration-webhooks")["webhooks"]
    [entry] = [item for item in listed if item["id"] == shown["endpoint_id"]]
    assert entry["trigger_types"] == [TRIGGER]
    assert (entry["trigger_count"], entry["external_config"]["type"]) == (2, "polling")


def test_a_feed_that_has_not_changed_is_not_read_again(world: World) -> None:
    items = world.feed("/quiet", "old")
    trigger = world.polled(TRIGGER, url=url("/quiet"))["id"]
    world.poll(trigger)
    world.poll(trigger)
    assert world.feeds.count("/quiet", 304) == 2, "with the ETag"
    items.append("new")
    assert [item["title"] for item in world.data(world.poll(trigger)["endpoint_id"])] == ["new"]


def test_more_items_than_a_poll_publishes_come_with_the_next(world: World) -> None:
    items = world.feed("/many", "old")
    trigger = world.polled(TRIGGER, url=url("/many"))["id"]
    items += [f"item {number}" for number in range(130)]
    endpoint = world.poll(trigger)["endpoint_id"]
    assert len(world.data(endpoint)) == 100
    world.poll(trigger)
    titles = [item["title"] for item in world.data(endpoint)]
    assert sorted(titles) == sorted(items[1:])
    assert len(titles) == 130, "each once"


def test_a_paused_trigger_goes_on_where_it_was(world: World) -> None:
    hub, items = world.hub, world.feed("/paused", "old")
    trigger = world.polled(TRIGGER, url=url("/paused"))["id"]
    shown = hub.call("POST", f"{PATH}/{trigger}/pause")
    assert (shown["status"], shown["next_at"]) == ("paused", None)
    items.append("meanwhile")
    shown = world.poll(trigger)
    assert [item["title"] for item in world.data(shown["endpoint_id"])] == ["meanwhile"]


def test_a_deleted_trigger_takes_its_endpoint_with_it(world: World) -> None:
    hub, items = world.hub, world.feed("/deleted", "old")
    trigger = world.polled(TRIGGER, url=url("/deleted"))["id"]
    items.append("new")
    endpoint = world.poll(trigger)["endpoint_id"]
    hub.call("DELETE", f"{PATH}/{trigger}", expect=204)
    hub.call("GET", f"{PATH}/{trigger}", expect=404)
    hub.call("POST", f"{PATH}/{trigger}/resume", expect=404)
    path = f"/api/inbound-endpoints/{endpoint}"

    def is_gone() -> bool:
        with hub.client("gateway") as client:
            return client.get(path).status_code == 404

    eventually(is_gone)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_feed_is_paused_with_what_to_do(world: World, status: int) -> None:
    path = f"/refused-{status}"
    world.feeds.replies[path] = [Reply(status)]
    shown = world.polled(TRIGGER, url=url(path))
    assert (shown["status"], shown["next_at"]) == ("paused", None)
    assert shown["last_error"]["code"] == f"http_{status}"
    assert "resume" in shown["last_error"]["detail"] or "delete" in shown["last_error"]["detail"]
    world.feeds.replies.pop(path)
    world.feed(path, "back")
    assert world.poll(shown["id"])["last_error"] is None
    world.hub.call("DELETE", f"{PATH}/{shown['id']}", expect=204)


def test_a_redirect_is_not_followed(world: World) -> None:
    world.feeds.replies["/moved"] = [Reply.redirect("http://169.254.169.254/latest/meta-data")]
    shown = world.polled(TRIGGER, url=url("/moved"))
    assert shown["status"] == "paused"
    assert "the address has moved to http://169.254.169.254/" in shown["last_error"]["detail"]
    assert "169.254.169.254:80" not in world.platforms.connected


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(503), "status 503"),
        (Reply(200, b"<html><body>no feed</body></html>"), "not a feed"),
        (Reply(200, b"<rss><channel>"), "not well-formed"),
        (Reply(200, b'<!DOCTYPE rss [<!ENTITY a "b">]><rss/>'), "document type"),
    ],
)
def test_a_feed_that_cannot_be_read_is_tried_again(world: World, reply: Reply, words: str) -> None:
    path = f"/broken-{len(words)}"
    world.feeds.replies[path] = [reply]
    shown = world.polled(TRIGGER, url=url(path))
    assert (shown["status"], shown["failures"]) == ("failing", 1)
    assert words in shown["last_error"]["detail"]
    assert shown["next_at"] is not None
    world.feeds.replies.pop(path)
    world.feed(path, "back")
    shown = world.poll(shown["id"])
    assert (shown["last_error"], shown["failures"]) == (None, 0)
    world.hub.call("DELETE", f"{PATH}/{shown['id']}", expect=204)


def test_the_pause_that_a_provider_asks_for_is_observed(world: World) -> None:
    world.feeds.replies["/busy"] = [Reply(429, b"", {"retry-after": "1800"})]
    shown = world.polled(TRIGGER, url=url("/busy"))
    assert (shown["status"], shown["last_error"]["code"]) == ("failing", "rate_limited")
    assert shown["next_at"] > shown["last_polled_at"]
    minutes = _minutes(shown["last_polled_at"], shown["next_at"])
    assert 29 <= minutes <= 31


def test_a_disabled_endpoint_pauses_the_trigger_and_loses_nothing(world: World) -> None:
    hub, items = world.hub, world.feed("/disabled", "old")
    trigger = world.polled(TRIGGER, url=url("/disabled"))["id"]
    items.append("one")
    endpoint = world.poll(trigger)["endpoint_id"]
    hub.call("POST", f"/api/inbound-endpoints/{endpoint}/disable")
    items.append("two")
    shown = world.poll(trigger, status="paused")
    assert shown["last_error"]["code"] == "endpoint_closed"
    hub.call("POST", f"/api/inbound-endpoints/{endpoint}/enable")
    world.poll(trigger)
    assert [item["title"] for item in world.data(endpoint)] == ["one", "two"]


def test_what_is_configured_is_checked(world: World) -> None:
    hub = world.hub
    good: dict[str, Any] = {"trigger": TRIGGER, "params": {"url": url("/none")}}

    def fields(body: dict[str, Any]) -> list[str]:
        refused = hub.call("POST", PATH, body, expect=422)
        return [error["field"] for error in refused["errors"]]

    assert fields({**good, "trigger": "rss_trigger_other"}) == ["trigger"]
    assert fields({**good, "trigger": "nothing"}) == ["trigger"]
    assert fields({**good, "params": {}}) == ["params.url"]
    assert fields({**good, "params": {"url": "file:///etc/passwd"}}) == ["params.url"]
    assert fields({**good, "params": {"url": "https://user:password@example.com/"}}) == ["params.url"]
    assert fields({**good, "params": {**good["params"], "other": "x"}}) == ["params.other"]
    assert fields({**good, "interval_s": 5}) == ["interval_s"]
    assert fields({**good, "integration_id": "int_1"}) == ["integration_id"]
    assert fields({"trigger": "gmail_trigger_new_email"}) == ["integration_id"]


def test_another_workspace_sees_nothing(world: World) -> None:
    hub, other = world.hub, world.hub.other_workspace()
    world.feed("/mine", "old")
    trigger = world.polled(TRIGGER, url=url("/mine"))["id"]
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")):
        body = {"interval_s": 60} if method == "PATCH" else None
        hub.call(method, f"{PATH}/{trigger}{path}", body, key=other, expect=404)
    assert hub.call("GET", PATH, key=other)["items"] == []
    assert trigger in [item["id"] for item in hub.call("GET", PATH)["items"]]


def test_interval_and_name_can_be_changed(world: World) -> None:
    hub = world.hub
    world.feed("/changed", "old")
    trigger = world.polled(TRIGGER, url=url("/changed"))["id"]
    changed = hub.call("PATCH", f"{PATH}/{trigger}", {"interval_s": 60, "name": "Other"})
    assert (changed["interval_s"], changed["name"]) == (60, "Other")
    eventually(lambda: _minutes(world.shown(trigger)["last_polled_at"], world.shown(trigger)["next_at"]) <= 2)


def test_a_workspace_has_a_maximum_of_triggers(world: World) -> None:
    hub, other = world.hub, world.hub.other_workspace()
    world.feed("/full", "old")
    body = {"trigger": TRIGGER, "params": {"url": url("/full")}, "interval_s": 86400}
    for _ in range(20):
        hub.call("POST", PATH, body, key=other, expect=201)
    refused = hub.call("POST", PATH, body, key=other, expect=409)
    assert "INTERLINK_POLLING_TRIGGERS_PER_WORKSPACE" in refused["detail"]


def test_what_is_new_while_a_quota_is_used_up_becomes_events_afterwards(world: World) -> None:
    hub = world.hub
    tenant = hub.call("POST", "/api/workspaces", {"name": "Acme"}, expect=201)
    key, path = tenant["key"], f"/api/workspaces/{tenant['id']}"
    items = world.feed("/over", "old")
    trigger = world.polled(TRIGGER, key=key, url=url("/over"))["id"]
    hub.call("PATCH", path, {"quotas": {"events": 0}})
    items += ["first", "second"]
    shown = world.poll(trigger, status="failing", key=key)
    assert "raise `events`" in shown["last_error"]["detail"]
    assert world.events(shown["endpoint_id"]) == []
    hub.call("PATCH", path, {"quotas": {}})
    shown = world.poll(trigger, key=key)
    assert shown["last_error"] is None
    assert [data["title"] for data in world.data(shown["endpoint_id"])] == ["first", "second"]
    [today] = eventually(
        lambda: [day for day in hub.call("GET", "/api/usage", key=key)["days"] if day["events"] == 2], 30
    )
    assert today["refused"] == 1


def test_the_endpoint_accepts_no_requests(world: World) -> None:
    hub, items = world.hub, world.feed("/closed", "old")
    trigger = world.polled(TRIGGER, url=url("/closed"))["id"]
    items.append("new")
    endpoint = world.poll(trigger)["endpoint_id"]
    with hub.client("gateway") as client:
        answer = client.post(f"/api/webhooks/rss/{endpoint}", json={"text": "forged"})
        assert answer.status_code == 404
        forged = {"endpoint_id": endpoint, "events": [{"event": "item.published", "delivery_id": "1"}]}
        answer = client.post("/api/polled-events", json=forged)
        assert answer.status_code == 403, "an admin is not a service"
    hub.call("POST", f"/api/inbound-endpoints/{endpoint}/test", {}, expect=409)
    hub.call("POST", f"/api/inbound-endpoints/{endpoint}/rotate-secret", {}, expect=409)
    refused = hub.call("PATCH", f"/api/inbound-endpoints/{endpoint}", {"allow_ips": []}, expect=422)
    assert refused["errors"][0]["field"] == "allow_ips"
    hub.call("PATCH", f"/api/inbound-endpoints/{endpoint}", {"name": "Renamed", "channel_id": "ch_2"})
    body = {"provider": "rss", "name": "mine", "polled": True}
    refused = hub.call("POST", "/api/inbound-endpoints", body, expect=422)
    assert refused["errors"][0]["field"] == "polled"
    assert [item["title"] for item in world.data(endpoint)] == ["new"]


def test_the_catalogue_says_what_can_be_polled(world: World) -> None:
    items = {item["id"]: item for item in world.hub.call("GET", "/api/catalog")["items"]}
    [trigger] = items["rss"]["triggers"]
    assert trigger["by"] == "polling"
    assert trigger["polling"]["event"] == "rss.item.published"
    assert trigger["polling"]["needs_account"] is False
    assert [param["id"] for param in trigger["polling"]["params"]] == ["url"]
    gmail = {item["id"]: item for item in items["gmail"]["triggers"]}
    assert gmail["gmail_trigger_new_email"]["polling"]["needs_account"] is True


def _minutes(before: str, after: str) -> float:
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds() / 60
