"""`python -m bench.workers`: throughput with one and two workers, and cost per event as the hub grows.

Nothing is pinned: workers, broker, database, load generator and sink share all cores. Costs are CPU time per
event, of the measured service with all its workers, and of the database beside it.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, ClassVar, Final

import psutil
from rich.console import Console

from bench.isolation import BREAKER, wait_hanging
from bench.log import filling
from bench.machine import Cores, cpu_seconds, described
from bench.remote import Failed
from bench.stages import Bench, Plan, Target
from bench.system import BusName, System
from bench.waiting import database_at, fill
from bench.webhook import body
from services.delivery.log.deliveries import DELIVERIES
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Document, translate_errors

PARTS: Final = ("scale", "endpoints", "open", "log")
_BATCH: Final = 1_000
_WRITERS: Final = 2
_WARM_UP_ROUNDS: Final = 3
"""Rounds of delivery that do not count. Apache Kafka costs twice as much until its code is compiled."""
_SETTLE_S: Final = 0.5
_FAR: Final = timedelta(days=1)


def _served(service: str, workers: int) -> dict[str, Sequence[str]]:
    """Return how the service is started with this number of workers."""
    return {service: ("interlink", "serve", service, "--workers", str(workers))}


class Growth:
    """The measurements, on one bench."""

    def __init__(self, bench: Bench, *, deliveries: int, rounds: int, seconds: float) -> None:
        self._bench = bench
        self._deliveries = deliveries
        self._rounds = rounds
        self._seconds = seconds

    def scale(self) -> list[dict[str, Any]]:
        """Measure requests per second of the gateway, and deliveries per second, with one and two workers."""
        results: list[dict[str, Any]] = []
        for workers in (1, 2):
            with self._bench.hub(f"gateway-{workers}", "gateway", modules=_served("gateway", workers)) as hub:
                target = Target(hub.pid("gateway"), hub.ports["gateway"], hub.heads(channels=False))
                self._bench.load(target, self._seconds / 2)
                rounds = []
                for _ in range(self._rounds):
                    usage = _Usage(hub, "gateway")
                    _, rate = self._bench.load(target, self._seconds)
                    rounds.append((rate, *usage.per_event(rate * self._seconds)))
                results.append(self._result(rounds, service="gateway", workers=workers))
            with self._bench.hub(
                f"delivery-{workers}", "delivery", modules=_served("delivery", workers)
            ) as hub:
                self._bench.subscribe(hub)
                results.append(self._delivered(hub, service="delivery", workers=workers))
        return results

    def endpoints(self, counts: tuple[int, ...] = (10, 100, 1_000)) -> list[dict[str, Any]]:
        """Measure delivery with this number of endpoints, each of which gets an equal part of the events."""
        results: list[dict[str, Any]] = []
        for count in counts:
            env = {"INTERLINK_WEBHOOKS_PER_WORKSPACE": str(count)}
            with self._bench.hub(f"endpoints-{count}", "delivery", env=env) as hub:
                kinds = [f"kind{number}" for number in range(count)]
                for kind in kinds:
                    url = f"http://127.0.0.1:{self._bench.sink_port}/hooks/{kind}"
                    hub.outgoing_webhook(url, events=[f"github.{kind}"])
                results.append(self._delivered(hub, kinds=kinds, endpoints=count))
        return results

    def open_deliveries(self, count: int = 100_000) -> list[dict[str, Any]]:
        """Measure delivery with an empty log, and beside open deliveries.

        They wait for the measured webhooks until tomorrow, then others for two dead endpoints, one that never
        answers and one that refuses connections.
        """
        with self._bench.hub("open", "delivery", env=BREAKER) as hub:
            self._bench.subscribe(hub)
            results = [self._delivered(hub, open_deliveries=0)]
            webhooks = [item["id"] for item in hub.call("GET", "/api/outgoing-webhooks")["items"]]
            self._fill(hub, webhooks, count, due_in=_FAR)
            results.append(self._delivered(hub, open_deliveries=count, waits_for="tomorrow"))
        with self._bench.hub("open-dead", "delivery", env=BREAKER) as hub:
            self._bench.subscribe(hub)
            ports = self._bench.sink.call("dead")
            dead = [
                str(hub.outgoing_webhook(f"http://127.0.0.1:{port}/", events=["message.created"])["id"])
                for port in (ports["silent"], ports["refusing"])
            ]
            self._fill(hub, dead, count, due_in=timedelta())
            wait_hanging(self._bench)
            results.append(self._delivered(hub, open_deliveries=count, waits_for="dead endpoints"))
        return results

    def _fill(self, hub: System, webhooks: Sequence[str], count: int, *, due_in: timedelta) -> None:
        """Insert open deliveries for these webhooks while delivery is stopped."""
        hub.stop_service("delivery")
        seconds = fill(hub.store_uri, hub.workspace, webhooks, count, due_in=due_in)
        self._bench.say(f"{count:,} open deliveries inserted in {seconds:.0f} s")
        hub.start_service("delivery")
        hub.wait_ready("delivery")

    def log(self, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
        """Measure delivery with logs of these sizes."""
        results: list[dict[str, Any]] = []
        with self._bench.hub("log", "delivery") as hub:
            self._bench.subscribe(hub)
            there, documents = 0, filling(sizes[-1], utcnow())
            for size in sizes:
                seconds = asyncio.run(_insert(hub.store_uri, documents, size - there))
                self._bench.say(f"{size - there:,} deliveries inserted into the log in {seconds:.0f} s")
                there = size
                results.append(self._delivered(hub, log=size))
        return results

    def _delivered(self, hub: System, kinds: list[str] | None = None, **facts: Any) -> dict[str, Any]:
        """Publish events at once, several times, and measure until all are delivered and logged."""
        rounds = [self._deliver(hub, kinds) for _ in range(_WARM_UP_ROUNDS + self._rounds)]
        return self._result(rounds[_WARM_UP_ROUNDS:], **facts)

    def _deliver(self, hub: System, kinds: list[str] | None) -> tuple[float, ...]:
        sink, total = self._bench.sink, self._deliveries
        sink.call("reset")
        usage = _Usage(hub, "delivery")
        arguments: dict[str, Any] = {"kinds": kinds} if kinds else {}
        self._bench.feed.call(
            "feed",
            bootstrap=hub.bootstrap,
            workspace=hub.workspace,
            body=body().decode(),
            total=total,
            **arguments,
        )
        self._bench.arrived(total)
        sleep(_SETTLE_S)
        used = usage.per_event(total)
        seen = sink.call("seen")
        if seen["count"] != total:
            raise Failed(f"{seen['count']} deliveries of {total} events")
        return total / (seen["last"] - seen["first"]), *used

    def _result(self, rounds: Sequence[tuple[float, ...]], **facts: Any) -> dict[str, Any]:
        columns = zip(("per_s", *_Usage.NAMES), zip(*rounds, strict=True), strict=True)
        measured = {name: round(median(values)) for name, values in columns}
        result = facts | measured
        self._bench.say(", ".join(f"{name} {value}" for name, value in result.items()))
        return result


class _Usage:
    """The CPU time from now on: of a service with its workers, of the database, and of everything else."""

    NAMES: ClassVar[Sequence[str]] = ("cpu_us", "store_cpu_us", "other_cpu_us", "busy_percent")

    def __init__(self, hub: System, service: str) -> None:
        parent = hub.pid(service)
        self._pids = (parent, *(child.pid for child in psutil.Process(parent).children()))
        self._store_pid = hub.store_pid
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        busy = times.user + times.system + getattr(times, "softirq", 0.0) + getattr(times, "irq", 0.0)
        return sum(map(cpu_seconds, self._pids)), cpu_seconds(self._store_pid), busy, idle

    def per_event(self, events: float) -> tuple[float, ...]:
        """Return microseconds per event, and the share of the cores that was used, as `NAMES`."""
        service, store, busy, idle = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        costs = (seconds / events * 1e6 for seconds in (service, store, busy - service - store))
        return *costs, busy / (busy + idle) * 100


async def _insert(uri: str, documents: Iterator[Document], count: int) -> float:
    """Insert deliveries of other workspaces into the log; return the seconds."""
    started = perf_counter()
    batches = iter(range(0, count, _BATCH))

    async def insert(deliveries: Collection) -> None:
        for _ in batches:
            batch = list(islice(documents, _BATCH))
            with translate_errors():
                await deliveries.insert_many(batch, ordered=False)

    async with database_at(uri) as mongo:
        await asyncio.gather(*(insert(mongo.collection(DELIVERIES)) for _ in range(_WRITERS)))
    return perf_counter() - started


def main() -> int:
    """Measure the selected parts, and print one line for each result. Return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--bus", choices=("embedded", "kafka"), default="kafka", help="the broker")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--deliveries", type=int, default=4_000, help="events of a round of delivery")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of a round of the gateway")
    parser.add_argument("--log", type=int, default=1_000_000, help="deliveries in the largest log")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    arguments = parser.parse_args()
    bus: BusName = arguments.bus
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for name, value in (described() | {"bus": bus}).items():
        console.print(f"{name}: {value}", soft_wrap=True)
    nowhere: frozenset[int] = frozenset()
    with tempfile.TemporaryDirectory(prefix="interlink-bench-") as folder:
        bench = Bench(Plan(bus), Cores(nowhere, nowhere), Path(folder), console.print)
        growth = Growth(
            bench, deliveries=arguments.deliveries, rounds=arguments.rounds, seconds=arguments.seconds
        )
        sizes = tuple(size for size in (0, arguments.log // 10, arguments.log) if size % _BATCH == 0)
        run: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "scale": growth.scale,
            "endpoints": growth.endpoints,
            "open": growth.open_deliveries,
            "log": lambda: growth.log(sizes),
        }
        measured: dict[str, Any] = {}
        try:
            for part in arguments.only or PARTS:
                measured[part] = run[part]()
        except (Failed, AssertionError) as error:
            console.print(f"bench: {part}: {error}", style="red")
            return 1
        finally:
            bench.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
