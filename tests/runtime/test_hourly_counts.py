"""Counts by the hour, over a real database."""

from datetime import timedelta

from bench.log import mongo_at
from shared.runtime import hourly_counts
from shared.runtime.hourly_counts import OTHER, HourlyCounts
from shared.runtime.logs import configure
from shared.runtime.mongo import utcnow
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
    (hour,) = await one.read("ws", "events", since, until)
    assert hour[1] == dict.fromkeys(names, 2)
    assert [found[1] for found in await one.read("ws", "rate_limited", since, until)] == [{"slack": 2}]
    for number in range(2 * hourly_counts._MAX_NAMES):
        one.add("ws", "events", f"name {number}")
    await one.flush()
    (hour,) = await one.read("ws", "events", since, until)
    assert len(hour[1]) == hourly_counts._MAX_NAMES + 1
    assert hour[1][OTHER] == hourly_counts._MAX_NAMES + len(names)
    await one.delete_all("ws")
    assert await one.read("ws", "events", since, until) == []
    assert await one.read("else", "events", since, until)
    mongo.close()
