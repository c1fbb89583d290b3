"""Failed sign-ins by address in the last minute. All processes share the limit."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Final

from shared.contracts.errors import OverLimit
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Index, Mongo, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "console_sign_in_failures"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("address", 1), ("at", 1))), Index((("expires_at", 1),), ttl_s=0))
}
_WINDOW: Final = timedelta(minutes=1)
_MAX_FAILURES: Final = 10
_TOO_MANY: Final = "too many failed sign-ins from this address: try again in a minute"


class FailureRecord(Record):
    """A failed or running sign-in from an address."""

    address: str
    at: datetime
    expires_at: datetime


class Failures:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def count(self, address: str) -> int:
        """Count the failed and running sign-ins of an address in the last minute."""
        since = utcnow() - _WINDOW
        with translate_errors():
            return await self._collection.count_documents({"address": address, "at": {"$gt": since}})

    async def begin(self, address: str) -> str:
        """Store an attempt, and return its id. Remove it after a successful sign-in.

        Raises `OverLimit` after ten failed attempts of an address in a minute.
        """
        if await self.count(address) >= _MAX_FAILURES:
            raise OverLimit(_TOO_MANY)
        attempt = await self.add(address)
        if await self.count(address) > _MAX_FAILURES:
            raise OverLimit(_TOO_MANY)
        return attempt

    async def add(self, address: str) -> str:
        """Store an attempt, and return its id.

        It is stored before its key is checked, so that concurrent attempts cannot exceed the limit.
        """
        now = utcnow()
        record = FailureRecord(id=f"fail_{token_hex(16)}", address=address, at=now, expires_at=now + _WINDOW)
        with translate_errors():
            await self._collection.insert_one(record.document())
        return record.id

    async def remove(self, failure_id: str) -> None:
        """Delete the attempt of a successful sign-in."""
        with translate_errors():
            await self._collection.delete_one({"_id": failure_id})
