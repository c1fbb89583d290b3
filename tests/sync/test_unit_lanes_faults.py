"""Lanes while the database fails, or one of many workspaces wants all of their time: nothing stays behind."""

import asyncio
from typing import Any

import pytest

from services.sync.carry import lanes as lanes_module
from services.sync.carry.lanes import HUB_FAULT, Lanes
from services.sync.carry.outcomes import Change, Done, Outcome
from services.sync.model.lane_record import LANES
from services.sync.model.synced_message import QUEUE
from services.sync.store.queue import SyncQueue
from shared.contracts.errors import DatabaseUnavailable
from tests.sync.test_unit_lanes import Queue, Record, queue, until, waits

__all__ = ["queue"]


async def with_one_stored(queue: Queue) -> Lanes:
    """Start lanes of which one waits with one stored change."""
    queue.outcome = waits
    lanes = await queue.start()
    await lanes.put([queue.change(1)])
    await queue.has_stored(1)
    await until(lambda: not lanes._turns._tasks)
    queue.outcome = lambda _: Done()
    return lanes


async def test_a_lane_whose_search_ends_before_storing_fails_ends(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = await with_one_stored(queue)
    is_adding, goes_on = asyncio.Event(), asyncio.Event()

    async def failing_add(_self: SyncQueue, _changes: Any) -> None:
        is_adding.set()
        await goes_on.wait()
        raise DatabaseUnavailable("MongoDB does not answer")

    refused, record = queue.change(2), Record()
    refused.completion = record  # type: ignore[assignment]
    with monkeypatch.context() as patched:
        patched.setattr(SyncQueue, "add", failing_add)
        putting = asyncio.create_task(lanes.put([refused]))
        await is_adding.wait()
        lanes.retry_waiting()
        assert await queue.carried_to(1) == ["1"]
        await until(lambda: not lanes._turns._tasks)
        assert lanes._lanes  # a change may come yet
        goes_on.set()
        await putting
    assert record.ends == ["failed"]
    await until(lambda: not lanes._lanes)
    await queue.has_stored(0)
    await queue.has_stored(0, LANES)
    await lanes.put([queue.change(2)])  # its record is handled again
    assert await queue.carried_to(2) == ["1", "2"]


async def test_a_change_that_was_stored_although_storing_failed_is_found(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response of the database is lost while a search that has not seen the change is under way."""
    lanes = await with_one_stored(queue)
    find, add, is_reading, goes_on = SyncQueue.first, SyncQueue.add, asyncio.Event(), asyncio.Event()

    async def slow_first(self: SyncQueue, *arguments: Any) -> Any:
        found = await find(self, *arguments)
        if not found and not is_reading.is_set():
            is_reading.set()
            await goes_on.wait()
        return found

    async def add_without_response(self: SyncQueue, changes: Any) -> None:
        await add(self, changes)
        raise DatabaseUnavailable("MongoDB does not answer")

    monkeypatch.setattr(SyncQueue, "first", slow_first)
    monkeypatch.setattr(SyncQueue, "add", add_without_response)
    lanes.retry_waiting()
    await is_reading.wait()
    await lanes.put([queue.change(2)])
    goes_on.set()
    assert await queue.carried_to(2) == ["1", "2"]
    await until(lambda: not lanes._lanes)
    await queue.has_stored(0)
    await queue.has_stored(0, LANES)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_change_that_is_sent_while_it_is_stored_is_not_applied_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """Its lane overflows, so that `put` stores it too; with `fails`, the database's response is lost."""
    queue.held = {"0": asyncio.Event()}
    lanes = await queue.start()
    await lanes.put([queue.change(0)])
    add, is_stored, goes_on = SyncQueue.add, asyncio.Event(), asyncio.Event()

    async def slow_add(self: SyncQueue, changes: Any) -> None:
        if not fails:  # the change ends before it is stored
            is_stored.set()
            await goes_on.wait()
        await add(self, changes)
        is_stored.set()
        await goes_on.wait()
        if fails:
            raise DatabaseUnavailable("MongoDB does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(SyncQueue, "add", slow_add)
        putting = asyncio.create_task(lanes.put([queue.change(number) for number in range(1, 40)]))
        await is_stored.wait()
        queue.held["0"].set()
        await queue.carried_to(1)
        goes_on.set()
        await putting
    await lanes.put([queue.change(number) for number in range(32, 40)])  # again, if their records failed
    await until(lambda: not lanes._lanes)
    in_memory = [number for number in queue.carried if int(number) < 32]
    assert in_memory == [str(number) for number in range(32)]
    await queue.has_stored(0)


async def test_a_change_that_the_hub_cannot_apply_is_given_up_and_the_next_one_applied(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "_DATABASE_PAUSE_S", 0.01)
    attempts: list[str] = []

    def faulty(change: Change) -> Outcome:
        attempts.append(change.request.request_id.rsplit(".", 1)[1])
        if attempts[-1] == "1":
            raise ValueError("a bug")
        return Done()

    queue.outcome = faulty
    lanes = await queue.start()
    await lanes.put([queue.change(1), queue.change(2)])
    assert await queue.carried_to(1) == ["2"]
    assert (queue.given_up, attempts) == (["1"], ["1"] * 5 + ["2"])
    [failed] = await queue.mongo.collection(QUEUE).find({"workspace": queue.workspace}).to_list(None)
    assert (failed["state"], failed["reason"]) == ("failed", HUB_FAULT)


async def test_signals_do_not_wait(queue: Queue) -> None:
    """They are worth nothing later, and would be counted as messages that wait."""
    lanes = await with_one_stored(queue)
    signal, record = typing(queue), Record()
    signal.completion = record  # type: ignore[assignment]
    await lanes.put([signal])
    assert record.ends == ["done"]
    await queue.has_stored(1)
    await lanes.put([queue.change(3, "C2"), typing(queue, "C2")])
    assert sorted(await queue.carried_to(2)) == ["2", "3"]


def typing(queue: Queue, conversation: str = "C1") -> Change:
    change = queue.change(2, conversation)
    change.request = change.request.model_copy(update={"kind": "signal"})
    return change


async def test_one_partition_does_not_keep_the_search_from_the_others(queue: Queue) -> None:
    changes = SyncQueue(queue.mongo)
    lanes = await queue.start([0, 3])
    await lanes.stop()  # it is only asked how to store
    for partition, count in ((0, 400), (3, 1)):
        found = [queue.change(number, f"C{partition}") for number in range(count)]
        for change in found:
            change.partition = partition
        lane = lanes._lane(found[0].lane, queue.workspace, "slack:T1")
        await lanes._stored.store(lane, found)
    await queue.mongo.collection("sync_queue").update_many(
        {"workspace": queue.workspace}, {"$set": {"state": "aside"}}
    )
    due = await changes.find_set_aside([0, 3])
    assert {item.partition for item in due if item.workspace == queue.workspace} == {0, 3}
    assert len(due) <= 400
