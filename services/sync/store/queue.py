"""Changes that wait for their target, as they are stored."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from services.sync.model.mapping import lane_of
from services.sync.model.synced_message import QUEUE, QueuedChange, QueueState
from shared.runtime.mongo import (
    Document,
    Duplicate,
    Index,
    InsertOne,
    Mongo,
    translate_errors,
    utcnow,
)

RETENTION: Final = timedelta(days=7)
"""A change that has failed can be tried again this long after it would have been given up."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    QUEUE: (
        Index((("lane", 1), ("state", 1), ("position", 1))),
        Index((("state", 1), ("partition", 1), ("due_at", 1))),
        Index((("synced_id", 1), ("leg_id", 1))),
        Index((("workspace", 1), ("state", 1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_MAX_DUE: Final = 200
POSITION_BITS: Final = 22
"""Of a position, for the order of the records of one millisecond."""
_FIRST_WINDOW: Final = 200 << POSITION_BITS
_WINDOW_GROWTH: Final = 16
_LAST_WINDOW: Final = (24 * 3600 * 1000) << POSITION_BITS
_MAX_OF_MESSAGE: Final = 1_000
_MAX_IDS: Final = 50
"""Ids of a query: the embedded database takes quadratic time in their number."""


@dataclass(slots=True)
class LaneCount:
    """Changes of a target conversation: how many by state, since when, and a reason of one of them."""

    account_key: str
    conversation: str
    counts: Counter[QueueState] = field(default_factory=Counter)
    oldest_at: datetime | None = None
    reason: str = ""

    def add(self, state: QueueState, count: int, oldest_at: datetime, reason: str) -> None:
        """Add the changes of one state."""
        self.counts[state] += count
        self.oldest_at = min(self.oldest_at or oldest_at, oldest_at)
        self.reason = self.reason or reason


class SyncQueue:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(QUEUE)

    async def delete_all(self, workspace: str) -> None:
        """Delete every change that waits of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def add(self, changes: Sequence[QueuedChange]) -> None:
        """Store changes. One that exists stays as it is: its record is a repeated one."""
        if not changes:
            return
        try:
            with translate_errors():
                await self._collection.bulk_write(
                    [InsertOne(change.document()) for change in changes], ordered=False
                )
        except Duplicate:
            pass

    async def first(self, lane: str, limit: int, *, from_position: int | None) -> list[QueuedChange]:
        """Return the first waiting changes of a lane, or fewer of them if those after are much later.

        No change is before `from_position`; None if that is not known. With it, growing windows are read: the
        embedded database reads everything that a query matches before it applies a limit (ADR 0034).
        """
        query: Document = {"lane": lane, "state": "waiting"}
        if from_position is not None:
            width = _FIRST_WINDOW
            while width < _LAST_WINDOW:
                window = {"$gte": from_position, "$lt": from_position + width}
                if found := await self._find_first({**query, "position": window}, limit):
                    return found
                width *= _WINDOW_GROWTH
        return await self._find_first(query, limit)

    async def _find_first(self, query: Document, limit: int) -> list[QueuedChange]:
        with translate_errors():
            found = self._collection.find(query).sort([("position", 1)])
            documents = await found.limit(limit).to_list(limit)
        return [QueuedChange.from_document(document) for document in documents]

    async def lanes(self, partitions: Collection[int]) -> list[str]:
        """Return the lanes of these partitions that have waiting changes."""
        with translate_errors():
            found: list[str] = await self._collection.distinct(
                "lane", {"state": "waiting", "partition": {"$in": list(partitions)}}
            )
        return found

    async def due_aside(self, partitions: Collection[int]) -> list[QueuedChange]:
        """Return changes of these partitions that are aside and due, in their order."""
        query: Document = {
            "state": "aside",
            "partition": {"$in": list(partitions)},
            "due_at": {"$lte": utcnow()},
        }
        with translate_errors():
            documents = await self._collection.find(query).limit(_MAX_DUE).to_list(_MAX_DUE)
        return sorted(map(QueuedChange.from_document, documents), key=lambda change: change.position)

    async def postpone(self, change: QueuedChange, due_at: datetime, *, attempts: int, reason: str) -> None:
        """Store when a change is tried again, after how many attempts, and why not now."""
        fields = {"due_at": due_at, "attempts": attempts, "reason": reason}
        with translate_errors():
            await self._collection.update_one({"_id": change.id}, {"$set": fields})

    async def set_aside(self, change: QueuedChange, due_at: datetime, reason: str) -> None:
        """Set a change aside: it holds up no other until it is due."""
        await self._set_state(change.id, "aside", due_at=due_at, reason=reason)

    async def fail(self, change: QueuedChange, reason: str) -> None:
        """Keep a change that was given up, for a retry."""
        await self._set_state(change.id, "failed", reason=reason)

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
            "expires_at": give_up_at + RETENTION,
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

    async def count(self, workspace: str, mapping_id: str | None) -> list[LaneCount]:
        """Count the changes of a workspace, or of one of its mappings, by lane.

        It reads all of them: of 100,000, the embedded database takes seconds for it.
        """
        query: Document = {"workspace": workspace} | ({"mapping_id": mapping_id} if mapping_id else {})
        group: Document = {
            "_id": {"lane": "$lane", "account_key": "$account_key", "state": "$state"},
            "count": {"$sum": 1},
            "oldest_at": {"$min": "$created_at"},
            "reason": {"$max": "$reason"},
        }
        lanes: dict[str, LaneCount] = {}
        with translate_errors():
            documents = await self._collection.aggregate([{"$match": query}, {"$group": group}]).to_list(None)
        for document in documents:
            key = document["_id"]
            prefix = lane_of(workspace, key["account_key"], "")
            lane = lanes.setdefault(
                key["lane"], LaneCount(key["account_key"], key["lane"].removeprefix(prefix))
            )
            lane.add(key["state"], document["count"], document["oldest_at"], document["reason"])
        return list(lanes.values())

    async def wake_mapping(self, mapping_id: str) -> None:
        """Make the changes of a mapping due that are aside."""
        with translate_errors():
            await self._collection.update_many(
                {"mapping_id": mapping_id, "state": "aside"}, {"$set": {"due_at": utcnow()}}
            )

    async def _set_state(self, change_id: str, state: str, **fields: object) -> None:
        with translate_errors():
            await self._collection.update_one({"_id": change_id}, {"$set": {"state": state, **fields}})


def _batches(changes: Sequence[QueuedChange]) -> list[list[str]]:
    ids = [change.id for change in changes]
    return [ids[start : start + _MAX_IDS] for start in range(0, len(ids), _MAX_IDS)]
