"""Consuming: batches, at least once, with one classification of errors for the whole hub.

A handler gets the events of a batch and returns when their effects are durable, or will be when the
consumer's `durable` returns; then the offsets are committed, while the next batch is polled. It must be
idempotent. What it raises decides:

- `RetryLater`: the batch is tried again after a growing pause, however long it takes.
- `PartiallyRejected`: the batch is handled, and the events that it names go to the dead-letter topic.
- anything else: the batch is tried event by event, and the event that raises goes to the dead-letter
  topic with its reason and position. Nothing is dropped, blocked or spun on.

FastStream opens the consumers; the loop is ours because FastStream's sleeps after every empty poll,
loses a batch over one unreadable header, and commits past a failed record (its issues 2458, 2618).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from shared.contracts.envelope import Event, now, parse_event
from shared.contracts.errors import (
    BrokerUnavailable,
    InterlinkError,
    Malformed,
    OverLimit,
    Rejected,
    RetryLater,
    TooLarge,
)
from shared.contracts.topics import DEAD_LETTERS, Topic
from shared.runtime import metrics
from shared.runtime.kafka.connection import broker_connection
from shared.runtime.kafka.membership import consumer_client_id, remove_predecessor
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_FETCH_WAIT_MS: Final = 500
_IDLE_FETCH_WAIT_MS: Final = 40
_BUSY_FETCH_WAIT_MS: Final = 8
_BUSY_PERIOD_S: Final = 5.0
_MAX_POLL_INTERVAL_MS: Final = 300_000
_IN_PLACE_RETRY_TIMEOUT_S: Final = 60.0
_MAX_PAUSE_S: Final = 10.0
_DEAD_LETTER_TIMEOUT_S: Final = 10.0
_COMMIT_TIMEOUT_S: Final = 10.0
_FINAL_COMMIT_TIMEOUT_S: Final = 3.0
_MAX_UNCOMMITTED: Final = 1_000
"""Handled records after which the consumer waits for the commit under way before it polls more."""
_DEAD_LETTER_BATCH: Final = 50
_START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ConsumedEvent:
    """An event and where on Kafka it stands, and under which key; `at_ms` is the record's time."""

    event: Event
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes = b""


class PartiallyRejected(InterlinkError):
    """A handler's batch is handled but for these events, which no retry can help."""

    def __init__(self, rejected: Sequence[tuple[ConsumedEvent, Rejected]]) -> None:
        super().__init__(f"{len(rejected)} events rejected: {rejected[0][1].detail}")
        self.rejected = rejected


BatchHandler = Callable[[Sequence[ConsumedEvent]], Awaitable[None]]
DurabilityBarrier = Callable[[], Awaitable[None]]
"""Returns when the effects of all batches that were handled before the call are durable."""


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """One consumer group's member: polls, hands over, commits; survives a broker that goes away."""

    def __init__(
        self,
        settings: KafkaSettings,
        producer: Producer,
        log: Log,
        *,
        group: str,
        topics: Sequence[Topic],
        handler: BatchHandler,
        max_records: int = 500,
        instance: str = "",
        durable: DurabilityBarrier | None = None,
    ) -> None:
        """`instance` names the process: a member that a killed one of this name left is removed."""
        self._settings = settings
        self._producer = producer
        self._log = log.bind(group=group)
        self.group = group
        self._topics = tuple(topics)
        self._handler = handler
        self._max_records = max_records
        self._client_id = consumer_client_id(self.group, instance)
        self._has_predecessor = bool(instance)
        self._durable = durable
        self._next: dict[TopicPartition, int] = {}
        self._uncommitted: dict[TopicPartition, int] = {}
        self._uncommitted_records = 0
        self._assignments = 0
        self._committing: asyncio.Task[None] | None = None
        self._client: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._traffic_at = 0.0
        self.assigned: set[TopicPartition] = set()
        self.ready = False

    def start(self) -> None:
        """Join the group in the background; `ready` turns true with the first assignment."""
        metrics.collect_lag(self.lag)
        self._task = asyncio.create_task(self._run())

    async def stop(self, *, timeout_s: float) -> None:
        """Finish the batch at hand, commit it and leave the group."""
        self._stopping.set()
        if self._task:
            _, late = await asyncio.wait({self._task}, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def partitions(self) -> list[int]:
        """The partitions of the first topic that this member owns now."""
        name = self._topics[0].name
        return sorted(tp.partition for tp in self.assigned if tp.topic == name)

    @property
    def assignment(self) -> tuple[int, list[int]]:
        """The number of the assignment, which each rebalance raises, and the first topic's partitions.

        Somebody else may have owned a partition between two assignments that both have it.
        """
        return self._assignments, self.partitions

    def lag(self) -> metrics.Lag:
        """Records behind, for every assigned partition that is known."""
        client = self._client
        for partition in list(self.assigned):
            end = client.highwater(partition) if client else None
            if end is not None and partition in self._next:
                behind = max(0, end - self._next[partition])
                yield self.group, partition.topic, partition.partition, behind

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._commit_all()
        self._assignments += 1
        self.assigned -= revoked
        for partition in revoked:
            self._next.pop(partition, None)
            self._uncommitted.pop(partition, None)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.assigned = set(assigned)
        self.ready = True

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._session()
            except (KafkaError, ConsumerStoppedError, TimeoutError, OSError) as error:
                self._log.warning("consumer starts again", error=str(error) or type(error).__name__)
                await self._pause(1.0)
            except Exception as error:  # noqa: BLE001 -- a consumer that ends silently would stall its partitions
                self._log.error("consumer failed, starts again", exc_info=error)
                await self._pause(5.0)

    async def _session(self) -> None:
        """Join, pump until told to stop or the client gives up, leave."""
        broker = KafkaBroker(
            consumer_only=True,
            allow_auto_create_topics=False,
            client_id=self._client_id,
            logger=None,
            **broker_connection(self._settings),
        )
        subscriber = broker.subscriber(
            *(topic.name for topic in self._topics),
            batch=True,
            group_id=self.group,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            listener=self,
            fetch_max_wait_ms=_FETCH_WAIT_MS if self._settings.answers_held_fetches else _IDLE_FETCH_WAIT_MS,
            fetch_max_bytes=32 * 1024 * 1024,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=max(500, self._settings.session_timeout_ms // 5),
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        )
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._join(broker)
            self._client = subscriber.consumer
            await self._poll_loop(subscriber.consumer)
        finally:
            await self._commit_all()
            self._client = None
            self._assignments += 1
            self._uncommitted.clear()
            self.assigned = set()
            try:
                async with asyncio.timeout(5):
                    await broker.stop()
            except (TimeoutError, KafkaError, OSError) as error:
                self._log.warning("consumer did not leave cleanly", error=type(error).__name__)

    async def _join(self, broker: KafkaBroker) -> None:
        """Join the group; the first time, instead of the member that a killed process left behind.

        Only the first time: a member that has this name later is this process's own.
        """
        if not self._has_predecessor:
            await broker.start()
            return
        async with remove_predecessor(self._settings, self.group, self._client_id, self._log):
            await broker.start()
        self._has_predecessor = False

    async def _poll_loop(self, client: AIOKafkaConsumer) -> None:
        while not self._stopping.is_set():
            polled = await client.getmany(timeout_ms=500, max_records=self._max_records)
            if not self._settings.answers_held_fetches:
                self._adjust_fetch_wait(client, traffic=bool(polled))
            if polled:
                await self._process_polled(client, polled)

    def _adjust_fetch_wait(self, client: AIOKafkaConsumer, *, traffic: bool) -> None:
        """Let fetches wait briefly while there is traffic, longer when there is none.

        aiokafka reads the time anew for each fetch, but has no setter for it.
        """
        now = asyncio.get_running_loop().time()
        if traffic:
            self._traffic_at = now
        busy = now - self._traffic_at < _BUSY_PERIOD_S
        client._fetcher._fetch_max_wait_ms = _BUSY_FETCH_WAIT_MS if busy else _IDLE_FETCH_WAIT_MS

    async def _process_polled(
        self, client: AIOKafkaConsumer, polled: Mapping[TopicPartition, Sequence[ConsumerRecord]]
    ) -> None:
        for partition, batch in polled.items():
            self._next.setdefault(partition, batch[0].offset)  # so that a first batch that hangs shows as lag
        records = [record for batch in polled.values() for record in batch]
        if not await self._process_batch(records):
            for partition, batch in polled.items():
                if partition in self.assigned:
                    client.seek(partition, batch[0].offset)
            return
        offsets = {
            partition: batch[-1].offset + 1
            for partition, batch in polled.items()
            if partition in self.assigned
        }
        if not offsets:
            return  # every partition went to another member in the meantime: it repeats the batch
        self._next.update(offsets)
        for partition, batch in polled.items():
            metrics.HANDLED.labels(partition.topic, self.group).inc(len(batch))
        self._uncommitted.update(offsets)
        self._uncommitted_records += len(records)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(client))
        elif self._uncommitted_records > _MAX_UNCOMMITTED:
            await asyncio.wait({self._committing})

    async def _commit(self, client: AIOKafkaConsumer) -> None:
        """Commit what was handled, once it is durable, until nothing is left."""
        while self._uncommitted:
            offsets, assignments = dict(self._uncommitted), self._assignments
            self._uncommitted_records = 0
            if self._durable:
                await self._durable()
            if assignments != self._assignments:
                continue  # what was handled for an earlier assignment may be handled again
            for partition, offset in offsets.items():
                if self._uncommitted.get(partition) == offset:
                    del self._uncommitted[partition]
            try:
                async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                    await client.commit(offsets)
            except (KafkaError, IllegalStateError, TimeoutError) as error:
                # Handled, not committed: whoever owns the partition next repeats it, which is harmless.
                self._log.warning("commit failed", error=str(error) or type(error).__name__)

    async def _commit_all(self) -> None:
        """Wait for commits under way, but not for long: what is not committed is handled again."""
        if self._committing:
            _, late = await asyncio.wait({self._committing}, timeout=_FINAL_COMMIT_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
            self._committing = None

    async def _process_batch(self, records: Sequence[ConsumerRecord]) -> bool:
        """Handle or dead-letter every record; False when the broker should hand them out again."""
        events: list[ConsumedEvent] = []
        raw: dict[int, ConsumerRecord] = {}
        dead: list[tuple[ConsumerRecord, str, str]] = []
        for record in records:
            try:
                event = parse_event(record.headers, record.value)
            except Malformed as error:
                dead.append((record, *_reason_and_error(error)))
                continue
            received = ConsumedEvent(
                event, record.topic, record.partition, record.offset, record.timestamp, record.key or b""
            )
            raw[id(received)] = record
            events.append(received)

        async def attempt() -> None:
            await self._dead_letter_all(dead)
            if events:
                try:
                    await self._handler(events)
                except PartiallyRejected as error:
                    dead.extend(
                        (raw[id(event)], *_reason_and_error(fault)) for event, fault in error.rejected
                    )
                events.clear()
                await self._dead_letter_all(dead)

        async def one_by_one() -> None:
            while events:
                try:
                    await self._handler(events[:1])
                except RetryLater:
                    raise
                except PartiallyRejected as error:
                    await self._dead_letter(raw[id(events[0])], *_reason_and_error(error.rejected[0][1]))
                except Exception as error:  # noqa: BLE001 -- the one place that classifies what is not ours
                    self._log.error("event dead-lettered", exc_info=error, event_id=events[0].event.id)
                    reason, said = _reason_and_error(error)
                    await self._dead_letter(raw[id(events[0])], reason, said)
                events.pop(0)

        if not await self._run_with_retries(attempt, events):
            return False
        return not events or await self._run_with_retries(one_by_one, events)

    async def _run_with_retries(
        self, work: Callable[[], Awaitable[None]], events: list[ConsumedEvent]
    ) -> bool:
        """Run `work` until it no longer asks for a retry; True also when it failed for good."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _IN_PLACE_RETRY_TIMEOUT_S
        pause = 0.2
        while True:
            try:
                await work()
            except RetryLater as error:
                metrics.BATCH_RETRIES.labels(self.group).inc()
                self._log.warning("batch waits", error=str(error), events=len(events), pause_s=pause)
                await self._pause(pause)
                pause = min(pause * 2, _MAX_PAUSE_S)
                events[:] = [e for e in events if TopicPartition(e.topic, e.partition) in self.assigned]
                if self._stopping.is_set() or loop.time() > give_up:
                    return False
            except Exception as error:  # noqa: BLE001 -- see one_by_one
                self._log.warning("batch failed, trying one by one", error=f"{type(error).__name__}: {error}")
                return True
            else:
                return True

    async def handled_offset(self, partition: int) -> int:
        """The offset before which the group has handled a partition of the first topic, whoever owns it.

        Raises `BrokerUnavailable`.
        """
        place = TopicPartition(self._topics[0].name, partition)
        if place in self._next:
            return self._next[place]
        if self._client is None:
            raise BrokerUnavailable("the consumer is not connected")
        try:
            async with asyncio.timeout(_DEAD_LETTER_TIMEOUT_S):
                return await self._client.committed(place) or 0
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnavailable(f"no committed offset: {type(error).__name__}") from None

    async def dead_letter(self, received: ConsumedEvent, error: Exception) -> None:
        """Put an event whose handling failed later than its batch's on the dead-letter topic.

        Raises `BrokerUnavailable`.
        """
        record = _RecordCopy(
            received.topic,
            received.partition,
            received.offset,
            received.key,
            received.event.data,
            received.event.headers(),
        )
        await self._dead_letter(record, *_reason_and_error(error))

    async def _dead_letter_all(self, dead: list[tuple[ConsumerRecord, str, str]]) -> None:
        """Put records on the dead-letter topic, and take them off this list. Raises `BrokerUnavailable`."""
        while dead:
            some = dead[:_DEAD_LETTER_BATCH]
            ends = await asyncio.gather(*(self._dead_letter(*each) for each in some), return_exceptions=True)
            dead[: len(some)] = [each for each, end in zip(some, ends, strict=True) if end]
            for end in ends:
                if end:
                    raise end

    async def _dead_letter(self, record: "ConsumerRecord | _RecordCopy", reason: str, error: str) -> None:
        """Put a record on the dead-letter topic. Raises `BrokerUnavailable`."""
        marks: dict[str, Any] = {
            "dl_reason": reason,
            "dl_error": error[:1000],
            "dl_topic": record.topic,
            "dl_partition": record.partition,
            "dl_offset": record.offset,
            "dl_group": self.group,
            "dl_time": now(),
        }
        headers = [(name, value or b"") for name, value in record.headers if not name.startswith("dl_")]
        try:
            await self._publish_dead_letter(record.key, record.value, marks, headers)
        except TooLarge:
            # A compressed record may be larger than what we may produce: its position leads to it.
            marks["dl_error"] = f"{error[:1000]} (too large to copy: left where it is)"
            await self._publish_dead_letter(None, None, marks, [])
        metrics.DEAD_LETTERED.labels(record.topic, self.group, reason).inc()
        self._log.error(
            "dead letter",
            reason=reason,
            error=error[:300],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    async def _publish_dead_letter(
        self,
        key: bytes | None,
        value: bytes | None,
        marks: Mapping[str, Any],
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        marked = [*headers, *((name, str(mark).encode()) for name, mark in marks.items())]
        record = Record(DEAD_LETTERS, key or b"", value or b"", marked)
        await self._producer.publish(record, timeout_s=_DEAD_LETTER_TIMEOUT_S)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


@dataclass(frozen=True, slots=True)
class _RecordCopy:
    """A record made of an event again, as far as a dead letter needs it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def _reason_and_error(error: Exception) -> tuple[str, str]:
    """The dead letter's reason and error: what was wrong with the input, or what failed."""
    if isinstance(error, OverLimit):
        return error.reason, error.detail
    if isinstance(error, Rejected):
        fields = "; ".join(f"{fault.field}: {fault.message}" for fault in error.errors)
        return "malformed", f"{error.detail} ({fields})" if fields else error.detail
    return "failed", f"{type(error).__name__}: {error}"
