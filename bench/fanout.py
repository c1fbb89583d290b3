"""Fan-out to a thousand endpoints: every event is delivered to each of them exactly once."""

from time import monotonic, sleep
from typing import Any, Final

import httpx

from bench.machine import cpu_seconds
from bench.remote import Failed
from bench.stages import Bench
from bench.system import System
from bench.webhook import body

_KIND: Final = "push"
_SETTLE_S: Final = 2.0
_MIN_PER_S: Final = 250
"""Deliveries per second below which the bench gives up."""


def fanout(bench: Bench) -> dict[str, Any]:
    """Measure from the publication of the first event until every delivery arrived.

    Raises `Failed` if a delivery did not arrive exactly once.
    """
    endpoints, events = bench.plan.endpoints, bench.plan.events
    total = endpoints * events
    env = {"INTERLINK_WEBHOOKS_PER_WORKSPACE": str(endpoints)}
    with bench.hub("fanout", "delivery", env=env) as hub:
        _subscribe(hub, bench.sink_port, endpoints)
        bench.sink.call("reset", ids=True)
        pid = hub.pid("delivery")
        before, started = cpu_seconds(pid), monotonic()
        bench.feed.call(
            "feed",
            bootstrap=hub.bootstrap,
            workspace=hub.workspace,
            body=body().decode(),
            total=events,
            kinds=[_KIND],
        )
        bench.arrived(total, 30 + total / _MIN_PER_S)
        sleep(_SETTLE_S)
        used = cpu_seconds(pid) - before
        seen = bench.sink.call("seen")
    if seen["count"] != total or seen["distinct"] != total:
        raise Failed(f"{seen['count']} requests of {seen['distinct']} deliveries arrived instead of {total}")
    seconds = seen["last"] - started
    bench.say(
        f"fanout: {events} events to {endpoints:,} endpoints: {total:,} deliveries, each once, in "
        f"{seconds:.1f} s, {total / seconds:,.0f}/s, {used / total * 1e6:.0f} us of CPU each"
    )
    return {
        "endpoints": endpoints,
        "events": events,
        "deliveries": total,
        "seconds": seconds,
        "per_s": total / seconds,
        "cpu_us": used / total * 1e6,
    }


def _subscribe(hub: System, port: int, endpoints: int) -> None:
    """Create the webhooks, over one connection to save time."""
    headers = {"authorization": f"Bearer {hub.admin_key}"}
    with httpx.Client(base_url=hub.url("delivery"), headers=headers, timeout=30) as client:
        for number in range(endpoints):
            url = f"http://127.0.0.1:{port}/hooks/{number}"
            response = client.post(
                "/api/outgoing-webhooks", json={"name": "bench", "url": url, "events": [f"github.{_KIND}"]}
            )
            if response.status_code != 201:
                raise Failed(f"webhook {number} was not created: {response.status_code} {response.text}")
