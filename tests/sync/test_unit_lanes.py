"""Stored changes of lanes: found again by a new owner, in their order, and counted if there are many."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_hex
from typing import Any, cast

import pytest
import structlog
from pydantic import SecretStr

from services.sync.carry.lane import Lane
from services.sync.carry.lanes import Lanes
from services.sync.carry.outcomes import Change, Done, Failed, Outcome, Waits
from services.sync.carry.stored_changes import StoredChanges
from services.sync.model.lane_record import LANES
from services.sync.model.mapping import lane_of
from services.sync.model.synced_message import QUEUE, QueuedChange
from services.sync.store.lane_records import LaneRecords
from services.sync.store.queue import INDEXES, POSITION_BITS, SyncQueue
from services.sync.store.queue_counts import QueueCounts
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.contracts.sync import SourceRef, SyncRequested
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store


class Record:
    """The duty to complete a record."""

    def __init__(self) -> None:
        self.is_revoked = False
        self.ends: list[str] = []

    def done(self) -> None:
        self.ends.append("done")

    def fail(self, _: Exception) -> None:
        self.ends.append("failed")


@dataclass
class Queue:
    """The queue of one workspace, and processes that own its lanes one after another."""

    mongo: Mongo
    workspace: str = field(default_factory=lambda: f"ws_{token_hex(4)}")
    carried: list[str] = field(default_factory=list)
    outcome: Callable[[Change], Outcome] = lambda _: Done()
    given_up: list[str] = field(default_factory=list)
    number: int = 0
    assigned: tuple[int, Sequence[int]] = (0, ())
    """The assignment of all processes, if it has a number."""
    account_pause_s: float = 0.0
    running: list[Lanes] = field(default_factory=list)
    held: Mapping[str, asyncio.Event] = field(default_factory=dict)
    """Numbers of changes that are being sent until their events are set."""

    def change(self, number: int, conversation: str = "C1", *, kind: str = "map_1") -> Change:
        """Return the change of a record; its number orders it."""
        now = rfc3339(utcnow())
        request = SyncRequested(
            request_id=f"{self.workspace}.{conversation}.{number}",
            mapping_id=f"{self.workspace}.{kind}",
            leg_id="slack",
            kind="message",
            synced_id="syn_1",
            source=SourceRef(provider="chat", account="a", conversation="general", external_id="m"),
            author=ChatAuthor(id="usr_ada"),
            text="hello",
            occurred_at=now,
            received_at=now,
        )
        first_ms = int(utcnow().timestamp() * 1000) - 3_600_000
        return Change(
            request=request,
            workspace=self.workspace,
            traceparent="",
            lane=lane_of(f"{self.workspace}.{kind}", "slack:T1", conversation),
            account_key="slack:T1",
            partition=3,
            position=first_ms + number * 10 << POSITION_BITS,
            received_at=utcnow(),
            completion=cast("Any", Record()),
        )

    async def start(self, partitions: Sequence[int] = (3,)) -> Lanes:
        """Start the lanes of a process that gets these partitions."""
        self.number += 1
        number, queue = self.number, SyncQueue(self.mongo)
        lanes = Lanes(
            queue,
            StoredChanges(queue, LaneRecords(self.mongo), lambda _: 3600.0),
            self._carry,
            self._give_up,
            structlog.get_logger(),
            account_pause_s=lambda *_: self.account_pause_s,
            assignment=lambda: self.assigned if self.assigned[0] else (number, list(partitions)),
        )
        self.running.append(lanes)
        await lanes.start()
        return lanes

    async def has_stored(self, count: int, collection: str = QUEUE) -> None:
        """Wait until there are so many documents of the workspace."""
        found = self.mongo.collection(collection)
        async with asyncio.timeout(60):
            while len(await found.find({"workspace": self.workspace}).to_list(None)) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def carried_to(self, count: int) -> list[str]:
        """Wait for the numbers of the changes that were carried."""
        await until(lambda: len(self.carried) >= count)
        return self.carried

    async def _carry(self, change: Change) -> Outcome:
        await asyncio.sleep(0)
        number = change.request.request_id.rsplit(".", 1)[1]
        if number in self.held:
            await self.held[number].wait()
        outcome = self.outcome(change)
        if isinstance(outcome, Done):
            self.carried.append(number)
        return outcome

    async def _give_up(self, change: Change, reason: str) -> Outcome:
        self.given_up.append(change.request.request_id.rsplit(".", 1)[1])
        return Failed(reason)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 -- nothing announces it
            await asyncio.sleep(0.01)


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[Queue]:
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    found = Queue(mongo)
    yield found
    for lanes in found.running:
        await lanes.stop()
    mongo.close()


def waits(_: Change) -> Outcome:
    return Waits(3600, "no")


async def test_a_new_owner_carries_what_is_stored_before_new_changes(queue: Queue) -> None:
    queue.outcome = waits
    first = await queue.start()
    await first.put([queue.change(number) for number in range(40)])
    await queue.has_stored(40)
    await until(lambda: all(lane.due_at for lane in first._lanes.values()))
    await first.stop()
    queue.outcome = lambda _: Done()
    # Without their due times, all of them are due.
    await queue.mongo.collection(QUEUE).update_many(
        {"workspace": queue.workspace}, {"$set": {"due_at": utcnow() - timedelta(seconds=1)}}
    )
    second = await queue.start()
    await second.put([queue.change(number) for number in range(40, 60)])
    assert await queue.carried_to(60) == [str(number) for number in range(60)]
    await queue.has_stored(0)
    await queue.has_stored(0, LANES)


@pytest.mark.parametrize("is_polled_first", [True, False])
async def test_a_lane_with_many_changes_stays_in_order_when_its_owner_is_killed(
    queue: Queue, *, is_polled_first: bool
) -> None:
    """More than a lane has in memory: what is stored must not overtake what Kafka delivers again."""
    queue.held = {"4": asyncio.Event()}
    first = await queue.start()
    await first.put([queue.change(number) for number in range(60)])
    await queue.has_stored(56)
    await first._turns.stop()  # in the midst of a call of the provider
    queue.held = {}
    second = await queue.start()
    if is_polled_first:
        await queue.carried_to(60)
    await second.put([queue.change(number) for number in range(4, 60)])
    await until(lambda: not second._lanes)
    assert list(dict.fromkeys(queue.carried)) == [str(number) for number in range(60)]
    await queue.has_stored(0)
    await queue.has_stored(0, LANES)


async def test_of_redelivered_changes_the_missing_ones_are_stored(queue: Queue) -> None:
    stored = StoredChanges(SyncQueue(queue.mongo), LaneRecords(queue.mongo), lambda _: 3600.0)
    lane = Lane(queue.change(0).lane, queue.workspace, "slack:T1", has_stored=True)
    for numbers in ([1, 3], range(60), [2]):
        await stored.store(lane, [queue.change(number) for number in numbers])
    await queue.has_stored(60)


async def test_a_lane_that_waits_is_not_tried_before_its_time(queue: Queue) -> None:
    queue.outcome = waits
    first = await queue.start()
    await first.put([queue.change(1)])
    await queue.has_stored(1)
    await first.stop()
    queue.outcome = lambda _: Done()
    second = await queue.start()
    await second.put([queue.change(1, "C2"), queue.change(2)])
    assert await queue.carried_to(1) == ["1"]
    await queue.has_stored(2)
    assert queue.carried == ["1"]
    second.retry_waiting()
    assert await queue.carried_to(3) == ["1", "1", "2"]


async def test_a_record_of_a_lane_is_not_removed_while_a_change_is_being_stored(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next owner of the partition would not know of the change."""
    stored = StoredChanges(SyncQueue(queue.mongo), LaneRecords(queue.mongo), lambda _: 3600.0)
    lane = Lane(queue.change(0).lane, queue.workspace, "slack:T1", has_stored=True)
    await stored.store(lane, [first := queue.change(0)])
    assert first.stored is not None
    await SyncQueue(queue.mongo).remove(first.stored.id)
    add, is_adding, goes_on = SyncQueue.add, asyncio.Event(), asyncio.Event()

    async def slow_add(self: SyncQueue, changes: Any) -> None:
        is_adding.set()
        await goes_on.wait()
        await add(self, changes)

    monkeypatch.setattr(SyncQueue, "add", slow_add)
    storing = asyncio.create_task(stored.store(lane, [queue.change(1)]))
    await is_adding.wait()
    assert await stored.first(lane, lambda: [3], 1) == []
    assert lane.has_stored
    goes_on.set()
    await storing
    await queue.has_stored(1, LANES)
    # A record that was stored anew since it was read is not removed either.
    record_id, stamp = lane.record_id, lane.stamp
    earlier = queue.change(-1_000)
    await stored.store(lane, [earlier])
    await LaneRecords(queue.mongo).remove(record_id, stamp)
    await LaneRecords(queue.mongo).advance(record_id, stamp, 1 << 62)
    (record,) = [item for item in await stored.lanes([3]) if item.workspace == queue.workspace]
    assert record.head == earlier.position


async def test_a_lane_that_was_read_while_its_partition_came_back_goes_on(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance takes a partition away and gives it back, while its first change is read."""
    queue.outcome = waits
    lanes = await queue.start()
    await lanes.put([queue.change(1)])
    await queue.has_stored(1)
    await until(lambda: not lanes._turns._tasks)
    queue.outcome = lambda _: Done()
    find, is_reading, goes_on = SyncQueue.first, asyncio.Event(), asyncio.Event()

    async def slow_first(self: SyncQueue, *arguments: Any) -> Any:
        found = await find(self, *arguments)
        is_reading.set()
        await goes_on.wait()
        return found

    monkeypatch.setattr(SyncQueue, "first", slow_first)
    queue.assigned = (100, [])
    lanes.retry_waiting()
    await is_reading.wait()
    queue.assigned = (101, [3])
    await until(lambda: lanes._loaded == 101)
    goes_on.set()
    await until(lambda: not lanes._turns._tasks)
    lanes.retry_waiting()
    assert await queue.carried_to(1) == ["1"]


async def test_many_lanes_go_on_without_a_task_for_each(queue: Queue) -> None:
    queue.outcome = waits
    before = len(asyncio.all_tasks())  # other tests of this loop have left some
    lanes = await queue.start()
    await lanes.put([queue.change(1, f"C{number}") for number in range(200)])
    await queue.has_stored(200)
    await until(lambda: not lanes._turns._tasks)
    assert len(asyncio.all_tasks()) - before < 10
    queue.outcome = lambda _: Done()
    lanes.retry_waiting()
    assert len(await queue.carried_to(200)) == 200
    await until(lambda: not lanes._lanes)
    await queue.has_stored(0, LANES)


async def test_many_changes_are_counted_by_a_sample(queue: Queue) -> None:
    lane = Lane(queue.change(0).lane, queue.workspace, "slack:T1")
    stored = StoredChanges(SyncQueue(queue.mongo), LaneRecords(queue.mongo), lambda _: 3600.0)
    await stored.store(lane, [queue.change(number) for number in range(300)])
    counts = QueueCounts(queue.mongo)
    few = await counts.count(queue.workspace, None)
    assert (few.estimated, few.lanes[0].counts["waiting"]) == (False, 300)
    await stored.store(lane, [queue.change(number) for number in range(300, 6000)])
    many = await counts.count(queue.workspace, None)
    assert many.estimated
    assert 4500 < many.lanes[0].counts["waiting"] < 7500
    assert (many.lanes[0].conversation, many.lanes[0].account_key) == ("C1", "slack:T1")


async def test_lanes_of_a_refused_account_are_not_read(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.outcome = waits
    first = await queue.start()
    await first.put([queue.change(1, f"C{number}") for number in range(20)])
    await queue.has_stored(20)
    await first.stop()
    queue.outcome, queue.account_pause_s = lambda _: Done(), 3600.0
    reads: list[str] = []
    find = SyncQueue.first

    async def noted_first(self: SyncQueue, lane: str, cursor: Any, limit: int) -> Any:
        reads.append(lane)
        return await find(self, lane, cursor, limit)

    monkeypatch.setattr(SyncQueue, "first", noted_first)
    second = await queue.start()
    await second.put([queue.change(2, "C1")])
    await until(lambda: len(second._lanes) == 20 and all(lane.due_at for lane in second._lanes.values()))
    await until(lambda: not second._turns._tasks and len(second._due) >= 20)
    assert reads == []
    queue.account_pause_s = 0.0
    second.retry_waiting(queue.workspace)
    assert len(await queue.carried_to(21)) == 21


async def test_workspaces_go_on_in_turn(queue: Queue) -> None:
    lanes = await queue.start()
    many = [lanes._lane(f"many{number}", "many", "slack:T1") for number in range(50)]
    few = [lanes._lane(f"few{number}", "few", "slack:T1") for number in range(2)]
    lanes._resume([*many, *few])
    order = sorted((*many, *few), key=lambda lane: lane.due_at or 0.0)
    assert [lane.workspace for lane in order[:4]] == ["many", "few", "many", "few"]


async def test_a_retry_that_is_requested_while_a_lane_carries_is_not_lost(queue: Queue) -> None:
    lanes = await queue.start()

    def mended_meanwhile(change: Change) -> Outcome:
        queue.outcome = lambda _: Done()
        lanes.retry_waiting(change.workspace)
        return Waits(3600, "Its account is not connected.")

    queue.outcome = mended_meanwhile
    await lanes.put([queue.change(1)])
    assert await queue.carried_to(1) == ["1"]


async def test_a_retry_that_is_requested_while_a_lane_is_read_is_not_lost(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.outcome = waits
    first = await queue.start()
    await first.put([queue.change(1)])
    await queue.has_stored(1)
    await first.stop()
    queue.outcome = lambda _: Done()
    find, is_reading, goes_on = SyncQueue.first, asyncio.Event(), asyncio.Event()

    async def slow_first(self: SyncQueue, *arguments: Any) -> Any:
        is_reading.set()
        await goes_on.wait()
        return await find(self, *arguments)

    monkeypatch.setattr(SyncQueue, "first", slow_first)
    second = await queue.start()
    await is_reading.wait()
    second.retry_waiting(queue.workspace)
    goes_on.set()
    assert await queue.carried_to(1) == ["1"]


async def test_a_change_that_waits_for_long_expires_only_after_it_has_failed(queue: Queue) -> None:
    """A mapping may be paused for weeks."""
    queue.outcome, collection = waits, queue.mongo.collection(QUEUE)
    lanes, change = await queue.start(), queue.change(1)
    change.received_at -= timedelta(days=30)
    await lanes.put([change])
    await queue.has_stored(1)
    await queue.mongo.delete_expired(INDEXES)
    assert (await collection.find_one({"workspace": queue.workspace}) or {})["state"] == "waiting"
    queue.outcome = lambda _: Failed("no")
    lanes.retry_waiting(queue.workspace)
    await until(lambda: not lanes._lanes)
    failed = await collection.find_one({"workspace": queue.workspace, "state": "failed"}) or {}
    assert timedelta(days=6) < failed["expires_at"] - utcnow() < timedelta(days=8)
    await lanes.stop()
    await SyncQueue(queue.mongo).retry([QueuedChange.from_document(failed)], 3600)
    retried = await collection.find_one({"workspace": queue.workspace, "state": "aside"}) or {}
    assert retried["expires_at"] - utcnow() > timedelta(days=30)


async def test_a_new_owner_asks_at_once_where_a_person_may_have_acted(queue: Queue) -> None:
    queue.outcome = lambda _: Waits(
        3600, "The mapping is paused: resume it.", counts=False, needs_person=True
    )
    first = await queue.start()
    await first.put([queue.change(1)])
    await queue.has_stored(1)
    await until(lambda: all(lane.due_at for lane in first._lanes.values()))
    await first.stop()
    queue.outcome = lambda _: Done()
    await queue.start()
    assert await queue.carried_to(1) == ["1"]
