"""Stored sessions of embedded pages: portals of customers, and windows that connect accounts.

The address of a session has a code, which is exchanged once for a cookie. Both are stored as digests.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from services.console.sessions.records import digest_of
from shared.contracts.errors import OverLimit
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Index, Mongo, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.records import Record, StoredPart

COLLECTION: Final = "console_embedded_sessions"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("expires_at", 1))),
        Index((("workspace", 1), ("created_at", -1))),
        Index((("gone_at", 1),), ttl_s=0),
    )
}
CODE_TTL: Final = timedelta(minutes=10)
"""Time for which the code is valid."""
MAX_ATTEMPTS: Final = 20
"""Attempts to connect an account in one session."""
_RETENTION: Final = timedelta(hours=1)
"""Time for which pages respond that the session has expired. Expired sessions count in no quota."""
_WINDOW: Final = timedelta(minutes=1)
_MAX_PER_WINDOW: Final = 120


class PortalPart(StoredPart):
    """The customer of a portal, and the patterns of event types that the customer may subscribe to."""

    customer: str
    events: tuple[str, ...]


class ConnectPart(StoredPart):
    """The user of a connect session, and the providers that the user may choose from."""

    user: str
    providers: tuple[str, ...]
    scopes: Mapping[str, tuple[str, ...]]
    """The scopes that are requested, by provider; those of the manifest for the others."""
    attempts: int = 0
    started: tuple[str, ...] = ()
    """Ids of the integrations with an authorization that was started here."""


class EmbeddedSession(Record):
    """A session. Its id is not secret; its code and its cookie are."""

    workspace: str
    key_id: str
    """The API key that created the session, which ends with the key."""
    code_digest: str
    cookie_digest: str | None = None
    """None until the address was opened."""
    origins: tuple[str, ...]
    """The origins that may embed the portal, or the one that the window reports to."""
    theme: Mapping[str, str]
    language: str | None = None
    portal: PortalPart | None = None
    connect: ConnectPart | None = None
    created_at: datetime
    opens_until: datetime
    expires_at: datetime
    gone_at: datetime
    """Time at which MongoDB deletes it."""

    @property
    def is_open(self) -> bool:
        """Return whether the session has not expired."""
        return self.expires_at > utcnow()


class EmbeddedSessions:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, *, per_workspace: int) -> None:
        """`per_workspace` is the maximum number of open sessions of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._quota = Quota(
            self._collection, per_workspace, "open sessions", "INTERLINK_EMBEDDED_SESSIONS_PER_WORKSPACE"
        )

    async def create(
        self,
        *,
        workspace: str,
        key_id: str,
        origins: tuple[str, ...],
        theme: Mapping[str, str],
        language: str | None,
        lifetime: timedelta,
        part: PortalPart | ConnectPart,
    ) -> tuple[EmbeddedSession, str]:
        """Store a new session, and return it with the code of its address.

        Raises `OverLimit` after 120 new ones within a minute, in all processes together; `Conflict` if the
        workspace has the maximum of open ones.
        """
        code, now = secrets.token_urlsafe(32), utcnow()
        is_portal = isinstance(part, PortalPart)
        record = EmbeddedSession(
            id=f"{'ptl' if is_portal else 'con'}_{secrets.token_hex(16)}",
            workspace=workspace,
            key_id=key_id,
            code_digest=digest_of(code),
            origins=origins,
            theme=theme,
            language=language,
            portal=part if isinstance(part, PortalPart) else None,
            connect=part if isinstance(part, ConnectPart) else None,
            created_at=now,
            opens_until=now + min(lifetime, CODE_TTL),
            expires_at=now + lifetime,
            gone_at=now + lifetime + _RETENTION,
        )
        recent = {"workspace": workspace, "created_at": {"$gt": now - _WINDOW}}
        open_now = {"workspace": workspace, "expires_at": {"$gt": now}}
        async with self._quota.reserve(open_now, undo=lambda: self.end(workspace, record.id)):
            with translate_errors():
                await self._collection.insert_one(record.document())
                count = await self._collection.count_documents(recent, limit=_MAX_PER_WINDOW + 1)
            if count > _MAX_PER_WINDOW:
                await self.end(workspace, record.id)
                raise OverLimit("too many new sessions: try again in a minute")
        return record, code

    async def find(self, session_id: str) -> EmbeddedSession | None:
        """Return a session, also one that has expired; None if there is none."""
        with translate_errors():
            document = await self._collection.find_one({"_id": session_id})
        return None if document is None else EmbeddedSession.from_document(document)

    async def open(self, session: EmbeddedSession, code: str) -> str | None:
        """Exchange the code for a new cookie's value, once; None if it is wrong, was used or has expired."""
        cookie, now = secrets.token_urlsafe(32), utcnow()
        query: Document = {
            "_id": session.id,
            "code_digest": digest_of(code),
            "cookie_digest": None,
            "opens_until": {"$gt": now},
        }
        with translate_errors():
            opened = await self._collection.find_one_and_update(
                query, {"$set": {"cookie_digest": digest_of(cookie)}}
            )
        return None if opened is None else cookie

    async def count_attempt(self, session: EmbeddedSession) -> None:
        """Count an attempt to connect an account, before it is made. Raises `OverLimit` after 20 of them.

        Each attempt makes the hub call a provider or store a pending integration.
        """
        query: Document = {"_id": session.id, "connect.attempts": {"$not": {"$gte": MAX_ATTEMPTS}}}
        with translate_errors():
            counted = await self._collection.update_one(query, {"$inc": {"connect.attempts": 1}})
        if not counted.modified_count:
            raise OverLimit("too many attempts in this window: open it again from the chat")

    async def add_started(self, session: EmbeddedSession, integration: str) -> None:
        """Store that the session has started the authorization of an integration."""
        with translate_errors():
            await self._collection.update_one(
                {"_id": session.id}, {"$push": {"connect.started": integration}}
            )

    async def end(self, workspace: str, session_id: str) -> bool:
        """Delete a session. Return False if there is none."""
        with translate_errors():
            deleted = await self._collection.delete_one({"_id": session_id, "workspace": workspace})
        return bool(deleted.deleted_count)

    async def delete_all(self, workspace: str) -> None:
        """Delete the sessions of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})
