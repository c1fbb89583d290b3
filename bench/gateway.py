"""The gateway under full load: CPU per webhook and per published event, beside two baselines."""

from statistics import median
from typing import Any, Final

from bench.stages import Bench, Sides, Target
from bench.webhook import body, event_body, event_head, request_head

_WARM_UP_S: Final = 1.5
_SECRET: Final = "secret"  # noqa: S105 -- signs the requests of this bench


def gateway(bench: Bench) -> dict[str, Any]:
    """Measure GitHub webhooks and `POST /api/events` in alternation with the baselines.

    They are a bare app that answers 202, and `bench.least`.
    """
    sides = Sides()
    events_us: list[float] = []
    events_per_s: list[float] = []
    plan = bench.plan
    port = bench.bare.call("serve")["port"]
    with bench.hub("gateway", "gateway") as hub:
        pid, ours = hub.pid("gateway"), hub.ports["gateway"]
        least = bench.least.call(
            "accept", bootstrap=hub.bootstrap, secret=_SECRET, embedded=plan.bus == "embedded"
        )["port"]
        targets = (
            (
                Target(
                    bench.bare.pid, port, [request_head("/", f"127.0.0.1:{port}", _SECRET, "push", body())]
                ),
                sides.bare_us,
                sides.bare_per_s,
            ),
            (
                Target(
                    bench.least.pid,
                    least,
                    [request_head("/", f"127.0.0.1:{least}", _SECRET, "push", body())],
                ),
                sides.least_us,
                sides.least_per_s,
            ),
            (Target(pid, ours, hub.heads(channels=False)), sides.ours_us, sides.ours_per_s),
            (
                Target(pid, ours, [event_head(f"127.0.0.1:{ours}", hub.admin_key)], event_body()),
                events_us,
                events_per_s,
            ),
        )
        for target, _, _ in targets:
            bench.load(target, min(_WARM_UP_S, plan.gateway_s))
        for number in range(plan.rounds):
            for target, us, per_s in targets:
                cost, rate = bench.load(target, plan.gateway_s)
                us.append(cost)
                per_s.append(rate)
            bench.round("gateway", number, sides)
            bench.say(
                f"POST /api/events, round {number + 1}: {events_us[-1]:.0f} us; {events_per_s[-1]:,.0f}/s"
            )
        bench.least.call("stop")
    return sides.document() | {
        "events_cpu_us": median(events_us),
        "events_per_s": median(events_per_s),
        "events_times": median(events_us) / median(sides.ours_us),
    }
