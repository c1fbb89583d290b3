"""Deferred events: what a workspace published beyond its fair share, stored in order until its turn comes.

An event is stored once, however many webhooks want it, in chunks of up to 256 KB. A line is what waits of
one workspace from one partition of a topic. The partition's owner appends to the line and works it off, so
order is kept per conversation without a lock: while there is a line, later events of it go to its end.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.delivery.request import order_of
from shared.contracts.envelope import event_of
from shared.contracts.errors import OverLimit, Rejected
from shared.runtime import metrics
from shared.runtime.kafka.consume import Received
from shared.runtime.mongo import Collection, Document, Duplicate, Mongo, ReplaceOne, translated, utcnow

DEFERRED: Final = "deferred_events"

MOST_EVENTS: Final = 50_000
"""Of one workspace that may wait in one process."""
MOST_BYTES: Final = 64 << 20
"""Of one workspace's events that may wait in one process; each counts 1 KB more than its data."""

_CHUNK_EVENTS: Final = 100
_CHUNK_BYTES: Final = 256 << 10
_OVERHEAD: Final = 1024
_INSERTED: Final = 16

Source = tuple[str, int]
"""A topic and a partition of it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some deferred events of a line; `last` is the order of the last one."""

    id: str
    last: int
    count: int
    size: int


@dataclass(slots=True)
class Line:
    """What waits of one workspace from one partition, in order."""

    workspace: str
    source: Source
    chunks: deque[Chunk] = field(default_factory=deque)
    last: int = 0


class Backlog:
    """The lines of the partitions that this process owns."""

    def __init__(self, mongo: Mongo, *, owned: Callable[[], set[Source]]) -> None:
        self._collection: Collection = mongo.collection(DEFERRED)
        self._owned_now = owned
        self._owned: set[Source] = set()
        self._lines: dict[tuple[str, Source], Line] = {}
        self._waiting: dict[str, tuple[int, int]] = {}
        self._lock = asyncio.Lock()
        self.some = asyncio.Event()
        """Set when something was deferred."""

    def holds(self, received: Received) -> bool:
        """Whether earlier events of the same workspace and partition wait."""
        return (received.event.workspace, _source(received)) in self._lines

    def has(self, received: Received) -> bool:
        """Whether the event itself waits already: it was stored, and its offset was not committed."""
        line = self._lines.get((received.event.workspace, _source(received)))
        return line is not None and order_of(received) <= line.last

    def workspaces(self) -> set[str]:
        """Whose events wait."""
        return {line.workspace for line in self._lines.values()}

    def lines_of(self, workspace: str) -> list[Line]:
        """The lines of a workspace."""
        return [line for line in self._lines.values() if line.workspace == workspace]

    def is_owned(self, line: Line) -> bool:
        """Whether it is this process that works off the line."""
        return self._lines.get((line.workspace, line.source)) is line

    async def own(self, *, again: bool = False) -> None:
        """Follow the assignment of partitions; load what waits of those that came. Raises `StoreUnavailable`.

        With `again`, look at all: a process that lost a partition may have stored something late.
        """
        async with self._lock:
            wanted = self._owned_now()
            came = wanted if again else wanted - self._owned
            for key in [key for key, line in self._lines.items() if line.source not in wanted]:
                self._forget(self._lines.pop(key))
            self._owned &= wanted
            if not came:
                return
            query = {"source": {"$in": sorted(map(_name, came))}}
            with translated():
                found = await self._collection.find(query, {"events": 0}).to_list(None)
            known = {chunk.id for line in self._lines.values() for chunk in line.chunks}
            for document in sorted(found, key=lambda document: str(document["_id"])):
                source = _parsed(document["source"])
                if document["_id"] not in known and source in wanted:
                    self._append(document["workspace"], source, _chunk(document))
            self._owned = wanted

    async def put(self, events: Sequence[Received]) -> list[tuple[Received, Rejected]]:
        """Store events at the ends of their lines; return those for which the workspace has no room.

        Raises `StoreUnavailable`: some may be stored then, and storing them again does no harm.
        """
        refused: list[tuple[Received, Rejected]] = []
        accepted: dict[tuple[str, Source], list[Received]] = {}
        adding: dict[str, tuple[int, int]] = {}
        full: set[str] = set()  # nothing of it is stored behind what was refused: that would hide it
        for received in events:
            workspace = received.event.workspace
            waiting, more = self._waiting.get(workspace, (0, 0)), adding.get(workspace, (0, 0))
            count, size = waiting[0] + more[0] + 1, waiting[1] + more[1] + _size(received)
            if workspace in full or count > MOST_EVENTS or size > MOST_BYTES:
                full.add(workspace)
                told = f"{waiting[0]} events of the workspace wait for delivery: there is no room for more"
                refused.append((received, OverLimit(told)))
                continue
            adding[workspace] = more[0] + 1, more[1] + _size(received)
            accepted.setdefault((workspace, _source(received)), []).append(received)
        documents = [
            _document(workspace, source, some)
            for (workspace, source), line in accepted.items()
            for some in _chunks(line)
        ]
        for start in range(0, len(documents), _INSERTED):
            some = documents[start : start + _INSERTED]
            await self._write(some)
            for each in some:
                self._append(each["workspace"], _parsed(each["source"]), _chunk(each))
        if documents:
            metrics.DEFERRED.inc(sum(each["count"] for each in documents))
            self.some.set()
        return refused

    async def _write(self, documents: Sequence[Document]) -> None:
        try:
            with translated():
                await self._collection.insert_many(documents)
        except Duplicate:  # stored by a process that lost the partition before it could commit
            with translated():
                await self._collection.bulk_write(
                    [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in documents]
                )

    async def read(self, line: Line) -> list[Received]:
        """The events of the line's first chunk that are not done. Raises `StoreUnavailable`."""
        chunk = line.chunks[0]
        with translated():
            document = await self._collection.find_one({"_id": chunk.id})
        if document is None:
            return []
        return [_received(line.source, each) for each in document["events"][document["done"] :]]

    async def keep_place(self, line: Line, left: int) -> None:
        """So many events of the line's first chunk are left. Raises `StoreUnavailable`."""
        chunk = line.chunks[0]
        with translated():
            await self._collection.update_one({"_id": chunk.id}, {"$set": {"done": chunk.count - left}})

    async def finish(self, line: Line) -> None:
        """The requests of the line's first chunk are on Kafka: remove it. Raises `StoreUnavailable`."""
        chunk = line.chunks[0]
        with translated():
            await self._collection.delete_one({"_id": chunk.id})
        if not self.is_owned(line):
            return
        line.chunks.popleft()
        self._count(line.workspace, -chunk.count, -chunk.size)
        if not line.chunks:
            del self._lines[line.workspace, line.source]

    def _append(self, workspace: str, source: Source, chunk: Chunk) -> None:
        line = self._lines.setdefault((workspace, source), Line(workspace, source))
        line.chunks.append(chunk)
        line.last = max(line.last, chunk.last)
        self._count(workspace, chunk.count, chunk.size)

    def _forget(self, line: Line) -> None:
        for chunk in line.chunks:
            self._count(line.workspace, -chunk.count, -chunk.size)

    def _count(self, workspace: str, events: int, size: int) -> None:
        waiting = self._waiting.get(workspace, (0, 0))
        now = waiting[0] + events, waiting[1] + size
        if now[0] > 0:
            self._waiting[workspace] = now
        else:
            self._waiting.pop(workspace, None)


def _chunks(events: Sequence[Received]) -> Iterator[list[Received]]:
    some: list[Received] = []
    size = 0
    for received in events:
        if some and (len(some) == _CHUNK_EVENTS or size + _size(received) > _CHUNK_BYTES):
            yield some
            some, size = [], 0
        some.append(received)
        size += _size(received)
    if some:
        yield some


def _document(workspace: str, source: Source, events: Sequence[Received]) -> Document:
    first = order_of(events[0])
    return {
        "_id": f"{_name(source)}/{first:020d}/{workspace}",  # chunks of a partition are sorted by their order
        "workspace": workspace,
        "source": _name(source),
        "last": order_of(events[-1]),
        "count": len(events),
        "size": sum(map(_size, events)),
        "done": 0,
        "created_at": utcnow(),
        "events": [_stored(received) for received in events],
    }


def _stored(received: Received) -> Document:
    return {
        "offset": received.offset,
        "at_ms": received.at_ms,
        "key": received.key,
        "headers": [[name, value] for name, value in received.event.headers()],
        "data": received.event.data,
    }


def _received(source: Source, stored: Document) -> Received:
    headers = [(name, bytes(value)) for name, value in stored["headers"]]
    event = event_of(headers, bytes(stored["data"]))
    return Received(event, *source, stored["offset"], stored["at_ms"], bytes(stored["key"]))


def _chunk(document: Document) -> Chunk:
    return Chunk(document["_id"], document["last"], document["count"], document["size"])


def _size(received: Received) -> int:
    return len(received.event.data) + _OVERHEAD


def _source(received: Received) -> Source:
    return received.topic, received.partition


def _name(source: Source) -> str:
    return f"{source[0]}/{source[1]}"


def _parsed(name: str) -> Source:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)
