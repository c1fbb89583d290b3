"""`python -m bench.old_burst`: pages of a delivery log whose newest entries are a burst of six days ago."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from bench.log import TYPES, WORKSPACES, filling, mongo_at, store, webhook_of
from bench.machine import described
from services.delivery.app import INDEXES
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.key_search import DeliveryQuery
from services.delivery.log.search import DeliverySearch
from services.delivery.log.statistics import Statistics
from shared.runtime.clock import utcnow
from shared.runtime.logs import configure
from shared.runtime.mongo import Document

AGE: Final = timedelta(days=6)
_BATCH: Final = 1_000
_REPEATS: Final = 5


def old_burst(count: int, until: datetime, *, per_s: int = 1_000, body: int = 300) -> Iterator[Document]:
    """Yield deliveries of one workspace and two webhooks, newest first. They end six days before `until`."""
    for number, document in enumerate(filling(count, until, body=body)):
        at = until - AGE - timedelta(seconds=1) * (number / per_s)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        webhook = webhook_of(WORKSPACES[0], number % 2)
        yield document | {"workspace": WORKSPACES[0], "webhook_id": webhook, "created_at": at}


def queries() -> dict[str, DeliveryQuery]:
    """Return queries for the burst, by the filters of the API."""
    workspace, webhook = WORKSPACES[0], webhook_of(WORKSPACES[0], 1)
    return {
        "everything": DeliveryQuery(workspace),
        "webhook": DeliveryQuery(workspace, webhook_id=webhook),
        "delivered": DeliveryQuery(workspace, statuses=("delivered",)),
        "dead_letter": DeliveryQuery(workspace, statuses=("dead_letter",)),
        "webhook + dead_letter": DeliveryQuery(workspace, webhook_id=webhook, statuses=("dead_letter",)),
        "cancelled": DeliveryQuery(workspace, statuses=("cancelled",)),
        "error": DeliveryQuery(workspace, error="timeout"),
        "type of 80 %": DeliveryQuery(workspace, event_type=TYPES[0]),
        "type of 15 % + webhook": DeliveryQuery(workspace, event_type=TYPES[1], webhook_id=webhook),
        "type of 1 %": DeliveryQuery(workspace, event_type=TYPES[3]),
        "type that is not there": DeliveryQuery(workspace, event_type="none"),
    }


async def count_entries(statistics: Statistics, documents: Sequence[Document]) -> None:
    """Count log entries as the engine does, with one write for each second."""
    written = None
    for document in sorted(documents, key=lambda document: document["created_at"]):
        at = document["created_at"]
        if at.replace(microsecond=0) != written:
            await statistics.flush()
            written = at.replace(microsecond=0)
        statistics.record_entry(
            document["webhook_id"],
            document["workspace"],
            at,
            delivered=document["status"] == "delivered",
        )
    await statistics.flush()


async def measure(uri: str, rows: int, limit: int) -> Table:
    """Measure the first two pages of every query."""
    mongo = mongo_at(uri)
    await mongo.ensure_indexes(INDEXES)
    documents = list(old_burst(rows, utcnow()))
    for start in range(0, rows, _BATCH):
        await mongo.collection(DELIVERIES).insert_many(documents[start : start + _BATCH])
    statistics = Statistics(mongo, configure("bench", "error"))
    await count_entries(statistics, documents)
    table = Table("asked for", "items", "first page, ms", "next page, ms", box=MARKDOWN)
    for name, query in queries().items():
        times_ms: tuple[list[float], list[float]] = ([], [])
        items: list[str] = []
        for _ in range(_REPEATS):
            # A new one each time: it would remember where it found the burst.
            deliveries, cursor, items = DeliverySearch(mongo, statistics), None, []
            for times in times_ms:
                started = perf_counter()
                result = await deliveries.page(query, limit=limit, cursor=cursor)
                times.append((perf_counter() - started) * 1000)
                cursor = result.next_cursor
                items.append(str(len(result.items)))
        table.add_row(name, " + ".join(items), *(f"{median(times):.0f}" for times in times_ms))
    mongo.close()
    return table


def main() -> int:
    """Fill the log, read the pages, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.old_burst", description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000, help="deliveries of the burst, 1,000 per second")
    parser.add_argument("--limit", type=int, default=50, help="size of a page")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for name, value in described().items():
        console.print(f"{name}: {value}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="interlink-bench-") as folder, store(Path(folder)) as uri:
        console.print(asyncio.run(measure(uri, arguments.rows, arguments.limit)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
