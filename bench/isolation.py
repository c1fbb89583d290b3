"""What a dead endpoint with a long backlog does to a healthy one's latency: next to nothing, it should.

Two hubs, each with a bus and a store of its own. In both, a healthy endpoint gets events at a moderate
rate. In one there are also two dead endpoints, one that accepts and never answers and one that refuses;
their backlog is put straight into the log before, and some new events are for them. Delivery of one hub
runs at a time, round about, so that what else the machine does meets both alike.
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
_HANGING_S: Final = 60.0
_IN_FLIGHT: Final = int(WebhookCreate.model_fields["max_in_flight"].default)
_STILL: Final = 0.99
_AGES: Final = ("p50_ms", "p99_ms")
_BREAKER: Final = {
    "INTERLINK_BREAKER_FAILURES": str(DeliverySettings.model_fields["breaker_failures"].default)
}


def isolation(bench: Bench) -> dict[str, Any]:
    """p50 and p99 in ms, from when an event was due to be published until its request is at the sink.

    And the CPU seconds of delivery and the store: what else runs on the machine changes them little.
    """
    plan = bench.plan
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    with (
        bench.hub("isolation-alone", "delivery", env=_BREAKER) as alone,
        bench.hub("isolation-beside", "delivery", env=_BREAKER) as beside,
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
        took = fill(beside.store_uri, beside.workspace, dead, plan.dead_waiting)
        bench.say(f"isolation: {plan.dead_waiting:,} put into the log for two dead endpoints in {took:.0f} s")
        for number in range(plan.beside_rounds):
            for name, hub in (("alone", alone), ("beside", beside)):
                rounds[name].append(_round(bench, hub, hanging=_IN_FLIGHT if hub is beside else 0))
            bench.say(
                f"isolation, round {number + 1}: p50 {rounds['alone'][-1]['p50_ms']:.1f} ms, "
                f"p99 {rounds['alone'][-1]['p99_ms']:.1f} ms; beside the dead "
                f"{rounds['beside'][-1]['p50_ms']:.1f} ms, {rounds['beside'][-1]['p99_ms']:.1f} ms"
            )
        waiting = still_waiting(beside.store_uri, dead)
    if waiting < plan.dead_waiting * _STILL:
        raise Failed(f"only {waiting} of {plan.dead_waiting} still waited for the dead at the end")
    return _document(rounds, waiting)


def _subscribe(hub: System, port: int, kind: str) -> str:
    """A webhook with every default; its id."""
    webhook = hub.outgoing_webhook(f"http://127.0.0.1:{port}/hooks/{kind}", events=[f"github.{kind}"])
    return str(webhook["id"])


def _round(bench: Bench, hub: System, hanging: int) -> dict[str, float]:
    """Delivery as it starts, warmed up, measured, killed: the attempts that hang would make it linger.

    It is measured when so many of them hang: taking over a backlog is not what is asked here.
    """
    hub.start_service("delivery")
    hub.wait_ready("delivery")
    deadline = monotonic() + _HANGING_S
    while (count := bench.sink.call("hanging")["count"]) < hanging:
        if monotonic() > deadline:
            raise Failed(f"{count} of {hanging} attempts hang after {_HANGING_S:.0f} s")
        sleep(0.05)
    _feed(bench, hub, _WARM_UP_S)
    pids = {"delivery": hub.pid("delivery"), "store": hub.store_pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    seen = _feed(bench, hub, bench.plan.beside_s)
    used = {f"{name}_cpu_s": cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    hub.kill("delivery")
    return {name: seen[name] for name in _AGES} | used


def _feed(bench: Bench, hub: System, seconds: float) -> dict[str, Any]:
    turns = int(_PER_S * seconds / len(_KINDS))
    healthy = turns * _KINDS.count(_HEALTHY)
    bench.sink.call("reset")
    bench.feed.call(
        "feed",
        bootstrap=hub.bootstrap,
        workspace=hub.workspace,
        body=body().decode(),
        total=turns * len(_KINDS),
        kinds=_KINDS,
        rate=_PER_S,
    )
    bench.arrived(healthy)
    sleep(_SETTLE_S)  # else what is killed before its commit comes again in the next round
    seen = bench.sink.call("seen")
    if seen["count"] != healthy:
        raise Failed(f"{seen['count']} deliveries of {healthy} events")
    return seen


def _document(rounds: dict[str, list[dict[str, float]]], waiting: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {what: median(each[what] for each in measured) for what in measured[0]}
        for name, measured in rounds.items()
    }
    times = {what: found["beside"][what] / alone for what, alone in found["alone"].items()}
    return {**found, "times": times, "waiting": waiting, "rounds": rounds}
