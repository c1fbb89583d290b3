"""Documents that expire: by MongoDB's TTL indexes, and in the embedded database without them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from secrets import token_hex
from typing import Any

import pymongo
import pytest
import structlog
from pymongo.database import Database
from structlog.testing import LogCapture, ReturnLogger

from bench.log import mongo_at
from interlink.embedded import EmbeddedPair
from interlink.prepare import indexes
from services.delivery.log.deliveries import DELIVERIES
from services.gateway.ingest.execution_records import COLLECTION as EXECUTIONS
from shared.runtime import expiry as expiry_module
from shared.runtime.clock import utcnow
from shared.runtime.expiry import Expiry
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Index
from shared.runtime.web.audit_entries import COLLECTION as AUDIT
from shared.runtime.web.idempotency_keys import COLLECTION as IDEMPOTENCY_KEYS
from tests.support.backends import Store, in_database
from tests.support.eventually import eventually
from tests.support.expiry import DECLARED, SERVICES, stored_ttls

THINGS = {"things": (Index((("expires_at", 1),), ttl_s=0, where={"done": True}),)}


@pytest.fixture
def database(pair: EmbeddedPair) -> Iterator[Database[Document]]:
    """A database of the embedded server."""
    with pymongo.MongoClient[Document](in_database(pair.mongodb_uri, f"test_{token_hex(6)}")) as client:
        yield client.get_default_database()
        client.drop_database(client.get_default_database().name)


def uri_of(database: Database[Document], pair: EmbeddedPair) -> str:
    return in_database(pair.mongodb_uri, database.name)


async def ensure(uri: str, required: Mapping[str, Sequence[Index]]) -> None:
    mongo = mongo_at(uri)
    await mongo.ensure_indexes(required)
    mongo.close()


def test_ttl_indexes_are_such_as_mongodb_takes() -> None:
    assert {DELIVERIES, EXECUTIONS, AUDIT, IDEMPOTENCY_KEYS} <= {name for name, _ in DECLARED}
    assert all(len(index.keys) == 1 for _, index in DECLARED), "MongoDB allows no other key in a TTL index"


async def test_the_embedded_database_gets_no_ttl_indexes(
    database: Database[Document], pair: EmbeddedPair
) -> None:
    """Not even one of an earlier release stays: its sweep of them can bring it to a standstill."""
    for collection, index in DECLARED:
        earlier: dict[str, Any] = {"partialFilterExpression": dict(index.where)} if index.where else {}
        database[collection].create_index(list(index.keys), expireAfterSeconds=index.ttl_s, **earlier)
        database[collection].insert_one({index.keys[0][0]: utcnow() - timedelta(days=1000), **index.where})
    for by_collection in indexes(SERVICES):
        await ensure(uri_of(database, pair), by_collection)
    for collection, index in DECLARED:
        assert stored_ttls(database[collection])[index.keys[0][0],] == index.ttl_s
    sweep = database.client.admin.command("secantusAdmin.pruneTtl")
    assert sweep["pruned"] == 0, "it has read collections"


async def test_an_index_by_which_documents_expire(store: Store) -> None:
    uri = store.uri()
    with pymongo.MongoClient[Document](uri) as client:
        for _ in range(2):
            await ensure(uri, {AUDIT: [index for name, index in DECLARED if name == AUDIT]})
        assert stored_ttls(client.get_default_database()[AUDIT]) == {("expires_at",): 0}
        client.drop_database(client.get_default_database().name)


async def test_expired_documents_of_every_collection_are_deleted(
    database: Database[Document], pair: EmbeddedPair
) -> None:
    def insert(collection: str, index: Index, name: str, age_s: float) -> None:
        time = utcnow() - timedelta(seconds=age_s)
        document = {"_id": f"{index.keys[0][0]}-{name}", **index.where, index.keys[0][0]: time}
        database[collection].insert_one(document)

    for collection, index in DECLARED:
        insert(collection, index, "expired", (index.ttl_s or 0) + 1)
        insert(collection, index, "recent", (index.ttl_s or 0) - 600)
    mongo = mongo_at(uri_of(database, pair))
    expiry = Expiry(mongo, indexes(SERVICES), structlog.get_logger())
    await expiry.start()

    def left() -> list[str]:
        return [
            f"{collection}/{document['_id']}"
            for collection, _ in DECLARED
            for document in database[collection].find()
        ]

    await asyncio.to_thread(eventually, lambda: not [name for name in left() if name.endswith("-expired")])
    assert {f"{collection}/{index.keys[0][0]}-recent" for collection, index in DECLARED} == set(left())
    await expiry.stop()
    mongo.close()


async def test_only_what_has_expired_is_deleted(store: Store) -> None:
    """Several batches are deleted. Documents without a date, or outside the partial index, are retained."""
    uri, past = store.uri(), utcnow() - timedelta(seconds=1)
    others: list[Document] = [
        {"_id": "future", "done": True, "expires_at": past + timedelta(hours=1)},
        {"_id": "outside", "expires_at": past},
        {"_id": "missing", "done": True},
        {"_id": "null", "done": True, "expires_at": None},
        {"_id": "number", "done": True, "expires_at": 1},
    ]
    mongo = mongo_at(uri)
    things = mongo.collection("things")
    await mongo.ensure_indexes(THINGS)
    await things.insert_many(others)
    await things.insert_many([{"_id": n, "done": True, "expires_at": past} for n in range(250)])
    deleted = await mongo.delete_expired(THINGS)
    assert deleted <= 250  # MongoDB may have deleted some
    assert {document["_id"] for document in await things.find().to_list(None)} == {
        "future",
        "outside",
        "missing",
        "null",
        "number",
    }
    assert await mongo.delete_expired(THINGS) == 0
    await things.database.client.drop_database(things.database.name)
    mongo.close()


async def test_it_goes_on_when_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry_module, "_INTERVAL_S", 0.01)
    mongo = mongo_at("mongodb://127.0.0.1:9/none", timeout_ms=100)
    logged = LogCapture()
    # A logger of its own: what other tests configure is cached.
    log: Log = structlog.wrap_logger(
        ReturnLogger(), processors=[logged], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    expiry = Expiry(mongo, [THINGS], log)
    await expiry.start()
    async with asyncio.timeout(60):
        while len(logged.entries) < 2:  # noqa: ASYNC110 -- it looks at what came out
            await asyncio.sleep(0.01)
    await expiry.stop()
    assert {entry["event"] for entry in logged.entries} == {"expiry.failed"}
    mongo.close()
