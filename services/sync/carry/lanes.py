"""Lanes: apply the changes of a mapping for one conversation in their order, independently of other lanes.

A change is applied while its Kafka record is open. If its lane has to wait, or has more than 32 changes, the
changes are stored in `sync_queue` and their records are completed: memory stays bounded, and no partition is
held. The owner of a partition also applies the stored changes of that partition.

No change is stored behind one that is not: a new owner applies what is stored before records come again.
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
from services.sync.carry.outcomes import Change, Done, Failed, Outcome, SetAside, Waits
from services.sync.carry.stored_changes import WINDOW, StoredChanges, complete, fail, restored
from services.sync.carry.turns import Turns
from services.sync.model.lane_record import LaneRecord
from services.sync.model.synced_message import QueuedChange
from services.sync.store.queue import SyncQueue
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log

_TURN: Final = 32
"""Changes that a lane applies in one turn, before the next lane of its workspace has one."""
_POLL_INTERVAL_S: Final = 1.0
_DATABASE_PAUSE_S: Final = 1.0
_RESUME_INTERVAL_S: Final = 0.005
"""Time between two lanes that are resumed together: thousands at once would overload the database."""
_MIN_STALE: Final = 100
HUB_FAULT: Final = "The hub failed to apply this: its log has the error. Retry it when that is mended."
_MAX_FAULTS: Final = 5
_STOP_TIMEOUT_S: Final = 3.0


Carry = Callable[[Change], Awaitable[Outcome]]
GiveUp = Callable[[Change, str], Awaitable[Outcome]]


class Lanes:
    """Applies the changes of all lanes of the partitions that this process owns. A part of the service."""

    def __init__(
        self,
        queue: SyncQueue,
        stored: StoredChanges,
        carry: Carry,
        give_up: GiveUp,
        log: Log,
        *,
        account_pause_s: Callable[[str, str], float],
        assignment: Callable[[], tuple[int, Sequence[int]]],
    ) -> None:
        """`carry` applies one change, and `give_up` fails one for a reason.

        `account_pause_s` returns an account's pause in seconds, 0 for none. `assignment` returns the number
        of the current assignment, and the partitions.
        """
        self._queue = queue
        self._stored = stored
        self._carry = carry
        self._give_up = give_up
        self._log = log
        self._account_pause_s = account_pause_s
        self._assignment = assignment
        self._lanes: dict[str, Lane] = {}
        self._turns = Turns(self._turn)
        self._loaded = 0
        self._loading = asyncio.Lock()
        self._putting = asyncio.Lock()
        """Held while `put` stores changes."""
        self._due: list[tuple[float, int, Lane]] = []
        """Heap of waiting lanes by due time. An entry with another time than the lane's `due_at` is stale."""
        self._numbers = count()
        self._alarm: asyncio.TimerHandle | None = None
        self._poller: asyncio.Task[None] | None = None
        self._stopping = False
        self._rejoined: set[str] = set()
        """Ids of stored changes that were set aside, and are in the memory of their lanes again."""

    async def start(self) -> None:
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop all lanes. Calls of providers that have begun get three seconds to end."""
        self._stopping = True
        if self._alarm:
            self._alarm.cancel()
        if self._poller:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await self.drain()
        await self._turns.stop()

    async def drain(self) -> None:
        """Wait up to three seconds for the changes that are being applied, before partitions are revoked."""
        await self._turns.drain(_STOP_TIMEOUT_S)

    async def put(self, changes: Sequence[Change]) -> None:
        """Append changes to their lanes. If they cannot be stored, their records are handled again later."""
        try:
            await self._load()
        except DatabaseUnavailable as error:
            return fail(changes, error)
        stored: dict[Lane, list[Change]] = {}
        for change in changes:
            lane = self._lane(change.lane, change.workspace, change.account_key)
            if lane.has_stored or not lane.takes_more:
                if change.request.kind == "signal":
                    complete(change)  # it is worth nothing later
                    continue
                lane.has_stored = True
                if lane.due_at is not None and not lane.is_due:
                    self._pause(lane, 0.0, earlier=True)  # it has not been read: its first change may be due
                stored.setdefault(lane, []).append(change)
            else:
                lane.changes.append(change)
            self._run(lane)
        if stored:
            try:
                async with self._putting:
                    await self._stored.store_all(
                        [(lane, [*lane.changes, *found]) for lane, found in stored.items()]
                    )
            except DatabaseUnavailable as error:
                fail([change for found in stored.values() for change in found], error)
            for lane in stored:
                self._run(lane)  # its turn may have ended before the changes were visible in the database
        return None

    def retry_waiting(self, workspace: str | None = None) -> None:
        """End the pauses of a workspace's lanes, or of all lanes, so that they retry soon."""
        waiting: list[Lane] = []
        for lane in self._lanes.values():
            if workspace not in (None, lane.workspace):
                continue
            if lane.due_at is None:
                lane.is_retry_requested = True
            else:
                lane.is_due = True
                waiting.append(lane)
        self._resume(waiting)

    # Waiting

    def _resume(self, lanes: Iterable[Lane]) -> None:
        """Resume lanes a few milliseconds apart, the workspaces in turn."""
        ranks: Counter[str] = Counter()
        ranked: list[tuple[int, Lane]] = []
        for lane in lanes:
            ranked.append((ranks[lane.workspace], lane))
            ranks[lane.workspace] += 1
        for number, (_, lane) in enumerate(sorted(ranked, key=itemgetter(0))):
            self._pause(lane, number * _RESUME_INTERVAL_S, earlier=True)

    def _pause(self, lane: Lane, pause_s: float, *, earlier: bool = False) -> None:
        """Let a lane wait for so many seconds; with `earlier`, only if its present pause ends later."""
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
        """Let a lane wait until its first change is due. The change is applied then without another look."""
        self._pause(lane, pause_s)
        lane.is_due = True

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_at(self._due[0][0], self._resume_due) if self._due else None

    def _resume_due(self) -> None:
        """Resume the lanes whose pause has ended, and set the timer for the next one."""
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
        """Apply up to `_TURN` changes of a lane. Return True if it has more that can be applied now."""
        for number in range(_TURN):
            if self._stopping:
                return False
            try:
                # Read a single change first: if it has to wait again, the others need not be read.
                change = await self._next(lane, WINDOW if number else 1)
                if change is None:
                    break
                lane.is_retry_requested = False
                outcome = await self._carry(change)
                await self._apply_outcome(lane, change, outcome)
            except RetryLater as error:
                self._log.warning("carry.unavailable", error=str(error))
                self._pause(lane, _DATABASE_PAUSE_S)
            except Exception as error:  # noqa: BLE001 -- an error in one change must not end its lane
                self._log.error("carry.failed", lane=lane.name, exc_info=error)
                self._pause(lane, _DATABASE_PAUSE_S)
                await self._count_fault(lane)
            if lane.due_at is not None:
                return False
        else:
            return True
        if lane.due_at is not None or lane.storing:
            return False  # it waits, or `put` starts it once its changes are stored
        if lane.changes or lane.has_stored:
            return True
        del self._lanes[lane.name]
        return False

    async def _next(self, lane: Lane, limit: int) -> Change | None:
        """Return the first change of a lane; None if it has none, waits, or lost its partition."""
        self._drop_revoked(lane)
        if not lane.changes and lane.has_stored:
            await self._read(lane, limit)
            self._drop_revoked(lane)
        return lane.changes[0] if lane.changes and lane.due_at is None else None

    def _drop_revoked(self, lane: Lane) -> None:
        """Remove changes from the head of a lane whose partition another process owns now."""
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
        is_due, lane.is_due = lane.is_due or lane.is_retry_requested or wait_s <= 0, False
        if is_due:
            lane.changes[:0] = found
        else:
            self._wait(lane, wait_s)

    async def _count_fault(self, lane: Lane) -> None:
        """Count an error of the hub at the first change of a lane; give it up after `_MAX_FAULTS`."""
        if not lane.changes:
            return
        change = lane.changes[0]
        change.faults += 1
        if change.faults < _MAX_FAULTS or change.is_revoked:
            return
        with suppress(RetryLater):
            outcome = await self._give_up(change, HUB_FAULT)
            await self._apply_outcome(lane, change, outcome)

    async def _apply_outcome(self, lane: Lane, change: Change, outcome: Outcome) -> None:
        """Store the outcome of a lane's first change; then remove the change and complete its record."""
        if change.completion and lane.storing:  # `put` is storing it
            async with self._putting:
                pass
        if change.is_revoked:
            del lane.changes[0]  # the new owner of its partition gets the record again
            return
        match outcome:
            case Done():
                if change.stored is not None:
                    complete(change)  # before the removal: `put` must not store it again
                    await self._queue.remove(change.stored.id)
            case Failed(reason):
                await self._stored.store(lane, [change])
                assert change.stored is not None  # noqa: S101 -- it was stored above
                await self._queue.fail(change.stored, reason)
            case SetAside(pause_s, reason):
                await self._stored.store(lane, [change])
                assert change.stored is not None  # noqa: S101
                due_at = utcnow() + timedelta(seconds=pause_s)
                await self._queue.set_aside(change.stored, due_at, reason)
            case Waits():
                await self._store_waiting(lane, change, outcome)
                return
        del lane.changes[0]
        if change.stored is not None:
            self._rejoined.discard(change.stored.id)
        complete(change)

    async def _store_waiting(self, lane: Lane, change: Change, outcome: Waits) -> None:
        """Store the changes of a lane, drop them from memory, and pause it."""
        attempts = change.attempts + outcome.counts
        lane.has_stored = True  # from now on, `put` stores new changes instead of adding them here
        await self._stored.store(lane, lane.changes)
        await self._stored.rejoin_all([(lane, lane.changes)])
        change.attempts = attempts
        assert change.stored is not None  # noqa: S101 -- it was stored above
        # A new owner of the partition missed earlier calls of `retry_waiting`, so it retries at once.
        stored_pause_s = 0.0 if outcome.needs_person else outcome.pause_s
        due_at = utcnow() + timedelta(seconds=stored_pause_s)
        await self._queue.postpone(
            change.stored,
            due_at,
            attempts=attempts,
            reason=outcome.reason,
            first_attempt=change.first_attempt,
        )
        # All are stored. A waiting lane holds no changes in memory.
        self._rejoined -= {item.stored.id for item in lane.changes if item.stored}
        lane.changes.clear()
        self._wait(lane, 0.0 if lane.is_retry_requested else outcome.pause_s)

    # Stored changes

    async def _load(self) -> None:
        """After a rebalance, load the lanes with stored changes. Raises `DatabaseUnavailable`."""
        if self._assignment()[0] == self._loaded:
            return
        async with self._loading:  # a second, concurrent load could overwrite newer stamps with older ones
            number, partitions = self._assignment()
            if number == self._loaded or not partitions:
                return
            records = await self._stored.lanes(partitions)
            self._loaded = number
            self._rejoined.clear()
            for lane in self._lanes.values():  # another process may have owned it and removed its record
                lane.is_recorded = False
            lanes = [self._load_lane(record) for record in records]
            self._resume(lane for lane in lanes if not lane.is_running)

    def _load_lane(self, record: LaneRecord) -> Lane:
        lane = self._lane(record.lane, record.workspace, record.account_key)
        lane.has_stored, lane.is_due = True, False
        lane.cursor.lower([record.head])
        lane.record_id, lane.stamp, lane.recorded_head = record.id, record.stamp, record.head
        return lane

    async def _rejoin_due(self, found: Sequence[QueuedChange]) -> None:
        """Append changes whose time aside is over to their lanes, unless they are there already.

        If a lane waits or is full, its changes get the state `waiting` in the database: otherwise the next
        search would find the same changes again, and not those of other lanes.
        """
        rejoining: dict[Lane, list[Change]] = {}
        for queued in found:
            if queued.id in self._rejoined:
                continue
            lane = self._lane(queued.lane, queued.workspace, queued.account_key)
            if lane.takes_more:
                self._rejoined.add(queued.id)
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
        """Return changes that were set aside to their lanes when they are due, once a second."""
        while True:
            try:
                await self._load()
                _, partitions = self._assignment()
                if partitions:
                    await self._rejoin_due(await self._queue.find_set_aside(partitions))
            except DatabaseUnavailable as error:
                self._log.warning("carry.database_unavailable", error=str(error))
            except Exception as error:  # noqa: BLE001 -- an error must not end the loop
                self._log.error("carry.search_failed", exc_info=error)
            await asyncio.sleep(_POLL_INTERVAL_S)
