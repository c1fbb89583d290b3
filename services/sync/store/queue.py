"""Changes that wait for their target, as they are stored."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.sync.model.synced_message import QUEUE, QueuedChange
from services.sync.store.messages import RETENTION as MESSAGE_RETENTION
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Duplicate, Index, InsertOne, Mongo, translate_errors

RETENTION: Final = timedelta(days=7)
"""A change that has failed can be tried again for this long."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    QUEUE: (
        Index((("lane", 1), ("state", 1), ("position", 1))),
        Index((("state", 1), ("partition", 1), ("due_at", 1))),
        Index((("state", 1), ("due_at", 1))),
        Index((("synced_id", 1), ("leg_id", 1))),
        Index((("workspace", 1), ("state", 1), ("bucket", 1))),
        Index((("mapping_id", 1), ("state", 1), ("bucket", 1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_MAX_DUE: Final = 400
"""Set-aside changes that one search returns."""
POSITION_BITS: Final = 22
"""Of a position, for the order of the records of one millisecond."""
_FIRST_WINDOW: Final = 200 << POSITION_BITS
_LEAST_WINDOW: Final = 1 << POSITION_BITS
_WINDOW_GROWTH: Final = 4
_MAX_OF_MESSAGE: Final = 1_000
_MAX_IDS: Final = 50
"""Ids of a query: the embedded database takes quadratic time in their number."""


@dataclass(slots=True)
class QueueCursor:
    """The position to read a lane from: it has no waiting change before `head`, or none at all if it is None.

    `width` is the range of positions that the next query reads.
    """

    head: int | None = None
    width: int = _FIRST_WINDOW

    def lower(self, positions: Iterable[int]) -> None:
        """Lower the head to the first of these positions: a redelivered Kafka record may be before it."""
        self.head = min(positions) if self.head is None else min((self.head, *positions))


class SyncQueue:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(QUEUE)

    async def delete_all(self, workspace: str) -> None:
        """Delete every stored change of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def add(self, changes: Sequence[QueuedChange]) -> None:
        """Insert changes in their order: after an error or a kill, the first of them are stored.

        One that exists stays as it is: its Kafka record was redelivered.
        """
        missing = list(changes)
        while missing:
            try:
                with translate_errors():
                    await self._collection.bulk_write([InsertOne(change.document()) for change in missing])
            except Duplicate:  # the write has ended there
                missing = await self._missing(missing)
            else:
                return

    async def _missing(self, changes: Sequence[QueuedChange]) -> list[QueuedChange]:
        existing: set[str] = set()
        for batch in _batches(changes):
            with translate_errors():
                found = await self._collection.find({"_id": {"$in": batch}}, {"_id": 1}).to_list(None)
            existing.update(document["_id"] for document in found)
        return [change for change in changes if change.id not in existing]

    async def first(self, lane: str, cursor: QueueCursor, limit: int) -> list[QueuedChange]:
        """Return up to `limit` waiting changes of a lane, in their order; fewer if the next is much later.

        Ranges of positions are queried that grow until one has changes: the embedded database reads all that
        a query matches before it applies a limit (ADR 0034). The first width adapts to how dense the
        changes are. The caller advances the head of the cursor.
        """
        head, width = cursor.head or 0, cursor.width
        now = int(utcnow().timestamp() * 1000) << POSITION_BITS
        while head + width < now:  # changes of this moment are in the last, open range
            if found := await self._find_first(lane, {"$gte": head, "$lt": head + width}, limit):
                break
            head, width = head + width, width * _WINDOW_GROWTH
        else:
            found = await self._find_first(lane, {"$gte": head}, limit)
        if len(found) == limit > 1:
            cursor.width = max(
                _LEAST_WINDOW, min(_FIRST_WINDOW, 2 * (found[-1].position - found[0].position))
            )
        return found

    async def _find_first(self, lane: str, within: Document, limit: int) -> list[QueuedChange]:
        query = {"lane": lane, "state": "waiting", "position": within}
        with translate_errors():
            found = self._collection.find(query).sort([("position", 1)])
            documents = await found.limit(limit).to_list(limit)
        return [QueuedChange.from_document(document) for document in documents]

    async def find_set_aside(self, partitions: Collection[int]) -> list[QueuedChange]:
        """Return set-aside changes of these partitions whose `due_at` has passed, ordered by position.

        Each partition has an equal part of the limit: one with many of them does not hide those of others.
        """
        documents: list[Document] = []
        # Mostly there is none, which one search says: this is asked every second.
        due = {"state": "aside", "due_at": {"$lte": utcnow()}}
        with translate_errors():
            if await self._collection.find_one(due, {"_id": 1}) is None:
                return []
        limit = max(1, _MAX_DUE // max(1, len(partitions)))
        for partition in partitions:  # of several, the embedded database would read all that are aside
            query = {"partition": partition, **due}
            with translate_errors():
                documents += await self._collection.find(query).limit(limit).to_list(limit)
        return sorted(map(QueuedChange.from_document, documents), key=lambda change: change.position)

    async def postpone(
        self, change: QueuedChange, due_at: datetime, *, attempts: int, reason: str, first_attempt: str = ""
    ) -> None:
        """Store the next due time of a change, its number of attempts, and the reason to wait.

        `first_attempt` is the `traceparent` of its first attempt, if that was traced.
        """
        fields: Document = {"due_at": due_at, "attempts": attempts, "reason": reason}
        if first_attempt:
            fields["first_attempt"] = first_attempt
        with translate_errors():
            await self._collection.update_one({"_id": change.id}, {"$set": fields})

    async def set_aside(self, change: QueuedChange, due_at: datetime, reason: str) -> None:
        """Set a change aside until `due_at`: later changes of its lane do not wait for it."""
        await self._set_state(change.id, "aside", due_at=due_at, reason=reason)

    async def rejoin(self, changes: Sequence[QueuedChange]) -> None:
        """Give set-aside changes the state `waiting` again, in the order of their lanes."""
        for batch in _batches(changes):
            with translate_errors():
                await self._collection.update_many(
                    {"_id": {"$in": batch}, "state": "aside"}, {"$set": {"state": "waiting"}}
                )

    async def fail(self, change: QueuedChange, reason: str) -> None:
        """Keep a change that was given up, for a retry, until it expires."""
        await self._set_state(change.id, "failed", reason=reason, expires_at=utcnow() + RETENTION)

    async def remove(self, change_id: str) -> None:
        """Remove a change that is done."""
        with translate_errors():
            await self._collection.delete_one({"_id": change_id})

    async def of_message(self, synced_id: str) -> list[QueuedChange]:
        """Return the changes of a message that wait or have failed, at most 1,000 of them, in their order."""
        with translate_errors():
            documents = (
                await self._collection.find({"synced_id": synced_id}).limit(_MAX_OF_MESSAGE).to_list(None)
            )
        return sorted(map(QueuedChange.from_document, documents), key=lambda change: change.position)

    async def retry(self, changes: Sequence[QueuedChange], retry_for_s: float) -> None:
        """Let changes that have failed be tried again now, for so long."""
        now = utcnow()
        give_up_at = now + timedelta(seconds=retry_for_s)
        fields = {
            "state": "aside",
            "due_at": now,
            "attempts": 0,
            "give_up_at": give_up_at,
            "expires_at": now + MESSAGE_RETENTION,
        }
        for batch in _batches(changes):
            with translate_errors():
                await self._collection.update_many(
                    {"_id": {"$in": batch}, "state": "failed"}, {"$set": fields}
                )

    async def remove_all(self, changes: Sequence[QueuedChange]) -> None:
        """Remove changes."""
        for batch in _batches(changes):
            with translate_errors():
                await self._collection.delete_many({"_id": {"$in": batch}})

    async def _set_state(self, change_id: str, state: str, **fields: object) -> None:
        with translate_errors():
            await self._collection.update_one({"_id": change_id}, {"$set": {"state": state, **fields}})


def _batches(changes: Sequence[QueuedChange]) -> list[list[str]]:
    ids = [change.id for change in changes]
    return [ids[start : start + _MAX_IDS] for start in range(0, len(ids), _MAX_IDS)]
