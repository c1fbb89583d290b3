"""Endpoint health: which endpoints fail, are held back or have an open circuit."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Document, Index, Mongo, translate_errors
from shared.runtime.records import Record, StoredPart, stored_null

HEALTH: Final = "webhook_health"
"""One document per webhook that failed for long, was held back, or whose circuit opened."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {HEALTH: (Index((("partition", 1),)),)}


class StoredHoldState(StoredPart):
    """Circuit and hold of an endpoint, with wall times."""

    circuit: Literal["closed", "open"] = "closed"
    pauses: int = 0
    """Pauses since the circuit opened."""
    opened_at: datetime | None = stored_null()
    next_probe_at: datetime | None = stored_null()
    held_until: datetime | None = stored_null()
    limited_until: datetime | None = stored_null()
    resets: int | None = Field(default=0, alias="lifts")
    """The webhook's `resets` to which hold and circuit belong."""


class EndpointHealthRecord(Record, StoredHoldState):
    """The health of one endpoint; its id is the webhook's.

    An endpoint that always worked has no document. Its record has the defaults.
    """

    partition: int = -1
    since: datetime | None = None
    """The first failure since the last success, if it was long enough ago."""
    warned: bool = False
    """True if the warning before disabling the webhook was published."""
    resets: int | None = Field(default=None, alias="lifts")


class EndpointHealthRecords:
    """Reads and writes of the health records. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(HEALTH)

    async def unhealthy(self, partitions: Iterable[int]) -> list[EndpointHealthRecord]:
        """Return the records of endpoints that fail, are held or limited, or have an open circuit."""
        now = utcnow()
        conditions = [
            {"since": {"$ne": None}},
            {"circuit": "open"},
            {"held_until": {"$gt": now}},
            {"limited_until": {"$gt": now}},
        ]
        with translate_errors():
            documents = await self._collection.find(
                {"partition": {"$in": list(partitions)}, "$or": conditions}
            ).to_list(None)
        return [EndpointHealthRecord.from_document(document) for document in documents]

    async def failing_ids(self) -> frozenset[str]:
        """Return the ids of all webhooks with failed attempts since the last success, or an open circuit."""
        with translate_errors():
            documents = self._collection.find({}, {"since": 1, "circuit": 1})
            return frozenset(
                [
                    document["_id"]
                    async for document in documents
                    if document.get("since") or document.get("circuit") == "open"
                ]
            )

    async def write_failing(self, webhook_id: str, partition: int, since: datetime, *, warned: bool) -> None:
        """Write since when an endpoint only fails, and whether the warning about it was published."""
        await self._update(webhook_id, partition=partition, since=since, warned=warned)

    async def clear_failing(self, webhook_id: str) -> None:
        """Write that an endpoint works again."""
        await self._update(webhook_id, since=None, warned=False)

    async def write_hold_state(self, webhook_id: str, partition: int, hold_state: StoredHoldState) -> None:
        """Write an endpoint's circuit and hold."""
        await self._update(webhook_id, partition=partition, **dict(hold_state))

    async def by_webhook(self, webhook_ids: Sequence[str]) -> dict[str, EndpointHealthRecord]:
        """Return the record of each of these webhooks, by id."""
        with translate_errors():
            documents = await self._collection.find({"_id": {"$in": list(webhook_ids)}}).to_list(None)
        records = {webhook_id: EndpointHealthRecord(id=webhook_id) for webhook_id in webhook_ids}
        return records | {
            document["_id"]: EndpointHealthRecord.from_document(document) for document in documents
        }

    async def delete(self, webhook_id: str) -> None:
        """Delete the record of a deleted webhook."""
        with translate_errors():
            await self._collection.delete_one({"_id": webhook_id})

    async def _update(self, webhook_id: str, **fields: Any) -> None:
        stored: Document = EndpointHealthRecord.stored_fields(fields)
        with translate_errors():
            await self._collection.update_one({"_id": webhook_id}, {"$set": stored}, upsert=True)
