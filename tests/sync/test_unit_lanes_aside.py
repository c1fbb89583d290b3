"""Changes that were set aside, and changes of partitions that another process gets: none is lost."""

from typing import Any

import pytest

from services.sync.carry.lane import Lane
from services.sync.carry.outcomes import Change, Done, Outcome, SetAside, Waits
from services.sync.carry.stored_changes import StoredChanges
from services.sync.model.lane_record import LANES
from services.sync.model.synced_message import QUEUE
from services.sync.store import queue as queue_store
from services.sync.store.lane_records import LaneRecords
from services.sync.store.queue import SyncQueue
from tests.sync.test_unit_lanes import Queue, queue, until, waits

__all__ = ["queue"]


def is_aside(_: Change) -> Outcome:
    return SetAside(0.0, "Its message is not sent yet.")


async def test_a_wake_ends_the_pause_of_a_change_that_was_aside(queue: Queue) -> None:
    tries: list[Outcome] = [is_aside(queue.change(1)), Waits(3600, "The mapping is paused: resume it.")]
    queue.outcome = lambda _: tries.pop(0)
    lanes = await queue.start()
    await lanes.put([queue.change(1)])
    await until(lambda: not tries and any(lane.due_at for lane in lanes._lanes.values()))
    queue.outcome = lambda _: Done()
    lanes.retry_waiting(queue.workspace)
    assert await queue.carried_to(1) == ["1"]


async def test_changes_that_were_aside_in_a_lane_that_waits_hold_up_no_other(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_store, "_MAX_DUE", 5)
    paused = {"C1"}

    def outcome(change: Change) -> Outcome:
        conversation = change.request.request_id.split(".")[1]
        if change.stored is None:
            return is_aside(change)
        return waits(change) if conversation in paused else Done()

    queue.outcome = outcome
    lanes = await queue.start()
    await lanes.put([queue.change(number) for number in range(20)])
    await queue.has_stored(20)
    await lanes.put([queue.change(20, "C2")])
    assert await queue.carried_to(1) == ["20"]
    paused.clear()
    lanes.retry_waiting(queue.workspace)
    assert sorted(map(int, await queue.carried_to(21))) == list(range(21))
    await queue.has_stored(0, QUEUE)


async def test_a_change_behind_one_of_a_partition_that_was_given_up_is_carried(queue: Queue) -> None:
    """More partitions of the topic give an account another one; changes of the earlier one stay there."""
    queue.assigned = (100, [3])
    lanes = await queue.start()
    earlier, later = queue.change(1), queue.change(2)
    earlier.partition = 2
    lane = lanes._lane(earlier.lane, queue.workspace, earlier.account_key)
    await lanes._stored.store(lane, [earlier])
    lane.changes += [earlier, later]
    lanes._run(lane)
    assert await queue.carried_to(1) == ["2"]
    await until(lambda: not lanes._lanes)


async def test_a_record_that_another_process_has_written_during_a_search_stays(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that gets a partition back reads its records while a search from before is under way."""
    changes, records = SyncQueue(queue.mongo), LaneRecords(queue.mongo)
    stored = StoredChanges(changes, records, lambda _: 3600.0)
    change = queue.change(1)
    lane = Lane(change.lane, queue.workspace, change.account_key, has_stored=True)
    find, is_first = SyncQueue.first, True

    async def first(self: SyncQueue, *arguments: Any) -> Any:
        nonlocal is_first
        found = await find(self, *arguments)
        if is_first:
            is_first = False
            other = Lane(change.lane, queue.workspace, change.account_key)
            await stored.store(other, [change])
            lane.record_id, lane.stamp = other.record_id, other.stamp
        return found

    monkeypatch.setattr(SyncQueue, "first", first)
    found = await stored.first(lane, lambda: [3], 1)
    assert found is not None
    assert [item.request.request_id for item in found] == [change.request.request_id]
    await queue.has_stored(1, LANES)
