"""The backlog over the real store: what is worked off from memory, what is stored, and two owners."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiokafka import TopicPartition
from pydantic import SecretStr

from services.delivery.engine import backlog as backlog_module
from services.delivery.engine.backlog import MAX_EVENTS_IN_MEMORY, Backlog
from services.delivery.engine.deferred_events import ChunkRecord, DeferredEvents
from shared.contracts.envelope import Event
from shared.runtime.kafka.batch import Completion, ConsumedEvent, OpenRecord
from shared.runtime.kafka.watermark import PartitionTracker
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

WORKSPACE = "w"


class Partition:
    """A partition from which events are polled; completions end as the consumer's do."""

    def __init__(self) -> None:
        self.source = f"test.{token_hex(6)}", 0
        self.errors: list[Exception] = []
        self._offset = 0
        self._track()

    def _track(self) -> None:
        self.tracker = PartitionTracker(
            TopicPartition(*self.source), self._offset, max_bytes=1 << 30, on_progress=lambda *_: None
        )

    def poll(
        self, count: int, workspace: str = WORKSPACE, data: bytes = b'{"n":0}'
    ) -> list[tuple[ConsumedEvent, Completion]]:
        """Return the next events of the partition, each with its completion."""
        polled = []
        for _ in range(count):
            raw: Any = SimpleNamespace(offset=self._offset, value=data, key=b"")
            record = OpenRecord(self.tracker, raw, self._finish)
            self.tracker.add(record)
            event = Event(f"evt-{self._offset}", "t", "/tests", workspace, "2026-01-02T03:04:05.000Z", data)
            received = ConsumedEvent(event, *self.source, self._offset, 1_000 + self._offset, b"key")
            polled.append((received, Completion(record)))
            self._offset += 1
        return polled

    def reassign(self, offset: int) -> None:
        """Take the partition away, and give it back: it is polled from this offset on."""
        self.tracker.revoke()
        self._offset = offset
        self._track()

    def _finish(self, record: OpenRecord, error: Exception | None) -> None:
        if error is not None:
            self.errors.append(error)
        record.tracker.complete(record)


@asynccontextmanager
async def _backlogs(
    store: Store,
    partition: Partition,
    count: int = 1,
    *,
    owned: Callable[[], tuple[int, set[tuple[str, int]]]] | None = None,
    kind: type[DeferredEvents] = DeferredEvents,
) -> AsyncIterator[list[Backlog]]:
    """Yield backlogs of as many processes, which all own the partition."""
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    made = [Backlog(kind(mongo), owned=owned or (lambda: (0, {partition.source}))) for _ in range(count)]
    try:
        for item in made:
            await item.follow_assignment()
        yield made
    finally:
        for item in made:
            await item.stop()
        mongo.close()


async def _chunks(backlog: Backlog, partition: Partition) -> list[ChunkRecord]:
    return await backlog._deferred_events.chunks_of({partition.source})


async def _until(look: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not look():  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.01)


def _is_complete(partition: Partition, count: int) -> bool:
    return partition.tracker.watermark == count


def _offsets(events: Sequence[ConsumedEvent]) -> list[int]:
    return [received.offset for received in events]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks be stored as soon as they are accepted."""
    monkeypatch.setattr(backlog_module, "MAX_AGE_S", 0.0)


async def test_an_event_is_worked_off_from_memory_and_never_stored(store: Store) -> None:
    partition = Partition()
    async with _backlogs(store, partition) as [backlog]:
        first, second = partition.poll(2)
        backlog.append([first])
        assert backlog.is_backlogged(WORKSPACE)
        assert backlog.workspaces() == {WORKSPACE}
        backlog.append([second])
        [queue] = backlog.queues_of(WORKSPACE)
        chunk = queue.first
        assert _offsets(await backlog.read(queue)) == [0, 1]
        backlog.append(partition.poll(1))
        assert queue.first is chunk
        assert _offsets(await backlog.read(queue)) == [0, 1], "an open chunk gets no more events"
        assert partition.tracker.watermark == 0, "not complete before it is worked off"
        await backlog.finish(queue, chunk)
        assert partition.tracker.watermark == 2
        assert _offsets(await backlog.read(queue)) == [2]
        await backlog.finish(queue, queue.first)
        assert partition.tracker.watermark == 3
        assert not backlog.is_backlogged(WORKSPACE)
        assert await _chunks(backlog, partition) == []


async def test_what_waits_for_long_is_stored_in_order_and_complete_then(store: Store) -> None:
    partition = Partition()
    async with _backlogs(store, partition, 2) as [backlog, successor]:
        polled = partition.poll(150)
        backlog.append(polled)
        assert not backlog.contains(polled[0][0]), "it is in memory only"
        await _until(lambda: partition.tracker.watermark == 150)
        assert all(backlog.contains(received) for received, _ in polled)
        assert sum(chunk.count for chunk in await _chunks(backlog, partition)) == 150
        await successor.follow_assignment(reload=True)
        [queue] = backlog.queues_of(WORKSPACE)
        first = _offsets(await backlog.read(queue))
        [queue] = successor.queues_of(WORKSPACE)
        worked_off: list[int] = []
        while successor.is_backlogged(WORKSPACE):
            worked_off += _offsets(await successor.read(queue))
            await successor.finish(queue, queue.first)
        assert worked_off == list(range(150))
        assert worked_off[: len(first)] == first
        assert await _chunks(backlog, partition) == []


async def test_a_chunk_stored_half_done_is_continued_where_it_stood(store: Store) -> None:
    partition = Partition()
    async with _backlogs(store, partition, 2) as [backlog, successor]:
        backlog.append(partition.poll(3))
        [queue] = backlog.queues_of(WORKSPACE)
        chunk = queue.first
        await backlog.read(queue)
        chunk.done = 2
        await _until(lambda: partition.tracker.watermark == 3)
        assert queue.first is chunk, "who works on it continues"
        await successor.follow_assignment(reload=True)
        [loaded] = successor.queues_of(WORKSPACE)
        assert _offsets(await successor.read(loaded)) == [2]
        await backlog.finish(queue, chunk)
        assert await _chunks(backlog, partition) == []


class _SlowDeferredEvents(DeferredEvents):
    """Inserts return late: the chunks are in the store by then."""

    inserted = asyncio.Event()
    may_return = asyncio.Event()

    async def insert(self, chunks: Sequence[tuple[ChunkRecord, Sequence[ConsumedEvent]]]) -> None:
        await super().insert(chunks)
        self.inserted.set()
        await self.may_return.wait()


@pytest.fixture
def slow() -> type[_SlowDeferredEvents]:
    _SlowDeferredEvents.inserted, _SlowDeferredEvents.may_return = asyncio.Event(), asyncio.Event()
    return _SlowDeferredEvents


@pytest.mark.usefixtures("at_once")
async def test_a_chunk_that_is_finished_while_it_is_stored_leaves_nothing_behind(
    store: Store, slow: type[_SlowDeferredEvents]
) -> None:
    partition = Partition()
    async with _backlogs(store, partition, kind=slow) as [backlog]:
        backlog.append(partition.poll(2))
        [queue] = backlog.queues_of(WORKSPACE)
        await backlog.read(queue)
        await slow.inserted.wait()
        finishing = asyncio.create_task(backlog.finish(queue, queue.first))
        await asyncio.sleep(0)
        assert not finishing.done()
        slow.may_return.set()
        await finishing
        assert await _chunks(backlog, partition) == []
        assert partition.tracker.watermark == 2
        assert not backlog.is_backlogged(WORKSPACE)


async def test_what_is_in_memory_when_the_partition_goes_is_polled_again(store: Store) -> None:
    """Neither stored nor complete: also if the same process gets the partition back."""
    partition = Partition()
    assignment = 0
    async with _backlogs(store, partition, owned=lambda: (assignment, {partition.source})) as [backlog]:
        backlog.append(partition.poll(3))
        partition.reassign(0)
        assignment = 1
        await backlog.follow_assignment()
        assert not backlog.is_backlogged(WORKSPACE)
        again = partition.poll(3)
        assert not any(backlog.contains(received) for received, _ in again)
        backlog.append(again)
        [queue] = backlog.queues_of(WORKSPACE)
        assert _offsets(await backlog.read(queue)) == [0, 1, 2]
        await backlog.finish(queue, queue.first)
        assert partition.tracker.watermark == 3
        assert await _chunks(backlog, partition) == []


@pytest.mark.usefixtures("at_once")
async def test_what_is_lost_while_it_is_stored_stays_stored(
    store: Store, slow: type[_SlowDeferredEvents]
) -> None:
    """The process that owns the partition next finds it, and takes its events for deferred."""
    partition = Partition()
    assignment = 0
    async with _backlogs(store, partition, owned=lambda: (assignment, {partition.source}), kind=slow) as [
        backlog
    ]:
        backlog.append(partition.poll(2))
        await slow.inserted.wait()
        partition.reassign(0)
        assignment = 1
        await backlog.follow_assignment()
        slow.may_return.set()
        [queue] = backlog.queues_of(WORKSPACE)
        assert _offsets(await backlog.read(queue)) == [0, 1]
        assert all(backlog.contains(received) for received, _ in partition.poll(2))
        await backlog.finish(queue, queue.first)
        assert await _chunks(backlog, partition) == []


async def test_a_flood_is_stored_and_what_others_defer_stays_in_memory(store: Store) -> None:
    partition = Partition()
    async with _backlogs(store, partition) as [backlog]:
        backlog.append(partition.poll(100, "other"))
        while backlog._events_in_memory <= MAX_EVENTS_IN_MEMORY:
            backlog.append(partition.poll(500, "flood"))
        async with asyncio.timeout(60):
            await backlog.wait_for_space()
            await _until(lambda: backlog._events_in_memory <= MAX_EVENTS_IN_MEMORY // 2)
        [flood], [other] = backlog.queues_of("flood"), backlog.queues_of("other")
        assert flood.stored
        assert flood.in_memory
        assert not other.stored


async def test_large_events_leave_their_partition_room(store: Store) -> None:
    """The consumer pauses a partition at its part of 64 MiB: events are stored from half of that on."""
    partition = Partition()
    sources = {partition.source, *(("other.topic", number) for number in range(31))}
    async with _backlogs(store, partition, owned=lambda: (0, sources)) as [backlog]:
        backlog.append(partition.poll(15, data=b"x" * 100_000))
        await _until(lambda: partition.tracker.open_bytes <= 1 << 20)
        [queue] = backlog.queues_of(WORKSPACE)
        assert queue.in_memory


@pytest.mark.usefixtures("at_once")
async def test_what_an_earlier_owner_stores_late_replaces_nothing_longer(store: Store) -> None:
    """Both store a chunk that begins with the same event: the longer one stays, whoever comes last."""
    for lengths in ((3, 1), (1, 3)):
        partition = Partition()
        async with _backlogs(store, partition, 3) as [*owners, successor]:
            for owner, length in zip(owners, lengths, strict=True):
                partition.reassign(0)
                owner.append(partition.poll(length))
                await _until(partial(_is_complete, partition, length))
            await successor.follow_assignment(reload=True)
            [queue] = successor.queues_of(WORKSPACE)
            assert _offsets(await successor.read(queue)) == [0, 1, 2]
            shorter = owners[lengths.index(1)]
            [queue_of_shorter] = shorter.queues_of(WORKSPACE)
            chunk = queue_of_shorter.first
            read = await shorter.read(queue_of_shorter)
            chunk.done = chunk.length - (len(read) - 1)
            await shorter.save_progress(chunk)
            assert _offsets(await successor.read(queue)) == [1, 2]


class _NotedDeferredEvents(DeferredEvents):
    """Notes which offsets are inserted."""

    inserted: ClassVar[list[int]]

    async def insert(self, chunks: Sequence[tuple[ChunkRecord, Sequence[ConsumedEvent]]]) -> None:
        self.inserted.extend(chunk.last_offset for chunk, _ in chunks)
        await super().insert(chunks)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("worked_off", [False, True])
async def test_what_is_lost_while_it_waits_to_be_stored_is_not_stored(store: Store, worked_off: bool) -> None:
    """What stands before it is lost, too: a stored chunk would prove that it needs no repeat."""
    partition = Partition()
    assignment = 0
    _NotedDeferredEvents.inserted = []
    async with _backlogs(
        store, partition, owned=lambda: (assignment, {partition.source}), kind=_NotedDeferredEvents
    ) as [backlog]:
        backlog.begin_direct(WORKSPACE, partition.source)
        backlog.append(partition.poll(1))
        [queue] = backlog.queues_of(WORKSPACE)
        chunk = queue.first
        await _until(lambda: chunk.state == "storing")
        finishing = None
        if worked_off:
            chunk.completions.popleft().done()
            chunk.done = 1
            finishing = asyncio.create_task(backlog.finish(queue, chunk))
        partition.reassign(0)
        assignment = 1
        if not worked_off:
            await backlog.follow_assignment()
        backlog.end_direct(WORKSPACE, partition.source)
        await _until(lambda: chunk.state == "gone" and not backlog._inserting.locked())
        if finishing:
            await finishing
        assert _NotedDeferredEvents.inserted == []
        assert not backlog.is_backlogged(WORKSPACE)
        assert (backlog._events_in_memory, await _chunks(backlog, partition)) == (0, [])


@pytest.mark.usefixtures("at_once")
async def test_what_was_lost_before_it_was_stored_is_left_on_kafka(store: Store) -> None:
    partition = Partition()
    owned = {partition.source}
    async with _backlogs(store, partition, 2, owned=lambda: (0, set(owned))) as [backlog, successor]:
        backlog.append(partition.poll(1))
        partition.tracker.revoke()
        owned.clear()
        await backlog.follow_assignment()
        async with asyncio.timeout(60):
            while backlog._store_task and not backlog._store_task.done():  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.01)
        assert backlog._events_in_memory == 0
        owned.add(partition.source)
        await successor.follow_assignment(reload=True)
        assert successor.queues_of(WORKSPACE) == []


async def test_a_full_backlog_rejects_and_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "MAX_EVENTS", 3)
    partition = Partition()
    async with _backlogs(store, partition) as [backlog]:
        backlog.append(partition.poll(5))
        assert len(partition.errors) == 2
        assert "publish more slowly" in str(partition.errors[0])
        [queue] = backlog.queues_of(WORKSPACE)
        assert _offsets(await backlog.read(queue)) == [0, 1, 2]


@pytest.mark.usefixtures("at_once")
async def test_nothing_is_stored_behind_an_event_that_may_be_repeated(store: Store) -> None:
    """Its direct request is not in the log yet. A stored chunk would prove that it needs no repeat."""
    partition = Partition()
    async with _backlogs(store, partition) as [backlog]:
        [(direct, completion), deferred] = partition.poll(2)
        backlog.begin_direct(WORKSPACE, partition.source)
        backlog.append([deferred])
        await asyncio.sleep(0.2)
        assert await _chunks(backlog, partition) == []
        assert not backlog.contains(direct)
        completion.done()
        backlog.end_direct(WORKSPACE, partition.source)
        await _until(lambda: _is_complete(partition, 2))
        assert [chunk.count for chunk in await _chunks(backlog, partition)] == [1]
