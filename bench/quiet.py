"""Age of a single webhook on arrival after a pause in which nothing happened.

While nothing happens, everything slows down or ends: pauses between fetches grow, connections of the HTTP
client are closed, caches of the machine hold other things. A pause of more than 30 s measures all of that:
the pauses between fetches are longest after 10 s, and the HTTP client closes connections after 30 s.
"""

from collections.abc import Sequence
from time import sleep
from typing import Any

from bench.stages import Bench

_WARM_UP_PER_S = 50.0
_WARM_UP_S = 3.0


def quiet(bench: Bench) -> dict[str, Any]:
    """Return p50, p99 and maximum in ms, from when a webhook is due until its delivery is at the sink."""
    pause_s, count = bench.plan.quiet_pause_s, bench.plan.quiet_events
    ages: list[float] = []
    with bench.hub("quiet", "gateway", "delivery") as hub:
        heads = hub.heads(channels=False)
        bench.subscribe(hub)
        bench.steady(hub, heads, _WARM_UP_PER_S, _WARM_UP_S)
        for number in range(count):
            sleep(pause_s)
            # One webhook a second for a second, each time to another endpoint.
            result = bench.steady(hub, [heads[number % len(heads)]], 1.0, 1.0, connections=1)
            ages.append(result["p50_ms"])
            bench.say(
                f"quiet, {pause_s:g} s: {result['p50_ms']:.1f} ms until the subscriber had it, "
                f"{result['answer_p50_ms']:.1f} ms until the gateway's answer"
            )
    return summary(pause_s, ages)


def summary(pause_s: float, ages_ms: Sequence[float]) -> dict[str, Any]:
    """Return the percentiles of these ages in ms. Of less than 100, the p99 is the maximum."""
    ordered = sorted(ages_ms)
    return {
        "pause_s": pause_s,
        "events": len(ordered),
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[int(len(ordered) * 0.99)],
        "max_ms": ordered[-1],
        "ages_ms": list(ages_ms),
    }
