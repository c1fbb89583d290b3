"""Store and read changes of lanes: a change is stored before its Kafka record is completed.

A lane with stored changes has a `LaneRecord`, written before its first change. From these records, the new
owner of a partition gets the lanes, and the position to read each from, without searching the queue.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from services.sync.carry.lane import Lane
from services.sync.carry.outcomes import Change
from services.sync.model.lane_record import LaneRecord
from services.sync.model.synced_message import QueuedChange
from services.sync.store.lane_records import LaneRecords
from services.sync.store.messages import RETENTION
from services.sync.store.queue import SyncQueue
from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.sync import SyncRequested
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint

WINDOW: Final = 32
"""Maximum number of changes of a lane that are read at a time."""


class StoredChanges:
    """Stores and reads the changes of lanes. Every method raises `DatabaseUnavailable`."""

    def __init__(self, queue: SyncQueue, records: LaneRecords, retry_for_s: Callable[[str], float]) -> None:
        """`retry_for_s` returns how long a mapping retries, in seconds."""
        self._queue = queue
        self._records = records
        self._retry_for_s = retry_for_s

    async def lanes(self, partitions: Collection[int]) -> list[LaneRecord]:
        """Return the lanes that may have stored changes of these partitions."""
        return await self._records.of_partitions(partitions)

    async def store(self, lane: Lane, changes: Iterable[Change]) -> None:
        """Store the changes of a lane that have no complete Kafka records, and complete the records.

        The changes are inserted in their order. If the write fails, the first of them may be stored.
        """
        await self.store_all([(lane, list(changes))])

    async def store_all(self, changes_by_lane: Sequence[tuple[Lane, Sequence[Change]]]) -> None:
        """Store changes of several lanes in one write; see `store`."""
        new = [
            (lane, [change for change in changes if change.completion and not change.is_revoked])
            for lane, changes in changes_by_lane
        ]
        new = [(lane, changes) for lane, changes in new if changes]
        if not new:
            return
        with _storing(new):
            await self._record(new)
            stored = [change for _, changes in new for change in changes]
            for change in stored:
                change.stored = self._queued(change)
            await self._queue.add([change.stored for change in stored if change.stored])
            failpoint("carry.queued")
        for change in stored:
            complete(change)

    async def rejoin_all(self, changes_by_lane: Sequence[tuple[Lane, Sequence[Change]]]) -> None:
        """Change the state of changes from `aside` to `waiting`: they wait in the order of their lanes."""
        aside = [
            (lane, [change for change in changes if change.stored and change.stored.state == "aside"])
            for lane, changes in changes_by_lane
        ]
        aside = [(lane, changes) for lane, changes in aside if changes]
        if not aside:
            return
        with _storing(aside):
            await self._record(aside)
            await self._queue.rejoin(
                [change.stored for _, found in aside for change in found if change.stored]
            )

    async def first(
        self, lane: Lane, owned: Callable[[], Collection[int]], limit: int
    ) -> list[Change] | None:
        """Return the first stored changes of a lane in the partitions that `owned` returns.

        If the lane has none, remove its record and return None. The list is empty while changes of the lane
        are being stored.
        """
        while True:
            stores, stamp = lane.stores, lane.stamp
            stored = await self._queue.first(lane.name, lane.cursor, limit)
            is_unchanged = not lane.storing and (lane.stores, lane.stamp) == (stores, stamp)
            partitions = owned()  # read after the query: a rebalance may have ended meanwhile
            found = [change for change in stored if change.partition in partitions]
            if found:
                if is_unchanged:
                    lane.cursor.head = found[0].position
                    if len(stored) == WINDOW:
                        await self._advance(lane, found[0].position)
                return [restored(change) for change in found]
            if lane.storing:
                return []
            if is_unchanged:
                break
        lane.has_stored = False
        lane.cursor.head = None
        if not stored and stamp:
            lane.stamp, lane.is_recorded = "", False
            await self._records.remove(lane.record_id, stamp)
        return None

    async def _record(self, new: Sequence[tuple[Lane, Sequence[Change]]]) -> None:
        """Write the records of lanes that have none, or whose new changes are before the recorded head."""
        records: list[tuple[Lane, LaneRecord]] = []
        for lane, changes in new:
            head = min(change.position for change in changes)
            if lane.is_recorded and head >= lane.recorded_head:
                continue
            record = LaneRecord.of(lane.workspace, lane.name, lane.account_key, changes[0].partition, head)
            records.append((lane, record))
        if not records:
            return
        await self._records.put([record for _, record in records])
        for lane, record in records:
            lane.record_id, lane.stamp, lane.recorded_head = record.id, record.stamp, record.head
            lane.is_recorded = True

    async def _advance(self, lane: Lane, head: int) -> None:
        """Raise the head in the record, so that reading begins there after a restart."""
        if lane.stamp and head > lane.recorded_head:
            lane.recorded_head = head  # set before the write, so that a concurrent earlier change rewrites it
            await self._records.advance(lane.record_id, lane.stamp, head)

    def _queued(self, change: Change) -> QueuedChange:
        request, now = change.request, utcnow()
        return QueuedChange(
            id=request.request_id,
            workspace=change.workspace,
            mapping_id=request.mapping_id,
            lane=change.lane,
            account_key=change.account_key,
            partition=change.partition,
            position=change.position,
            state="waiting",
            due_at=now,
            synced_id=request.synced_id,
            leg_id=request.leg_id,
            request=request.model_dump(),
            traceparent=change.traceparent,
            first_attempt=change.first_attempt or None,
            give_up_at=change.received_at + timedelta(seconds=self._retry_for_s(request.mapping_id)),
            created_at=now,
            expires_at=now + RETENTION,
        )


@contextmanager
def _storing(changes_by_lane: Sequence[tuple[Lane, Sequence[Change]]]) -> Iterator[None]:
    """Count a running write of changes at their lanes: a concurrent query may not find these changes."""
    for lane, changes in changes_by_lane:
        lane.storing += 1
        lane.cursor.lower(change.position for change in changes)
    try:
        yield
    finally:
        for lane, _ in changes_by_lane:
            lane.storing -= 1
            lane.stores += 1


def complete(change: Change) -> None:
    """Complete the Kafka record of a change, if the change still has one."""
    if change.completion is not None:
        completion, change.completion = change.completion, None
        completion.done()


def fail(changes: Iterable[Change], error: DatabaseUnavailable) -> None:
    """Fail the Kafka records of changes, so that they are handled again."""
    for change in changes:
        if change.completion is not None:
            completion, change.completion = change.completion, None
            completion.fail(error)


def restored(queued: QueuedChange) -> Change:
    """Return a stored change as the carrier takes it."""
    request = SyncRequested.model_validate(queued.request)
    return Change(
        request=request,
        workspace=queued.workspace,
        traceparent=queued.traceparent,
        lane=queued.lane,
        account_key=queued.account_key,
        partition=queued.partition,
        position=queued.position,
        received_at=datetime.fromisoformat(request.received_at),
        stored=queued,
        attempts=queued.attempts,
        first_attempt=queued.first_attempt or "",
    )
