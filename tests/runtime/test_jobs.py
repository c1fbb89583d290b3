"""Resumable jobs on a real store: progress per step, a crash repeats one step, limits per workspace."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from secrets import token_hex

import pytest

from bench.log import mongo_at
from shared.contracts.errors import Conflict, NotFound, RetryLater
from shared.runtime.clock import utcnow
from shared.runtime.jobs import JOB_INDEXES, Job, JobFailed, Jobs, JobWorker, StepResult
from shared.runtime.logs import configure
from shared.runtime.mongo import Collection
from shared.runtime.web.paging import Paging
from tests.support.backends import Store

JOBS = "jobs"
EFFECTS = "effects"
STEPS = 6
KILLED_AT = 3
SHORT = timedelta(seconds=0.3)


class Import(Job):
    """A job with a field of its own."""

    origin: str = ""


def new_job(workspace: str = "w") -> Import:
    return Import(
        id=f"job_{token_hex(4)}", workspace=workspace, kind="import", created_at=utcnow(), origin="slack"
    )


def jobs_of(collection: Collection, *, max_running: int = 5, lease: timedelta = SHORT) -> Jobs[Import]:
    return Jobs(collection, Import, max_running=max_running, lease=lease)


@asynccontextmanager
async def collection_of(uri: str) -> AsyncIterator[Collection]:
    mongo = mongo_at(uri)
    try:
        await mongo.ensure_indexes({JOBS: JOB_INDEXES})
        yield mongo.collection(JOBS)
    finally:
        mongo.close()


@asynccontextmanager
async def working(jobs: Jobs[Import], step: Callable[[Import], Awaitable[StepResult]]) -> AsyncIterator[None]:
    worker = JobWorker(jobs, step, configure("tests", "error")).worker
    await worker.start()
    try:
        yield
    finally:
        await worker.stop()


async def read_until(jobs: Jobs[Import], job: Import, condition: Callable[[Import], bool]) -> Import:
    async with asyncio.timeout(60):
        while not condition(found := await jobs.read("w", job.id)):  # noqa: ASYNC110 -- it is in the store
            await asyncio.sleep(0.02)
    return found


async def ended(jobs: Jobs[Import], job: Import) -> Import:
    return await read_until(jobs, job, lambda found: found.status != "running")


async def test_a_job_goes_on_step_by_step_to_its_end(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        jobs = jobs_of(collection)

        async def step(job: Import) -> StepResult:
            if not job.is_planned:
                batch = [str(number) for number in range(5)]
                return StepResult(
                    changes={"batch": batch, "is_planned": True, "total": 5, "cursor": {"p": 1}}
                )
            done, rest = job.batch[:2], job.batch[2:]
            return StepResult(finished=not rest, done=len(done) - 1, skipped=1, changes={"batch": rest})

        async with working(jobs, step):
            job = await jobs.start(new_job(), {"options": None})
            found = await ended(jobs, job)
        assert (found.status, found.done, found.skipped, found.total) == ("done", 2, 3, 5)
        stored = await collection.find_one({"_id": job.id}) or {}
        assert {name: stored[name] for name in ("read", "cursor", "batch", "origin", "options")} == {
            "read": True,
            "cursor": {"p": 1},
            "batch": [],
            "origin": "slack",
            "options": None,
        }
        assert not {"open", "due_at"} & stored.keys()
        assert stored["expires_at"] - stored["finished_at"] == timedelta(days=30)
        assert stored["error"] is None
        with pytest.raises(NotFound):
            await jobs.read("another", job.id)
        assert [item.id for item in (await jobs.page("w", Paging(5))).items] == [job.id]


async def _run_and_die(uri: str) -> None:
    """Work on the job until its fourth step has its effect, then die before the progress is written."""
    async with collection_of(uri) as collection:

        async def step(job: Import) -> StepResult:
            await collection.database[EFFECTS].insert_one({"step": job.done})
            if job.done == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)
            return StepResult(done=1)

        async with working(jobs_of(collection, lease=timedelta(seconds=1)), step):
            await asyncio.Event().wait()


def _dying_process(uri: str) -> None:
    asyncio.run(_run_and_die(uri))


async def test_the_step_of_a_killed_process_is_repeated_and_no_other(store: Store) -> None:
    uri = store.uri()
    async with collection_of(uri) as collection:
        jobs = jobs_of(collection, lease=timedelta(seconds=1))
        job = await jobs.start(new_job())
        process = multiprocessing.get_context("spawn").Process(target=_dying_process, args=(uri,))
        process.start()
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode == -signal.SIGKILL
        assert (await jobs.read("w", job.id)).done == KILLED_AT

        async def step(job: Import) -> StepResult:
            await collection.database[EFFECTS].insert_one({"step": job.done})
            return StepResult(finished=job.done + 1 == STEPS, done=1)

        async with working(jobs, step):
            found = await ended(jobs, job)
        assert (found.status, found.done) == ("done", STEPS)
        steps = [effect["step"] async for effect in collection.database[EFFECTS].find().sort("_id", 1)]
        assert steps == [0, 1, 2, 3, 3, 4, 5]


async def test_a_step_that_takes_longer_than_its_lease_runs_once(store: Store) -> None:
    """Two workers: without renewals, the other one would start the same step."""
    async with collection_of(store.uri()) as collection:
        runs: list[int] = []
        lease = timedelta(seconds=2)  # a busy machine may stand still for the third that a renewal has

        async def step(job: Import) -> StepResult:
            runs.append(job.fence)
            await asyncio.sleep(1.3 * lease.total_seconds())
            return StepResult(finished=True, done=1)

        jobs, others = jobs_of(collection, lease=lease), jobs_of(collection, lease=lease)
        async with working(jobs, step), working(others, step):
            found = await ended(jobs, await jobs.start(new_job()))
        assert (found.done, len(runs)) == (1, 1)


async def test_the_step_of_a_process_that_stood_still_counts_nothing(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        jobs = jobs_of(collection, lease=timedelta(0))
        job = await jobs.start(new_job())
        stopped = await jobs.work.claim(job.id)
        another = await jobs.work.claim(job.id)
        assert stopped is not None
        assert another is not None
        await jobs.save(stopped, StepResult(finished=True, done=7))
        await jobs.fail(stopped, "broken")
        await jobs.postpone(stopped, "waiting", 60)
        found = await jobs.read("w", job.id)
        assert (found.status, found.done, found.error, found.waiting_for) == ("running", 0, None, None)
        await jobs.save(another, StepResult(done=1))
        assert (await jobs.read("w", job.id)).done == 1


async def test_a_cancelled_job_keeps_what_its_step_did(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        jobs = jobs_of(collection)
        runs = 0

        async def step(job: Import) -> StepResult:
            nonlocal runs
            runs += 1
            cancelled = await jobs.cancel("w", job.id)
            assert cancelled.status == "cancelled"
            return StepResult(done=3, changes={"batch": ["x"]})

        async with working(jobs, step):
            job = await jobs.start(new_job())
            found = await read_until(jobs, job, lambda found: found.done > 0)
        stored = await collection.find_one({"_id": job.id}) or {}
        assert (found.status, found.done, runs, stored["batch"]) == ("cancelled", 3, 1, [])
        again = await jobs.cancel("w", job.id)
        assert again.finished_at == found.finished_at
        with pytest.raises(NotFound):
            await jobs.cancel("another", job.id)


async def test_a_job_that_waits_says_why_and_goes_on(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        jobs, may_go_on = jobs_of(collection), False

        async def step(_job: Import) -> StepResult:
            if not may_go_on:
                raise RetryLater("the account is disabled")
            return StepResult(finished=True)

        async with working(jobs, step):
            job = await jobs.start(new_job())
            found = await read_until(jobs, job, lambda found: found.waiting_for is not None)
            assert found.waiting_for == "the account is disabled"
            may_go_on = True
            assert (await ended(jobs, job)).waiting_for is None


@pytest.mark.parametrize(
    ("error", "shown"),
    [(JobFailed("the export is empty"), "the export is empty"), (KeyError("x"), "KeyError: 'x'")],
)
async def test_a_job_that_cannot_go_on_fails(store: Store, error: Exception, shown: str) -> None:
    async with collection_of(store.uri()) as collection:
        jobs = jobs_of(collection)

        async def step(_job: Import) -> StepResult:
            raise error

        async with working(jobs, step):
            found = await ended(jobs, await jobs.start(new_job()))
        assert (found.status, found.error) == ("failed", shown)


async def test_large_fields_are_shown_to_steps_only(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        jobs: Jobs[Import] = Jobs(collection, Import, max_running=5, hidden=("origin",))
        seen: list[str] = []

        async def step(job: Import) -> StepResult:
            seen.append(job.origin)
            return StepResult(finished=True)

        job = await jobs.start(new_job())
        async with working(jobs, step):
            assert (await ended(jobs, job)).origin == ""
        listed = await jobs.page("w", Paging(1))
        assert (listed.items[0].id, listed.items[0].origin) == (job.id, "")
        assert seen == ["slack"]


async def test_running_jobs_of_a_workspace_are_limited_whichever_process_starts_them(store: Store) -> None:
    async with collection_of(store.uri()) as collection:
        results = await asyncio.gather(
            *(jobs_of(collection, max_running=3).start(new_job()) for _ in range(12)), return_exceptions=True
        )
        assert {type(result) for result in results} <= {Import, Conflict}
        started = [result for result in results if isinstance(result, Import)]
        assert await collection.count_documents({"workspace": "w", "open": True}) == len(started) <= 3
        jobs = jobs_of(collection, max_running=3)
        for _ in range(3 - len(started)):
            await jobs.start(new_job())
        with pytest.raises(Conflict, match="3 jobs are running"):
            await jobs.check_limit("w")
        with pytest.raises(Conflict, match="3 jobs are running"):
            await jobs.start(new_job())
        await jobs.start(new_job("another"))
