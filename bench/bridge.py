"""Sync under load: its latency, its rate, its CPU, its memory, and what a long backlog does to others.

Webhooks of Slack and Telegram in turn come in, and each message goes to the other provider and to the chat.
"""

from statistics import median
from time import monotonic, sleep
from typing import Any, Final

from bench.bridged_hub import Bridge, bridged
from bench.machine import cpu_seconds, resident_mb
from bench.remote import Failed, Remote
from bench.stages import Bench

_PER_S: Final = 50.0
_WITHIN_S: Final = 60.0
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 0.5


def bridge(bench: Bench) -> dict[str, Any]:
    """Return the figures of every part."""
    plan = bench.plan
    with bridged(bench, "bridge", plan.bridge_accounts, plan.bridge_mappings) as hub:
        latency = _latency(bench, hub)
        work = _work(bench, hub)
    return {"latency": latency, "work": work}


def _latency(bench: Bench, bridge: Bridge) -> dict[str, Any]:
    """Measure from a request at the gateway to the request at the other provider, and to the chat's event."""
    plan = bench.plan
    bridge.connect(gateway=True)
    _through_gateway(bridge, _WARM_UP_S)
    seen = _through_gateway(bridge, plan.bridge_s)
    bench.say(
        f"bridge at {_PER_S:g}/s: to the provider p50 {seen['p50_ms']:.1f} ms, p99 {seen['p99_ms']:.1f} ms; "
        f"to the chat p50 {seen['chat_p50_ms']:.1f} ms, p99 {seen['chat_p99_ms']:.1f} ms"
    )
    return {"per_s": _PER_S, **seen}


def _through_gateway(bridge: Bridge, seconds: float) -> dict[str, Any]:
    total = int(_PER_S * seconds)
    bridge.providers.call("reset")
    result = bridge.providers.call(
        "through_gateway",
        port=bridge.hub.ports["gateway"],
        mappings=bridge.conversations.mappings,
        total=total,
        rate=_PER_S,
    )
    if result["accepted"] != total:
        raise Failed(f"the gateway accepted {result['accepted']} of {total} webhooks: {result['statuses']}")
    return _arrived(bridge, total)


def _work(bench: Bench, bridge: Bridge) -> dict[str, Any]:
    """Measure the rate and the CPU of forwarding many messages at once, in alternation with the baseline."""
    plan = bench.plan
    bridge.connect(gateway=False)
    bare = bench.helper("bench.bridge_bare")
    topic = bare.call("start", **bridge.baseline())["topic"]
    ours: list[dict[str, float]] = []
    base: list[dict[str, float]] = []
    try:
        for number in range(plan.rounds + 1):
            base.append(_bare_burst(bridge, bare, topic, plan.bridge_messages))
            ours.append(_burst(bridge, plan.bridge_messages))
            bench.say(
                f"bridge, round {number or 'before the first'}: {ours[-1]['cpu_us']:.0f} us, bare "
                f"{base[-1]['cpu_us']:.0f} us, {ours[-1]['cpu_us'] / base[-1]['cpu_us']:.2f} times; "
                f"{ours[-1]['per_s']:.0f}/s, bare {base[-1]['per_s']:.0f}/s"
            )
    finally:
        bare.call("stop")
    sides = {"ours": ours[1:], "bare": base[1:]}  # the first round warms up
    result = {
        f"{side}_{name}": median(measured[name] for measured in rounds)
        for side, rounds in sides.items()
        for name in rounds[0]
    }
    times = result["ours_cpu_us"] / result["bare_cpu_us"]
    return {**result, "times_bare": times, "rounds": sides}


def _bare_burst(bridge: Bridge, bare: Remote, topic: str, total: int) -> dict[str, float]:
    """Do the same with the baseline."""
    done = bare.call("count")["done"] + total
    bridge.providers.call("reset")
    before = cpu_seconds(bare.pid)
    bridge.providers.call("to_bare", topic=topic, total=total)
    deadline = monotonic() + _WITHIN_S
    while (count := bare.call("count"))["done"] < done:
        if monotonic() > deadline or count["refused"]:
            raise Failed(f"the baseline has made {count} calls of {done}")
        sleep(0.1)
    used = cpu_seconds(bare.pid) - before
    return {"per_s": total / bridge.providers.call("seen")["seconds"], "cpu_us": used / total * 1e6}


def _burst(bridge: Bridge, total: int) -> dict[str, float]:
    pid, store = bridge.hub.pid("sync"), bridge.hub.store_pid
    bridge.providers.call("reset")
    before, before_store = cpu_seconds(pid), cpu_seconds(store)
    bridge.providers.call("to_broker", mappings=bridge.conversations.mappings, total=total)
    seen = _arrived(bridge, total)
    return {
        "per_s": total / seen["seconds"],
        "cpu_us": (cpu_seconds(pid) - before) / total * 1e6,
        "store_cpu_us": (cpu_seconds(store) - before_store) / total * 1e6,
        "resident_mb": resident_mb(pid),
    }


def _arrived(bridge: Bridge, total: int) -> dict[str, Any]:
    """Wait until each message is at the other provider and at the chat; return what was seen."""
    deadline = monotonic() + _WITHIN_S
    while True:
        seen = bridge.providers.call("seen")
        if seen["complaints"]:
            raise Failed(f"the providers complain: {seen['complaints']}")
        if seen["count"] >= total and seen["chat_count"] >= total:
            sleep(_SETTLE_S)
            return seen
        if monotonic() > deadline:
            tail = bridge.hub.log_tail("sync")
            raise Failed(f"{seen['count']} of {total} messages arrived within {_WITHIN_S:.0f} s\n{tail}")
        sleep(0.05)
