"""Reading a topic as it stands, as an operator does: without a group, so nothing is taken from anybody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.contracts.envelope import Header
from shared.contracts.errors import BrokerUnavailable, Misconfigured
from shared.contracts.topics import Topic
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.settings import KafkaSettings

_FETCH_WAIT_MS: Final = 100
_POLL_TIMEOUT_MS: Final = 1_000
_TRAILING_RECORD_TIMEOUT_S: Final = 1.0
"""How long a record is waited for that stands behind the end which the broker tells.

The embedded broker tells the place behind the first record of the last batch, whatever the batch has.
"""
_MAX_EMPTY_POLLS: Final = 10
"""Polls without a record, one after the other, until the broker is taken to be away."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record where it stands; `at_ms` is its time."""

    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


async def read_topic(settings: KafkaSettings, topic: Topic) -> AsyncIterator[StoredRecord]:
    """Every record from the topic's beginning to its end at the time of the call, each partition in order.

    The batch that is the last one comes whole, also where the broker tells an end in the middle of it.

    Raises `BrokerUnavailable` when there is no broker or it stops answering, `Misconfigured` when there is no
    such topic.
    """
    client = _client(settings, topic.name, offset_reset="earliest")
    try:
        await client.start()
        partitions = client.assignment()
        if not partitions:
            raise Misconfigured(f"there is no topic {topic.name}: run 'interlink init'")
        ends = await client.end_offsets(partitions)
        async for kept in _read_until(client, ends):
            yield kept
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await client.stop()


async def read_record(
    settings: KafkaSettings, topic: Topic, place: RecordPosition, *, timeout_s: float
) -> StoredRecord | None:
    """The record at a place; None when it is no longer there (retention, or a broker that forgot).

    Raises `BrokerUnavailable` when there is no broker, or no answer within `within_s` seconds.
    """
    partition, offset = TopicPartition(topic.name, place[0]), place[1]
    client = _client(settings, offset_reset="none")
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
            client.assign([partition])
            first = (await client.beginning_offsets([partition]))[partition]
            end = (await client.end_offsets([partition]))[partition]
            if offset < first:
                return None
            client.seek(partition, offset)
            record = await (client.getone(partition) if offset < end else _read_trailing(client, partition))
    except TimeoutError:
        raise BrokerUnavailable(f"Kafka did not give the record within {timeout_s:.0f} s") from None
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"no Kafka broker at {settings.bootstrap_servers}: {error}") from None
    finally:
        await client.stop()
    if record is None or record.offset != offset:
        return None
    return StoredRecord(
        record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
    )


async def _read_trailing(client: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    """The next record, behind the end; None when there is none."""
    try:
        async with asyncio.timeout(_TRAILING_RECORD_TIMEOUT_S):
            return await client.getone(partition)
    except (TimeoutError, OffsetOutOfRangeError):
        return None


def _client(settings: KafkaSettings, *topics: str, offset_reset: str) -> AIOKafkaConsumer:
    """A consumer of no group."""
    return AIOKafkaConsumer(
        *topics,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset=offset_reset,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=8 * 1024 * 1024,
        request_timeout_ms=10_000,
        **connection(settings),
    )


async def _read_until(
    client: AIOKafkaConsumer, ends: dict[TopicPartition, int]
) -> AsyncIterator[StoredRecord]:
    silent = 0
    while [each for each, end in ends.items() if await client.position(each) < end]:
        polled = await client.getmany(timeout_ms=_POLL_TIMEOUT_MS)
        silent = 0 if polled else silent + 1
        if silent == _MAX_EMPTY_POLLS:
            raise BrokerUnavailable("Kafka stopped answering in the middle of the topic")
        for records in polled.values():
            for record in records:
                yield StoredRecord(
                    record.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.headers,
                )
