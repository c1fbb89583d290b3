"""Lists in pages: in both orders, in a range of time, and with a condition that no index has."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest

from bench.log import Finds, Plan, explained, finds, mongo_at
from services.delivery.log.deliveries import DELIVERIES
from shared.contracts.errors import Malformed
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Index, Mongo
from shared.runtime.web.list_reader import LongList
from shared.runtime.web.paging import Page, Paging, decode_cursor, decode_position, page
from tests.support.backends import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
DOCUMENTS = [
    {"_id": f"id_{number:02}", "workspace": "w", "created_at": START + timedelta(seconds=number // 2)}
    for number in range(20)
]
"""Two of each second, so that cursors have to tell them apart."""


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("has_condition", [False, True])
def test_every_document_of_a_range_is_on_one_page(store: Store, order: str, has_condition: bool) -> None:
    paging = Paging(
        3,
        order="newest" if order == "newest" else "oldest",
        since=START + timedelta(seconds=2),
        until=START + timedelta(seconds=8),
    )

    async def walk() -> list[str]:
        mongo = mongo_at(store.uri())
        collection: Collection = mongo.collection("listed")
        await collection.insert_many(DOCUMENTS)
        found: list[str] = []
        cursor: str | None = None
        while True:
            part = await page(
                collection,
                {"workspace": "w"},
                lambda document: str(document["_id"]),
                Paging(paging.limit, cursor, paging.order, paging.since, paging.until),
                matches=(lambda document: document["_id"] > "id_07") if has_condition else None,
                examined=2,
            )
            found += part.items
            cursor = part.next_cursor
            if cursor is None:
                break
        mongo.close()
        return found

    expected = [f"id_{number:02}" for number in range(8 if has_condition else 4, 16)]
    assert asyncio.run(walk()) == (expected if order == "oldest" else expected[::-1])


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_page_of_a_long_list_reads_little_by_an_index(store: Store, order: str) -> None:
    count, limit, name = 3_000, 20, f"long_{order}"
    begin = utcnow() - timedelta(seconds=10 * count)
    documents = [
        {
            "_id": f"id_{number:04}",
            "workspace": "w",
            "created_at": begin + timedelta(seconds=number // 3 * 30),
        }
        for number in range(count)
    ]
    index = Index((("workspace", 1), ("created_at", -1), ("_id", -1)))
    long_list = LongList(is_dense=True)
    seen: Finds

    async def read(mongo: Mongo, cursor: str | None) -> tuple[Page[str], list[Plan]]:
        seen.commands.clear()
        part = await page(
            mongo.collection(name),
            {"workspace": "w"},
            lambda document: str(document["_id"]),
            Paging(limit, cursor, "newest" if order == "newest" else "oldest"),
            long_list=long_list,
            start=begin - timedelta(days=1),
        )
        return part, [await explained(mongo, command) for command in list(seen.commands)]

    async def walk() -> list[tuple[Page[str], list[Plan]]]:
        mongo = mongo_at(store.uri())
        await mongo.ensure_indexes({name: (index,)})
        await mongo.collection(name).insert_many(documents)
        parts = [await read(mongo, None)]
        for _ in range(3):
            parts.append(await read(mongo, parts[-1][0].next_cursor))
        again = await read(mongo, None)
        mongo.close()
        return [*parts, again]

    with finds(name) as seen:
        *parts, again = asyncio.run(walk())
    ids = [str(document["_id"]) for document in documents]
    ids = ids if order == "oldest" else ids[::-1]
    assert [item for part, _ in parts for item in part.items] == ids[: 4 * limit]
    for part, plans in [*parts, again]:
        assert {plan.index for plan in plans} == {"workspace_1_created_at_-1__id_-1"}
        assert sum(plan.documents for plan in plans) < 600, "of the 3,000"
        assert len(part.items) == limit
    assert len(again[1]) < 6, "where the list begins was remembered"


def test_a_later_page_reads_no_more_than_its_own_documents(store: Store) -> None:
    async def read() -> list[int]:
        with finds() as seen:
            mongo = mongo_at(store.uri())
            collection: Collection = mongo.collection(DELIVERIES)
            await collection.create_index([("workspace", 1), ("created_at", -1), ("_id", -1)])
            others = [{**item, "_id": f"x{item['_id']}", "workspace": "x"} for item in DOCUMENTS]
            await collection.insert_many([*DOCUMENTS, *others])
            first = await page(collection, {"workspace": "w"}, str, Paging(3))
            seen.commands.clear()
            await page(collection, {"workspace": "w"}, str, Paging(3, first.next_cursor))
            plans = [await explained(mongo, command) for command in seen.commands]
            mongo.close()
            return [plan.documents for plan in plans]

    examined = asyncio.run(read())
    assert len(examined) == 2
    assert sum(examined) <= len(DOCUMENTS), "nothing of the other workspace"


def test_the_earliest_time_selects_everything(store: Store) -> None:
    async def count() -> int:
        mongo = mongo_at(store.uri())
        collection: Collection = mongo.collection("earliest")
        await collection.insert_many(DOCUMENTS)
        found = await page(collection, {}, str, Paging(50, since=datetime.min.replace(tzinfo=UTC)))
        mongo.close()
        return len(found.items)

    assert asyncio.run(count()) == len(DOCUMENTS)


@pytest.mark.parametrize(
    "content",
    ["forged", '["x","id"]', "[1]", "{}", "null", '[-1,"id"]', '[253402300799999,"id"]', '[1e300,"id"]'],
)
def test_a_forged_cursor_is_malformed(content: str) -> None:
    for cursor in (content, base64.urlsafe_b64encode(content.encode()).decode()):
        with pytest.raises(Malformed, match="next_cursor"):
            decode_cursor(cursor)


def test_a_position_is_a_short_number() -> None:
    assert [decode_position(cursor) for cursor in (None, "0", "12", "9" * 11)] == [0, 0, 12, 99_999_999_999]
    for cursor in ("x", "-1", "+1", " 1", "1.0", "٣", "9" * 12):
        with pytest.raises(Malformed, match="next_cursor"):
            decode_position(cursor)
