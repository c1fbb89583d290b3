"""Lanes: the changes of a mapping for one conversation go out one after another, whatever other lanes do.

A change is carried from the record that brought it. When its lane has to wait, or is long, its changes are
stored in `sync_queue`, and their records are complete. So memory is bounded, and no partition is held up. The
owner of a partition works on the stored changes of that partition, and finds their lanes when it gets it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from heapq import heapify, heappop, heappush
from itertools import count
from operator import itemgetter
from sys import intern
from typing import Final

from services.sync.carry.lane import Lane
from services.sync.carry.outcomes import Aside, Change, Done, Failed, Outcome, Waits
from services.sync.carry.stored_changes import WINDOW, StoredChanges, complete, fail, restored
from services.sync.carry.turns import Turns
from services.sync.model.lane_record import LaneRecord
from services.sync.model.synced_message import QueuedChange
from services.sync.store.queue import SyncQueue
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

_TURN: Final = 32
"""Changes that a lane carries before another one of its workspace has a turn."""
_POLL_INTERVAL_S: Final = 1.0
_DATABASE_PAUSE_S: Final = 1.0
_RESUME_INTERVAL_S: Final = 0.005
"""Between two lanes that go on: thousands at once would use up the database."""
_MIN_STALE: Final = 100
_MAX_FAULTS: Final = 5
_STOP_TIMEOUT_S: Final = 3.0

Carry = Callable[[Change], Awaitable[Outcome]]


class Lanes:
    """All lanes of the partitions that this process owns: a part of the service."""

    def __init__(
        self,
        queue: SyncQueue,
        stored: StoredChanges,
        carry: Carry,
        log: Log,
        *,
        account_pause_s: Callable[[str, str], float],
        assignment: Callable[[], tuple[int, Sequence[int]]],
    ) -> None:
        """`carry` carries one change. `account_pause_s` returns an account's pause in seconds, 0 for none.

        `assignment` returns the number of the current assignment, and the partitions.
        """
        self._queue = queue
        self._stored = stored
        self._carry = carry
        self._log = log
        self._account_pause_s = account_pause_s
        self._assignment = assignment
        self._lanes: dict[str, Lane] = {}
        self._turns = Turns(self._turn)
        self._loaded = 0
        self._loading = asyncio.Lock()
        self._due: list[tuple[float, int, Lane]] = []
        """A heap of the lanes that wait. An entry with another time than its lane's does not count."""
        self._numbers = count()
        self._alarm: asyncio.TimerHandle | None = None
        self._poller: asyncio.Task[None] | None = None
        self._stopping = False
        self._aside: set[str] = set()
        """Ids of the stored changes that were set aside, and are in a lane again."""

    async def start(self) -> None:
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End what waits; what is being sent gets three seconds."""
        self._stopping = True
        if self._alarm:
            self._alarm.cancel()
        if self._poller:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await self.drain()
        await self._turns.stop()

    async def drain(self) -> None:
        """Let the changes that are being sent end, before their partitions are given up."""
        await self._turns.drain(_STOP_TIMEOUT_S)

    async def put(self, changes: Sequence[Change]) -> None:
        """Add changes behind those of their lanes. What cannot be stored is handled again later."""
        try:
            await self._load()
        except DatabaseUnavailable as error:
            return fail(changes, error)
        stored: dict[Lane, list[Change]] = {}
        for change in changes:
            lane = self._lane(change.lane, change.workspace, change.account_key)
            if lane.has_stored or not lane.takes_more:
                lane.has_stored = True
                if lane.due_at is not None and not lane.is_due:
                    self._pause(lane, 0.0, earlier=True)  # nothing is known of it yet
                stored.setdefault(lane, []).append(change)
            else:
                lane.changes.append(change)
            self._run(lane)
        if stored:
            try:
                await self._stored.store_all(list(stored.items()))
            except DatabaseUnavailable as error:
                fail([change for found in stored.values() for change in found], error)
            for lane in stored:
                self._run(lane)  # its turn has ended, if it found nothing in the meantime
        return None

    def wake(self, workspace: str | None = None) -> None:
        """Let every lane that waits try again soon: of a workspace, or of all."""
        waiting: list[Lane] = []
        for lane in self._lanes.values():
            if workspace not in (None, lane.workspace):
                continue
            if lane.due_at is None:
                lane.is_woken = True
            else:
                lane.is_due = True
                waiting.append(lane)
        self._resume(waiting)

    # Waiting

    def _resume(self, lanes: Iterable[Lane]) -> None:
        """Let lanes go on one after another, those of each workspace in turn."""
        ranks: Counter[str] = Counter()
        ranked: list[tuple[int, Lane]] = []
        for lane in lanes:
            ranked.append((ranks[lane.workspace], lane))
            ranks[lane.workspace] += 1
        for number, (_, lane) in enumerate(sorted(ranked, key=itemgetter(0))):
            self._pause(lane, number * _RESUME_INTERVAL_S, earlier=True)

    def _pause(self, lane: Lane, pause_s: float, *, earlier: bool = False) -> None:
        """Let a lane wait; with `earlier`, only if that ends its pause earlier."""
        due_at = asyncio.get_running_loop().time() + pause_s
        if earlier and lane.due_at is not None and lane.due_at <= due_at:
            return
        lane.due_at = due_at
        if len(self._due) > 2 * len(self._lanes) + _MIN_STALE:
            self._due = [entry for entry in self._due if entry[2].due_at == entry[0]]
            heapify(self._due)
        heappush(self._due, (due_at, next(self._numbers), lane))
        if self._due[0][2] is lane:
            self._set_alarm()

    def _wait(self, lane: Lane, pause_s: float) -> None:
        """Let a lane wait until its first change is due."""
        self._pause(lane, pause_s)
        lane.is_due = True

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_at(self._due[0][0], self._resume_due) if self._due else None

    def _resume_due(self) -> None:
        """Let the lanes go on whose pause has ended."""
        now = asyncio.get_running_loop().time()
        while self._due and (self._due[0][0] <= now or self._due[0][2].due_at != self._due[0][0]):
            due_at, _, lane = heappop(self._due)
            if lane.due_at == due_at:
                lane.due_at = None
                self._run(lane)
        self._set_alarm()

    # Working

    def _lane(self, name: str, workspace: str, account_key: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name, intern(workspace), intern(account_key))
        return lane

    def _run(self, lane: Lane) -> None:
        if not lane.is_running and lane.due_at is None and not self._stopping:
            self._turns.start(lane)

    async def _turn(self, lane: Lane) -> bool:
        """Carry some changes of a lane. Return whether there are more to carry now."""
        for number in range(_TURN):
            if self._stopping:
                return False
            try:
                # One change is tried before the others are read: it may have to wait again.
                change = await self._next(lane, WINDOW if number else 1)
                if change is None:
                    break
                lane.is_woken = False
                outcome = await self._carry(change)
                await self._settle(lane, change, outcome)
            except RetryLater as error:
                self._log.warning("carry.unavailable", error=str(error))
                self._pause(lane, _DATABASE_PAUSE_S)
            except Exception as error:  # noqa: BLE001 -- a fault of one change must not end its lane
                self._log.error("carry.failed", lane=lane.name, exc_info=error)
                self._pause(lane, _DATABASE_PAUSE_S)
                await self._pass_over(lane)
            if lane.due_at is not None:
                return False
        else:
            return True
        if lane.due_at is not None or lane.storing:
            return False  # it waits, or gets a turn when its changes are stored
        if lane.changes or lane.has_stored:
            return True
        del self._lanes[lane.name]
        return False

    async def _next(self, lane: Lane, limit: int) -> Change | None:
        """Return the first change of a lane; None if it has none, waits, or is another process's by now."""
        self._drop_lost(lane)
        if not lane.changes and lane.has_stored:
            await self._read(lane, limit)
            self._drop_lost(lane)
        return lane.changes[0] if lane.changes and lane.due_at is None else None

    def _drop_lost(self, lane: Lane) -> None:
        """Forget the first changes of a lane that another process works on by now."""
        partitions = self._assignment()[1]
        while lane.changes:
            first = lane.changes[0]
            if not first.is_revoked and (first.stored is None or first.partition in partitions):
                return
            del lane.changes[0]

    async def _read(self, lane: Lane, limit: int) -> None:
        """Read the first stored changes of a lane, or let it wait until the first one is due."""
        if pause_s := self._account_pause_s(lane.workspace, lane.account_key):
            self._pause(lane, pause_s)
            return
        found = await self._stored.first(lane, lambda: self._assignment()[1], limit)
        if not found:
            return
        assert found[0].stored is not None  # noqa: S101 -- it was read above
        wait_s = (found[0].stored.due_at - utcnow()).total_seconds()
        is_due, lane.is_due = lane.is_due or lane.is_woken or wait_s <= 0, False
        if is_due:
            lane.changes[:0] = found
        else:
            self._wait(lane, wait_s)

    async def _pass_over(self, lane: Lane) -> None:
        """Count a fault of the hub at the first change of a lane; after some of them, the others go on."""
        if not lane.changes:
            return
        change = lane.changes[0]
        change.faults += 1
        if change.faults >= _MAX_FAULTS:
            with suppress(DatabaseUnavailable):
                await self._settle(lane, change, Failed("A fault of the hub: its log has the error."))

    async def _settle(self, lane: Lane, change: Change, outcome: Outcome) -> None:
        """Do what an outcome asks for: only then is the change taken out of its lane."""
        if change.is_revoked:
            del lane.changes[0]  # its record comes again: here, or at another process
            return
        match outcome:
            case Done():
                if change.stored is not None:
                    await self._queue.remove(change.stored.id)
            case Failed(reason):
                await self._stored.store(lane, [change])
                assert change.stored is not None  # noqa: S101 -- it was stored above
                await self._queue.fail(change.stored, reason)
            case Aside(pause_s, reason):
                await self._stored.store(lane, [change])
                assert change.stored is not None  # noqa: S101
                due_at = utcnow() + timedelta(seconds=pause_s)
                await self._queue.set_aside(change.stored, due_at, reason)
            case Waits():
                await self._hold(lane, change, outcome)
                return
        del lane.changes[0]
        if change.stored is not None:
            self._aside.discard(change.stored.id)
        complete(change)

    async def _hold(self, lane: Lane, change: Change, outcome: Waits) -> None:
        """Store the changes of a lane that has to wait, and wait."""
        attempts = change.attempts + outcome.counts
        lane.has_stored = True  # from here on, `put` stores what comes
        await self._stored.store(lane, lane.changes)
        await self._stored.rejoin_all([(lane, lane.changes)])
        change.attempts = attempts
        assert change.stored is not None  # noqa: S101 -- it was stored above
        # A new owner of the partition knows of no wake that came before: it asks at once.
        stored_pause_s = 0.0 if outcome.needs_person else outcome.pause_s
        due_at = utcnow() + timedelta(seconds=stored_pause_s)
        await self._queue.postpone(change.stored, due_at, attempts=attempts, reason=outcome.reason)
        # They are stored: a lane that waits takes no memory.
        self._aside -= {item.stored.id for item in lane.changes if item.stored}
        lane.changes.clear()
        self._wait(lane, 0.0 if lane.is_woken else outcome.pause_s)

    # Stored changes

    async def _load(self) -> None:
        """Find the lanes of new partitions that have stored changes. Raises `DatabaseUnavailable`."""
        if self._assignment()[0] == self._loaded:
            return
        async with self._loading:  # read twice, a record could take the place of what was written since
            number, partitions = self._assignment()
            if number == self._loaded or not partitions:
                return
            records = await self._stored.lanes(partitions)
            self._loaded = number
            self._aside.clear()
            for lane in self._lanes.values():
                lane.is_recorded = False  # another process may have had the partition in the meantime
            lanes = [self._load_lane(record) for record in records]
            self._resume(lane for lane in lanes if not lane.is_running)

    def _load_lane(self, record: LaneRecord) -> Lane:
        lane = self._lane(record.lane, record.workspace, record.account_key)
        lane.has_stored, lane.is_due = True, False
        lane.cursor.lower([record.head])
        lane.record_id, lane.stamp, lane.recorded_head = record.id, record.stamp, record.head
        return lane

    async def _put_aside(self, found: Sequence[QueuedChange]) -> None:
        """Put changes that were aside behind those of their lanes, unless they are there already.

        If a lane waits or is full, they wait among its stored changes: as long as they were aside and due,
        the search would find them again instead of those of other lanes.
        """
        rejoining: dict[Lane, list[Change]] = {}
        for queued in found:
            if queued.id in self._aside:
                continue
            lane = self._lane(queued.lane, queued.workspace, queued.account_key)
            if lane.takes_more:
                self._aside.add(queued.id)
                lane.changes.append(restored(queued))
                self._run(lane)
            else:
                lane.has_stored = True
                rejoining.setdefault(lane, []).append(restored(queued))
        try:
            await self._stored.rejoin_all(list(rejoining.items()))
        finally:
            for lane in rejoining:
                self._run(lane)

    async def _poll(self) -> None:
        """Put changes that were aside, and are due, into their lanes again."""
        while True:
            try:
                await self._load()
                _, partitions = self._assignment()
                if partitions:
                    await self._put_aside(await self._queue.due_aside(partitions))
            except DatabaseUnavailable as error:
                self._log.warning("carry.database_unavailable", error=str(error))
            except Exception as error:  # noqa: BLE001 -- one failed search must not be the last
                self._log.error("carry.search_failed", exc_info=error)
            await asyncio.sleep(_POLL_INTERVAL_S)
