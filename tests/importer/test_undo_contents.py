"""An undo takes the channels and guests away that its import has brought, as far as nobody else uses them."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import httpx
import pytest

from services.importer.store.contents import ChannelRecord, Contents, PersonRecord
from shared.contracts.envelope import Event
from shared.contracts.history import HISTORY_STORED
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.mongo import Mongo
from tests.importer.archives import slack_message
from tests.importer.history_chat import HistoryChat
from tests.importer.import_places import Import, run_with, started
from tests.importer.test_imports import DAYS, export, imported, reached, ready
from tests.importer.test_undo import undo_of
from tests.support.backends import Store
from tests.support.eventually import eventually, until
from tests.support.hub import Hub

_MORE: Final = {**DAYS, "general/2024-01-03": [slack_message("1704240000.000100", "a longer export")]}
_MESSAGE_BATCHES: Final = 2
"""Batches of the undo of an export, one of each channel, before the one of its channels."""


@pytest.fixture(autouse=True)
def quiet(chat: HistoryChat) -> Iterator[None]:
    """The chat is empty, and stores everything, whatever a test did."""
    yield
    chat.permits = inf
    for known in (chat.messages, chat.channels, chat.users, chat.owners):
        known.clear()


def undone(hub: Hub, import_id: str, **more: bool) -> dict[str, Any]:
    """Undo an import, and return its last state."""
    start_undo(hub, import_id, **more)
    return reached(hub, import_id, "undone")


def start_undo(hub: Hub, import_id: str, **more: bool) -> None:
    path = f"/api/imports/{import_id}/undo"
    hub.call("POST", path, {"messages": hub.call("GET", path)["messages"], **more})


def page_of(hub: Hub, import_id: str) -> str:
    """Return the report for people."""
    with hub.client("importer") as client:
        response = client.get(f"/api/imports/{import_id}/report", params={"format": "html"})
    assert response.status_code == 200
    return response.text


def is_empty(chat: HistoryChat) -> bool:
    return not (chat.messages or chat.channels or chat.users)


def held(chat: HistoryChat) -> None:
    """Wait until the chat holds a batch of channels or people."""
    eventually(
        lambda: chat.permits < 1 and "added_by" in (last := chat.batches[-1]) and "message_ids" not in last
    )


def test_the_undo_of_the_second_import_leaves_what_the_first_one_has_brought(
    hub: Hub, chat: HistoryChat
) -> None:
    first = imported(hub, export(team="T00000201"))
    before = (dict(chat.channels), dict(chat.users), dict(chat.messages))
    second = imported(hub, export(_MORE, team="T00000201"))
    result = undone(hub, second["id"])["undo"]
    retained = {"removed": 0, "retained": [{"reason": "not of this import", "number": 2}]}
    assert result == {"channels": retained, "people": retained}
    assert (chat.channels, chat.users, chat.messages) == before
    assert undone(hub, first["id"])["undo"]["channels"] == {"removed": 2, "retained": []}
    assert is_empty(chat)


def test_the_last_undo_takes_away_what_an_earlier_one_had_to_leave(hub: Hub, chat: HistoryChat) -> None:
    first = imported(hub, export(team="T00000202"))
    second = imported(hub, export(_MORE, team="T00000202"))
    result = undone(hub, first["id"])["undo"]
    in_use = {"removed": 1, "retained": [{"reason": "in use", "number": 1}]}
    assert result == {"channels": in_use, "people": in_use}
    assert chat.texts() == ["a longer export"]
    report = page_of(hub, first["id"])
    assert "<li>Channels: 1 removed, 1 kept (in use)</li>" in report
    undone(hub, second["id"])
    assert is_empty(chat)


def test_what_somebody_else_uses_stays(hub: Hub, chat: HistoryChat) -> None:
    """A live message in a channel, and an answered message that the undo keeps with its author."""
    done = imported(hub, export(team="T00000203"))
    places = {data["text"]: (key, data["channel_id"]) for key, data in chat.messages.items()}
    general, old = places["first"][1], places["archived"][1]
    chat.add(f"msg_{token_hex(16)}", old, "live")
    chat.add(f"msg_{token_hex(16)}", general, "an answer", thread_id=places["of a person"][0])
    preview = hub.call("GET", f"/api/imports/{done['id']}/undo")
    assert (preview["messages"], preview["channels"], preview["people"]) == (5, 2, 2)
    result = undone(hub, done["id"], keep_answered=True)["undo"]
    in_use = [{"reason": "in use", "number": 2}]
    assert result["channels"] == {"removed": 0, "retained": in_use}
    assert chat.channels.keys() == {general, old}
    assert list(chat.users) == ["U00000002"]
    assert sorted(data["text"] for data in chat.messages.values()) == ["an answer", "live", "of a person"]


def test_an_undo_is_killed_paused_and_cancelled_at_its_channels(hub: Hub, chat: HistoryChat) -> None:
    done = imported(hub, export(team="T00000204"))
    path = f"/api/imports/{done['id']}"
    chat.permits = _MESSAGE_BATCHES
    start_undo(hub, done["id"])
    held(chat)
    assert chat.messages == {}
    hub.kill("importer")
    hub.start_service("importer")
    hub.wait_ready("importer")
    chat.permits += 1
    held(chat)
    assert hub.call("POST", f"{path}/pause")["status"] == "paused"
    hub.call("POST", f"{path}/resume")
    assert hub.call("POST", f"{path}/cancel")["status"] == "cancelled"
    chat.permits = inf
    assert undone(hub, done["id"])["undo"]["channels"] == {"removed": 2, "retained": []}
    assert is_empty(chat)


def test_an_undo_that_is_killed_between_its_writes_counts_each_message(hub: Hub, chat: HistoryChat) -> None:
    first = imported(hub, export(_MORE, team="T00000207"))
    later = imported(hub, export(team="T00000207"))
    for point in ("undo.left", "undo.withdrawn"):
        hub.kill("importer")
        hub.start_service("importer", **{FAILPOINT_VARIABLE: point})
        hub.wait_ready("importer")
        if point == "undo.left":
            with suppress(httpx.TransportError):  # it may be killed before it has answered
                start_undo(hub, first["id"], keep_shared=True)
        eventually(lambda: hub.ended("importer"))
        assert hub.ended("importer") == -signal.SIGKILL
    hub.start_service("importer")
    hub.wait_ready("importer")
    done = reached(hub, first["id"], "undone", within_s=120)
    assert (done["withdrawn"], done["left"], done["added"]) == (1, 5, 0)
    assert hub.call("GET", f"/api/imports/{later['id']}")["added"] == len(chat.messages) == 5
    undone(hub, later["id"])
    assert is_empty(chat)


def test_a_paused_import_is_undone(hub: Hub, chat: HistoryChat) -> None:
    """Also the channels that are under way when it is paused."""
    found = ready(hub, export(team="T00000205"))
    chat.permits = 1  # of people
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    eventually(lambda: any("channels" in batch for batch in chat.batches[-1:]))
    assert hub.call("POST", f"/api/imports/{found['id']}/pause")["status"] == "paused"
    start_undo(hub, found["id"])
    chat.permits = inf
    assert reached(hub, found["id"], "undone", within_s=60)["added"] == 0
    assert is_empty(chat)


def test_an_import_that_is_ready_is_cancelled_and_has_nothing_to_undo(hub: Hub, chat: HistoryChat) -> None:
    found = ready(hub, export(team="T00000206"))
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {"dry_run": True})
    eventually(lambda: reached(hub, found["id"], "ready")["dry_run"])
    published = len(chat.batches)
    assert hub.call("POST", f"{path}/cancel")["status"] == "cancelled"
    assert hub.call("GET", f"{path}/undo") == {"messages": 0, "shared": 0, "channels": 0, "people": 0}
    hub.call("POST", f"{path}/start", {}, expect=409)
    assert undone(hub, found["id"])["undo"]["channels"] == {"removed": 0, "retained": []}
    assert len(chat.batches) == published


async def brought(mongo: Mongo, job: Any, **more: Any) -> None:
    """An import has published a channel, and a guest."""
    contents, base = Contents(mongo), {"import_id": job.id, "workspace": job.workspace, "position": 0}
    channel = {"conversation": "C1", "name": "c", "kind": "channel", "archived": False, "members": 0}
    size = {"units": 1, "size": 1, "first": "", "last": "", "channel_id": "chn_1"}
    await contents.add_channels([ChannelRecord(**{"id": f"{job.id}:0", **base, **channel, **size, **more})])
    person = {"person_id": "U1", "name": "Ada", "bot": False, "active": True}
    await contents.add_people([PersonRecord(**{"id": f"{job.id}:0", **base, **person, **more})])


def test_a_confirmation_counts_for_what_was_asked_and_in_its_workspace(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        found = await started(
            mongo, tmp_path, confirms=True, stage="undoing", queued_at=utcnow(), started_at=utcnow()
        )
        await brought(mongo, found.job)
        undoing = asyncio.create_task(undo_of(found).run(found.job))
        await until(lambda: len(found.topic.batches) == 1)
        [channels] = found.topic.batches
        await from_another_workspace(found, channels)
        await asyncio.sleep(0.3)
        assert len(found.topic.batches) == 1, "another workspace has confirmed it"
        await found.confirm(channels, rejected=["chn_2", "U1", "chn_1", "chn_1"])
        await until(lambda: len(found.topic.batches) == 2)
        await found.confirm(found.topic.batches[1], rejected=["chn_1", "U2"])
        changes = (await undoing).changes
        assert (changes["removed_channels"], changes["retained_channels"]) == (0, [("no", 1)])
        assert (changes["removed_people"], changes["retained_people"]) == (1, [])

    run_with(store, test)


def test_an_undo_names_nothing_that_the_hub_needs(store: Store, tmp_path: Path) -> None:
    """A channel that a mapping joins, the chat's own one, and what a paused import has published, too."""

    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=False, stage="undoing", started_at=utcnow())
        workspace, place = found.job.workspace, found.place
        await brought(mongo, found.job)
        other = await place.claimed(workspace, stage="running", started_at=utcnow(), is_paused=True)
        await brought(mongo, other)
        changes = (await undo_of(found).run(found.job)).changes
        reason = [("another import that has not ended needs it", 1)]
        assert (changes["retained_channels"], changes["retained_people"]) == (reason, reason)
        await mongo.collection("imports").delete_one({"_id": other.id})

        legs = [{"provider": "chat", "conversation": "chn_1"}]
        mapping = {"_id": f"map_{token_hex(8)}", "workspace": workspace, "deleted_at": None, "legs": legs}
        await mongo.collection("sync_mappings").insert_one(mapping)
        changes = (await undo_of(found).run(found.job)).changes
        assert changes["retained_channels"] == [("a mapping joins it with a conversation", 1)]
        assert changes["removed_people"] == 1

        await brought(mongo, found.job, existing=True, matched_by="email", user_id="usr_1")
        published = len(found.topic.batches)
        changes = (await undo_of(found).run(found.job)).changes
        assert len(found.topic.batches) == published
        assert not changes["has_leftovers"]

    run_with(store, test)


async def from_another_workspace(found: Import, batch_id: str) -> None:
    """A confirmation of this batch comes in from somebody else."""
    data = json.dumps({"import_id": found.job.id, "batch_id": batch_id}).encode()
    event = Event("evt_1", HISTORY_STORED, "/chat", f"w-{token_hex(4)}", "", data)
    await found.place.late.handle([ConsumedEvent(event, CHAT_EVENTS.name, 0, 0, 0)])
