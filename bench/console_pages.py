"""Time, CPU and bytes of the console's pages over a database that is full."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from math import ceil
from os import sysconf
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from pymongo import MongoClient

from bench.log import filling
from bench.stages import Bench
from bench.system import System
from services.delivery.log.deliveries import DELIVERIES
from services.gateway.ingest.endpoint_records import COLLECTION as ENDPOINTS
from services.sync.model.synced_message import MESSAGES, SyncedMessage, Target, TraceEntry
from services.sync.store.messages import expiry
from shared.runtime.mongo import Document, utcnow
from tests.console.person import Person

SERVICES: Final = ("gateway", "delivery", "oauth", "sync", "importer", "console")
_BATCH: Final = 1_000
_WEBHOOKS: Final = 40
_SPAN: Final = timedelta(days=7)
_TICK_MS: Final = 1000 / sysconf("SC_CLK_TCK")


def console_pages(bench: Bench) -> dict[str, Any]:
    """Return p95 and CPU of every page in ms, its bytes, and the console's memory in MB."""
    plan = bench.plan
    with bench.hub("console", *SERVICES, pins=False) as hub:
        started = perf_counter()
        paths = _fill(hub, plan.console_endpoints, plan.console_rows)
        bench.say(
            f"console: {plan.console_rows:,} deliveries and messages in {perf_counter() - started:.0f} s"
        )
        person = Person(hub.url("console"))
        person.sign_in(hub.admin_key)
        pages = {}
        for path in paths:
            pages[path] = _measure(hub, person, path, plan.console_repeats)
            page = pages[path]
            bench.say(
                f"console, {path}: p50 {page['p50_ms']:.0f} ms, p95 {page['p95_ms']:.0f} ms, "
                f"CPU {page['cpu_ms']:.0f} ms, database {page['database_ms']:.0f} ms, {page['bytes']:,} bytes"
            )
        return {"rows": plan.console_rows, "pages": pages, "memory_mb": _memory_mb(hub.pid("console"))}


def _measure(hub: System, person: Person, path: str, repeats: int) -> dict[str, float]:
    """Open a page again and again; the first time is to warm up."""
    answer = person.open(path)
    if answer.status != 200:
        raise AssertionError(f"{path}: status {answer.status}")
    pids = [hub.pid(name) for name in SERVICES]
    before, database = sum(map(_cpu_ms, pids)), _cpu_ms(hub.store_pid)
    times = []
    for _ in range(repeats):
        started = perf_counter()
        person.client.get(path)
        times.append((perf_counter() - started) * 1000)
    times.sort()
    return {
        "p50_ms": median(times),
        "p95_ms": times[ceil(len(times) * 0.95) - 1],
        "cpu_ms": (sum(map(_cpu_ms, pids)) - before) / repeats,
        "database_ms": (_cpu_ms(hub.store_pid) - database) / repeats,
        "bytes": len(answer.response.content),
    }


def _fill(hub: System, endpoints: int, rows: int) -> list[str]:
    """Fill the database, and return the pages to open."""
    endpoint = hub.github_endpoint(name="first")["id"]
    webhooks = [
        hub.outgoing_webhook("http://127.0.0.1:9/", name=f"webhook {number}", enabled=False)["id"]
        for number in range(_WEBHOOKS)
    ]
    legs = [{"provider": "chat", "conversation": f"bench-{number}"} for number in range(2)]
    mapping = hub.call("POST", "/api/mappings", {"legs": legs}, expect=201)["id"]
    with MongoClient[Document](hub.env["MONGODB_URI"], tz_aware=True) as client:
        database = client.get_default_database()
        first = database[ENDPOINTS].find_one({"_id": endpoint})
        if first is None:
            raise AssertionError("the endpoint is not in its collection")
        copies = ({**first, "_id": f"ep_bench{number:012}"} for number in range(endpoints - 1))
        _insert(database[ENDPOINTS], copies)
        _insert(database[DELIVERIES], _deliveries(rows, first["workspace"], webhooks))
        _insert(database[MESSAGES], _messages(rows, first["workspace"], mapping))
        delivery = database[DELIVERIES].find_one({}, sort=[("created_at", -1)])
        message = database[MESSAGES].find_one({}, sort=[("received_at", -1)])
    if delivery is None or message is None:
        raise AssertionError("nothing was inserted")
    lists = (
        *("deliveries", "dead-letters", "jobs", "webhooks", "endpoints", "incoming-webhooks", "messages"),
        *("mappings", "integrations", "imports", "event-types", "api-keys", "audit", "polling-triggers"),
    )
    return [
        "/console",
        *(f"/console/{path}" for path in lists),
        "/console/deliveries?order=oldest",
        "/console/deliveries?status=dead_letter&error=timeout",
        f"/console/deliveries?webhook_id={webhooks[0]}",
        "/console/deliveries?event_type=none",
        "/console/messages?order=oldest",
        "/console/messages?state=failed",
        f"/console/messages?mapping_id={mapping}",
        "/console/endpoints?order=oldest",
        f"/console/endpoints/{endpoint}",
        f"/console/webhooks/{webhooks[0]}",
        f"/console/deliveries/{delivery['_id']}",
        f"/console/messages/{message['_id']}",
        "/console/webhooks/do/create",
        f"/console/find?id={delivery['event_id']}",
        "/console/catalogue",
    ]


def _insert(collection: Any, documents: Iterator[Document]) -> None:
    while batch := list(islice(documents, _BATCH)):
        collection.insert_many(batch, ordered=False)


def _deliveries(count: int, workspace: str, webhooks: Sequence[str]) -> Iterator[Document]:
    for number, document in enumerate(filling(count, utcnow())):
        yield document | {"workspace": workspace, "webhook_id": webhooks[number % len(webhooks)]}


def _messages(count: int, workspace: str, mapping: str) -> Iterator[Document]:
    now, expires_at = utcnow(), expiry()
    for number in range(count):
        at = now - _SPAN * ((count - number) / count)
        target = Target(
            leg="l2",
            provider="chat",
            account="",
            conversation="bench-1",
            state="failed" if number % 1000 == 0 else "sent",
            trace=(TraceEntry(at=at, step="waiting"), TraceEntry(at=at, step="sent")),
        )
        yield SyncedMessage(
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
            received_at=at.replace(microsecond=at.microsecond // 1000 * 1000),
            expires_at=expires_at,
            targets={"l2": target},
        ).document()


def _cpu_ms(pid: int) -> float:
    """Return the CPU time of a process in ms."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS


def _memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * sysconf("SC_PAGESIZE") / 1e6
