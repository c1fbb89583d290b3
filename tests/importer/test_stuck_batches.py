"""A chat that confirms every batch but one: an import and an undo wait for it, and hold little meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from services.importer.files.attachments import FilePlanner
from services.importer.jobs import messages_phase, undo_step
from services.importer.jobs import progress as progress_module
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.messages_phase import MessagesPhase
from services.importer.jobs.plan import Plan
from services.importer.jobs.progress import STALLED, Progress, Stopped
from services.importer.jobs.run_context import RunContext
from services.importer.jobs.selection import Selection, Target
from services.importer.jobs.steps import ImportSteps
from services.importer.publish.live_traffic import LiveTraffic
from services.importer.reading.protocol import Overview, SourcePart
from shared.runtime.clock import utcnow
from shared.runtime.jobs import StepResult
from shared.runtime.mongo import Mongo
from tests.importer.import_places import Import, ImportPlace, message_ids, no_records, run_with, started
from tests.importer.test_undo import undo_of
from tests.support.backends import Store
from tests.support.eventually import until

STOP_S: Final = 5.0
LIMIT: Final = 20
PARTS: Final = 60
NOON: Final = 1_704_110_400.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "STALLED_S", 0.2)
    monkeypatch.setattr(messages_phase, "MAX_PENDING", LIMIT)
    monkeypatch.setattr(undo_step, "MAX_PENDING", LIMIT)


class Source:
    """An export of many parts: one message each, or only the first has one. `given` is how many were read."""

    def __init__(self, *, all_have_messages: bool) -> None:
        self._all_have_messages = all_have_messages
        self.given = 0

    async def read(self, position: int, _skip: int) -> AsyncIterator[SourcePart]:
        for number in range(position, PARTS):
            self.given += 1
            line = {"id": str(number), "at": NOON + number, "author": "U1", "text": "text"}
            is_message = self._all_have_messages or number == 0
            lines = [{"m": line} if is_message else {"s": "system_message", "day": None}]
            yield SourcePart(number, 0, number + 1, 0, "C1", "c1", lines)


class Work:
    """The stage of an import that publishes its messages."""

    def __init__(self, found: Import, source: Any) -> None:
        self._found = found
        self._source = source

    async def run(self, job: ImportJob) -> StepResult:
        found, place = self._found, self._found.place
        overview = Overview("slack", "an export", "slack", "T1", 1, 1, PARTS, {})
        target = Target("C1", 0, "slack:T1:C1", "c")
        selection = Selection(Plan(), "slack", "T1", {"C1": target}, {}, ())
        planner = FilePlanner(
            None,
            import_id=job.id,
            workspace=job.workspace,
            provider="slack",
            account="T1",
            mode="addresses",
            max_bytes=None,
            expires_at=utcnow(),
        )
        run = RunContext(
            job,
            Plan(),
            overview,
            self._source,
            place.stores(),
            Progress(place.imports, job),
            found.outlet,
            found.factory,
        )
        try:
            await MessagesPhase(run, selection, planner).publish()
        except Stopped:
            return StepResult()
        return StepResult(finished=True)


@asynccontextmanager
async def confirming(found: Import, stuck: Sequence[int]) -> AsyncIterator[None]:
    """The chat confirms the batches that are published, without those of these numbers."""

    async def confirm() -> None:
        for number in range(10**6):
            await until(lambda: number < len(found.topic.batches))  # noqa: B023 -- asked at once
            if number not in stuck:
                await found.confirm(found.topic.batches[number])

    chat = asyncio.create_task(confirm())
    yield
    chat.cancel()
    await asyncio.wait({chat})


async def stalled_job(found: Import) -> ImportJob:
    """Wait until the import shows that it waits for its first batch."""

    async def job() -> ImportJob:
        return await found.place.imports.find(found.job.workspace, found.job.id)

    async with asyncio.timeout(60):
        await until(lambda: found.topic.batches)
        shown = STALLED.format(batch_id=found.topic.batches[0])
        while (seen := await job()).waiting_for != shown:  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.05)
    return seen


async def paused(place: ImportPlace, running: asyncio.Task[StepResult], job: ImportJob) -> ImportJob:
    """Pause an import, which ends in time; resume it, and claim it."""
    called_at = monotonic()
    assert (await place.imports.pause(job.workspace, job.id)).state == "paused"
    assert (await running).changes == {}
    assert monotonic() - called_at < STOP_S
    await place.imports.resume(job.workspace, job.id)
    claimed = await place.imports.jobs.work.claim(job.id, early=True)
    assert claimed is not None
    return claimed


def steps_of(place: ImportPlace, work: Any) -> ImportSteps:
    return ImportSteps(place.imports, work, work, work, work, work)


def again(found: Import, job: ImportJob) -> Import:
    """The import in a process that goes on with it."""
    return Import(found.place, job, confirms=True, traffic=LiveTraffic(no_records, messages_per_second=1))


@pytest.mark.parametrize("all_have_messages", [True, False])
def test_an_import_reads_little_beyond_a_batch_that_is_never_confirmed(
    store: Store, tmp_path: Path, all_have_messages: bool
) -> None:
    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=True)
        place, source = found.place, Source(all_have_messages=all_have_messages)
        async with confirming(found, stuck=[0]):
            running = asyncio.create_task(steps_of(place, Work(found, source)).run(found.job))
            shown = await stalled_job(found)
            await until(lambda: found.topic.unconfirmed == 1)
            assert source.given == LIMIT + 1
            assert shown.position == 0
            assert await mongo.collection("import_batches").count_documents({}) == len(found.topic.batches)
            job = await paused(place, running, shown)

        # The batch is published again.
        resumed = again(found, job)
        async with confirming(resumed, stuck=[]):
            await steps_of(place, Work(resumed, source)).run(job)
        assert resumed.topic.batches[0] == found.topic.batches[0]
        done = await place.imports.find(job.workspace, job.id)
        assert (done.position, done.waiting_for) == (PARTS, None)
        assert len(await found.ledger()) == (PARTS if all_have_messages else 1)
        assert await mongo.collection("import_batches").count_documents({}) == 0

    run_with(store, test)


def test_an_undo_withdraws_little_beyond_a_batch_that_is_never_confirmed(
    store: Store, tmp_path: Path
) -> None:
    async def test(mongo: Mongo) -> None:
        found = await started(mongo, tmp_path, confirms=True, stage="undoing", queued_at=utcnow())
        place = found.place
        for number in range(PARTS):
            await found.stored(f"{number:08d}:00000000", message_ids(1))
        async with confirming(found, stuck=[0]):
            running = asyncio.create_task(steps_of(place, undo_of(found)).run(found.job))
            shown = await stalled_job(found)
            await until(lambda: found.topic.unconfirmed == 1)
            assert len(found.topic.batches) == LIMIT + 1
            assert len(await found.ledger()) == PARTS
            job = await paused(place, running, shown)

        resumed = again(found, job)
        async with confirming(resumed, stuck=[]):
            result = await steps_of(place, undo_of(resumed)).run(job)
        assert result.changes["remaining"] == 0
        assert (await place.imports.find(job.workspace, job.id)).withdrawn == PARTS

    run_with(store, test)
