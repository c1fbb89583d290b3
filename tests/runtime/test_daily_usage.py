"""Counts of use by the day, over a real database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from secrets import token_hex
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, ServerSelectionTimeoutError

from bench.log import mongo_at
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import daily_usage
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import DailyUsage, day_of
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo, UpdateOne
from tests.support.backends import Store

LOG = configure("test", "error")


@pytest.fixture
def mongo(store: Store) -> Iterator[Mongo]:
    mongo = mongo_at(store.uri())
    yield mongo
    mongo.close()


@contextmanager
def days_later(monkeypatch: pytest.MonkeyPatch, days: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        now = utcnow() + timedelta(days=days)
        patch.setattr(daily_usage, "utcnow", lambda: now)
        yield


async def test_processes_know_the_use_of_all_after_two_flushes(mongo: Mongo) -> None:
    own, other = f"ws-{token_hex(4)}", f"ws-{token_hex(4)}"
    one, two = DailyUsage(mongo, LOG), DailyUsage(mongo, LOG)
    for usage in (one, two):
        usage.add(own, {"requests": 1, "events": 3, "stored_bytes": 10})
        assert usage.totals(own) == {"requests": 1, "events": 3, "stored_bytes": 10}
    two.add(other, {"deliveries": 1})
    await one.flush()
    one.add(own, {"events": 1})
    assert one.totals(own)["events"] == 4
    await two.flush()
    # What it has counted since its last write is in it, once.
    assert (two.totals(own)["events"], two.totals(own)["stored_bytes"]) == (6, 20)
    await one.flush()
    for usage in (one, two):
        usage.totals(own)
        await usage.flush()
        assert (usage.totals(own)["events"], usage.totals(own)["requests"]) == (7, 2)
        assert usage.totals(f"{own}x") == {}
    [record] = await one.read(own, 30)
    assert (record.requests, record.events, record.deliveries, record.stored_bytes) == (2, 7, 0, 20)
    await one.delete_all(own)
    assert await one.read(own, 30) == []
    assert [record.deliveries for record in await one.read(other, 30)] == [1]


async def test_counts_start_again_with_the_day_and_bytes_count_for_seven(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"ws-{token_hex(4)}"
    for back in (-30, -7, -6, -1):
        with days_later(monkeypatch, back):
            usage = DailyUsage(mongo, LOG)
            usage.add(own, {"events": 1, "stored_bytes": 100 - back})
            await usage.flush()
    usage = DailyUsage(mongo, LOG)
    usage.add(own, {"events": 1, "stored_bytes": 1000})
    usage.totals(own)
    await usage.flush()
    assert (usage.totals(own)["events"], usage.totals(own)["stored_bytes"]) == (1, 1000 + 106 + 101)
    assert [record.stored_bytes for record in await usage.read(own, 30)] == [107, 106, 101, 1000]
    assert not usage.start_day()
    with days_later(monkeypatch, 1):
        assert usage.start_day()
        assert usage.ends_at == day_of(utcnow()) + timedelta(days=2)
        assert usage.totals(own) == {}
        await usage.flush()
        assert (usage.totals(own)["events"], usage.totals(own)["stored_bytes"]) == (0, 1000 + 101)


async def test_counts_that_cannot_be_written_are_written_later(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, usage = f"ws-{token_hex(4)}", DailyUsage(mongo, LOG)
    usage.add(own, {"events": 2})
    usage.totals(own)

    async def fail(*_: object, **__: object) -> None:
        usage.add(own, {"events": 1})
        raise ServerSelectionTimeoutError("a test")

    def fail_to_read(*_: object) -> None:
        raise DatabaseUnavailable("a test")

    with monkeypatch.context() as patch:
        patch.setattr(usage._collection, "bulk_write", fail)
        await usage.flush()
    assert usage.totals(own)["events"] == 3
    with monkeypatch.context() as patch:  # written, but the totals cannot be read
        patch.setattr(usage._collection, "find", fail_to_read)
        await usage.flush()
    await usage.flush()
    assert usage.totals(own)["events"] == 3
    assert [record.events for record in await usage.read(own, 1)] == [3]


async def test_a_write_that_fails_for_one_workspace_counts_once_for_the_others(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other, usage = f"ws-{token_hex(4)}", f"ws-{token_hex(4)}", DailyUsage(mongo, LOG)
    documents, write = mongo.collection(daily_usage.COLLECTION), usage._collection.bulk_write
    broken = {"_id": f"{own}/{utcnow():%Y-%m-%d}", "events": "not a number"}
    await documents.insert_one(broken)
    for workspace, count in ((other, 1), (own, 2)):
        usage.add(workspace, {"events": count})
    for _ in range(3):
        await usage.flush()
    await documents.delete_one({"_id": broken["_id"]})
    await usage.flush()
    await usage.flush()

    async def events() -> list[int]:
        return [record.events for name in (other, own) for record in await usage.read(name, 1)]

    assert await events() == [1, 2]
    calls = 0

    async def race(writes: list[UpdateOne], **options: Any) -> None:
        """Let another process insert the second document first."""
        nonlocal calls
        calls += 1
        if calls > 1:
            await write(writes, **options)
            return
        await write(writes[:1], **options)
        raise BulkWriteError({"writeErrors": [{"index": 1, "code": 11000}]})

    async def lose_the_response(writes: list[UpdateOne], **options: Any) -> None:
        await write(writes, **options)
        raise AutoReconnect("a test")

    for replaced, expected in ((race, [11, 12]), (lose_the_response, [21, 22])):
        for workspace in (other, own):
            usage.add(workspace, {"events": 10})
        with monkeypatch.context() as patch:
            patch.setattr(usage._collection, "bulk_write", replaced)
            await usage.flush()
        assert await events() == expected
    await usage.flush()
    assert await events() == [21, 22]
