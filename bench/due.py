"""`python -m bench.due`: time of the search for due integrations in a large collection.

Uses the embedded database, or the one of MONGODB_URI. Inserts integrations of which none is due for days,
then times the query of `Maintenance` with none due and with three hundred due, and prints the query plan.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any, Final

import structlog
from bson import encode
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr
from pymongo import MongoClient, UpdateMany
from rich.console import Console

from bench.machine import described
from interlink import embedded
from interlink.supervise import ProcessGroup
from shared.connections.integrations import COLLECTION, INDEXES, OPEN_FILTER, IntegrationRepository
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.mongo import Document, Mongo
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.settings import KafkaSettings, MongoSettings

_BATCH: Final = 5_000
_MAX_FILL_S: Final = 900.0
_REPEATS: Final = 30
_PAGE: Final = 200
_DUE: Final = 300


def filling(first: int, last: int, now: datetime) -> Iterator[Document]:
    """Yield connected integrations that are due between one day and fifty days from now."""
    for number in range(first, last):
        at = now - timedelta(seconds=number)
        yield {
            "_id": f"int_{number:032x}",
            "workspace": f"ws_{number % 1000}",
            "provider": ("github", "google", "slack", "jira")[number % 4],
            "kind": "oauth2",
            "name": "bench",
            "status": "connected",
            "reason": "",
            "account": {"id": str(number), "label": f"ada{number}@example.com", "url": "", "kept": {}},
            "params": {},
            "asked": ["read", "write"],
            "scopes": ["read", "write"],
            "user": f"usr_{number % 5000}",
            "created_at": at,
            "changed_at": at,
            "deleted_at": None,
            "version": 1,
            "fence": 0,
            "settled_fence": 0,
            "credential": {"k": "00000000", "w": os.urandom(60), "n": os.urandom(12), "c": os.urandom(300)},
            "expires_at": now + timedelta(hours=1),
            "refreshable": True,
            "open": True,
            "due_at": now + timedelta(days=1 + number % 50, seconds=number % 86_400),
            "events": [],
            "untold": False,
        }


async def time_queries(mongo: Mongo) -> tuple[int, list[float]]:
    """Run the query repeatedly; return the number of results, and each time in milliseconds."""
    log, vault = structlog.get_logger(), Vault(LocalKeyProvider([bytes(32)]))
    integrations = IntegrationRepository(
        mongo, vault, Producer(KafkaSettings(bootstrap_servers="none:1"), log, client_id="bench"), log
    )
    times_ms, count_found = [], 0
    for _ in range(_REPEATS):
        started = perf_counter()
        count_found = len(await integrations.due_ids(_PAGE))
        times_ms.append((perf_counter() - started) * 1000)
    return count_found, times_ms


def examined(database: Any) -> str:
    """Return what the database examined for the same query, and the stages of its plan."""
    query = {"filter": {**OPEN_FILTER, "due_at": {"$lte": utcnow()}}, "projection": {"_id": 1, "due_at": 1}}
    command = {"find": COLLECTION, **query, "sort": {"due_at": 1, "_id": 1}, "limit": _PAGE}
    answer = database.command("explain", command, verbosity="executionStats")
    stats, plan = answer["executionStats"], str(answer["queryPlanner"]["winningPlan"])
    stages = [stage for stage in ("COLLSCAN", "FETCH", "SORT", "IXSCAN") if stage in plan]
    return f"{stats['totalKeysExamined']} keys, {stats['totalDocsExamined']} documents, {'+'.join(stages)}"


async def measure(uri: str, counts: list[int], console: Console) -> None:
    """Insert up to each count in turn, and measure."""
    client: MongoClient[Any] = MongoClient(uri, tz_aware=True)
    mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="bench")
    indexes = [index for index in INDEXES[COLLECTION] if index.where == OPEN_FILTER]
    await mongo.ensure_indexes(
        {COLLECTION: indexes}
    )  # the other indexes are not used here, and slow down the inserts
    database, now, filled = client.get_default_database(), utcnow(), 0
    collection = database[COLLECTION]
    for count in counts:
        started = monotonic()
        while filled < count and monotonic() - started < _MAX_FILL_S:
            last = min(filled + _BATCH, count)
            batch = [RawBSONDocument(encode(document)) for document in filling(filled, last, now)]
            collection.insert_many(batch, ordered=False)
            filled = last
        console.print(f"{filled} integrations, filled in {monotonic() - started:.0f} s")
        due_filter = {"_id": {"$in": [f"int_{number * filled // _DUE:032x}" for number in range(_DUE)]}}
        for label, due_at in (("none due", now + timedelta(days=2)), (f"{_DUE} due", now)):
            collection.bulk_write([UpdateMany(due_filter, {"$set": {"due_at": due_at}})])
            count_found, times_ms = await time_queries(mongo)
            console.print(
                f"  {label}: {count_found} found, median {median(times_ms):.2f} ms, "
                f"maximum {max(times_ms):.1f} ms; {examined(database)}",
                soft_wrap=True,
            )
        collection.update_many(due_filter, {"$set": {"due_at": now + timedelta(days=2)}})
    mongo.close()
    client.close()


def main() -> None:
    """Measure at each size of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[100_000, 1_000_000])
    console = Console(highlight=False)
    for name, value in described().items():
        console.print(f"{name}: {value}", soft_wrap=True)
    with ExitStack() as stack:
        uri = os.environ.get("MONGODB_URI")
        if uri is None:
            group = ProcessGroup()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="interlink-bench-"))
            store = embedded.database(Path(folder), group)
            stack.callback(group.close)
            stack.callback(store.stop)
            store.start()
            uri = store.uri
        asyncio.run(measure(uri, parser.parse_args().counts, console))


if __name__ == "__main__":
    main()
