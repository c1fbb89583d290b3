"""The collection `idempotency_keys`: the responses of calls with the header `Idempotency-Key`, for a day.

Body and headers are sealed, because they may contain a secret that is shown only once.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import Field

from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record
from shared.runtime.secrets import Sealed

COLLECTION: Final = "idempotency_keys"
INDEXES: Final = {COLLECTION: (Index((("expires_at", 1),), ttl_s=0),)}
_RESPONSE_TTL: Final = timedelta(days=1)
_RESERVATION_TTL: Final = timedelta(minutes=1)


class IdempotencyRecord(Record):
    """A call with an idempotency key. The id names workspace, API key and idempotency key, as a hash.

    `fingerprint` is the hash of the call. `sealed_response` is None while the call is under way.
    """

    fingerprint: str
    sealed_response: Any = Field(default_factory=type(None), alias="answer")
    """A value of type `Sealed`: pydantic does not take that type on Python 3.11."""
    status: int | None = None
    expires_at: datetime
    plain_headers: tuple[tuple[bytes, bytes], ...] | None = Field(default=None, alias="headers")
    """The response's headers as version 0.3.0 stored them, beside a sealed body."""


class IdempotencyKeys:
    """The repository of idempotency keys."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def reserve(self, record_id: str, fingerprint: str) -> IdempotencyRecord | None:
        """Reserve the record for this call. Return the record of an earlier call if there is one.

        A reservation without a response expires after a minute. Raises `DatabaseUnavailable`.
        """
        record = IdempotencyRecord(
            id=record_id, fingerprint=fingerprint, expires_at=utcnow() + _RESERVATION_TTL
        )
        with translate_errors():
            # MongoDB removes expired documents up to a minute late.
            await self._collection.delete_one({"_id": record_id, "expires_at": {"$lt": utcnow()}})
            try:
                with translate_errors():
                    await self._collection.insert_one(record.document())
            except Duplicate:
                earlier = await self._collection.find_one({"_id": record_id})
                return IdempotencyRecord.from_document(earlier) if earlier else record
        return None

    async def store_response(self, record_id: str, status: int, sealed: Sealed) -> None:
        """Store the response of a call for a day. Raises `DatabaseUnavailable`."""
        change: dict[str, Any] = {
            "answer": sealed,
            "status": status,
            "expires_at": utcnow() + _RESPONSE_TTL,
        }
        with translate_errors():
            await self._collection.update_one({"_id": record_id}, {"$set": change})

    async def release(self, record_id: str) -> None:
        """Remove a reservation, so that the call can be tried again. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.delete_one({"_id": record_id})
