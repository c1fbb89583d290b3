"""Repository of send marks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from services.sync.model.send_mark import MARKS, SendMark, SendMarks
from shared.runtime.mongo import Index, Mongo, translate_errors

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {MARKS: ()}
"""There are few documents, and most are deleted within a second."""


class SendMarkRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(MARKS)

    async def add(self, marks: SendMarks) -> None:
        """Store marks."""
        with translate_errors():
            await self._collection.insert_one(marks.document())

    async def all(self) -> list[SendMarks]:
        """Return the marks of all processes."""
        with translate_errors():
            documents = await self._collection.find({}).to_list(None)
        return [SendMarks.from_document(document) for document in documents]

    async def remove(self, ids: Collection[str]) -> None:
        """Delete documents."""
        with translate_errors():
            await self._collection.delete_many({"_id": {"$in": list(ids)}})

    async def remove_mark(self, document_id: str, mark: SendMark) -> None:
        """Remove one mark from its document."""
        selected = {"synced_id": mark.synced_id, "leg": mark.leg}
        with translate_errors():
            await self._collection.update_one({"_id": document_id}, {"$pull": {"marks": selected}})

    async def remove_partitions(self, ids: Sequence[str], partitions: Collection[int]) -> None:
        """Remove the marks of partitions from these documents, and delete those that have none left."""
        with translate_errors():
            await self._collection.update_many(
                {"_id": {"$in": list(ids)}}, {"$pull": {"marks": {"partition": {"$in": list(partitions)}}}}
            )
            await self._collection.delete_many({"_id": {"$in": list(ids)}, "marks": []})
