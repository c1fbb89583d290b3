"""A database of yesterday beside the broker of today, as docs/how-to/back-up-and-restore.md says."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database

from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, TOPICS
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import Moody, n_of, new_type, numbered, read
from tests.support.subscriber import Subscriber

GROUPS = {"delivery-fanout": CHAT_EVENTS.name, "delivery-attempt": DELIVERY_REQUESTED.name}
MARGIN_S = 3600
"""Seconds before the backup to which the groups are set back: a record may be handled after it is stored."""
Dump = Mapping[str, Sequence[RawBSONDocument]]


def dump(database: Database[Any]) -> Dump:
    """What `mongodump` writes."""
    raw = database.with_options(CodecOptions(document_class=RawBSONDocument))
    return {name: list(raw[name].find()) for name in database.list_collection_names()}


def restore(database: Database[Any], dumped: Dump) -> None:
    """What `mongorestore --drop` does; the indexes stay."""
    for name in database.list_collection_names():
        database[name].delete_many({})
        if documents := dumped.get(name):
            database[name].insert_many(documents)


async def rewind(bus: Bus, since_s: float) -> None:
    """What `kafka-consumer-groups --reset-offsets --to-datetime` does to the groups of delivery."""
    partitions = {topic.name: topic.partitions for topic in TOPICS}
    for group, topic in GROUPS.items():
        async with AIOKafkaConsumer(
            bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"], group_id=group, enable_auto_commit=False
        ) as consumer:
            chosen = [TopicPartition(topic, number) for number in range(partitions[topic])]
            consumer.assign(chosen)
            found = await consumer.offsets_for_times(dict.fromkeys(chosen, int(since_s * 1000)))
            ends = await consumer.end_offsets(chosen)
            await consumer.commit({one: found[one].offset if found[one] else ends[one] for one in chosen})


def test_yesterdays_database_beside_todays_broker(durable_bus: Bus, store: Store, tmp_path: Path) -> None:
    kind, failing = new_type(), Moody(503)
    retry = {"schedule": [0, 3600]}
    with (
        Subscriber() as taking,
        Subscriber(answer=failing) as refusing,
        Hub(tmp_path / "hub", durable_bus, store, services=("gateway", "delivery")) as hub,
    ):
        hub.outgoing_webhook(taking.url, events=[kind])
        refused = hub.outgoing_webhook(refusing.url, events=[kind], retry=retry)
        numbered(hub, kind, 3)
        taking.wait_for(3)
        eventually(lambda: _states(hub, refused) == ["retrying"] * 3)

        client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"])
        database = client.get_default_database()
        taken_at, dumped = time(), dump(database)
        later = hub.outgoing_webhook(taking.url, events=[kind], name="made after the backup")
        numbered(hub, kind, 2, first=3)
        taking.wait_for(3 + 2 * 2)
        eventually(lambda: _states(hub, refused) == ["retrying"] * 5)
        before = {got.headers["webhook-id"] for got in taking.got}

        for service in hub.services:
            assert hub.stop_service(service) == 0
        restore(database, dumped)
        client.close()
        count = len(taking.got)
        asyncio.run(rewind(durable_bus, taken_at - MARGIN_S))
        for service in hub.services:
            hub.start_service(service)
        for service in hub.services:
            hub.wait_ready(service)

        # Repeated: what came after the backup, with the ids that it had, so that a receiver knows it.
        again = taking.wait_for(count + 2)[count:]
        assert {got.headers["webhook-id"] for got in again} < before
        # Not lost: the log, and the retries of what failed after the backup.
        eventually(lambda: _states(hub, refused) == ["retrying"] * 5)
        eventually(lambda: len(hub.deliveries(status="delivered")) == 5)
        # Lost: what was configured after the backup.
        hub.call("GET", f"/api/outgoing-webhooks/{later['id']}", expect=404)
        # What is sealed opens with the encryption key of the backup.
        numbered(hub, kind, 1, first=5)
        # What the log had at the backup is not repeated, though its events were read again.
        assert sorted(map(n_of, taking.wait_for(count + 3)[count:])) == [3, 4, 5]
        assert read(hub, hub.deliveries(status="delivered")[0]["id"])["status"] == "delivered"


def _states(hub: Hub, webhook: Mapping[str, Any]) -> list[str]:
    return [delivery["status"] for delivery in hub.deliveries(webhook_id=webhook["id"])]
