"""The collection `audit_entries`: who changed what, one document per call that changes something.

Every service writes it, through the middleware of its management app (`audit`). The gateway reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from pydantic import Field

from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.ids import AuditEntryId, WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Index, Mongo, translate_errors
from shared.runtime.records import Record, StoredPart, stored_null
from shared.runtime.web.list_reader import LongList
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "audit_entries"
INDEXES: Final = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("terms", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("terms", 1), ("created_at", -1)), retired=True),
        Index((("expires_at", 1),), ttl_s=0),
    )
}
_MIN_COUNT_INTERVAL: Final = 100
"""After how many new entries of a workspace a process counts all of them at the earliest."""
_COUNT_INTERVAL_SHARE: Final = 16
"""It counts again after this part of what is left to the maximum: so many processes may add entries. A count
reads a whole workspace in the embedded database, which answers nobody meanwhile."""
_REJECTED: Final = "outcome:rejected"
"""The term of entries of rejected calls."""
_REJECTED_SHARE: Final = 10
"""Rejected calls may have one entry in so many. A key without rights could push out all changes otherwise."""

_DAY: Final = timedelta(days=1)

T = TypeVar("T")


class AuditActor(StoredPart):
    """Caller of a call. `service` is set if a service made it, for this API key or member, or for itself."""

    key_id: str
    key_name: str
    user: str | None = stored_null()
    service: str | None = stored_null()
    role: str | None = None
    session: str | None = None


class AuditEntry(Record):
    """A call that changes something, stored before it is carried out.

    `status` is None until the call was answered, and for ever if the process died in between. `resources` are
    the ids of the path in the order of `route`, and behind them the id of what the call created. `fields` are
    the names of the body's fields that the route has, without their values; `other_fields` counts the others.
    """

    id: AuditEntryId = Field(alias="_id")
    workspace: WorkspaceId
    at: datetime = Field(alias="created_at")
    expires_at: datetime
    service: str
    actor: AuditActor
    method: str
    route: str
    resources: tuple[str, ...]
    status: int | None = stored_null()
    client: str | None = stored_null()
    trace_id: str | None = stored_null()
    idempotency_digest: str | None = stored_null()
    fields: tuple[str, ...]
    other_fields: int = 0
    terms: tuple[str, ...]
    """Terms by which the entry can be found: see `search_terms`."""


def search_terms(
    *, actors: Sequence[str | None] = (), resources: Sequence[str | None] = (), service: str | None = None
) -> list[str]:
    """Return terms of an entry or of a search for entries. None and '' give no term."""
    found = [("actor", value) for value in actors] + [("resource", value) for value in resources]
    return [f"{kind}:{value}" for kind, value in [*found, ("service", service)] if value]


class AuditEntries:
    """The repository of the audit log."""

    def __init__(self, mongo: Mongo, *, ttl: timedelta, per_workspace: int) -> None:
        """Set how long entries are stored, and the maximum of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._list = LongList()
        self._per_workspace = per_workspace
        self._uncounted: dict[str, int] = {}
        """Entries of a workspace that this process may insert until it counts."""
        self.ttl = ttl

    async def insert(self, entry: AuditEntry) -> None:
        """Insert an entry, and remove the oldest of a workspace that has too many.

        A workspace has at most 100 more than its maximum for each process that serves it. Raises
        `DatabaseUnavailable`; then the entry may be stored or not.
        """
        with translate_errors():
            await self._collection.insert_one(entry.document())
        self._uncounted[entry.workspace] = self._uncounted.get(entry.workspace, 1) - 1
        if self._uncounted[entry.workspace] <= 0:
            with suppress(DatabaseUnavailable):  # the entry is stored; the next count finds what is left
                await self._trim(entry.workspace)

    async def complete(self, entry: AuditEntry, status: int, created: str) -> None:
        """Store the status of the answer, and the id of what the call created; '' for nothing.

        Raises `DatabaseUnavailable`.
        """
        change: dict[str, Any] = {"$set": {"status": status}}
        if created:
            terms = search_terms(resources=[created])
            change["$addToSet"] = {"resources": created, "terms": {"$each": terms}}
        elif 400 <= status < 500:
            change["$addToSet"] = {"terms": _REJECTED}
        with translate_errors():
            await self._collection.update_one({"_id": entry.id}, change)

    async def page(
        self,
        workspace: str,
        show: Callable[[AuditEntry], T],
        paging: Paging,
        *,
        terms: Sequence[str],
    ) -> Page[T]:
        """Return one page of the workspace's entries that have all terms; see `paging.page`."""
        query: dict[str, Any] = {"workspace": workspace}
        if terms:
            query["terms"] = terms[0]  # the index has one term; the others are compared after reading
        return await page(
            self._collection,
            query,
            lambda document: show(AuditEntry.from_document(document)),
            paging,
            matches=(lambda document: set(terms) <= set(document["terms"])) if len(terms) > 1 else None,
            long_list=self._list,
        )

    async def delete_all(self, workspace: str) -> None:
        """Delete the log of a deleted workspace, day by day, so that the database answers in between."""
        end = utcnow() + _DAY
        start = end - self.ttl - 2 * _DAY
        while start < end:
            # With $gte, the embedded database leaves out the bound itself.
            day = {"$gt": start - timedelta(milliseconds=1), "$lt": start + _DAY}
            with translate_errors():
                await self._collection.delete_many({"workspace": workspace, "created_at": day})
            start += _DAY

    async def _trim(self, workspace: str) -> None:
        """Remove all entries of a workspace but the newest ones, rejected calls first."""
        rejected = {"workspace": workspace, "terms": _REJECTED}
        room = min(
            await self._keep_newest(rejected, self._per_workspace // _REJECTED_SHARE),
            await self._keep_newest({"workspace": workspace}, self._per_workspace),
        )
        self._uncounted[workspace] = max(_MIN_COUNT_INTERVAL, room // _COUNT_INTERVAL_SHARE)

    async def _keep_newest(self, query: Mapping[str, Any], maximum: int) -> int:
        """Remove all matching entries but the newest `maximum`; return how many more there may be."""
        with translate_errors():
            count = await self._collection.count_documents(query)
            if count <= maximum:
                return maximum - count
            newest_first = self._collection.find(query, {"created_at": 1}).sort(
                [("created_at", -1), ("_id", -1)]
            )
            surplus = await newest_first.skip(maximum).limit(1).to_list(1)
            if surplus:
                oldest = {"created_at": {"$lte": surplus[0]["created_at"]}}
                await self._collection.delete_many({**query, **oldest})
        return 0
