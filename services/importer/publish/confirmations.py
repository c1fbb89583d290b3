"""Which batches the chat has confirmed: written by whichever process consumes `history.stored`.

A batch is announced before it is published. So a confirmation that names no announced batch of its own
workspace changes nothing, whoever sends it. And an undo knows the messages of batches that were published
when the import was stopped, before their part was stored as done.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import Field, ValidationError

from services.importer.publish.history_batches import Batch
from shared.contracts.errors import Malformed
from shared.contracts.history import HISTORY_STORED, HISTORY_WITHDRAWN, HistoryStored
from shared.runtime.clock import utcnow
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.mongo import Index, Mongo, UpdateOne, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "import_batches"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("import_id", 1), ("confirmed", 1))), Index((("expires_at", 1),), ttl_s=0))
}
_TTL: Final = timedelta(days=30)
_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""


class BatchRecord(Record):
    """A batch that was, or is about to be published, and what the chat stored of it."""

    import_id: str
    workspace: str
    channel_id: str = ""
    source: str = ""
    conversation: str = ""
    part: str = ""
    """The id of the `UnitRecord` that will have them."""
    ids: bytes = b""
    """The messages that are new with it, or that it withdraws, in 16 bytes each."""
    is_withdrawal: bool = False
    announced_at: datetime
    confirmed: bool = False
    is_released: bool = Field(default=False, alias="released")
    """True if its messages are in the ledger without its confirmation."""
    duplicates: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    """Message ids with reasons."""
    expires_at: datetime


class Confirmations:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def announce(self, workspace: str, import_id: str, batches: Sequence[Batch]) -> None:
        """Store that these batches are about to be published; one that is stored already stays as it is."""
        now = utcnow()
        writes = [
            UpdateOne(
                {"_id": batch.id},
                {
                    "$setOnInsert": BatchRecord(
                        id=batch.id,
                        import_id=import_id,
                        workspace=workspace,
                        channel_id=batch.key if batch.items else "",
                        source=batch.source,
                        conversation=batch.conversation,
                        part=batch.part,
                        ids=batch.ids,
                        is_withdrawal=batch.event_type == HISTORY_WITHDRAWN,
                        announced_at=now,
                        expires_at=now + _TTL,
                    ).document()
                },
                upsert=True,
            )
            for batch in batches
        ]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    async def confirmed(self, import_id: str) -> list[BatchRecord]:
        """Return the confirmed batches of an import that were not removed or released yet, without `ids`."""
        query = {"import_id": import_id, "confirmed": True, "released": {"$ne": True}}
        with translate_errors():
            documents = await self._collection.find(query, {"ids": 0}).to_list(None)
        return [BatchRecord.from_document(document) for document in documents]

    async def unsettled(self, import_id: str) -> list[BatchRecord]:
        """Return the batches of an import that add something, and were not removed or released yet.

        These are not many more than may be unconfirmed at a time.
        """
        query = {"import_id": import_id, "released": {"$ne": True}}
        with translate_errors():
            documents = await self._collection.find(query).to_list(None)
        return [BatchRecord.from_document(document) for document in documents if _adds(document)]

    async def remove(self, batch_ids: Collection[str]) -> None:
        """Remove batches whose outcome is stored elsewhere."""
        ids = list(batch_ids)
        with translate_errors():
            for at in range(0, len(ids), _IDS_PER_QUERY):
                await self._collection.delete_many({"_id": {"$in": ids[at : at + _IDS_PER_QUERY]}})

    async def release(self, batch_ids: Collection[str]) -> None:
        """Forget the messages of batches which the ledger has, but not the batches: see `late`.

        The ledger no longer has withdrawn messages, so their batches still do.
        """
        ids = list(batch_ids)
        released, without_ids = {"$set": {"released": True}}, {"$set": {"released": True, "ids": b""}}
        with translate_errors():
            for at in range(0, len(ids), _IDS_PER_QUERY):
                query = {"_id": {"$in": ids[at : at + _IDS_PER_QUERY]}}
                withdrawals = {**query, "is_withdrawal": True}
                await self._collection.update_many(withdrawals, released)
                await self._collection.update_many({**query, "is_withdrawal": {"$ne": True}}, without_ids)

    async def late(self, batch_ids: Sequence[str]) -> list[BatchRecord]:
        """Return those of these batches that were confirmed and released, in whatever order."""
        found: list[BatchRecord] = []
        with translate_errors():
            for at in range(0, len(batch_ids), _IDS_PER_QUERY):
                part = list(batch_ids[at : at + _IDS_PER_QUERY])
                query = {"_id": {"$in": part}, "released": True, "confirmed": True}
                documents = await self._collection.find(query).to_list(None)
                found += [BatchRecord.from_document(document) for document in documents]
        return found

    async def handle(self, batch: Sequence[ConsumedEvent]) -> list[str]:
        """Store the confirmations among the chat's events, and return the ids of their batches.

        The first confirmation of a batch counts. Raises `Malformed` for one that is not as documented.
        """
        writes: list[UpdateOne] = []
        ids: list[str] = []
        for consumed in batch:
            if consumed.event.type != HISTORY_STORED:
                continue
            stored = _parse(consumed)
            change: Mapping[str, Any] = {
                "confirmed": True,
                "duplicates": stored.duplicates,
                "rejected": [(item.message_id, item.reason) for item in stored.rejected],
            }
            query = {
                "_id": stored.batch_id,
                "import_id": stored.import_id,
                "workspace": consumed.event.workspace,
                "confirmed": False,
            }
            writes.append(UpdateOne(query, {"$set": BatchRecord.stored_fields(change)}))
            ids.append(stored.batch_id)
        if writes:
            with translate_errors():
                await self._collection.bulk_write(writes, ordered=True)
        return ids

    async def delete_all(self, workspace: str) -> None:
        """Delete the batches of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def _adds(document: Mapping[str, Any]) -> bool:
    """Return whether a batch adds something: new messages, or people and channels, which have no channel."""
    if document.get("is_withdrawal"):
        return False
    return bool(document.get("ids")) or not document.get("channel_id")


def _parse(consumed: ConsumedEvent) -> HistoryStored:
    try:
        return HistoryStored.model_validate_json(consumed.event.data)
    except ValidationError as error:
        raise Malformed(f"not a confirmation of a batch: {error.error_count()} wrong fields") from None
