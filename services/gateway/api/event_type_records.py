"""Event types that workspaces registered, as they are stored: record, indexes, and every read and write."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import Field

from shared.contracts.errors import Conflict, NotFound
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record, stored_null
from shared.runtime.snapshot import Snapshot

T = TypeVar("T")

COLLECTION: Final = "event_types"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("name", 1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}


def event_type_id(workspace: str, name: str) -> str:
    """Return the id of a workspace's event type."""
    return f"{workspace}/{name}"


class EventTypeRecord(Record):
    """An event type of a workspace. Schema and example are JSON text: MongoDB does not allow every key."""

    workspace: str
    name: str
    about: str
    schema_text: str | None = Field(alias="schema", default_factory=type(None))
    example_text: str | None = Field(alias="example", default_factory=type(None))
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = stored_null()
    """A deleted type is stored for a while, so that every process sees the deletion."""


class EventTypeRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`.

    Writes are for `EventTypes`, which announces them.
    """

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    def snapshot(
        self, configuration: Configuration, parse: Callable[[EventTypeRecord], T], log: Log
    ) -> Snapshot[T]:
        """Return a snapshot of what `parse` makes of each type."""
        return Snapshot(
            configuration,
            self._collection,
            lambda document: parse(EventTypeRecord.from_document(document)),
            log,
        )

    async def count(self, workspace: str) -> int:
        """Return how many types a workspace has."""
        with translate_errors():
            return await self._collection.count_documents({"workspace": workspace, "deleted_at": None})

    async def find(self, workspace: str, name: str) -> EventTypeRecord:
        """Return a type of a workspace. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self._collection.find_one(
                {"_id": event_type_id(workspace, name), "deleted_at": None}
            )
        if document is None:
            raise NotFound("no such event type of this workspace")
        return EventTypeRecord.from_document(document)

    async def list_after(self, workspace: str, name: str, limit: int) -> list[EventTypeRecord]:
        """Return the types of a workspace whose names follow `name`, sorted by name."""
        query = {"workspace": workspace, "deleted_at": None, "name": {"$gt": name}}
        with translate_errors():
            documents = await self._collection.find(query).sort("name", 1).limit(limit).to_list(limit)
        return [EventTypeRecord.from_document(document) for document in documents]

    async def insert(self, record: EventTypeRecord) -> None:
        """Insert a type. Raises `Conflict` if the workspace has one of this name."""
        try:
            # Replaces a deleted type of this name. If there is a live one, the filter matches nothing, and
            # the insert of the upsert fails because of the equal id.
            with translate_errors():
                await self._collection.replace_one(
                    {"_id": record.id, "deleted_at": {"$ne": None}}, record.document(), upsert=True
                )
        except Duplicate:
            raise Conflict("this event type exists already: change it with PATCH") from None

    async def change(
        self, record: EventTypeRecord, changes: Mapping[str, Any], *, unchanged: bool
    ) -> EventTypeRecord:
        """Set fields, given by their names in Python, and return the changed record.

        Raises `Conflict` if the type was deleted, or with `unchanged` if it has changed since it was read.
        """
        query: Document = {"_id": record.id, "deleted_at": None}
        if unchanged:
            query["changed_at"] = record.changed_at
        fields = EventTypeRecord.stored_fields({**changes, "changed_at": utcnow()})
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                query, {"$set": fields}, return_document=True
            )
        if document is None:
            raise Conflict("this type was changed by another call at the same time: read it and try again")
        return EventTypeRecord.from_document(document)
