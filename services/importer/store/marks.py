"""Store the time up to which conversations of connected accounts are imported, for repeated imports."""

from collections.abc import Collection, Mapping
from typing import Final

from shared.contracts.ids import derive
from shared.runtime.mongo import Index, Mongo, UpdateOne, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "import_marks"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("workspace", 1), ("plan", 1))),)}
_BATCH: Final = 500


class MarkRecord(Record):
    """All messages of a conversation before `read_at`, a Unix time, are imported as `plan` says.

    `source` is the conversation with provider and account, and `plan` a digest: another plan selects other
    messages, so it reads everything.
    """

    workspace: str
    source: str
    plan: str
    read_at: float


class Marks:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def store(self, workspace: str, plan: str, read_at: Mapping[str, float]) -> None:
        """Store the Unix times up to which conversations are imported, by their sources."""
        writes = [
            UpdateOne(
                {"_id": _id(workspace, source)},
                {
                    "$set": MarkRecord(
                        id=_id(workspace, source), workspace=workspace, source=source, plan=plan, read_at=at
                    ).document()
                },
                upsert=True,
            )
            for source, at in read_at.items()
        ]
        if writes:
            with translate_errors():
                await self._collection.bulk_write(writes, ordered=False)

    async def read(self, workspace: str, plan: str) -> dict[str, float]:
        """Return the Unix times up to which conversations are imported by a plan, by their sources."""
        query = {"workspace": workspace, "plan": plan}
        with translate_errors():
            documents = await self._collection.find(query, {"source": 1, "read_at": 1}).to_list(None)
        return {document["source"]: document["read_at"] for document in documents}

    async def remove(self, workspace: str, sources: Collection[str]) -> None:
        """Delete the marks of conversations of which messages are withdrawn."""
        ids = [_id(workspace, source) for source in sources]
        with translate_errors():
            for at in range(0, len(ids), _BATCH):
                await self._collection.delete_many({"_id": {"$in": ids[at : at + _BATCH]}})

    async def delete_all(self, workspace: str) -> None:
        """Delete the marks of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def _id(workspace: str, source: str) -> str:
    return derive(workspace, source)
