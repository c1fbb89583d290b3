"""Deferred events as they are stored: in chunks of one workspace and one source partition, in order."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from shared.contracts.envelope import parse_event
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "deferred_events"

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("source", 1),)),)}

_EVENT_OVERHEAD_BYTES: Final = 1024

SourcePartition = tuple[str, int]
"""A topic and one of its partitions."""


class ChunkRecord(Record):
    """Some deferred events of a queue.

    Ids of chunks sort by source partition and order. The stored document has the events themselves, too. They
    are converted without a model of their own: a workspace that floods must not cost the others more.
    """

    workspace: str
    source: str
    """The source partition, as `topic/partition`."""
    last: int
    """The order of the last event."""
    last_offset: int
    count: int
    size: int
    """The size of the events, as `event_size` counts it."""
    done: int = 0
    """The number of events, from the first, that were fanned out."""
    created_at: datetime

    @property
    def source_partition(self) -> SourcePartition:
        """The source partition."""
        topic, _, partition = self.source.rpartition("/")
        return topic, int(partition)


class DeferredEvents:
    """Reads and writes of the chunks. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def chunks_of(self, sources: Collection[SourcePartition]) -> list[ChunkRecord]:
        """Return the chunks of these partitions in their order, without their events."""
        query = {"source": {"$in": sorted(map(source_name, sources))}}
        with translate_errors():
            documents = await self._collection.find(query, {"events": 0}).to_list(None)
        return sorted(map(ChunkRecord.from_document, documents), key=lambda chunk: chunk.id)

    async def insert(self, chunks: Sequence[tuple[ChunkRecord, Sequence[ConsumedEvent]]]) -> None:
        """Insert chunks with their events; inserting them again changes nothing.

        A shorter chunk that another owner of the partition stored is replaced.
        """
        if not chunks:
            return
        documents = [
            chunk.document() | {"events": [_event_document(received) for received in events]}
            for chunk, events in chunks
        ]
        try:
            with translate_errors():
                await self._collection.insert_many(documents, ordered=False)
        except Duplicate:
            # Previous owner and this process read the same records: the chunk with more events wins.
            for document in documents:
                with suppress(Duplicate), translate_errors():
                    shorter_stored = {"_id": document["_id"], "last": {"$lt": document["last"]}}
                    await self._collection.replace_one(shorter_stored, document, upsert=True)

    async def read(self, chunk_id: str, source: SourcePartition) -> tuple[int, list[ConsumedEvent]]:
        """Return how many events a chunk has, and those that are not done; none if there is no such chunk."""
        with translate_errors():
            document = await self._collection.find_one({"_id": chunk_id})
        if document is None:
            return 0, []
        stored = document["events"]
        return len(stored), [_read_event(source, item) for item in stored[document["done"] :]]

    async def save_progress(self, chunk_id: str, done: int) -> None:
        """Store how many events of a chunk are done."""
        with translate_errors():
            await self._collection.update_one(
                {"_id": chunk_id}, {"$set": ChunkRecord.stored_fields({"done": done})}
            )

    async def delete(self, chunk_id: str) -> None:
        """Delete a chunk."""
        with translate_errors():
            await self._collection.delete_one({"_id": chunk_id})


def chunk_id(source: SourcePartition, first: int, workspace: str) -> str:
    """Return the id of a chunk. `first` is the order of its first event."""
    return f"{source_name(source)}/{first:020d}/{workspace}"


def event_size(received: ConsumedEvent) -> int:
    """Return the bytes of an event's data, plus 1 KB."""
    return len(received.event.data) + _EVENT_OVERHEAD_BYTES


def source_name(source: SourcePartition) -> str:
    """Return how a source partition is stored: `topic/partition`."""
    return f"{source[0]}/{source[1]}"


def _event_document(received: ConsumedEvent) -> Document:
    return {
        "offset": received.offset,
        "at_ms": received.at_ms,
        "key": received.key,
        "headers": [[name, value] for name, value in received.event.headers()],
        "data": received.event.data,
    }


def _read_event(source: SourcePartition, stored: Mapping[str, Any]) -> ConsumedEvent:
    headers = [(name, bytes(value)) for name, value in stored["headers"]]
    event = parse_event(headers, bytes(stored["data"]))
    return ConsumedEvent(event, *source, stored["offset"], stored["at_ms"], bytes(stored["key"]))
