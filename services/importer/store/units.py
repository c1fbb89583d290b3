"""What an import has done, unit by unit: counts by day for the report, and the ledger of message ids.

The ledger says which messages the import added: 16 bytes each. An undo takes these away, and a later import
of the same conversation leaves them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from shared.runtime.mongo import Index, Mongo, ReplaceOne, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "import_units"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("source", 1), ("first", 1))),
        Index((("import_id", 1), ("position", 1))),
    )
}
ID_BYTES: Final = 16
_PREFIX: Final = "msg_"

Count = Mapping[str, int]


class UnitRecord(Record):
    """A unit that is done. `source` is the conversation that it was read from, with provider and account.

    `days` has by day: found, imported, duplicate, skipped, failed; and `digest`, see `add_digest`. `first`
    and `last` are the Unix times of the messages in `ids`, 0 without any.
    """

    import_id: str
    workspace: str
    position: int
    source: str
    conversation: str
    channel_id: str
    first: float = 0.0
    last: float = 0.0
    ids: bytes = b""
    days: dict[str, dict[str, Any]]


class Units:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def store(self, records: Sequence[UnitRecord]) -> None:
        """Store units that are done. Storing one again replaces it."""
        writes = [ReplaceOne({"_id": record.id}, record.document(), upsert=True) for record in records]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    async def has_source(self, workspace: str, source: str, *, other_than: str) -> bool:
        """Return whether another import than this one has added messages of a conversation."""
        query = {"workspace": workspace, "source": source, "import_id": {"$ne": other_than}}
        with translate_errors():
            return await self._collection.find_one(query, {"_id": 1}) is not None

    async def ids_between(
        self, workspace: str, source: str, first: float, last: float, *, other_than: str
    ) -> set[bytes]:
        """Return the ids, in 16 bytes, that other imports added of a conversation around these times."""
        query = {
            "workspace": workspace,
            "source": source,
            "first": {"$lte": last},
            "last": {"$gte": first},
            "import_id": {"$ne": other_than},
        }
        found: set[bytes] = set()
        with translate_errors():
            async for document in self._collection.find(query, {"ids": 1}):
                found.update(_split(document["ids"]))
        return found

    async def read(self, import_id: str, *, start: int, limit: int) -> list[UnitRecord]:
        """Return the units of an import from a position on, in their order."""
        query = {"import_id": import_id, "position": {"$gte": start}}
        with translate_errors():
            documents = await self._collection.find(query).sort("position", 1).limit(limit).to_list(limit)
        return [UnitRecord.from_document(document) for document in documents]

    async def count_ids(self, import_id: str) -> int:
        """Return how many messages the ledger of an import has."""
        query = {"import_id": import_id, "ids": {"$ne": b""}}
        with translate_errors():
            sizes = [len(document["ids"]) async for document in self._collection.find(query, {"ids": 1})]
        return sum(sizes) // ID_BYTES

    async def keep_ids(self, record: UnitRecord, ids: bytes) -> None:
        """Leave only these ids of a unit in the ledger: the others were withdrawn."""
        changes: dict[str, Any] = {"ids": ids} if ids else {"ids": b"", "source": ""}
        with translate_errors():
            await self._collection.update_one({"_id": record.id}, {"$set": changes})

    async def delete_all(self, workspace: str) -> None:
        """Delete all units of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def packed(message_id: str) -> bytes:
    """Return a derived message id in 16 bytes."""
    return bytes.fromhex(message_id.removeprefix(_PREFIX))


def unpacked(ids: bytes) -> list[str]:
    """Return the message ids of a ledger."""
    return [_PREFIX + part.hex() for part in _split(ids)]


def add_digest(digest: str, ids: Iterable[bytes]) -> str:
    """Return a digest of message ids with more ids added, in whatever order: their sum modulo 2**128."""
    total = int(digest or "0", 16) + sum(int.from_bytes(part) for part in ids)
    return f"{total % (1 << 128):032x}"


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
