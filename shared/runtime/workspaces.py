"""Workspaces as operators manage them, and the deletion of one with its data.

A workspace exists as soon as something is stored under its id: the records here only give it a name, list it
and delete it. Each service deletes its own part of the data (`WorkspaceCleanup`), twice: what was under way
when the workspace was deleted may be stored a little later.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from pydantic import Field

from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import QuotaName
from shared.runtime.due_work import OPEN, DueWork, DueWorker
from shared.runtime.logs import Log
from shared.runtime.mongo import Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record
from shared.runtime.retry import Backoff
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "workspaces"
DELETIONS: Final = "workspace_deletions"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("is_listed", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("expires_at", 1),), ttl_s=0),
    ),
    DELETIONS: (
        Index((("service", 1), ("open", 1), ("due_at", 1)), where=OPEN),
        Index((("workspace", 1),)),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}
SERVICES_WITH_DATA: Final = ("gateway", "delivery", "sync", "oauth", "importer", "console")
"""The services that store something of a workspace."""
_PASS_DELAYS: Final = (timedelta(minutes=2),)
"""The pauses before further passes. Requests, deliveries and refreshes end sooner."""
_RESERVED: Final = timedelta(days=30)
"""Time for which the id of a deleted workspace cannot be used again: topics may have its events meanwhile."""
_LEASE: Final = timedelta(seconds=30)
_POLL_INTERVAL_S: Final = 5.0
_BACKOFF: Final = Backoff(first_s=5.0, max_s=300.0)

T = TypeVar("T")
WorkspaceStatus = Literal["active", "deleting", "deleted"]


class WorkspaceRecord(Record):
    """A workspace. Its id is the workspace id of all its records."""

    id: WorkspaceId = Field(alias="_id")
    name: str
    is_listed: bool = True
    """False once its data is deleted: then the record only reserves the id, until `expires_at`."""
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = None
    """Time at which an operator deleted it."""
    expires_at: datetime | None = None
    quotas: Mapping[QuotaName, int] = Field(default_factory=dict)
    """Its own quotas; those of the installation count for the others."""

    @property
    def status(self) -> WorkspaceStatus:
        """State of the workspace: in use, its data being deleted, or its data gone."""
        if not self.is_listed:
            return "deleted"
        return "deleting" if self.deleted_at else "active"


class WorkspaceDeletion(Record):
    """The part of a deletion that one service does: due work."""

    workspace: str
    service: str
    open: bool = True
    due_at: datetime
    fence: int = 0
    passes: int = 0
    """Passes that are done."""
    created_at: datetime
    expires_at: datetime | None = None


class Workspaces:
    """Reads and writes of both collections. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._workspaces = mongo.collection(COLLECTION)
        self._deletions = mongo.collection(DELETIONS)

    async def create(self, workspace: str, name: str) -> WorkspaceRecord:
        """Create a workspace. Raises `Conflict` if there is one with this id, or was until recently."""
        now = utcnow()
        record = WorkspaceRecord(id=WorkspaceId(workspace), name=name, created_at=now, changed_at=now)
        try:
            with translate_errors():
                await self._workspaces.insert_one(record.document())
        except Duplicate:
            raise Conflict("this id is in use, or was until 30 days ago: choose another one") from None
        return record

    async def register(self, names: Iterable[str]) -> None:
        """Create those of these workspaces that have no record, named as their ids."""
        now = utcnow()
        for name in names:
            record = WorkspaceRecord(id=WorkspaceId(name), name=name, created_at=now, changed_at=now)
            document = record.document()
            with translate_errors():
                await self._workspaces.update_one({"_id": name}, {"$setOnInsert": document}, upsert=True)

    async def is_deleted(self, workspace: str) -> bool:
        """Return whether a workspace was deleted, and its id is still reserved."""
        with translate_errors():
            document = await self._workspaces.find_one({"_id": workspace})
        return document is not None and WorkspaceRecord.from_document(document).status != "active"

    async def created_at(self, workspace: str) -> datetime | None:
        """Return when a workspace was created; None if it has no record."""
        with translate_errors():
            document = await self._workspaces.find_one({"_id": workspace})
        return WorkspaceRecord.from_document(document).created_at if document else None

    async def find(self, workspace: str) -> WorkspaceRecord:
        """Return a workspace whose data is there. Raises `NotFound`."""
        with translate_errors():
            document = await self._workspaces.find_one({"_id": workspace, "is_listed": True})
        if document is None:
            raise NotFound("no such workspace")
        return WorkspaceRecord.from_document(document)

    async def page(self, show: Callable[[WorkspaceRecord], T], paging: Paging) -> Page[T]:
        """Return one page of the workspaces, newest first; see `paging.page`."""
        return await page(
            self._workspaces,
            {"is_listed": True},
            lambda document: show(WorkspaceRecord.from_document(document)),
            paging,
        )

    async def change(self, workspace: str, changes: Mapping[str, Any]) -> WorkspaceRecord:
        """Change fields of a workspace, by their names. Raises `NotFound`."""
        fields = WorkspaceRecord.stored_fields({**changes, "changed_at": utcnow()})
        with translate_errors():
            document = await self._workspaces.find_one_and_update(
                {"_id": workspace}, {"$set": fields}, return_document=True
            )
        if document is None:
            raise NotFound("no such workspace")
        return WorkspaceRecord.from_document(document)

    async def delete(self, workspace: str) -> WorkspaceRecord:
        """Mark a workspace as deleted, and make the services delete its data. Safe to repeat.

        Raises `NotFound`.
        """
        record = await self.find(workspace)
        if not record.deleted_at:
            record = await self.change(workspace, {"deleted_at": utcnow()})
        now = utcnow()
        for service in SERVICES_WITH_DATA:
            deletion = WorkspaceDeletion(
                id=f"{service}/{workspace}", workspace=workspace, service=service, due_at=now, created_at=now
            )
            document = deletion.document()
            with translate_errors():
                await self._deletions.update_one(
                    {"_id": deletion.id}, {"$setOnInsert": document}, upsert=True
                )
        return record

    def deletions(self, service: str) -> DueWork[WorkspaceDeletion]:
        """Return the deletions that a service has to do."""
        return DueWork(
            self._deletions, WorkspaceDeletion.from_document, lease=_LEASE, condition={"service": service}
        )

    async def finish_pass(self, work: DueWork[WorkspaceDeletion], deletion: WorkspaceDeletion) -> bool:
        """Store that a pass is done. Return whether all services are done with the workspace."""
        passes, now = deletion.passes + 1, utcnow()
        if passes <= len(_PASS_DELAYS):
            await work.write(deletion, {"$set": {"passes": passes, "due_at": now + _PASS_DELAYS[passes - 1]}})
            return False
        done = {"passes": passes, "expires_at": now + _RESERVED}
        if not await work.write(deletion, {"$set": done, "$unset": {"open": "", "due_at": ""}}):
            return False
        with translate_errors():
            others = await self._deletions.find({"workspace": deletion.workspace}).to_list(None)
        if any(other.get("open") for other in others):
            return False
        # Two services that end at the same time both get here, which does no harm.
        await self.change(deletion.workspace, {"is_listed": False, "name": "", "expires_at": now + _RESERVED})
        return True


DeleteData = Callable[[str], Awaitable[None]]
"""Deletes what a service stores of a workspace. It is safe to repeat and may take long."""


class WorkspaceCleanup:
    """Deletes the data of deleted workspaces, beside the workers of other processes."""

    def __init__(self, workspaces: Workspaces, service: str, steps: Sequence[DeleteData], log: Log) -> None:
        """Set the steps that delete the data of one workspace, which run one after another."""
        self._workspaces = workspaces
        self._steps = steps
        self._service = service
        self._log = log
        self._work = workspaces.deletions(service)
        self.worker = DueWorker(
            self._work,
            self._delete,
            log,
            name="workspace_deletion",
            poll_interval_s=_POLL_INTERVAL_S,
            backoff=_BACKOFF,
        )
        """The part of the service that deletes the data."""

    async def _delete(self, deletion: WorkspaceDeletion) -> None:
        async with self._work.keep(deletion):
            for step in self._steps:
                await step(deletion.workspace)
        is_complete = await self._workspaces.finish_pass(self._work, deletion)
        self._log.info(
            "workspace.data_deleted",
            workspace=deletion.workspace,
            service=self._service,
            number=deletion.passes + 1,
            complete=is_complete,
        )
