"""The main stages: delivery, and end to end with memory. Each runs on a new broker and database.

The behaviour of delivery under adverse conditions is measured in `isolation`, `fanout` and `backlog`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any, Final

from bench.machine import Cores, cpu_seconds, resident_mb
from bench.remote import Failed, Remote
from bench.system import CONCURRENCY, BusName, System, has_sync, system
from bench.webhook import body
from bench.written import bytes_to_disk, written
from interlink.supervise import ProcessGroup

_ARRIVAL_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 0.4
_STATISTICS_WAIT_S: Final = 1.5
"""Delivery writes its statistics every second."""
_MIN_KEPT_UP: Final = 0.97
_MAX_KEPT_UP_P50_MS: Final = 150.0


@dataclass(frozen=True)
class Plan:
    """Durations and repetitions of each stage's measurements."""

    bus: BusName = "embedded"
    rounds: int = 5
    gateway_s: float = 3.0
    deliveries: int = 8_000
    ramp_from: int = 500
    ramp_by: float = 1.35
    ramp_s: float = 3.0
    ramp_max: int = 20_000
    half_s: float = 10.0
    trace_s: float = 20.0
    quiet_pause_s: float = 40.0
    quiet_events: int = 20
    dead_waiting: int = 100_000
    beside_rounds: int = 5
    beside_s: float = 8.0
    fair_rounds: int = 5
    fair_s: float = 6.0
    endpoints: int = 1_000
    events: int = 100
    bridge_accounts: int = 24
    bridge_mappings: int = 1_000
    bridge_s: float = 20.0
    bridge_messages: int = 2_000
    bridge_more_mappings: int = 10_000
    bridge_links: int = 1_000_000
    bridge_waiting: int = 10_000
    history_messages: int = 1_000_000
    history_channels: int = 2_000
    history_live_s: float = 10.0
    history_rounds: int = 3
    console_endpoints: int = 10_000
    console_rows: int = 1_000_000
    console_repeats: int = 40
    console_paints: int = 5
    console_viewers: int = 100
    console_viewers_s: float = 20.0
    max_due: int = 100_000

    @property
    def backlogs(self) -> tuple[int, ...]:
        """The sizes of the backlog, each ten times the one before."""
        return tuple(size for size in (10**power for power in range(3, 9)) if size <= self.max_due)

    @classmethod
    def quick(cls, bus: BusName) -> "Plan":
        """Return a plan that takes seconds and shows that everything works; its numbers mean little."""
        return cls(
            bus,
            rounds=2,
            gateway_s=0.5,
            deliveries=400,
            ramp_from=200,
            ramp_by=2.0,
            ramp_s=1.0,
            ramp_max=400,
            half_s=2.0,
            trace_s=5.0,
            quiet_pause_s=2.0,
            quiet_events=5,
            dead_waiting=5_000,
            console_endpoints=1_000,
            console_rows=20_000,
            console_repeats=5,
            console_paints=1,
            console_viewers=8,
            console_viewers_s=4.0,
            beside_rounds=2,
            beside_s=3.0,
            fair_rounds=2,
            fair_s=3.0,
            endpoints=100,
            events=100,
            bridge_accounts=4,
            bridge_mappings=40,
            bridge_s=2.0,
            bridge_messages=80,
            bridge_more_mappings=200,
            bridge_links=1_000,
            bridge_waiting=200,
            history_messages=100_000,
            history_channels=100,
            history_live_s=1.0,
            history_rounds=1,
            max_due=10_000,
        )


@dataclass
class Sides:
    """The measurements of each round, per unit of work: of the hub, and of the baselines beside it."""

    ours_us: list[float] = field(default_factory=list)
    bare_us: list[float] = field(default_factory=list)
    least_us: list[float] = field(default_factory=list)
    ours_per_s: list[float] = field(default_factory=list)
    bare_per_s: list[float] = field(default_factory=list)
    least_per_s: list[float] = field(default_factory=list)

    @property
    def times(self) -> float:
        """CPU of the hub as a multiple of the bare baseline: the ratio of the medians."""
        return median(self.ours_us) / median(self.bare_us)

    def document(self) -> dict[str, Any]:
        return {
            "times_bare": self.times,
            "times_least": median(self.ours_us) / median(self.least_us),
            "least_cpu_us": median(self.least_us),
            "least_per_s": median(self.least_per_s),
            "cpu_us": median(self.ours_us),
            "bare_cpu_us": median(self.bare_us),
            "per_s": median(self.ours_per_s),
            "bare_per_s": median(self.bare_per_s),
            "rounds": vars(self),
        }


@dataclass(frozen=True)
class Target:
    """A server to load: its process and port, and its requests: heads up to the delivery id, one body."""

    pid: int
    port: int
    heads: list[str]
    body: bytes = field(default_factory=body)


class Bench:
    """One run of the bench: its helper processes and its stages."""

    def __init__(self, plan: Plan, cores: Cores, folder: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self._cores = cores
        self.folder = folder
        self.say = say
        self._process_group = ProcessGroup()
        self._helpers: list[Remote] = []
        self._load = self._helper("bench.load", cores.rest)
        self.sink = self._helper("bench.sink", cores.rest)
        self.feed = self._helper("bench.feed", cores.rest)
        self.bare = self._helper("bench.bare", cores.system)
        self.least = self._helper("bench.least", cores.system)
        self.sink_port: int = self.sink.call("listen")["port"]

    def close(self) -> None:
        for helper in self._helpers:
            helper.stop()
        self._process_group.close()

    @contextmanager
    def hub(
        self,
        stage: str,
        *services: str,
        modules: Mapping[str, Sequence[str]] = MappingProxyType({}),
        env: Mapping[str, str] = MappingProxyType({}),
        pins: bool = True,
    ) -> Iterator[System]:
        """Run a hub with these services for one stage; without `pins`, all processes share all cores."""
        folder = self.folder / stage
        cores = self._cores if pins else Cores(frozenset(), frozenset())
        with system(
            folder, self.plan.bus, services, cores, self._process_group, modules=modules, env=env
        ) as hub:
            yield hub

    def subscribe(self, hub: System) -> None:
        """Create webhooks that deliver to the sink of this bench."""
        hub.subscribe(self.sink_port)

    def load(self, target: "Target", seconds: float) -> tuple[float, float]:
        """Return CPU microseconds per request and requests per second of one process under full load."""
        before = cpu_seconds(target.pid)
        result = self._load.call(
            "run",
            port=target.port,
            heads=target.heads,
            body=target.body.decode(),
            connections=CONCURRENCY,
            seconds=seconds,
        )
        used = cpu_seconds(target.pid) - before
        if not result["accepted"] or result["accepted"] != result["answered"] or result["lost_connections"]:
            raise Failed(f"not every request was accepted: {result}")
        return used / result["answered"] * 1e6, result["answered"] / result["seconds"]

    def delivery(self) -> dict[str, Any]:
        """CPU and rate of delivery, from the first to the last, beside two baselines.

        They are a bare loop of its HTTP client and `bench.least`. And what the store has of it afterwards.
        """
        sides = Sides()
        database_us: list[float] = []
        disk_bytes: list[float] = []
        with self.hub("delivery", "delivery") as hub:
            self.subscribe(hub)
            pid = hub.pid("delivery")
            warming = max(100, self.plan.deliveries // 8)
            self.deliver(hub, pid, warming)
            delivered: str = self.sink.call("seen")["body"]
            self.post(delivered)
            topic = self.least.call(
                "deliver",
                bootstrap=hub.bootstrap,
                uri=hub.store_uri,
                url=f"http://127.0.0.1:{self.sink_port}/hooks/least",
                embedded=self.plan.bus == "embedded",
            )["topic"]
            self.deliver_least(hub, topic, warming)
            for number in range(self.plan.rounds):
                cost, rate = self.post(delivered)
                sides.bare_us.append(cost)
                sides.bare_per_s.append(rate)
                cost, rate = self.deliver_least(hub, topic, self.plan.deliveries)
                sides.least_us.append(cost)
                sides.least_per_s.append(rate)
                before, on_disk = cpu_seconds(hub.store_pid), bytes_to_disk(hub.store_pid)
                cost, rate = self.deliver(hub, pid, self.plan.deliveries)
                disk_bytes.append((bytes_to_disk(hub.store_pid) - on_disk) / self.plan.deliveries)
                database_us.append((cpu_seconds(hub.store_pid) - before) / self.plan.deliveries * 1e6)
                sides.ours_us.append(cost)
                sides.ours_per_s.append(rate)
                self.round("delivery", number, sides)
            self.least.call("stop")
            sleep(_STATISTICS_WAIT_S)
            total = warming + self.plan.rounds * self.plan.deliveries
            stored = written(
                hub.store_uri, total, cpu_us=median(database_us), disk_bytes=median(disk_bytes) or None
            )
            self.say(f"delivery: {stored.description}")
        return sides.document() | {"written": stored.document()}

    def post(self, delivered: str) -> tuple[float, float]:
        total = self.plan.deliveries
        url = f"http://127.0.0.1:{self.sink_port}/hooks/bare"
        result = self.bare.call("post", url=url, body=delivered, total=total, concurrency=CONCURRENCY)
        return result["cpu"] / total * 1e6, total / result["seconds"]

    def deliver_least(self, hub: System, topic: str, total: int) -> tuple[float, float]:
        """Do with `bench.least` what `deliver` does with the hub."""
        before = self.least.call("expect", total=total)
        self.feed.call(
            "feed",
            bootstrap=hub.bootstrap,
            workspace=hub.workspace,
            body=body().decode(),
            total=total,
            topic=topic,
        )
        after = self.least.call("logged")
        return (after["cpu"] - before["cpu"]) / total * 1e6, total / (after["at"] - before["at"])

    def deliver(self, hub: System, pid: int, total: int) -> tuple[float, float]:
        """Publish `total` webhook events at once, and wait for their deliveries, log writes and commits.

        Returns CPU microseconds per delivery and deliveries per second.
        """
        self.sink.call("reset")
        before = cpu_seconds(pid)
        self.feed.call(
            "feed", bootstrap=hub.bootstrap, workspace=hub.workspace, body=body().decode(), total=total
        )
        self.arrived(total)
        sleep(_SETTLE_S)
        used = cpu_seconds(pid) - before
        seen = self.sink.call("seen")
        if seen["count"] != total:
            raise Failed(f"{seen['count']} deliveries of {total} webhooks")
        return used / total * 1e6, total / (seen["last"] - seen["first"])

    def end_to_end(self) -> dict[str, Any]:
        """Measure the highest rate at which deliveries keep up, the ages at half of it, and memory."""
        services = ("gateway", "delivery", *(("sync",) if has_sync() else ()))
        plan = self.plan
        with self.hub("flow", *services) as hub:
            heads = hub.heads(channels=True)
            self.subscribe(hub)
            self.steady(hub, heads, plan.ramp_from, min(2.0, plan.ramp_s))
            rate, best, ramp = float(plan.ramp_from), 0.0, []
            while rate <= plan.ramp_max:
                result = self.steady(hub, heads, rate, plan.ramp_s)
                ramp.append(result)
                ages = f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms"
                self.say(f"end to end: {rate:.0f}/s in, {ages}")
                if not result["kept_up"]:
                    break
                best = result["out_per_s"]
                rate *= plan.ramp_by
            half = max(best, float(plan.ramp_from)) / 2
            sleep(1.0)
            result = self.steady(hub, heads, half, plan.half_s)
            ages = f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms"
            self.say(f"end to end at half: {half:.0f}/s, {ages}")
            memory = {name: resident_mb(hub.pid(name)) for name in services}
        return {"most_per_s": best, "at_half": result, "ramp": ramp, "resident_mb": memory}

    def steady(
        self,
        hub: System,
        heads: list[str],
        rate: float,
        seconds: float,
        *,
        connections: int = CONCURRENCY,
        events: bool = False,
    ) -> dict[str, Any]:
        """Send webhooks at a steady rate; return their ages. With `events`, the sink stores each arrival."""
        self.sink.call("reset", events=events)
        result = self._load.call(
            "run",
            port=hub.ports["gateway"],
            heads=heads,
            body=body().decode(),
            connections=connections,
            seconds=seconds,
            rate=rate,
        )
        at_end = self.sink.call("seen")
        self.arrived(result["accepted"])
        seen = self.sink.call("seen")
        seconds_taken = max(seconds, at_end["last"] - at_end["first"])
        kept_up = (
            result["accepted"] == result["answered"] and at_end["count"] >= result["accepted"] * _MIN_KEPT_UP
        )
        return {
            "in_per_s": rate,
            "out_per_s": at_end["count"] / seconds_taken,
            "accepted": result["accepted"],
            "answer_p50_ms": result["p50_ms"],
            "answer_p99_ms": result["p99_ms"],
            "p50_ms": seen["p50_ms"],
            "p99_ms": seen["p99_ms"],
            "kept_up": kept_up and seen["p50_ms"] < _MAX_KEPT_UP_P50_MS,
        }

    def arrived(self, total: int, timeout_s: float = _ARRIVAL_TIMEOUT_S) -> None:
        """Wait until `total` requests are at the sink. Raises `Failed` after `timeout_s` seconds."""
        deadline = monotonic() + timeout_s
        while (count := self.sink.call("count")["count"]) < total:
            if monotonic() > deadline:
                raise Failed(f"{count} of {total} deliveries arrived within {timeout_s:.0f} s")
            sleep(0.02)

    def helper(self, module: str) -> Remote:
        """Start another helper process beside the system under test. It runs until the bench ends."""
        return self._helper(module, self._cores.rest)

    def _helper(self, module: str, cores: frozenset[int]) -> Remote:
        helper = Remote(module, cores, self._process_group)
        self._helpers.append(helper)
        return helper

    def round(self, what: str, number: int, sides: Sides) -> None:
        ours, bare, least = sides.ours_us[-1], sides.bare_us[-1], sides.least_us[-1]
        self.say(
            f"{what}, round {number + 1}: {ours:.0f} us; bare {bare:.0f} us, {ours / bare:.1f} times; "
            f"least {least:.0f} us, {ours / least:.2f} times; {sides.ours_per_s[-1]:,.0f}/s, "
            f"bare {sides.bare_per_s[-1]:,.0f}/s, least {sides.least_per_s[-1]:,.0f}/s"
        )
