"""Imports make way while live messages are published: they share a fixed rate, and publish batch by batch."""

import asyncio
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from services.importer.publish import live_traffic as module
from services.importer.publish.live_traffic import LiveTraffic
from services.importer.publish.outlet import MAX_UNCONFIRMED
from shared.runtime.mongo import Mongo
from tests.importer import import_places
from tests.importer.import_places import message_ids, run_with
from tests.support.backends import Store
from tests.support.eventually import until

RATE: Final = 100


class Records:
    """How many records the live topics have had: one more at each look while `grows`."""

    def __init__(self, *, grows: bool) -> None:
        self.grows = grows
        self.count: int | None = 0
        self.looks = 0

    async def counted(self) -> int | None:
        self.looks += 1
        if self.grows and self.count is not None:
            self.count += 1
        return self.count


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_INTERVAL_S", 0.0)


def test_messages_are_live_from_the_second_look_until_none_have_come_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.3)

    async def test() -> None:
        records = Records(grows=True)
        traffic = LiveTraffic(records.counted, messages_per_second=RATE)
        assert not await traffic.is_live()  # what came before is not known
        assert await traffic.is_live()
        records.grows = False
        assert await traffic.is_live()
        await until_quiet(traffic)
        records.count = None  # the broker does not answer
        assert not await traffic.is_live()
        records.count = 1_000  # nor is this known to be new
        assert not await traffic.is_live()
        records.count += 1
        assert await traffic.is_live()

    asyncio.run(test())


async def until_quiet(traffic: LiveTraffic) -> None:
    async with asyncio.timeout(60):
        while await traffic.is_live():  # noqa: ASYNC110 -- it looks at the time
            await asyncio.sleep(0.05)


def test_the_broker_is_asked_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_INTERVAL_S", 60.0)

    async def test() -> None:
        records = Records(grows=True)
        traffic = LiveTraffic(records.counted, messages_per_second=RATE)
        await asyncio.gather(*(traffic.is_live() for _ in range(100)))
        assert records.looks == 1

    asyncio.run(test())


def test_imports_of_a_process_share_the_rate() -> None:
    async def test() -> float:
        traffic = LiveTraffic(Records(grows=True).counted, messages_per_second=RATE)
        started = monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(traffic.keep_pace(RATE // 10))
        return monotonic() - started

    assert asyncio.run(test()) >= 0.4


def test_beside_live_messages_each_batch_is_published_at_once_and_takes_its_time(
    store: Store, tmp_path: Path
) -> None:
    async def test(mongo: Mongo) -> None:
        traffic = LiveTraffic(Records(grows=True).counted, messages_per_second=RATE)
        assert not await traffic.is_live()
        found = await import_places.started(mongo, tmp_path, confirms=True, traffic=traffic)
        batches = [found.batch(str(number), message_ids(RATE // 10)) for number in range(4)]
        started = monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(found.outlet.put(batches))
            for number in range(len(batches)):
                await until(lambda: number < len(found.topic.batches))  # noqa: B023 -- asked at once
                # None is published before the one before it had its time.
                assert monotonic() - started >= 0.1 * number
        assert found.topic.batches == [batch.id for batch in batches]

    run_with(store, test)


def test_alone_an_import_publishes_many_batches_at_once(store: Store, tmp_path: Path) -> None:
    async def test(mongo: Mongo) -> None:
        found = await import_places.started(mongo, tmp_path, confirms=True)
        batches = [found.batch(str(number), message_ids(1)) for number in range(15)]
        await found.outlet.put(batches)
        assert found.topic.batches == []
        await found.outlet.put([found.batch("last", message_ids(1))])
        assert len(found.topic.batches) == 16 <= MAX_UNCONFIRMED

    run_with(store, test)
