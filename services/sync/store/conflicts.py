"""Edits that wait for a person, as they are stored."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.sync.model.conflict import COLLECTION, Conflict, ConflictState
from shared.contracts.errors import NotFound
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Duplicate, Index, InsertOne, Mongo, translate_errors
from shared.runtime.web.paging import Page, Paging, page

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_EXAMINED: Final = 100
"""Conflicts that a filtered list reads at once: each has a text."""


class Conflicts:
    """Reads and writes of the collection. Every method with `async` raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def delete_all(self, workspace: str) -> None:
        """Delete every conflict of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def add(self, conflicts: Sequence[Conflict]) -> None:
        """Store conflicts. One that exists stays as it is: its event is a repeated one."""
        if not conflicts:
            return
        try:
            with translate_errors():
                await self._collection.bulk_write(
                    [InsertOne(conflict.document()) for conflict in conflicts], ordered=False
                )
        except Duplicate:
            pass

    async def find(self, conflict_id: str, workspace: str) -> Conflict:
        """Return a conflict of a workspace. Raises `NotFound`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": conflict_id})
        if document is None or document["workspace"] != workspace:
            raise NotFound("no such conflict: it may have expired")
        return Conflict.from_document(document)

    async def list_page(
        self,
        workspace: str,
        paging: Paging,
        *,
        mapping_id: str | None,
        state: ConflictState | None,
    ) -> Page[Conflict]:
        """Return a page of a workspace's conflicts, newest first.

        With a mapping or a state, a page may have fewer than `limit` items: see `paging.page`. Raises
        `Malformed` if the cursor is invalid.
        """

        def matches(document: Document) -> bool:
            return mapping_id in (None, document["mapping_id"]) and state in (None, document["state"])

        return await page(
            self._collection,
            {"workspace": workspace},
            Conflict.from_document,
            paging,
            matches=None if mapping_id is None and state is None else matches,
            examined=_EXAMINED,
        )

    async def resolve(
        self, conflict: Conflict, state: ConflictState, *, applied_revision: int | None = None
    ) -> Conflict:
        """Store how an open conflict was resolved; return it as it is, also if it was resolved before."""
        fields = {"state": state, "applied_revision": applied_revision, "resolved_at": utcnow()}
        with translate_errors():
            await self._collection.update_one(
                {"_id": conflict.id, "state": "open"}, {"$set": Conflict.stored_fields(fields)}
            )
        return await self.find(conflict.id, conflict.workspace)
