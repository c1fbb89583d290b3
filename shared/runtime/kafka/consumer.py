"""Consume topics at least once, and commit behind a watermark per partition.

A handler gets the events of a poll in one batch. Events whose effects are durable when it returns are
complete. It can take others out of the batch and complete them later, one by one and in any order. The offset
that is committed is that of the first record of a partition that is not complete: a handler must be
idempotent. The error that it raises decides what follows (`handling`). `RetryLater` holds the partitions that
it concerns, while others are polled and handled; any other error dead-letters the events that fail alone.

FastStream opens the consumers, but the poll loop is here. FastStream's own loop sleeps after every empty
poll, loses a batch if one header cannot be read, and commits past a failed record (its issues 2458 and 2618).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from shared.contracts.envelope import parse_event
from shared.contracts.errors import BrokerUnavailable, Malformed
from shared.contracts.topics import Topic
from shared.runtime import metrics, tracing
from shared.runtime.kafka.batch import BatchHandler, ConsumedEvent, OpenRecord
from shared.runtime.kafka.connection import broker_connection
from shared.runtime.kafka.consumption_spans import begin_consumption
from shared.runtime.kafka.dead_letters import DeadLetterQueue, DeadLetterWriter, RecordCopy, reason_and_error
from shared.runtime.kafka.fetch_pacing import FetchPacing
from shared.runtime.kafka.handling import RecordHandling
from shared.runtime.kafka.membership import consumer_client_id, remove_predecessor
from shared.runtime.kafka.producer import Producer
from shared.runtime.kafka.refusals import missing_right
from shared.runtime.kafka.stalls import Stalls
from shared.runtime.kafka.wake_ups import WakeUpReceiver
from shared.runtime.kafka.watermark import PartitionTracker
from shared.runtime.logs import Log
from shared.runtime.settings import KafkaSettings

_MAX_POLL_INTERVAL_MS: Final = 300_000
_POLL_TIMEOUT_S: Final = 0.5
_OFFSET_TIMEOUT_S: Final = 10.0
_COMMIT_INTERVAL_S: Final = 0.2
"""Of one member. A killed process handles again what it completed in this time."""
_COMMIT_TIMEOUT_S: Final = 10.0
_MAX_UNANSWERED_COMMITS: Final = 3
"""After so many timeouts in a row, a member joins its group again. It may be out of the group, and handle
records beside the owners of its partitions."""
_FINAL_COMMIT_TIMEOUT_S: Final = 3.0
_MAX_OPEN_BYTES: Final = 64 << 20
"""Bytes of open records of one member. Each partition has an equal part of them."""
_START_TIMEOUT_S: Final = 60.0
_LEAVE_TIMEOUT_S: Final = 5.0


Drain = Callable[[], Awaitable[None]]


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
        drain: Drain | None = None,
    ) -> None:
        """Initialise the member; `start` joins the group.

        `instance` names the process. A group member that a killed process of the same name left behind is
        removed at the first join. `max_records` bounds a batch. `drain` is called before partitions are given
        up, and may take up to 3 s: for work that belongs to them, but not to a record of them.
        """
        self._settings = settings
        self._log = log.bind(group=group)
        self.group = group
        self._topics = tuple(topics)
        self._max_records = max_records
        self._client_id = consumer_client_id(self.group, instance)
        self._has_predecessor = bool(instance)
        self._wake_ups = WakeUpReceiver(
            settings.wake_folder, [topic.name for topic in topics], self._client_id, self._log
        )
        self._fetch_pacing = FetchPacing(
            answers_held_fetches=settings.answers_held_fetches, wake_ups=self._wake_ups
        )
        self._dead_letters = DeadLetterWriter(producer, group, self._log)
        self._dead_letter_queue = DeadLetterQueue(self._dead_letters, self._log)
        self._handling = RecordHandling(
            handler, self._dead_letter_queue, self._log, group=group, max_records=max_records
        )
        self._trackers: dict[TopicPartition, PartitionTracker] = {}
        """The trackers of the assigned partitions that a record was polled from."""
        self._drain = drain
        self._progress = asyncio.Event()
        """Set when records were completed or held."""
        self._assignments = 0
        self._committing: asyncio.Task[None] | None = None
        self._commit_at_once = asyncio.Event()
        self._unanswered_commits = 0
        self._client: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stalls = Stalls()
        self.assigned: set[TopicPartition] = set()
        self.ready = False

    def start(self) -> None:
        """Join the group in the background; `ready` turns true with the first assignment."""
        metrics.collect_lag(self.lag)
        self._task = asyncio.create_task(self._run())

    async def stop(self, *, timeout_s: float) -> None:
        """Finish the current call of the handler, commit and leave the group, in at most `timeout_s` seconds.

        Taken records get up to 3 s of that to be completed.
        """
        self._stopping.set()
        if self._task:
            _, late = await asyncio.wait({self._task}, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._dead_letter_queue.stop()

    @property
    def partitions(self) -> list[int]:
        """The partitions of the first topic that this member owns."""
        name = self._topics[0].name
        return sorted(tp.partition for tp in self.assigned if tp.topic == name)

    @property
    def assignment(self) -> tuple[int, list[int]]:
        """The number of the current assignment, and the partitions of the first topic.

        A rebalance raises the number when the partitions are taken away, and again when there are new ones:
        in between, nothing that belongs to the new ones can be loaded. Another member may have owned a
        partition between two assignments that both have it, so equal partitions with different numbers are
        not the same ownership.
        """
        return self._assignments, self.partitions

    def lag(self) -> metrics.Lag:
        """Yield how many records are not complete, and from which offset on.

        There is one tuple for each assigned partition with a known end.
        """
        client = self._client
        for partition, tracker in list(self._trackers.items()):
            end = client.highwater(partition) if client and partition in self.assigned else None
            if end is not None:
                behind = max(0, end - tracker.watermark)
                yield self.group, partition.topic, partition.partition, behind, tracker.watermark

    def stall_s(self) -> float:
        """Return for how many seconds the watermark of a partition with records at the handler is the same.

        It is measured from call to call: zero at the first one that sees the records. Held records do not
        count: they may take any time.
        """
        return self._stalls.max_s(
            {
                partition: tracker.watermark
                for partition, tracker in self._trackers.items()
                if self._handling.waits_for(tracker)
            }
        )

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        # aiokafka calls this during a rebalance, before another member gets the partitions.
        await self._commit_all()
        self._assignments += 1
        self.assigned -= revoked
        self._release(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assignments += 1
        self.assigned = set(assigned)
        self.ready = True

    def _release(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the records of these partitions. They are polled again from the committed offset."""
        self._handling.release(partitions)
        for partition in partitions:
            if tracker := self._trackers.pop(partition, None):
                tracker.revoke()

    async def _run(self) -> None:
        self._wake_ups.start()
        try:
            while not self._stopping.is_set():
                try:
                    await self._session()
                except (KafkaError, ConsumerStoppedError, TimeoutError, OSError) as error:
                    right = f"Read on topic {', '.join(topic.name for topic in self._topics)}"
                    if reason := missing_right(self._settings, error, right, self.group):
                        self._log.error("consumer.not_authorized", error=reason)
                    else:
                        self._log.warning("consumer.restarted", error=str(error) or type(error).__name__)
                    await _wait(self._stopping, 5.0 if reason else 1.0)
                except Exception as error:  # noqa: BLE001 -- an end without notice would stall its partitions
                    self._log.error("consumer.failed", exc_info=error)
                    await _wait(self._stopping, 5.0)
        finally:
            self._wake_ups.stop()

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
            client_rack=self._settings.client_rack,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            listener=self,
            fetch_max_bytes=32 * 1024 * 1024,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=max(500, self._settings.session_timeout_ms // 5),
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        )
        self._unanswered_commits = 0
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._join(broker)
            self._client = subscriber.consumer
            self._fetch_pacing.install(subscriber.consumer)
            await self._poll_loop(subscriber.consumer)
        finally:
            await self._commit_all()
            self._client = None
            self._assignments += 1
            self.assigned = set()
            self._release(list(self._trackers))
            client = subscriber.consumer
            try:
                async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                    await broker.stop()
            except (TimeoutError, KafkaError, OSError) as error:
                self._log.warning("consumer.leave_failed", error=type(error).__name__)
                if client is not None:
                    _abandon(client)

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
            timeout_ms = int(self._handling.next_due_s(_POLL_TIMEOUT_S) * 1000)
            polled = await client.getmany(timeout_ms=timeout_ms, max_records=self._max_records)
            if polled:
                await self._process_polled(polled)
            await self._handling.handle_due()
            if self._unanswered_commits >= _MAX_UNANSWERED_COMMITS:
                raise KafkaError(f"the last {self._unanswered_commits} commits got no answer")
            self._progress.set()  # `_commit_all` does not wait for what is held by now
            for tracker in self._trackers.values():
                self._pause_or_resume(client, tracker)

    async def _process_polled(self, polled: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        """Track polled records from here on, and handle them."""
        records: list[OpenRecord] = []
        for partition, sources in polled.items():
            tracker = self._trackers.get(partition)
            if tracker is None:
                tracker = self._trackers[partition] = PartitionTracker(
                    partition,
                    sources[0].offset,
                    max_bytes=_MAX_OPEN_BYTES // max(1, len(self.assigned)),
                    on_progress=self._note_progress,
                )
            for source in sources:
                record = OpenRecord(tracker, source, self._handling.finish)
                tracker.add(record)
                try:
                    record.event = _consumed_event(source)
                except Malformed as error:
                    self._dead_letter_queue.put(record, error)
                else:
                    if tracing.tracer is not None:
                        begin_consumption(tracing.tracer, record, self.group)
                    records.append(record)
        if records:
            await self._handling.handle(records)

    def _pause_or_resume(self, client: AIOKafkaConsumer, tracker: PartitionTracker) -> None:
        """Poll no more of a partition that is held or has reached its bounds, until that is over."""
        paused = tracker.is_full or self._handling.is_held(tracker.partition)
        if paused == tracker.is_paused:
            return
        try:
            (client.pause if paused else client.resume)(tracker.partition)
        except IllegalStateError:
            return  # a rebalance is under way
        tracker.is_paused = paused

    def _note_progress(self, tracker: PartitionTracker, completed: int) -> None:
        """Commit in the background, while other records are polled and handled."""
        metrics.handled(tracker.partition.topic, self.group).inc(completed)
        self._progress.set()
        if self._client is None:
            return
        if tracker.is_paused:
            self._pause_or_resume(self._client, tracker)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(self._client))

    async def _commit(self, client: AIOKafkaConsumer) -> None:
        """Commit the watermarks of all partitions, in intervals, until there is nothing to commit."""
        while trackers := [item for item in self._trackers.values() if item.watermark != item.committed]:
            offsets = {tracker.partition: tracker.watermark for tracker in trackers}
            for tracker in trackers:
                tracker.committed = offsets[tracker.partition]
            try:
                async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                    await client.commit(offsets)
            except (KafkaError, IllegalStateError, TimeoutError) as error:
                # Complete, but not committed: the partition's next owner handles the events again, which is
                # harmless because handlers are idempotent.
                self._log.warning("consumer.commit_failed", error=str(error) or type(error).__name__)
                is_answered = not isinstance(error, TimeoutError)
                self._unanswered_commits = 0 if is_answered else self._unanswered_commits + 1
            else:
                self._unanswered_commits = 0
            await _wait(self._commit_at_once, _COMMIT_INTERVAL_S)

    async def _commit_all(self) -> None:
        """Wait up to 3 s until nothing is open but what is held, and commit. The rest is handled again."""
        self._commit_at_once.set()
        try:
            async with asyncio.timeout(_FINAL_COMMIT_TIMEOUT_S):
                if self._drain:
                    await self._drain()
                while any(map(self._handling.waits_for, self._trackers.values())):
                    self._progress.clear()
                    await self._progress.wait()
                if self._committing:
                    await asyncio.wait({self._committing})
        except TimeoutError:
            pass
        if self._committing:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
            self._committing = None
        self._commit_at_once.clear()

    async def handled_offset(self, partition: int) -> int:
        """Return the offset before which every record of a partition of the first topic is complete.

        For a partition of another member it is the committed offset. Raises `BrokerUnavailable`.
        """
        topic_partition = TopicPartition(self._topics[0].name, partition)
        if tracker := self._trackers.get(topic_partition):
            return tracker.watermark
        if self._client is None:
            raise BrokerUnavailable("the consumer is not connected")
        try:
            async with asyncio.timeout(_OFFSET_TIMEOUT_S):
                return await self._client.committed(topic_partition) or 0
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnavailable(f"no committed offset: {type(error).__name__}") from None

    async def dead_letter(self, consumed: ConsumedEvent, error: Exception) -> None:
        """Dead-letter an event that was stored when its record was completed, and failed later.

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


def _abandon(client: AIOKafkaConsumer) -> None:
    """Cancel the tasks and close the connections of a client that could not be stopped."""
    coordinator, fetcher, connections = client._coordinator, client._fetcher, client._client
    tasks = [connections._sync_task]
    if coordinator is not None:
        tasks += [
            coordinator._coordination_task,
            coordinator._heartbeat_task,
            coordinator._commit_refresh_task,
        ]
    if fetcher is not None:
        tasks.append(fetcher._fetch_task)
    for task in filter(None, tasks):
        task.cancel()
    for connection in list(connections._conns.values()):
        connection.close()


async def _wait(event: asyncio.Event, max_s: float) -> None:
    """Wait until the event is set, at most `max_s` seconds."""
    try:
        async with asyncio.timeout(max_s):
            await event.wait()
    except TimeoutError:
        pass


def _consumed_event(record: ConsumerRecord) -> ConsumedEvent:
    """Return the event of a record. Raises `Malformed`."""
    event = parse_event(record.headers, record.value)
    return ConsumedEvent(
        event, record.topic, record.partition, record.offset, record.timestamp, record.key or b""
    )
