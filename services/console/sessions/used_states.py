"""Used states of OpenID Connect sign-ins. All processes share them, so each state is accepted once."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "console_used_states"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("expires_at", 1),), ttl_s=0),)}


class UsedStateRecord(Record):
    """A used state. `_id` is its digest."""

    expires_at: datetime


class UsedStates:
    """Reads and writes of the collection. Raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def use(self, state_digest: str, ttl_s: int) -> bool:
        """Record a state for `ttl_s` seconds. Return False if it was used before."""
        record = UsedStateRecord(id=state_digest, expires_at=utcnow() + timedelta(seconds=ttl_s))
        try:
            with translate_errors():
                await self._collection.insert_one(record.document())
        except Duplicate:
            return False
        return True
