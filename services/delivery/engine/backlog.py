"""Deferred events: what a workspace published beyond its fair share, kept in order until its turn.

A queue holds the deferred events of one workspace from one source partition, in chunks. The partition's owner
appends to the queue and works it off, so no lock is needed to keep the order. While a workspace has a queue,
its later events are deferred too.

A chunk is in memory at first, and usually it is worked off there. Until then the offsets of its events are
not committed: after a kill they are read from Kafka again. A chunk that is in memory for too long, or that
takes too much of the memory, is stored with its events. Of a queue, the first chunks are stored first: all
events before a stored chunk are stored or worked off, too.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Final

from services.delivery.engine.backlog_queue import BacklogChunk, BacklogQueue, ChunkState
from services.delivery.engine.clock import loop_time
from services.delivery.engine.deferred_events import DeferredEvents, SourcePartition, event_size
from services.delivery.model.delivery import order_of
from shared.contracts.errors import DatabaseUnavailable, OverLimit
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Completion, ConsumedEvent

MAX_EVENTS: Final = 50_000
"""Deferred events that one workspace may have in one process."""
MAX_BYTES: Final = 64 << 20
"""Bytes of deferred events that one workspace may have in one process, plus 1 KB for each event."""
MAX_AGE_S: Final = 1.5
"""Seconds after which a chunk in memory is stored. Until then, no later offset is committed."""
MAX_EVENTS_IN_MEMORY: Final = 5_000
MAX_BYTES_IN_MEMORY: Final = 64 << 20
"""Deferred events in memory, of all workspaces. Chunks are stored from half of it on; at all of it, fan-out
waits. Of the bytes, each partition has an equal part, because the consumer pauses a partition at its part."""

_INSERT_BATCH: Final = 4
_RETRY_INTERVAL_S: Final = 0.5


class Backlog:
    """The queues of the partitions that this process owns."""

    def __init__(
        self, deferred_events: DeferredEvents, *, owned: Callable[[], tuple[int, set[SourcePartition]]]
    ) -> None:
        """`owned` returns the number of the present assignment, and its partitions."""
        self._deferred_events = deferred_events
        self._current_assignment = owned
        self._owned: set[SourcePartition] = set()
        self._assignment = -1
        self._queues: dict[tuple[str, SourcePartition], BacklogQueue] = {}
        self._queued: dict[str, tuple[int, int]] = {}
        """Deferred events of each workspace, and their bytes."""
        self._lock = asyncio.Lock()
        self._accepted: deque[tuple[BacklogQueue, BacklogChunk]] = deque()
        """Chunks in the order of their acceptance, of which the first one is in memory."""
        self._events_in_memory = 0
        self._bytes_in_memory: Counter[SourcePartition] = Counter()
        self._direct: Counter[tuple[str, SourcePartition]] = Counter()
        """Events whose direct requests are not all in the log."""
        self._direct_ended = asyncio.Event()
        self._has_space = asyncio.Event()
        self._has_space.set()
        self._is_crowded = asyncio.Event()
        self._store_task: asyncio.Task[None] | None = None
        self._inserting = asyncio.Lock()
        self.appended = asyncio.Event()
        """Set when a queue got a chunk."""

    def is_backlogged(self, workspace: str) -> bool:
        """Return whether the workspace has deferred events, so that its later events must be deferred too.

        This includes events of other partitions: the backlog keeps a workspace's conversations in the order
        of arrival for strict webhooks.
        """
        return workspace in self._queued

    def contains(self, received: ConsumedEvent) -> bool:
        """Return whether the event was deferred and stored before its offset was committed.

        Order and offset must both be compared. The order goes back with the broker's clock, and offsets start
        again when a topic was deleted and created.
        """
        queue = self._queues.get((received.event.workspace, _source(received)))
        return (
            queue is not None
            and received.offset <= queue.stored_offset
            and order_of(received) <= queue.stored_order
        )

    def workspaces(self) -> set[str]:
        """Return the workspaces that have deferred events."""
        return set(self._queued)

    def queues_of(self, workspace: str) -> list[BacklogQueue]:
        """Return the queues of a workspace."""
        return [queue for queue in self._queues.values() if queue.workspace == workspace]

    def is_first(self, queue: BacklogQueue, chunk: BacklogChunk) -> bool:
        """Return whether this process owns the queue, and the chunk is its first one."""
        return self._queues.get((queue.workspace, queue.source)) is queue and queue.first is chunk

    async def follow_assignment(self, *, reload: bool = False) -> None:
        """Drop the queues of lost partitions, and load those of gained ones. Raises `DatabaseUnavailable`.

        With `reload`, load all: a process that lost a partition may have stored a chunk late.
        """
        async with self._lock:
            assignment, assigned = self._current_assignment()
            # Another process may have owned a partition between two assignments that both include it.
            reload = reload or assignment != self._assignment
            to_load = assigned if reload else assigned - self._owned
            self._drop_lost(assigned)
            self._owned &= assigned
            if not to_load:
                self._assignment = assignment
                return
            records = await self._deferred_events.chunks_of(to_load)
            known_ids = {chunk.id for queue in self._queues.values() for chunk in queue.chunks}
            for record in records:
                source = record.source_partition
                if record.id not in known_ids and source in assigned:
                    chunk = BacklogChunk(
                        record.id, record.last, record.last_offset, record.count, record.size, record.done
                    )
                    self._queue(record.workspace, source).append_stored(chunk)
                    self._add_count(record.workspace, chunk.count, chunk.size)
                    self.appended.set()
            self._owned, self._assignment = assigned, assignment

    def append(self, deferred: Iterable[tuple[ConsumedEvent, Completion]]) -> None:
        """Append events to their queues; their completions end when they are worked off or stored.

        Events for which the workspace's backlog has no space fail with `OverLimit`.
        """
        now = loop_time()
        full: set[str] = set()  # events behind a rejected one would hide it from `contains`
        for received, completion in deferred:
            if completion.is_revoked:
                continue  # the partition's next owner handles it
            workspace, size = received.event.workspace, event_size(received)
            queued = self._queued.get(workspace, (0, 0))
            # The limits are per workspace and process: one workspace must not fill the memory.
            if workspace in full or queued[0] >= MAX_EVENTS or queued[1] + size > MAX_BYTES:
                full.add(workspace)
                detail = f"the workspace's backlog is full ({queued[0]} events): publish more slowly"
                completion.fail(OverLimit(detail))
                continue
            queue = self._queue(workspace, _source(received))
            if not queue.in_memory or not queue.in_memory[-1].takes(size):
                self._accepted.append((queue, queue.new_chunk(received, now)))
            chunk = queue.in_memory[-1]
            chunk.add(received, completion)
            queue.last = chunk.last
            self._add_count(workspace, 1, size)
            self._events_in_memory += 1
            self._bytes_in_memory[queue.source] += len(received.event.data)
            metrics.DEFERRED.inc()
        self.appended.set()
        self._note_memory()
        if self._accepted and (self._store_task is None or self._store_task.done()):
            self._store_task = asyncio.create_task(self._store_chunks())

    async def wait_for_space(self) -> None:
        """Wait until few events are in memory."""
        await self._has_space.wait()

    def begin_direct(self, workspace: str, source: SourcePartition) -> None:
        """Note that an event has direct requests, and so may be repeated: nothing behind it is stored."""
        self._direct[workspace, source] += 1

    def end_direct(self, workspace: str, source: SourcePartition) -> None:
        """Note that the log has the direct requests of an event."""
        self._direct[workspace, source] -= 1
        if not self._direct[workspace, source]:
            del self._direct[workspace, source]
            self._direct_ended.set()

    async def stop(self) -> None:
        """Cancel unfinished storing: the offsets of these events are not committed."""
        if self._store_task:
            self._store_task.cancel()
            await asyncio.gather(self._store_task, return_exceptions=True)

    async def read(self, queue: BacklogQueue) -> list[ConsumedEvent]:
        """Return the events of the queue's first chunk that are not done. Raises `DatabaseUnavailable`.

        From then on, the chunk gets no more events.
        """
        chunk = queue.first
        if chunk.state != "stored":
            if chunk.state == "filling":
                chunk.state = "closed"
            return chunk.events[chunk.done :]
        chunk.length, events = await self._deferred_events.read(chunk.id, queue.source)
        chunk.done = chunk.length - len(events)
        return events

    async def save_progress(self, chunk: BacklogChunk) -> None:
        """Store how many events of a stored chunk are done. Raises `DatabaseUnavailable`."""
        await self._deferred_events.save_progress(chunk.id, chunk.done)

    async def finish(self, queue: BacklogQueue, chunk: BacklogChunk) -> None:
        """Remove a chunk, which is the queue's first one: its requests were sent.

        Raises `DatabaseUnavailable`.
        """
        while chunk.state == "storing":
            async with self._inserting:
                pass
        # Another process took the partition over meanwhile, and has its own view of the queue.
        if not self.is_first(queue, chunk):
            return
        if chunk.state == "stored":
            await self._deferred_events.delete(chunk.id)
            if not self.is_first(queue, chunk):
                return
            queue.stored.popleft()
            self._add_count(queue.workspace, -chunk.count, -chunk.size)
            self._remove_if_empty(queue)
        else:
            self._finish_in_memory(queue, chunk)

    def _finish_in_memory(self, queue: BacklogQueue, chunk: BacklogChunk) -> None:
        queue.in_memory.popleft()
        self._leave_memory(queue, chunk, "gone")
        self._add_count(queue.workspace, -chunk.count, -chunk.size)
        self._remove_if_empty(queue)

    async def _store_chunks(self) -> None:
        """Store what is in memory for too long, or takes too much of it, until nothing is in memory."""
        while True:
            while self._accepted and self._accepted[0][1].state in ("stored", "gone"):
                self._accepted.popleft()
            if not self._accepted:
                return
            self._is_crowded.clear()
            if batch := self._chunks_to_store():
                await self._store(batch)
            else:
                await self._wait_crowded(self._accepted[0][1].accepted_at + MAX_AGE_S - loop_time())

    async def _wait_crowded(self, max_s: float) -> None:
        try:
            async with asyncio.timeout(max_s):
                await self._is_crowded.wait()
        except TimeoutError:
            pass

    def _chunks_to_store(self) -> Sequence[tuple[BacklogQueue, BacklogChunk]]:
        """Return a few chunks that are to be stored next. No chunk before them in their queue is left out."""
        oldest_at = loop_time() - MAX_AGE_S
        old = [
            (queue, chunk)
            for queue, chunk in islice(self._accepted, _INSERT_BATCH)
            if chunk.state in ("filling", "closed") and chunk.accepted_at <= oldest_at
        ]
        if old:
            return old
        # What others have in memory stays there as long as a larger workspace has something.
        crowded = [queue for queue in self._queues.values() if queue.in_memory and self._crowds(queue.source)]
        sizes: Counter[str] = Counter()
        for queue in crowded:
            sizes[queue.workspace] += sum(chunk.size for chunk in queue.in_memory)
        if not sizes:
            return ()
        [(largest, _)] = sizes.most_common(1)
        queue = min(
            (queue for queue in crowded if queue.workspace == largest),
            key=lambda queue: queue.in_memory[0].accepted_at,
        )
        return [(queue, chunk) for chunk in islice(queue.in_memory, _INSERT_BATCH)]

    async def _store(self, batch: Sequence[tuple[BacklogQueue, BacklogChunk]]) -> None:
        """Store chunks, however long MongoDB is unavailable, and end their completions."""
        for _, chunk in batch:
            chunk.state = "storing"
        async with self._inserting:
            try:
                # A stored chunk proves that all events before it need no repeat.
                while any((queue.workspace, queue.source) in self._direct for queue, _ in batch):
                    self._direct_ended.clear()
                    await self._direct_ended.wait()
                while True:
                    for queue, chunk in batch:
                        if chunk.state == "storing" and not chunk.completions:  # worked off meanwhile
                            self._finish_in_memory(queue, chunk)
                    # What is lost is handled by the partition's next owner. Stored now, it would prove that
                    # events before it, which were lost too, need no repeat.
                    current = [
                        (queue, chunk)
                        for queue, chunk in batch
                        if chunk.state == "storing" and not chunk.is_lost
                    ]
                    try:
                        await self._deferred_events.insert(
                            [(queue.record(chunk), chunk.events) for queue, chunk in current]
                        )
                    except DatabaseUnavailable:
                        await asyncio.sleep(_RETRY_INTERVAL_S)
                    else:
                        break
                failpoint("fanout.deferred")
                for queue, chunk in current:
                    if chunk.state == "storing":  # otherwise it was lost meanwhile
                        queue.in_memory.popleft()
                        queue.append_stored(chunk)
                        self._leave_memory(queue, chunk, "stored")
                self._drop_lost(self._owned)
            finally:
                for _, chunk in batch:
                    if chunk.state == "storing":
                        chunk.state = "closed"

    def _drop_lost(self, assigned: Collection[SourcePartition]) -> None:
        """Drop the queues of other partitions, and chunks in memory of an earlier assignment."""
        for queue in list(self._queues.values()):
            is_lost = queue.source not in assigned
            while queue.in_memory and (is_lost or queue.in_memory[0].is_lost):
                chunk = queue.in_memory.popleft()
                self._leave_memory(queue, chunk, "gone")
                self._add_count(queue.workspace, -chunk.count, -chunk.size)
                queue.last = max((chunk.last for chunk in queue.chunks), default=0)
            while is_lost and queue.stored:
                chunk = queue.stored.popleft()
                self._add_count(queue.workspace, -chunk.count, -chunk.size)
            self._remove_if_empty(queue)

    def _leave_memory(self, queue: BacklogQueue, chunk: BacklogChunk, state: ChunkState) -> None:
        """End the completions of a chunk, and free its events."""
        for completion in chunk.completions:
            completion.done()  # without effect if the chunk is lost
        self._events_in_memory -= chunk.count
        self._bytes_in_memory[queue.source] -= sum(len(received.event.data) for received in chunk.events)
        chunk.state, chunk.events, chunk.completions = state, [], deque()
        self._note_memory()

    def _crowds(self, source: SourcePartition) -> bool:
        """Return whether so much is in memory that events of this partition have to be stored."""
        part = MAX_BYTES_IN_MEMORY // max(1, len(self._owned))
        return self._events_in_memory > MAX_EVENTS_IN_MEMORY // 2 or self._bytes_in_memory[source] > part // 2

    def _note_memory(self) -> None:
        """Wake those who wait for a change of what is in memory."""
        if any(map(self._crowds, self._bytes_in_memory)):
            self._is_crowded.set()
        is_full = (
            self._events_in_memory > MAX_EVENTS_IN_MEMORY
            or self._bytes_in_memory.total() > MAX_BYTES_IN_MEMORY
        )
        if is_full:
            self._has_space.clear()
        else:
            self._has_space.set()

    def _queue(self, workspace: str, source: SourcePartition) -> BacklogQueue:
        return self._queues.setdefault((workspace, source), BacklogQueue(workspace, source))

    def _remove_if_empty(self, queue: BacklogQueue) -> None:
        if not (queue.stored or queue.in_memory):
            del self._queues[queue.workspace, queue.source]

    def _add_count(self, workspace: str, events: int, size: int) -> None:
        queued = self._queued.get(workspace, (0, 0))
        total = queued[0] + events, queued[1] + size
        if total[0] > 0:
            self._queued[workspace] = total
        else:
            self._queued.pop(workspace, None)


def _source(received: ConsumedEvent) -> SourcePartition:
    return received.topic, received.partition
