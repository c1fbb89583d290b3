"""Deferred events: what a workspace published beyond its fair share, stored in order until its turn.

An event is stored once, however many webhooks want it, in chunks. A queue holds the deferred events of one
workspace from one source partition. The partition's owner appends to the queue and works it off, so no lock
is needed to keep the order. While a workspace has a queue, its later events are deferred too.

Chunks are stored in the background, so that the events of other workspaces do not wait. Offsets are committed
after `wait_stored`: events that a killed process had accepted but not stored are read from Kafka again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Self

from services.delivery.engine.deferred_events import (
    ChunkRecord,
    DeferredEvents,
    SourcePartition,
    chunk_of,
    event_size,
    split_chunks,
)
from services.delivery.model.delivery import order_of
from shared.contracts.errors import DatabaseUnavailable, OverLimit, Rejected
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import ConsumedEvent

MAX_EVENTS: Final = 50_000
"""Deferred events that one workspace may have in one process."""
MAX_BYTES: Final = 64 << 20
"""Bytes of deferred events that one workspace may have in one process, plus 1 KB for each event."""

_INSERT_BATCH: Final = 4
_MAX_UNSTORED_CHUNKS: Final = 64
"""Unstored chunks above which fan-out waits."""
_RETRY_INTERVAL_S: Final = 0.5


@dataclass(slots=True)
class BacklogChunk:
    """A chunk in memory: one that is stored, or is about to be stored.

    `last` and `last_offset` are the order and the offset of the last event, `size` is in bytes.
    """

    id: str
    last: int
    last_offset: int
    count: int
    size: int
    stored: bool = True
    lost: bool = False
    """Set when another process took the partition over: that process stores the chunk if it is unstored."""
    length: int = 0
    """Events in the stored chunk; 0 until it is read."""

    @classmethod
    def of(cls, record: ChunkRecord, *, stored: bool) -> Self:
        """Return the state of a chunk of which no event is read."""
        return cls(record.id, record.last, record.last_offset, record.count, record.size, stored)


@dataclass(slots=True)
class BacklogQueue:
    """The deferred events of one workspace and one source partition, in order."""

    workspace: str
    source: SourcePartition
    chunks: deque[BacklogChunk] = field(default_factory=deque)
    last: int = 0
    last_offset: int = -1


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
        self._lock = asyncio.Lock()
        self._unstored: deque[tuple[BacklogChunk, ChunkRecord, Sequence[ConsumedEvent]]] = deque()
        self._store_task: asyncio.Task[None] | None = None
        self._accepted_count = self._stored_count = 0
        """Chunks accepted and stored since the process started."""
        self._stored_changed = asyncio.Condition()
        self.stored_event = asyncio.Event()
        """Set when a chunk was stored."""

    def is_backlogged(self, workspace: str) -> bool:
        """Return whether the workspace has deferred events, so that its later events must be deferred too.

        This includes events of other partitions: the backlog keeps a workspace's conversations in the order
        of arrival for strict webhooks.
        """
        return workspace in self._queued

    def contains(self, received: ConsumedEvent) -> bool:
        """Return whether the event is deferred already: it was stored, and its offset was not committed.

        Order and offset must both be compared. The order goes back with the broker's clock, and offsets start
        again when a topic was deleted and created.
        """
        queue = self._queues.get((received.event.workspace, _source(received)))
        return queue is not None and received.offset <= queue.last_offset and order_of(received) <= queue.last

    def workspaces(self) -> set[str]:
        """Return the workspaces that have stored deferred events."""
        return {queue.workspace for queue in self._queues.values() if queue.chunks[0].stored}

    def queues_of(self, workspace: str) -> list[BacklogQueue]:
        """Return the queues of a workspace whose first chunk is stored."""
        return [
            queue
            for queue in self._queues.values()
            if queue.workspace == workspace and queue.chunks[0].stored
        ]

    def is_owned(self, queue: BacklogQueue) -> bool:
        """Return whether this process owns the queue."""
        return self._queues.get((queue.workspace, queue.source)) is queue

    async def follow_assignment(self, *, reload: bool = False) -> None:
        """Drop the queues of lost partitions, and load those of gained ones. Raises `DatabaseUnavailable`.

        With `reload`, load all: a process that lost a partition may have stored a chunk late.
        """
        async with self._lock:
            assignment, assigned = self._current_assignment()
            # Another process may have owned a partition between two assignments that both include it.
            reload = reload or assignment != self._assignment
            to_load = assigned if reload else assigned - self._owned
            for key in [key for key, queue in self._queues.items() if queue.source not in assigned]:
                self._release_queue(self._queues.pop(key))
            self._owned &= assigned
            if not to_load:
                self._assignment = assignment
                return
            records = await self._deferred_events.chunks_of(to_load)
            # Chunks in memory may be unstored, or further than the stored ones: keep them.
            known_ids = {chunk.id for queue in self._queues.values() for chunk in queue.chunks}
            for record in records:
                source = record.source_partition
                if record.id not in known_ids and source in assigned:
                    self._append_chunk(record.workspace, source, BacklogChunk.of(record, stored=True))
            self._owned, self._assignment = assigned, assignment

    def append(self, events: Sequence[ConsumedEvent]) -> list[tuple[ConsumedEvent, Rejected]]:
        """Append events to their queues and start to store them; `wait_stored` waits for the end.

        Return the events for which the workspace's backlog has no space, with the reason.
        """
        rejected: list[tuple[ConsumedEvent, Rejected]] = []
        accepted: dict[tuple[str, SourcePartition], list[ConsumedEvent]] = {}
        added: dict[str, tuple[int, int]] = {}
        full: set[str] = set()  # storing events behind a rejected one would hide it from `contains`
        for received in events:
            workspace = received.event.workspace
            queued, already_added = self._queued.get(workspace, (0, 0)), added.get(workspace, (0, 0))
            count, size = (
                queued[0] + already_added[0] + 1,
                queued[1] + already_added[1] + event_size(received),
            )
            # The limits are per workspace and process: one workspace must not fill the memory.
            if workspace in full or count > MAX_EVENTS or size > MAX_BYTES:
                full.add(workspace)
                detail = f"the workspace's backlog is full ({queued[0]} events): publish more slowly"
                rejected.append((received, OverLimit(detail)))
                continue
            added[workspace] = already_added[0] + 1, already_added[1] + event_size(received)
            accepted.setdefault((workspace, _source(received)), []).append(received)
        for (workspace, source), queue_events in accepted.items():
            for chunk_events in split_chunks(queue_events):
                stored_queue = self._queues.get((workspace, source))
                record = chunk_of(
                    workspace, source, chunk_events, after=stored_queue.last if stored_queue else 0
                )
                chunk = BacklogChunk.of(record, stored=False)
                self._append_chunk(workspace, source, chunk)
                self._unstored.append((chunk, record, chunk_events))
                self._accepted_count += 1
                metrics.DEFERRED.inc(chunk.count)
        # One task stores all chunks, in order.
        if self._unstored and (self._store_task is None or self._store_task.done()):
            self._store_task = asyncio.create_task(self._store_chunks())
        return rejected

    async def wait_stored(self, *, except_last: int = 0) -> None:
        """Wait until every chunk accepted before this call is stored, except the last `except_last`."""
        accepted = self._accepted_count - except_last
        async with self._stored_changed:
            await self._stored_changed.wait_for(lambda: self._stored_count >= accepted)

    async def wait_for_space(self) -> None:
        """Wait until few chunks are unstored."""
        await self.wait_stored(except_last=_MAX_UNSTORED_CHUNKS)

    async def stop(self) -> None:
        """Cancel unfinished storing: the offsets of these events are not committed."""
        if self._store_task:
            self._store_task.cancel()
            await asyncio.gather(self._store_task, return_exceptions=True)

    async def _store_chunks(self) -> None:
        """Store accepted chunks in order, however long MongoDB is unavailable."""
        while self._unstored:
            batch = list(islice(self._unstored, _INSERT_BATCH))
            failpoint("fanout.deferring")
            # Chunks stay in `_unstored` until they are written: a failed write is repeated.
            try:
                await self._deferred_events.insert(
                    [(record, events) for chunk, record, events in batch if not chunk.lost]
                )
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_INTERVAL_S)
                continue
            failpoint("fanout.deferred")
            # Only now may offsets of these events be committed.
            async with self._stored_changed:
                for chunk, _, _ in batch:
                    chunk.stored = True
                    self._unstored.popleft()
                self._stored_count += len(batch)
                self._stored_changed.notify_all()
            self.stored_event.set()

    async def read(self, queue: BacklogQueue) -> list[ConsumedEvent]:
        """Return the events of the queue's first chunk that are not done. Raises `DatabaseUnavailable`."""
        chunk = queue.chunks[0]
        chunk.length, events = await self._deferred_events.read(chunk.id, queue.source)
        return events

    async def save_progress(self, queue: BacklogQueue, left: int) -> None:
        """Store that `left` events of the queue's first chunk are not done. Raises `DatabaseUnavailable`."""
        chunk = queue.chunks[0]
        await self._deferred_events.save_progress(chunk.id, chunk.length - left)

    async def finish(self, queue: BacklogQueue) -> None:
        """Delete the queue's first chunk: its requests are on Kafka. Raises `DatabaseUnavailable`."""
        chunk = queue.chunks[0]
        await self._deferred_events.delete(chunk.id)
        # Another process took the partition over meanwhile, and has its own view of the queue.
        if not self.is_owned(queue):
            return
        queue.chunks.popleft()
        self._add_count(queue.workspace, -chunk.count, -chunk.size)
        if not queue.chunks:
            del self._queues[queue.workspace, queue.source]

    def _append_chunk(self, workspace: str, source: SourcePartition, chunk: BacklogChunk) -> None:
        queue = self._queues.setdefault((workspace, source), BacklogQueue(workspace, source))
        queue.chunks.append(chunk)
        queue.last = max(queue.last, chunk.last)
        queue.last_offset = chunk.last_offset
        self._add_count(workspace, chunk.count, chunk.size)

    def _release_queue(self, queue: BacklogQueue) -> None:
        for chunk in queue.chunks:
            chunk.lost = True
            self._add_count(queue.workspace, -chunk.count, -chunk.size)

    def _add_count(self, workspace: str, events: int, size: int) -> None:
        queued = self._queued.get(workspace, (0, 0))
        total = queued[0] + events, queued[1] + size
        if total[0] > 0:
            self._queued[workspace] = total
        else:
            self._queued.pop(workspace, None)


def _source(received: ConsumedEvent) -> SourcePartition:
    return received.topic, received.partition
