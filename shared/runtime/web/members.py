"""The collection `members`: people who use a workspace, each with a role, which is a set of scopes.

A member has a key of their own, or is known to the identity provider of the installation. Every service reads
the collection, because a member's key is accepted as an API key is. The gateway writes it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from pydantic import Field

from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import MemberId, WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Index, Mongo, UpdateOne, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.records import Record, stored_null
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.api_keys import Scope, digest, shown_prefix
from shared.runtime.web.paging import Page, Paging, page

Role = Literal["viewer", "operator", "admin"]

_VIEWER: Final[frozenset[Scope]] = frozenset(
    ("webhooks:read", "integrations:read", "sync:read", "imports:read")
)
_OPERATOR: Final[frozenset[Scope]] = _VIEWER | {
    "payloads:read",
    "webhooks:operate",
    "integrations:operate",
    "sync:write",
    "imports:write",
}
ROLE_SCOPES: Final[Mapping[Role, frozenset[Scope]]] = {
    "viewer": _VIEWER,
    "operator": _OPERATOR,
    "admin": frozenset({"admin"}),
}
"""A viewer reads everything but payloads. An operator also sees these, sends again, pauses, and manages
mappings and imports. An admin does everything."""

COLLECTION: Final = "members"
INDEXES: Final = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

T = TypeVar("T")
S = TypeVar("S")


class MemberRecord(Record):
    """A member of a workspace, with either the digest of a key or an identity.

    An identity is `issuer` and `subject`. The identity provider decides its role at each sign-in. When such a
    member is removed, the record stays with `removed_at`, so that the next sign-in does not create it again;
    any other record is deleted.
    """

    id: MemberId = Field(alias="_id")
    workspace: WorkspaceId
    name: str
    role: Role
    email: str = ""
    """As the identity provider reports it. Shown to people, and never used to identify the member."""
    digest: str | None = stored_null()
    prefix: str = ""
    issuer: str = ""
    subject: str = ""
    created_at: datetime
    changed_at: datetime
    last_used_at: datetime | None = stored_null()
    removed_at: datetime | None = stored_null()
    restored_at: datetime | None = stored_null()
    """The last restore. Sessions from before ended with the removal, and stay ended."""
    key_from: datetime | None = None
    """Time at which the key was replaced; None if it is the first one."""
    deleted_at: datetime | None = None

    @property
    def has_identity(self) -> bool:
        """Return whether the member signs in at the identity provider, and has no key."""
        return bool(self.issuer)


class Members:
    """The repository of members. Every method raises `DatabaseUnavailable`.

    Writers announce the change (`Snapshot.announce`), so that it counts in every process.
    """

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    def snapshot(
        self,
        configuration: Configuration,
        log: Log,
        read: Callable[[MemberRecord], S],
        on_change: Callable[[S | None, S | None], None],
    ) -> Snapshot[S]:
        """Return a snapshot of all members, each mapped by `read`."""
        return Snapshot(
            configuration,
            self._collection,
            lambda document: read(MemberRecord.from_document(document)),
            log,
            on_change=on_change,
        )

    def reserve(
        self, workspace: str, maximum: int, undo: Callable[[], Any]
    ) -> AbstractAsyncContextManager[None]:
        """Return the context in which one member is inserted; see `Quota.reserve`.

        Removed members count: an identity provider must not fill the database with them.
        """
        quota = Quota(self._collection, maximum, "members", "INTERLINK_MEMBERS_PER_WORKSPACE")
        return quota.reserve({"workspace": workspace, "deleted_at": None}, undo)

    async def insert(self, record: MemberRecord) -> None:
        """Insert a member. Raises `Duplicate` if there is one with this id."""
        with translate_errors():
            await self._collection.insert_one(record.document())

    async def find(self, workspace: str, member_id: str) -> MemberRecord:
        """Return a member, also a removed one. Raises `NotFound`."""
        return _found(await self._find_one(workspace, member_id))

    async def find_or_none(self, workspace: str, member_id: str) -> MemberRecord | None:
        """Return a member, also a removed one; None if there is none with this id."""
        document = await self._find_one(workspace, member_id)
        return MemberRecord.from_document(document) if document else None

    async def page(self, workspace: str, show: Callable[[MemberRecord], T], paging: Paging) -> Page[T]:
        """Return one page of a workspace's members, newest first; see `paging.page`."""
        return await page(
            self._collection,
            {"workspace": workspace, "deleted_at": None},
            lambda document: show(MemberRecord.from_document(document)),
            paging,
        )

    async def change(self, workspace: str, member_id: str, **fields: Any) -> MemberRecord:
        """Set fields of a member, and return it as it is then. Raises `NotFound`."""
        changed = MemberRecord.stored_fields({**fields, "changed_at": utcnow()})
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": member_id, "workspace": workspace, "deleted_at": None},
                {"$set": changed},
                return_document=True,
            )
        return _found(document)

    async def replace_key(self, member: MemberRecord, key: str) -> MemberRecord:
        """Store a new key in place of the one that `member` was read with, and return the member.

        Raises `Conflict` if the key was replaced, or the member removed, since then.
        """
        now = utcnow()
        changed = {"digest": digest(key), "prefix": shown_prefix(key), "changed_at": now, "key_from": now}
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": member.id, "digest": member.digest, "deleted_at": None},
                {"$set": changed},
                return_document=True,
            )
        if document is None:
            raise Conflict("this key was replaced, or the member removed, at this moment: look again")
        return MemberRecord.from_document(document)

    async def undo_insert(self, member_id: str) -> None:
        """Delete a member without a trace: a tombstone would keep the same identity from signing in."""
        with translate_errors():
            await self._collection.delete_one({"_id": member_id})

    async def undo_removal(self, workspace: str, member_id: str) -> None:
        """Make a removed or deleted member active again."""
        with translate_errors():
            await self._collection.update_one(
                {"_id": member_id, "workspace": workspace},
                {"$set": {"removed_at": None, "changed_at": utcnow()}, "$unset": {"deleted_at": ""}},
            )

    async def has_any(self, workspace: str) -> bool:
        """Return whether the workspace has a member, also a removed one."""
        with translate_errors():
            return await self._collection.find_one({"workspace": workspace}, {"_id": 1}) is not None

    async def has_admin(self, workspace: str, issuer: str) -> bool:
        """Return whether the workspace has a member with the role admin who can sign in.

        Members of the identity provider can if it is `issuer`: those of a former one cannot.
        """
        query = {
            "workspace": workspace,
            "role": "admin",
            "issuer": {"$in": ["", issuer]},
            "deleted_at": None,
            "removed_at": None,
        }
        with translate_errors():
            return await self._collection.find_one(query, {"_id": 1}) is not None

    async def store_last_use(self, used: Mapping[str, datetime]) -> None:
        """Store when members made their last calls, unless a later use is stored."""
        writes = [UpdateOne({"_id": key}, {"$max": {"last_used_at": at}}) for key, at in used.items()]
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=False)

    async def _find_one(self, workspace: str, member_id: str) -> Document | None:
        query = {"_id": member_id, "workspace": workspace, "deleted_at": None}
        with translate_errors():
            return await self._collection.find_one(query)


def _found(document: Document | None) -> MemberRecord:
    if document is None:
        raise NotFound("no such member")
    return MemberRecord.from_document(document)
