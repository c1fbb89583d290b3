"""The collection `api_keys`: the API keys of all workspaces.

Every service reads it. The gateway writes it, and `interlink init` the first key of a workspace.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field

from shared.contracts.ids import ApiKeyId, WorkspaceId, new_api_key_id
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration, announce_changes
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Duplicate, Index, Mongo, UpdateOne, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.records import Record, StoredPart, stored_null
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.paging import Page, Paging, page

KeyScope = Literal[
    "events:write",
    "webhooks:read",
    "webhooks:operate",
    "webhooks:write",
    "integrations:read",
    "integrations:operate",
    "integrations:write",
    "accounts:call",
    "tokens:read",
    "imports:read",
    "imports:write",
    "sync:read",
    "sync:write",
    "portal:write",
    "connect:write",
    "admin",
]
"""Scopes that an API key can be created with. `x:operate`, a part of `x:write`, sends again and pauses."""
Scope = Literal[KeyScope, "payloads:read"]
"""All scopes. `payloads:read` uncovers payloads, bodies and headers in what other scopes read: every API key
has it, and only roles of members leave it out."""

EXPLICIT_SCOPES: Final = frozenset({"tokens:read"})
"""Scopes that no other scope includes, not even `admin`."""
CallMethod = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
"""Methods of calls with a connected account."""

KEY_PREFIX: Final = "ilk_"
COLLECTION: Final = "api_keys"
INDEXES: Final = {
    COLLECTION: (
        Index((("digest", 1),), unique=True),
        Index((("workspace", 1), ("created_at", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

T = TypeVar("T")
S = TypeVar("S")


def digest(key: str) -> str:
    """Return the SHA-256 hash that a key is stored under, in hex. 256 random bits need no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def shown_prefix(key: str) -> str:
    """Return the first characters of a key, by which people recognize it."""
    return key[: len(KEY_PREFIX) + 6]


def generate_key() -> str:
    """Return a new key: a prefix and 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


class AccountLimits(StoredPart):
    """Limits of the accounts that a key may use, and of its calls. A limit that is None allows everything."""

    integrations: tuple[str, ...] | None = None
    """Ids of integrations."""
    providers: tuple[str, ...] | None = None
    user: str | None = None
    """Only accounts of this user of the chat."""
    methods: tuple[str, ...] | None = None
    """HTTP methods of calls with an account."""


class ApiKeyRecord(Record):
    """A stored API key: its hash and first characters, never the key."""

    id: ApiKeyId = Field(alias="_id")
    digest: str
    prefix: str
    workspace: WorkspaceId
    name: str
    scopes: tuple[str, ...]
    accounts: AccountLimits | None = None
    expires_at: datetime | None = stored_null()
    created_at: datetime
    changed_at: datetime
    last_used_at: datetime | None = stored_null()
    deleted_at: datetime | None = None

    @classmethod
    def of_key(
        cls,
        key: str,
        workspace: str,
        name: str,
        scopes: Iterable[KeyScope],
        expires_at: datetime | None = None,
        *,
        accounts: AccountLimits | None = None,
        id: str | None = None,  # noqa: A002 -- the field's name
    ) -> Self:
        """Return the record of a key, created now; with a new id by default."""
        now = utcnow()
        return cls(
            id=ApiKeyId(id or new_api_key_id()),
            digest=digest(key),
            prefix=shown_prefix(key),
            workspace=WorkspaceId(workspace),
            name=name,
            scopes=tuple(sorted(set(scopes))),
            accounts=accounts,
            expires_at=expires_at,
            created_at=now,
            changed_at=now,
        )


class ApiKeys:
    """The repository of API keys. Writers of keys also record the change of configuration."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._collection = mongo.collection(COLLECTION)

    def snapshot(
        self,
        configuration: Configuration,
        log: Log,
        read: Callable[[ApiKeyRecord], S],
        on_change: Callable[[S | None, S | None], None],
    ) -> Snapshot[S]:
        """Return a snapshot of all keys, with what `read` returns for each."""
        return Snapshot(
            configuration,
            self._collection,
            lambda document: read(ApiKeyRecord.from_document(document)),
            log,
            on_change=on_change,
        )

    def reserve(
        self, workspace: str, maximum: int, undo: Callable[[], Any]
    ) -> AbstractAsyncContextManager[None]:
        """Return the context in which one key of the workspace is inserted; see `Quota.reserve`."""
        quota = Quota(self._collection, maximum, "API keys", "INTERLINK_API_KEYS_PER_WORKSPACE")
        return quota.reserve({"workspace": workspace, "deleted_at": None}, undo)

    async def insert(self, record: ApiKeyRecord) -> None:
        """Insert a key. Raises `Duplicate` if it exists, and `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.insert_one(record.document())

    async def page(self, workspace: str, show: Callable[[ApiKeyRecord], T], paging: Paging) -> Page[T]:
        """Return one page of the workspace's keys that are not revoked, newest first; see `paging.page`."""
        return await page(
            self._collection,
            {"workspace": workspace, "deleted_at": None},
            lambda document: show(ApiKeyRecord.from_document(document)),
            paging,
        )

    async def revoke(self, workspace: str, key_id: str) -> ApiKeyRecord | None:
        """Mark a key as deleted, and return it; None if the workspace has no such key."""
        now = utcnow()
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": key_id, "workspace": workspace, "deleted_at": None},
                {"$set": {"deleted_at": now, "changed_at": now}},
            )
        return ApiKeyRecord.from_document(document) if document else None

    async def undo_revoke(self, record: ApiKeyRecord) -> None:
        """Make a key valid again that was just revoked."""
        fields = {"deleted_at": None, "changed_at": utcnow()}
        with translate_errors():
            await self._collection.update_one({"_id": record.id}, {"$set": fields})

    async def revoke_all(self, workspace: str) -> None:
        """Revoke every key of a workspace, and record the change of configuration."""
        now, active = utcnow(), {"workspace": workspace, "deleted_at": None}
        with translate_errors():
            ids = [document["_id"] async for document in self._collection.find(active, {"_id": 1})]
            await self._collection.update_many(active, {"$set": {"deleted_at": now, "changed_at": now}})
        if ids:
            await announce_changes(self._mongo, COLLECTION, *ids)

    async def store_last_use(self, used: Mapping[str, datetime]) -> None:
        """Store when keys were last used, unless a later use is stored. Raises `DatabaseUnavailable`."""
        writes = [UpdateOne({"_id": key}, {"$max": {"last_used_at": at}}) for key, at in used.items()]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    # For `interlink init`

    async def workspaces(self) -> list[str]:
        """Return the workspaces that have a key."""
        with translate_errors():
            return await self._collection.distinct("workspace", {"deleted_at": None})

    async def has_any(self, workspace: str) -> bool:
        """Return whether the workspace has a key, valid or not."""
        return await self._exists({"workspace": workspace})

    async def has_admin(self, workspace: str) -> bool:
        """Return whether the workspace has a valid key with scope `admin`."""
        return await self._exists({"workspace": workspace, "scopes": "admin", **_active()})

    async def contains(self, workspace: str, key: str) -> bool:
        """Return whether the workspace has this key, valid or not."""
        return await self._exists({"workspace": workspace, "digest": digest(key)})

    async def is_admin(self, workspace: str, key: str) -> bool:
        """Return whether this is a valid key of the workspace with scope `admin`."""
        query = {"workspace": workspace, "digest": digest(key), "scopes": "admin", **_active()}
        return await self._exists(query)

    async def insert_recorded(self, record: ApiKeyRecord) -> None:
        """Insert a key, and record the change of configuration."""
        await self.insert(record)
        await announce_changes(self._mongo, COLLECTION, record.id)

    async def insert_or_replace_revoked(self, record: ApiKeyRecord) -> bool:
        """Insert a key, in place of a revoked one with the same id, and record the change.

        Return False if there is one with this id that is not revoked.
        """
        document = record.document()
        revoked = {"_id": record.id, "deleted_at": {"$ne": None}}
        try:
            with translate_errors():
                if not (await self._collection.replace_one(revoked, document)).modified_count:
                    await self._collection.insert_one(document)
        except Duplicate:
            return False
        await announce_changes(self._mongo, COLLECTION, record.id)
        return True

    async def _exists(self, query: Mapping[str, Any]) -> bool:
        with translate_errors():
            return await self._collection.find_one(query, {"_id": 1}) is not None


def _active() -> dict[str, Any]:
    return {"deleted_at": None, "$or": [{"expires_at": None}, {"expires_at": {"$gt": utcnow()}}]}
