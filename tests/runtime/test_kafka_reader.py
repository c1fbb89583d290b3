"""Reading a topic, at a broker that reports its end wrongly and at one that reports it right."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from secrets import token_hex

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer import fetcher

from shared.contracts.topics import Topic
from shared.runtime.kafka import tail as tail_module
from shared.runtime.kafka.reader import RecordCounter, StoredRecord, read_records, read_topic
from shared.runtime.kafka.tail import TailBatch, tail
from shared.runtime.logs import configure
from shared.runtime.settings import KafkaSettings
from tests.support.backends import Bus

BATCHES = (3, 1, 5)


@pytest.fixture(params=["bus", "kafka"])
def broker(request: pytest.FixtureRequest) -> Bus:
    """The embedded broker, and the best other broker that is available."""
    records: Bus = request.getfixturevalue(request.param)
    return records


def _settings(broker: Bus) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=broker.env["KAFKA_BOOTSTRAP_SERVERS"])


def _topic(name: str) -> Topic:
    return Topic(name=name, key="", about="", producers=(), consumers=())


async def _write_batches(broker: Bus, name: str, batches: Sequence[int]) -> None:
    """Create a topic of one partition with batches of these sizes; a record's value is its offset."""
    servers = broker.env["KAFKA_BOOTSTRAP_SERVERS"]
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        number = 0
        for size in batches:
            batch = producer.create_batch()
            for _ in range(size):
                batch.append(key=None, value=b"%d" % number, timestamp=None)
                number += 1
            await (await producer.send_batch(batch, name, partition=0))


def test_a_topic_is_read_to_the_end_of_its_last_batch(broker: Bus) -> None:
    name = f"read-{token_hex(4)}"

    async def read() -> list[StoredRecord]:
        await _write_batches(broker, name, BATCHES)
        return [record async for record in read_topic(_settings(broker), _topic(name))]

    records = asyncio.run(read())
    assert [(record.offset, record.value) for record in records] == [
        (n, b"%d" % n) for n in range(sum(BATCHES))
    ]


def test_each_record_is_read_at_its_position_and_none_after_the_end(broker: Bus) -> None:
    name = f"read-{token_hex(4)}"

    async def read(*offsets: int, max_bytes: int = 1000) -> dict[int, bytes | None]:
        positions = [(0, offset) for offset in offsets]
        found = await read_records(
            _settings(broker), _topic(name), positions, max_bytes=max_bytes, timeout_s=10
        )
        return {offset: record.value if record else None for (_, offset), record in found.items()}

    async def read_all() -> None:
        await _write_batches(broker, name, BATCHES)
        inside = {offset: b"%d" % offset for offset in (0, 2, 3, 4, 6, 8)}
        assert await read(8, 6, 4, 3, 2, 0, 9, 1000) == inside | {9: None, 1000: None}
        assert await read(1000, 9, max_bytes=1) == {9: None, 1000: None}
        assert await read(5, 7, 3, max_bytes=2) == {3: b"3", 5: b"5"}

    asyncio.run(read_all())


def test_little_more_is_fetched_than_the_records_that_are_read(
    broker: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker sends everything that follows a record, if it may; a large record comes as a whole."""
    name, large, fetched = f"read-{token_hex(4)}", b"x" * 500_000, list[int]()

    class Fetched(fetcher.MemoryRecords):  # type: ignore[misc]
        def __init__(self, data: bytes) -> None:
            fetched.append(len(data))
            super().__init__(data)

    async def read() -> list[bytes | None]:
        await _write_batches(broker, name, [1])
        async with AIOKafkaProducer(bootstrap_servers=broker.env["KAFKA_BOOTSTRAP_SERVERS"]) as producer:
            for _ in range(8):
                await producer.send_and_wait(name, large, partition=0)
        monkeypatch.setattr(fetcher, "MemoryRecords", Fetched)
        positions = [(0, 0), (0, 1), (0, 4)]
        found = await read_records(_settings(broker), _topic(name), positions, max_bytes=10**6, timeout_s=10)
        return [record.value if record else None for record in found.values()]

    assert asyncio.run(read()) == [b"0", large, large]
    assert max(fetched) < 600_000


def test_a_count_grows_with_each_batch_and_is_unknown_without_a_broker(broker: Bus) -> None:
    name = f"read-{token_hex(4)}"

    async def counts() -> list[int | None]:
        await _write_batches(broker, name, (1,))
        counter = RecordCounter(_settings(broker), [_topic(name)])
        found = [await counter.count(), await counter.count()]
        async with AIOKafkaProducer(bootstrap_servers=broker.env["KAFKA_BOOTSTRAP_SERVERS"]) as producer:
            await producer.send_and_wait(name, b"more", partition=0)
        found.append(await counter.count())
        await counter.stop()
        nowhere = RecordCounter(KafkaSettings(bootstrap_servers="127.0.0.1:1"), [_topic(name)])
        return [*found, await nowhere.count()]

    assert asyncio.run(counts()) == [1, 1, 2, None]


def test_a_tail_has_the_last_records_then_new_ones_and_says_what_it_left_out(
    broker: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_MAX_RECORDS", 1)
    monkeypatch.setattr(tail_module, "_MAX_BEHIND", 3)
    name = f"tail-{token_hex(4)}"

    async def follow() -> tuple[int, list[bool]]:
        await _write_batches(broker, name, [1] * 10)
        batches = tail(
            _settings(broker), [_topic(name)], configure("test", "error"), name=token_hex(4), past=8
        )
        async with asyncio.timeout(60), aclosing(batches):
            found = [batch async for batch in _first_with_records(batches, 1)]
            assert found[0].is_incomplete, "seven more are behind the first of the last eight"
            writer = AIOKafkaProducer(bootstrap_servers=broker.env["KAFKA_BOOTSTRAP_SERVERS"])
            async with writer:
                for _ in range(2):
                    await writer.send_and_wait(name, b"", partition=0)
            found += [batch async for batch in _first_with_records(batches, 2)]
        return sum(len(batch.records) for batch in found), [batch.is_incomplete for batch in found]

    assert asyncio.run(follow()) == (3, [True, False, False])


async def _first_with_records(
    batches: AsyncGenerator[TailBatch, None], count: int
) -> AsyncIterator[TailBatch]:
    while count:
        batch = await anext(batches)
        if batch.records:
            count -= 1
            yield batch
