"""Works off the backlog: a slice of each workspace in turn, at a pace that leaves room for others.

While events of other workspaces come, a slice is about one millisecond, followed by a pause of 19 times
its cost; the longer a workspace's events wait, the shorter its pauses. While there are none, slices are
larger, and only the way to the attempts sets the pace: at most `_MOST_UNDER_WAY` requests are on it, so that
whoever comes next finds a short queue.

Conditions are evaluated in a thread of low share: it rests every few hundred steps, so that the loop
waits for it for a tenth of a millisecond, not for a whole evaluation.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import sleep, thread_time, time
from typing import Final

from services.delivery.engine.backlog import Backlog, BacklogQueue
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.fanout import PUBLISH_TIMEOUT_S, Expansion, Fanout
from services.delivery.model.delivery import at_ms_of
from shared.contracts.errors import BrokerUnavailable, Rejected, RetryLater
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.consumer import ConsumedEvent
from shared.runtime.kafka.producer import Producer, Record, RecordPosition
from shared.runtime.logs import Log

DeadLetter = Callable[[ConsumedEvent, Rejected], Awaitable[None]]
HandledOffset = Callable[[int], Awaitable[int]]
"""The offset before which a partition of `delivery.requested` is handled."""

_SLICE: Final = 16_000.0
_SHARED_SLICE: Final = 1_000.0
_MAX_PAUSE_FACTOR: Final = 19.0
_MIN_PAUSE_FACTOR: Final = 1.0
"""The pause after a slice while other workspaces are active, as a multiple of the slice's cost."""
_MIN_PAUSE_AGE_S: Final = 300.0
"""The age of a deferred event at which pauses are the shortest."""
_LOOP_SLICE: Final = 1_000.0
_MAX_IN_FLIGHT: Final = 16
_PROGRESS_INTERVAL_S: Final = 1.0
"""The interval at which progress in a chunk is stored. After a crash, work since then is repeated."""
_POLL_INTERVAL_S: Final = 0.5
_RELOAD_INTERVAL_S: Final = 30.0
_ABSORB_POLL_INTERVAL_S: Final = 0.005
_ABSORB_TIMEOUT_S: Final = 5.0
_RETRY_INTERVAL_S: Final = 1.0
_FAILED_POLL_INTERVAL_S: Final = 0.1


@dataclass(slots=True)
class _OpenChunk:
    """The chunk of a workspace that is worked off."""

    line: BacklogQueue
    events: deque[ConsumedEvent]
    expansion: Expansion | None = None
    kept_at: float = 0.0
    records: list[Record] = field(default_factory=list)


class _ThreadThrottle:
    """The rests of the thread that evaluates conditions: `times` as long as the work before them."""

    def __init__(self) -> None:
        self.times = 0.0
        self.cost = 0.0
        """Microseconds of work that were followed by a rest."""
        self._at: float | None = None

    def begin(self) -> None:
        """Count from the thread's next call of `rest`."""
        self._at = None

    def rest(self) -> None:
        """Sleep for as long as the work since the last rest asks for; in the thread."""
        now = thread_time()
        spent = 0.0 if self._at is None else now - self._at
        self._at = now
        self.cost += spent * 1e6
        sleep(spent * self.times)


class BacklogWorker:
    """Works off the backlog of this process."""

    def __init__(
        self,
        backlog: Backlog,
        fanout: Fanout,
        shares: FairShares,
        producer: Producer,
        log: Log,
        *,
        dead_letter: DeadLetter,
        handled: HandledOffset,
    ) -> None:
        self._backlog = backlog
        self._fanout = fanout
        self._shares = shares
        self._producer = producer
        self._log = log
        self._dead_letter = dead_letter
        self._handled = handled
        self._breath = _ThreadThrottle()
        self._evaluating = ThreadPoolExecutor(1, thread_name_prefix="conditions")
        self._open: dict[str, _OpenChunk] = {}
        self._under_way: deque[RecordPosition] = deque()
        self._again_at: dict[str, float] = {}
        """The loop time before which a workspace whose turn failed gets no other turn."""
        self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the drain. Unfinished work stays in the backlog."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._breath.times = 0.0
        self._evaluating.shutdown()

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                now = asyncio.get_running_loop().time()
                waiting = self._backlog.workspaces()
                self._again_at = {name: at for name, at in self._again_at.items() if name in waiting}
                turns = [name for name in waiting if self._again_at.get(name, now) <= now]
                for workspace in sorted(turns):
                    await self._isolated(workspace)
                if not turns and self._again_at:
                    await asyncio.sleep(_FAILED_POLL_INTERVAL_S)
            except RetryLater as error:
                self._open.clear()
                self._log.warning("backlog.waits", error=str(error))
                await asyncio.sleep(_RETRY_INTERVAL_S)
            except Exception as error:  # noqa: BLE001 -- one bad turn must not be the last
                self._open.clear()
                self._log.error("backlog.failed", exc_info=error)
                await asyncio.sleep(_RETRY_INTERVAL_S)

    async def _isolated(self, workspace: str) -> None:
        """A turn of a workspace; whatever is wrong with its events, the others have theirs."""
        try:
            await self._turn(workspace)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 -- one workspace must not stop the others
            self._open.pop(workspace, None)
            self._again_at[workspace] = asyncio.get_running_loop().time() + _RETRY_INTERVAL_S
            self._log.error("backlog.workspace_failed", workspace=workspace, exc_info=error)
        else:
            self._again_at.pop(workspace, None)

    async def _look(self) -> None:
        """Follow the assignment; wait until there is something."""
        now = asyncio.get_running_loop().time()
        again = now - self._looked_at > _RELOAD_INTERVAL_S
        if again:
            self._looked_at = now
        await self._backlog.own(again=again)
        if not self._backlog.workspaces():
            self._open.clear()
            self._backlog.stored_event.clear()
            try:
                async with asyncio.timeout(_POLL_INTERVAL_S):
                    await self._backlog.stored_event.wait()
            except TimeoutError:
                pass

    async def _turn(self, workspace: str) -> None:
        """One slice of a workspace, and the pause after it.

        Raises `BrokerUnavailable`, `DatabaseUnavailable`.
        """
        await self._fanout.current()
        beside = self._beside()
        self._breath.times, self._breath.cost = self._pause(workspace) if beside else 0.0, 0.0
        most = _SHARED_SLICE if beside else _SLICE
        cost = 0.0
        while cost < most:
            current = self._open.get(workspace) or await self._next(workspace)
            if current is None:
                break
            cost += await self._some(current, most - cost)
            await self._publish(current)
            if not current.events:
                await self._backlog.finish(current.line)
                del self._open[workspace]
            else:
                await self._save_progress(current)
            if beside != self._beside():
                break
        beside = self._beside()
        await self._absorbed(0 if beside else _MAX_IN_FLIGHT // 2)
        if beside:
            await asyncio.sleep(max(0.0, cost - self._breath.cost) * self._pause(workspace) / 1e6)

    def _pause(self, workspace: str) -> float:
        """Return the pause after a slice, as a multiple of the slice's cost."""
        ages = [time() - at_ms_of(line.chunks[0].last) / 1000 for line in self._backlog.lines_of(workspace)]
        left = 1 - max(ages, default=0.0) / _MIN_PAUSE_AGE_S
        return min(_MAX_PAUSE_FACTOR, max(_MIN_PAUSE_FACTOR, _MAX_PAUSE_FACTOR * left))

    def _beside(self) -> bool:
        """Return whether a workspace without a backlog is active."""
        return self._shares.has_other_active(self._backlog.workspaces(), asyncio.get_running_loop().time())

    async def _next(self, workspace: str) -> _OpenChunk | None:
        """Read the next chunk of a workspace: of each of its lines in turn, the oldest chunk first."""
        lines = self._backlog.lines_of(workspace)
        if not lines:
            return None
        line = min(lines, key=lambda each: each.chunks[0].last)
        now = asyncio.get_running_loop().time()
        current = self._open[workspace] = _OpenChunk(line, deque(await self._backlog.read(line)), kept_at=now)
        return current

    async def _some(self, current: _OpenChunk, most: float) -> float:
        """Judge webhooks until it has cost so much or the chunk is done; what it cost."""
        cost = rested = 0.0
        alone = not self._beside()
        while current.events and cost < most:
            received = current.events[0]
            expansion = current.expansion or self._fanout.expand(received, self._breath.rest)
            current.expansion = expansion
            before = expansion.cost
            try:
                record = await self._step(expansion)
            except Rejected as error:
                await self._dead_letter(received, error)
                record, expansion.done = None, True
            cost += expansion.cost - before
            if record is not None:
                current.records.append(record)
            if expansion.done:
                self._fanout.learn(received.event.workspace, expansion.cost)
                current.events.popleft()
                current.expansion = None
            if cost - rested > _LOOP_SLICE:
                rested = cost
                await asyncio.sleep(0)
                if alone and self._beside():
                    break  # what came meanwhile does not wait for the rest of a large slice
        return cost

    async def _step(self, expansion: Expansion) -> Record | None:
        """Judge one webhook, in the thread if it has a condition. Raises `Malformed`."""
        if not expansion.is_slow:
            return expansion.step()
        self._breath.begin()
        return await asyncio.get_running_loop().run_in_executor(self._evaluating, expansion.step)

    async def _publish(self, current: _OpenChunk) -> None:
        """Put the requests that were made on Kafka, unless another process owns the line by now."""
        records, current.records = current.records, []
        if not records:
            return
        if not self._backlog.is_owned(current.line):
            raise BrokerUnavailable("another process works off this line")
        self._under_way.extend(await self._producer.publish_all(records, timeout_s=PUBLISH_TIMEOUT_S))
        failpoint("drain.published")

    async def _save_progress(self, current: _OpenChunk) -> None:
        now = asyncio.get_running_loop().time()
        if now - current.kept_at > _PROGRESS_INTERVAL_S:
            current.kept_at = now
            await self._backlog.save_progress(current.line, len(current.events))

    async def _absorbed(self, most: int) -> None:
        """Until at most so many requests are on their way to their first attempt.

        Raises `BrokerUnavailable`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _ABSORB_TIMEOUT_S
        while len(self._under_way) > most:
            asked_at = loop.time()
            partitions = {partition for partition, _ in self._under_way}
            handled = {partition: await self._handled(partition) for partition in partitions}
            self._under_way = deque(place for place in self._under_way if place[1] >= handled[place[0]])
            if len(self._under_way) > most:
                if loop.time() > until:
                    self._under_way.clear()  # attempts stand still: the store or the consumer is away
                    return
                # What other processes own is asked of the broker: that takes a fifth of the time at most.
                await asyncio.sleep(max(_ABSORB_POLL_INTERVAL_S, 4 * (loop.time() - asked_at)))
