"""Due work on a real store: one holder at a time, and a holder that stood still changes nothing any more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from bench.log import mongo_at
from shared.contracts.errors import BrokerUnavailable
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueWork, DueWorker, LeaseLost
from shared.runtime.logs import configure
from shared.runtime.mongo import Collection, Document, Index
from shared.runtime.records import Record
from shared.runtime.retry import Backoff
from tests.support.backends import Store

MANY = 60
DONE: Document = {"$set": {"done": True}, "$unset": {"open": "", "due_at": ""}}
HOUR = timedelta(hours=1)
BACKOFF = Backoff(first_s=60, max_s=600)


class Task(Record):
    fence: int
    due_at: datetime | None = None
    kind: str = "task"


def work_on(collection: Collection, lease: timedelta = HOUR) -> DueWork[Task]:
    claim, release = {"working": True}, {"working": False}
    return DueWork(collection, Task.from_document, lease=lease, claim_fields=claim, release_fields=release)


@asynccontextmanager
async def tasks(store: Store, count: int = 1) -> AsyncIterator[Collection]:
    """A collection with so many due tasks, the last one the longest overdue."""
    mongo = mongo_at(store.uri())
    try:
        await mongo.ensure_indexes({"tasks": [Index((("due_at", 1),), where=OPEN)]})
        collection = mongo.collection("tasks")
        now = utcnow()
        await collection.insert_many(
            [
                {"_id": str(number), "open": True, "due_at": now - timedelta(seconds=number), "fence": 0}
                for number in range(count)
            ]
        )
        yield collection
    finally:
        mongo.close()


async def read(collection: Collection, item_id: str = "0") -> Document:
    return await collection.find_one({"_id": item_id}) or {}


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- the condition has no event
            await asyncio.sleep(0.01)


# Claims


async def test_of_several_claims_one_gets_the_work(store: Store) -> None:
    async with tasks(store) as collection:
        claimed = await asyncio.gather(*(work_on(collection).claim("0") for _ in range(8)))
        [one] = [item for item in claimed if item is not None]
        stored = await read(collection)
        assert (stored["fence"], stored["working"]) == (1, True) == (one.fence, True)
        assert stored["due_at"] > utcnow() + HOUR / 2
        assert await work_on(collection).find_due(10) == []
        assert [item.id for item in await work_on(collection).find_due(10, within_s=7200)] == ["0"]


async def test_bulk_claims_share_the_due_documents(store: Store) -> None:
    async with tasks(store, MANY) as collection:
        ids = [str(number) for number in range(MANY)]
        await collection.update_one({"_id": "7"}, {"$set": {"due_at": utcnow() + HOUR}})
        shares = await asyncio.gather(*(work_on(collection).claim_all(ids) for _ in range(4)))
        claimed = [task.id for share in shares for task in share]
        assert len(claimed) == len(set(claimed)) == MANY - 1
        assert {task.fence for share in shares for task in share} == {1}
        assert await work_on(collection).claim_all([]) == []


async def test_the_longest_overdue_is_found_first(store: Store) -> None:
    async with tasks(store, 5) as collection:
        assert [item.id for item in await work_on(collection).find_due(3)] == ["4", "3", "2"]


async def test_an_early_claim_and_its_condition(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection)
        await collection.update_one({"_id": "0"}, {"$set": {"due_at": utcnow() + HOUR, "kind": "a"}})
        assert await work.claim("0") is None
        assert await work.claim("0", early=True, condition={"kind": "b"}) is None
        assert await work.claim("0", early=True, condition={"kind": "a"}) is not None
        await collection.update_one({"_id": "0"}, DONE)
        assert await work.claim("0", early=True) is None, "there is no work left"


async def test_a_stopped_holder_writes_nothing_after_another_claim(store: Store) -> None:
    async with tasks(store) as collection:
        stopped, another = work_on(collection, timedelta(0)), work_on(collection)
        first = await stopped.claim("0")
        second = await another.claim("0")
        assert first is not None
        assert second is not None
        before = await read(collection)
        assert not await stopped.write(first, DONE)
        assert not await stopped.renew(first)
        assert not await stopped.release(first, utcnow())
        assert await read(collection) == before
        assert await another.write(second, {"$set": {"result": 1}})
        assert (await read(collection))["result"] == 1


async def test_a_document_that_ended_stays_ended(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection)
        claimed = await work.claim("0")
        assert claimed is not None
        await collection.update_one({"_id": "0"}, DONE)  # somebody cancelled it
        assert not await work.renew(claimed)
        assert not await work.write(claimed, {"$set": {"due_at": utcnow()}})
        assert "due_at" not in await read(collection)


# Long work


async def test_a_lease_is_renewed_while_the_work_lasts(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection, timedelta(seconds=0.3))
        claimed = await work.claim("0")
        assert claimed is not None
        assert claimed.due_at is not None
        async with work.keep(claimed):
            until = claimed.due_at + timedelta(seconds=0.6)
            async with asyncio.timeout(60):
                while (await read(collection))["due_at"] < until:  # noqa: ASYNC110 -- it is in the store
                    await asyncio.sleep(0.02)
        assert (await read(collection))["fence"] == claimed.fence
        assert await work.write(claimed, DONE)


async def test_work_is_cancelled_when_another_process_has_claimed_it(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection, timedelta(seconds=0.2))
        claimed = await work.claim("0")
        assert claimed is not None
        await work_on(collection).claim("0", early=True)
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(60), work.keep(claimed):
                await asyncio.Event().wait()


async def test_work_on_a_document_that_was_ended_may_finish(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection, timedelta(seconds=0.1))
        claimed = await work.claim("0")
        assert claimed is not None
        await collection.update_one({"_id": "0"}, DONE)
        async with work.keep(claimed):
            await asyncio.sleep(0.3)  # several renewals
        assert "due_at" not in await read(collection)


async def test_a_cancellation_from_outside_goes_on(store: Store) -> None:
    async with tasks(store) as collection:
        work = work_on(collection)
        claimed = await work.claim("0")
        assert claimed is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), work.keep(claimed):
                await asyncio.Event().wait()


# Workers


async def test_two_workers_do_each_piece_of_work_once(store: Store) -> None:
    async with tasks(store, MANY) as collection:
        processed: list[str] = []
        running = peak = 0

        def worker() -> DueWorker[Task]:
            work = work_on(collection)

            async def process(task: Task) -> None:
                nonlocal running, peak
                running += 1
                peak = max(peak, running)
                await asyncio.sleep(0.005)
                processed.append(task.id)
                assert await work.write(task, DONE)
                running -= 1

            return DueWorker(
                work,
                process,
                configure("tests", "error"),
                name="task",
                poll_interval_s=0.2,
                backoff=BACKOFF,
                max_concurrent=3,
            )

        workers = [worker(), worker()]
        for item in workers:
            await item.start()
        await wait_until(lambda: len(processed) >= MANY)
        for item in workers:
            await item.stop()
        assert sorted(processed) == sorted(map(str, range(MANY)))
        assert 1 < peak <= 6
        assert await collection.count_documents({"fence": 1, "done": True}) == MANY


async def test_failed_work_is_postponed_and_holds_up_no_other(store: Store) -> None:
    async with tasks(store, 4) as collection:
        work, done = work_on(collection), asyncio.Event()

        async def process(task: Task) -> None:
            if task.id == "3":
                raise ValueError("broken")
            if task.id == "2":
                raise BrokerUnavailable("later")
            await work.write(task, DONE)
            if await collection.count_documents({"done": True}) == 2:
                done.set()

        worker = DueWorker(
            work, process, configure("tests", "error"), name="task", poll_interval_s=0.2, backoff=BACKOFF
        )
        await worker.start()
        async with asyncio.timeout(60):
            await done.wait()
        await worker.stop()
        for item_id in ("2", "3"):
            stored = await read(collection, item_id)
            wait = stored["due_at"] - utcnow()
            assert timedelta(seconds=30) < wait < timedelta(seconds=61), "the first pause of the backoff"
            assert stored["fence"] == 1


async def test_work_of_one_workspace_that_hangs_holds_up_no_other(store: Store) -> None:
    async with tasks(store, 20) as collection:
        await collection.update_one({"_id": "0"}, {"$set": {"kind": "other"}})
        started, other, let_go = list[str](), asyncio.Event(), asyncio.Event()

        async def process(claimed: Task) -> None:
            started.append(claimed.id)
            if claimed.kind == "other":
                other.set()
            else:
                await let_go.wait()
            await work_on(collection).write(claimed, DONE)

        worker = DueWorker(
            work_on(collection),
            process,
            configure("tests", "error"),
            name="task",
            poll_interval_s=0.05,
            backoff=BACKOFF,
            max_concurrent=6,
            workspace_of=lambda claimed: claimed.kind,
        )
        await worker.start()
        async with asyncio.timeout(30):
            await other.wait()
        assert (len(started), started[-1]) == (4, "0"), "half of the slots are for one workspace"
        soon = {"$gt": utcnow(), "$lt": utcnow() + HOUR / 2}
        query = {"_id": {"$nin": started}, "due_at": soon, "working": False}
        async with asyncio.timeout(30):
            while len(waiting := await collection.distinct("due_at", query)) < 16:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert max(waiting) < utcnow() + timedelta(seconds=30), "soon, and not all at once"
        let_go.set()
        await worker.stop()


async def test_a_worker_that_stops_finishes_its_work_and_starts_no_more(store: Store) -> None:
    async with tasks(store, 2) as collection:
        work, started, may_end = work_on(collection), asyncio.Event(), asyncio.Event()

        async def process(task: Task) -> None:
            started.set()
            await may_end.wait()
            await work.write(task, DONE)

        worker = DueWorker(
            work, process, configure("tests", "error"), name="task", poll_interval_s=0.2, backoff=BACKOFF
        )
        await worker.start()
        async with asyncio.timeout(60):
            await started.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        may_end.set()
        await stopping
        assert (await read(collection, "1"))["done"]
        assert (await read(collection, "0"))["fence"] == 0


async def test_a_worker_that_stops_cancels_what_takes_too_long(store: Store) -> None:
    async with tasks(store) as collection:
        work, started, ends = work_on(collection), asyncio.Event(), list[str]()

        async def process(_task: Task) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        worker = DueWorker(
            work,
            process,
            configure("tests", "error"),
            name="task",
            poll_interval_s=0.2,
            backoff=BACKOFF,
            stop_timeout_s=0.1,
        )
        await worker.start()
        async with asyncio.timeout(60):
            await started.wait()
            await worker.stop()
        assert ends == ["cancelled"]
        assert (await read(collection))["due_at"] > utcnow(), "until its lease ends"


async def test_new_work_need_not_wait_for_the_poll(store: Store) -> None:
    async with tasks(store, 1) as collection:
        work, wake, processed = work_on(collection), asyncio.Event(), list[str]()

        async def process(task: Task) -> None:
            processed.append(task.id)
            await work.write(task, DONE)

        worker = DueWorker(
            work,
            process,
            configure("tests", "error"),
            name="task",
            poll_interval_s=3600,
            backoff=BACKOFF,
            wake=wake,
        )
        await worker.start()
        await wait_until(lambda: processed == ["0"])
        await collection.insert_one({"_id": "new", "open": True, "due_at": utcnow(), "fence": 0})
        wake.set()
        await wait_until(lambda: processed == ["0", "new"])
        later = utcnow() + timedelta(seconds=0.3)  # before the next poll: the pause ends with it
        await collection.insert_one({"_id": "later", "open": True, "due_at": later, "fence": 0})
        wake.set()
        await wait_until(lambda: processed == ["0", "new", "later"])
        await worker.stop()
