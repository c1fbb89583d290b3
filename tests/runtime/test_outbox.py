"""The outbox: what is stored with a change is published once the change is stored, in order, and not lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from pymongo import MongoClient
from structlog.testing import capture_logs

from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors
from shared.runtime.outbox import OUTBOX_INDEX, Outbox, OutboxRecord, PendingEvent
from shared.runtime.settings import KafkaSettings, MongoSettings
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.tap import Tap

COLLECTION = "things"
LARGER_THAN_A_RECORD = "x" * 9 * 1024 * 1024


class Thing(OutboxRecord):
    """A record of some service."""

    number: int


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """No service: topics and settings."""
    made = Hub(tmp_path_factory.mktemp("hub"), bus, store, services=())
    yield made.start()
    made.stop()


@dataclass
class Process:
    """A process that changes things and publishes events about it."""

    collection: Collection
    producer: Producer
    outbox: Outbox[Thing]

    async def change(self, thing_id: str, number: int, *types: str, **data: Any) -> Thing:
        """Write the change with its events, and publish nothing: as a process that is killed then."""
        events = [
            PendingEvent(
                id=f"{thing_id}-{number}-{name}", type=name, at=utcnow(), data={"number": number, **data}
            )
            for name in types
        ]
        update = {"$set": {"workspace": "default", "number": number, "changed_at": utcnow()}}
        with translate_errors():
            document = await self.collection.find_one_and_update(
                {"_id": thing_id},
                self.outbox.with_events(update, events),
                upsert=True,
                return_document=True,
            )
        assert document
        return Thing.from_document(document)


def outbox(collection: Collection, producer: Producer) -> Outbox[Thing]:
    log = structlog.get_logger()
    return Outbox(collection, Thing, producer, log, topic=INTEGRATION_EVENTS, source="/things")


@asynccontextmanager
async def process(hub: Hub, *, bootstrap: str = "") -> AsyncIterator[Process]:
    log = structlog.get_logger()
    servers = bootstrap or hub.env["KAFKA_BOOTSTRAP_SERVERS"]
    idempotent = hub.env.get("KAFKA_ENABLE_IDEMPOTENCE", "true") == "true"
    kafka = KafkaSettings(bootstrap_servers=servers, enable_idempotence=idempotent)
    producer = Producer(kafka, log, client_id="test")
    mongo = Mongo(MongoSettings(uri=SecretStr(hub.env["MONGODB_URI"])), app="test")
    await mongo.ensure_indexes({COLLECTION: (OUTBOX_INDEX,)})
    producer.start()
    try:
        if not bootstrap:
            await producer.wait_ready(30)
        collection = mongo.collection(COLLECTION)
        yield Process(collection, producer, outbox(collection, producer))
    finally:
        await producer.stop()
        mongo.close()


def published(tap: Tap, thing_id: str) -> list[str]:
    """The ids of a thing's events on Kafka, in order."""
    return [record.attributes["ce_id"] for record in tap.look() if record.key == thing_id.encode()]


def stored(hub: Hub, thing_id: str) -> Document:
    client: MongoClient[Document] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        return dict(client.get_default_database()[COLLECTION].find_one({"_id": thing_id}) or {})


def age(hub: Hub, *thing_ids: str) -> None:
    """Let some seconds pass since the last change, one more for each that comes before."""
    client: MongoClient[Document] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        for position, thing_id in enumerate(reversed(thing_ids)):
            at = utcnow() - timedelta(seconds=10 + position)
            client.get_default_database()[COLLECTION].update_one(
                {"_id": thing_id}, {"$set": {"changed_at": at}}
            )


def new_id() -> str:
    return f"thing_{token_hex(4)}"


def test_events_are_published_in_order_and_forgotten(hub: Hub, bus: Bus) -> None:
    tap, thing_id = Tap(bus, INTEGRATION_EVENTS.name), new_id()

    async def run() -> None:
        async with process(hub) as one:
            assert await one.outbox.publish(await one.change(thing_id, 1, "thing.made", "thing.named"))
            assert await one.outbox.publish(await one.change(thing_id, 2, "thing.moved"))

    asyncio.run(run())
    names = ["1-thing.made", "1-thing.named", "2-thing.moved"]
    assert published(tap, thing_id) == [f"{thing_id}-{name}" for name in names]
    [first, *_] = [record for record in tap.records if record.key == thing_id.encode()]
    assert first.attributes.items() >= {
        ("ce_type", "thing.made"),
        ("ce_source", "/things"),
        ("ce_subject", thing_id),
        ("workspace", "default"),
    }
    assert first.data == {"number": 1}
    document = stored(hub, thing_id)
    assert (document["events"], document["untold"]) == ([], False)


def test_what_a_killed_process_stored_is_published_by_another(hub: Hub, bus: Bus) -> None:
    """Not at once: the process that stored it may be about to publish it."""
    tap, thing_id = Tap(bus, INTEGRATION_EVENTS.name), new_id()

    async def run() -> None:
        async with process(hub) as killed:
            await killed.change(thing_id, 1, "thing.made")
            await killed.change(thing_id, 2, "thing.moved")
        async with process(hub) as other:
            await other.outbox.publish_pending()
            assert stored(hub, thing_id)["untold"]
            age(hub, thing_id)
            await other.outbox.publish_pending()

    asyncio.run(run())
    assert published(tap, thing_id) == [f"{thing_id}-1-thing.made", f"{thing_id}-2-thing.moved"]
    document = stored(hub, thing_id)
    assert (document["events"], document["untold"]) == ([], False)


def test_without_kafka_events_stay_and_the_change_is_no_failure(hub: Hub, bus: Bus) -> None:
    tap, thing_id = Tap(bus, INTEGRATION_EVENTS.name), new_id()

    async def run() -> None:
        async with process(hub, bootstrap=f"127.0.0.1:{free_port()}") as alone:
            for number in (1, 2):
                assert not await alone.outbox.publish(await alone.change(thing_id, number, "thing.moved"))
            age(hub, thing_id)
            await alone.outbox.publish_pending()
        assert len(stored(hub, thing_id)["events"]) == 2
        async with process(hub) as other:
            await other.outbox.publish_pending()

    asyncio.run(run())
    assert published(tap, thing_id) == [f"{thing_id}-{number}-thing.moved" for number in (1, 2)]


def test_an_event_that_is_stored_meanwhile_stays_pending(hub: Hub) -> None:
    """Another process changes the thing between the events' acknowledgement and their removal."""
    thing_id = new_id()

    async def run() -> None:
        async with process(hub) as one:
            first = await one.change(thing_id, 1, "thing.made")
            await one.change(thing_id, 2, "thing.moved")
            assert await one.outbox.publish(first)

    asyncio.run(run())
    document = stored(hub, thing_id)
    assert ([event["id"] for event in document["events"]], document["untold"]) == (
        [f"{thing_id}-2-thing.moved"],
        True,
    )


def test_an_event_that_kafka_never_accepts_is_dropped_and_logged(hub: Hub, bus: Bus) -> None:
    """It stands in the way of none behind it."""
    tap, thing_id = Tap(bus, INTEGRATION_EVENTS.name), new_id()

    async def run() -> None:
        async with process(hub) as one:
            await one.change(thing_id, 1, "thing.made", text=LARGER_THAN_A_RECORD)
            with capture_logs() as logs:
                assert await one.outbox.publish(await one.change(thing_id, 2, "thing.moved"))
            [dropped] = [line for line in logs if line["event"] == "outbox.event_dropped"]
            assert (dropped["record_id"], dropped["type"]) == (thing_id, "thing.made")
            assert LARGER_THAN_A_RECORD[:1000] not in str(dropped)

    asyncio.run(run())
    assert published(tap, thing_id) == [f"{thing_id}-2-thing.moved"]
    assert stored(hub, thing_id)["events"] == []


def test_a_document_that_cannot_be_read_blocks_no_other(hub: Hub, bus: Bus) -> None:
    tap, broken, whole = Tap(bus, INTEGRATION_EVENTS.name), new_id(), new_id()

    async def run() -> None:
        async with process(hub) as one:
            for thing_id in (broken, whole):
                await one.change(thing_id, 1, "thing.made")
            await one.collection.update_one({"_id": broken}, {"$set": {"number": "one"}})
            age(hub, broken, whole)
            await one.outbox.publish_pending()
            await one.collection.delete_one({"_id": broken})

    asyncio.run(run())
    assert published(tap, whole) == [f"{whole}-1-thing.made"]
    assert published(tap, broken) == []


def test_a_database_that_is_away_after_the_event_is_no_failure_of_the_change(hub: Hub, bus: Bus) -> None:
    """The change is stored. If it seemed to have failed, a new connection would be revoked again."""
    tap, thing_id = Tap(bus, INTEGRATION_EVENTS.name), new_id()

    async def run() -> None:
        async with process(hub) as one:
            changed = await one.change(thing_id, 1, "thing.made")
            settings = MongoSettings(uri=SecretStr(f"mongodb://127.0.0.1:{free_port()}"), timeout_ms=500)
            away = Mongo(settings, app="test")
            assert not await outbox(away.collection(COLLECTION), one.producer).publish(changed)
            away.close()

    asyncio.run(run())
    assert published(tap, thing_id) == [f"{thing_id}-1-thing.made"]
    assert stored(hub, thing_id)["untold"]
