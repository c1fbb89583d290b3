"""The rows of reports, encoded as they are shown: so a report of many channels is one query."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Literal

from shared.contracts.errors import Malformed
from shared.runtime.mongo import Index, Mongo, ReplaceOne, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.paging import decode_position

COLLECTION: Final = "import_report_rows"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("import_id", 1), ("kind", 1), ("number", 1))), Index((("workspace", 1),)))
}
ROWS: Final = 500
"""Rows of a document."""

Kind = Literal["channels", "days"]


class RowsRecord(Record):
    """Some rows of a report: JSON objects, separated by line feeds."""

    import_id: str
    workspace: str
    kind: Kind
    number: int
    rows: bytes


class Reports:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def store(
        self, run_id: str, workspace: str, kind: Kind, number: int, rows: Sequence[bytes]
    ) -> None:
        """Store up to `ROWS` rows, with the position `number` among those of their kind."""
        record = RowsRecord(
            id=f"{run_id}:{kind}:{number}",
            import_id=run_id,
            workspace=workspace,
            kind=kind,
            number=number,
            rows=b"\n".join(rows),
        )
        with translate_errors():
            await self._collection.bulk_write(
                [ReplaceOne({"_id": record.id}, record.document(), upsert=True)], ordered=True
            )

    async def page(
        self, run_id: str, kind: Kind, *, documents: int, cursor: str | None = None
    ) -> tuple[list[bytes], str | None]:
        """Return rows of so many documents, and the cursor of the next ones. Raises `Malformed`."""
        query = {"import_id": run_id, "kind": kind, "number": {"$gte": decode_position(cursor)}}
        with translate_errors():
            found = (
                await self._collection.find(query, {"rows": 1, "number": 1})
                .sort("number", 1)
                .limit(documents + 1)
                .to_list(documents + 1)
            )
        rows = [row for document in found[:documents] for row in document["rows"].split(b"\n")]
        return rows, str(found[documents]["number"]) if len(found) > documents else None

    async def rows(
        self, run_id: str, kind: Kind, *, limit: int, cursor: str | None
    ) -> tuple[list[bytes], str | None]:
        """Return `limit` rows, and the cursor of the next ones. Raises `Malformed`."""
        found = re.fullmatch(r"(\d{1,9})-(\d{1,3})", cursor or "0-0", re.ASCII)
        if found is None:
            raise Malformed("cursor: send next_cursor of the previous page")
        number, offset = int(found[1]), int(found[2])
        rows: list[bytes] = []
        while True:
            stored, following = await self.page(run_id, kind, documents=1, cursor=str(number))
            taken = stored[offset : offset + limit - len(rows)]
            rows += taken
            offset += len(taken)
            if offset < len(stored):
                return rows, f"{number}-{offset}"
            if following is None or len(rows) == limit:
                return rows, None if following is None else f"{following}-0"
            number, offset = int(following), 0

    async def each(self, run_id: str, kind: Kind) -> AsyncIterator[bytes]:
        """Yield all rows of a kind."""
        cursor: str | None = "0"
        while cursor is not None:
            rows, cursor = await self.page(run_id, kind, documents=20, cursor=cursor)
            for row in rows:
                yield row

    async def delete_run(self, run_id: str) -> None:
        """Delete the rows of an import's report."""
        with translate_errors():
            await self._collection.delete_many({"import_id": run_id})

    async def delete_all(self, workspace: str) -> None:
        """Delete the rows of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})
