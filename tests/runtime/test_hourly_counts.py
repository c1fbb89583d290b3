"""Counts by the hour, over a real database."""

from datetime import timedelta

import pytest

from bench.log import mongo_at
from shared.runtime import hourly_counts
from shared.runtime.clock import utcnow
from shared.runtime.hourly_counts import OTHER, HourlyCounts
from shared.runtime.logs import configure
from tests.support.backends import Store


async def test_counts_of_several_processes_add_up_and_names_are_bounded(store: Store) -> None:
    log, mongo = configure("test", "error"), mongo_at(store.uri())
    one, other = HourlyCounts(mongo, log), HourlyCounts(mongo, log)
    names = ("message.created", "$where.a", "50% of it", "ä")
    for counts in (one, other):
        for name in names:
            counts.add("ws", "events", name)
        counts.add("else", "events", "foreign")
        counts.add("ws", "rate_limited", "slack")
        await counts.flush()
        await counts.flush()
    since, until = utcnow() - timedelta(hours=1), utcnow() + timedelta(hours=1)
    (hour,) = [found async for found in one.read("ws", "events", since, until)]
    assert hour[1] == dict.fromkeys(names, 2)
    assert [found[1] async for found in one.read("ws", "rate_limited", since, until)] == [{"slack": 2}]
    for number in range(2 * hourly_counts._MAX_NAMES):
        one.add("ws", "events", f"name {number}")
    await one.flush()
    (hour,) = [found async for found in one.read("ws", "events", since, until)]
    assert len(hour[1]) == hourly_counts._MAX_NAMES + 1
    assert hour[1][OTHER] == hourly_counts._MAX_NAMES + len(names)
    await one.delete_all("ws")
    assert [found async for found in one.read("ws", "events", since, until)] == []
    assert [found async for found in one.read("else", "events", since, until)]
    mongo.close()


async def test_hours_are_read_in_their_order_across_queries(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongo = mongo_at(store.uri())
    counts, now = HourlyCounts(mongo, configure("test", "error")), utcnow()
    times = [now - timedelta(hours=back) for back in (50, 25, 24, 23, 0)]
    for time in times:
        monkeypatch.setattr(hourly_counts, "utcnow", lambda time=time: time)
        counts.add("ordered", "events", "a.b")
        await counts.flush()
    found = counts.read("ordered", "events", times[0], now + timedelta(hours=1))
    assert [hour async for hour, _ in found] == [hourly_counts.hour_of(time) for time in times]
    mongo.close()


async def test_a_write_that_fails_for_one_workspace_counts_once_for_the_others(store: Store) -> None:
    mongo = mongo_at(store.uri())
    counts, now = HourlyCounts(mongo, configure("test", "error")), utcnow()
    documents = mongo.collection(hourly_counts.COLLECTION)
    broken = f"broken/events/{now:%Y-%m-%dT%H}"
    await documents.insert_one({"_id": broken, "counts": "none"})
    for workspace, count in (("other", 1), ("broken", 2)):
        counts.add(workspace, "events", "a.b", count)
    for _ in range(3):
        await counts.flush()
        counts.add("broken", "events", "a.b")
    await documents.delete_one({"_id": broken})
    await counts.flush()
    await counts.flush()
    for workspace, count in (("other", 1), ("broken", 5)):
        found = counts.read(workspace, "events", now - timedelta(hours=1), now + timedelta(hours=1))
        assert [names async for _, names in found] == [{"a.b": count}]
    mongo.close()
