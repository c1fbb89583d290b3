"""Counts of log entries: a page of an old burst reads little, and wrong counts hide nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench.log import WORKSPACES, Finds, explained, finds
from bench.old_burst import AGE, count_entries, old_burst, queries
from services.delivery.app import INDEXES
from services.delivery.log.deliveries import DELIVERIES, Deliveries
from services.delivery.log.entry_counts import (
    EntryTally,
    add_entries,
    add_entry,
    counted_times,
    entry_increments,
)
from services.delivery.log.key_search import DeliveryQuery
from services.delivery.log.search import DeliverySearch
from services.delivery.log.statistics import STATISTICS, Statistics
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.retry_policy import Attempt, AttemptOutcome
from services.delivery.settings import DeliverySettings
from shared.contracts.ids import WebhookId, delivery_id_for
from shared.runtime.clock import utcnow
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.egress.client import EgressResponse
from shared.runtime.logs import configure
from shared.runtime.mongo import Document, Mongo
from tests.delivery.test_log import expected, run
from tests.support.backends import Store

HOUR = datetime(2026, 11, 17, 9, tzinfo=UTC)
LIMIT = 20
ROWS = 3_000
PER_S = 300
QUERIES = {name: query for name, query in queries().items() if query.event_type is None}
"""A search for an event type may examine more: see `test_key_search.py`."""


# At half a minute: the newest entry is alone in its second, and half of its minute is empty.
NOW = utcnow().replace(second=30, microsecond=0)


def statistics_of(mongo: Mongo) -> Statistics:
    return Statistics(mongo, configure("tests", "error"))


@pytest.fixture(scope="module")
def burst(store: Store) -> tuple[str, list[Document]]:
    """A log whose newest entries are a burst of six days ago, with its counts."""
    uri, documents = store.uri(), list(old_burst(ROWS, NOW, per_s=PER_S, body=20))

    async def fill(mongo: Mongo) -> None:
        await mongo.ensure_indexes(INDEXES)
        await mongo.collection(DELIVERIES).insert_many(documents)
        await count_entries(statistics_of(mongo), documents)

    run(uri, fill)
    return uri, documents


@pytest.mark.parametrize("name", QUERIES)
def test_each_page_of_an_old_burst_examines_few_deliveries(
    burst: tuple[str, list[Document]], name: str
) -> None:
    uri, documents = burst
    query = QUERIES[name]
    should = [delivery_id for _, delivery_id in expected(documents, query)]
    seen: Finds

    async def read(mongo: Mongo) -> tuple[list[str], list[int], list[int]]:
        statistics = statistics_of(mongo)
        ids: list[str] = []
        examined: list[int] = []
        searches: list[int] = []
        cursor = None
        for _ in range(3):
            seen.commands.clear()
            # A new search has no memory of gaps.
            page = await DeliverySearch(mongo, statistics).page(query, limit=LIMIT, cursor=cursor)
            commands = [command for command in seen.commands if "_id" not in command["filter"]]
            plans = [await explained(mongo, command) for command in commands]
            ids += [item.id for item in page.items]
            examined.append(sum(plan.documents for plan in plans))
            searches.append(len(commands))
            cursor = page.next_cursor
            if cursor is None:
                break
        return ids, examined, searches

    with finds() as seen:
        ids, examined, searches = run(uri, read)
    assert ids == should[: 3 * LIMIT]
    assert max(examined) <= 10 * LIMIT
    assert max(searches) <= 12 * 7, "about a dozen slices, each of at most seven statuses"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(timedelta(0), id="right"),
        pytest.param(timedelta(seconds=7), id="early"),
        pytest.param(timedelta(days=-2), id="of_another_time"),
        pytest.param(None, id="attempts_of_an_earlier_release"),
    ],
)
def test_every_entry_is_found_whatever_was_counted(store: Store, error: timedelta | None) -> None:
    now = utcnow().replace(microsecond=0)
    recent = [
        document | {"_id": f"dlv_recent_{number}", "created_at": now - timedelta(minutes=3 * number)}
        for number, document in enumerate(old_burst(40, now, body=20))
    ]
    uncounted = [
        document | {"_id": f"dlv_uncounted_{number}", "created_at": now - timedelta(hours=7 * number)}
        for number, document in enumerate(old_burst(40, now, body=20))
    ]
    burst = list(old_burst(200, now, per_s=40, body=20))
    documents = [*recent, *uncounted, *burst]
    names = ("everything", "webhook + dead_letter", "error")

    async def walk(mongo: Mongo) -> dict[str, list[str]]:
        await mongo.ensure_indexes(INDEXES)
        await mongo.collection(DELIVERIES).insert_many(documents)
        statistics = statistics_of(mongo)
        counted = [*recent, *burst]
        if error is not None:
            moved = [document | {"created_at": document["created_at"] + error} for document in counted]
            await count_entries(statistics, moved)
        else:
            for document in counted:
                at = document["created_at"]
                statistics.record(document["webhook_id"], WORKSPACES[0], "delivered", 0.1, at)
            await statistics.flush()
        search = DeliverySearch(mongo, statistics)
        found: dict[str, list[str]] = {name: [] for name in names}
        for name in names:
            cursor = None
            while True:
                page = await search.page(QUERIES[name], limit=60, cursor=cursor)
                found[name] += [item.id for item in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    break
        return found

    found = run(store.uri(), walk)
    for name in names:
        assert found[name] == [delivery_id for _, delivery_id in expected(documents, QUERIES[name])], name


def test_the_counts_of_another_workspaces_webhook_are_not_used(burst: tuple[str, list[Document]]) -> None:
    uri, documents = burst

    async def start(mongo: Mongo) -> list[datetime | None]:
        statistics = statistics_of(mongo)
        high, floor = documents[0]["created_at"] + timedelta(hours=5), HOUR - timedelta(days=3650)
        return [
            await statistics.entry_counts(workspace, documents[0]["webhook_id"], undelivered=False).start_of(
                high, 10, floor
            )
            for workspace in WORKSPACES
        ]

    own, other = run(uri, start)
    assert own is not None
    assert abs(documents[0]["created_at"] - own) <= timedelta(minutes=1)
    assert other is None


def test_every_new_entry_is_counted_and_no_attempt_is_made_up(store: Store) -> None:
    started = utcnow()

    async def work(mongo: Mongo) -> tuple[list[Document], Any]:
        statistics = statistics_of(mongo)
        log = configure("tests", "error")
        usage = DailyUsage(mongo, log)
        deliveries = Deliveries(mongo, DeliverySettings(), statistics, usage, log, instance="tests")
        response = EgressResponse(204, None, "", {}, b"", 0.1, None)
        attempt = Attempt(1, started, {}, response)
        await deliveries.write(
            [
                deliveries.attempted_entry(request(1), attempt, AttemptOutcome("delivered", None)),
                deliveries.attempted_entry(request(2), attempt, AttemptOutcome("retrying", started)),
                deliveries.waiting_entry(request(3), started),
                deliveries.leased_entry(request(4), 1.0),
            ]
        )
        await statistics.stop()
        logged = await mongo.collection(DELIVERIES).count_documents({})
        assert logged == 4
        # The body of each is stored, whether it was attempted or waits.
        assert usage.totals("w") == {"stored_bytes": 4 * len(request(1).body)}
        rows = await mongo.collection(STATISTICS).find({}).to_list(None)
        return rows, await statistics.webhook_hours("wh_1", started)

    rows, hours = run(store.uri(), work)
    assert hours == []  # nothing was attempted: only entries were counted
    for owner in ("wh_1", "workspace:w"):
        of_owner = [row for row in rows if row["_id"].startswith(f"{owner}/")]
        assert sum(sum(row["entries"].values()) for row in of_owner) == 4
        assert sum(sum(row["undelivered"].values()) for row in of_owner) == 3


def request(number: int) -> DeliveryRequest:
    """A request for a delivery of webhook `wh_1` in workspace `w`."""
    webhook = WebhookId("wh_1")
    event = f"evt_{number}"
    return DeliveryRequest(
        delivery_id=delivery_id_for("w", "/tests", event, webhook),
        webhook_id=webhook,
        workspace="w",
        event_id=event,
        event_type="t",
        occurred_at="2026-11-17T09:00:00Z",
        body=b"{}",
        traceparent="",
        partition=0,
        order=number,
    )


def test_busy_intervals_have_a_count_of_their_own_and_the_rest_of_a_minute_is_even() -> None:
    tally: EntryTally = {}
    for second, count in ((121, 2), (126, 300), (129, 200), (130, 99), (3_599, 1)):
        for _ in range(count):
            add_entry(tally, HOUR + timedelta(seconds=second), delivered=second != 126)
    assert entry_increments(tally) == {
        "entries.2": 101,
        "entries.2:5": 500,
        "undelivered.2:5": 300,
        "entries.59": 1,
    }
    twice: EntryTally = {}
    add_entries(twice, tally)
    add_entries(twice, tally)
    assert entry_increments(twice)["entries.2:10"] == 198
    times = counted_times(HOUR, {"2": 120, "2:5": 500, "59": 1})
    assert [(time.start - HOUR, time.end - HOUR, time.entries) for time in times] == [
        (timedelta(minutes=59), timedelta(minutes=60), 1),
        (timedelta(seconds=130), timedelta(seconds=180), 100),
        (timedelta(seconds=125), timedelta(seconds=130), 510),
        (timedelta(seconds=120), timedelta(seconds=125), 10),
    ]
    assert sum(time.entries for time in times) == 621


def test_a_status_is_searched_where_entries_may_have_it(store: Store) -> None:
    """Two bursts: all of the newer one was delivered, and the dead letters are behind it."""
    delivered = [
        document
        | {"_id": f"dlv_new_{number}", "status": "delivered", "created_at": document["created_at"] + AGE / 2}
        for number, document in enumerate(old_burst(2_000, NOW, per_s=200, body=20))
    ]
    dead = [document | {"status": "dead_letter"} for document in old_burst(2_000, NOW, per_s=200, body=20)]
    query = DeliveryQuery(WORKSPACES[0], statuses=("dead_letter",))
    seen: Finds

    async def read(mongo: Mongo) -> tuple[list[str], int]:
        await mongo.ensure_indexes(INDEXES)
        await mongo.collection(DELIVERIES).insert_many([*delivered, *dead])
        statistics = statistics_of(mongo)
        await count_entries(statistics, [*delivered, *dead])
        seen.commands.clear()
        page = await DeliverySearch(mongo, statistics).page(query, limit=LIMIT, cursor=None)
        commands = [command for command in seen.commands if "_id" not in command["filter"]]
        plans = [await explained(mongo, command) for command in commands]
        return [item.id for item in page.items], sum(plan.documents for plan in plans)

    with finds() as seen:
        ids, examined = run(store.uri(), read)
    assert ids == [document["_id"] for document in dead[:LIMIT]]
    assert examined <= 10 * LIMIT
