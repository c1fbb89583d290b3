"""Latency of a healthy endpoint while another workspace has slow host names, as a ratio.

There are two hubs, each with its own broker and database. Both have a healthy endpoint whose name resolves at
once and is looked up for each new connection. In both, another workspace has 40 webhooks at names that do not
resolve, and every second an event for all of them: in one hub the DNS answer comes at once, in the other it
takes 20 s. The delivery services of the hubs run one at a time, in turn.
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
_OTHERS: Final = "other"
_NAMES: Final = 40
_SLOW_S: Final = 20.0
_PER_S: Final = 100.0
_INTERVAL_S: Final = 1.0
_NO_RETRIES: Final = {"schedule": [0]}
"""No retries: they would make each round heavier than the one before."""
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 0.5


def resolution(bench: Bench) -> dict[str, Any]:
    """Return p50 and p99 in ms, from when an event was due until its request is at the sink."""
    replies = {
        "good.example": Reply(["127.0.0.1"], ttl=0),
        "*.slow.example": Reply(["127.0.0.1"], delay_s=_SLOW_S),  # others do not exist
    }
    rounds: dict[str, list[dict[str, float]]] = {"quick": [], "slow": []}
    with DnsServer(replies) as server:
        env = {"INTERLINK_DNS_SERVERS": server.address}
        with (
            bench.hub("resolution-quick", "gateway", "delivery", env=env) as quick,
            bench.hub("resolution-slow", "gateway", "delivery", env=env) as slow,
        ):
            hubs = {"quick": quick, "slow": slow}
            others = {name: _prepare(bench, hub, name) for name, hub in hubs.items()}
            for number in range(bench.plan.beside_rounds):
                for name, hub in hubs.items():
                    rounds[name].append(_round(bench, hub, others[name]))
                quick_p99, slow_p99 = (rounds[name][-1]["p99_ms"] for name in hubs)
                bench.say(f"resolution, round {number + 1}: p99 {quick_p99:.1f} ms, slow {slow_p99:.1f} ms")
        if not server.count("0.slow.example"):
            raise Failed("no slow name was looked up")
    results: dict[str, Any] = {
        name: {value: median(item[value] for item in measured) for value in measured[0]}
        for name, measured in rounds.items()
    }
    times = {value: results["slow"][value] / quick for value, quick in results["quick"].items()}
    return {**results, "times": times, "slow_names": _NAMES, "rounds": rounds}


def _prepare(bench: Bench, hub: System, kind: str) -> str:
    """Create the webhooks of both workspaces; return the admin key of the other workspace."""
    url = f"http://good.example:{bench.sink_port}/hooks/{_HEALTHY}"
    hub.outgoing_webhook(url, events=[f"github.{_HEALTHY}"])
    key = hub.other_workspace()
    for number in range(_NAMES):
        webhook = {
            "name": "x",
            "url": f"http://{number}.{kind}.example:{bench.sink_port}/",
            "events": [_OTHERS],
        } | {"retry": _NO_RETRIES}
        hub.call("POST", "/api/outgoing-webhooks?force=true", webhook, key=key, expect=201)
    hub.stop_service("delivery")
    return key


def _round(bench: Bench, hub: System, key: str) -> dict[str, float]:
    """Start delivery, warm it up, measure it and kill it.

    It is killed because attempts that wait for a name would delay a stop.
    """
    hub.start_service("delivery")
    hub.wait_ready("delivery")
    with _publishing(hub, key):
        _feed(bench, hub, _WARM_UP_S)
        before = cpu_seconds(hub.pid("delivery"))
        seen = _feed(bench, hub, bench.plan.beside_s)
        used = cpu_seconds(hub.pid("delivery")) - before
    hub.kill("delivery")
    return {"p50_ms": seen["p50_ms"], "p99_ms": seen["p99_ms"], "delivery_cpu_s": used}


@contextmanager
def _publishing(hub: System, key: str) -> Iterator[None]:
    stopping = Event()

    def publish() -> None:
        while not stopping.is_set():
            event = {
                "specversion": "1.0",
                "id": token_hex(8),
                "type": _OTHERS,
                "source": "/bench",
                "data": {},
            }
            hub.call("POST", "/api/events", [event], key=key, expect=202)
            stopping.wait(_INTERVAL_S)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
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
