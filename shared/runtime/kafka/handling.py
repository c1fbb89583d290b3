"""Handling of polled records: one call of the handler per poll, and partitions that are held after an error.

The one place that classifies the errors of handlers:

- No error: the events that the handler did not take are complete.
- `RetryLater`: the events are handled again after a growing pause, without a limit of attempts.
- Any other error: the events are handled one by one, and each that fails is dead-lettered.

Both concern single partitions. When a call with events of several partitions fails, each of them is held and
handled on its own. Calls are never concurrent, so that a handler needs no lock.
"""

import asyncio
from bisect import insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final

from aiokafka import TopicPartition

from shared.contracts.errors import RetryLater
from shared.runtime import metrics, tracing
from shared.runtime.kafka.batch import Batch, BatchHandler, OpenRecord
from shared.runtime.kafka.consumption_spans import end_consumption
from shared.runtime.kafka.dead_letters import DeadLetterQueue
from shared.runtime.kafka.watermark import PartitionTracker
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

_BACKOFF: Final = Backoff(first_s=0.2, max_s=10.0)
_MAX_TURN_S: Final = 1.0
"""Time for which held partitions are handled before the next poll."""


@dataclass(slots=True)
class _HeldPartition:
    """A partition whose next records are handled at the loop time `due_at`, in order, and alone."""

    records: list[OpenRecord]
    due_at: float
    one_by_one: bool = False


class RecordHandling:
    """Calls the handler of one consumer group, and holds the partitions whose records have to wait."""

    def __init__(
        self, handler: BatchHandler, dead_letters: DeadLetterQueue, log: Log, *, group: str, max_records: int
    ) -> None:
        """Initialise; `max_records` bounds the records of one call."""
        self._handler = handler
        self._dead_letters = dead_letters
        self._log = log
        self._group = group
        self._max_records = max_records
        self._held: dict[TopicPartition, _HeldPartition] = {}

    def is_held(self, partition: TopicPartition) -> bool:
        """Return whether records of the partition wait to be handled again: nothing more may be polled."""
        return partition in self._held

    def waits_for(self, tracker: PartitionTracker) -> bool:
        """Return whether open records of a partition are with the handler or become dead letters.

        Held records are not: they may take any time.
        """
        held = self._held.get(tracker.partition)
        return tracker.open_count > (len(held.records) if held else 0)

    def release(self, partitions: Collection[TopicPartition]) -> None:
        """Forget the held records of partitions that were revoked."""
        for partition in partitions:
            self._held.pop(partition, None)

    def next_due_s(self, max_s: float) -> float:
        """Return the seconds until a held partition is due, at most `max_s`."""
        if not self._held:
            return max_s
        due_at = min(held.due_at for held in self._held.values())
        return min(max_s, max(0.0, due_at - asyncio.get_running_loop().time()))

    def finish(self, record: OpenRecord, error: Exception | None) -> None:
        """Complete a record, publish its dead letter, or hold it for another attempt."""
        if record.span is not None and not isinstance(error, RetryLater):
            record.span.end(type(error).__name__ if error else None)
        tracker = record.tracker
        if tracker.is_revoked:
            return
        if error is None:
            tracker.complete(record)
        elif isinstance(error, RetryLater):
            self._hold(tracker.partition, [record], pause_s=self._pause_s([record], error))
        else:
            self._dead_letters.put(record, error)

    async def handle(self, records: Sequence[OpenRecord]) -> None:
        """Handle polled records in one call of the handler. If it fails, hold their partitions."""
        fresh = records
        if self._held:
            fresh = [record for record in records if not self.is_held(record.tracker.partition)]
            for record in records:
                # The partition was held after this poll had started: its order has to be kept.
                if (held := self._held.get(record.tracker.partition)) is not None:
                    held.records.append(record)
            if not fresh:
                return
        error, unhandled = await self._call(fresh)
        groups = [list(group) for _, group in groupby(unhandled, key=attrgetter("tracker"))]
        for group in groups:
            partition = group[0].tracker.partition
            if len(groups) > 1:
                self._hold(partition, group, pause_s=0)  # find out which of them the error concerns
            elif isinstance(error, RetryLater):
                self._hold(partition, group, pause_s=self._pause_s(group, error))
            else:
                self._hold(partition, group, pause_s=0, one_by_one=True)

    async def handle_due(self) -> None:
        """Handle the records of held partitions that are due, the longest due first, for about 1 s."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _MAX_TURN_S
        while self._held and loop.time() < give_up_at:
            partition, held = min(self._held.items(), key=lambda item: item[1].due_at)
            if held.due_at > loop.time():
                return
            await self._handle_held(partition, held)
            await asyncio.sleep(0)  # heartbeats run, however short the calls are

    async def _handle_held(self, partition: TopicPartition, held: _HeldPartition) -> None:
        count = 1 if held.one_by_one else self._max_records
        records, held.records = held.records[:count], held.records[count:]
        error, unhandled = await self._call(records)
        if self._held.get(partition) is not held:
            return  # revoked meanwhile
        if isinstance(error, RetryLater) and unhandled:
            self._hold(partition, unhandled, pause_s=self._pause_s(unhandled, error))
        elif error is not None and len(records) > 1:
            self._hold(partition, unhandled, pause_s=0, one_by_one=True)
        elif error is not None and unhandled:
            [record] = unhandled
            event_id = record.event.event.id if record.event else ""
            self._log.error("event.handling_failed", exc_info=error, event_id=event_id)
            self.finish(record, error)
        if not held.records:
            del self._held[partition]

    async def _call(self, records: Sequence[OpenRecord]) -> tuple[Exception | None, Sequence[OpenRecord]]:
        """Call the handler, and complete what it did not take.

        If it raises, return its error instead, with the records that are still to be handled.
        """
        batch = Batch(records)
        try:
            await self._handler(batch)
        except Exception as error:  # noqa: BLE001 -- classified by the callers
            if not isinstance(error, RetryLater) and len(records) > 1:
                self._log.warning("batch.failed", error=f"{type(error).__name__}: {error}")
            return error, [record for record in batch.close() if not record.tracker.is_revoked]
        completed = batch.close()
        for tracker, group in groupby(completed, key=attrgetter("tracker")):
            tracker.complete(*group)
        if tracing.tracer is not None:
            end_consumption(completed)
        return None, ()

    def _hold(
        self,
        partition: TopicPartition,
        records: Sequence[OpenRecord],
        *,
        pause_s: float,
        one_by_one: bool = False,
    ) -> None:
        """Hold a partition for at least `pause_s`; its held records stay in the order of their offsets."""
        due_at = asyncio.get_running_loop().time() + pause_s
        held = self._held.setdefault(partition, _HeldPartition([], due_at))
        for record in records:
            insort(held.records, record, key=attrgetter("offset"))
        held.due_at = max(held.due_at, due_at)
        held.one_by_one = held.one_by_one or one_by_one

    def _pause_s(self, records: Sequence[OpenRecord], error: RetryLater) -> float:
        """Count an attempt that has to be repeated; return the pause before the next one."""
        for record in records:
            record.attempts += 1
        pause_s = _BACKOFF.pause_s(records[0].attempts)
        metrics.BATCH_RETRIES.labels(self._group).inc()
        self._log.warning(
            "batch.retry_scheduled",
            error=str(error),
            events=len(records),
            partition=records[0].tracker.partition.partition,
            pause_s=pause_s,
        )
        return pause_s
