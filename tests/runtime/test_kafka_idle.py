"""Consumers that have nothing to do: how often they fetch, and what gets their attention."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from structlog.testing import ReturnLogger

from shared.contracts.envelope import Event
from shared.contracts.errors import RetryLater
from shared.contracts.ids import EventId
from shared.contracts.topics import Topic
from shared.runtime.kafka import fetch_pacing
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.consumer import Consumer
from shared.runtime.kafka.producer import Producer, event_record, partition_of
from shared.runtime.kafka.wake_ups import WakeUpReceiver, WakeUpSender
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings
from tests.support.backends import Bus
from tests.support.tap import RawRecord, put

LOG: Log = structlog.wrap_logger(
    ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)
PARTITIONS = 2
FOR_EVER_S = 600.0
BATCHES = 4_000


def event() -> Event:
    return Event(EventId(f"evt-{token_hex(8)}"), "t", "/test", "default", "2026-01-02T03:04:05.000Z", b"{}")


@dataclass
class Group:
    """A consumer group of a topic with two partitions, with what its members handled."""

    bus: Bus
    settings: KafkaSettings
    topic: Topic
    handled: Counter[str] = field(default_factory=Counter)

    async def handle(self, batch: Sequence[ConsumedEvent]) -> None:
        self.handled.update(consumed.event.id for consumed in batch)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        producer = Producer(self.settings, LOG, client_id="test")
        producer.start()
        try:
            await producer.wait_ready(10)
            yield producer
        finally:
            await producer.stop()

    @asynccontextmanager
    async def member(self, producer: Producer, handler: Any = None) -> AsyncIterator[Consumer]:
        """A member that has got partitions and has fetched from them."""
        consumer = Consumer(
            self.settings,
            producer,
            LOG,
            group=self.topic.name,
            topics=[self.topic],
            handler=handler or self.handle,
        )
        try:
            consumer.start()
            await until(lambda: consumer.ready)
            yield consumer
        finally:
            await consumer.stop(timeout_s=10)

    async def publish(self, producer: Producer, partition: int) -> str:
        """Publish an event on a partition, as a service of the hub does; return its id."""
        published = event()
        keys = (str(number) for number in range(1000))
        key = next(key for key in keys if partition_of(key.encode(), PARTITIONS) == partition)
        await producer.publish(event_record(self.topic, key, published), timeout_s=10)
        return published.id


async def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.02)


def group_on(bus: Bus) -> Group:
    connection = {name.removeprefix("KAFKA_").lower(): value for name, value in bus.env.items()}
    settings = KafkaSettings.model_validate({**connection, "session_timeout_ms": 6000})
    topic = Topic(f"test.{token_hex(6)}", "any", "A test's.", (), ())

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic.name, PARTITIONS, 1)])
        finally:
            await admin.close()

    asyncio.run(create())
    return Group(bus, settings, topic)


@pytest.fixture
def embedded(bus: Bus) -> Group:
    return group_on(bus)


@pytest.fixture
def real(kafka: Bus) -> Group:
    group = group_on(kafka)
    if not group.settings.answers_held_fetches:
        pytest.skip("needs a broker that answers held fetches")
    return group


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests to brokers in this process, by kind."""
    sent: Counter[str] = Counter()
    send = AIOKafkaClient.send

    async def counted(self: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
        sent[type(request).__name__] += 1
        return await send(self, node_id, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", counted)
    return sent


@pytest.mark.parametrize(("broker", "max_fetches"), [("real", 4), ("embedded", 20)])
def test_an_idle_consumer_sends_few_fetches(
    broker: str, max_fetches: int, requests: Counter[str], request: pytest.FixtureRequest
) -> None:
    group: Group = request.getfixturevalue(broker)

    async def run() -> int:
        async with group.producer() as producer, group.member(producer):
            await asyncio.sleep(2)  # it has been idle for a while
            before = requests["FetchRequest"]
            await asyncio.sleep(3)
            return requests["FetchRequest"] - before

    assert 1 <= asyncio.run(run()) <= max_fetches


def test_a_producer_of_the_hub_wakes_an_idle_consumer(
    embedded: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_pacing, "_MIN_PAUSE_S", FOR_EVER_S)
    monkeypatch.setattr(fetch_pacing, "_MAX_PAUSE_S", FOR_EVER_S)

    async def run() -> None:
        async with embedded.producer() as producer, embedded.member(producer):
            for number in range(5):
                await asyncio.sleep(0.2)
                published = await embedded.publish(producer, number % PARTITIONS)
                await until(lambda: embedded.handled[published] > 0)  # noqa: B023 -- used at once

    asyncio.run(run())


def test_a_wake_up_fetches_the_partition_that_has_the_record(
    embedded: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker pays for each partition of a fetch."""
    fetched: list[set[int]] = []
    send = AIOKafkaClient.send

    async def noted(self: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            fetched.append({partition for _, partitions in request.topics for partition, _, _ in partitions})
        return await send(self, node_id, request, **options)

    async def run() -> None:
        async with embedded.producer() as producer, embedded.member(producer):
            await asyncio.sleep(0.5)
            monkeypatch.setattr(fetch_pacing, "_MIN_PAUSE_S", FOR_EVER_S)
            monkeypatch.setattr(fetch_pacing, "_MAX_PAUSE_S", FOR_EVER_S)
            await embedded.publish(producer, 0)
            await until(lambda: embedded.handled.total() == 1)
            monkeypatch.setattr(AIOKafkaClient, "send", noted)
            for number in range(6):
                published = await embedded.publish(producer, number % PARTITIONS)
                await until(lambda: embedded.handled[published] > 0)  # noqa: B023 -- used at once

    asyncio.run(run())
    assert {0} in fetched
    assert {1} in fetched
    assert {0, 1} not in fetched


def test_wake_ups_of_one_partition_do_not_hide_the_records_of_another(embedded: Group) -> None:
    """Their producer wakes nobody. All partitions are fetched each second, whatever wake-ups there are."""
    unannounced = event()
    record = RawRecord(b"k", unannounced.data, unannounced.headers())
    other = 1 - partition_of(b"k", PARTITIONS)

    async def run() -> None:
        async with embedded.producer() as producer, embedded.member(producer):
            await asyncio.to_thread(put, embedded.bus, embedded.topic.name, [record])
            async with asyncio.timeout(60):
                while not embedded.handled[unannounced.id]:
                    await embedded.publish(producer, other)

    asyncio.run(run())


def test_a_record_of_a_producer_that_wakes_nobody_is_found(embedded: Group) -> None:
    envelope = event()
    record = RawRecord(b"k", envelope.data, envelope.headers())

    async def run() -> None:
        async with embedded.producer() as producer, embedded.member(producer):
            await asyncio.sleep(1)
            await asyncio.to_thread(put, embedded.bus, embedded.topic.name, [record])
            await until(lambda: embedded.handled[envelope.id] > 0)

    asyncio.run(run())


def test_a_record_behind_more_batches_than_the_broker_reads_within_a_wait_is_found(
    embedded: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker reads them one by one, and finds nothing if its wait ends before."""
    monkeypatch.setattr(fetch_pacing, "_SHORT_WAIT_MS", 1)
    waits_ms: list[int] = []
    send = AIOKafkaClient.send

    async def recorded(self: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            waits_ms.append(request._max_wait_ms)
        return await send(self, node_id, request, **options)

    async def run() -> None:
        async with embedded.producer() as producer, embedded.member(producer):
            for _ in range(BATCHES):
                await embedded.publish(producer, 0)
            await until(lambda: embedded.handled.total() == BATCHES)
            monkeypatch.setattr(AIOKafkaClient, "send", recorded)
            published = await embedded.publish(producer, 0)
            await until(lambda: embedded.handled[published] > 0)
            await asyncio.sleep(0.5)

    asyncio.run(run())
    if not embedded.settings.answers_held_fetches:
        assert max(waits_ms) > 1
        assert waits_ms[-1] == 1  # a fetch that finds nothing is not held for longer


def test_a_rebalance_does_not_wait_for_the_fetch_that_the_broker_holds(
    real: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_pacing, "_MAX_WAIT_MS", int(FOR_EVER_S * 1000))

    async def run() -> None:
        async with real.producer() as producer, real.member(producer) as first:
            async with real.member(producer) as second:
                await until(lambda: len(first.assigned) == len(second.assigned) == 1)
                [own], [gained] = first.partitions, second.partitions
                # Ends the fetch of both partitions from before the second member.
                published = await real.publish(producer, own)
                await until(lambda: real.handled[published] > 0)
                await asyncio.sleep(0.5)  # the next one is held
            await until(lambda: len(first.assigned) == PARTITIONS)
            published = await real.publish(producer, gained)
            await until(lambda: real.handled[published] > 0)

    asyncio.run(run())


def test_a_held_partition_does_not_wait_for_a_fetch_of_the_others(
    real: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_pacing, "_MAX_WAIT_MS", int(FOR_EVER_S * 1000))
    failures: list[int] = []

    async def fail_first(batch: Sequence[ConsumedEvent]) -> None:
        if len(failures) < 2:
            failures.append(len(batch))
            raise RetryLater("not yet")
        await real.handle(batch)

    async def run() -> None:
        async with real.producer() as producer, real.member(producer, fail_first):
            first = await real.publish(producer, 0)
            await until(lambda: real.handled[first] > 0)
            second = await real.publish(producer, 0)
            await until(lambda: real.handled[second] > 0)

    asyncio.run(run())


# Wake-ups alone


def test_wake_ups_are_for_the_consumers_of_the_topic(tmp_path: Path) -> None:
    async def run() -> None:
        sender = WakeUpSender(tmp_path)
        one, both = (
            WakeUpReceiver(tmp_path, topics, name, LOG)
            for topics, name in ((["a"], "one"), (["a", "b"], "both"))
        )
        sender.send("a", [0])  # nobody listens, and there is not even a folder
        sender.close()
        for receiver in (one, both):
            receiver.start()
        sender.send("b", [3, 254, 255])
        await asyncio.wait_for(both.event.wait(), 60)
        assert not one.event.is_set()
        parts = {TopicPartition("b", number) for number in (3, 4, 254, 255, 256)}
        # Numbers from 255 on have no byte of their own: any partition may have records.
        assert both.take(parts - {TopicPartition("b", 3)}, parts) == parts - {TopicPartition("b", 3)}
        assert not both.event.is_set()
        assert both.take(parts, parts) == {TopicPartition("b", 3)}, "kept until it is offered"
        assert both.take(parts, parts) == set()
        sender.send("b", [3])
        await asyncio.wait_for(both.event.wait(), 60)
        assert both.take(set(), parts - {TopicPartition("b", 3)}) == set()
        assert both.take(parts, parts) == set(), "forgotten when it belonged to another member"
        for number in range(100_000):  # more than a FIFO holds
            sender.send("a", [number % 7])
        for receiver in (one, both):
            await asyncio.wait_for(receiver.event.wait(), 60)
            lost = {TopicPartition("a", 200)}
            assert receiver.take(lost, lost) == lost, "its wake-up may be one of those that were lost"
        one.stop()
        sender.send("a", [0])
        both.stop()
        sender.send("a", [0])
        sender.close()

    asyncio.run(run())
    assert [path for path in tmp_path.rglob("*") if path.is_fifo()] == []


def test_what_a_killed_consumer_left_behind_is_used_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "consumer")
    (tmp_path / "a" / "file").write_text("not a FIFO")

    async def run() -> None:
        sender, receiver = WakeUpSender(tmp_path), WakeUpReceiver(tmp_path, ["a"], "consumer", LOG)
        sender.send("a", [0])
        sender.close()
        receiver.start()
        sender.send("a", [0])
        await asyncio.wait_for(receiver.event.wait(), 60)
        receiver.stop()
        sender.close()

    asyncio.run(run())
    assert (tmp_path / "a" / "file").read_text() == "not a FIFO"


def test_a_folder_that_cannot_hold_fifos_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def run() -> None:
        receiver = WakeUpReceiver(tmp_path / "file", ["a"], "consumer", LOG)
        receiver.start()
        assert not receiver.event.is_set()
        receiver.stop()
        WakeUpSender(tmp_path / "file").send("a", [0])

    asyncio.run(run())
