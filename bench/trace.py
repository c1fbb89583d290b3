"""Measure the stages of one event: from the webhook to its delivery, log entry and commit."""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from time import monotonic, sleep
from typing import Any, Final

from rich.box import MARKDOWN
from rich.table import Table

from bench.machine import Cores
from bench.remote import Failed
from bench.stages import Bench
from bench.system import BusName, system
from interlink.supervise import ProcessGroup
from shared.contracts.topics import DELIVERY_REQUESTED
from tests.support.apache_kafka import available as missing_kafka

RATES: Final = (50, 100)
_SERVICES: Final = ("gateway", "delivery")
_WARM_UP_S: Final = 3.0
_SETTLE_S: Final = 1.5
"""Longer than the interval of commits."""
_SIGNAL_S: Final = 0.2
_WRITE_TIMEOUT_S: Final = 10.0
_NOT_PINNED: Final = Cores(frozenset(), frozenset())

STAGES: Final = (
    ("gateway: until the produce", "due", "produce webhooks.received"),
    ("first produce: until the acknowledgement", "produce webhooks.received", "ack webhooks.received"),
    ("first poll: from there into delivery's hands", "ack webhooks.received", "polled webhooks.received"),
    ("fan-out", "polled webhooks.received", "produce delivery.requested"),
    ("second produce: until the acknowledgement", "produce delivery.requested", "ack delivery.requested"),
    (
        "second poll: from there into delivery's hands again",
        "ack delivery.requested",
        "polled delivery.requested",
    ),
    ("look whether known", "polled delivery.requested", "looked"),
    ("until the attempt starts, with that look", "polled delivery.requested", "attempt"),
    ("without the second topic: until the attempt starts", "direct", "attempt"),
    ("attempt: until the subscriber has it", "attempt", "arrived"),
    ("attempt: until its answer is evaluated", "arrived", "answered"),
    ("log write", "answered", "logged"),
    ("commit", "logged", "committed"),
    ("in all: webhook in to acknowledgement", "due", "ack webhooks.received"),
    ("in all: webhook in to webhook out", "due", "arrived"),
    ("in all: webhook in to log", "due", "logged"),
)


def trace(bench: Bench) -> dict[str, Any]:
    """Trace the hub at steady rates on each broker that is to be had; return the times of its stages."""
    result: dict[str, Any] = {}
    buses: tuple[BusName, ...] = ("embedded", "kafka")
    for bus in buses:
        if bus == "kafka" and (reason := missing_kafka()):
            bench.say(f"trace: Apache Kafka is left out: {reason}")
            continue
        result[bus] = _trace(bench, bus)
    return result


def _trace(bench: Bench, bus: BusName) -> dict[str, Any]:
    folder = bench.folder / f"trace-{bus}"
    folder.mkdir(parents=True)
    files = {name: folder / f"{name}.json" for name in _SERVICES}
    modules = {name: ("bench.traced", name, str(path)) for name, path in files.items()}
    group = ProcessGroup()
    result: dict[str, Any] = {}
    try:
        with system(folder, bus, _SERVICES, _NOT_PINNED, group, modules=modules) as hub:
            heads = hub.heads(channels=False)
            bench.subscribe(hub)
            bench.steady(hub, heads, RATES[0], _WARM_UP_S)
            for rate in RATES:
                for name in _SERVICES:
                    os.kill(hub.pid(name), signal.SIGUSR1)
                sleep(_SIGNAL_S)
                flow = bench.steady(hub, heads, rate, bench.plan.trace_s, events=True)
                sleep(_SETTLE_S)
                traces = [_written(hub.pid(name), path) for name, path in files.items()]
                measured = stage_times(traces, bench.sink.call("arrivals"))
                result[f"{rate}/s"] = measured
                bench.say(
                    f"trace, {bus}, {rate}/s: webhook in to webhook out p50 {flow['p50_ms']:.1f} ms, "
                    f"p99 {flow['p99_ms']:.1f} ms"
                )
    finally:
        group.close()
    return result


def _written(pid: int, path: Path) -> dict[str, Any]:
    """Have a service write its trace, and read it. Raises `Failed` after 10 s."""
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    deadline = monotonic() + _WRITE_TIMEOUT_S
    while monotonic() < deadline:
        sleep(0.1)
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        return document
    raise Failed(f"{path.name} was not written within {_WRITE_TIMEOUT_S:.0f} s")


def stage_times(traces: Sequence[Mapping[str, Any]], arrivals: Mapping[str, int]) -> dict[str, Any]:
    """Return count, p50, mean and p99 in ms of each stage, and the calls that were counted."""
    times: dict[str, dict[str, int]] = {
        event: {"due": int(event[:16], 16), "arrived": at} for event, at in arrivals.items()
    }
    calls: dict[str, list[float]] = defaultdict(list)
    for document in traces:
        notes = [(stage, event, at) for stage, event, at in document["stages"]]
        events = document["deliveries"]
        notes += [(stage, events.get(delivery, ""), at) for stage, delivery, at in document["by_delivery"]]
        notes += [("committed", event, at) for event, at in _commits(document)]
        for stage, event, at in notes:
            if event in times:
                times[event].setdefault(stage, at)
        for name, values in document["calls"].items():
            calls[name] += values
    stages = {}
    for at in times.values():
        # A direct request takes neither the second produce nor the second poll: those stages lack it.
        if "polled webhooks.received" in at and "polled delivery.requested" not in at:
            at["direct"] = at["polled webhooks.received"]
    for title, start, end in STAGES:
        stages[title] = _summary(
            [(at[end] - at[start]) / 1e6 for at in times.values() if start in at and end in at]
        )
    return {"stages": stages, "calls": {name: _summary(values) for name, values in sorted(calls.items())}}


def _commits(document: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield each event with the time at which its offset was committed: its last topic's in this process."""
    commits: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for topic, partition, offset, at in document["commits"]:
        commits[topic, partition].append((at, offset))
    records = document["records"]
    requested = {event for event, topic, _, _ in records if topic == DELIVERY_REQUESTED.name}
    for event, topic, partition, offset in records:
        if topic == DELIVERY_REQUESTED.name or event not in requested:
            ended = [at for at, committed in commits[topic, partition] if committed > offset]
            if ended:
                yield event, min(ended)


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    if not ordered:
        return {"count": 0, "p50": None, "mean": None, "p99": None}
    count = len(ordered)
    return {
        "count": count,
        "p50": ordered[count // 2],
        "mean": mean(ordered),
        "p99": ordered[int(count * 0.99)],
    }


def trace_tables(result: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """Yield a title and a table for each broker and rate."""
    for bus, rates in result.items():
        for rate, measured in rates.items():
            table = Table(box=MARKDOWN)
            for title in ("stage, ms", "events", "p50", "mean", "p99"):
                table.add_column(title)
            for name, times in (measured["stages"] | measured["calls"]).items():
                numbers = [times["p50"], times["mean"], times["p99"]]
                cells = ["-" if number is None else f"{number:.1f}" for number in numbers]
                table.add_row(name, f"{times['count']:,}", *cells)
            yield f"one webhook at {rate}, {bus} broker", table
