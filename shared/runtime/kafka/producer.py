"""Publish records: a record counts as published once all in-sync replicas have acknowledged it.

When a broker dies, aiokafka's producer holds its records for long, and an idempotent producer can hang for
ever (aiokafka issue 1101). So every send has a timeout of its own. A client that missed one is replaced in
the background, and until the new client has metadata, sends fail at once. A record whose send timed out may
still be written later: consumers recognise the repeat by its event id.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from time import perf_counter
from typing import Final, NamedTuple, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata

from shared.contracts.envelope import Event
from shared.contracts.errors import BrokerUnavailable, InterlinkError, TooLarge, Unacknowledged
from shared.contracts.topics import Topic
from shared.runtime import metrics
from shared.runtime.deadlines import DeadlineQueues
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.refusals import explain, missing_right
from shared.runtime.kafka.wake_ups import WakeUpSender
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
_RECONNECT_INTERVAL_S: Final = 0.5
_CHECK_TIMEOUT_S: Final = 2.0


class Record(NamedTuple):
    """A record to publish. Records of one topic with equal keys stay in order."""

    topic: Topic
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


RecordPosition = tuple[int, int]
"""The partition and the offset of a record in its topic."""


def event_record(topic: Topic, key: str, event: Event) -> Record:
    """Return the record of an event. Events of one topic with equal keys stay in order."""
    return Record(topic, key.encode(), event.data, event.headers())


class Producer:
    """The producer of a process: one aiokafka client, replaced when it stops answering."""

    def __init__(self, settings: KafkaSettings, log: Log, *, client_id: str) -> None:
        self._settings = settings
        self._log = log
        self._client_id = client_id
        self._client: AIOKafkaProducer | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._deadlines = DeadlineQueues()
        self._wake_ups = WakeUpSender(settings.wake_folder) if settings.wake_folder else None

    @property
    def ready(self) -> bool:
        """True if the producer has metadata and no send has missed its deadline since."""
        return self._client is not None

    def start(self) -> None:
        """Connect in the background; `ready` turns true once there is metadata."""
        self._replace()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for a connection. Raises `BrokerUnavailable` if there is none within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise BrokerUnavailable(
                f"no Kafka broker at {self._settings.bootstrap_servers} within {timeout_s:.0f} s"
            ) from None

    async def check(self) -> None:
        """Ask Kafka for metadata, and set the metric `BROKER_UNAVAILABLE`.

        An idle producer does not notice that the broker is gone.
        """
        client, answers = self._client, False
        if client is not None:
            with suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(_CHECK_TIMEOUT_S):
                    answers = await client.client.force_metadata_update()
        metrics.BROKER_UNAVAILABLE.set(0 if answers else 1)

    async def stop(self) -> None:
        """Send the records that are queued, in at most 5 s, and disconnect."""
        if self._replacing:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        if self._client:
            await _retire(self._client)
            self._client = None
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._wake_ups:
            self._wake_ups.close()

    def partition_count(self, topic: Topic) -> int:
        """Return the number of partitions of a topic; 0 if it is not known yet."""
        if self._client is None:
            return 0
        return len(self._client.client.cluster.partitions_for_topic(topic.name) or ())

    async def publish(self, record: Record, *, timeout_s: float) -> RecordPosition:
        """Publish one record, wait for the acknowledgement, and return the record's position.

        Raises `Unacknowledged` if there is no acknowledgement within `timeout_s` seconds, and
        `BrokerUnavailable` at once while there is no connection. Raises `TooLarge` if the record is larger
        than the broker accepts.
        """
        client = self._client
        if client is None:
            raise BrokerUnavailable("Kafka is not available")
        started = perf_counter()
        topic = record.topic.name
        try:
            with self._deadlines.deadline(timeout_s):
                metadata = await (await _send(client, record))
        except (MessageSizeTooLargeError, TimeoutError, KafkaError) as error:
            raise self._failure(client, error, (topic,), timeout_s) from error
        metrics.produce_seconds(topic).observe(perf_counter() - started)
        if self._wake_ups:
            self._wake_ups.send(topic, (metadata.partition,))
        return metadata.partition, metadata.offset

    async def publish_all(self, records: Sequence[Record], *, timeout_s: float) -> list[RecordPosition]:
        """Publish records in order, wait until all are acknowledged, and return their positions.

        Raises as `publish`. After `Unacknowledged`, or `TooLarge` from a broker with a lower limit than the
        hub's, some of the records may have been published. A record over the hub's limit is found before the
        first one is sent.
        """
        client = self._client
        if client is None:
            raise BrokerUnavailable("Kafka is not available")
        if any(_size(record) > _MAX_RECORD_BYTES for record in records):
            raise _too_large()
        started = perf_counter()
        try:
            with self._deadlines.deadline(timeout_s):
                acks = [await _send(client, record) for record in records]
                positions = [await ack for ack in acks]
        except (MessageSizeTooLargeError, TimeoutError, KafkaError) as error:
            topics = {record.topic.name for record in records}
            raise self._failure(client, error, topics, timeout_s) from error
        elapsed = perf_counter() - started
        written: dict[str, set[int]] = {}
        for record, position in zip(records, positions, strict=True):
            written.setdefault(record.topic.name, set()).add(position.partition)
        for topic, partitions in written.items():
            metrics.produce_seconds(topic).observe(elapsed)
            if self._wake_ups:
                self._wake_ups.send(topic, partitions)
        return [(metadata.partition, metadata.offset) for metadata in positions]

    def _failure(
        self, client: AIOKafkaProducer, error: Exception, topics: Collection[str], timeout_s: float
    ) -> InterlinkError:
        """Return the hub's error for a failed send, and replace the client if it did not answer."""
        if isinstance(error, MessageSizeTooLargeError):
            return _too_large()
        for topic in topics:
            metrics.PRODUCE_FAILURES.labels(topic).inc()
        right = f"Write on topic {', '.join(sorted(topics))}"
        if text := missing_right(self._settings, error, right):
            self._log.error("producer.not_authorized", error=text)
            return BrokerUnavailable("Kafka refuses the event until an operator has given the hub its rights")
        self._log.warning("producer.not_acknowledged", error=type(error).__name__, timeout_s=timeout_s)
        if client is self._client:  # otherwise another failed send has replaced it already
            self._replace()
        return Unacknowledged(f"Kafka did not acknowledge within {timeout_s} s")

    def _replace(self) -> None:
        old, self._client = self._client, None
        self._connected.clear()
        if old:
            task = asyncio.create_task(_retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """Connect a new client, however long it takes. Log the first failure and the recovery only."""
        failed = False
        while True:
            client = AIOKafkaProducer(
                client_id=self._client_id,
                acks="all",
                enable_idempotence=self._settings.enable_idempotence,
                max_request_size=_MAX_RECORD_BYTES,
                max_batch_size=256 * 1024,
                request_timeout_ms=10_000,
                **connection(self._settings),
            )
            try:
                async with asyncio.timeout(5.0):
                    await client.start()
            except (TimeoutError, KafkaError, OSError) as error:
                if not failed:
                    reason = await explain(self._settings, error, "Write on its topics")
                    self._log.warning("producer.connect_failed", error=reason)
                    failed = True
                await _retire(client)
                await asyncio.sleep(_RECONNECT_INTERVAL_S)
            else:
                self._client = client
                self._connected.set()
                if failed:
                    self._log.info("producer.connected")
                return


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, the same as every Kafka client's default partitioner.

    Hashes are cached, because aiokafka's murmur2 is pure Python.
    """
    return _hash(key) % partitions


def _size(record: Record) -> int:
    """Return the bytes of a record as aiokafka estimates them before it refuses one: never too few."""
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, record.headers))


def _too_large() -> TooLarge:
    return TooLarge(f"the event is larger than Kafka accepts ({_MAX_RECORD_BYTES} bytes)")


async def _send(client: AIOKafkaProducer, record: Record) -> "asyncio.Future[RecordMetadata]":
    """Queue a record, and return its acknowledgement."""
    topic = record.topic.name
    partitions = client.client.cluster.partitions_for_topic(topic) or await client.partitions_for(topic)
    # The partition is given, because for its partitioner aiokafka lists the topic's partitions twice.
    partition = partition_of(record.key, len(partitions))
    accumulator = client._message_accumulator
    waiting = accumulator._batches.get((topic, partition))
    if waiting and not accumulator._closed and accumulator._exception is None:
        # There is a batch that is not sent yet: add the record, which is what `send` would do in the end.
        # Under load nearly all records come here, and what `send` checks before costs more than this.
        ack: asyncio.Future[RecordMetadata] | None = waiting[-1].append(
            record.key, record.value, None, headers=record.headers
        )
        if ack is not None:  # otherwise the batch is full
            return ack
    return cast(
        "asyncio.Future[RecordMetadata]",
        await client.send(topic, record.value, key=record.key, headers=record.headers, partition=partition),
    )


async def _retire(client: AIOKafkaProducer) -> None:
    """Stop a client, in at most 5 s."""
    try:
        async with asyncio.timeout(5.0):
            await client.stop()
    except (TimeoutError, KafkaError, OSError):
        # A client whose `stop` hangs leaves its sender task behind, which would retry for ever.
        sender = client._sender
        if sender.sender_task:
            sender.sender_task.cancel()
