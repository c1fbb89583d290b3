"""What names that resolve slowly do to another workspace's latency: next to nothing, it should.

Two hubs, each with a bus and a store of its own, both with a healthy endpoint whose name resolves at once.
It is looked up for each new connection. In one of them another workspace has 40 webhooks at names that take 20 s,
and an event for all of them comes every second. Delivery of one hub runs at a time, in turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from statistics import median
from threading import Event, Thread
from time import sleep
from typing import Any, Final

from bench.machine import cpu_seconds
from bench.remote import Failed
from bench.stages import Bench
from bench.system import System
from bench.webhook import body
from tests.support.dns_server import DnsServer, Reply

_HEALTHY: Final = "push"
_SLOW: Final = "slow"
_SLOW_NAMES: Final = 40
_SLOW_S: Final = 20.0
_PER_S: Final = 100.0
_EVERY_S: Final = 1.0
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 0.5


def resolution(bench: Bench) -> dict[str, Any]:
    """Return p50 and p99 in ms, from when an event was due until its request is at the sink."""
    replies = {
        "good.example": Reply(["127.0.0.1"], ttl=0),
        "*.slow.example": Reply(["127.0.0.1"], delay_s=_SLOW_S),
    }
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    with DnsServer(replies) as server:
        env = {"INTERLINK_DNS_SERVERS": server.address}
        with (
            bench.hub("resolution-alone", "gateway", "delivery", env=env) as alone,
            bench.hub("resolution-beside", "gateway", "delivery", env=env) as beside,
        ):
            for hub in (alone, beside):
                url = f"http://good.example:{bench.sink_port}/hooks/{_HEALTHY}"
                hub.outgoing_webhook(url, events=[f"github.{_HEALTHY}"])
            hostile = beside.other_workspace()
            for number in range(_SLOW_NAMES):
                url = f"http://{number}.slow.example:{bench.sink_port}/"
                made = {"name": "slow", "url": url, "events": [_SLOW]}
                beside.call("POST", "/api/outgoing-webhooks?force=true", made, key=hostile, expect=201)
            for hub in (alone, beside):
                hub.stop_service("delivery")
            for number in range(bench.plan.beside_rounds):
                rounds["alone"].append(_round(bench, alone, None))
                rounds["beside"].append(_round(bench, beside, hostile))
                quiet, attacked = (rounds[name][-1]["p99_ms"] for name in ("alone", "beside"))
                bench.say(f"resolution, round {number + 1}: p99 {quiet:.1f} ms; attacked {attacked:.1f} ms")
        if not server.count("0.slow.example"):
            raise Failed("no slow name was looked up")
    found: dict[str, Any] = {
        name: {what: median(each[what] for each in measured) for what in measured[0]}
        for name, measured in rounds.items()
    }
    times = {what: found["beside"][what] / value for what, value in found["alone"].items()}
    return {**found, "times": times, "slow_names": _SLOW_NAMES, "rounds": rounds}


def _round(bench: Bench, hub: System, hostile: str | None) -> dict[str, float]:
    """Start delivery, warm it up, measure, kill it: attempts that wait for a name would make it linger."""
    hub.start_service("delivery")
    hub.wait_ready("delivery")
    with _attacked(hub, hostile):
        _feed(bench, hub, _WARM_UP_S)
        before = cpu_seconds(hub.pid("delivery"))
        seen = _feed(bench, hub, bench.plan.beside_s)
        used = cpu_seconds(hub.pid("delivery")) - before
    hub.kill("delivery")
    return {"p50_ms": seen["p50_ms"], "p99_ms": seen["p99_ms"], "delivery_cpu_s": used}


@contextmanager
def _attacked(hub: System, hostile: str | None) -> Iterator[None]:
    over = Event()

    def publish() -> None:
        while hostile is not None and not over.is_set():
            event = {"specversion": "1.0", "id": token_hex(8), "type": _SLOW, "source": "/bench", "data": {}}
            hub.call("POST", "/api/events", [event], key=hostile, expect=202)
            over.wait(_EVERY_S)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _feed(bench: Bench, hub: System, seconds: float) -> dict[str, Any]:
    total = int(_PER_S * seconds)
    bench.sink.call("reset")
    bench.feed.call(
        "feed",
        bootstrap=hub.bootstrap,
        workspace=hub.workspace,
        body=body().decode(),
        total=total,
        kinds=(_HEALTHY,),
        rate=_PER_S,
    )
    bench.arrived(total)
    sleep(_SETTLE_S)
    return bench.sink.call("seen")
