"""Works off the backlog: a slice of each workspace in turn, at a rate that leaves capacity for others.

While other workspaces publish events, a slice takes about one millisecond, and a pause of 19 times its cost
follows. The longer events of a workspace wait, the shorter its pauses. While no other workspace is active,
slices are larger, and only the first attempts limit the rate: at most `_MAX_IN_FLIGHT` requests wait for
theirs, so that a new event finds a short queue.

Conditions are evaluated in a thread that pauses every few hundred steps. So the event loop waits for the
interpreter lock for a tenth of a millisecond, not for a whole evaluation.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import sleep, thread_time
from typing import Final

from services.delivery.engine.backlog import Backlog
from services.delivery.engine.backlog_queue import BacklogChunk, BacklogQueue
from services.delivery.engine.direct_request import DirectEvent
from services.delivery.engine.direct_requests import DirectRequests, Requests, published
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.fanout import PUBLISH_TIMEOUT_S, Expansion, Fanout
from services.delivery.model.delivery import at_ms_of
from shared.contracts.envelope import Event
from shared.contracts.errors import BrokerUnavailable, Rejected, RetryLater
from shared.runtime.clock import now_ms
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.producer import Producer, Record, RecordPosition
from shared.runtime.logs import Log

DeadLetter = Callable[[ConsumedEvent, Rejected], Awaitable[None]]
HandledOffset = Callable[[int], Awaitable[int]]
"""Returns the offset before which every record of a partition of `delivery.requested` is handled."""

_SLICE: Final = 32_000.0
"""Microseconds of a slice while no other workspace is active: about 60 requests, published together."""
_SHARED_SLICE: Final = 1_000.0
"""Microseconds of a slice while other workspaces are active."""
_MAX_PAUSE_FACTOR: Final = 19.0
_MIN_PAUSE_FACTOR: Final = 1.0
"""The pause after a slice while other workspaces are active, as a multiple of the slice's cost."""
_MIN_PAUSE_AGE_S: Final = 300.0
"""The age of a deferred event at which pauses are shortest."""
_LOOP_SLICE: Final = 1_000.0
"""Microseconds of processing after which other tasks run."""
_MAX_IN_FLIGHT: Final = 128
"""Requests that may wait for their first attempt."""
_PROGRESS_INTERVAL_S: Final = 1.0
"""The interval at which progress in a chunk is stored. After a crash, work since then is repeated."""
_POLL_INTERVAL_S: Final = 0.5
_RELOAD_INTERVAL_S: Final = 30.0
"""The interval at which chunks that previous owners stored late are searched."""
_ABSORB_POLL_INTERVAL_S: Final = 0.005
_ABSORB_TIMEOUT_S: Final = 5.0
"""Wait no longer for first attempts: MongoDB or the consumer may be unavailable."""
_RETRY_INTERVAL_S: Final = 1.0
_FAILED_POLL_INTERVAL_S: Final = 0.1


@dataclass(slots=True)
class _OpenChunk:
    """The chunk of a workspace that is in progress."""

    queue: BacklogQueue
    chunk: BacklogChunk
    events: deque[ConsumedEvent]
    expansion: Expansion | None = None
    progress_saved_at: float = 0.0
    expanded: list[Requests] = field(default_factory=list)
    """Events whose last requests are not sent yet, with these requests."""
    requests: list[Event] = field(default_factory=list)
    """Requests of the event in progress that are not sent yet."""
    is_partly_sent: bool = False
    """True if requests of the event in progress were sent already."""


class _ThreadThrottle:
    """The pauses of the thread that evaluates conditions: `rest_factor` times the work before them."""

    def __init__(self) -> None:
        self.rest_factor = 0.0
        self.cost = 0.0
        """Microseconds of work that a pause has followed."""
        self._measured_at: float | None = None

    def begin(self) -> None:
        """Measure from the thread's next call of `rest`."""
        self._measured_at = None

    def rest(self) -> None:
        """Sleep in proportion to the work since the last call. Called in the thread."""
        now = thread_time()
        work_s = 0.0 if self._measured_at is None else now - self._measured_at
        self._measured_at = now
        self.cost += work_s * 1e6
        # The sleep releases the interpreter lock: the event loop goes on.
        sleep(work_s * self.rest_factor)


class BacklogWorker:
    """Works off the backlog of this process."""

    def __init__(
        self,
        backlog: Backlog,
        fanout: Fanout,
        shares: FairShares,
        producer: Producer,
        direct: DirectRequests,
        log: Log,
        *,
        dead_letter: DeadLetter,
        handled_offset: HandledOffset,
    ) -> None:
        self._backlog = backlog
        self._fanout = fanout
        self._shares = shares
        self._producer = producer
        self._direct = direct
        self._log = log
        self._dead_letter = dead_letter
        self._handled_offset = handled_offset
        self._throttle = _ThreadThrottle()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="conditions")
        self._open_chunks: dict[str, _OpenChunk] = {}
        self._in_flight: deque[RecordPosition] = deque()
        self._direct_in_flight: list[DirectEvent] = []
        self._retry_at: dict[str, float] = {}
        """The loop time before which a workspace whose turn failed gets no other turn."""
        self._reloaded_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to work off deferred events."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the worker and the backlog. Unfinished work stays in the backlog."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._backlog.stop()
        self._throttle.rest_factor = 0.0
        self._executor.shutdown()

    async def _run(self) -> None:
        while True:
            try:
                await self._wait_for_work()
                now = asyncio.get_running_loop().time()
                workspaces = self._backlog.workspaces()
                self._retry_at = {name: at for name, at in self._retry_at.items() if name in workspaces}
                # A workspace whose turn failed pauses, the others go on.
                runnable = [name for name in workspaces if self._retry_at.get(name, now) <= now]
                for workspace in sorted(runnable):
                    await self._run_isolated_turn(workspace)
                if not runnable and self._retry_at:
                    await asyncio.sleep(_FAILED_POLL_INTERVAL_S)
            except RetryLater as error:
                self._open_chunks.clear()
                self._log.warning("backlog.waits", error=str(error))
                await asyncio.sleep(_RETRY_INTERVAL_S)
            except Exception as error:  # noqa: BLE001 -- a failed turn must not end the worker
                self._open_chunks.clear()
                self._log.error("backlog.failed", exc_info=error)
                await asyncio.sleep(_RETRY_INTERVAL_S)

    async def _run_isolated_turn(self, workspace: str) -> None:
        """Run a turn of a workspace; an unexpected error delays this workspace only."""
        try:
            await self._run_turn(workspace)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 -- one workspace must not stop the others
            self._open_chunks.pop(workspace, None)
            self._retry_at[workspace] = asyncio.get_running_loop().time() + _RETRY_INTERVAL_S
            self._log.error("backlog.workspace_failed", workspace=workspace, exc_info=error)
        else:
            self._retry_at.pop(workspace, None)

    async def _wait_for_work(self) -> None:
        """Follow the assignment; wait until there are deferred events."""
        now = asyncio.get_running_loop().time()
        # Chunks that a previous owner stored late are found by reloading everything now and then.
        reload = now - self._reloaded_at > _RELOAD_INTERVAL_S
        if reload:
            self._reloaded_at = now
        await self._backlog.follow_assignment(reload=reload)
        if not self._backlog.workspaces():
            self._open_chunks.clear()
            self._backlog.appended.clear()
            try:
                async with asyncio.timeout(_POLL_INTERVAL_S):
                    await self._backlog.appended.wait()
            except TimeoutError:
                pass

    async def _run_turn(self, workspace: str) -> None:
        """Work off one slice of a workspace, then pause.

        Raises `BrokerUnavailable`, `DatabaseUnavailable`.
        """
        await self._fanout.ensure_current()
        others_active = self._others_active()
        self._throttle.rest_factor, self._throttle.cost = (
            self._pause_factor(workspace) if others_active else 0.0,
            0.0,
        )
        # Beside others, slices are small; alone, they are large, to use the process.
        max_cost = _SHARED_SLICE if others_active else _SLICE
        cost = 0.0
        while cost < max_cost:
            chunk = self._open_chunks.get(workspace)
            if chunk is None or not self._backlog.is_first(chunk.queue, chunk.chunk):
                chunk = await self._open_next_chunk(workspace)
            if chunk is None:
                break
            cost += await self._expand_events(chunk, max_cost - cost)
            await self._send(chunk)
            if not chunk.events:
                # The requests are acknowledged by Kafka, or went directly with the completions of their
                # events, so the chunk may go. A crash in between repeats them under the same ids.
                await self._backlog.finish(chunk.queue, chunk.chunk)
                del self._open_chunks[workspace]
            else:
                await self._save_progress(chunk)
            # A workspace became active or idle: choose the size of the slice again.
            if others_active != self._others_active():
                break
        others_active = self._others_active()
        # The backlog must not fill `delivery.requested`: new events would queue behind it.
        await self._wait_for_attempts(0 if others_active else _MAX_IN_FLIGHT // 2)
        if others_active:
            await asyncio.sleep(max(0.0, cost - self._throttle.cost) * self._pause_factor(workspace) / 1e6)

    def _pause_factor(self, workspace: str) -> float:
        """Return the pause after a slice, as a multiple of the slice's cost."""
        now = now_ms()
        ages = [(now - at_ms_of(queue.first.last)) / 1000 for queue in self._backlog.queues_of(workspace)]
        # The longer events wait, the larger the share of the process that they get.
        remaining_share = 1 - max(ages, default=0.0) / _MIN_PAUSE_AGE_S
        return min(_MAX_PAUSE_FACTOR, max(_MIN_PAUSE_FACTOR, _MAX_PAUSE_FACTOR * remaining_share))

    def _others_active(self) -> bool:
        """Return whether a workspace without a backlog is active."""
        return self._shares.has_other_active(self._backlog.workspaces(), asyncio.get_running_loop().time())

    async def _open_next_chunk(self, workspace: str) -> _OpenChunk | None:
        """Open the next chunk of a workspace: the oldest first chunk of its queues."""
        queues = self._backlog.queues_of(workspace)
        if not queues:
            return None
        queue = min(queues, key=lambda item: item.first.last)
        now = asyncio.get_running_loop().time()
        first = queue.first
        chunk = self._open_chunks[workspace] = _OpenChunk(
            queue, first, deque(await self._backlog.read(queue)), progress_saved_at=now
        )
        return chunk

    async def _expand_events(self, chunk: _OpenChunk, max_cost: float) -> float:
        """Evaluate webhooks until the chunk is done or `max_cost` is reached; return the cost."""
        cost = yielded_at_cost = 0.0
        exclusive = not self._others_active()
        while chunk.events and cost < max_cost:
            received = chunk.events[0]
            expansion = chunk.expansion or self._fanout.expand(received, self._throttle.rest)
            chunk.expansion = expansion
            cost_before = expansion.cost
            try:
                request = await self._advance(expansion)
            except Rejected as error:
                await self._dead_letter(received, error)
                request, expansion.done = None, True
            cost += expansion.cost - cost_before
            if request is not None:
                chunk.requests.append(request)
            # The whole event is expanded: continue with the next one.
            if expansion.done:
                self._fanout.record_cost(received.event.workspace, expansion.cost)
                chunk.events.popleft()
                chunk.expansion = None
                chunk.expanded.append((received, chunk.requests))
                chunk.requests = []
            # Evaluation does not await: let other tasks run every millisecond.
            if cost - yielded_at_cost > _LOOP_SLICE:
                yielded_at_cost = cost
                await asyncio.sleep(0)
                if exclusive and self._others_active():
                    break  # new events of others do not wait for the rest of a large slice
        return cost

    async def _advance(self, expansion: Expansion) -> Event | None:
        """Evaluate one webhook, in the thread if it has a condition. Raises `Malformed`, `TooLarge`."""
        if not expansion.is_slow:
            return expansion.step()
        self._throttle.begin()
        return await asyncio.get_running_loop().run_in_executor(self._executor, expansion.step)

    async def _send(self, chunk: _OpenChunk) -> None:
        """Send the requests, directly or to Kafka. Events that are worked off leave the chunk.

        Raises `BrokerUnavailable` if another process owns the queue by now, `DatabaseUnavailable`.
        """
        expanded, chunk.expanded = chunk.expanded, []
        rest, chunk.requests = chunk.requests, []
        # What was sent in part goes by Kafka in whole. So does what is stored: Kafka does not repeat it, and
        # its chunk is deleted when the requests are durable.
        by_kafka = int(chunk.is_partly_sent) if chunk.chunk.state == "closed" else len(expanded)
        records, direct = self._direct.split(expanded[by_kafka:])
        records = [*published(expanded[:by_kafka]), *records]
        if rest:
            records += published([(chunk.events[0], rest)])
        chunk.is_partly_sent = bool(rest) or (chunk.is_partly_sent and not expanded)
        await self._publish(chunk, records)
        if direct:
            await self._fanout.ensure_current()
            if chunk.chunk.state != "closed":  # it is being stored
                await self._publish(chunk, published(direct))
                direct = []
        self._complete(chunk, {id(received): requests for received, requests in direct})

    def _complete(self, chunk: _OpenChunk, direct: Mapping[int, Sequence[Event]]) -> None:
        """End the completions of events that are worked off, those with direct requests with the latter."""
        stored = chunk.chunk
        done = stored.length - len(chunk.events)
        # What was lost or stored meanwhile has no completions any more.
        for received in stored.events[stored.done : done]:
            completion = stored.completions.popleft()
            if requests := direct.get(id(received)):
                self._direct_in_flight.append(
                    self._direct.begin(completion, received, requests, stored.accepted_at)
                )
            else:
                completion.done()
        stored.done = done

    async def _publish(self, chunk: _OpenChunk, records: Sequence[Record]) -> None:
        """Publish records. Raises `BrokerUnavailable` if another process owns the queue by now."""
        if not records:
            return
        if not self._backlog.is_first(chunk.queue, chunk.chunk):
            raise BrokerUnavailable("another process works off this queue")
        # Positions in `delivery.requested`, to know when the attempts are handled.
        self._in_flight.extend(await self._producer.publish_all(records, timeout_s=PUBLISH_TIMEOUT_S))
        failpoint("drain.published")

    async def _save_progress(self, chunk: _OpenChunk) -> None:
        now = asyncio.get_running_loop().time()
        if chunk.chunk.state == "stored" and now - chunk.progress_saved_at > _PROGRESS_INTERVAL_S:
            chunk.progress_saved_at = now
            await self._backlog.save_progress(chunk.chunk)

    async def _wait_for_attempts(self, max_in_flight: int) -> None:
        """Wait until at most `max_in_flight` requests wait for their first attempt.

        Raises `BrokerUnavailable`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ABSORB_TIMEOUT_S
        while self._requests_in_flight() > max_in_flight:
            asked_at = loop.time()
            partitions = {partition for partition, _ in self._in_flight}
            offsets = {partition: await self._handled_offset(partition) for partition in partitions}
            self._in_flight = deque(
                position for position in self._in_flight if position[1] >= offsets[position[0]]
            )
            if self._requests_in_flight() > max_in_flight:
                if loop.time() > deadline:
                    # No progress: MongoDB or the consumer is unavailable.
                    self._in_flight.clear()
                    self._direct_in_flight.clear()
                    return
                # For partitions of other processes the broker is asked: at most a fifth of the time.
                await asyncio.sleep(max(_ABSORB_POLL_INTERVAL_S, 4 * (loop.time() - asked_at)))

    def _requests_in_flight(self) -> int:
        """Return how many requests wait for their first attempt."""
        self._direct_in_flight = [event for event in self._direct_in_flight if event.open]
        return len(self._in_flight) + sum(event.open for event in self._direct_in_flight)
