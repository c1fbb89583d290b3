"""Resumable jobs: work of many steps that an API call starts and any process of the service goes on with.

A job is due work (`due_work.py`). Each claim does one step, and writes its progress with the time at which
the next step is due. So a process can be killed at any point: another one repeats at most the step in
progress, which therefore must have no further effect the second time. For a step on many items, return them
as the `batch` of one step and work on them in the next ones: then the repeated step has the same items in
the same order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import Field

from shared.contracts.errors import Conflict, NotFound, RetryLater
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueWork, DueWorker, LeaseLost
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Index, translate_errors
from shared.runtime.records import Record, stored_null
from shared.runtime.retry import Backoff
from shared.runtime.web.paging import Page, Paging, page

JobStatus = Literal["running", "done", "cancelled", "failed"]

JOB_INDEXES: Final = (
    Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
    Index((("due_at", 1),), where=OPEN),
    Index((("expires_at", 1),), ttl_s=0),
)
"""The indexes of a collection of jobs."""
LEASE: Final = timedelta(seconds=10)
JOB_TTL: Final = timedelta(days=30)
"""The time after its end for which a job is stored."""
_POLL_INTERVAL_S: Final = 5.0
"""At most a lease: then each search finds the leases that end before the next one."""
_WAIT: Final = Backoff(first_s=1.0, max_s=1.0)
"""A job that waits, for example for a setting, looks again each second."""
_MAX_ERROR_LENGTH: Final = 500
_HIDDEN: Final = ("batch",)
"""Fields that jobs which are shown do not have: a batch can have thousands of items."""


class Job(Record):
    """A job as it is stored. A collection's own model adds what its steps need to know."""

    workspace: str
    kind: str
    status: JobStatus = "running"
    open: bool = False
    """True if there is work left. Then it has `due_at`."""
    due_at: datetime | None = None
    fence: int = 0
    created_at: datetime
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    error: str | None = stored_null()
    """Error with which it failed."""
    waiting_for: str | None = stored_null()
    """Reason for which it makes no progress although it is running."""
    total: int | None = stored_null()
    """Items at the start, as far as they were counted."""
    done: int = 0
    skipped: int = 0
    batch: tuple[str, ...] = ()
    """Items that were planned and not worked on yet."""
    cursor: Any = stored_null()
    """Position at which planning goes on, in a form that only the job's steps know."""
    is_planned: bool = Field(default=False, alias="read")
    """True if nothing is left to plan behind `cursor`."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The progress of one step.

    `done` and `skipped` are added to the job's counts. `changes` has other fields of the job, by their names
    in Python: `batch`, `cursor`, `total`, `is_planned` or the model's own. The next step is due `pause_s`
    seconds later, whichever process takes it; after a `finished` step there is none. After one that `waits`,
    the next step is due when `Jobs.resume` is called.
    """

    finished: bool = False
    waits: bool = False
    done: int = 0
    skipped: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0


class JobFailed(Exception):
    """The job cannot go on. The message is shown to the workspace."""


class Jobs(Generic[J]):
    """The jobs of one collection. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self,
        collection: Collection,
        job_type: type[J],
        *,
        max_running: int,
        lease: timedelta = LEASE,
        condition: Mapping[str, Any] | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        """Set the collection, the model of its documents, and how many jobs a workspace may have running.

        After `lease` at the latest, another process goes on with the job of a process that died. This process
        takes only jobs with the values in `condition`, which the index on `due_at` has to begin with.
        `hidden` names large fields that only a job's steps get, beside its batch.
        """
        self._collection = collection
        self._type = job_type
        self._max_running = max_running
        self._lease = lease
        self._shown = dict.fromkeys((*_HIDDEN, *hidden), 0)
        self.work: DueWork[J] = DueWork(collection, job_type.from_document, lease=lease, condition=condition)
        self.wake = asyncio.Event()
        """Set when this process has started a job. `JobWorker` waits for it."""

    async def check_limit(self, workspace: str) -> None:
        """Raise `Conflict` if a workspace has as many running jobs as it may have."""
        if await self._count_running(workspace, self._max_running) >= self._max_running:
            raise self._limit_error()

    async def start(self, job: J, more: Mapping[str, Any] | None = None) -> J:
        """Store a new job and make it due; `more` has fields to store that the model would leave out.

        Running jobs are counted after the job is stored: of two processes that start one at the same time,
        none exceeds the limit. Raises `Conflict`.
        """
        leased = await self.start_leased(job, more)
        if await self._count_running(job.workspace, self._max_running + 1) > self._max_running:
            await self.delete(leased)
            raise self._limit_error()
        await self.work.release(leased, utcnow())
        self.wake.set()
        return leased

    async def start_leased(self, job: J, more: Mapping[str, Any] | None = None) -> J:
        """Store a new job as this process's own, and return it: another process takes it over after a crash.

        It counts as running, without a limit.
        """
        lease = {"open": True, "due_at": utcnow() + self._lease, "fence": 1}
        document = {**job.document(), **(more or {}), **lease}
        with translate_errors():
            await self._collection.insert_one(document)
        return self._type.from_document(document)

    async def delete(self, job: J) -> None:
        """Delete a job that this process has claimed."""
        with translate_errors():
            await self._collection.delete_one({"_id": job.id, "fence": job.fence})

    async def cancel(self, workspace: str, job_id: str) -> J:
        """End a job after the step in progress, and return it; a job that ended stays as it is.

        One that is suspended ends, too. Raises `NotFound`.
        """
        with translate_errors():
            await self._collection.update_one(
                {"_id": job_id, "workspace": workspace, "status": "running"}, _end_update("cancelled")
            )
        return await self.read(workspace, job_id)

    async def suspend(
        self, workspace: str, job_id: str, condition: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> bool:
        """Have no further step done until `resume`, and change fields; return whether it was done.

        It is done if a step is due or in progress and the fields in `condition` have these values. The
        holder's next write finds nothing. Both arguments name fields as the model does. Raises
        `DatabaseUnavailable`.
        """
        query = {"_id": job_id, "workspace": workspace, **OPEN, **self._type.stored_query(condition)}
        update = {
            "$set": self._type.stored_fields({"waiting_for": None, **changes}),
            "$unset": {"open": "", "due_at": ""},
        }
        with translate_errors():
            return bool((await self._collection.update_one(query, update)).matched_count)

    async def resume(
        self, workspace: str, job_id: str, condition: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> bool:
        """Make the next step of a job due that has none, and change fields; return whether it was done.

        The arguments are those of `suspend`. A job that has ended runs again.
        """
        query = {
            "_id": job_id,
            "workspace": workspace,
            "open": {"$ne": True},
            **self._type.stored_query(condition),
        }
        running = {"status": "running", "finished_at": None, "expires_at": None, "error": None}
        update = {
            "$set": {**self._type.stored_fields({**running, **changes}), "open": True, "due_at": utcnow()},
            "$inc": {"fence": 1},
        }
        with translate_errors():
            is_done = bool((await self._collection.update_one(query, update)).matched_count)
        self.wake.set()
        return is_done

    async def delete_all(self, workspace: str) -> None:
        """Delete every job of a workspace. One that is running ends: its next write finds nothing."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def read(self, workspace: str, job_id: str) -> J:
        """Return a job, without its batch and hidden fields. Raises `NotFound`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": job_id, "workspace": workspace}, self._shown)
        if document is None:
            raise NotFound("no such job")
        return self._type.from_document(document)

    async def page(self, workspace: str, paging: Paging, **equal: str | None) -> Page[J]:
        """Return a page of a workspace's jobs, newest first and as `read` returns them.

        `equal` has values that fields must have; None matches everything. Raises `Malformed`.
        """
        query = {name: value for name, value in equal.items() if value is not None}
        return await page(
            self._collection,
            {"workspace": workspace, **query},
            self._type.from_document,
            paging,
            fields=self._shown,
        )

    async def save(self, job: J, result: StepResult) -> None:
        """Write the progress of a step. Nothing is written if another process has claimed the job."""
        counts = {"done": result.done, "skipped": result.skipped}
        if result.finished:
            update = _end_update("done")
            update["$set"] = self._type.stored_fields(result.changes) | update["$set"]
        elif result.waits:
            update = {
                "$set": self._type.stored_fields({"waiting_for": None, **result.changes}),
                "$unset": {"open": "", "due_at": ""},
            }
        else:
            due_at = utcnow() + timedelta(seconds=result.pause_s)
            changes = {"waiting_for": None, **result.changes, "due_at": due_at}
            update = {"$set": self._type.stored_fields(changes)}
        if not await self.work.write(job, update | {"$inc": counts}):
            # Cancelled meanwhile: what this step did still counts.
            with translate_errors():
                await self._collection.update_one({"_id": job.id, "fence": job.fence}, {"$inc": counts})

    async def fail(self, job: J, error: str) -> None:
        """End a job that cannot go on."""
        await self.work.write(job, _end_update("failed", error=error))

    async def postpone(self, job: J, reason: str, pause_s: float) -> None:
        """Try the step again after a pause, and show the reason meanwhile."""
        due_at = utcnow() + timedelta(seconds=pause_s)
        await self.work.write(job, {"$set": {"due_at": due_at, "waiting_for": reason}})

    async def _count_running(self, workspace: str, limit: int) -> int:
        with translate_errors():
            return await self._collection.count_documents({"workspace": workspace, **OPEN}, limit=limit)

    def _limit_error(self) -> Conflict:
        return Conflict(f"{self._max_running} jobs are running: wait for one to end, or cancel one")


class JobWorker(Generic[J]):
    """Works on the jobs of all workspaces, beside the workers of other processes."""

    def __init__(
        self, jobs: Jobs[J], step: Callable[[J], Awaitable[StepResult]], log: Log, *, max_concurrent: int = 1
    ) -> None:
        """Set what a step does. It gets the claimed job and returns its progress.

        The lease is renewed while a step runs; it is cancelled if another process took the job over. A step
        raises `RetryLater` to be tried again after its `retry_after`, at least a second, with the message as
        `waiting_for`, and `JobFailed` to end the job. Any other error ends the job too, and is logged.
        """
        self._jobs = jobs
        self._step = step
        self._log = log
        self.worker = DueWorker(
            jobs.work,
            self._run_step,
            log,
            name="job",
            poll_interval_s=_POLL_INTERVAL_S,
            backoff=_WAIT,
            max_concurrent=max_concurrent,
            wake=jobs.wake,
        )
        """The part of the service that works on the jobs."""

    async def _run_step(self, job: J) -> None:
        try:
            async with self._jobs.work.keep(job):
                result = await self._step(job)
        except LeaseLost:
            raise
        except RetryLater as error:
            await self._jobs.postpone(job, str(error), max(_WAIT.first_s, error.retry_after))
        except JobFailed as error:
            await self._jobs.fail(job, str(error))
        except Exception as error:  # noqa: BLE001 -- a broken job must not block the others
            self._log.error("job.failed", job_id=job.id, kind=job.kind, exc_info=error)
            await self._jobs.fail(job, f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH])
        else:
            await self._jobs.save(job, result)
            if result.finished:
                self._log.info("job.done", job_id=job.id, kind=job.kind)


def _end_update(status: JobStatus, **more: Any) -> dict[str, Any]:
    now = utcnow()
    return {
        "$set": {
            "status": status,
            "finished_at": now,
            "expires_at": now + JOB_TTL,
            "waiting_for": None,
            "batch": [],
            **more,
        },
        "$unset": {"open": "", "due_at": ""},
    }
