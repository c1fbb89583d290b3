"""Marks of sends apart from their messages: what a crash leaves of them, and what an outcome does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from services.sync.carry.outcomes import Change
from services.sync.carry.send_marks import OpenSends
from services.sync.model.send_mark import SendMarks
from services.sync.model.synced_message import SyncedMessage, Target
from services.sync.store.messages import SyncedMessages, insertion, target_update
from services.sync.store.send_marks import SendMarkRepository
from shared.runtime.mongo import Mongo, utcnow
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

_OWN, _FOREIGN = 1_003, 1_004
"""Partitions that no hub of the tests has: they share the database."""


@dataclass
class Process:
    """A process that sends messages."""

    store: SendMarkRepository
    messages: SyncedMessages
    sends: OpenSends = field(init=False)

    def __post_init__(self) -> None:
        self.sends = OpenSends(self.store, self.messages)

    async def begin(self, synced_id: str, partition: int = _OWN) -> Change:
        """Begin to send a message."""
        request = SimpleNamespace(synced_id=synced_id)
        change = Change(cast("Any", request), "ws", "", "lane", "slack:T1", partition, 0, utcnow())
        await self.sends.begin(change, "slack")
        assert change.mark is not None
        return change

    async def waiting(self) -> str:
        """Store a message that waits for its turn; return its id."""
        now, synced_id = utcnow(), f"syn_{token_hex(8)}"
        texts = dict.fromkeys(("message_id", "provider", "account", "conversation", "external_id"), "x")
        times: dict[str, Any] = {"received_at": now, "expires_at": now}
        target = Target(leg="slack", provider="slack", account="T1", conversation="C1")
        message = SyncedMessage(
            id=synced_id,
            workspace="ws",
            mapping_id="map_1",
            leg="chat",
            targets={"slack": target},
            **texts,
            **times,
        )
        await self.messages.write([insertion(message)])
        return synced_id

    async def target(self, synced_id: str) -> Target:
        found = await self.messages.find(synced_id)
        assert found is not None
        return found.targets["slack"]

    async def marks(self, *synced_ids: str) -> list[SendMarks]:
        """Return the documents that have marks of these messages."""
        found = await self.store.all()
        return [marks for marks in found if any(mark.synced_id in synced_ids for mark in marks.marks)]


@pytest.fixture
async def mongo(store: Store) -> AsyncIterator[Mongo]:
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    yield mongo
    mongo.close()


@pytest.fixture
def process(mongo: Mongo) -> Process:
    return Process(SendMarkRepository(mongo), SyncedMessages(mongo))


@pytest.fixture
def successor(mongo: Mongo) -> Process:
    return Process(SendMarkRepository(mongo), SyncedMessages(mongo))


async def test_the_next_owner_of_a_partition_finds_what_was_being_sent(
    process: Process, successor: Process
) -> None:
    first, foreign = await process.waiting(), await process.waiting()
    started = await process.begin(first)
    await process.begin(foreign, _FOREIGN)
    assert (await process.target(first)).state == "waiting"

    await successor.sends.adopt([_OWN])

    found = await process.target(first)
    assert started.mark is not None
    assert (found.state, found.sending_at) == ("sending", started.mark.mark.at)
    assert (await process.target(foreign)).state == "waiting"
    assert not await process.marks(first)
    assert await process.marks(foreign)


async def test_a_mark_changes_nothing_about_a_later_state(process: Process, successor: Process) -> None:
    synced_id = await process.waiting()
    await process.begin(synced_id)
    await process.messages.write([target_update(synced_id, "slack", {"state": "sent", "parts": ("1.2",)})])

    await successor.sends.adopt([_OWN])

    found = await process.target(synced_id)
    assert (found.state, found.sending_at, found.parts) == ("sent", None, ("1.2",))


async def test_a_partition_that_comes_back_marks_what_its_earlier_owner_was_sending(process: Process) -> None:
    """The record is handled once more, by the same process, whose first call may still be under way."""
    synced_id = await process.waiting()
    change = await process.begin(synced_id)
    await process.sends.adopt([_OWN])
    assert (await process.target(synced_id)).state == "sending"
    assert await process.marks(synced_id)
    process.sends.end(change)
    await process.sends.stop()
    assert not await process.marks(synced_id)


async def test_a_refused_message_leaves_no_mark(process: Process, successor: Process) -> None:
    synced_id = await process.waiting()
    change = await process.begin(synced_id)
    await process.sends.withdraw(change)
    assert change.mark is None
    assert not await process.marks(synced_id)

    await successor.sends.adopt([_OWN])
    assert (await process.target(synced_id)).state == "waiting"


async def test_a_message_whose_outcome_is_unknown_says_so_itself(process: Process) -> None:
    synced_id = await process.waiting()
    change = await process.begin(synced_id)
    assert change.mark is not None
    at = change.mark.mark.at
    await process.sends.expose(change)
    found = await process.target(synced_id)
    assert (found.state, found.sending_at) == ("sending", at)
    assert not await process.marks(synced_id)


async def test_marks_are_deleted_when_all_sends_of_their_document_have_ended(process: Process) -> None:
    ids = [await process.waiting() for _ in range(3)]
    changes = [await process.begin(synced_id) for synced_id in ids]
    process.sends.end(changes[0])
    process.sends.end(changes[1])
    await process.sends.stop()
    assert not await process.marks(*ids[:2])
    assert await process.marks(ids[2])
    process.sends.end(changes[2])
    await process.sends.stop()
    assert not await process.marks(*ids)
