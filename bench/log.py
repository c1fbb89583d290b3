"""`python -m bench.log`: queries with every combination of filters on a large delivery log, with plans."""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from bson import encode
from pydantic import SecretStr
from pymongo import MongoClient, monitoring
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from bench.machine import described
from interlink import embedded
from interlink.supervise import ProcessGroup
from services.delivery.app import INDEXES
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.key_search import DeliveryQuery
from services.delivery.log.search import page
from shared.contracts.ids import derive
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Mongo
from shared.runtime.settings import MongoSettings

WORKSPACES: Final = ("busy", "quiet")
TYPES: Final = ("message.created", "message.updated", "channel.created", "call.ended")
_TYPE_SHARE: Final = (80, 15, 4, 1)
_STATUS_SHARE: Final = {
    "delivered": 930,
    "dead_letter": 30,
    "retrying": 20,
    "pending": 10,
    "cancelled": 5,
    "discarded": 4,
    "delivering": 1,
}
_OPEN: Final = ("pending", "delivering", "retrying")
_WEBHOOKS: Final = 40
_SPAN: Final = timedelta(days=7)
_MAX_FILL_S: Final = 420.0
_BATCH: Final = 1_000
_REPEATS: Final = 3


def webhook_of(workspace: str, number: int) -> str:
    """Return the id of a workspace's webhook."""
    return f"wh_{derive('bench', workspace, str(number))}"


def filling(count: int, until: datetime, *, body: int = 300, seed: int = 1) -> Iterator[Document]:
    """Yield deliveries as the engine stores them, over the seven days before `until`.

    Some have the same millisecond.
    """
    generator = random.Random(seed)  # noqa: S311 -- not a secret
    statuses = generator.choices(list(_STATUS_SHARE), list(_STATUS_SHARE.values()), k=min(count, 100_000))
    start = until - _SPAN
    for number in range(count):
        workspace = WORKSPACES[number % 10 == 9]
        at = start + _SPAN * ((number - number % 3) / count)
        yield _delivery(number, workspace, at, statuses[number % len(statuses)], body, generator)


def _delivery(
    number: int, workspace: str, at: datetime, status: str, body: int, generator: random.Random
) -> Document:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    failed = status in ("dead_letter", "retrying", "discarded")
    document: Document = {
        "_id": f"dlv_{derive('bench', str(number))}",
        "webhook_id": webhook_of(workspace, generator.randrange(_WEBHOOKS)),
        "workspace": workspace,
        "event_id": f"evt_{number // 3}",
        "event_type": generator.choices(TYPES, _TYPE_SHARE)[0],
        "occurred_at": at.isoformat(),
        "body": b"x" * body,
        "traceparent": f"00-{number:032x}-{number:016x}-01",
        "partition": number % 12,
        "order": number,
        "created_at": at,
        "status": status,
        "fence": 0,
        "attempt_count": 1,
        "attempts": [
            {
                "number": 1,
                "started_at": at,
                "duration_ms": 12.3,
                "request_headers": {"Content-Type": "application/json", "webhook-id": "x" * 36},
                "status_code": None if failed else 204,
                "error": "timeout" if failed else None,
                "detail": "",
                "response_headers": [["Date", "Sat, 21 Nov 2026 07:00:00 GMT"]],
                "response_body": "",
                "address": "127.0.0.1",
            }
        ],
    }
    if failed:
        document |= {"failed": True, "last_error": generator.choice(("timeout", "status", "connection"))}
    if status in _OPEN:
        document |= {"open": True, "due_at": at + timedelta(days=30)}
    else:
        document |= {"finished_at": at, "expires_at": at + timedelta(days=60)}
    return document


def combinations(now: datetime, workspace: str = WORKSPACES[0]) -> dict[str, DeliveryQuery]:
    """Return all combinations of webhook, event type, statuses and time, and some with event or error."""
    webhooks = {"": None, "webhook": webhook_of(workspace, 1)}
    types = {"": None, "type": TYPES[1]}
    statuses: dict[str, Sequence[str]] = {
        "": (),
        "status": ("delivered",),
        "2 statuses": ("dead_letter", "retrying"),
    }
    times: dict[str, tuple[datetime | None, datetime | None]] = {
        "": (None, None),
        "since": (now - timedelta(days=1), None),
        "until": (None, now - timedelta(days=3)),
        "window": (now - timedelta(days=4), now - timedelta(days=3)),
    }
    queries: dict[str, DeliveryQuery] = {}
    for webhook, event_type, status, time in product(webhooks, types, statuses, times):
        name = " + ".join(filter(None, (webhook, event_type, status, time))) or "everything"
        since, until = times[time]
        queries[name] = DeliveryQuery(
            workspace,
            webhook_id=webhooks[webhook],
            event_type=types[event_type],
            statuses=statuses[status],
            since=since,
            until=until,
        )
    for webhook, status in product(webhooks, statuses):
        name = " + ".join(filter(None, ("error", webhook, status)))
        queries[name] = DeliveryQuery(
            workspace, webhook_id=webhooks[webhook], error="timeout", statuses=statuses[status]
        )
    queries["event"] = DeliveryQuery(workspace, event_id="evt_77")
    queries["event + webhook"] = DeliveryQuery(workspace, event_id="evt_77", webhook_id=webhooks["webhook"])
    return queries


def rare(now: datetime, workspace: str = WORKSPACES[0]) -> dict[str, DeliveryQuery]:
    """Return queries for a type and an error that no delivery has: each examines as many as it may."""
    week = now - _SPAN
    return {
        "type that is not there": DeliveryQuery(workspace, event_type="none"),
        "type that is not there + webhook": DeliveryQuery(
            workspace, webhook_id=webhook_of(workspace, 1), event_type="none"
        ),
        "type that is not there + since": DeliveryQuery(workspace, event_type="none", since=week),
        "error that is not there": DeliveryQuery(workspace, error="none"),
    }


@dataclass(frozen=True)
class Plan:
    """The query plan of one find: its stages from the top, the index, and the examined documents."""

    stages: tuple[str, ...]
    index: str
    documents: int

    @property
    def sorts(self) -> bool:
        return "SORT" in self.stages


@dataclass
class Finds(monitoring.CommandListener):
    """Records the find commands on a collection that are sent to the database.

    Of its updates, the filters are recorded as find commands.
    """

    collection: str = DELIVERIES
    commands: list[Document] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command.get("find") == self.collection:
            self.commands.append(dict(event.command))
        elif event.command.get("update") == self.collection:
            filters = [update["q"] for update in event.command["updates"]]
            self.commands += [{"find": self.collection, "filter": query} for query in filters]

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Do nothing."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Do nothing."""


@contextmanager
def finds(collection: str = DELIVERIES) -> Iterator[Finds]:
    """Record the finds on a collection of every client that is created inside the block."""
    listeners = monitoring._LISTENERS.command_listeners  # pymongo has no public way to unregister
    listener = Finds(collection)
    monitoring.register(listener)
    try:
        yield listener
    finally:
        listeners.remove(listener)


async def explained(mongo: Mongo, command: Mapping[str, Any]) -> Plan:
    """Return the query plan of a find command."""
    find = {
        name: command[name] for name in ("find", "filter", "projection", "sort", "limit") if name in command
    }
    answer = await mongo.collection(command["find"]).database.command(
        {"explain": find, "verbosity": "executionStats"}
    )
    stages: list[str] = []
    index = ""
    stage: Any = answer["queryPlanner"]["winningPlan"]
    stage = stage.get("queryPlan", stage)
    while stage:
        stages.append(stage["stage"])
        index = stage.get("indexName", index)
        stage = stage.get("inputStage")
    return Plan(tuple(stages), index, answer["executionStats"]["totalDocsExamined"])


@dataclass
class Asked:
    """The result of one query."""

    name: str
    ms: float
    items: int
    plans: Sequence[Plan]

    @property
    def documents(self) -> int:
        return sum(plan.documents for plan in self.plans)


async def ask(
    mongo: Mongo, seen: Finds, name: str, query: DeliveryQuery, *, limit: int, repeats: int
) -> Asked:
    """Query one page, as the API does. The plans are those of the first repetition."""
    times_ms: list[float] = []
    sent: list[Document] = []
    for _ in range(repeats):
        seen.commands.clear()
        started = perf_counter()
        result = await page(
            mongo.collection(DELIVERIES),
            query,
            lambda document: document,
            limit=limit,
            cursor=None,
            fields={"attempts": 0, "body": 0},
        )
        times_ms.append((perf_counter() - started) * 1000)
        sent = sent or list(seen.commands)
    plans = [await explained(mongo, command) for command in sent]
    return Asked(name, median(times_ms), len(result.items), plans)


def fill(uri: str, count: int, until: datetime, most_s: float = _MAX_FILL_S) -> tuple[int, float]:
    """Insert up to `count` deliveries within about `most_s` seconds.

    Returns the number of inserted deliveries, and how many were inserted per second.
    """
    with MongoClient[Document](uri) as client:
        log = client.get_default_database()[DELIVERIES]
        rows = filling(count, until)
        started, done = perf_counter(), 0
        while batch := list(islice(rows, _BATCH)):
            log.insert_many(batch, ordered=False)
            done += len(batch)
            if perf_counter() - started > most_s:
                break
    return done, done / (perf_counter() - started)


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """Return the URI of the database: MONGODB_URI if it is set, else an embedded one in this folder."""
    if uri := os.environ.get("MONGODB_URI"):
        yield uri
        return
    group = ProcessGroup()
    server = embedded.database(folder, group)
    server.start()
    try:
        yield server.uri
    finally:
        server.stop()
        group.close()


def mongo_at(uri: str, timeout_ms: int = 60_000) -> Mongo:
    """Return a client of the database."""
    return Mongo(MongoSettings(uri=SecretStr(uri), timeout_ms=timeout_ms), app="bench")


async def measure(uri: str, rows: int, limit: int, console: Console) -> Table:
    """Measure the cost of the indexes, then every combination of filters."""
    now = utcnow()
    for title, indexes in (("no index", ()), ("the indexes", INDEXES[DELIVERIES])):
        name = title.replace(" ", "_")
        beside = mongo_at(_database(uri, name))
        await beside.ensure_indexes({DELIVERIES: indexes})
        beside.close()
        _, per_s = fill(_database(uri, name), 20_000, now)
        console.print(f"{title}: {per_s:,.0f} inserts/s, in batches of {_BATCH:,}")
    with finds() as seen:
        mongo = mongo_at(uri)
        await mongo.ensure_indexes(INDEXES)
        done, per_s = fill(uri, rows, now)
        size = len(encode(next(filling(1, now))))
        console.print(f"{done:,} deliveries of {size} bytes over 7 days, filled at {per_s:,.0f}/s")
        table = Table("asked for", "index", "finds", "sorts", "documents", "items", "ms", box=MARKDOWN)
        for name, query in (combinations(now) | rare(now)).items():
            asked = await ask(mongo, seen, name, query, limit=limit, repeats=_REPEATS)
            console.print(f"{name}: {asked.ms:.1f} ms", style="dim")
            table.add_row(
                name,
                ", ".join(dict.fromkeys(plan.index or plan.stages[-1] for plan in asked.plans)),
                str(len(asked.plans)),
                "yes" if any(plan.sorts for plan in asked.plans) else "no",
                f"{asked.documents:,}",
                str(asked.items),
                f"{asked.ms:.1f}",
            )
        mongo.close()
    return table


def _database(uri: str, name: str) -> str:
    address, mark, options = uri.partition("?")
    return f"{address.rpartition('/')[0]}/bench_{name}{mark}{options}"


def main() -> int:
    """Fill the log, run the queries, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.log", description=__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="deliveries to insert; at most as many as fit into seven minutes",
    )
    parser.add_argument("--limit", type=int, default=50, help="size of a page")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for name, value in described().items():
        console.print(f"{name}: {value}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="interlink-bench-") as folder, store(Path(folder)) as uri:
        console.print(asyncio.run(measure(uri, arguments.rows, arguments.limit, console)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
