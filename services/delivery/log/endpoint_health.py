"""Endpoint health: which endpoints fail, are held back or have an open circuit."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from shared.runtime.mongo import Collection, Document, Index, Mongo, translate_errors, utcnow

HEALTH: Final = "webhook_health"
"""One document per webhook that failed for long, was held back, or whose circuit opened."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {HEALTH: (Index((("partition", 1),)),)}


class EndpointHealthRecords:
    """Reads and writes of the health documents. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(HEALTH)

    async def unhealthy(self, partitions: Iterable[int]) -> list[Document]:
        """Return the documents of endpoints that fail, are held or have an open circuit."""
        conditions = [{"since": {"$ne": None}}, {"circuit": "open"}, {"held_until": {"$gt": utcnow()}}]
        with translate_errors():
            return await self._collection.find(
                {"partition": {"$in": list(partitions)}, "$or": conditions}
            ).to_list(None)

    async def write_failing(self, webhook_id: str, partition: int, since: datetime, *, warned: bool) -> None:
        """Write since when an endpoint only fails, and whether the warning about it was published."""
        await self._update(webhook_id, {"partition": partition, "since": since, "warned": warned})

    async def clear_failing(self, webhook_id: str) -> None:
        """Write that an endpoint works again."""
        await self._update(webhook_id, {"since": None, "warned": False})

    async def write_hold_state(self, webhook_id: str, partition: int, hold_state: Document) -> None:
        """Write an endpoint's circuit and hold."""
        await self._update(webhook_id, {"partition": partition, **hold_state})

    async def by_webhook(self, webhook_ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents of these webhooks by id. An endpoint that always worked has none."""
        with translate_errors():
            documents = await self._collection.find({"_id": {"$in": list(webhook_ids)}}).to_list(None)
        return {document["_id"]: document for document in documents}

    async def _update(self, webhook_id: str, fields: Document) -> None:
        with translate_errors():
            await self._collection.update_one({"_id": webhook_id}, {"$set": fields}, upsert=True)

    async def delete(self, webhook_id: str) -> None:
        """Delete the document of a deleted webhook."""
        with translate_errors():
            await self._collection.delete_one({"_id": webhook_id})
