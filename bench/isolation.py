"""Latency of a healthy endpoint beside dead endpoints with a long backlog, compared with its latency alone.

There are two hubs, each with its own broker and database. In both, a healthy endpoint receives events at a
moderate rate. One of them also has two dead endpoints, one that accepts connections and never answers and one
that refuses them. Their backlog is inserted into the delivery log beforehand, and some new events are for
them. The delivery services of the hubs run one at a time, in turn, so that other load of the machine affects
both equally.
"""

from statistics import median
from time import monotonic, sleep
from typing import Any, Final

from bench.machine import cpu_seconds
from bench.remote import Failed
from bench.stages import Bench
from bench.system import System
from bench.waiting import fill, still_waiting
from bench.webhook import body
from services.delivery.api.webhook_schemas import WebhookCreate
from services.delivery.settings import DeliverySettings

_HEALTHY: Final = "push"
_SILENT: Final = "issues"
_REFUSING: Final = "release"
_KINDS: Final = (*[_HEALTHY] * 4, _SILENT, *[_HEALTHY] * 4, _REFUSING)
_HEALTHY_PER_S: Final = 100
_PER_S: Final = _HEALTHY_PER_S * len(_KINDS) / _KINDS.count(_HEALTHY)
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 0.5
_HANGING_TIMEOUT_S: Final = 60.0
IN_FLIGHT: Final = int(WebhookCreate.model_fields["max_in_flight"].default)
_MIN_STILL_WAITING: Final = 0.99
_AGES: Final = ("p50_ms", "p99_ms")
BREAKER: Final = {
    "INTERLINK_BREAKER_FAILURES": str(DeliverySettings.model_fields["breaker_failures"].default)
}


def isolation(bench: Bench) -> dict[str, Any]:
    """Return p50 and p99 in ms, from when an event is due until its request is at the sink.

    Also return the CPU seconds of delivery and of the database, which other load of the machine changes
    little.
    """
    plan = bench.plan
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    with (
        bench.hub("isolation-alone", "delivery", env=BREAKER) as alone,
        bench.hub("isolation-beside", "delivery", env=BREAKER) as beside,
    ):
        for hub in (alone, beside):
            _subscribe(hub, bench.sink_port, _HEALTHY)
        ports = bench.sink.call("dead")
        dead = [
            _subscribe(beside, ports["silent"], _SILENT),
            _subscribe(beside, ports["refusing"], _REFUSING),
        ]
        for hub in (alone, beside):
            hub.stop_service("delivery")
        fill_s = fill(beside.store_uri, beside.workspace, dead, plan.dead_waiting)
        bench.say(
            f"isolation: {plan.dead_waiting:,} inserted into the log for two dead endpoints in {fill_s:.0f} s"
        )
        for number in range(plan.beside_rounds):
            for name, hub in (("alone", alone), ("beside", beside)):
                rounds[name].append(_round(bench, hub, hanging=IN_FLIGHT if hub is beside else 0))
            bench.say(
                f"isolation, round {number + 1}: p50 {rounds['alone'][-1]['p50_ms']:.1f} ms, "
                f"p99 {rounds['alone'][-1]['p99_ms']:.1f} ms; beside the dead "
                f"{rounds['beside'][-1]['p50_ms']:.1f} ms, {rounds['beside'][-1]['p99_ms']:.1f} ms"
            )
        waiting = still_waiting(beside.store_uri, dead)
    if waiting < plan.dead_waiting * _MIN_STILL_WAITING:
        raise Failed(
            f"only {waiting} of {plan.dead_waiting} deliveries of the dead endpoints were open at the end"
        )
    return _document(rounds, waiting)


def _subscribe(hub: System, port: int, kind: str) -> str:
    """Create a webhook with default settings; return its id."""
    webhook = hub.outgoing_webhook(f"http://127.0.0.1:{port}/hooks/{kind}", events=[f"github.{kind}"])
    return str(webhook["id"])


def _round(bench: Bench, hub: System, hanging: int) -> dict[str, float]:
    """Start delivery, warm it up, measure it and kill it.

    It is measured when `hanging` attempts hang: the time after a start, when it takes over the backlog, is
    not of interest here. It is killed because the hanging attempts would delay a stop.
    """
    hub.start_service("delivery")
    hub.wait_ready("delivery")
    wait_hanging(bench, hanging)
    _feed(bench, hub, _WARM_UP_S)
    pids = {"delivery": hub.pid("delivery"), "store": hub.store_pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    seen = _feed(bench, hub, bench.plan.beside_s)
    used = {f"{name}_cpu_s": cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    hub.kill("delivery")
    return {name: seen[name] for name in _AGES} | used


def wait_hanging(bench: Bench, attempts: int = IN_FLIGHT) -> None:
    """Wait until so many attempts hang at the endpoint that never answers. Raises `Failed`."""
    deadline = monotonic() + _HANGING_TIMEOUT_S
    while (count := bench.sink.call("hanging")["count"]) < attempts:
        if monotonic() > deadline:
            raise Failed(f"{count} of {attempts} attempts hang after {_HANGING_TIMEOUT_S:.0f} s")
        sleep(0.05)


def _feed(bench: Bench, hub: System, seconds: float) -> dict[str, Any]:
    cycles = int(_PER_S * seconds / len(_KINDS))
    healthy = cycles * _KINDS.count(_HEALTHY)
    bench.sink.call("reset")
    bench.feed.call(
        "feed",
        bootstrap=hub.bootstrap,
        workspace=hub.workspace,
        body=body().decode(),
        total=cycles * len(_KINDS),
        kinds=_KINDS,
        rate=_PER_S,
    )
    bench.arrived(healthy)
    sleep(_SETTLE_S)  # otherwise events without a commit come again in the next round
    seen = bench.sink.call("seen")
    if seen["count"] != healthy:
        raise Failed(f"{seen['count']} deliveries of {healthy} events")
    return seen


def _document(rounds: dict[str, list[dict[str, float]]], waiting: int) -> dict[str, Any]:
    results: dict[str, Any] = {
        name: {value: median(item[value] for item in measured) for value in measured[0]}
        for name, measured in rounds.items()
    }
    times = {value: results["beside"][value] / alone for value, alone in results["alone"].items()}
    return {**results, "times": times, "waiting": waiting, "rounds": rounds}
