"""Polling triggers of Google's products: history ids, sync tokens, page tokens and row counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo import MongoClient

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.google import Google
from tests.support.fakes.google_items import GoogleItems, error
from tests.support.polling_hub import PATH, PollingHub
from tests.support.provider_hosts import Reply
from tests.support.subscription_hub import CALLBACK, among, subscription_hub_process
from tests.support.tap import Tap

SHEET = "1ExampleExampleExampleExampleExample"


@dataclass
class World(PollingHub):
    google: Google
    items: GoogleItems


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    google = Google("g-id", "g-secret", hub.url("gateway") + CALLBACK)
    items = GoogleItems(google)
    with among(hub, {**google.hosts, **items.hosts}) as platforms:
        world = World(hub, platforms, Tap(bus, "webhooks.received"), google, items)
        world.app("google", google)
        yield world


def test_new_mails(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    items.mail("before")
    trigger = world.polled("gmail_trigger_new_email", account)["id"]
    assert world.poll(trigger)["endpoint_id"] is None, "the first poll only sets the cursor"
    for number in range(3):
        items.mail(f"mail {number}")
    items.mail("sent", labels=("SENT",))
    items.gone.add(items.mail("deleted at once"))
    endpoint = world.poll(trigger)["endpoint_id"]
    events = world.events(endpoint)
    assert [event.data["subject"] for event in events] == ["mail 0", "mail 1", "mail 2"], "of several pages"
    first = events[0]
    assert first.attributes["ce_type"] == "gmail.message.received"
    assert first.attributes["triggers"] == "gmail_trigger_new_email"
    assert (
        first.attributes["account"] == world.hub.call("GET", f"/api/integrations/{account}")["account"]["id"]
    )
    assert (first.data["from"], first.data["attachments"]) == ("Bob <bob@example.com>", [])
    world.poll(trigger)
    assert len(world.events(endpoint)) == 3, "nothing twice"


def test_mails_with_attachments(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    trigger = world.polled("gmail_trigger_new_attachment", account)["id"]
    items.mail("plain")
    items.mail("with a file", attachment="offer.pdf")
    endpoint = world.poll(trigger)["endpoint_id"]
    [event] = world.events(endpoint)
    assert event.attributes["event"] == "attachment.received"
    assert [file["filename"] for file in event.data["attachments"]] == ["offer.pdf"]


def test_mails_that_came_while_the_history_was_too_old(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    items.mails.clear()
    trigger = world.polled("gmail_trigger_new_email", account)["id"]
    items.mail("one")
    endpoint = world.poll(trigger)["endpoint_id"]
    items.mail("missed")
    items.oldest_history = items.history
    items.history += 1
    world.poll(trigger)
    subjects = [item["subject"] for item in world.data(endpoint)]
    assert "missed" in subjects
    assert len(subjects) == len(set(subjects)), "what was published is not published again"
    items.mail("later")
    world.poll(trigger)
    assert world.data(endpoint)[-1]["subject"] == "later"


def test_new_labels(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    items.labels = [{"id": "INBOX", "name": "INBOX", "type": "system"}]
    items.labels.append({"id": "Label_1", "name": "Old", "type": "user"})
    trigger = world.polled("gmail_trigger_new_label", account)["id"]
    items.labels.append({"id": "Label_2", "name": "New", "type": "user"})
    assert world.data(world.poll(trigger)["endpoint_id"]) == [{"id": "Label_2", "name": "New"}]


def test_events_of_a_calendar(world: World) -> None:
    items, account = world.items, world.connected("google-calendar")
    old = items.event("old", created_ago_s=86_400)
    triggers = {
        name: world.polled(f"google_calendar_trigger_{name}", account)["id"]
        for name in ("new_event", "event_updated", "event_canceled")
    }
    items.event("new")
    items.touch(old, summary="moved")
    items.touch(items.event("off", created_ago_s=86_400), status="cancelled")
    found = {name: world.data(world.poll(trigger)["endpoint_id"]) for name, trigger in triggers.items()}
    assert {name: [event["summary"] for event in events] for name, events in found.items()} == {
        "new_event": ["new"],
        "event_updated": ["moved"],
        "event_canceled": ["off"],
    }
    # Google does not know the token any more.
    items.page_size = 50
    items.token_era += 1
    items.touch(old, summary="moved again")
    endpoint = world.poll(triggers["event_updated"])["endpoint_id"]
    assert [event["summary"] for event in world.data(endpoint)][-1] == "moved again"
    items.touch(old, summary="and again")
    world.poll(triggers["event_updated"])
    assert [event["summary"] for event in world.data(endpoint)][-1] == "and again", "with the new token"


def test_files_of_a_drive(world: World) -> None:
    items, account = world.items, world.connected("google-drive")
    items.file("before")
    new = world.polled("google_drive_trigger_new_file", account)["id"]
    changed = world.polled("google_drive_trigger_file_modified", account)["id"]
    for name in ("a", "b", "c"):
        items.file(name)
    items.file("before", created_ago_s=86_400)
    items.file("trash", trashed=True)
    assert [file["name"] for file in world.data(world.poll(new)["endpoint_id"])] == ["a", "b", "c"]
    assert [file["name"] for file in world.data(world.poll(changed)["endpoint_id"])] == ["before"]


def test_rows_of_a_sheet(world: World) -> None:
    items, account = world.items, world.connected("google-sheets")
    items.rows = [["Name"], ["one"]]
    added = world.polled("google_sheets_trigger_new_row", account, spreadsheet_id=SHEET)["id"]
    changed = world.polled("google_sheets_trigger_updated_row", account, spreadsheet_id=SHEET)["id"]
    items.rows += [["two"], ["three"]]
    items.rows[1] = ["ONE"]
    endpoint = world.poll(added)["endpoint_id"]
    assert world.data(endpoint) == [{"row": 3, "values": ["two"]}, {"row": 4, "values": ["three"]}]
    assert world.data(world.poll(changed)["endpoint_id"]) == [{"row": 2, "values": ["ONE"]}]
    # Rows are deleted: they are counted again, and the next one is new.
    items.rows = items.rows[:2]
    world.poll(added)
    items.rows.append(["four"])
    world.poll(added)
    assert world.data(endpoint)[2:] == [{"row": 3, "values": ["four"]}]
    # The grid ends with the last row.
    items.grid = 3
    assert world.poll(added)["last_error"] is None
    assert len(world.data(endpoint)) == 3


def test_new_worksheets(world: World) -> None:
    items, account = world.items, world.connected("google-sheets")
    trigger = world.polled("google_sheets_trigger_new_worksheet", account, spreadsheet_id=SHEET)["id"]
    items.sheets.append({"sheetId": 7, "title": "Plan", "index": 1})
    assert world.data(world.poll(trigger)["endpoint_id"]) == [{"id": 7, "title": "Plan", "index": 1}]


def test_a_sheet_that_is_not_there_is_paused_with_what_to_do(world: World) -> None:
    account = world.connected("google-sheets")
    body = {"spreadsheet_id": SHEET, "sheet": "Nothing"}
    shown = world.polled("google_sheets_trigger_new_row", account, **body)
    assert (shown["status"], shown["last_error"]["code"]) == ("failing", "INVALID_ARGUMENT")


def test_an_ended_token_is_refreshed(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    trigger = world.polled("gmail_trigger_new_email", account)["id"]
    items.mail("after the refresh")
    refreshes = world.google.refreshes
    items.refuse = [error(401, name="UNAUTHENTICATED")]
    assert world.data(world.poll(trigger)["endpoint_id"])[0]["subject"] == "after the refresh"
    assert world.google.refreshes == refreshes + 1


def test_a_missing_permission_pauses(world: World) -> None:
    items, account = world.items, world.connected("gmail")
    trigger = world.polled("gmail_trigger_new_label", account)["id"]
    items.refuse = [error(403, "insufficientPermissions", "PERMISSION_DENIED")]
    shown = world.poll(trigger, status="paused")
    assert shown["last_error"]["code"] == "PERMISSION_DENIED"
    assert "resume" in shown["last_error"]["detail"]


@pytest.mark.parametrize(
    "reply",
    [error(403, "userRateLimitExceeded"), Reply.json({}, 429, retry_after="1800")],
    ids=["403", "429"],
)
def test_a_limit_of_the_app_holds_all_accounts_of_the_workspace(world: World, reply: Reply) -> None:
    items, account = world.items, world.connected("gmail")
    first = world.polled("gmail_trigger_new_label", account)["id"]
    second = world.polled("gmail_trigger_new_email", account)
    with MongoClient[dict[str, Any]](world.hub.env["MONGODB_URI"], tz_aware=True) as mongo:
        triggers = mongo.get_default_database()["polling_triggers"]
        # Another workspace has an account of the same app.
        other = {**(triggers.find_one({"_id": second["id"]}) or {}), "_id": "pol_other", "workspace": "other"}
        triggers.insert_one(other)
        items.refuse = [reply]
        shown = world.poll(first, status="failing")
        assert shown["last_error"]["code"] == "rate_limited"
        if reply.status == 429:
            eventually(lambda: world.shown(second["id"])["next_at"] > second["next_at"])
        assert (triggers.find_one({"_id": "pol_other"}) or {})["due_at"] == other["due_at"]
        triggers.delete_one({"_id": "pol_other"})
    items.mail("kept")
    assert world.data(world.poll(second["id"])["endpoint_id"])[-1]["subject"] == "kept"


def test_a_disconnected_account_takes_its_triggers_with_it(world: World) -> None:
    hub, account = world.hub, world.connected("gmail")
    trigger = world.polled("gmail_trigger_new_label", account)["id"]
    hub.call("POST", f"/api/integrations/{account}/disable")
    hub.call("POST", f"{PATH}/{trigger}/resume")
    stopped = eventually(lambda: (shown := world.shown(trigger))["status"] == "stopped" and shown)
    assert stopped["last_error"]["code"] == "not_connected"
    hub.call("POST", f"/api/integrations/{account}/enable")
    assert world.poll(trigger)["last_error"] is None
    hub.call("DELETE", f"/api/integrations/{account}")
    hub.call("POST", f"{PATH}/{trigger}/resume")

    def is_gone() -> bool:
        with hub.client("oauth") as client:
            return client.get(f"{PATH}/{trigger}").status_code == 404

    eventually(is_gone)


def test_an_account_of_another_provider_is_refused(world: World) -> None:
    account = world.connected("gmail")
    body = {"trigger": "google_drive_trigger_new_file", "integration_id": account}
    refused = world.hub.call("POST", PATH, body, expect=422)
    assert refused["errors"][0] == {
        "field": "integration_id",
        "message": "this is an account of gmail, not of google-drive",
    }
    world.hub.call("POST", PATH, {**body, "integration_id": "int_0"}, expect=404)
