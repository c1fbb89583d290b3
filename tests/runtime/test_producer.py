"""The producer on a real broker: records published at the same time, also more than fit in a batch."""

import asyncio
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import ReturnLogger

from services.gateway.ingest.quotas import WorkspaceQuotas
from services.gateway.settings import GatewaySettings
from shared.contracts.errors import BrokerUnavailable, TooLarge, Unacknowledged
from shared.contracts.topics import Topic
from shared.runtime.kafka.producer import Producer, Record, RecordPosition
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings
from tests.support.backends import Bus
from tests.support.tap import Tap

LOG: Log = structlog.wrap_logger(
    ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)


@pytest.fixture
def settings(bus: Bus) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {name.removeprefix("KAFKA_").lower(): value for name, value in bus.env.items()}
    )


@pytest.fixture
def topic(settings: KafkaSettings) -> Topic:
    name = f"test.{token_hex(6)}"

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, 3, 1)])
        finally:
            await admin.close()

    asyncio.run(create())
    return Topic(name, "any", "A test's.", (), ())


@pytest.mark.parametrize("size", [10, 100_000], ids=["one batch", "several batches"])
def test_records_published_at_once_get_positions_of_their_own_in_order(
    bus: Bus, settings: KafkaSettings, topic: Topic, size: int
) -> None:
    """Of 100 KB, a batch has room for two: a record that finds it full goes to the next one."""
    tap = Tap(bus, topic.name)
    records = [
        Record(topic, b"key-%d" % (number % 5), b"%06d" % number + b"." * size, [("n", b"%d" % number)])
        for number in range(20)
    ]

    async def publish() -> list[RecordPosition]:
        producer = Producer(settings, LOG, client_id="test")
        producer.start()
        try:
            await producer.wait_ready(10)
            return await asyncio.gather(*(producer.publish(record, timeout_s=20) for record in records))
        finally:
            await producer.stop()

    positions = asyncio.run(publish())
    stored = {(item.partition, item.offset): item for item in tap.look()}
    assert len(stored) == len(records)
    for record, position in zip(records, positions, strict=True):
        assert stored[position].value == record.value
        assert stored[position].key == record.key
    for key in {record.key for record in records}:
        of_key = [position for record, position in zip(records, positions, strict=True) if record.key == key]
        assert of_key == sorted(of_key)


def test_a_record_that_no_broker_accepts_is_refused_beside_others(
    settings: KafkaSettings, topic: Topic
) -> None:
    async def publish() -> None:
        producer = Producer(settings, LOG, client_id="test")
        producer.start()
        try:
            await producer.wait_ready(10)
            small = Record(topic, b"key", b"{}", [])
            results = await asyncio.gather(
                producer.publish(small, timeout_s=20),
                producer.publish(small._replace(value=b"." * (9 * 1024 * 1024)), timeout_s=20),
                producer.publish(small, timeout_s=20),
                return_exceptions=True,
            )
        finally:
            await producer.stop()
        assert [isinstance(result, TooLarge) for result in results] == [False, True, False]
        with pytest.raises(BrokerUnavailable):
            await producer.publish(small, timeout_s=1)

    asyncio.run(publish())


def test_a_batch_is_published_as_a_whole_or_counted(bus: Bus, settings: KafkaSettings, topic: Topic) -> None:
    """With a record that is too large, none is sent. After a send without an answer, some may be."""
    tap = Tap(bus, topic.name)

    class Usage:
        events = 0

        def add(self, _workspace: str, counts: dict[str, int]) -> None:
            self.events += counts["events"]

    usage = Usage()
    no_topic = Topic("no such topic!", "any", "No broker has it.", (), ())
    nowhere = cast("Any", SimpleNamespace(collection=lambda _name: None))
    quotas = WorkspaceQuotas(GatewaySettings.model_construct(), cast("Any", usage), *[nowhere] * 3)

    async def publish(producer: Producer, records: list[Record], timeout_s: float) -> None:
        with quotas.counted("w", [record.value for record in records]):
            await producer.publish_all(records, timeout_s=timeout_s)

    async def run() -> None:
        producer = Producer(settings, LOG, client_id="test")
        producer.start()
        try:
            await producer.wait_ready(10)
            small = Record(topic, b"key", b"{}", [])
            # Too large with its key and headers only: aiokafka counts them too.
            large = Record(topic, b"k" * 500, bytes(8 * 1024 * 1024 - 1000), [("h", b"v" * 500)])
            with pytest.raises(TooLarge):
                await producer.publish_all([small, small, large], timeout_s=20)
            assert await asyncio.to_thread(tap.look) == []
            await publish(producer, [small, small], 20)
            assert usage.events == 2
            with pytest.raises(Unacknowledged):
                await publish(producer, [small, small, small._replace(topic=no_topic)], 1)
            assert usage.events == 5
            with pytest.raises(BrokerUnavailable):  # at once: the client is being replaced
                await publish(producer, [small], 20)
            assert usage.events == 5
            assert len(await asyncio.to_thread(tap.look)) == 4
        finally:
            await producer.stop()

    asyncio.run(run())
