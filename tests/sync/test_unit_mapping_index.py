"""The mappings in the memory of a process: nothing is decided by what may be out of date."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, cast

import pytest
import structlog
from pydantic import SecretStr

from services.sync.carry.carrier import Carrier
from services.sync.carry.handler import CarryHandler
from services.sync.carry.outcomes import Change, Done, Outcome, Waits
from services.sync.model.mapping import Leg, Mapping
from services.sync.store.mapping_index import COLLECTION, MappingIndex
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import Event, rfc3339
from shared.contracts.errors import DatabaseUnavailable, Malformed
from shared.contracts.sync import SourceRef, SyncRequested
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration, announce_changes
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store


@dataclass
class Process:
    """The mappings of one process, while others change them."""

    mongo: Mongo
    configuration: Configuration
    index: MappingIndex

    async def stored(self, mapping: Mapping) -> None:
        """Store a mapping as another process does, which has responded when this returns."""
        collection = self.mongo.collection(COLLECTION)
        await collection.replace_one({"_id": mapping.id}, mapping.document(), upsert=True)
        await announce_changes(self.mongo, COLLECTION, mapping.id)


@pytest.fixture
async def process(store: Store) -> AsyncIterator[Process]:
    log = structlog.get_logger()
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    configuration = Configuration(mongo, log)
    index = MappingIndex(mongo, configuration, log)
    await configuration.start()
    await index.start()
    yield Process(mongo, configuration, index)
    await index.stop()
    await configuration.stop()
    mongo.close()


def new_mapping() -> Mapping:
    now = utcnow()
    legs = (
        Leg(id="slack", provider="slack", account="T1", conversation="C1"),
        Leg(id="chat", provider="chat", account="ws", conversation="general"),
    )
    fields: dict[str, Any] = {"legs": legs, "created_at": now, "changed_at": now}
    return Mapping(id=f"map_{token_hex(4)}", workspace="ws", **fields)


def request(mapping: Mapping) -> SyncRequested:
    now = rfc3339(utcnow())
    return SyncRequested(
        request_id="req_1",
        mapping_id=mapping.id,
        leg_id="slack",
        kind="message",
        synced_id="syn_1",
        source=SourceRef(provider="chat", account="ws", conversation="general", external_id="m"),
        author=ChatAuthor(id="usr_ada"),
        occurred_at=now,
        received_at=now,
    )


def record(requested: SyncRequested) -> ConsumedEvent:
    data = requested.model_dump_json().encode()
    event = Event("req_1", "sync.requested", "/sync", "ws", rfc3339(utcnow()), data, "syn_1")
    return ConsumedEvent(event, "sync.requested", 0, 0, 0)


async def test_a_request_that_cannot_be_read_leaves_no_other_open(process: Process) -> None:
    """A record that was taken out of its batch is completed by whoever took it, or never."""
    mapping = new_mapping()
    await process.stored(mapping)
    taken: list[ConsumedEvent] = []

    class Requests(list[ConsumedEvent]):
        take = staticmethod(taken.append)

    unreadable = request(mapping).model_copy(update={"received_at": "yesterday"})
    batch = cast("Any", Requests([record(request(mapping)), record(unreadable)]))
    with pytest.raises(Malformed):
        await CarryHandler(process.index, cast("Any", None)).handle(batch)
    assert taken == []


async def test_a_request_waits_while_mappings_may_be_out_of_date(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one for a new mapping would be complete without a message."""
    mapping = new_mapping()

    async def unavailable(_: Configuration) -> int:
        raise DatabaseUnavailable("MongoDB does not answer")

    monkeypatch.setattr(Configuration, "_read_version", unavailable)
    await process.stored(mapping)
    consumed = record(request(mapping))
    lanes = cast("Any", None)  # nothing gets there
    with pytest.raises(DatabaseUnavailable):
        await CarryHandler(process.index, lanes).handle(cast("Batch", [consumed]))


async def test_what_waits_is_not_carried_after_another_process_has_paused_its_mapping(
    process: Process,
) -> None:
    mapping = new_mapping()
    await process.stored(mapping)
    await process.index.ensure_current()
    assert process.index.get(mapping.id) is not None

    class Messages:
        async def find(self, _: str) -> None:
            return None

    carrier = Carrier(process.index, *([cast("Any", Messages())] * 8))
    change = Change(
        request=request(mapping),
        workspace="ws",
        traceparent="",
        lane="l",
        account_key="slack:T1",
        partition=0,
        position=0,
        received_at=utcnow(),
    )
    outcomes: list[type[Outcome]] = [type(await carrier.carry(change))]
    await process.stored(mapping.model_copy(update={"status": "paused", "version": 2}))
    outcomes.append(type(await carrier.carry(change)))
    assert outcomes == [Done, Waits]
