"""Lanes: the changes of one target conversation go out one after another, whatever other lanes do.

A change is carried from the record that brought it. When its lane has to wait, or is long, its changes are
stored in `sync_queue`, and their records are complete. So memory is bounded, and no partition is held up. The
owner of a partition works on the stored changes of that partition, and loads them when it gets the partition.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from services.sync.carry.outcomes import Aside, Change, Done, Failed, Outcome, Waits
from services.sync.model.synced_message import QueuedChange
from services.sync.store.queue import RETENTION, SyncQueue
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.contracts.sync import SyncRequested
from shared.runtime.failpoints import failpoint
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

MAX_IN_MEMORY: Final = 32
"""The maximum number of changes of a lane in memory. Further changes are stored."""
_WINDOW: Final = 32
_POLL_INTERVAL_S: Final = 1.0
_DATABASE_PAUSE_S: Final = 1.0
_MAX_ACTIVE: Final = 50
"""Lanes of a workspace that carry a change at the same time."""
_MAX_FAULTS: Final = 5
_STOP_TIMEOUT_S: Final = 3.0

Carry = Callable[[Change], Awaitable[Outcome]]


class _Lane:
    """The state of one lane in this process."""

    __slots__ = ("changes", "has_stored", "head", "is_due", "is_waiting", "task", "wake")

    def __init__(self) -> None:
        self.changes: deque[Change] = deque()
        self.has_stored = False
        """True if the database has changes that follow those in `changes`."""
        self.head: int | None = None
        """A position that no stored change is before; None if it is not known."""
        self.is_waiting = False
        self.is_due = False
        """True if the pause of the first change has ended, by its time or by `wake`."""
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def lower_head(self, positions: Iterable[int]) -> None:
        """Note that changes at these positions are stored: records that come again have earlier ones."""
        if self.head is not None:
            self.head = min((self.head, *positions))


class Lanes:
    """All lanes of the partitions that this process owns: a part of the service."""

    def __init__(
        self,
        queue: SyncQueue,
        carry: Carry,
        retry_for_s: Callable[[str], float],
        log: Log,
        *,
        assignment: Callable[[], tuple[int, Sequence[int]]],
    ) -> None:
        """`carry` carries one change. `retry_for_s` returns how long a mapping retries, in seconds.

        `assignment` returns the number of the current assignment, and the partitions.
        """
        self._queue = queue
        self._carry = carry
        self._retry_for_s = retry_for_s
        self._log = log
        self._assignment = assignment
        self._lanes: dict[str, _Lane] = {}
        self._loaded = 0
        self._slots = WorkspaceLimits(_MAX_ACTIVE)
        self._poller: asyncio.Task[None] | None = None
        self._stopping = False
        self._aside: set[str] = set()
        """Ids of the stored changes that were set aside, and are in a lane again."""

    async def start(self) -> None:
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End what waits; what is being sent gets three seconds."""
        self._stopping = True
        if self._poller:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await self.drain()
        tasks = [lane.task for lane in self._lanes.values() if lane.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Let the changes that are being sent end, before their partitions are given up."""
        self.wake()
        busy = [lane.task for lane in self._lanes.values() if lane.task and not lane.is_waiting]
        if busy:
            await asyncio.wait(busy, timeout=_STOP_TIMEOUT_S)

    async def put(self, changes: Sequence[Change]) -> None:
        """Add changes behind those of their lanes. What cannot be stored is handled again later."""
        try:
            await self._load()
        except DatabaseUnavailable as error:
            return _fail(changes, error)
        stored: list[Change] = []
        for change in changes:
            lane = self._lanes.get(change.lane)
            if lane is None:
                lane = self._lanes[change.lane] = _Lane()
            if lane.has_stored or lane.is_waiting or len(lane.changes) >= MAX_IN_MEMORY:
                lane.has_stored = True
                stored.append(change)
            else:
                lane.changes.append(change)
            self._run(change.lane, lane)
        if stored:
            try:
                await self._store(stored)
            except DatabaseUnavailable as error:
                return _fail(stored, error)
            for name in {change.lane for change in stored}:
                # It may have found nothing, and ended, while they were being stored.
                lane = self._lanes.setdefault(name, _Lane())
                lane.has_stored = True
                lane.lower_head(change.position for change in stored if change.lane == name)
                self._run(name, lane)
        return None

    def wake(self) -> None:
        """Let every lane that waits try again now."""
        for lane in self._lanes.values():
            lane.wake.set()

    # Working

    def _run(self, name: str, lane: _Lane) -> None:
        if lane.task is None or lane.task.done():
            lane.task = asyncio.create_task(self._work(name, lane))

    async def _work(self, name: str, lane: _Lane) -> None:
        """Carry the changes of a lane until there is none."""
        while not self._stopping:
            try:
                change = await self._next(name, lane)
                if change is None or self._is_foreign(change):
                    if self._lanes.get(name) is lane:
                        del self._lanes[name]
                    return
                async with self._slots.hold(change.workspace):
                    outcome = await self._carry(change)
                await self._settle(lane, change, outcome)
            except RetryLater as error:
                self._log.warning("carry.unavailable", error=str(error))
                await self._pause(lane, _DATABASE_PAUSE_S)
            except Exception as error:  # noqa: BLE001 -- a fault of one change must not end its lane
                self._log.error("carry.failed", lane=name, exc_info=error)
                await self._pause(lane, _DATABASE_PAUSE_S)
                await self._pass_over(lane)

    async def _next(self, name: str, lane: _Lane) -> Change | None:
        """Return the first change of a lane; None if it is empty, or not this process's any more."""
        while lane.changes and lane.changes[0].is_revoked:
            lane.changes.popleft()
        if lane.changes:
            return lane.changes[0]
        if not lane.has_stored:
            return None
        _, partitions = self._assignment()
        stored = await self._queue.first(name, _WINDOW, from_position=lane.head)
        found = [change for change in stored if change.partition in partitions]
        if not found:
            lane.has_stored = False
            return lane.changes[0] if lane.changes else None
        lane.changes.extendleft(reversed([_restored(change) for change in found]))
        first, lane.head = lane.changes[0], found[0].position
        wait_s = (found[0].due_at - utcnow()).total_seconds()
        if wait_s > 0 and not lane.is_due:
            await self._pause(lane, wait_s)
        lane.is_due = False
        return first

    async def _pass_over(self, lane: _Lane) -> None:
        """Count a fault of the hub at the first change of a lane; after some of them, the others go on."""
        if not lane.changes:
            return
        change = lane.changes[0]
        change.faults += 1
        if change.faults >= _MAX_FAULTS:
            with suppress(DatabaseUnavailable):
                await self._settle(lane, change, Failed("A fault of the hub: its log has the error."))

    def _is_foreign(self, change: Change) -> bool:
        """Return whether a stored change belongs to another process by now."""
        return change.stored is not None and change.partition not in self._assignment()[1]

    async def _settle(self, lane: _Lane, change: Change, outcome: Outcome) -> None:
        """Do what an outcome asks for: only then is the change taken out of its lane."""
        if change.is_revoked:
            lane.changes.popleft()  # its record comes again: here, or at another process
            return
        match outcome:
            case Done():
                if change.stored is not None:
                    await self._queue.remove(change.stored.id)
            case Failed(reason):
                await self._ensure_stored(change)
                assert change.stored is not None  # noqa: S101 -- it was stored above
                await self._queue.fail(change.stored, reason)
            case Aside(pause_s, reason):
                await self._ensure_stored(change)
                assert change.stored is not None  # noqa: S101
                due_at = utcnow() + timedelta(seconds=pause_s)
                await self._queue.set_aside(change.stored, due_at, reason)
            case Waits():
                await self._hold(lane, change, outcome)
                return
        lane.changes.popleft()
        if change.stored is not None:
            self._aside.discard(change.stored.id)
        self._complete(change)

    async def _hold(self, lane: _Lane, change: Change, outcome: Waits) -> None:
        """Store the changes of a lane that has to wait, and wait."""
        attempts = change.attempts + outcome.counts
        lane.has_stored = True  # from here on, `put` stores what comes
        await self._store(list(lane.changes))
        lane.lower_head(item.position for item in lane.changes)
        change.attempts = attempts
        assert change.stored is not None  # noqa: S101 -- it was stored above
        due_at = utcnow() + timedelta(seconds=outcome.pause_s)
        await self._queue.postpone(change.stored, due_at, attempts=attempts, reason=outcome.reason)
        # They are stored: a lane that waits takes no memory.
        self._aside -= {item.stored.id for item in lane.changes if item.stored}
        lane.changes.clear()
        await self._pause(lane, outcome.pause_s)
        lane.is_due = True

    async def _pause(self, lane: _Lane, pause_s: float) -> None:
        lane.is_waiting = True
        lane.wake.clear()
        try:
            async with asyncio.timeout(pause_s):
                await lane.wake.wait()
        except TimeoutError:
            pass
        finally:
            lane.is_waiting = False

    # Storing

    async def _ensure_stored(self, change: Change) -> None:
        if change.stored is None:
            await self._store([change])

    async def _store(self, changes: Iterable[Change]) -> None:
        """Store those changes that are not yet, and complete their records."""
        new = [change for change in changes if change.stored is None and not change.is_revoked]
        if not new:
            return
        stored = [self._queued(change) for change in new]
        await self._queue.add(stored)
        failpoint("carry.queued")
        for change, queued in zip(new, stored, strict=True):
            change.stored = queued
            self._complete(change)

    def _queued(self, change: Change) -> QueuedChange:
        request, now = change.request, utcnow()
        give_up_at = change.received_at + timedelta(seconds=self._retry_for_s(request.mapping_id))
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
            give_up_at=give_up_at,
            created_at=now,
            expires_at=max(give_up_at, now) + RETENTION,
        )

    def _complete(self, change: Change) -> None:
        if change.completion is not None:
            completion, change.completion = change.completion, None
            completion.done()

    # Stored changes

    async def _load(self) -> None:
        """Start the lanes of new partitions that have stored changes. Raises `DatabaseUnavailable`."""
        number, partitions = self._assignment()
        if number == self._loaded or not partitions:
            return
        names = await self._queue.lanes(partitions)
        self._loaded = number
        self._aside.clear()
        for name in names:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = _Lane()
            lane.has_stored = True
            self._run(name, lane)

    def _put_aside(self, queued: QueuedChange) -> None:
        """Put a change that was aside behind those of its lane, unless it is there, or the lane waits."""
        lane = self._lanes.get(queued.lane)
        if queued.id in self._aside or (lane is not None and lane.is_waiting):
            return
        if lane is None:
            lane = self._lanes[queued.lane] = _Lane()
        self._aside.add(queued.id)
        lane.changes.append(_restored(queued))
        self._run(queued.lane, lane)

    async def _poll(self) -> None:
        """Put changes that were aside, and are due, into their lanes again."""
        while True:
            try:
                await self._load()
                _, partitions = self._assignment()
                for queued in await self._queue.due_aside(partitions) if partitions else ():
                    self._put_aside(queued)
            except DatabaseUnavailable as error:
                self._log.warning("carry.database_unavailable", error=str(error))
            except Exception as error:  # noqa: BLE001 -- one failed search must not be the last
                self._log.error("carry.search_failed", exc_info=error)
            await asyncio.sleep(_POLL_INTERVAL_S)


def _fail(changes: Iterable[Change], error: DatabaseUnavailable) -> None:
    """Have the records of changes handled again."""
    for change in changes:
        if change.completion is not None:
            completion, change.completion = change.completion, None
            completion.fail(error)


def _restored(queued: QueuedChange) -> Change:
    """Return the change that was stored."""
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
    )
