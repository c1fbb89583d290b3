"""The backlog over the real store: when events count as stored, and two owners of one partition."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

from pydantic import SecretStr

from services.delivery.engine.backlog import Backlog
from services.delivery.engine.deferred_events import DeferredEvents
from shared.contracts.envelope import Event
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

WORKSPACE = "w"


@asynccontextmanager
async def _backlogs(
    store: Store, source: tuple[str, int], count: int, owned: set[tuple[str, int]] | None = None
) -> AsyncIterator[list[Backlog]]:
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    made = [
        Backlog(DeferredEvents(mongo), owned=lambda: (0, {source} if owned is None else owned))
        for _ in range(count)
    ]
    try:
        yield made
    finally:
        for item in made:
            await item.stop()
        mongo.close()


def _received(source: tuple[str, int], offset: int) -> ConsumedEvent:
    event = Event(f"evt-{offset}", "t", "/tests", WORKSPACE, "2026-01-02T03:04:05.000Z", b'{"n":0}')
    return ConsumedEvent(event, *source, offset, 1_000, b"key")


async def test_an_event_waits_at_once_and_can_be_worked_off_once_it_is_stored(store: Store) -> None:
    source = f"test.{token_hex(6)}", 0
    async with _backlogs(store, source, 1) as [backlog]:
        await backlog.follow_assignment()
        first, second = _received(source, 0), _received(source, 1)
        assert not backlog.append([first])
        assert backlog.contains(first)
        assert backlog.is_backlogged(second.event.workspace)
        assert backlog.workspaces() == set()
        assert backlog.queues_of(WORKSPACE) == []
        await backlog.wait_stored()
        assert backlog.workspaces() == {WORKSPACE}
        [queue] = backlog.queues_of(WORKSPACE)
        assert [item.offset for item in await backlog.read(queue)] == [0]


async def test_what_an_earlier_owner_stores_late_replaces_nothing_longer(store: Store) -> None:
    """Both store a chunk that begins with the same event: the longer one stays, whoever comes last."""
    for lengths in ((3, 1), (1, 3)):
        source = f"test.{token_hex(6)}", 0
        events = [_received(source, offset) for offset in range(3)]
        async with _backlogs(store, source, 3) as [*owners, successor]:
            for owner in owners:
                await owner.follow_assignment()
            for owner, length in zip(owners, lengths, strict=True):
                owner.append(events[:length])
                await owner.wait_stored()
            await successor.follow_assignment()
            [queue] = successor.queues_of(WORKSPACE)
            assert [item.offset for item in await successor.read(queue)] == [0, 1, 2]
            [queue] = owners[lengths.index(1)].queues_of(WORKSPACE)
            read = await owners[lengths.index(1)].read(queue)
            await owners[lengths.index(1)].save_progress(queue, len(read) - 1)
            assert [item.offset for item in await successor.read(queue)] == [1, 2]


async def test_what_was_lost_before_it_was_stored_is_left_on_kafka(store: Store) -> None:
    source = f"test.{token_hex(6)}", 0
    owned = {source}
    async with _backlogs(store, source, 2, owned) as [backlog, successor]:
        await backlog.follow_assignment()
        backlog.append([_received(source, 0)])
        owned.clear()
        await backlog.follow_assignment()
        async with asyncio.timeout(5):
            await backlog.wait_stored()
        owned.add(source)
        await successor.follow_assignment()
        assert successor.queues_of(WORKSPACE) == []
