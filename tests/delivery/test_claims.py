"""Claiming over a real store: whatever is written when, each due delivery is claimed, and none too early."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any

import pytest

from bench.log import mongo_at
from services.delivery.app import INDEXES
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.model.due_cursor import DueCursor
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Document
from tests.support.backends import Store

WEBHOOK = "wh_1"
HOLDER = {"holder": "tests", "holder_run": "1"}
DONE = {"$unset": {"open": "", "due_at": ""}}


def entry(number: int, due_at: datetime, order: int, webhook: str = WEBHOOK) -> Document:
    return {
        "_id": f"dlv_{token_hex(8)}",
        "webhook_id": webhook,
        "workspace": "w",
        "event_id": f"evt_{number}",
        "event_type": "t",
        "occurred_at": "2026-01-01T00:00:00Z",
        "body": b"{}",
        "traceparent": "",
        "partition": 0,
        "order": order,
        "status": "pending",
        "open": True,
        "due_at": due_at,
        "fence": 0,
        "attempt_count": 0,
        "created_at": due_at,
    }


@asynccontextmanager
async def log_of(store: Store) -> AsyncIterator[tuple[DueDeliveries, Collection]]:
    mongo = mongo_at(store.uri())
    try:
        await mongo.ensure_indexes({DELIVERIES: INDEXES[DELIVERIES]})
        yield DueDeliveries(mongo, holder=HOLDER), mongo.collection(DELIVERIES)
    finally:
        mongo.close()


async def claim(deliveries: DueDeliveries, cursor: DueCursor, limit: int = 10) -> list[str]:
    claimed = await deliveries.claim(WEBHOOK, cursor, limit=limit, timeout_s=30)
    return [item.request.delivery_id for item in claimed]


@pytest.mark.parametrize("seed", range(3))
def test_every_due_delivery_is_claimed_once_per_time_that_it_is_due(store: Store, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 -- not a secret

    def some_time() -> datetime:
        spread = dice.choice([0, 0.001, 0.5, 60, 7200, 40 * 24 * 3600])
        return utcnow() - timedelta(seconds=dice.random() * spread)

    async def test() -> None:
        async with log_of(store) as (deliveries, log):
            cursor, due = DueCursor(), set[str]()
            for _ in range(45):
                deed = dice.randrange(3)
                if deed == 0:
                    new = [entry(n, some_time(), n) for n in range(dice.randrange(1, 40))]
                    await log.insert_many(new)
                    for item in new:
                        cursor.note_due(item["due_at"])
                    due |= {item["_id"] for item in new}
                elif deed == 1:
                    stranger = entry(0, utcnow() - timedelta(seconds=dice.random() * 30), 0)
                    await log.insert_one(stranger)
                    cursor.note_external_change(utcnow())
                    due.add(stranger["_id"])
                else:
                    for claimed in await claim(deliveries, cursor, dice.randrange(1, 30)):
                        due.remove(claimed)  # a KeyError: it was not due
                        if dice.random() < 0.3:
                            again = some_time()
                            await log.update_one({"_id": claimed}, {"$set": {"due_at": again}})
                            cursor.note_due(again)
                            due.add(claimed)
                        else:
                            await log.update_one({"_id": claimed}, DONE)
            while more := await claim(deliveries, cursor):
                due -= set(more)
            assert due == set()

    asyncio.run(test())


@pytest.mark.parametrize("seed", range(3))
def test_the_head_is_claimed_and_nothing_before_it_is_finished(store: Store, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 -- not a secret

    async def test() -> None:
        async with log_of(store) as (deliveries, log):
            cursor, waiting = DueCursor("order"), list[str]()
            order = int(utcnow().timestamp() * 1000) - dice.choice([0, 10, 86_400_000]) << 22
            for _ in range(50):
                if dice.random() < 0.4:
                    order += dice.choice([1, 1, 1 << 22, 1000 << 22, 100_000 << 22])
                    document = entry(0, utcnow(), order)
                    await log.insert_one(document)
                    cursor.note_due(document["due_at"])
                    waiting.append(document["_id"])
                else:
                    claimed = await claim(deliveries, cursor)
                    assert claimed == waiting[:1]
                    if claimed and dice.random() < 0.3:
                        assert await claim(deliveries, cursor) == []  # its lease has not run out
                        await log.update_one({"_id": claimed[0]}, {"$set": {"due_at": utcnow()}})
                    elif claimed:
                        await log.update_one({"_id": claimed[0]}, DONE)
                        waiting.pop(0)
            earlier = entry(0, utcnow(), 5)
            await log.insert_one(earlier)
            cursor.note_external_change(utcnow())
            assert await claim(deliveries, cursor) == [earlier["_id"]]

    asyncio.run(test())


@pytest.mark.parametrize("field", ["due_at", "order"])
def test_when_the_next_one_is_due(store: Store, field: Any) -> None:
    async def test() -> None:
        async with log_of(store) as (deliveries, log):
            cursor = DueCursor(field)
            assert await deliveries.next_due(WEBHOOK, cursor) is None
            for number, wait in enumerate((0.5, 30, 4000, 7 * 24 * 3600, 400 * 24 * 3600)):
                await log.delete_many({})
                document = entry(0, utcnow() + timedelta(seconds=wait), 10 + number)
                await log.insert_one(document)
                assert await claim(deliveries, cursor) == []
                assert await deliveries.next_due(WEBHOOK, cursor) == document["due_at"]

    asyncio.run(test())


def test_a_claim_that_failed_is_made_again(store: Store) -> None:
    async def test() -> None:
        async with log_of(store) as (deliveries, log):
            cursor, document = DueCursor(), entry(0, utcnow(), 1)
            await log.insert_one(document)
            assert await claim(deliveries, DueCursor()) == [document["_id"]]
            await log.update_one({"_id": document["_id"]}, {"$set": {"due_at": utcnow()}})
            mongo = mongo_at("mongodb://127.0.0.1:9/none", timeout_ms=100)
            away = DueDeliveries(mongo, holder=HOLDER)
            with pytest.raises(Exception, match="did not answer"):
                await away.claim(WEBHOOK, cursor, limit=1, timeout_s=1)
            mongo.close()
            assert await claim(deliveries, cursor) == [document["_id"]]

    asyncio.run(test())


def test_a_turn_of_ordering_forgets_where_it_was(store: Store) -> None:
    async def test() -> None:
        async with log_of(store) as (deliveries, log):
            cursor = DueCursor()
            assert await claim(deliveries, cursor) == []
            document = entry(0, utcnow() - timedelta(days=1), 3)
            await log.insert_one(document)
            cursor.switch_field("order")
            assert await claim(deliveries, cursor) == [document["_id"]]

    asyncio.run(test())
