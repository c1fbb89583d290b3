"""Endpoint health: which endpoints fail, are held back or have an open circuit."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from shared.runtime.mongo import Collection, Document, Index, Mongo, translate_errors, utcnow

HEALTH: Final = "webhook_health"
"""One document per webhook that fails for long, is held back, or whose circuit opened."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {HEALTH: (Index((("partition", 1),)),)}


class EndpointHealthRecords:
    """Reads and writes of the health documents."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(HEALTH)

    async def unhealthy(self, partitions: Iterable[int]) -> list[Document]:
        """What is known of endpoints of these partitions that fail, are held or have an open circuit."""
        some = [{"since": {"$ne": None}}, {"circuit": "open"}, {"held_until": {"$gt": utcnow()}}]
        with translate_errors():
            return await self._collection.find({"partition": {"$in": list(partitions)}, "$or": some}).to_list(
                None
            )

    async def write_failing(self, webhook_id: str, partition: int, since: datetime, *, warned: bool) -> None:
        """An endpoint does nothing but fail."""
        await self._update(webhook_id, {"partition": partition, "since": since, "warned": warned})

    async def clear_failing(self, webhook_id: str) -> None:
        """An endpoint that failed for long works again."""
        await self._update(webhook_id, {"since": None, "warned": False})

    async def write_hold_state(self, webhook_id: str, partition: int, standing: Document) -> None:
        """Write what of an endpoint makes its deliveries wait: its circuit, and until when it is held."""
        await self._update(webhook_id, {"partition": partition, **standing})

    async def by_webhook(self, webhook_ids: Sequence[str]) -> dict[str, Document]:
        """What is known of these webhooks' endpoints; nothing of one that always worked."""
        with translate_errors():
            found = await self._collection.find({"_id": {"$in": list(webhook_ids)}}).to_list(None)
        return {document["_id"]: document for document in found}

    async def _update(self, webhook_id: str, what: Document) -> None:
        with translate_errors():
            await self._collection.update_one({"_id": webhook_id}, {"$set": what}, upsert=True)

    async def delete(self, webhook_id: str) -> None:
        """Delete the health document of a webhook that is gone. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.delete_one({"_id": webhook_id})
