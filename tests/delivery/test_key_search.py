"""Searches of the log that filter what they read: they end early, and go on where they ended."""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from bench.log import TYPES, WORKSPACES, Finds, explained, filling, finds
from services.delivery.app import INDEXES
from services.delivery.log import search
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.key_search import DeliveryQuery, search_keys
from services.delivery.log.log_slices import LogKey
from services.delivery.log.recovery_jobs import RecoveryJob
from services.delivery.log.recovery_steps import RecoverySteps
from services.delivery.log.search import page
from services.delivery.log.statistics import Statistics
from shared.runtime.clock import utcnow
from shared.runtime.logs import configure
from shared.runtime.mongo import Document, Mongo
from shared.runtime.web.paging import Page
from tests.delivery.test_log import COMBINATIONS, NOW, can_match, expected, filled, is_covered, run
from tests.support.backends import Store

__all__ = ["filled"]  # a fixture

SPARSE = [name for name, query in COMBINATIONS.items() if not is_covered(query) and can_match(query)]
BUDGET = 150


def deliveries_of(mongo: Mongo) -> search.DeliverySearch:
    """The searches of the API on a database."""
    return search.DeliverySearch(mongo, Statistics(mongo, configure("tests", "warning")))


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("name", SPARSE)
def test_a_search_that_filters_what_it_reads_ends_early_and_can_go_on(
    filled: tuple[str, list[Document]], name: str, oldest_first: bool
) -> None:
    uri, documents = filled
    query = COMBINATIONS[name]
    # Without a beginning, the embedded database reads all that is older than the first slice that has some.
    query = replace(query, since=query.since or NOW - timedelta(days=7))
    should = expected(documents, query)
    seen: Finds

    async def walk(mongo: Mongo) -> tuple[list[LogKey], list[int]]:
        log = mongo.collection(DELIVERIES)
        keys: list[LogKey] = []
        examined: list[int] = []
        after = None
        while True:
            seen.commands.clear()
            part = await search_keys(
                log, query, limit=1_000, after=after, oldest_first=oldest_first, max_examined=BUDGET
            )
            keys += part.keys
            if len(examined) < 3:
                plans = [await explained(mongo, command) for command in list(seen.commands)]
                examined.append(sum(plan.documents for plan in plans))
            after = part.resume
            if after is None:
                return keys, examined

    with finds() as seen:
        keys, examined = run(uri, walk)
    assert keys == (should[::-1] if oldest_first else should)
    assert max(examined) <= 3 * BUDGET


def test_after_a_first_page_a_long_time_without_deliveries_costs_few_reads(store: Store) -> None:
    count, limit, week = 3_000, 20, timedelta(days=6)
    documents = [
        document | {"workspace": WORKSPACES[0], "created_at": NOW - week - age}
        for position, document in enumerate(filling(count, NOW, body=20))
        for age in [timedelta(seconds=position)]
    ]
    newer = [
        document | {"_id": f"dlv_new_{number}", "created_at": NOW - age}
        for number, age in enumerate([timedelta(seconds=5), timedelta(days=3)])
        for document in documents[:1]
    ]
    query = DeliveryQuery(WORKSPACES[0])
    seen: Finds

    async def work(mongo: Mongo) -> tuple[list[list[str]], int]:
        await mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]})
        log = mongo.collection(DELIVERIES)
        await log.insert_many(documents)
        deliveries = deliveries_of(mongo)
        first = await deliveries.page(query, limit=limit, cursor=None)
        second = await deliveries.page(query, limit=limit, cursor=first.next_cursor)
        seen.commands.clear()
        again = await deliveries.page(query, limit=limit, cursor=None)
        searches = [command for command in seen.commands if "_id" not in command["filter"]]
        examined = sum([(await explained(mongo, command)).documents for command in searches])
        await log.insert_many(newer)
        later = await deliveries.page(query, limit=limit, cursor=None)
        return [[item.id for item in page.items] for page in (first, second, again, later)], examined

    with finds() as seen:
        (first, second, again, later), examined = run(store.uri(), work)
    ids = [document["_id"] for document in documents]
    assert first == again == ids[:limit]
    assert second == ids[limit : 2 * limit]
    assert later == [newer[0]["_id"], newer[1]["_id"], *ids[: limit - 2]]
    assert examined < 10 * limit


def test_pages_and_jobs_go_on_where_a_search_ended(
    filled: tuple[str, list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, documents = filled
    monkeypatch.setattr(search, "search_keys", partial(search_keys, max_examined=BUDGET // 5))
    monkeypatch.setattr(search, "MAX_PAGE_EXAMINED", BUDGET // 5)
    query = DeliveryQuery(WORKSPACES[0], statuses=("dead_letter",), error="tls", event_type=TYPES[0])
    [document] = random.Random(1).sample(  # noqa: S311 -- not a secret
        [found for found in documents if found["status"] == "dead_letter" and found["workspace"] == "busy"], 1
    )
    rare = {"event_type": TYPES[0], "last_error": "tls"}

    async def walk(mongo: Mongo) -> tuple[list[str], int, list[str], int | None]:
        log = mongo.collection(DELIVERIES)
        await log.update_one({"_id": document["_id"]}, {"$set": rare})
        pages: list[Page[str]] = []
        while not pages or pages[-1].next_cursor:
            cursor = pages[-1].next_cursor if pages else None
            pages.append(await page(log, query, lambda found: found["_id"], limit=50, cursor=cursor))
        steps = RecoverySteps(None, deliveries_of(mongo), None)  # type: ignore[arg-type]
        job = RecoveryJob(
            id="job_1",
            kind="discard",
            workspace=query.workspace,
            created_at=utcnow(),
            statuses=tuple(query.statuses),
            event_type=query.event_type,
            last_error=query.error,
        )
        planned: list[str] = []
        total = None
        while not job.is_planned:
            result = await steps.run(job)
            planned += result.changes["batch"]
            total = result.changes.get("total", total)
            job = job.model_copy(update={**result.changes, "batch": ()})
        original = {name: document[name] for name in rare}
        await log.update_one({"_id": document["_id"]}, {"$set": original})
        return [item for found in pages for item in found.items], len(pages), planned, total

    shown, pages, planned, total = run(uri, walk)
    assert shown == planned == [document["_id"]]
    assert total == 1
    assert pages > 2


def test_indexes_of_an_earlier_release_are_dropped(store: Store) -> None:
    earlier = [replace(index, retired=False) for index in INDEXES[DELIVERIES] if index.retired]
    present = [index.keys for index in INDEXES[DELIVERIES] if not index.retired]

    async def upgrade(mongo: Mongo) -> list[Any]:
        log = mongo.collection(DELIVERIES)
        await mongo.ensure_indexes({DELIVERIES: earlier})
        assert len(await log.index_information()) == len(earlier) + 1
        await mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]}, keep_retired=True)
        assert await mongo.missing_indexes({DELIVERIES: [*earlier, *INDEXES[DELIVERIES]]}) == []
        await asyncio.gather(*(mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]}) for _ in range(2)))
        await mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]})
        return [tuple(index["key"]) for index in (await log.index_information()).values()]

    found = run(store.uri(), upgrade)
    assert sorted(found) == sorted([*present, (("_id", 1),)])
