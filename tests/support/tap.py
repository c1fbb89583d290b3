"""Topics as a stranger sees them: plain aiokafka, none of the hub's code."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.support.backends import Bus
from tests.support.eventually import eventually

_WITHIN_S = 60.0


@dataclass(frozen=True)
class TopicRecord:
    """A record as it stands on the topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @cached_property
    def attributes(self) -> Mapping[str, str]:
        """The headers as text, without those that are null."""
        return {name: raw.decode(errors="replace") for name, raw in self.headers if raw is not None}

    @cached_property
    def data(self) -> Any:
        """The value, which is JSON."""
        return json.loads(self.value or b"null")


class Tap:
    """What is put on a topic from the moment that the tap is made."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
        self._topic = topic
        self._next: dict[TopicPartition, int] = asyncio.run(self._ends())
        self.records: list[TopicRecord] = []

    def look(self) -> list[TopicRecord]:
        """Everything so far, each partition in its order."""
        asyncio.run(self._read())
        return self.records

    def wait_for(self, count: int, within_s: float = _WITHIN_S) -> list[TopicRecord]:
        """Everything so far, once there are `count` records."""
        eventually(lambda: len(self.look()) >= count, within_s)
        return self.records

    async def _ends(self) -> dict[TopicPartition, int]:
        async with asyncio.timeout(_WITHIN_S), self._consumer() as consumer:
            partitions = consumer.assignment()
            assert partitions, f"there is no topic {self._topic}"
            return dict(await consumer.end_offsets(partitions))

    async def _read(self) -> None:
        async with asyncio.timeout(_WITHIN_S), self._consumer() as consumer:
            ends = await consumer.end_offsets(self._next)
            for each, offset in self._next.items():
                consumer.seek(each, offset)
            while any(offset < ends[each] for each, offset in self._next.items()):
                for each, records in (await consumer.getmany(timeout_ms=200)).items():
                    self.records += [
                        TopicRecord(r.partition, r.offset, r.key, r.value, r.headers) for r in records
                    ]
                    self._next[each] = records[-1].offset + 1

    def _consumer(self) -> AIOKafkaConsumer:
        """Without a group, it is given every partition."""
        return AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )


def committed(bus: Bus, group: str, topic: str) -> dict[int, int]:
    """Where a group goes on, by partition; without those where it has not committed anything."""

    async def ask() -> dict[int, int]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"], group_id=group, enable_auto_commit=False
        )
        async with asyncio.timeout(_WITHIN_S), consumer:
            found: dict[int, int] = {}
            for number in range(12):
                offset = await consumer.committed(TopicPartition(topic, number))
                if offset is not None:
                    found[number] = offset
            return found

    return asyncio.run(ask())


@dataclass(frozen=True)
class RawRecord:
    """A record to put on a topic as it is."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def put(
    bus: Bus, topic: str, records: Sequence[RawRecord], partition: int | None = None
) -> list[tuple[int, int]]:
    """Put records on a topic, in order; where each stands, as partition and offset."""

    async def send() -> list[tuple[int, int]]:
        producer = AIOKafkaProducer(
            bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"], acks="all", max_request_size=9 * 1024 * 1024
        )
        places = []
        async with asyncio.timeout(_WITHIN_S), producer:
            for record in records:
                stands = await producer.send_and_wait(
                    topic, record.value, key=record.key, partition=partition, headers=list(record.headers)
                )
                places.append((stands.partition, stands.offset))
        return places

    return asyncio.run(send())
