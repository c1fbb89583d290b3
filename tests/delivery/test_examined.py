"""Documents that the engine's searches examine: their number does not grow with the log."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from bench.log import explained, finds, mongo_at
from services.delivery.app import INDEXES
from services.delivery.log.deliveries import DELIVERIES, Deliveries
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.log.statistics import Statistics
from services.delivery.settings import DeliverySettings
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.logs import configure
from shared.runtime.mongo import Collection, Document, Mongo
from tests.delivery.test_claims import DONE, WEBHOOK, entry
from tests.support.backends import Store

OPEN_LATER = 300
FINISHED = 300
OWN = {"holder": "place", "holder_run": "2"}


async def examined(
    store: Store,
    documents: list[Document],
    work: Callable[[Mongo], Awaitable[None]],
    check: Callable[[Collection], Awaitable[None]],
) -> int:
    """Return how many deliveries the searches and updates of `work` examined in a log with many others."""
    tomorrow = utcnow() + timedelta(days=1)
    with finds() as seen:
        mongo = mongo_at(store.uri())
        try:
            await mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]})
            log = mongo.collection(DELIVERIES)
            await log.insert_many([entry(n, tomorrow, n) for n in range(FINISHED)])
            await log.update_many({}, DONE)
            await log.insert_many([entry(n, tomorrow, n) for n in range(OPEN_LATER)])
            await log.insert_many(documents)
            seen.commands.clear()
            await work(mongo)
            commands = list(seen.commands)
            await check(log)
            # What has ids is not counted: the embedded database reads those, but explains a scan.
            searches = [command for command in commands if "_id" not in command["filter"]]
            assert searches
            return sum([(await explained(mongo, command)).documents for command in searches])
        finally:
            mongo.close()


async def due_times(log: Collection, documents: list[Document]) -> list[datetime]:
    return [(await log.find_one({"_id": document["_id"]}) or {})["due_at"] for document in documents]


def test_leases_of_a_killed_predecessor_are_released_and_nothing_else_is_examined(store: Store) -> None:
    soon = utcnow() + timedelta(seconds=20)
    leased = {"status": "delivering", "holder": "place", "holder_run": "1"}
    predecessors = [entry(n, soon, n) | leased for n in range(60)]
    others = [
        entry(0, soon, 0) | leased | {"holder": "another place"},
        entry(0, soon, 0) | leased | OWN,
        entry(0, soon, 0) | {"holder": "place", "holder_run": "1"},  # it waits again
        entry(0, soon, 0),
    ]

    async def release(mongo: Mongo) -> None:
        await DueDeliveries(mongo, holder=OWN).release_leases([WEBHOOK, "wh_2"])

    async def check(log: Collection) -> None:
        assert max(await due_times(log, predecessors)) <= utcnow()
        assert {at.replace(microsecond=0) for at in await due_times(log, others)} == {
            soon.replace(microsecond=0)
        }

    count = asyncio.run(examined(store, predecessors + others, release, check))
    assert count <= len(predecessors + others)


def test_what_waited_too_long_is_found_without_examining_the_log(store: Store) -> None:
    ago = utcnow() - timedelta(hours=1)
    expired = [entry(n, ago, n) for n in range(20)]
    leased = [entry(0, ago, 0) | {"status": "delivering"}]
    counts: list[int] = []

    async def expire(mongo: Mongo) -> None:
        log = configure("tests", "error")
        statistics, usage = Statistics(mongo, log), DailyUsage(mongo, log)
        deliveries = Deliveries(mongo, DeliverySettings(), statistics, usage, log, instance="tests")
        counts.append(await deliveries.dead_letter_expired(WEBHOOK, utcnow(), "circuit_open"))

    async def check(log: Collection) -> None:
        assert await log.count_documents({"status": "dead_letter", "last_error": "circuit_open"}) == 20
        assert await log.count_documents({"_id": leased[0]["_id"], "status": "delivering", "open": True}) == 1

    count = asyncio.run(examined(store, expired + leased, expire, check))
    assert counts == [20]
    assert count <= len(expired + leased)
