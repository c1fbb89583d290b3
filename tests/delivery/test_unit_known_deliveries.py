"""Known deliveries: what is in the log is never taken for new, whatever came before, between and after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from time import time

import pytest
import structlog

from bench.log import mongo_at
from services.delivery.engine import known_deliveries
from services.delivery.engine.known_deliveries import BYTES_PER_ID, DeliveryFilter, KnownDeliveries
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.delivery_ids import DeliveryIds
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.due_cursor import ORDER_BITS
from shared.contracts.ids import DeliveryId, WebhookId
from shared.runtime.mongo import Collection, Mongo
from shared.runtime.retry import Backoff
from tests.support.backends import Store

LATER_MS = 10_000


class IndexedIds(DeliveryIds):
    """A database that reads ranges of ids from an index; the embedded one does not."""

    async def are_indexed(self) -> bool:
        return True


@asynccontextmanager
async def log_of(store: Store) -> AsyncIterator[tuple[DeliveryIds, Collection]]:
    mongo = mongo_at(store.uri())
    try:
        yield IndexedIds(mongo), mongo.collection(DELIVERIES)
    finally:
        mongo.close()


def new_id() -> str:
    return f"dlv_{token_hex(16)}"


def now_ms() -> int:
    return int(time() * 1000)


def request(delivery_id: str, *, at_ms: int | None = None) -> DeliveryRequest:
    """Return a request whose record was produced at this time, or after every assignment so far."""
    return DeliveryRequest(
        delivery_id=DeliveryId(delivery_id),
        webhook_id=WebhookId("wh_1"),
        workspace="w",
        event_id="e",
        event_type="t",
        occurred_at="2026-01-01T00:00:00Z",
        body=b"{}",
        traceparent="",
        partition=0,
        order=(now_ms() + LATER_MS if at_ms is None else at_ms) << ORDER_BITS,
    )


async def loaded(known: KnownDeliveries) -> KnownDeliveries:
    """Wait until something that nobody has logged is new."""
    async with asyncio.timeout(60):
        while not known.is_new(request(new_id())):  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.01)
    return known


def test_the_filter_never_loses_an_id_among_a_million_others() -> None:
    ids = [f"dlv_{number:x}" for number in range(1000)]
    found = DeliveryFilter(1_000_000)
    for delivery_id in ids:
        found.add(delivery_id)
    for number in range(1_000_000):
        found.add(f"other_{number}")
    assert all(delivery_id in found for delivery_id in ids)
    wrong = sum(f"new_{number}" in found for number in range(10_000))
    assert wrong < 100, "one in 400 is expected, or fewer"
    assert found.capacity * BYTES_PER_ID <= 2 << 20


async def test_what_the_log_has_is_known_and_the_rest_is_new(store: Store) -> None:
    async with log_of(store) as (ids, log):
        logged = [new_id() for _ in range(1200)] + ["", "dlv_", "zzz"]
        await log.insert_many([{"_id": delivery_id} for delivery_id in logged])
        known = KnownDeliveries(ids, structlog.get_logger(), open_ids=lambda: ())
        assert not known.is_new(request(new_id())), "nothing is new before the first assignment"
        assigned_ms = now_ms()
        known.follow_assignment(1)
        assert not known.is_new(request(new_id())), "nor while the log is loaded"
        await loaded(known)
        assert not any(known.is_new(request(delivery_id)) for delivery_id in logged)
        handled = new_id()
        assert known.is_new(request(handled))
        known.add(handled)
        assert not known.is_new(request(handled))
        # An earlier owner may have handled what was produced before this assignment, and write it late.
        assert not known.is_new(request(new_id(), at_ms=assigned_ms))
        await known.stop()


async def test_what_another_owner_logged_is_known_after_the_next_assignment(store: Store) -> None:
    async with log_of(store) as (ids, log):
        open_id, own, other = new_id(), new_id(), new_id()
        known = KnownDeliveries(ids, structlog.get_logger(), open_ids=lambda: [open_id])
        known.follow_assignment(1)
        await loaded(known)
        known.add(own)
        await log.insert_many([{"_id": own}, {"_id": other}])
        known.follow_assignment(2)
        between = new_id()
        known.add(between)  # it is logged after the load has passed its range, if ever
        await log.insert_one({"_id": between})
        await loaded(known)
        assert not any(known.is_new(request(item)) for item in (open_id, own, other, between))
        await known.stop()


async def test_a_filter_that_is_full_is_replaced_without_losing_an_id(store: Store) -> None:
    async with log_of(store) as (ids, log):
        known = KnownDeliveries(ids, structlog.get_logger(), open_ids=lambda: ())
        known.follow_assignment(1)
        await loaded(known)
        added = [new_id() for _ in range(70_000)]
        await log.insert_one({"_id": added[0]})
        for delivery_id in added:
            known.add(delivery_id)
        await asyncio.sleep(0.5)
        await loaded(known)
        assert not known.is_new(request(added[0]))
        await known.stop()


class ScannedIds(DeliveryIds):
    """A database that scans all documents for a range of ids, as the embedded one does."""

    def __init__(self, mongo: Mongo) -> None:
        super().__init__(mongo)
        self.scans = 0

    async def are_indexed(self) -> bool:
        return False

    async def between(self, low: str | None, high: str | None) -> list[str]:
        self.scans += 1
        return await super().between(low, high)


async def test_a_short_log_is_scanned_once_and_a_long_one_never(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the filter is full: the scan of a log that is long by then would hold everybody up."""
    monkeypatch.setattr(known_deliveries, "_MAX_SCANNED", 1200)
    monkeypatch.setattr(known_deliveries, "_MAX_COUNT_S", 60)
    monkeypatch.setattr(known_deliveries, "_SCANNED_CAPACITY", 1)  # rounded up to the least
    mongo = mongo_at(store.uri())
    log, ids = mongo.collection(DELIVERIES), ScannedIds(mongo)
    logged = [new_id() for _ in range(1200)]
    await log.insert_many([{"_id": delivery_id} for delivery_id in logged])
    known = KnownDeliveries(ids, structlog.get_logger(), open_ids=lambda: ())
    known.follow_assignment(1)
    await loaded(known)
    assert not any(known.is_new(request(delivery_id)) for delivery_id in logged)
    added = [new_id() for _ in range(70_000)]
    for delivery_id in added:
        known.add(delivery_id)
    assert not any(known.is_new(request(delivery_id)) for delivery_id in [*logged, *added])
    await log.insert_one({"_id": new_id()})
    known.follow_assignment(2)
    assert known._load_task
    await known._load_task
    assert not known.is_new(request(new_id()))
    await log.delete_many({})
    known.follow_assignment(3)
    await loaded(known)
    assert ids.scans == 2
    await known.stop()
    mongo.close()


class BusyIds(ScannedIds):
    """A database that counts in time only at the third time."""

    counts = 0

    async def count_within(self, seconds: float) -> int | None:
        self.counts += 1
        return await super().count_within(60 * seconds) if self.counts == 3 else None


async def test_a_log_that_was_not_counted_in_time_is_counted_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was busy. Without the filter, no request of this assignment would be direct."""
    monkeypatch.setattr(known_deliveries, "_BUSY_RETRY", Backoff(first_s=0.01, max_s=0.01))
    mongo = mongo_at(store.uri())
    ids = BusyIds(mongo)
    known = KnownDeliveries(ids, structlog.get_logger(), open_ids=lambda: ())
    known.follow_assignment(1)
    await loaded(known)
    assert ids.counts == 3
    await known.stop()
    mongo.close()


async def test_a_count_ends_after_its_time(store: Store) -> None:
    async with log_of(store) as (ids, log):
        await log.insert_many([{"_id": new_id()} for _ in range(1000)])
        assert await ids.count_within(60) == 1000
        if not await DeliveryIds.are_indexed(ids):  # MongoDB knows the count without reading
            await log.insert_many([{"_id": new_id()} for _ in range(5000)])
            assert await ids.count_within(0.001) is None
