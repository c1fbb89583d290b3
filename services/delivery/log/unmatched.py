"""Unmatched events, which no outgoing webhook gets: counts by type, and the last ones with the reason.

There is one document per workspace and type, and one per workspace with its last events. They are written
from memory once a second; a killed process loses its last second.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import Field

from shared.contracts.errors import InterlinkError
from shared.contracts.ids import derive
from shared.runtime import metrics
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.mongo import (
    Collection,
    Document,
    Duplicate,
    Index,
    Mongo,
    UpdateOne,
    Write,
    translate_errors,
)
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.records import Record, StoredPart

UnmatchedReason = Literal["no_webhook", "no_pattern", "disabled", "filtered"]

UNMATCHED: Final = "unmatched_events"
RETENTION: Final = timedelta(days=7)

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    UNMATCHED: (Index((("workspace", 1),)), Index((("expires_at", 1),), ttl_s=0)),
}
MAX_LISTED: Final = 100
"""The latest events of one workspace that are listed."""
MAX_TYPES: Final = 500
"""Types of one workspace with a count of their own; the others are counted together."""
OTHER_TYPES: Final = "(other types)"

_FLUSH_INTERVAL_S: Final = 1.0
_TYPES_CACHE_TTL: Final = timedelta(minutes=10)
_MAX_WORKSPACES: Final = 10_000
_MAX_ID_LENGTH: Final = 256


class UnmatchedType(Record):
    """The number of unmatched events of one type in one workspace. Its id derives from both."""

    workspace: str
    event_type: str = Field(alias="type")
    count: int
    since: datetime
    last_at: datetime
    expires_at: datetime


class UnmatchedEvent(StoredPart):
    """An event that no outgoing webhook got, and when the hub found that."""

    id: str
    event_type: str = Field(alias="type")
    source: str
    reason: UnmatchedReason
    at: datetime


class LastUnmatchedEvents(Record):
    """The last unmatched events of a workspace, the latest at the end. Its id starts with `last/`."""

    workspace: str
    last: tuple[UnmatchedEvent, ...] = ()
    expires_at: datetime


@dataclass(slots=True)
class _Tally:
    """Records of one workspace since the last write."""

    counts: dict[str, int] = field(default_factory=dict)
    last: list[Document] = field(default_factory=list)


class UnmatchedEventLog:
    """Records unmatched events, writes them once a second, and reads them."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._collection: Collection = mongo.collection(UNMATCHED)
        self._log = log
        self._tallies: dict[str, _Tally] = {}
        self._types: OrderedDict[str, tuple[datetime, set[str]]] = OrderedDict()
        self._flush_task = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flush_task.start()

    async def stop(self) -> None:
        """Write the pending records once, and end."""
        await self._flush_task.stop()

    async def delete_all(self, workspace: str) -> None:
        """Delete what was recorded of a workspace. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    def record(
        self, workspace: str, event_id: str, event_type: str, source: str, reason: UnmatchedReason
    ) -> None:
        """Record an unmatched event. For the hot path: no I/O, bounded memory."""
        metrics.unmatched(reason).inc()
        tally = self._tallies.get(workspace)
        if tally is None:
            # A limit on memory until the next write.
            if len(self._tallies) >= _MAX_WORKSPACES:
                return
            tally = self._tallies[workspace] = _Tally()
        counted = event_type in tally.counts or len(tally.counts) < MAX_TYPES
        type_name = event_type if counted else OTHER_TYPES
        tally.counts[type_name] = tally.counts.get(type_name, 0) + 1
        # A document, not a record: this is the hot path of fan-out.
        entry = {
            "id": event_id[:_MAX_ID_LENGTH],
            "type": event_type[:_MAX_ID_LENGTH],
            "source": source[:_MAX_ID_LENGTH],
            "reason": reason,
            "at": utcnow(),
        }
        tally.last.append(entry)
        # Trim at twice the length, so that it is not done for every event.
        if len(tally.last) >= 2 * MAX_LISTED:
            del tally.last[:MAX_LISTED]

    async def flush(self) -> None:
        """Write the records since the last call; drop and log what MongoDB does not take."""
        tallies, self._tallies = self._tallies, {}
        if not tallies:
            return
        try:
            writes: list[Write] = []
            for workspace, tally in tallies.items():
                writes += self._writes(workspace, tally, await self._counted_types(workspace))
            with translate_errors():
                await self._collection.bulk_write(writes, ordered=False)
        except (InterlinkError, Duplicate) as error:
            self._log.warning("unmatched_events.write_failed", workspaces=len(tallies), error=str(error))

    async def counts(self, workspace: str) -> list[UnmatchedType]:
        """Return a workspace's counts by type, highest first. Raises `DatabaseUnavailable`."""
        with translate_errors():
            documents = await self._collection.find({"workspace": workspace}).to_list(None)
        types = [UnmatchedType.from_document(document) for document in documents if "count" in document]
        return sorted(types, key=lambda item: (-item.count, item.event_type))

    async def last(self, workspace: str) -> list[UnmatchedEvent]:
        """Return a workspace's last unmatched events, latest first. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": _last_id(workspace)})
        if document is None:
            return []
        since = utcnow() - RETENTION
        events = [event for event in LastUnmatchedEvents.from_document(document).last if event.at > since]
        return sorted(events, key=lambda event: event.at, reverse=True)

    async def _counted_types(self, workspace: str) -> set[str]:
        """Return the types with a count of their own; cached for ten minutes."""
        now = utcnow()
        read_at, counted_types = self._types.get(workspace, (None, set[str]()))
        if read_at is None or now - read_at > _TYPES_CACHE_TTL:
            with translate_errors():
                documents = await self._collection.find({"workspace": workspace}, {"type": 1}).to_list(None)
            counted_types = {document["type"] for document in documents if "type" in document}
            self._types[workspace] = now, counted_types
            self._types.move_to_end(workspace)
            if len(self._types) > _MAX_WORKSPACES:
                self._types.popitem(last=False)
        return counted_types

    def _writes(self, workspace: str, tally: _Tally, counted_types: set[str]) -> list[Write]:
        now = utcnow()
        expires = {"expires_at": now + RETENTION}
        counts: dict[str, int] = {}
        for event_type, count in tally.counts.items():
            if event_type not in counted_types and len(counted_types) < MAX_TYPES:
                counted_types.add(event_type)
            type_name = event_type if event_type in counted_types else OTHER_TYPES
            counts[type_name] = counts.get(type_name, 0) + count
        writes: list[Write] = [
            UpdateOne(
                {"_id": derive(workspace, event_type)},
                {
                    "$setOnInsert": {"workspace": workspace, "type": event_type, "since": now},
                    "$set": {"last_at": now, **expires},
                    "$inc": {"count": count},
                },
                upsert=True,
            )
            for event_type, count in counts.items()
        ]
        last = {"$each": tally.last[-MAX_LISTED:], "$slice": -MAX_LISTED}
        writes.append(
            UpdateOne(
                {"_id": _last_id(workspace)},
                {"$setOnInsert": {"workspace": workspace}, "$set": expires, "$push": {"last": last}},
                upsert=True,
            )
        )
        return writes


def _last_id(workspace: str) -> str:
    return f"last/{derive(workspace)}"
