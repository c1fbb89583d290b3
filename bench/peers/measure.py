"""Measure one engine in one run: idle, a burst by the API, signed webhooks, and steady rates."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Final

from bench.peers.engine import CONNECTIONS, Engine, Template
from bench.peers.processes import Processes
from bench.remote import Failed, Remote

_AFTER_START_S: Final = 3.0
_WARM_UP: Final = 300
_TIMEOUT_S: Final = 90.0
_SETTLE_WINDOW_S: Final = 0.5
_SETTLED: Final = 0.05
"""The share of a core, above that of doing nothing, under which an engine has no work left."""
_MAX_SETTLE_S: Final = 10.0


@dataclass(frozen=True)
class PeerPlan:
    """Number of runs, and the events, durations and rate of each."""

    runs: int = 3
    events: int = 10_000
    idle_s: float = 60.0
    steady_s: float = 20.0
    rate: float = 100.0

    @classmethod
    def quick(cls) -> "PeerPlan":
        """Return a plan of one short run."""
        return cls(runs=1, events=3_000, idle_s=20.0, steady_s=10.0)


class Run:
    """One run of one engine."""

    def __init__(
        self, plan: PeerPlan, engine: Engine, processes: Processes, load: Remote, sink: Remote
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._processes = processes
        self._load = load
        self._sink = sink
        self._idle = 0.0

    def measure(self, sink_port: int, say: Callable[[str], None]) -> dict[str, Any]:
        """Start the engine and measure it. Raises `Failed`, also if an accepted event was not delivered."""
        plan = self._plan
        started = self._engine.start(self._processes, f"http://127.0.0.1:{sink_port}/hook")
        result: dict[str, Any] = {"ready_s": started.ready_s}
        sleep(_AFTER_START_S)
        before, since = self._processes.cpu(), monotonic()
        sleep(plan.idle_s)
        used = (self._processes.cpu() - before).per(monotonic() - since)
        self._idle = used.total
        result["idle"] = vars(used)
        say(f"{self._engine.name}: ready in {started.ready_s:.1f} s, {used.total:.1%} of a core when idle")

        self._send(started.publish, _WARM_UP)
        result["publish"] = self._send(started.publish, plan.events)
        result["memory_mb"] = vars(self._processes.memory_mb())
        if started.inbound:
            self._send(started.inbound, _WARM_UP)
            result["inbound"] = self._send(started.inbound, plan.events)
        half = result["publish"]["per_s"] / 2
        for name, rate in (("steady", plan.rate), ("half", half)):
            result[name] = self._send(started.publish, int(rate * plan.steady_s), rate)
        for name in ("publish", "inbound", "steady", "half"):
            if part := result.get(name):
                say(
                    f"{self._engine.name}, {name}: {part['per_s']:.0f}/s, CPU {part['own_us']:.0f} us "
                    f"and {part['stores_us']:.0f} us of its stores, "
                    f"p50 {part['p50_ms']:.1f} ms, p99 {part['p99_ms']:.1f} ms"
                )
        return result

    def _send(self, template: Template, total: int, rate: float = 0.0) -> dict[str, Any]:
        """Send events and wait for their deliveries and for what comes after them, such as log writes."""
        self._sink.call("reset", events=True)
        before = self._processes.cpu()
        sent = self._load.call(
            "post", total=total, connections=CONNECTIONS, timeout_s=_TIMEOUT_S, rate=rate, **vars(template)
        )
        if sent["accepted"] != total or sent["lost_connections"]:
            raise Failed(f"{self._engine.name} did not accept every event: {sent}")
        self._wait_delivered(total)
        self._settle()
        used = (self._processes.cpu() - before).per(total)
        seen = self._sink.call("seen")
        return {
            "rate": rate,
            "per_s": total / (seen["last"] - sent["started"]),
            "own_us": used.own * 1e6,
            "stores_us": used.stores * 1e6,
            "p50_ms": seen["p50_ms"],
            "p99_ms": seen["p99_ms"],
            "answer_p50_ms": sent["p50_ms"],
            "answer_p99_ms": sent["p99_ms"],
            "repeats": seen["count"] - seen["events"],
        }

    def _wait_delivered(self, total: int) -> None:
        deadline = monotonic() + _TIMEOUT_S
        while (delivered := self._sink.call("count")["events"]) < total:
            if monotonic() > deadline:
                raise Failed(
                    f"{self._engine.name} delivered {delivered} of {total} events in {_TIMEOUT_S:.0f} s"
                )
            sleep(0.05)

    def _settle(self) -> None:
        """Wait until the engine does nothing more than when it is idle, at most 10 s."""
        deadline = monotonic() + _MAX_SETTLE_S
        share = 1.0
        while share > self._idle + _SETTLED and monotonic() < deadline:
            before, since = self._processes.cpu(), monotonic()
            sleep(_SETTLE_WINDOW_S)
            share = (self._processes.cpu() - before).total / (monotonic() - since)
