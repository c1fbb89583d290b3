"""Sessions of the console as they are stored: under the digest of their id, never the id."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from shared.runtime.clock import utcnow
from shared.runtime.mongo import Index, Mongo, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "console_sessions"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_SEEN_EVERY: Final = timedelta(minutes=1)
_MAX_AGENT: Final = 300


class SessionRecord(Record):
    """A session of a person. `_id` is the digest of the session's id.

    A session from a key has its `key_digest`, one from the identity provider its `issuer`. `key_id` and
    `key_name` are those of the key or the member.
    """

    workspace: str
    key_digest: str
    issuer: str = ""
    key_id: str
    key_name: str
    address: str
    agent: str
    created_at: datetime
    seen_at: datetime
    ends_at: datetime
    expires_at: datetime
    """The earlier one of `ends_at` and the end of the idle time."""


class Sessions:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, *, idle: timedelta, max_age: timedelta) -> None:
        self._collection = mongo.collection(COLLECTION)
        self.idle = idle
        self.max_age = max_age

    async def create(
        self,
        *,
        workspace: str,
        key_digest: str,
        key_id: str,
        key_name: str,
        address: str,
        agent: str,
        issuer: str = "",
    ) -> str:
        """Store a new session, and return its id: 256 random bits, which only the browser has."""
        session_id = secrets.token_urlsafe(32)
        now = utcnow()
        record = SessionRecord(
            id=digest_of(session_id),
            workspace=workspace,
            key_digest=key_digest,
            issuer=issuer,
            key_id=key_id,
            key_name=key_name,
            address=address,
            agent=agent[:_MAX_AGENT],
            created_at=now,
            seen_at=now,
            ends_at=now + self.max_age,
            expires_at=now + min(self.idle, self.max_age),
        )
        with translate_errors():
            await self._collection.insert_one(record.document())
        return session_id

    async def find(self, session_id: str) -> SessionRecord | None:
        """Return a session that has not ended, and note its use at most once a minute."""
        with translate_errors():
            document = await self._collection.find_one({"_id": digest_of(session_id)})
        if document is None:
            return None
        record, now = SessionRecord.from_document(document), utcnow()
        if record.expires_at <= now:
            return None
        if now - record.seen_at > _SEEN_EVERY:
            fields = {"seen_at": now, "expires_at": min(now + self.idle, record.ends_at)}
            with translate_errors():
                await self._collection.update_one({"_id": record.id}, {"$set": fields})
        return record

    async def find_all(self, record_ids: Sequence[str]) -> list[SessionRecord]:
        """Return the given sessions that have not ended, without recording a use."""
        with translate_errors():
            found = self._collection.find({"_id": {"$in": list(record_ids)}})
            documents = await found.to_list(len(record_ids))
        now = utcnow()
        records = [SessionRecord.from_document(document) for document in documents]
        return [record for record in records if record.expires_at > now]

    async def list_all(self, workspace: str, limit: int, *, key_id: str | None = None) -> list[SessionRecord]:
        """Return the newest sessions of a workspace that have not ended; with `key_id` only of this key."""
        query = {"workspace": workspace} | ({"key_id": key_id} if key_id else {})
        with translate_errors():
            documents = await self._collection.find(query).sort("created_at", -1).limit(limit).to_list(limit)
        now = utcnow()
        found = [SessionRecord.from_document(document) for document in documents]
        return [record for record in found if record.expires_at > now]

    async def end(self, workspace: str, record_id: str, *, key_id: str | None = None) -> bool:
        """End a session; with `key_id` only one of this key. Return False if there is no such session."""
        query = {"_id": record_id, "workspace": workspace} | ({"key_id": key_id} if key_id else {})
        with translate_errors():
            deleted = await self._collection.delete_one(query)
        return bool(deleted.deleted_count)

    async def delete_all(self, workspace: str) -> None:
        """Delete the sessions of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def digest_of(session_id: str) -> str:
    """Return the SHA-256 digest that a session is stored under, in hex. 256 random bits need no slow hash."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def form_token(session_id: str) -> str:
    """Return the token that each form of a session has: only a page of the session can know it."""
    return hashlib.sha256(b"form\0" + session_id.encode()).hexdigest()
