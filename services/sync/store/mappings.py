"""Mappings as they are stored: their indexes, their events, and every read and write of them.

Every process has mappings in memory, so every write is announced (`Configuration`): when it returns, all
processes use it.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Mapping as Fields
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple, Self

from services.sync.model.mapping import Filters, Mapping, MappingStatus, SharedConversation
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import derive
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Index, Mongo, translate_errors
from shared.runtime.outbox import OUTBOX_INDEX, Outbox, PendingEvent
from shared.runtime.quotas import Quota
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "sync_mappings"
INDEXES: Final[Fields[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        OUTBOX_INDEX,
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}
_SETTINGS: Final = frozenset({"name", "legs", "filters", "options"})
_MAX_ATTEMPTS: Final = 5
_TESTS_PER_MINUTE: Final = 6
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""


class MappingEdges(NamedTuple):
    """Where messages of a mapping come from and go to. A check reads those of a whole workspace."""

    id: str
    name: str
    senders: Sequence[SharedConversation]
    receivers: Sequence[SharedConversation]

    @classmethod
    def of(cls, mapping_id: str, name: str, legs: Iterable[tuple[str, str, str]]) -> Self:
        """Return the edges of legs, each as provider, conversation and direction."""
        given = list(legs)
        return cls(
            mapping_id,
            name,
            [(provider, place) for provider, place, direction in given if direction != "out"],
            [(provider, place) for provider, place, direction in given if direction != "in"],
        )


@dataclass(frozen=True, slots=True)
class MappingCriteria:
    """Selects mappings in a list. None matches every mapping; the others those with such a leg."""

    status: MappingStatus | None = None
    provider: str | None = None
    conversation: str | None = None

    def matches(self, document: Document) -> bool:
        """Return whether a stored mapping meets all criteria, provider and conversation in one leg."""
        if self.status not in (None, document["status"]):
            return False
        return any(
            self.provider in (None, leg["provider"]) and self.conversation in (None, leg["conversation"])
            for leg in document["legs"]
        )


class MappingRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, producer: Producer, log: Log, *, per_workspace: int
    ) -> None:
        """`per_workspace` is the maximum number of mappings of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._configuration = configuration
        self._outbox = Outbox(
            self._collection, Mapping, producer, log, topic=INTEGRATION_EVENTS, source="/mappings"
        )
        self._quota = Quota(self._collection, per_workspace, "mappings", "INTERLINK_MAPPINGS_PER_WORKSPACE")
        self.per_workspace: Final = per_workspace

    # Reads

    async def find(self, mapping_id: str, workspace: str) -> Mapping:
        """Return a mapping of a workspace. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self._collection.find_one(
                {"_id": mapping_id, "workspace": workspace, "deleted_at": None}
            )
        return _existing(document)

    async def list_page(self, workspace: str, criteria: MappingCriteria, paging: Paging) -> Page[Mapping]:
        """Return a page of a workspace's mappings that meet all criteria, newest first.

        With criteria, a page may have fewer than `limit` items: see `paging.page`. Raises `Malformed` if the
        cursor is invalid.
        """
        return await page(
            self._collection,
            _of_workspace(workspace),
            Mapping.from_document,
            paging,
            matches=None if criteria == MappingCriteria() else criteria.matches,
        )

    async def edges(self, workspace: str) -> list[MappingEdges]:
        """Return the edges of all mappings of a workspace, whatever their status."""
        limit = self.per_workspace + 100  # calls that run at the same time may exceed it for a moment
        with translate_errors():
            documents = (
                await self._collection.find(_of_workspace(workspace), {"name": 1, "legs": 1})
                .limit(limit)
                .to_list(limit)
            )
        return [
            MappingEdges.of(
                document["_id"],
                document["name"],
                ((leg["provider"], leg["conversation"], leg["direction"]) for leg in document["legs"]),
            )
            for document in documents
        ]

    # Writes

    def reserve(
        self, workspace: str, undo: Callable[[], Awaitable[object]]
    ) -> AbstractAsyncContextManager[None]:
        """Insert one mapping inside this context. Raises `Conflict` if the workspace has the maximum."""
        return self._quota.reserve(_of_workspace(workspace), undo)

    async def insert(self, mapping: Mapping) -> None:
        """Store a new mapping; the caller announces it."""
        with translate_errors():
            await self._collection.insert_one(mapping.document())

    async def remove(self, mapping: Mapping) -> None:
        """Take back a mapping that was stored a moment ago, and has not been shown to anybody."""
        with translate_errors():
            await self._collection.delete_one({"_id": mapping.id})
        await self.announce(mapping)

    async def announce(self, mapping: Mapping) -> None:
        """Let every process use a mapping as it is stored now."""
        await self._configuration.announce(COLLECTION, mapping.id)

    async def change(
        self,
        mapping: Mapping,
        *,
        announce: bool = True,
        events: tuple[PendingEvent, ...] = (),
        **changes: Any,
    ) -> Mapping:
        """Change fields, given by their names in `Mapping`, and publish events of the change.

        Return the mapping as it is now. Raises `Conflict` if it was changed since `mapping` was read, and
        `NotFound` if it was deleted.
        """
        if changes.keys() & _SETTINGS:
            changes["settings_version"] = mapping.settings_version + 1
        fields = Mapping.stored_fields(
            {**changes, "version": mapping.version + 1, "changed_at": _after(mapping.changed_at)}
        )
        query = {"_id": mapping.id, "version": mapping.version, "deleted_at": None}
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                query, self._outbox.with_events({"$set": fields}, events), return_document=True
            )
        if document is None:
            await self.find(mapping.id, mapping.workspace)
            raise Conflict("the mapping changed while it was updated: try again")
        changed = Mapping.from_document(document)
        if announce:
            await self.announce(changed)
        if events:
            await self._outbox.publish(changed)
        return changed

    async def delete(self, mapping_id: str, workspace: str) -> None:
        """Mark a mapping as deleted. What waits for its targets is not sent. Raises `NotFound`."""
        now = utcnow()
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                {"_id": mapping_id, **_of_workspace(workspace)},
                {"$set": {"deleted_at": now, "changed_at": now}, "$inc": {"version": 1}},
                return_document=True,
            )
        await self.announce(_existing(document))

    async def delete_all(self, workspace: str) -> None:
        """Mark every mapping of a workspace as deleted, and remove what people named in it."""
        texts = {"name": "", "legs": (), "filters": Filters(), "reason": None, "fix": None}
        remaining = iter([edges.id for edges in await self.edges(workspace)])
        while batch := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            now = utcnow()
            fields = Mapping.stored_fields({**texts, "deleted_at": now, "changed_at": now})
            with translate_errors():
                await self._collection.update_many({"_id": {"$in": batch}}, {"$set": fields})
            await self._configuration.announce(COLLECTION, *batch)

    # Status

    async def pause(self, mapping: Mapping) -> Mapping:
        """Pause a mapping: nothing is forwarded until it is resumed. Raises `Conflict`, `NotFound`."""
        if mapping.status == "paused":
            return mapping
        return await self.change(mapping, status="paused")

    async def resume(self, mapping: Mapping) -> Mapping:
        """Make a mapping active that is paused or in error. Raises `Conflict`, `NotFound`."""
        if mapping.status == "active":
            return mapping
        events = (_event("mapping.recovered", mapping),) if mapping.reason else ()
        return await self.change(
            mapping, events=events, status="active", reason=None, fix=None, failed_leg=None
        )

    async def set_error(self, mapping_id: str, workspace: str, leg: str, reason: str, fix: str) -> bool:
        """Store that an active mapping cannot go on until a person acts, and publish `mapping.failed`.

        Return whether it was active: otherwise nothing changes, and no event is published.
        """
        return await self._switch(
            mapping_id,
            workspace,
            "active",
            lambda mapping: self.change(
                mapping,
                events=(_event("mapping.failed", mapping, reason=reason, fix=fix),),
                status="error",
                reason=reason,
                fix=fix,
                failed_leg=leg,
            ),
        )

    async def clear_error(self, mapping_id: str, workspace: str) -> bool:
        """Store that a mapping that was in error works again, and publish `mapping.recovered`.

        Return whether it was in error: otherwise nothing changes, and no event is published.
        """
        return await self._switch(mapping_id, workspace, "error", self.resume)

    async def move_leg(self, mapping_id: str, workspace: str, leg_id: str, conversation: str) -> bool:
        """Store that the conversation of a leg has another id now; return False if it is known already."""
        for _ in range(_MAX_ATTEMPTS):
            try:
                mapping = await self.find(mapping_id, workspace)
                leg = mapping.leg(leg_id)
                if leg is None or leg.conversation == conversation:
                    return False
                moved = leg.model_copy(update={"conversation": conversation})
                legs = tuple(moved if item.id == leg_id else item for item in mapping.legs)
                await self.change(mapping, legs=legs)
            except NotFound:
                return False
            except Conflict:
                continue
            return True
        raise Conflict("the mapping changes all the time: try again")

    async def _switch(
        self,
        mapping_id: str,
        workspace: str,
        status: MappingStatus,
        change: Callable[[Mapping], Awaitable[Mapping]],
    ) -> bool:
        for _ in range(_MAX_ATTEMPTS):
            try:
                mapping = await self.find(mapping_id, workspace)
                if mapping.status != status:
                    return False
                await change(mapping)
            except NotFound:
                return False
            except Conflict:
                continue
            return True
        raise Conflict("the mapping changes all the time: try again")

    async def publish_pending(self) -> None:
        """Publish events that other processes stored but did not publish: see `Outbox.publish_pending`."""
        await self._outbox.publish_pending()

    async def count_test(self, mapping: Mapping) -> bool:
        """Count a test of a mapping; return False if there were six of them in this minute."""
        minute = int(utcnow().timestamp()) // 60
        with translate_errors():
            first = await self._collection.update_one(
                {"_id": mapping.id, "test_minute": {"$ne": minute}},
                {"$set": {"test_minute": minute, "tests": 1}},
            )
            if first.matched_count:
                return True
            counted = await self._collection.update_one(
                {"_id": mapping.id, "test_minute": minute, "tests": {"$lt": _TESTS_PER_MINUTE}},
                {"$inc": {"tests": 1}},
            )
        return bool(counted.matched_count)


def _of_workspace(workspace: str) -> Document:
    return {"workspace": workspace, "deleted_at": None}


def _existing(document: Document | None) -> Mapping:
    if document is None:
        raise NotFound("no such mapping")
    return Mapping.from_document(document)


def _after(moment: datetime) -> datetime:
    """Return the current time, but not an earlier one than that of the last change."""
    return max(utcnow(), moment)


def _event(event_type: str, mapping: Mapping, **fields: str) -> PendingEvent:
    """Return the event of a change of a mapping, which its next version makes."""
    moment = utcnow()
    legs = [
        {"provider": leg.provider, "account": leg.account, "conversation": leg.conversation, "name": leg.name}
        for leg in mapping.legs
    ]
    data = {"mapping_id": mapping.id, "name": mapping.name, "legs": legs, **fields, "at": rfc3339(moment)}
    digest = derive(mapping.id, event_type, str(mapping.version + 1))
    return PendingEvent(id=f"evt_{digest}", type=event_type, at=moment, data=data)
