"""Records of an export that could not be imported, with place and reason: the first 10,000 of an import."""

from collections.abc import Mapping, Sequence
from typing import Final

from shared.runtime.mongo import Document, Index, Mongo, ReplaceOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import Page, decode_position

COLLECTION: Final = "import_issues"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("import_id", 1), ("position", 1))), Index((("workspace", 1),)))
}
MAX_ISSUES: Final = 10_000


class IssueRecord(Record):
    """A record that failed. The id is derived from its place, so a repeated unit has the same issues.

    `position` is how many issues the import had listed before: a list has them in this order.
    """

    import_id: str
    workspace: str
    place: str
    reason: str
    record: str = ""
    position: int


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

    async def page(self, import_id: str, *, listed: int, limit: int, cursor: str | None) -> Page[IssueRecord]:
        """Return a page of the issues that an import has listed, in the order of the export.

        Raises `Malformed`.
        """
        start, width, found = decode_position(cursor), limit + 1, list[Document]()
        # Without an end, the embedded database reads and sorts all that follow. Positions hardly have gaps:
        # behind one, ever wider ranges are read.
        while len(found) <= limit and start < min(listed, MAX_ISSUES):
            query = {"import_id": import_id, "position": {"$gte": start, "$lt": start + width}}
            with translate_errors():
                in_range = self._collection.find(query).sort("position", 1).limit(limit + 1)
                found += await in_range.to_list(None)
            start, width = start + width, width * 2
        records = [IssueRecord.from_document(document) for document in found[: limit + 1]]
        next_cursor = str(records[limit].position) if len(records) > limit else None
        return Page(items=records[:limit], next_cursor=next_cursor)

    async def delete_run(self, import_id: str) -> None:
        """Delete the issues of an import."""
        with translate_errors():
            await self._collection.delete_many({"import_id": import_id})

    async def delete_all(self, workspace: str) -> None:
        """Delete the issues of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})
