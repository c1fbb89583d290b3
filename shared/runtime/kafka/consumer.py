"""Consume topics in batches, at least once, with one classification of errors for the whole hub.

A handler gets the events of a batch. It returns when their effects are durable, or will be durable when the
consumer's `durable` returns. Then the offsets are committed while the next batch is polled. A handler must be
idempotent. The error that it raises decides what follows:

- `RetryLater`: the batch is tried again after a growing pause, without a limit of attempts.
- `PartiallyRejected`: the batch is handled, except the events that the error names; these are dead-lettered.
- any other error: the events are handled one by one, and each event that fails is dead-lettered.

FastStream opens the consumers, but the poll loop is here. FastStream's own loop sleeps after every empty
poll, loses a batch if one header cannot be read, and commits past a failed record (its issues 2458 and 2618).

More than 400 lines: polling, handling, retries and commits share the assignment and offsets of one group
member.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from shared.contracts.envelope import Event, parse_event
from shared.contracts.errors import BrokerUnavailable, InterlinkError, Malformed, Rejected, RetryLater
from shared.contracts.topics import Topic
from shared.runtime import metrics
from shared.runtime.kafka.connection import broker_connection
from shared.runtime.kafka.dead_letters import DeadLetter, DeadLetterWriter, RecordCopy, reason_and_error
from shared.runtime.kafka.membership import consumer_client_id, remove_predecessor
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

# How long the broker may hold a fetch that finds no records.
_FETCH_WAIT_MS: Final = 500
# The same for the embedded broker, which answers a held fetch only at its end: see `_adjust_fetch_wait`.
_IDLE_FETCH_WAIT_MS: Final = 40
_BUSY_FETCH_WAIT_MS: Final = 8
_BUSY_PERIOD_S: Final = 5.0
_MAX_POLL_INTERVAL_MS: Final = 300_000
_IN_PLACE_RETRY_TIMEOUT_S: Final = 60.0
"""For the retries of one batch. Then its records are polled again: a member that does not poll for
`_MAX_POLL_INTERVAL_MS` loses its partitions."""
_FIRST_RETRY_PAUSE_S: Final = 0.2
_MAX_RETRY_PAUSE_S: Final = 10.0
_OFFSET_TIMEOUT_S: Final = 10.0
_COMMIT_TIMEOUT_S: Final = 10.0
_FINAL_COMMIT_TIMEOUT_S: Final = 3.0
_MAX_UNCOMMITTED: Final = 1_000
"""If more handled records than this are not committed, the next poll waits for the commit under way."""
_START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ConsumedEvent:
    """An event with the position and the key of its record. `at_ms` is the record's Unix time in ms."""

    event: Event
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes = b""


class PartiallyRejected(InterlinkError):
    """A batch is handled, except these events, which no retry can help."""

    def __init__(self, rejected: Sequence[tuple[ConsumedEvent, Rejected]]) -> None:
        super().__init__(f"{len(rejected)} events rejected: {rejected[0][1].detail}")
        self.rejected = rejected


BatchHandler = Callable[[Sequence[ConsumedEvent]], Awaitable[None]]
DurabilityBarrier = Callable[[], Awaitable[None]]
"""Awaited before a commit. Returns when the effects of all batches handled before the call are durable."""


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """A member of one consumer group: polls, calls the handler, commits, and reconnects to a lost broker."""

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
        """Initialise the member; `start` joins the group.

        `instance` names the process. A group member that a killed process of the same name left behind is
        removed at the first join. `max_records` bounds a batch.
        """
        self._settings = settings

        self._log = log.bind(group=group)
        self.group = group
        self._topics = tuple(topics)
        self._handler = handler
        self._max_records = max_records
        self._client_id = consumer_client_id(self.group, instance)
        self._has_predecessor = bool(instance)
        self._durable = durable
        self._dead_letters = DeadLetterWriter(producer, group, self._log)
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
        """Finish the current batch, commit it and leave the group, in at most `timeout_s` seconds."""
        self._stopping.set()
        if self._task:
            _, late = await asyncio.wait({self._task}, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def partitions(self) -> list[int]:
        """The partitions of the first topic that this member owns."""
        name = self._topics[0].name
        return sorted(tp.partition for tp in self.assigned if tp.topic == name)

    @property
    def assignment(self) -> tuple[int, list[int]]:
        """The number of the current assignment, and the partitions of the first topic.

        Each rebalance raises the number. Another member may have owned a partition between two assignments
        that both have it, so equal partitions with different numbers are not the same ownership.
        """
        return self._assignments, self.partitions

    def lag(self) -> metrics.Lag:
        """Yield how many records the group is behind, for each assigned partition with a known end."""
        client = self._client
        for partition in list(self.assigned):
            end = client.highwater(partition) if client else None
            if end is not None and partition in self._next:
                behind = max(0, end - self._next[partition])
                yield self.group, partition.topic, partition.partition, behind

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        # aiokafka calls this during a rebalance, before another member gets the partitions.
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
                self._log.warning("consumer.restarted", error=str(error) or type(error).__name__)
                await self._pause(1.0)
            except Exception as error:  # noqa: BLE001 -- a consumer that ends silently would stall its partitions
                self._log.error("consumer.failed", exc_info=error)
                await self._pause(5.0)

    async def _session(self) -> None:
        """Join the group, poll until `stop` or until the client fails, and leave the group."""
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
                self._log.warning("consumer.leave_failed", error=type(error).__name__)

    async def _join(self, broker: KafkaBroker) -> None:
        """Join the group. At the first join, remove the member that a killed process left behind.

        Only at the first: later, a member with this client id is this process's own.
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
        """Set a short fetch wait while there is traffic, a longer one when there is none.

        For the embedded broker, which answers a held fetch only when its wait is over.
        """
        # aiokafka has no setter for the wait, but it reads this private attribute for each fetch.
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
        # 1. Handle the records. If that is not possible now, go back to their offsets.
        if not await self._process_batch(records):
            for partition, batch in polled.items():
                if partition in self.assigned:
                    client.seek(partition, batch[0].offset)
            return
        # 2. Note the new offsets of partitions that are still ours.
        offsets = {
            partition: batch[-1].offset + 1
            for partition, batch in polled.items()
            if partition in self.assigned
        }
        if not offsets:
            return  # all partitions were assigned to other members meanwhile: these repeat the batch
        self._next.update(offsets)
        for partition, batch in polled.items():
            metrics.HANDLED.labels(partition.topic, self.group).inc(len(batch))
        self._uncommitted.update(offsets)
        self._uncommitted_records += len(records)
        # 3. Commit in the background, while the next batch is polled and handled.
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(client))
        elif self._uncommitted_records > _MAX_UNCOMMITTED:
            await asyncio.wait({self._committing})

    async def _commit(self, client: AIOKafkaConsumer) -> None:
        """Commit the handled offsets once their effects are durable, until all are committed."""
        while self._uncommitted:
            offsets, assignments = dict(self._uncommitted), self._assignments
            self._uncommitted_records = 0
            if self._durable:
                await self._durable()
            if assignments != self._assignments:
                continue  # a rebalance has happened meanwhile: take the offsets that are left after it
            for partition, offset in offsets.items():
                if self._uncommitted.get(partition) == offset:
                    del self._uncommitted[partition]
            try:
                async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                    await client.commit(offsets)
            except (KafkaError, IllegalStateError, TimeoutError) as error:
                # Handled, but not committed: the partition's next owner handles the events again, which is
                # harmless because handlers are idempotent.
                self._log.warning("consumer.commit_failed", error=str(error) or type(error).__name__)

    async def _commit_all(self) -> None:
        """Wait up to 3 s for the commit under way. What is not committed then is handled again."""
        if self._committing:
            _, late = await asyncio.wait({self._committing}, timeout=_FINAL_COMMIT_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
            self._committing = None

    async def _process_batch(self, records: Sequence[ConsumerRecord]) -> bool:
        """Handle or dead-letter every record. Return False if the records have to be polled again."""
        events: list[ConsumedEvent] = []
        record_of: dict[int, ConsumerRecord] = {}  # by the identity of the event
        dead: list[DeadLetter] = []
        for record in records:
            try:
                event = parse_event(record.headers, record.value)
            except Malformed as error:
                dead.append((record, *reason_and_error(error)))
                continue
            consumed = ConsumedEvent(
                event, record.topic, record.partition, record.offset, record.timestamp, record.key or b""
            )
            record_of[id(consumed)] = record
            events.append(consumed)

        # Both steps may be repeated: they remove from `events` and `dead` what is done.
        async def handle_together() -> None:
            await self._dead_letters.write_all(dead)
            if events:
                try:
                    await self._handler(events)
                except PartiallyRejected as error:
                    dead.extend(
                        (record_of[id(event)], *reason_and_error(fault)) for event, fault in error.rejected
                    )
                events.clear()
                await self._dead_letters.write_all(dead)

        async def handle_one_by_one() -> None:
            while events:
                record = record_of[id(events[0])]
                try:
                    await self._handler(events[:1])
                except RetryLater:
                    raise
                except PartiallyRejected as error:
                    await self._dead_letters.write(record, *reason_and_error(error.rejected[0][1]))
                except Exception as error:  # noqa: BLE001 -- the one place that classifies unexpected errors
                    self._log.error("event.handling_failed", exc_info=error, event_id=events[0].event.id)
                    await self._dead_letters.write(record, *reason_and_error(error))
                events.pop(0)

        if not await self._run_with_retries(handle_together, events):
            return False
        return not events or await self._run_with_retries(handle_one_by_one, events)

    async def _run_with_retries(
        self, step: Callable[[], Awaitable[None]], events: list[ConsumedEvent]
    ) -> bool:
        """Run a step until it no longer raises `RetryLater`.

        Return True if it returned or failed with another error, False if it was given up after 60 s or at
        `stop`. During the pauses, events of revoked partitions are removed from `events`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _IN_PLACE_RETRY_TIMEOUT_S
        pause_s = _FIRST_RETRY_PAUSE_S
        while True:
            try:
                await step()
            except RetryLater as error:
                metrics.BATCH_RETRIES.labels(self.group).inc()
                self._log.warning(
                    "batch.retry_scheduled", error=str(error), events=len(events), pause_s=pause_s
                )
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _MAX_RETRY_PAUSE_S)
                events[:] = [e for e in events if TopicPartition(e.topic, e.partition) in self.assigned]
                if self._stopping.is_set() or loop.time() > give_up_at:
                    return False
            except Exception as error:  # noqa: BLE001 -- see handle_one_by_one
                self._log.warning("batch.failed", error=f"{type(error).__name__}: {error}")
                return True
            else:
                return True

    async def handled_offset(self, partition: int) -> int:
        """Return the offset before which the group has handled a partition of the first topic.

        For a partition of another member it is the committed offset. Raises `BrokerUnavailable`.
        """
        topic_partition = TopicPartition(self._topics[0].name, partition)
        if topic_partition in self._next:
            return self._next[topic_partition]
        if self._client is None:
            raise BrokerUnavailable("the consumer is not connected")
        try:
            async with asyncio.timeout(_OFFSET_TIMEOUT_S):
                return await self._client.committed(topic_partition) or 0
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnavailable(f"no committed offset: {type(error).__name__}") from None

    async def dead_letter(self, consumed: ConsumedEvent, error: Exception) -> None:
        """Dead-letter an event whose handling failed after its batch was handled.

        Raises `BrokerUnavailable`.
        """
        record = RecordCopy(
            consumed.topic,
            consumed.partition,
            consumed.offset,
            consumed.key,
            consumed.event.data,
            consumed.event.headers(),
        )
        await self._dead_letters.write(record, *reason_and_error(error))

    async def _pause(self, seconds: float) -> None:
        """Wait; `stop` ends the pause early."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
