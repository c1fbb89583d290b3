"""Repository of lane records."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from services.sync.model.lane_record import LANES, LaneRecord
from shared.runtime.mongo import Duplicate, Index, Mongo, UpdateOne, translate_errors

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    LANES: (
        Index((("partition", 1),)),
        Index((("workspace", 1),)),
    )
}


class LaneRecords:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(LANES)

    async def delete_all(self, workspace: str) -> None:
        """Delete the records of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def of_partitions(self, partitions: Collection[int]) -> list[LaneRecord]:
        """Return the lanes of these partitions that may have waiting changes."""
        with translate_errors():
            documents = await self._collection.find({"partition": {"$in": list(partitions)}}).to_list(None)
        return [LaneRecord.from_document(document) for document in documents]

    async def put(self, records: Sequence[LaneRecord]) -> None:
        """Upsert records with their stamps. A stored head that is lower is not raised."""
        try:
            await self._put(records)
        except Duplicate:  # another process inserted the record at the same time: update it
            await self._put(records)

    async def _put(self, records: Sequence[LaneRecord]) -> None:
        writes = []
        for record in records:
            fields = record.document()
            selected, head = {"_id": fields.pop("_id")}, fields.pop("head")
            writes.append(UpdateOne(selected, {"$set": fields, "$min": {"head": head}}, upsert=True))
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    async def advance(self, record_id: str, stamp: str, head: int) -> None:
        """Raise the head of a record, unless its stamp has changed: changes were stored since."""
        with translate_errors():
            await self._collection.update_one({"_id": record_id, "stamp": stamp}, {"$set": {"head": head}})

    async def remove(self, record_id: str, stamp: str) -> None:
        """Delete the record of a lane, unless its stamp has changed: changes were stored since."""
        with translate_errors():
            await self._collection.delete_one({"_id": record_id, "stamp": stamp})
