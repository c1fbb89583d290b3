"""The delivery log: every question on an index, every attempt, erasing, statistics, retention."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from secrets import randbelow, token_hex
from statistics import quantiles
from typing import Any, TypeVar

import httpx
import pytest
from aiohttp import web
from bson import encode
from pymongo import MongoClient

from bench.log import (
    TYPES,
    WORKSPACES,
    Finds,
    ask,
    combinations,
    explained,
    filling,
    finds,
    mongo_at,
    webhook_of,
)
from interlink import embedded
from interlink.supervise import ProcessGroup
from services.delivery.app import INDEXES
from services.delivery.engine.results import ResultWriter, WriteRefused
from services.delivery.log.deliveries import DELIVERIES, Deliveries
from services.delivery.log.delivery_changes import DeliveryChanges
from services.delivery.log.erasures import Erasures
from services.delivery.log.key_search import DeliveryQuery, search_keys
from services.delivery.log.log_slices import LogKey
from services.delivery.log.search import page
from services.delivery.log.statistics import STATISTICS, Statistics
from services.delivery.settings import DeliverySettings
from shared.contracts.errors import Malformed
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.hourly_counts import hour_of
from shared.runtime.logs import Log, configure
from shared.runtime.mongo import Document, InsertOne, Mongo, UpdateOne
from tests.support.backends import Store
from tests.support.eventually import eventually
from tests.support.expiry import stored_ttls
from tests.support.hub import Hub, hub_with
from tests.support.subscriber import Subscriber, WebhookRequest

T = TypeVar("T")

NOW = utcnow()
ROWS = 4_000
LIMIT = 20
COMBINATIONS = combinations(NOW)


@pytest.fixture(scope="module")
def log() -> Log:
    return configure("tests", "warning")


@pytest.fixture(scope="module")
def filled(store: Store) -> Iterator[tuple[str, list[Document]]]:
    """A log of its own with 4,000 deliveries in two workspaces: its address, and what is in it."""
    uri = store.uri()
    documents = list(filling(ROWS, NOW, body=20))
    run(uri, lambda mongo: mongo.ensure_indexes(INDEXES))
    with MongoClient[Document](uri) as client:
        for start in range(0, ROWS, 1_000):
            client.get_default_database()[DELIVERIES].insert_many(documents[start : start + 1_000])
    yield uri, documents
    with MongoClient[Document](uri) as client:
        client.drop_database(client.get_default_database().name)


hub = hub_with(services=("gateway", "delivery"))


@pytest.fixture(scope="module")
def seeded(hub: Hub) -> Iterator["Seeded"]:
    """The hub's own log, to put deliveries into as the engine would have left them."""
    with MongoClient[Document](hub.env["MONGODB_URI"], tz_aware=True) as client:
        yield Seeded(hub, client)


class Seeded:
    """A hub and its store."""

    def __init__(self, hub: Hub, client: MongoClient[Document]) -> None:
        self.hub = hub
        self.deliveries = client.get_default_database()[DELIVERIES]
        self.statistics = client.get_default_database()[STATISTICS]

    def put(self, count: int = 1, **fields: Any) -> list[Document]:
        """Finished deliveries of this moment, with these fields."""
        found = []
        for document in filling(count, utcnow(), seed=randbelow(2**32)):
            number = token_hex(16)
            for name in ("open", "due_at", "failed", "last_error"):
                document.pop(name, None)
            document |= {"_id": f"dlv_{number}", "workspace": self.hub.workspace, "status": "delivered"}
            found.append(document | {"created_at": utcnow()} | fields)
        self.deliveries.insert_many(found)
        return found

    def of(self, event_id: str) -> list[Document]:
        return list(self.deliveries.find({"event_id": event_id}))


def stranger(hub: Hub) -> str:
    """The admin key of another workspace, once delivery knows it."""
    key = hub.other_workspace()
    url = hub.url("delivery") + "/api/outgoing-webhooks"
    headers = {"authorization": f"Bearer {key}"}
    eventually(lambda: httpx.get(url, headers=headers, timeout=10).status_code == 200)
    return key


def run(uri: str, work: Callable[[Mongo], Coroutine[Any, Any, T]]) -> T:
    """Do this with a client of its own, as a service would."""

    async def inside() -> T:
        mongo = mongo_at(uri)
        try:
            return await work(mongo)
        finally:
            mongo.close()

    return asyncio.run(inside())


def key_of(document: Document) -> LogKey:
    return document["created_at"], document["_id"]


def expected(documents: list[Document], query: DeliveryQuery) -> list[LogKey]:
    """What the log should answer, newest first, by looking at everything."""

    def fits(document: Document) -> bool:
        fields = {
            "workspace": query.workspace,
            "webhook_id": query.webhook_id,
            "event_type": query.event_type,
            "event_id": query.event_id,
            "last_error": query.error,
        }
        return (
            all(value is None or document.get(name) == value for name, value in fields.items())
            and (not query.statuses or document["status"] in query.statuses)
            and (query.since is None or document["created_at"] >= query.since)
            and (query.until is None or document["created_at"] < query.until)
        )

    return sorted(map(key_of, filter(fits, documents)), reverse=True)


# Every question on an index


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_is_read_from_its_index_in_order(
    filled: tuple[str, list[Document]], name: str
) -> None:
    """No collection scan, no index that covers only some of the filter; on MongoDB no sort either."""
    uri, documents = filled
    query = COMBINATIONS[name]

    async def once(mongo: Mongo) -> tuple[Any, Any]:
        about = await mongo.collection(DELIVERIES).database.command("buildInfo")
        return about, await ask(mongo, seen, name, query, limit=LIMIT, repeats=1)

    seen: Finds
    with finds() as seen:
        about, asked = run(uri, once)
    assert asked.items == min(LIMIT, len(expected(documents, query)))
    *looks, fetch = asked.plans
    assert fetch.stages == ("EOF",) or fetch.index == "_id_", "no ids: nothing is read"
    if can_match(query):
        assert {plan.index for plan in looks} == {index_for(query)}
    else:
        assert not looks
    assert all(any(stage.endswith("IXSCAN") for stage in plan.stages) for plan in looks)
    if "secantus" in str(about).lower():
        # It sorts and cuts after it has read all that matches; slices of time keep that small.
        assert asked.documents <= 20 * (LIMIT + 1)
    else:
        assert not any(plan.sorts for plan in looks)
        if is_covered(query):
            assert all(plan.documents == 0 for plan in looks), "keys are to come from the index alone"
            assert asked.documents <= LIMIT + 1
        assert asked.documents <= 20 * (LIMIT + 1)


def index_for(query: DeliveryQuery) -> str:
    """The name of the one index of an event, of a webhook's log or of the whole log."""
    if query.event_id is not None:
        return "workspace_1_event_id_1_created_at_-1__id_-1"
    webhook = "" if query.webhook_id is None else "webhook_id_1_"
    return f"workspace_1_{webhook}status_1_created_at_-1__id_-1"


def is_covered(query: DeliveryQuery) -> bool:
    """Whether the index has all that is filtered by. The rest is filtered after reading."""
    return query.event_id is None and query.event_type is None and query.error is None


def can_match(query: DeliveryQuery) -> bool:
    """Whether there can be such a delivery: none that was delivered has an error."""
    return query.error is None or query.statuses != ("delivered",)


async def keys_found(mongo: Mongo, query: DeliveryQuery, **options: Any) -> list[LogKey]:
    """The keys of one search."""
    return list((await search_keys(mongo.collection(DELIVERIES), query, **options)).keys)


def test_a_scan_or_a_wrong_index_would_be_noticed(filled: tuple[str, list[Document]]) -> None:
    """The proof of the test above: the same questions, asked with no index for them, fail it."""
    uri, _ = filled

    async def once(mongo: Mongo) -> Any:
        log = mongo.collection(DELIVERIES)
        await log.find({"occurred_at": {"$gt": ""}}).limit(LIMIT).to_list(LIMIT)
        await log.find({"workspace": "busy", "traceparent": "x"}).limit(LIMIT).to_list(LIMIT)
        return [await explained(mongo, command) for command in seen.commands]

    seen: Finds
    with finds() as seen:
        scan, partly = run(uri, once)
    assert not any(stage.endswith("IXSCAN") for stage in scan.stages)
    assert max(scan.documents, partly.documents) > 20 * (LIMIT + 1)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_answers_what_looking_at_everything_would(
    filled: tuple[str, list[Document]], name: str
) -> None:
    uri, documents = filled
    query = COMBINATIONS[name]
    should = expected(documents, query)

    async def walk(mongo: Mongo) -> tuple[list[LogKey], list[LogKey]]:
        log = mongo.collection(DELIVERIES)
        down: list[LogKey] = []
        cursor = None
        for limit in (1, 7, 40, *[500] * 30):
            found = await page(log, query, key_of, limit=limit, cursor=cursor)
            assert len(found.items) == limit or found.next_cursor is None
            down += found.items
            cursor = found.next_cursor
            if cursor is None:
                break
        up: list[LogKey] = []
        while some := await keys_found(
            mongo, query, limit=900, after=up[-1] if up else None, oldest_first=True
        ):
            up += some
        return down, up

    down, up = run(uri, walk)
    assert down == should
    assert up == should[::-1]


def test_times_at_an_edge_of_the_calendar_or_of_a_delivery(filled: tuple[str, list[Document]]) -> None:
    uri, documents = filled
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    exact = [documents[number]["created_at"] for number in (9, 2009, ROWS - 31)]
    edges = (None, first, *exact, NOW - timedelta(hours=3), NOW + timedelta(days=400), last)

    async def walk(mongo: Mongo) -> None:
        log = mongo.collection(DELIVERIES)
        for since, until in product(edges, edges):
            query = DeliveryQuery(WORKSPACES[1], statuses=("delivered",), since=since, until=until)
            should = expected(documents, query)
            assert await keys_found(mongo, query, limit=5) == should[:5], (since, until)
            assert await keys_found(mongo, query, limit=5, oldest_first=True) == should[::-1][:5], (
                since,
                until,
            )
        for cursor in ("0-x", "0-", "253402300799000-x", "1-x-y"):
            await page(log, DeliveryQuery(WORKSPACES[1]), key_of, limit=5, cursor=cursor)
        for cursor in ("x", "-", "-1-x", "1" * 190, "9999999999999999-x", "1.5-x", "nan-x"):
            with pytest.raises(Malformed):
                await page(log, DeliveryQuery(WORKSPACES[1]), key_of, limit=5, cursor=cursor)

    run(uri, walk)


def test_the_api_filters_the_log(seeded: Seeded) -> None:
    hub = seeded.hub
    webhook, other = webhook_of(token_hex(4), 1), webhook_of(token_hex(4), 2)
    failed: dict[str, Any] = {"failed": True, "last_error": "tls"}
    late = utcnow().replace(microsecond=0) - timedelta(days=2)
    made = {
        "delivered": seeded.put(3, webhook_id=webhook, event_type=TYPES[0])[0],
        "dead": seeded.put(webhook_id=webhook, status="dead_letter", event_type=TYPES[1], **failed)[0],
        "away": seeded.put(webhook_id=webhook, status="discarded", event_type=TYPES[1])[0],
        "old": seeded.put(webhook_id=webhook, event_type=TYPES[0], created_at=late)[0],
        "other": seeded.put(webhook_id=other, status="dead_letter", event_type=TYPES[1], **failed)[0],
    }

    def shown(**query: Any) -> set[str]:
        found = hub.call("GET", "/api/deliveries", params={"limit": 500, **query})["items"]
        return {name for name, document in made.items() if document["_id"] in {item["id"] for item in found}}

    assert shown(webhook_id=webhook) == {"delivered", "dead", "away", "old"}
    assert shown(webhook_id=webhook, status=["dead_letter", "discarded"]) == {"dead", "away"}
    assert shown(webhook_id=webhook, event_type=TYPES[0], until=late.isoformat()) == set()
    assert shown(webhook_id=webhook, event_type=TYPES[0], since=late.isoformat()) == {"delivered", "old"}
    assert shown(error="tls", status="dead_letter") == {"dead", "other"}
    assert shown(error="tls", webhook_id=other, event_type=TYPES[1]) == {"other"}
    assert shown(event_id=made["dead"]["event_id"], webhook_id=webhook) >= {"dead"}
    assert shown(event_id=made["dead"]["event_id"], error="timeout") == set()
    hub.call("GET", "/api/deliveries?status=lost", expect=422)
    other_key = stranger(hub)
    assert hub.call("GET", "/api/deliveries", key=other_key)["items"] == []
    for query in (f"webhook_id={webhook}", f"event_id={made['dead']['event_id']}", "error=tls"):
        assert hub.call("GET", f"/api/deliveries?{query}", key=other_key)["items"] == []


def test_a_delivery_is_shown_with_where_it_came_from_and_its_last_error(seeded: Seeded) -> None:
    [original] = seeded.put()
    [replayed] = seeded.put(
        replay_of=original["_id"], replay_no=2, status="dead_letter", failed=True, last_error="status"
    )
    shown = seeded.hub.call("GET", f"/api/deliveries/{replayed['_id']}")
    assert (shown["replay_of"], shown["replay_no"], shown["error"]) == (original["_id"], 2, "status")
    first = seeded.hub.call("GET", f"/api/deliveries/{original['_id']}")
    assert (first["replay_of"], first["replay_no"], first["error"], first["erased_at"]) == (None,) * 4
    [attempt] = first["attempts"]
    assert attempt.keys() == {
        "number",
        "started_at",
        "duration_ms",
        "status_code",
        "error",
        "detail",
        "address",
        "request_headers",
        "response_headers",
        "response_body",
    }


# Erasing


def test_an_erased_event_leaves_no_trace_of_its_payload_and_is_not_sent_again(seeded: Seeded) -> None:
    hub = seeded.hub
    kind, secret = f"t{token_hex(6)}", f"payload-{token_hex(8)}"

    def echo(status: int) -> Callable[[WebhookRequest], web.StreamResponse]:
        return lambda got: web.Response(status=status, body=got.body)

    with Subscriber(echo(200)) as willing, Subscriber(echo(503)) as failing:
        done = hub.outgoing_webhook(willing.url, events=[kind])
        again = hub.outgoing_webhook(failing.url, events=[kind], retry={"schedule": [0, 4, 0.2]})
        event = {"specversion": "1.0", "type": kind, "source": "/tests", "subject": kind}
        erased, stored = f"evt-{token_hex(8)}", f"evt-{token_hex(8)}"
        hub.call("POST", "/api/events", [event | {"id": erased, "data": {"x": secret}}], expect=202)
        hub.call("POST", "/api/events", [event | {"id": stored, "data": {"x": "kept"}}], expect=202)

        def tried() -> bool:
            """Both events have been attempted at both webhooks."""
            log = [*seeded.of(erased), *seeded.of(stored)]
            return len(log) == 4 and all(delivery["attempt_count"] >= 1 for delivery in log)

        eventually(tried)
        assert all(secret.encode() in encode(delivery) for delivery in seeded.of(erased))
        answer = hub.call("POST", "/api/deliveries/erase", {"event_id": erased})
        assert answer == {"erased": 2, "cancelled": 1}
        assert hub.call("POST", "/api/deliveries/erase", {"event_id": erased}) == {
            "erased": 0,
            "cancelled": 0,
        }
        before = len(failing.got)
        # The event beside it goes on being tried, after the erased one's own times have come.
        eventually(lambda: "dead_letter" in [delivery["status"] for delivery in seeded.of(stored)])
        later = [got.body for got in failing.got[before:]]
    assert later
    assert not any(secret.encode() in body for body in later)
    assert not any(secret.encode() in encode(delivery) for delivery in seeded.of(erased))
    by_webhook = {delivery["webhook_id"]: delivery for delivery in seeded.of(erased)}
    assert by_webhook[done["id"]]["status"] == "delivered"
    assert by_webhook[again["id"]]["status"] == "cancelled"
    for item in by_webhook.values():
        shown = hub.call("GET", f"/api/deliveries/{item['_id']}")
        assert shown["body"] is None
        assert shown["erased_at"] is not None
        assert [attempt["response_body"] for attempt in shown["attempts"]] == [None]
        assert "open" not in item
        assert item["expires_at"] > item["finished_at"]
    assert all(delivery["body"] for delivery in seeded.of(stored))


def test_only_the_own_workspaces_event_is_erased(seeded: Seeded) -> None:
    event_id = f"evt_{token_hex(8)}"
    [ours] = seeded.put(event_id=event_id)
    [theirs] = seeded.put(event_id=event_id, workspace="another")
    answer = seeded.hub.call("POST", "/api/deliveries/erase", {"event_id": event_id})
    assert answer == {"erased": 1, "cancelled": 0}
    left = {delivery["_id"]: "body" in delivery for delivery in seeded.of(event_id)}
    assert left == {ours["_id"]: False, theirs["_id"]: True}
    for body in ({}, {"event_id": ""}, {"event_id": 1}, {"event_id": "x", "more": 1}):
        seeded.hub.call("POST", "/api/deliveries/erase", body, expect=422)


def test_what_was_under_way_is_erased_afterwards(store: Store, log: Log) -> None:
    """A first attempt that had been looked at before the event was erased enters the log after it."""
    event_id = f"evt_{token_hex(8)}"
    first, second = (
        document | {"event_id": event_id, "workspace": "w", "status": status} | more
        for document, status, more in zip(
            filling(2, NOW),
            ("delivered", "delivering"),
            ({}, {"open": True, "due_at": NOW}),
            strict=True,
        )
    )

    async def late(mongo: Mongo) -> None:
        erasures = Erasures(mongo, Configuration(mongo, log), DeliveryChanges(mongo, DeliverySettings()), log)
        deliveries = mongo.collection(DELIVERIES)
        assert (await erasures.erase("w", event_id)).erased == 0
        assert erasures.is_erased("w", event_id)
        assert not erasures.is_erased("v", event_id)
        assert not erasures.is_erased("w", "x")
        await deliveries.insert_many([first])
        await erasures.repeat_due(utcnow() + timedelta(seconds=5))
        assert "body" in (await deliveries.find_one({"_id": first["_id"]}) or {})
        await erasures.repeat_due(utcnow() + timedelta(seconds=11))
        assert "body" not in (await deliveries.find_one({"_id": first["_id"]}) or {})
        await deliveries.insert_many([second])
        await erasures.repeat_due(utcnow() + timedelta(seconds=11))
        assert "body" in (await deliveries.find_one({"_id": second["_id"]}) or {})
        await erasures.repeat_due(utcnow() + timedelta(seconds=121))
        found = await deliveries.find_one({"_id": second["_id"]}) or {}
        assert "body" not in found
        assert (found["status"], found["fence"]) == ("cancelled", second["fence"] + 1)

    run(store.uri(), late)


def test_a_write_that_the_database_refuses_for_good_fails_alone(store: Store, log: Log) -> None:
    """Repeated for ever, it would hold up the results of all workspaces."""
    entry, other = filling(2, NOW)

    async def write_both(mongo: Mongo) -> None:
        settings, statistics = DeliverySettings(), Statistics(mongo, log)
        deliveries = Deliveries(mongo, settings, statistics, DailyUsage(mongo, log), log, instance="i")
        await mongo.collection(DELIVERIES).insert_one(entry)
        results = ResultWriter(deliveries, log)
        await results.start()
        refused = UpdateOne({"_id": entry["_id"]}, {"$inc": {"status": 1}})  # it is a text
        async with asyncio.timeout(30):
            first = asyncio.create_task(results.write(refused))
            await results.write(InsertOne(other))
            with pytest.raises(WriteRefused):
                await first
        await results.stop()
        assert await mongo.collection(DELIVERIES).find_one({"_id": other["_id"]})

    run(store.uri(), write_both)


# Statistics


def test_percentiles_are_within_the_bound_that_is_promised(store: Store, log: Log) -> None:
    dice = random.Random(7)  # noqa: S311 -- not a secret
    seconds = sorted(min(65.0, max(0.0006, dice.lognormvariate(-3, 1.5))) for _ in range(5_000))

    async def counted(mongo: Mongo) -> Any:
        statistics = Statistics(mongo, log)
        for item in seconds:
            statistics.record("wh_1", "w", "delivered", item, NOW)
        await statistics.flush()
        return await statistics.webhook_hours("wh_1", NOW)

    [hour] = run(store.uri(), counted)
    assert (hour.attempts, hour.delivered, hour.hour) == (5_000, 5_000, hour_of(NOW))
    cuts = quantiles(seconds, n=100)
    for share, exact in ((0.5, cuts[49]), (0.95, cuts[94]), (0.99, cuts[98])):
        assert hour.percentile_ms(share) == pytest.approx(exact * 1000, rel=0.10)


@pytest.mark.parametrize(("seconds", "ms"), [(0.0, 0.5), (0.0004, 0.5), (1e9, 65536.0)])
def test_latencies_outside_of_the_buckets_are_given_as_their_ends(
    store: Store, log: Log, seconds: float, ms: float
) -> None:
    async def counted(mongo: Mongo) -> Any:
        statistics = Statistics(mongo, log)
        statistics.record("wh_1", "w", "retrying", seconds, NOW)
        await statistics.flush()
        return await statistics.webhook_hours("wh_1", NOW)

    [hour] = run(store.uri(), counted)
    assert {hour.percentile_ms(share) for share in (0.0, 0.5, 0.99, 1.0)} == {ms}


def test_processes_and_hours_add_up(store: Store, log: Log) -> None:
    before = NOW - timedelta(hours=30)

    async def counted(mongo: Mongo) -> Any:
        first, second = Statistics(mongo, log), Statistics(mongo, log)
        for process in (first, second):
            await process.start()
        for number in range(100):
            for process in (first, second):
                process.record("wh_1", "w", "delivered", 0.01, NOW)
                process.record("wh_1", "w", "retrying", 0.01, before)
                process.record(f"wh_{number}", "w", "dead_letter", 0.01, NOW)
                process.record("wh_1", "v", "delivered", 0.01, NOW)
            await asyncio.sleep(0)
        await asyncio.gather(first.stop(), second.stop())
        counts = [await first.delivered(name, None, NOW - timedelta(days=7)) for name in ("w", "v", "x")]
        return (
            await first.webhook_hours("wh_1", before),
            await first.webhook_hours("wh_9", before, NOW),
            counts,
        )

    [earlier, hour], [ninth], counts = run(store.uri(), counted)
    assert (earlier.hour, earlier.attempts, earlier.failed_attempts) == (hour_of(before), 200, 200)
    assert (hour.attempts, hour.delivered, hour.failed_attempts, hour.dead_letters) == (402, 400, 2, 2)
    assert (ninth.attempts, ninth.delivered, ninth.dead_letters) == (2, 0, 2)
    assert counts == [200, 200, 0]


def test_what_is_counted_while_the_store_is_away_is_written_when_it_is_back(tmp_path: Path, log: Log) -> None:
    processes = ProcessGroup()
    own = embedded.database(tmp_path, processes)
    own.start()

    async def counted() -> tuple[int, int]:
        mongo = mongo_at(own.uri, timeout_ms=500)
        statistics = Statistics(mongo, log)
        statistics.record("wh_1", "w", "delivered", 0.01, NOW)
        await statistics.flush()
        await asyncio.to_thread(own.kill)
        for _ in range(3):
            statistics.record("wh_1", "w", "delivered", 0.01, NOW)
            statistics.record("wh_2", "w", "delivered", 0.01, NOW)
            statistics.record_entry("wh_2", "w", NOW, delivered=True)
            await statistics.flush()
        await asyncio.to_thread(own.start)
        await statistics.flush()
        await statistics.flush()
        found = await statistics.delivered("w", None, NOW)
        rows = await mongo.collection(STATISTICS).find({"webhook_id": "wh_2"}).to_list(None)
        mongo.close()
        return found, sum(sum(row["entries"].values()) for row in rows)

    try:
        assert asyncio.run(counted()) == (7, 3)
    finally:
        own.stop()
        processes.close()


def test_a_webhooks_hours_are_shown(seeded: Seeded, log: Log) -> None:
    hub = seeded.hub
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", events=[f"t{token_hex(6)}"])
    now = utcnow()

    async def count(mongo: Mongo) -> None:
        statistics = Statistics(mongo, log)
        for outcome in ("delivered", "delivered", "delivered", "retrying"):
            statistics.record(webhook["id"], hub.workspace, outcome, 0.02, now)
        statistics.record(webhook["id"], hub.workspace, "dead_letter", 10.0, now - timedelta(hours=2))
        statistics.record(webhook["id"], hub.workspace, "dead_letter", 10.0, now - timedelta(days=3))
        await statistics.flush()

    run(hub.env["MONGODB_URI"], count)
    path = f"/api/outgoing-webhooks/{webhook['id']}/stats"
    shown = hub.call("GET", path)
    earlier, latest = shown["hours"]
    assert (earlier["attempts"], earlier["dead_letters"], earlier["success_rate"]) == (1, 1, 0.0)
    assert (latest["attempts"], latest["delivered"], latest["failed_attempts"]) == (4, 3, 1)
    assert latest["success_rate"] == 0.75
    assert latest["p50_ms"] == latest["p99_ms"] == pytest.approx(20, rel=0.1)
    assert shown["together"]["attempts"] == 5
    assert shown["together"]["p99_ms"] == pytest.approx(10_000, rel=0.1)
    assert len(hub.call("GET", path, params={"since": (now - timedelta(days=4)).isoformat()})["hours"]) == 3
    ended = {"until": (now - timedelta(hours=1)).isoformat()}
    assert [hour["hour"] for hour in hub.call("GET", path, params=ended)["hours"]] == [earlier["hour"]]
    for odd in ({"since": "0001-01-01T00:00:00Z"}, {"until": "9999-12-31T00:00:00Z"}):
        assert hub.call("GET", path, params=odd)["hours"]
    assert hub.call("GET", path, params={"since": "9999-01-01T00:00:00Z"})["hours"] == []
    hub.call("GET", path, key=stranger(hub), expect=404)
    hub.call("GET", "/api/outgoing-webhooks/wh_none/stats", expect=404)


def test_the_queues_counts_are_of_the_log_and_of_the_statistics(seeded: Seeded, log: Log) -> None:
    hub = seeded.hub
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", events=[f"t{token_hex(6)}"], enabled=False)
    of = {"webhook_id": webhook["id"]}
    due = {"open": True, "due_at": utcnow() - timedelta(seconds=90)}
    seeded.put(3, **of, **due, status="pending")
    seeded.put(2, **of, **due | {"due_at": utcnow() + timedelta(hours=1)}, status="retrying")
    seeded.put(4, **of, status="dead_letter")
    seeded.put(5, **of, status="discarded")

    async def count(mongo: Mongo) -> None:
        statistics = Statistics(mongo, log)
        for days in (0, 6, 8):
            statistics.record(
                webhook["id"], hub.workspace, "delivered", 0.02, utcnow() - timedelta(days=days)
            )
        await statistics.flush()

    run(hub.env["MONGODB_URI"], count)
    shown = hub.call("GET", "/api/queue/stats", params=of)
    assert 90 <= shown.pop("oldest_due_s") < 180
    del shown["counted_at"]
    assert shown == {"total": 11, "pending": 3, "active": 0, "completed": 2, "failed": 4, "delayed": 2}
    assert hub.call("GET", "/api/queue/stats")["oldest_due_s"] >= 90
    others = hub.call("GET", "/api/queue/stats", params=of, key=stranger(hub))
    del others["counted_at"]
    assert others == {
        "total": 0,
        "pending": 0,
        "active": 0,
        "completed": 0,
        "failed": 0,
        "delayed": 0,
        "oldest_due_s": None,
    }


# How long it is kept


def test_finished_deliveries_are_retained_by_status(seeded: Seeded) -> None:
    hub = seeded.hub
    kind = f"t{token_hex(6)}"
    with Subscriber() as willing, Subscriber(lambda _: web.Response(status=500)) as failing:
        hub.outgoing_webhook(willing.url, events=[kind])
        hub.outgoing_webhook(failing.url, events=[kind], retry={"schedule": [0]})
        hub.outgoing_webhook(failing.url, events=[kind], retry={"schedule": [0, 3600]})
        event = {"specversion": "1.0", "id": token_hex(8), "type": kind, "source": "/tests", "subject": kind}
        hub.call("POST", "/api/events", [event], expect=202)

        def tried() -> dict[str, Document] | None:
            """One delivered, one dead, one waiting."""
            log = {delivery["status"]: delivery for delivery in seeded.deliveries.find({"event_type": kind})}
            return log if log.keys() == {"delivered", "dead_letter", "retrying"} else None

        log = eventually(tried) or {}
    for status, days in (("delivered", 7), ("dead_letter", 30)):
        assert log[status]["expires_at"] - log[status]["finished_at"] == timedelta(days=days)
    assert "expires_at" not in log["retrying"]
    assert stored_ttls(seeded.deliveries) == {("expires_at",): 0}
    assert stored_ttls(seeded.statistics) == {("hour",): 90 * 86_400}
