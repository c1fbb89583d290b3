"""Polling triggers of Airtable, Notion, Discord and Dropbox."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.polled_apis import AirtableRecords, DiscordMessages, Dropbox, NotionPages
from tests.support.polling_hub import PATH, PollingHub
from tests.support.provider_hosts import Reply
from tests.support.subscription_hub import CALLBACK, among, subscription_hub_process
from tests.support.tap import Tap

TABLE = {"base_id": "appExampleExample1", "table": "tblExampleExample1"}


@dataclass
class World(PollingHub):
    airtable: AirtableRecords
    notion: NotionPages
    discord: DiscordMessages
    dropbox: Dropbox

    def connected_by_token(self, provider: str, kind: str, token: str) -> str:
        """An account with manual credentials."""
        body = {"provider": provider, "kind": kind, "fields": {"access_token": token}}
        return str(self.hub.call("POST", "/api/integrations", body, expect=201)["id"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    airtable, notion, discord = AirtableRecords(), NotionPages(), DiscordMessages()
    dropbox = Dropbox("d-id", "d-secret", hub.url("gateway") + CALLBACK)
    hosts = {
        "api.airtable.com": airtable.handle,
        "api.notion.com": notion.handle,
        "discord.com": discord.handle,
        **dropbox.hosts,
    }
    with among(hub, hosts) as platforms:
        world = World(hub, platforms, Tap(bus, "webhooks.received"), airtable, notion, discord, dropbox)
        world.app("dropbox", dropbox)
        yield world


def test_records_of_airtable(world: World) -> None:
    table = world.airtable
    account = world.connected_by_token("airtable", "personal_token", table.token)
    old = table.add("old", created_ago_s=86_400)
    table.add("just before")
    new = world.polled("airtable_trigger_new_record", account, **TABLE)["id"]
    changed = world.polled("airtable_trigger_record_updated", account, **TABLE)["id"]
    for number in range(3):
        table.add(f"new {number}")
    table.change(old, "changed")
    endpoint = world.poll(new)["endpoint_id"]
    assert [item["fields"]["Name"] for item in world.data(endpoint)] == ["new 0", "new 1", "new 2"]
    updated = world.poll(changed)["endpoint_id"]
    assert [item["fields"]["Name"] for item in world.data(updated)] == ["changed"]
    # The second page has ended at Airtable: the poll begins again, and nothing comes twice.
    for number in range(3, 7):
        table.add(f"new {number}")
    table.expired = True
    assert world.poll(new)["last_error"] is None
    world.poll(new)
    assert [item["fields"]["Name"] for item in world.data(endpoint)] == [
        f"new {number}" for number in range(7)
    ]
    table.change(old, "changed again")
    world.poll(changed)
    assert [item["fields"]["Name"] for item in world.data(updated)] == ["changed", "changed again"]


def test_pages_of_notion(world: World) -> None:
    notion = world.notion
    account = world.connected_by_token("notion", "internal_token", notion.token)
    old = notion.add("old", created_ago_s=86_400)
    notion.add("in the same minute")
    new = world.polled("notion_trigger_database_item_created", account, data_source_id=notion.source)["id"]
    changed = world.polled("notion_trigger_database_item_updated", account, data_source_id=notion.source)[
        "id"
    ]
    for number in range(3):
        notion.add(f"new {number}")
    endpoint = world.poll(new)["endpoint_id"]
    assert [item["title"] for item in world.data(endpoint)] == ["new 0", "new 1", "new 2"]
    notion.add("also in this minute")
    world.poll(new)
    assert [item["title"] for item in world.data(endpoint)][3:] == ["also in this minute"]
    old["last_edited_time"] = notion.pages[-1]["last_edited_time"]
    updated = world.poll(changed)["endpoint_id"]
    assert [item["title"] for item in world.data(updated)] == ["old"]
    world.poll(changed)
    assert len(world.data(updated)) == 1


def test_a_page_that_has_ended_at_the_provider(world: World) -> None:
    notion = world.notion
    account = world.connected_by_token("notion", "internal_token", notion.token)
    fields = {"data_source_id": notion.source}
    trigger = world.polled("notion_trigger_database_item_created", account, **fields)["id"]
    names = [f"item {number}" for number in range(2 * 5 * notion.page_size)]
    for name in names:
        notion.add(name)
    endpoint = world.poll(trigger)["endpoint_id"]
    assert len(world.data(endpoint)) < len(names), "a poll has few pages; the next one goes on"
    notion.era += 1
    assert world.poll(trigger, status="failing")["last_error"]["code"] == "validation_error"
    for _ in range(4):
        world.poll(trigger)
    assert [item["title"] for item in world.data(endpoint)] == names, "each of them once"


def test_messages_of_discord(world: World) -> None:
    discord = world.discord
    account = world.connected_by_token("discord", "bot_token", discord.token)
    discord.say("before")
    trigger = world.polled("discord_trigger_new_message", account, channel_id=discord.channel)["id"]
    for number in range(60):
        discord.say(f"message {number}")
    discord.say("of the hub itself", bot=True)
    shown = world.poll(trigger)
    texts = [item["content"] for item in world.data(shown["endpoint_id"])]
    assert texts == [f"message {number}" for number in range(60)], "in their order, over more than one page"
    other = world.polled("discord_trigger_new_message", account, channel_id=discord.channel)
    limited = {"message": "You are being rate limited.", "retry_after": 1800}
    discord.refuse = [Reply.json(limited, 429, retry_after="1800")]
    assert world.poll(trigger, status="failing")["last_error"]["code"] == "rate_limited"
    eventually(lambda: world.shown(other["id"])["next_at"] > other["next_at"])
    discord.say("after the limit")
    world.poll(trigger)
    assert world.data(shown["endpoint_id"])[-1]["content"] == "after the limit"


def test_a_channel_of_discord_that_is_not_there(world: World) -> None:
    account = world.connected_by_token("discord", "bot_token", world.discord.token)
    shown = world.polled("discord_trigger_new_message", account, channel_id="1100000000000000009")
    assert (shown["status"], shown["last_error"]["code"]) == ("paused", "10003")


def test_files_of_dropbox(world: World) -> None:
    dropbox = world.dropbox
    account = world.connected("dropbox")
    dropbox.put("old")
    new = world.polled("dropbox_trigger_new_file", account, path="/Projects")["id"]
    changed = world.polled("dropbox_trigger_file_modified", account, path="/Projects")["id"]
    for name in ("a", "b", "c", "old"):
        dropbox.put(name)
    endpoint = world.poll(new)["endpoint_id"]
    assert [item["name"] for item in world.data(endpoint)] == ["a", "b", "c"]
    assert [item["name"] for item in world.data(world.poll(changed)["endpoint_id"])] == ["old"]
    dropbox.era += 1
    shown = world.poll(new)
    assert shown["last_error"]["code"] == "cursor_expired", "what may be missing is said"
    dropbox.put("after")
    assert world.poll(new)["last_error"] is None
    assert [item["name"] for item in world.data(endpoint)][-1] == "after"


def test_triggers_of_an_account_are_polled_one_after_another(world: World) -> None:
    account = world.connected_by_token("discord", "bot_token", world.discord.token)
    triggers = [
        world.polled("discord_trigger_new_message", account, channel_id=world.discord.channel)["id"]
        for _ in range(4)
    ]
    world.discord.say("to all")
    for trigger in triggers:
        world.hub.call("POST", f"{PATH}/{trigger}/resume")

    def contents() -> list[str]:
        return [
            item["content"]
            for trigger in triggers
            for item in world.data(world.shown(trigger)["endpoint_id"])
            if world.shown(trigger)["endpoint_id"]
        ]

    eventually(lambda: contents() == ["to all"] * 4)
