"""The deferred events of one workspace and one source partition: some stored, later ones in memory."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from services.delivery.engine.deferred_events import (
    ChunkRecord,
    SourcePartition,
    chunk_id,
    event_size,
    source_name,
)
from services.delivery.model.delivery import order_of
from shared.runtime.clock import utcnow
from shared.runtime.kafka.batch import Completion, ConsumedEvent

_CHUNK_EVENTS: Final = 100
_CHUNK_BYTES: Final = 64 << 10

ChunkState = Literal["filling", "closed", "storing", "stored", "gone"]
"""`filling`: in memory, takes more events. `closed`: in memory, takes no more. `storing`: being inserted.
`gone`: worked off, or lost with its partition."""


@dataclass(slots=True, eq=False)
class BacklogChunk:
    """Deferred events that are stored and worked off together.

    `last` is the order and `last_offset` the offset of the last event. `count` and `size` (in bytes, see
    `event_size`) count against the limits of the backlog.
    """

    id: str
    last: int = 0
    last_offset: int = -1
    count: int = 0
    size: int = 0
    done: int = 0
    """The number of events, from the first, that were fanned out."""
    state: ChunkState = "stored"
    length: int = 0
    """Events of a stored chunk; 0 until it is read. A chunk of another owner may be longer than `count`."""
    accepted_at: float = 0.0
    """The loop time of its first event."""
    events: list[ConsumedEvent] = field(default_factory=list)
    """The events; empty if the chunk is not in memory."""
    completions: deque[Completion] = field(default_factory=deque)
    """Of the events in memory, from the first that is not worked off."""

    @property
    def is_lost(self) -> bool:
        """True if the partition was revoked: its next owner consumes the events from Kafka."""
        return bool(self.completions) and self.completions[0].is_revoked

    def takes(self, size: int) -> bool:
        """Return whether an event of this size may be added. Chunks are bounded: a slice reads one."""
        return self.state == "filling" and self.count < _CHUNK_EVENTS and self.size + size <= _CHUNK_BYTES

    def add(self, received: ConsumedEvent, completion: Completion) -> None:
        """Add an event at the end."""
        self.events.append(received)
        self.completions.append(completion)
        self.last = max(self.last, order_of(received))
        self.last_offset = received.offset
        self.count = self.length = self.count + 1
        self.size += event_size(received)


@dataclass(slots=True, eq=False)
class BacklogQueue:
    """Chunks in order: every stored chunk comes before those in memory."""

    workspace: str
    source: SourcePartition
    stored: deque[BacklogChunk] = field(default_factory=deque)
    in_memory: deque[BacklogChunk] = field(default_factory=deque)
    last: int = 0
    """The highest order of an event so far."""
    stored_order: int = 0
    stored_offset: int = -1
    """Order and offset of the last event that is or was stored."""

    @property
    def first(self) -> BacklogChunk:
        """The chunk that is worked off next; a queue is never empty."""
        return self.stored[0] if self.stored else self.in_memory[0]

    @property
    def chunks(self) -> list[BacklogChunk]:
        """All chunks, in order."""
        return [*self.stored, *self.in_memory]

    def new_chunk(self, received: ConsumedEvent, now: float) -> BacklogChunk:
        """Append an empty chunk in memory and return it. Its id is that of its first event, `received`."""
        first = max(order_of(received), self.last + 1)
        chunk = BacklogChunk(
            chunk_id(self.source, first, self.workspace), last=first, state="filling", accepted_at=now
        )
        self.in_memory.append(chunk)
        return chunk

    def append_stored(self, chunk: BacklogChunk) -> None:
        """Append a chunk that is stored."""
        self.stored.append(chunk)
        self.last = max(self.last, chunk.last)
        self.stored_order, self.stored_offset = max(self.stored_order, chunk.last), chunk.last_offset

    def record(self, chunk: BacklogChunk) -> ChunkRecord:
        """Return what is stored of a chunk, beside its events."""
        return ChunkRecord(
            id=chunk.id,
            workspace=self.workspace,
            source=source_name(self.source),
            last=chunk.last,
            last_offset=chunk.last_offset,
            count=chunk.count,
            size=chunk.size,
            done=chunk.done,
            created_at=utcnow(),
        )
