"""Follow topics from about their end on, without a consumer group, for live views.

Records may be left out: a reader that is too far behind goes on at the end of the partition, and reports it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.envelope import Header
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import Topic
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.fetch_pacing import FetchPacing
from shared.runtime.kafka.membership import consumer_client_id
from shared.runtime.kafka.refusals import explain
from shared.runtime.kafka.wake_ups import WakeUpReceiver
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_MAX_RECORDS: Final = 500
"""Records of one batch. There are at most four batches a second."""
_INTERVAL_S: Final = 0.25
_MAX_BEHIND: Final = 2_000
"""Unread records of a partition above which reading goes on at its end."""
_MAX_FETCH_BYTES: Final = 8 * 1024 * 1024
_START_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class TailedRecord:
    """The topic and headers of a record."""

    topic: str
    headers: Sequence[Header]


@dataclass(frozen=True, slots=True)
class TailBatch:
    """Records in the order of each partition. `is_incomplete` is True if some were left out."""

    records: Sequence[TailedRecord]
    is_incomplete: bool


async def tail(
    settings: KafkaSettings, topics: Sequence[Topic], log: Log, *, name: str, past: int
) -> AsyncGenerator[TailBatch, None]:
    """Yield new records of the topics, after the last `past` records of each partition.

    `name` identifies this process. Yields a batch at least once a second, which may be empty. Raises
    `BrokerUnavailable` if there is no broker, or it goes away.
    """
    names = [topic.name for topic in topics]
    client_id = consumer_client_id("tail", name)
    wake_ups = WakeUpReceiver(settings.wake_folder, names, client_id, log)
    client = AIOKafkaConsumer(
        *names,
        client_id=client_id,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        fetch_max_bytes=_MAX_FETCH_BYTES,
        max_partition_fetch_bytes=_MAX_FETCH_BYTES,
        client_rack=settings.client_rack,
        **connection(settings),
    )
    wake_ups.start()
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            await client.start()
            await _seek_back(client, past)
        FetchPacing(answers_held_fetches=settings.answers_held_fetches, wake_ups=wake_ups).install(client)
        while True:
            yield await _next_batch(client)
            await asyncio.sleep(_INTERVAL_S)
    except (KafkaError, TimeoutError, OSError) as error:
        raise BrokerUnavailable(await explain(settings, error, f"Read on {', '.join(names)}")) from None
    finally:
        wake_ups.stop()
        await client.stop()


async def _seek_back(client: AIOKafkaConsumer, past: int) -> None:
    partitions = client.assignment()
    ends = await client.end_offsets(partitions)
    beginnings = await client.beginning_offsets(partitions)
    for partition, end in ends.items():
        client.seek(partition, max(beginnings[partition], end - past))


async def _next_batch(client: AIOKafkaConsumer) -> TailBatch:
    polled = await client.getmany(timeout_ms=1_000, max_records=_MAX_RECORDS)
    records = [
        TailedRecord(partition.topic, record.headers)
        for partition, found in polled.items()
        for record in found
    ]
    late = [partition for partition in polled if await _is_late(client, partition)]
    if late:
        await client.seek_to_end(*late)
    return TailBatch(records, is_incomplete=bool(late))


async def _is_late(client: AIOKafkaConsumer, partition: TopicPartition) -> bool:
    end = client.highwater(partition)
    return end is not None and end - await client.position(partition) > _MAX_BEHIND
