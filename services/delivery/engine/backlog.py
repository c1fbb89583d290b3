"""Deferred events: what a workspace published beyond its fair share, stored in order until its turn comes.

An event is stored once, however many webhooks want it, in chunks of up to 256 KB. A line is what waits of
one workspace from one partition of a topic. The partition's owner appends to the line and works it off, so
order is kept per conversation without a lock: while there is a line, later events of its workspace wait too.

Storing happens beside fan-out, so that nobody's events wait for it. Offsets are committed after `stored` has
returned: what a killed process had accepted but not stored is read from Kafka again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from services.delivery.model.delivery import order_of
from shared.contracts.envelope import parse_event
from shared.contracts.errors import DatabaseUnavailable, OverLimit, Rejected
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.consumer import ConsumedEvent
from shared.runtime.mongo import Collection, Document, Duplicate, Mongo, translate_errors, utcnow

DEFERRED_EVENTS: Final = "deferred_events"

MAX_EVENTS: Final = 50_000
"""Of one workspace that may wait in one process."""
MAX_BYTES: Final = 64 << 20
"""Of one workspace's events that may wait in one process; each counts 1 KB more than its data."""

_CHUNK_EVENTS: Final = 100
_CHUNK_BYTES: Final = 64 << 10
_EVENT_OVERHEAD_BYTES: Final = 1024
_INSERT_BATCH: Final = 4
_MAX_UNSTORED_CHUNKS: Final = 64
"""Chunks that may wait to be stored before fan-out waits for them."""
_RETRY_INTERVAL_S: Final = 0.5

SourcePartition = tuple[str, int]
"""A topic and a partition of it."""


@dataclass(slots=True)
class BacklogChunk:
    """Some deferred events of a line; `last` and `last_offset` are order and offset of the last one."""

    id: str
    last: int
    last_offset: int
    count: int
    size: int
    stored: bool = True
    lost: bool = False
    """Set when another process takes the partition over. An unstored chunk is then left to that process."""
    length: int = 0
    """The number of events in the stored chunk; 0 until it is read."""


@dataclass(slots=True)
class BacklogQueue:
    """The deferred events of one workspace and one source partition, in order."""

    workspace: str
    source: SourcePartition
    chunks: deque[BacklogChunk] = field(default_factory=deque)
    last: int = 0
    last_offset: int = -1


class Backlog:
    """The lines of the partitions that this process owns."""

    def __init__(self, mongo: Mongo, *, owned: Callable[[], tuple[int, set[SourcePartition]]]) -> None:
        self._collection: Collection = mongo.collection(DEFERRED_EVENTS)
        self._owned_now = owned
        self._owned: set[SourcePartition] = set()
        self._assignment = -1
        self._lines: dict[tuple[str, SourcePartition], BacklogQueue] = {}
        self._waiting: dict[str, tuple[int, int]] = {}
        self._lock = asyncio.Lock()
        self._unstored: deque[tuple[BacklogChunk, Document]] = deque()
        self._storing: asyncio.Task[None] | None = None
        self._accepted_count = self._stored_count = 0
        """Chunks so far."""
        self._stored = asyncio.Condition()
        self.stored_event = asyncio.Event()
        """Set when something deferred was stored."""

    def holds(self, workspace: str) -> bool:
        """Return whether earlier events of the workspace wait here: later ones go behind them.

        Those of other partitions too: a strict webhook gets conversations in the order in which they came.
        """
        return workspace in self._waiting

    def has(self, received: ConsumedEvent) -> bool:
        """Return whether the event itself waits already: it was stored, and its offset was not committed.

        The order alone does not tell: it falls with the broker's clock. The offset alone does not either: it
        begins again with a topic that was created again.
        """
        line = self._lines.get((received.event.workspace, _source(received)))
        return line is not None and received.offset <= line.last_offset and order_of(received) <= line.last

    def workspaces(self) -> set[str]:
        """Return the workspaces that have stored deferred events."""
        return {line.workspace for line in self._lines.values() if line.chunks[0].stored}

    def lines_of(self, workspace: str) -> list[BacklogQueue]:
        """Return the lines of a workspace that can be worked off."""
        return [
            line for line in self._lines.values() if line.workspace == workspace and line.chunks[0].stored
        ]

    def is_owned(self, line: BacklogQueue) -> bool:
        """Return whether this process owns the line."""
        return self._lines.get((line.workspace, line.source)) is line

    async def own(self, *, again: bool = False) -> None:
        """Follow the assignment of partitions; load what waits of those that came.

        With `again`, look at all: a process that lost a partition may have stored something late.
        Raises `DatabaseUnavailable`.
        """
        async with self._lock:
            assignment, wanted = self._owned_now()
            # Another process may have owned a partition between two assignments that both have it.
            again = again or assignment != self._assignment
            came = wanted if again else wanted - self._owned
            for key in [key for key, line in self._lines.items() if line.source not in wanted]:
                self._forget(self._lines.pop(key))
            self._owned &= wanted
            if not came:
                self._assignment = assignment
                return
            query = {"source": {"$in": sorted(map(_source_name, came))}}
            with translate_errors():
                found = await self._collection.find(query, {"events": 0}).to_list(None)
            known = {chunk.id for line in self._lines.values() for chunk in line.chunks}
            for document in sorted(found, key=lambda document: str(document["_id"])):
                source = _parse_source(document["source"])
                if document["_id"] not in known and source in wanted:
                    self._append(document["workspace"], source, _chunk(document))
            self._owned, self._assignment = wanted, assignment

    def put(self, events: Sequence[ConsumedEvent]) -> list[tuple[ConsumedEvent, Rejected]]:
        """Put events at the ends of their lines and begin to store them.

        Returns those for which the workspace has no room. `stored` waits for the others.
        """
        refused: list[tuple[ConsumedEvent, Rejected]] = []
        accepted: dict[tuple[str, SourcePartition], list[ConsumedEvent]] = {}
        adding: dict[str, tuple[int, int]] = {}
        full: set[str] = set()  # nothing of it is stored behind what was refused: that would hide it
        for received in events:
            workspace = received.event.workspace
            waiting, more = self._waiting.get(workspace, (0, 0)), adding.get(workspace, (0, 0))
            count, size = waiting[0] + more[0] + 1, waiting[1] + more[1] + _size(received)
            if workspace in full or count > MAX_EVENTS or size > MAX_BYTES:
                full.add(workspace)
                detail = f"the workspace's backlog is full ({waiting[0]} events): publish more slowly"
                refused.append((received, OverLimit(detail)))
                continue
            adding[workspace] = more[0] + 1, more[1] + _size(received)
            accepted.setdefault((workspace, _source(received)), []).append(received)
        for (workspace, source), line in accepted.items():
            for some in _split_chunks(line):
                known = self._lines.get((workspace, source))
                document = _chunk_document(workspace, source, some, after=known.last if known else 0)
                chunk = _chunk(document)
                chunk.stored = False
                self._append(workspace, source, chunk)
                self._unstored.append((chunk, document))
                self._accepted_count += 1
                metrics.DEFERRED.inc(chunk.count)
        if self._unstored and (self._storing is None or self._storing.done()):
            self._storing = asyncio.create_task(self._store())
        return refused

    async def stored(self, *, but: int = 0) -> None:
        """Wait until everything accepted before this call is stored, except the last `but` chunks."""
        wanted = self._accepted_count - but
        async with self._stored:
            await self._stored.wait_for(lambda: self._stored_count >= wanted)

    async def room(self) -> None:
        """Wait until few chunks wait to be stored."""
        await self.stored(but=_MAX_UNSTORED_CHUNKS)

    async def start(self) -> None:
        """Do nothing: `own` and `put` begin the work."""

    async def stop(self) -> None:
        """Give up what is not stored: its offsets are not committed."""
        if self._storing:
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)

    async def _store(self) -> None:
        """Store what was accepted, in order, however long MongoDB is away."""
        while self._unstored:
            some = list(islice(self._unstored, _INSERT_BATCH))
            failpoint("fanout.deferring")
            try:
                await self._write([document for chunk, document in some if not chunk.lost])
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_INTERVAL_S)
                continue
            failpoint("fanout.deferred")
            async with self._stored:
                for chunk, _ in some:
                    chunk.stored = True
                    self._unstored.popleft()
                self._stored_count += len(some)
                self._stored.notify_all()
            self.stored_event.set()

    async def _write(self, documents: Sequence[Document]) -> None:
        """Insert chunks. One that another owner of the partition stored is replaced if this one has more."""
        if not documents:
            return
        try:
            with translate_errors():
                await self._collection.insert_many(documents, ordered=False)
        except Duplicate:
            for each in documents:
                with suppress(Duplicate), translate_errors():
                    longer = {"_id": each["_id"], "last": {"$lt": each["last"]}}
                    await self._collection.replace_one(longer, each, upsert=True)

    async def read(self, line: BacklogQueue) -> list[ConsumedEvent]:
        """The events of the line's first chunk that are not done. Raises `DatabaseUnavailable`."""
        chunk = line.chunks[0]
        with translate_errors():
            document = await self._collection.find_one({"_id": chunk.id})
        if document is None:
            return []
        chunk.length = len(document["events"])
        return [_read_event(line.source, each) for each in document["events"][document["done"] :]]

    async def save_progress(self, line: BacklogQueue, left: int) -> None:
        """So many events of the line's first chunk are left. Raises `DatabaseUnavailable`."""
        chunk = line.chunks[0]
        with translate_errors():
            await self._collection.update_one({"_id": chunk.id}, {"$set": {"done": chunk.length - left}})

    async def finish(self, line: BacklogQueue) -> None:
        """The requests of the line's first chunk are on Kafka: remove it. Raises `DatabaseUnavailable`."""
        chunk = line.chunks[0]
        with translate_errors():
            await self._collection.delete_one({"_id": chunk.id})
        if not self.is_owned(line):
            return
        line.chunks.popleft()
        self._count(line.workspace, -chunk.count, -chunk.size)
        if not line.chunks:
            del self._lines[line.workspace, line.source]

    def _append(self, workspace: str, source: SourcePartition, chunk: BacklogChunk) -> None:
        line = self._lines.setdefault((workspace, source), BacklogQueue(workspace, source))
        line.chunks.append(chunk)
        line.last = max(line.last, chunk.last)
        line.last_offset = chunk.last_offset
        self._count(workspace, chunk.count, chunk.size)

    def _forget(self, line: BacklogQueue) -> None:
        for chunk in line.chunks:
            chunk.lost = True
            self._count(line.workspace, -chunk.count, -chunk.size)

    def _count(self, workspace: str, events: int, size: int) -> None:
        waiting = self._waiting.get(workspace, (0, 0))
        now = waiting[0] + events, waiting[1] + size
        if now[0] > 0:
            self._waiting[workspace] = now
        else:
            self._waiting.pop(workspace, None)


def _split_chunks(events: Sequence[ConsumedEvent]) -> Iterator[list[ConsumedEvent]]:
    some: list[ConsumedEvent] = []
    size = 0
    for received in events:
        if some and (len(some) == _CHUNK_EVENTS or size + _size(received) > _CHUNK_BYTES):
            yield some
            some, size = [], 0
        some.append(received)
        size += _size(received)
    if some:
        yield some


def _chunk_document(
    workspace: str, source: SourcePartition, events: Sequence[ConsumedEvent], *, after: int
) -> Document:
    """Return a chunk as it is stored, behind those of its line up to the order `after`."""
    first = max(order_of(events[0]), after + 1)
    return {
        # chunks of a partition are sorted by their order
        "_id": f"{_source_name(source)}/{first:020d}/{workspace}",
        "workspace": workspace,
        "source": _source_name(source),
        "last": max(order_of(events[-1]), first),
        "last_offset": events[-1].offset,
        "count": len(events),
        "size": sum(map(_size, events)),
        "done": 0,
        "created_at": utcnow(),
        "events": [_event_document(received) for received in events],
    }


def _event_document(received: ConsumedEvent) -> Document:
    return {
        "offset": received.offset,
        "at_ms": received.at_ms,
        "key": received.key,
        "headers": [[name, value] for name, value in received.event.headers()],
        "data": received.event.data,
    }


def _read_event(source: SourcePartition, stored: Document) -> ConsumedEvent:
    headers = [(name, bytes(value)) for name, value in stored["headers"]]
    event = parse_event(headers, bytes(stored["data"]))
    return ConsumedEvent(event, *source, stored["offset"], stored["at_ms"], bytes(stored["key"]))


def _chunk(document: Document) -> BacklogChunk:
    return BacklogChunk(
        document["_id"], document["last"], document["last_offset"], document["count"], document["size"]
    )


def _size(received: ConsumedEvent) -> int:
    return len(received.event.data) + _EVENT_OVERHEAD_BYTES


def _source(received: ConsumedEvent) -> SourcePartition:
    return received.topic, received.partition


def _source_name(source: SourcePartition) -> str:
    return f"{source[0]}/{source[1]}"


def _parse_source(name: str) -> SourcePartition:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)
