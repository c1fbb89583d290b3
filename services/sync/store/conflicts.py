"""Edits that wait for a person, as they are stored."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.sync.model.conflict import COLLECTION, Conflict
from shared.runtime.mongo import Duplicate, Index, InsertOne, Mongo, translate_errors

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}


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
