"""Store the saved views of members: named filters, order and columns of a list."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from shared.contracts.errors import Conflict
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "console_views"
_UNUSED_TTL_S: Final = 180 * 24 * 3600
"""Deletes the views of members who were removed, and of keys that were revoked."""
_USED_EVERY: Final = timedelta(days=1)
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("workspace", 1), ("member", 1))), Index((("used_at", 1),), ttl_s=_UNUSED_TTL_S))
}
MAX_VIEWS: Final = 20
"""Of one member."""
MAX_NAME: Final = 80


class SavedView(Record):
    """A view of a list. Only its `member` sees it."""

    workspace: str
    member: str
    slot: int
    """From 0; a member has one view in each of `MAX_VIEWS` slots."""
    name: str
    path: str
    """Of the list, below `/console`."""
    query: str
    """Of the list's address."""
    created_at: datetime
    used_at: datetime
    """The day on which the member last opened a list."""


class SavedViews:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def list_all(self, workspace: str, member: str) -> list[SavedView]:
        """Return the views of a member, by name, and note their use at most once a day."""
        query, now = {"workspace": workspace, "member": member}, utcnow()
        with translate_errors():
            documents = await self._collection.find(query).limit(MAX_VIEWS).to_list(MAX_VIEWS)
        views = sorted(map(SavedView.from_document, documents), key=lambda view: view.name.casefold())
        if any(now - view.used_at > _USED_EVERY for view in views):
            with translate_errors():
                await self._collection.update_many(query, {"$set": {"used_at": now}})
        return views

    async def add(self, workspace: str, member: str, *, name: str, path: str, query: str) -> None:
        """Store a view. Raises `Conflict` if the member has `MAX_VIEWS`."""
        taken, now = {view.slot for view in await self.list_all(workspace, member)}, utcnow()
        # A slot is taken by its id, so that two processes never store more than the maximum.
        for slot in range(MAX_VIEWS):
            if slot in taken:
                continue
            record = SavedView(
                id=_id_of(workspace, member, slot),
                workspace=workspace,
                member=member,
                slot=slot,
                name=name[:MAX_NAME],
                path=path,
                query=query,
                created_at=now,
                used_at=now,
            )
            try:
                with translate_errors():
                    await self._collection.insert_one(record.document())
            except Duplicate:
                continue
            return
        raise Conflict(f"you have {MAX_VIEWS} saved views, which is the maximum: delete one first")

    async def delete(self, workspace: str, member: str, slot: int) -> None:
        """Delete a view, if the member has it."""
        with translate_errors():
            await self._collection.delete_one({"_id": _id_of(workspace, member, slot)})

    async def delete_all(self, workspace: str) -> None:
        """Delete the views of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def _id_of(workspace: str, member: str, slot: int) -> str:
    return f"{workspace}/{member}/{slot}"
