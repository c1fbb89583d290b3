"""Read the records of a topic without a consumer group: no offset is committed, no consumer is disturbed."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.contracts.envelope import Header
from shared.contracts.errors import BrokerUnavailable, Misconfigured
from shared.contracts.topics import Topic
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.kafka.refusals import explain
from shared.runtime.settings import KafkaSettings

_FETCH_WAIT_MS: Final = 100
_SCAN_FETCH_BYTES: Final = 8 * 1024 * 1024
_RECORD_FETCH_BYTES: Final = 64 * 1024
"""For single records. A broker returns what follows a position, the first batch even if it is larger."""
_POLL_TIMEOUT_MS: Final = 1_000
_TRAILING_RECORD_TIMEOUT_S: Final = 1.0
"""For a record at or after the end offset that the broker reports.

The embedded broker reports the offset after the first record of the last batch, even if the batch has more.
"""
_MAX_EMPTY_POLLS: Final = 10
"""Consecutive polls without a record after which the broker counts as unavailable."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it is in its topic. `at_ms` is its Unix time in ms."""

    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


async def read_topic(settings: KafkaSettings, topic: Topic) -> AsyncIterator[StoredRecord]:
    """Yield the records from the topic's beginning to its end at the time of the call.

    Each partition is in order. The last batch is complete, also if the broker reports an end in its middle.

    Raises `BrokerUnavailable` if there is no broker or it stops answering, `Misconfigured` if the topic does
    not exist.
    """
    client = _client(settings, topic.name, offset_reset="earliest")
    try:
        await client.start()
        partitions = client.assignment()
        if not partitions:
            raise Misconfigured(f"there is no topic {topic.name}: run 'interlink init'")
        ends = await client.end_offsets(partitions)
        async for record in _read_until(client, ends):
            yield record
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(await explain(settings, error, f"Read on topic {topic.name}")) from None
    finally:
        await client.stop()


async def read_records(
    settings: KafkaSettings,
    topic: Topic,
    positions: Collection[RecordPosition],
    *,
    max_bytes: int,
    timeout_s: float,
) -> Mapping[RecordPosition, StoredRecord | None]:
    """Return the records at positions; None for one that is gone (retention, or a broker that lost its data).

    They are read in the order of their positions, until their values have `max_bytes` bytes: further ones are
    not in the result. Raises `BrokerUnavailable` if there is no broker, or they are not all read within
    `timeout_s` seconds.
    """
    found: dict[RecordPosition, StoredRecord | None] = {}
    offsets = defaultdict[int, list[int]](list)
    for partition, offset in sorted(set(positions)):
        offsets[partition].append(offset)
    size = 0
    client = _client(settings, offset_reset="none", fetch_bytes=_RECORD_FETCH_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
            for partition, own in offsets.items():
                async for offset, record in _read_at(client, TopicPartition(topic.name, partition), own):
                    found[partition, offset] = record
                    size += len(record.value or b"") if record else 0
                    if size >= max_bytes:
                        return found
    except TimeoutError:
        raise BrokerUnavailable(f"Kafka did not return the records within {timeout_s:.0f} s") from None
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(await explain(settings, error, f"Read on topic {topic.name}")) from None
    finally:
        await client.stop()
    return found


class RecordCounter:
    """Counts the records that some topics have had, by the ends of their partitions, over one connection."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[Topic]) -> None:
        self._settings = settings
        self._topics = topics
        self._client: AIOKafkaConsumer | None = None
        self._partitions: Sequence[TopicPartition] = ()

    async def count(self) -> int | None:
        """Return the sum of the end offsets; None if the broker does not answer."""
        try:
            if self._client is None:
                await self._connect()
            assert self._client is not None  # noqa: S101 -- connected above
            ends: Mapping[TopicPartition, int] = await self._client.end_offsets(self._partitions)
        except (KafkaError, OSError):
            await self.stop()
            return None
        return sum(ends.values())

    async def start(self) -> None:
        """Do nothing: the first count connects."""

    async def stop(self) -> None:
        """Disconnect, until the next count."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()

    async def _connect(self) -> None:
        self._client = client = _client(self._settings, offset_reset="latest")
        await client.start()
        # Without an assignment, nothing is fetched: that would need the right to read the topics.
        self._partitions = [
            TopicPartition(topic.name, number)
            for topic in self._topics
            for number in await client._client._wait_on_metadata(topic.name)
        ]


async def _read_at(
    client: AIOKafkaConsumer, partition: TopicPartition, offsets: Sequence[int]
) -> AsyncIterator[tuple[int, StoredRecord | None]]:
    """Yield the records of a partition at ascending offsets; None for one that is not there."""
    client.assign([partition])
    first = (await client.beginning_offsets([partition]))[partition]
    end = (await client.end_offsets([partition]))[partition]
    following: int | None = None
    is_over = False
    for offset in offsets:
        if offset < first or is_over:
            yield offset, None
            continue
        if offset != following:  # else it is fetched already: a seek would fetch its batch again
            client.seek(partition, offset)
        record = await (client.getone(partition) if offset < end else _read_trailing(client, partition))
        is_over = record is None
        following = record.offset + 1 if record else None
        yield offset, _stored(record) if record and record.offset == offset else None


async def _read_trailing(client: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    """Return the next record at or after the reported end; None if there is none."""
    try:
        async with asyncio.timeout(_TRAILING_RECORD_TIMEOUT_S):
            return await client.getone(partition)
    except (TimeoutError, OffsetOutOfRangeError):
        return None


def _client(
    settings: KafkaSettings, *topics: str, offset_reset: str, fetch_bytes: int = _SCAN_FETCH_BYTES
) -> AIOKafkaConsumer:
    """Return a consumer without a group, which fetches about `fetch_bytes` at a time."""
    return AIOKafkaConsumer(
        *topics,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset=offset_reset,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=fetch_bytes,  # the embedded broker knows only this one
        request_timeout_ms=10_000,
        **connection(settings),
    )


async def _read_until(
    client: AIOKafkaConsumer, ends: dict[TopicPartition, int]
) -> AsyncIterator[StoredRecord]:
    """Yield records until the position of every partition has reached its end."""
    empty_polls = 0
    while [partition for partition, end in ends.items() if await client.position(partition) < end]:
        polled = await client.getmany(timeout_ms=_POLL_TIMEOUT_MS)
        empty_polls = 0 if polled else empty_polls + 1
        if empty_polls == _MAX_EMPTY_POLLS:
            raise BrokerUnavailable("Kafka stopped answering in the middle of the topic")
        for records in polled.values():
            for record in records:
                yield _stored(record)


def _stored(record: Any) -> StoredRecord:
    return StoredRecord(
        record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
    )
