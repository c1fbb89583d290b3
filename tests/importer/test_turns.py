"""Whose turn it is among the imports, and that a cancelled or paused one stops in time, whatever it does."""

import asyncio
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import pytest

from services.importer.api.import_schemas import Estimate, ImportOut
from services.importer.jobs.import_job import ImportJob, Summary
from services.importer.jobs.source import AccountSource, UploadSource
from services.importer.jobs.steps import ImportSteps
from services.importer.publish.broker_memory import BrokerMemory
from shared.contracts.errors import Conflict, OverLimit, RetryLater
from shared.runtime.clock import utcnow
from shared.runtime.jobs import JobFailed, StepResult
from shared.runtime.mongo import Mongo
from shared.runtime.web.paging import Paging
from tests.importer.import_places import RUNNING, ImportPlace, run_with
from tests.support.backends import Store

STOP_S: Final = 5.0
WAITING: Final = 20


def test_the_twenty_first_waiting_import_is_refused_with_the_fix(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        places = [ImportPlace(mongo, tmp_path / name) for name in ("a", "b")]
        upload = await places[0].uploaded("w")
        # All at once, by two processes: none exceeds the limit.
        results = await asyncio.gather(
            *(places[number % 2].imports.create("w", upload.id) for number in range(30)),
            return_exceptions=True,
        )
        refused = [item for item in results if isinstance(item, BaseException)]
        stored = await mongo.collection("imports").count_documents({"workspace": "w"})
        assert stored == 30 - len(refused)
        assert stored <= RUNNING + WAITING
        for _ in range(RUNNING + WAITING - stored):
            await places[0].imports.create("w", upload.id)
        with pytest.raises(OverLimit, match="finish or cancel one first") as error:
            await places[0].imports.create("w", upload.id)
        assert error.value.status == 429
        assert all(isinstance(item, OverLimit) for item in refused)

        other = await places[0].uploaded("other")
        created = await places[0].imports.create("other", other.id)
        assert await places[0].imports.may_run(created)
        [newest] = (await places[1].imports.page("w", Paging(1))).items
        await places[1].imports.cancel("w", newest.id)
        await places[1].imports.create("w", upload.id)  # a place is free

    run_with(store, test)


def test_two_imports_of_a_workspace_have_their_turn_in_their_order(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        place = ImportPlace(mongo, tmp_path)
        imports, workspace = place.imports, f"w-{token_hex(4)}"
        upload = await place.uploaded(workspace)
        jobs = [await imports.create(workspace, upload.id) for _ in range(6)]
        same = {"queued_at": jobs[0].queued_at}  # imports that were created within a millisecond
        await mongo.collection("imports").update_many({"workspace": workspace}, {"$set": same})

        async def turns() -> list[str]:
            current = [await imports.find(workspace, job.id) for job in jobs]
            return [job.id for job in current if job.open and await imports.may_run(job)]

        first = await turns()
        assert len(first) == RUNNING
        await imports.cancel(workspace, first[0])
        await imports.pause(workspace, first[1])
        second = await turns()
        assert len(second) == RUNNING
        assert not set(first) & set(second)
        await imports.resume(workspace, first[1])
        assert await turns() == second  # it has lost its place: it is the last one now

    run_with(store, test)


def test_an_undo_and_an_import_of_one_account_run_one_after_another(store: Store, tmp_path: Path) -> None:
    def summary(account: str) -> Summary:
        return Summary(
            kind="a Slack export", provider="slack", account=account,
            people=0, conversations=0, units=0, size=0, description="",
        )  # fmt: skip

    async def test(mongo: Mongo) -> None:
        place = ImportPlace(mongo, tmp_path)
        runs = {"stage": "running", "step": "messages", "summary": summary("T1")}
        for first, second, may_run in (
            (runs, {"stage": "undoing", "summary": summary("T1")}, False),
            ({"stage": "undoing", "summary": summary("T1")}, runs, False),
            ({"stage": "undoing", "summary": summary("T1")}, {**runs, "is_dry_run": True}, True),
            ({"stage": "undoing", "summary": summary("T1")}, {"stage": "reading"}, True),
            ({"stage": "undoing", "summary": summary("T2")}, runs, True),
            ({**runs, "is_dry_run": True}, {"stage": "undoing", "summary": summary("T1")}, True),
            (runs, runs, True),
        ):
            workspace = f"w-{token_hex(4)}"
            older = await place.claimed(workspace, **first)
            later = utcnow() + timedelta(seconds=1)
            younger = await place.claimed(workspace, **{"queued_at": later, **second})
            assert await place.imports.may_run(older)
            assert await place.imports.may_run(younger) is may_run, (first, second)
            await place.imports.cancel(workspace, older.id)
            assert await place.imports.may_run(younger)

    run_with(store, test)


def test_a_process_takes_only_imports_whose_folder_it_sees(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        here, there = (ImportPlace(mongo, tmp_path / name) for name in ("a", "b"))
        shared = ImportPlace(mongo, tmp_path / "a")  # another process with the same folder
        workspace = f"w-{token_hex(4)}"
        upload = await here.uploaded(workspace)
        created = await there.imports.create(workspace, upload.id)
        assert [item.id for item in await here.imports.jobs.work.find_due(10)] == [created.id]
        assert [item.id for item in await shared.imports.jobs.work.find_due(10)] == [created.id]
        assert await there.imports.jobs.work.find_due(10) == []
        # Its undo needs no upload: every process can do it.
        await here.imports.cancel(workspace, created.id)
        await there.imports.undo(
            workspace, created.id, messages=0, added=0, keep_answered=False, keep_shared=False
        )
        assert [item.id for item in await there.imports.jobs.work.find_due(10)] == [created.id]

    run_with(store, test)


def test_an_import_that_no_process_takes_says_why() -> None:
    late = utcnow() - timedelta(minutes=1)
    more = {"workspace": "w", "kind": "import", "created_at": late, "queued_at": late, "due_at": late}
    upload = UploadSource(folder="fld_1", upload_id="upl_1", name="export.zip")
    account = AccountSource(integration_id="int_1", provider="slack", account="T1", name="a team")
    estimate = Estimate(1, BrokerMemory(None))
    unclaimed = ImportJob(id="imp_1", source=upload, open=True, **more)
    assert "the folder of its upload" in str(ImportOut.of(unclaimed, estimate).waiting_for)
    other = ImportJob(id="imp_1", source=account, open=True, **more)
    assert "that has room for it" in str(ImportOut.of(other, estimate).waiting_for)
    claimed = unclaimed.model_copy(update={"due_at": utcnow() + timedelta(seconds=10)})
    assert ImportOut.of(claimed, estimate).waiting_for is None
    assert ImportOut.of(unclaimed.model_copy(update={"open": False}), estimate).waiting_for is None


class Failing:
    """The work of a stage that ends with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run(self, _: ImportJob) -> StepResult:
        raise self._error


def test_a_daily_import_goes_on_tomorrow_whatever_has_ended_this_one(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        place = ImportPlace(mongo, tmp_path)
        source = AccountSource(integration_id="int_1", provider="slack", account="T1", name="a team")
        for error, fields, repeats in (
            (JobFailed("no export"), {"stage": "running", "step": "messages"}, True),
            (ValueError("a fault of the hub"), {"stage": "running", "step": "files"}, True),
            (JobFailed("no export"), {"stage": "reading", "starts_itself": True}, True),
            (JobFailed("no export"), {"stage": "reading"}, False),  # a person has not started it yet
            (JobFailed("no export"), {"stage": "running", "step": "messages", "is_dry_run": True}, False),
            (RetryLater("the database"), {"stage": "running", "step": "messages"}, False),
        ):
            workspace = f"w-{token_hex(4)}"
            work: Any = Failing(error)
            steps = ImportSteps(place.imports, work, work, work, work, work)
            job = await place.claimed(workspace, repeat="daily", **{"source": source, **fields})
            with pytest.raises(type(error)):
                await steps.run(job)
            others = [
                item for item in (await place.imports.page(workspace, Paging(9))).items
                if item.id != job.id
            ]  # fmt: skip
            assert len(others) == repeats, (error, fields)
            assert all(item.repeat == "daily" and item.queued_at > utcnow() for item in others)

    run_with(store, test)


class Endless:
    """The work of a stage that never ends by itself. `ended` is set when it was stopped."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = False

    async def run(self, job: ImportJob) -> StepResult:
        self.started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended = True
        raise AssertionError(job.id)


STAGES: Final[tuple[dict[str, Any], ...]] = (
    {"stage": "reading"},
    {"stage": "running", "step": "messages"},
    {"stage": "running", "step": "files"},
    {"stage": "verifying", "step": "verify"},
    {"stage": "undoing"},
)


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_each_stage_ends_within_five_seconds_of_a_call_to_another_process(
    store: Store, tmp_path: Path, action: str
) -> None:
    async def ends(here: ImportPlace, there: ImportPlace, fields: dict[str, Any]) -> None:
        work: Any = Endless()
        steps = ImportSteps(here.imports, work, work, work, work, work)
        job = await here.claimed(f"w-{token_hex(4)}", **fields)
        running = asyncio.create_task(steps.run(job))
        await work.started.wait()
        called_at = monotonic()
        stopped = await getattr(there.imports, action)(job.workspace, job.id)
        assert stopped.state == {"cancel": "cancelled", "pause": "paused"}[action]
        await running
        assert work.ended
        assert monotonic() - called_at < STOP_S
        if action == "pause":
            assert (await there.imports.cancel(job.workspace, job.id)).state == "cancelled"
        with pytest.raises(Conflict, match="can be undone"):
            await here.imports.cancel(job.workspace, job.id)

    async def test(mongo: Mongo) -> None:
        here, there = (ImportPlace(mongo, tmp_path / name) for name in ("a", "b"))
        await asyncio.gather(*(ends(here, there, fields) for fields in STAGES))

    run_with(store, test)
