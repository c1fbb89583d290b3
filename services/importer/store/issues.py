"""Records of an export that could not be imported, with place and reason: the first 10,000 of an import."""

from collections.abc import Mapping, Sequence
from typing import Final

from shared.contracts.errors import Malformed
from shared.runtime.mongo import Index, Mongo, ReplaceOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page

COLLECTION: Final = "import_issues"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("import_id", 1), ("_id", 1))), Index((("workspace", 1),)))
}
MAX_ISSUES: Final = 10_000


class IssueRecord(Record):
    """A record that failed. The id is derived from its place, so a repeated unit has the same issues."""

    import_id: str
    workspace: str
    place: str
    reason: str
    record: str = ""


class Issues:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def store(self, records: Sequence[IssueRecord]) -> None:
        """Store issues; storing one again changes nothing."""
        if not records:
            return
        writes = [ReplaceOne({"_id": record.id}, record.document(), upsert=True) for record in records]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    async def page(self, import_id: str, *, limit: int, cursor: str | None) -> Page[IssueRecord]:
        """Return a page of an import's issues, in the order of the export. Raises `Malformed`."""
        query: dict[str, object] = {"import_id": import_id}
        if cursor is not None:
            if not cursor.startswith(f"{import_id}:"):
                raise Malformed("cursor: send next_cursor of the previous page")
            query["_id"] = {"$gt": cursor}
        with translate_errors():
            documents = await self._collection.find(query).sort("_id", 1).limit(limit + 1).to_list(limit + 1)
        records = [IssueRecord.from_document(document) for document in documents[:limit]]
        return Page(items=records, next_cursor=records[-1].id if len(documents) > limit else None)

    async def delete_run(self, import_id: str) -> None:
        """Delete the issues of an import."""
        with translate_errors():
            await self._collection.delete_many({"import_id": import_id})

    async def delete_all(self, workspace: str) -> None:
        """Delete the issues of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})
