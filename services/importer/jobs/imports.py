"""The imports of all workspaces: their states, and what people may do in each."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from secrets import token_hex
from typing import Any, Final

from services.importer.jobs.import_job import (
    COLLECTION,
    ImportJob,
    Repeat,
    Stage,
    conflicting_query,
    expected_bytes,
    start_changes,
)
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import ANY_FOLDER, AccountSource, Source, UploadSource
from services.importer.publish.broker_memory import BrokerFull, BrokerMemory
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Uploads
from shared.contracts.errors import Conflict, NotFound, OverLimit
from shared.contracts.ids import derive
from shared.runtime.clock import utcnow
from shared.runtime.jobs import Jobs
from shared.runtime.mongo import Mongo, translate_errors
from shared.runtime.web.paging import Page, Paging

_WAITING: Final = 20
"""Imports of a workspace that may wait for their turn, or for a person."""
_UNLIMITED: Final = 1_000_000
_READY: Final = {"status": "running", "stage": "ready", "open": {"$ne": True}}
_RUNNING: Final[tuple[Stage, ...]] = ("reading", "running", "verifying", "undoing")
_DAY: Final = timedelta(days=1)


class Imports:
    """The imports. Every method raises `DatabaseUnavailable`, and most `NotFound`."""

    def __init__(
        self,
        mongo: Mongo,
        uploads: Uploads,
        folder: UploadFolder,
        broker_memory: BrokerMemory,
        *,
        running_per_workspace: int,
        per_workspace: int,
    ) -> None:
        """`per_workspace` is the maximum number of imports of one workspace, ended ones included."""
        self._collection = mongo.collection(COLLECTION)
        self._uploads = uploads
        self._folder = folder
        self._broker_memory = broker_memory
        self._running = running_per_workspace
        self._per_workspace = per_workspace
        self.jobs: Jobs[ImportJob] = Jobs(
            self._collection,
            ImportJob,
            max_running=_UNLIMITED,
            condition={"source.folder": {"$in": [folder.id, ANY_FOLDER]}},
            hidden=("plan",),  # it may have two megabytes
        )

    async def create(self, workspace: str, upload_id: str) -> ImportJob:
        """Create the import of an upload, which is read at once.

        Raises `Conflict` if bytes of it are missing, `OverLimit` if 20 imports wait.
        """
        upload = await self._uploads.find(upload_id, workspace)
        # Another process may have the folder of the upload: then that one finds out (`SourceReaders.upload`).
        if upload.folder == self._folder.id and (received := self._folder.size_of(upload.id)) != upload.size:
            raise Conflict(
                f"{received} of {upload.size} bytes of the upload have arrived: resume it (tus), then import"
            )
        source = UploadSource(folder=upload.folder, upload_id=upload.id, name=upload.name, size=upload.size)
        return await self._create(workspace, source)

    async def create_of_account(
        self, workspace: str, source: AccountSource, plan: Plan, repeat: Repeat | None
    ) -> ImportJob:
        """Create the import of a connected account, which is read at once. Raises `OverLimit`."""
        return await self._create(workspace, source, plan=_stored(plan), repeat=repeat)

    async def create_repetition(self, job: ImportJob) -> None:
        """Create the next import of an account that is imported every day, if that is not done yet.

        It is due a day after this one was, with the same plan.
        """
        import_id = f"imp_{derive(job.id, 'next')}"
        try:
            await self.find(job.workspace, import_id)
        except NotFound:
            pass
        else:
            return
        due_at = max(job.queued_at + _DAY, utcnow())
        next_job = ImportJob(
            id=import_id,
            workspace=job.workspace,
            kind="import",
            created_at=utcnow(),
            queued_at=due_at,
            source=job.source,
            plan=job.plan,
            repeat=job.repeat,
            starts_itself=True,
        )
        await self.jobs.work.release(await self.jobs.start_leased(next_job), due_at)

    async def _create(self, workspace: str, source: Source, **more: Any) -> ImportJob:
        now = utcnow()
        job = ImportJob(
            id=f"imp_{token_hex(16)}",
            workspace=workspace,
            kind="import",
            created_at=now,
            queued_at=now,
            source=source,
            **more,
        )
        leased = await self.jobs.start_leased(job)
        # Counted after it is stored: of two calls at the same time, none exceeds a limit.
        try:
            await self._check_limits(workspace)
        except OverLimit:
            await self.jobs.delete(leased)
            raise
        await self.jobs.work.release(leased, now)
        self.jobs.wake.set()
        return leased

    async def find(self, workspace: str, import_id: str) -> ImportJob:
        """Return an import, without its plan."""
        return await self.jobs.read(workspace, import_id)

    async def read_plan(self, workspace: str, import_id: str) -> Plan:
        """Return the plan of an import."""
        return (await self.read_planned(workspace, import_id))[0]

    async def read_planned(self, workspace: str, import_id: str) -> tuple[Plan, int]:
        """Return the plan of an import, and its version."""
        with translate_errors():
            document = await self._collection.find_one(
                {"_id": import_id, "workspace": workspace}, {"plan": 1, "plan_version": 1}
            )
        if document is None:
            raise NotFound("no such import")
        return Plan.model_validate(document["plan"]), document.get("plan_version", 1)

    async def page(self, workspace: str, paging: Paging) -> Page[ImportJob]:
        """Return a page of a workspace's imports, newest first. Raises `Malformed`."""
        return await self.jobs.page(workspace, paging)

    # What people do

    async def set_plan(
        self,
        workspace: str,
        import_id: str,
        plan: Plan,
        warnings: Sequence[str],
        *,
        before: tuple[Plan, int],
    ) -> ImportJob:
        """Change the plan of an import that is ready; with other answers, it is read again.

        `before` is the plan with its version, as it was read. Raises `Conflict`, also if that has changed.
        """
        read, version = before
        changes = {
            "plan": _stored(plan),
            "plan_version": version + 1,
            "plan_warnings": tuple(warnings),
            "trial": None,
        }
        same = {"plan_version": version if version > 1 else {1, None}}
        if read.answers != plan.answers:
            changes |= {"stage": "reading", "queued_at": utcnow()}
            condition = {"status": "running", "stage": "ready", **same}
            done = await self.jobs.resume(workspace, import_id, condition, changes)
        else:
            query = {"_id": import_id, "workspace": workspace, **_READY, **ImportJob.stored_query(same)}
            with translate_errors():
                result = await self._collection.update_one(query, {"$set": ImportJob.stored_fields(changes)})
            done = bool(result.matched_count)
        job = await self.find(workspace, import_id)
        if not done and job.state == "ready":
            raise Conflict("the plan changed while it was updated: try again")
        return await self._changed(workspace, import_id, done, "planned while it is ready")

    async def start(self, workspace: str, import_id: str, *, dry_run: bool) -> ImportJob:
        """Start an import that is ready, or try it without publishing anything.

        Raises `Conflict`, also if the embedded broker would need too much memory.
        """
        job = await self.find(workspace, import_id)
        for choice in job.summary.choices if job.summary else ():
            if choice["required"] and choice["answer"] is None:
                raise Conflict(f"{choice['id']} is not answered: {choice['text']} Set `answers` of the plan")
        if not dry_run:
            try:
                self._broker_memory.check(expected_bytes(job))
            except BrokerFull as error:
                raise Conflict(str(error)) from None
        changes = start_changes(dry_run=dry_run)
        return await self._resume(workspace, import_id, "ready", changes, "started while it is ready")

    async def pause(self, workspace: str, import_id: str) -> ImportJob:
        """Pause an import that is being worked on. Raises `Conflict`."""
        condition = {"stage": set(_RUNNING), "is_paused": False}
        changes = {"is_paused": True, "estimated_s": None}
        done = await self.jobs.suspend(workspace, import_id, condition, changes)
        return await self._changed(workspace, import_id, done, "paused while it is running")

    async def resume(self, workspace: str, import_id: str) -> ImportJob:
        """Go on with a paused import. Raises `Conflict`."""
        changes = {"is_paused": False, "waiting_for": None, "queued_at": utcnow()}
        done = await self.jobs.resume(workspace, import_id, {"status": "running", "is_paused": True}, changes)
        return await self._changed(workspace, import_id, done, "resumed while it is paused")

    async def cancel(self, workspace: str, import_id: str) -> ImportJob:
        """End an import. What was published stays, and can be undone. Raises `Conflict` if it has ended."""
        job = await self.find(workspace, import_id)
        if job.status != "running":
            raise Conflict(f"the import is {job.state} already: it can be undone")
        return await self.jobs.cancel(workspace, import_id)

    async def undo(
        self,
        workspace: str,
        import_id: str,
        *,
        messages: int,
        added: int,
        keep_answered: bool,
        keep_shared: bool,
    ) -> ImportJob:
        """Take away again what an import added. `messages` is how many a person has confirmed.

        Raises `Conflict` if the import has not ended, is undone, or added another number of messages.
        """
        job = await self.find(workspace, import_id)
        if job.status == "running" and not job.is_paused:
            raise Conflict(f"the import is {job.state}: cancel or pause it first")
        if job.stage == "undone" or (job.stage == "undoing" and job.status == "running"):
            raise Conflict(f"the import is {job.stage} already: resume it if it is paused")
        if messages != added:
            raise Conflict(f"the import added {added} messages, not {messages}: confirm that number")
        changes = {
            "stage": "undoing",
            "is_paused": False,
            "is_dry_run": False,
            "started_at": job.started_at if job.has_published else None,
            "keep_answered": keep_answered,
            "keep_shared": keep_shared,
            "cursor": None,
            "total": added,
            "done": 0,
            "estimated_s": None,
            "queued_at": utcnow(),
            # The upload is not needed, and its folder may be gone.
            "source": job.source.model_copy(update={"folder": ANY_FOLDER}),
        }
        done = await self.jobs.resume(workspace, import_id, {"stage": job.stage}, changes)
        return await self._changed(workspace, import_id, done, "undone after it has ended")

    # What its worker does

    async def may_run(self, job: ImportJob) -> bool:
        """Return whether it is an import's turn: the workspace's oldest in the queue run first.

        Of one connected account, one import runs at a time: each uses half of what the account may call. An
        undo and imports of exports of the same account have their turns one after another: an import would
        find messages that the undo is about to take away.
        """
        # Times have milliseconds: imports of the same one are in the order of their ids.
        same_time = {"queued_at": job.queued_at, "_id": {"$lt": job.id}}
        earlier = [{"queued_at": {"$lt": job.queued_at}}, same_time]
        query = {"workspace": job.workspace, "open": True, "$or": earlier}
        with translate_errors():
            if await self._collection.count_documents(query, limit=self._running) >= self._running:
                return False
            if (same := conflicting_query(job)) is None:
                return True
            return await self._collection.count_documents({**query, **same}, limit=1) == 0

    async def is_current(self, job: ImportJob) -> bool:
        """Return whether an import goes on, and no other process has it."""
        query = {"_id": job.id, "fence": job.fence, "open": True}
        with translate_errors():
            return await self._collection.find_one(query, {"_id": 1}) is not None

    async def record(
        self,
        job: ImportJob,
        changes: Mapping[str, Any],
        increments: Mapping[str, int],
        counts: Mapping[str, Any],
    ) -> bool:
        """Write what was done of an import; return whether it goes on.

        It counts also if the import was paused or cancelled meanwhile, but not if another process has it.
        `increments` and `counts` are by dotted stored names.
        """
        update: dict[str, Any] = {"$set": {**ImportJob.stored_fields(changes), **counts}}
        if increments:
            update["$inc"] = dict(increments)
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": job.id, "fence": job.fence}, update, projection={"open": 1}
            )
        return bool(document and document.get("open"))

    async def add(self, import_id: str, **numbers: int) -> None:
        """Raise numbers of an import, by their names in Python, whoever works on it."""
        increments = ImportJob.stored_fields(numbers)
        with translate_errors():
            await self._collection.update_one({"_id": import_id}, {"$inc": increments})

    async def raise_to(self, import_id: str, numbers: Mapping[str, int]) -> None:
        """Raise numbers of an import to these, by their dotted stored names; one that is higher stays."""
        with translate_errors():
            await self._collection.update_one({"_id": import_id}, {"$max": numbers})

    async def give_back(self, import_id: str, messages: int, remaining: int) -> None:
        """Note that the chat has confirmed an undo late, and has not removed so many messages.

        `remaining` is how many the ledger has now.
        """
        increments = ImportJob.stored_fields({"withdrawn": -messages, "late_batches": 1})
        with translate_errors():
            await self._collection.update_one({"_id": import_id}, {"$inc": increments})
            if messages:
                undone = {"_id": import_id, "remaining": {"$gte": 0}}
                await self._collection.update_one(undone, {"$set": {"remaining": remaining}})

    async def with_leftovers(self, workspace: str, limit: int) -> list[str]:
        """Return the ids of undone imports that have left channels or people in the chat, newest first."""
        query = {"workspace": workspace, "stage": "undone", "has_leftovers": True}
        with translate_errors():
            found = self._collection.find(query, {"_id": 1}).sort("created_at", -1).limit(limit)
            return [document["_id"] for document in await found.to_list(limit)]

    async def unfinished(self, workspace: str, *, other_than: str) -> list[str]:
        """Return the ids of the other imports that have published something, and are not over."""
        query = {
            "workspace": workspace,
            "status": "running",
            "stage": "running",
            "dry_run": False,
            "_id": {"$ne": other_than},
        }
        with translate_errors():
            return [document["_id"] async for document in self._collection.find(query, {"_id": 1})]

    async def expiring(self) -> list[str]:
        """Return ids of imports that are deleted within a day, because they ended long ago; first ones first.

        These are many: all imports that ended on one day.
        """
        query = {"expires_at": {"$lt": utcnow() + _DAY}}
        with translate_errors():
            found = self._collection.find(query, {"_id": 1}).sort("expires_at", 1)
            return [document["_id"] async for document in found]

    async def delete_all(self, workspace: str) -> None:
        """Delete every import of a workspace."""
        await self.jobs.delete_all(workspace)

    async def _check_limits(self, workspace: str) -> None:
        with translate_errors():
            running = await self._collection.count_documents({"workspace": workspace, "status": "running"})
            stored = await self._collection.count_documents({"workspace": workspace})
        if running > self._running + _WAITING:
            raise OverLimit(
                f"{running - 1} imports of the workspace have not ended: finish or cancel one first"
            )
        if stored > self._per_workspace:
            raise OverLimit(
                f"the workspace has {stored - 1} imports: each is removed 30 days after its end, or have the "
                "operator raise INTERLINK_IMPORTS_PER_WORKSPACE"
            )

    async def _resume(
        self, workspace: str, import_id: str, stage: Stage, changes: Mapping[str, Any], when: str
    ) -> ImportJob:
        done = await self.jobs.resume(workspace, import_id, {"status": "running", "stage": stage}, changes)
        return await self._changed(workspace, import_id, done, when)

    async def _changed(self, workspace: str, import_id: str, done: bool, when: str) -> ImportJob:
        job = await self.find(workspace, import_id)
        if not done:
            raise Conflict(f"the import is {job.state}: it can be {when}")
        return job


def _stored(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(mode="json", by_alias=True)
