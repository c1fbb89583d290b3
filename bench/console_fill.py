"""Fill a hub's database for the pages of the console, as the repositories store it in seven days."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from pymongo import MongoClient

from bench.log import filling, mongo_at
from bench.system import System
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.statistics import Statistics
from services.gateway.ingest.endpoint_records import COLLECTION as ENDPOINTS
from services.sync.model.synced_message import MESSAGES, SyncedMessage, Target, TraceEntry
from services.sync.store.mappings import COLLECTION as MAPPINGS
from services.sync.store.messages import expiry
from shared.runtime.clock import utcnow
from shared.runtime.logs import configure
from shared.runtime.mongo import Document
from shared.runtime.workspaces import COLLECTION as WORKSPACES

_BATCH: Final = 1_000
_WEBHOOKS: Final = 40
_SPAN: Final = timedelta(days=7)
_FAILED_IN: Final = 1_000
"""One message in so many has failed."""


def fill(hub: System, endpoints: int, rows: int) -> list[str]:
    """Store `rows` deliveries and as many messages, and return the pages to open.

    The full size takes the embedded database about 20 minutes, and SecantusDB's server in Rust two.
    """
    endpoint = hub.github_endpoint(name="first")["id"]
    webhooks = [
        hub.outgoing_webhook("http://127.0.0.1:9/", name=f"webhook {number}", enabled=False)["id"]
        for number in range(_WEBHOOKS)
    ]
    legs = [{"provider": "chat", "conversation": f"bench-{number}"} for number in range(2)]
    mapping = hub.call("POST", "/api/mappings", {"legs": legs}, expect=201)["id"]
    now = utcnow()
    with (
        MongoClient[Document](hub.env["MONGODB_URI"], tz_aware=True) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        database = client.get_default_database()
        first = database[ENDPOINTS].find_one({"_id": endpoint})
        if first is None:
            raise AssertionError("the endpoint is not in its collection")
        workspace = first["workspace"]
        for collection in (WORKSPACES, MAPPINGS):
            database[collection].update_many({}, {"$set": {"created_at": now - _SPAN}})
        _insert(database[ENDPOINTS], _endpoints(first, endpoints - 1, now))
        statistics = Statistics(mongo_at(hub.env["MONGODB_URI"]), configure("bench", "warning"))
        deliveries = _deliveries(rows, workspace, webhooks, now, statistics)
        inserts = [
            pool.submit(_insert, database[DELIVERIES], deliveries),
            pool.submit(_insert, database[MESSAGES], _messages(rows, workspace, mapping, now)),
        ]
        for insert in inserts:
            insert.result()
        asyncio.run(statistics.flush())
        [delivery] = _deliveries(1, workspace, webhooks, now, None)
    return pages(endpoint, webhooks[0], mapping, delivery, f"syn_bench{rows - 1:012}")


def pages(endpoint: str, webhook: str, mapping: str, delivery: Document, message: str) -> list[str]:
    """Return the addresses of the lists, in both orders and with filters, and of one object of each kind."""
    lists = (
        *("deliveries", "dead-letters", "jobs", "webhooks", "endpoints", "incoming-webhooks", "messages"),
        *("mappings", "integrations", "imports", "event-types", "api-keys", "audit", "polling-triggers"),
    )
    paths = (
        *lists,
        "deliveries?order=oldest",
        "deliveries?status=dead_letter&error=timeout",
        f"deliveries?webhook_id={webhook}",
        "deliveries?event_type=none",
        "messages?order=oldest",
        "messages?state=failed",
        "messages?state=waiting",
        f"messages?mapping_id={mapping}",
        f"messages?mapping_id={mapping}&order=oldest",
        "endpoints?order=oldest",
        f"endpoints/{endpoint}",
        f"webhooks/{webhook}",
        f"deliveries/{delivery['_id']}",
        f"messages/{message}",
        "webhooks/do/create",
        f"find?id={delivery['event_id']}",
        "catalogue",
        "statistics",
        "help",
    )
    return ["/console", *(f"/console/{path}" for path in paths)]


def _insert(collection: Any, documents: Iterator[Document]) -> None:
    while batch := list(islice(documents, _BATCH)):
        collection.insert_many(batch, ordered=False)


def _endpoints(first: Document, count: int, now: datetime) -> Iterator[Document]:
    for number in range(count):
        at = now - _SPAN * ((count - number) / count)
        yield {**first, "_id": f"ep_bench{number:012}", "created_at": at}


def _deliveries(
    count: int, workspace: str, webhooks: Sequence[str], now: datetime, statistics: Statistics | None
) -> Iterator[Document]:
    for number, document in enumerate(filling(count, now)):
        webhook = webhooks[number % len(webhooks)]
        if statistics:
            delivered, at = document["status"] == "delivered", document["created_at"]
            outcome: Any = "delivered" if delivered else "dead_letter"
            statistics.record(webhook, workspace, outcome, 0.0123, at)
            statistics.record_entry(webhook, workspace, at, delivered=delivered)
        yield document | {"workspace": workspace, "webhook_id": webhook}


def _messages(count: int, workspace: str, mapping: str, now: datetime) -> Iterator[Document]:
    expires_at = expiry()
    for number in range(count):
        at = now - _SPAN * ((count - number) / count)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        target = Target(
            leg="l2",
            provider="chat",
            account="",
            conversation="bench-1",
            state="failed" if number % _FAILED_IN == 0 else "sent",
            trace=(TraceEntry(at=at, step="waiting"), TraceEntry(at=at, step="sent")),
        )
        message = SyncedMessage(
            id=f"syn_bench{number:012}",
            workspace=workspace,
            mapping_id=mapping,
            leg="l1",
            message_id=f"msg_bench{number}",
            provider="chat",
            account="",
            conversation="bench-0",
            external_id=str(number),
            author_id="u1",
            author_name="Ada Example",
            excerpt=f"message {number} of the bench",
            parsed_as="message",
            received_at=at,
            expires_at=expires_at,
            targets={"l2": target},
        )
        yield message.document()
