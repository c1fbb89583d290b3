"""Reading a topic as it stands, as an operator does: without a group, so nothing is taken from anybody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.contracts.envelope import Header
from shared.contracts.errors import BusUnavailable, Misconfigured
from shared.contracts.topics import Topic
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.produce import Place
from shared.runtime.settings import KafkaSettings

_HELD_MS: Final = 100
_POLL_MS: Final = 1_000
_LATE_S: Final = 1.0
"""How long a record is waited for that stands behind the end which the broker tells.

The embedded broker tells the place behind the first record of the last batch, whatever the batch has.
"""
_SILENT: Final = 10
"""Polls without a record, one after the other, until the broker is taken to be away."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record where it stands; `at_ms` is its time."""

    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


async def read_topic(settings: KafkaSettings, topic: Topic) -> AsyncIterator[Kept]:
    """Every record from the topic's beginning to its end at the time of the call, each partition in order.

    The batch that is the last one comes whole, also where the broker tells an end in the middle of it.

    Raises `BusUnavailable` when there is no broker or it stops answering, `Misconfigured` when there is no
    such topic.
    """
    client = _client(settings, topic.name, beginning_at="earliest")
    try:
        await client.start()
        partitions = client.assignment()
        if not partitions:
            raise Misconfigured(f"there is no topic {topic.name}: run 'interlink init'")
        ends = await client.end_offsets(partitions)
        async for kept in _until(client, ends):
            yield kept
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await client.stop()


async def read_record(settings: KafkaSettings, topic: Topic, place: Place, *, within_s: float) -> Kept | None:
    """The record at a place; None when it is no longer there (retention, or a broker that forgot).

    Raises `BusUnavailable` when there is no broker, or no answer within `within_s` seconds.
    """
    partition, offset = TopicPartition(topic.name, place[0]), place[1]
    client = _client(settings, beginning_at="none")
    try:
        async with asyncio.timeout(within_s):
            await client.start()
            client.assign([partition])
            first = (await client.beginning_offsets([partition]))[partition]
            end = (await client.end_offsets([partition]))[partition]
            if offset < first:
                return None
            client.seek(partition, offset)
            record = await (client.getone(partition) if offset < end else _late(client, partition))
    except TimeoutError:
        raise BusUnavailable(f"Kafka did not give the record within {within_s:.0f} s") from None
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await client.stop()
    if record is None or record.offset != offset:
        return None
    return Kept(record.partition, record.offset, record.timestamp, record.key, record.value, record.headers)


async def _late(client: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    """The next record, behind the end; None when there is none."""
    try:
        async with asyncio.timeout(_LATE_S):
            return await client.getone(partition)
    except (TimeoutError, OffsetOutOfRangeError):
        return None


def _client(settings: KafkaSettings, *topics: str, beginning_at: str) -> AIOKafkaConsumer:
    """A consumer of no group."""
    return AIOKafkaConsumer(
        *topics,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset=beginning_at,
        fetch_max_wait_ms=_HELD_MS,
        max_partition_fetch_bytes=8 * 1024 * 1024,
        request_timeout_ms=10_000,
        **connection(settings),
    )


async def _until(client: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> AsyncIterator[Kept]:
    silent = 0
    while [each for each, end in ends.items() if await client.position(each) < end]:
        polled = await client.getmany(timeout_ms=_POLL_MS)
        silent = 0 if polled else silent + 1
        if silent == _SILENT:
            raise BusUnavailable("Kafka stopped answering in the middle of the topic")
        for records in polled.values():
            for record in records:
                yield Kept(
                    record.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.headers,
                )
