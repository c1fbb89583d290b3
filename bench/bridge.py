"""Sync under load: its latency, its rate, its CPU, its memory, and what a long backlog does to others.

Webhooks of Slack and Telegram in turn come in, and each message goes to the other provider and to the chat.
"""

from statistics import median
from time import monotonic, sleep
from typing import Any, Final

from bench.bridged_hub import Bridge, bridged
from bench.machine import cpu_seconds, proportional_mb
from bench.remote import Failed, Remote
from bench.stages import Bench

_PER_S: Final = 50.0
_WITHIN_S: Final = 60.0
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 0.5
_MEMORY_MESSAGES: Final = 500
_LANES_S: Final = 5.0
_BESIDE_ACCOUNTS: Final = 8
_BESIDE_MAPPINGS: Final = 101
_REFUSED_EVERY: Final = 100
"""Of so many messages one is for the conversation that refuses them: one in two seconds."""


def bridge(bench: Bench) -> dict[str, Any]:
    """Return the figures of every part."""
    plan = bench.plan
    with bridged(bench, "bridge", plan.bridge_accounts, plan.bridge_mappings) as hub:
        latency = _latency(bench, hub)
        work = _work(bench, hub)
        memory = _memory(bench, hub)
    return {"latency": latency, "work": work, "memory": memory, "beside": _beside(bench)}


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
        "memory_mb": proportional_mb(pid),
    }


def _memory(bench: Bench, bridge: Bridge) -> dict[str, Any]:
    """Measure the memory of a process after a burst: of a new one, and of one with many mappings and more.

    Mappings and waiting changes belong to other workspaces, in which no account is connected.
    """
    plan = bench.plan
    without_mb = _restarted_mb(bridge)
    bridge.hub.stop_service("sync")
    started = monotonic()
    bridge.insert_workspaces(plan.bridge_more_mappings, plan.bridge_waiting)
    bridge.insert_links(plan.bridge_links)
    bench.say(f"bridge: mappings, links and waiting changes inserted in {monotonic() - started:.0f} s")
    with_mb = _restarted_mb(bridge)
    bench.say(f"bridge: memory of sync {without_mb:.0f} MB without, {with_mb:.0f} MB with them")
    return {
        "with_mb": with_mb,
        "without_mb": without_mb,
        "mappings": plan.bridge_more_mappings,
        "links": plan.bridge_links,
        "waiting": plan.bridge_waiting,
    }


def _restarted_mb(bridge: Bridge) -> float:
    """Start sync again; return its memory in MB after a burst, when all lanes were tried."""
    if bridge.hub.ended("sync") is None:
        bridge.hub.stop_service("sync")
    bridge.start_sync()
    _burst(bridge, _MEMORY_MESSAGES)
    sleep(_LANES_S)
    return proportional_mb(bridge.hub.pid("sync"))


def _beside(bench: Bench) -> dict[str, Any]:
    """Measure the latency of others beside a conversation with a long backlog, which its provider refuses.

    There are two hubs, and only one of them has the backlog. Their sync processes run one at a time, in turn,
    so that other load of the machine affects both equally.
    """
    plan = bench.plan
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    with (
        bridged(bench, "bridge-alone", _BESIDE_ACCOUNTS, _BESIDE_MAPPINGS) as alone,
        bridged(bench, "bridge-beside", _BESIDE_ACCOUNTS, _BESIDE_MAPPINGS) as beside,
    ):
        for hub in (alone, beside):
            hub.hub.stop_service("sync")
        beside.providers.call("refuse", mapping=0, error="ratelimited")
        started = monotonic()
        beside.insert_waiting(range(1), plan.dead_waiting, beside.hub.workspace)
        bench.say(f"bridge: {plan.dead_waiting:,} waiting changes inserted in {monotonic() - started:.0f} s")
        for number in range(plan.beside_rounds):
            for name, hub in (("alone", alone), ("beside", beside)):
                rounds[name].append(_beside_round(hub, plan.beside_s))
            bench.say(
                f"bridge, beside {plan.dead_waiting:,} waiting, round {number + 1}: "
                + "; ".join(
                    f"{name} p50 {measured[-1]['p50_ms']:.1f} ms, p99 {measured[-1]['p99_ms']:.1f} ms, "
                    f"CPU {measured[-1]['cpu_us']:.0f} us, database {measured[-1]['store_cpu_us']:.0f} us"
                    for name, measured in rounds.items()
                )
            )
        waiting = beside.count_waiting()
    if waiting < plan.dead_waiting or not all(measured["refusals"] for measured in rounds["beside"]):
        raise Failed(f"{waiting} of {plan.dead_waiting} changes wait, and the provider has refused some")
    result: dict[str, Any] = {
        name: {value: median(item[value] for item in measured) for value in measured[0]}
        for name, measured in rounds.items()
    }
    times = {value: result["beside"][value] / result["alone"][value] for value in ("p50_ms", "p99_ms")}
    ratios = [
        beside["p99_ms"] / alone["p99_ms"]
        for alone, beside in zip(rounds["alone"], rounds["beside"], strict=True)
    ]
    return {**result, "times": times, "ratios": ratios, "waiting": waiting, "rounds": rounds}


def _beside_round(bridge: Bridge, seconds: float) -> dict[str, float]:
    """Start sync, warm it up, measure it, and kill it."""
    bridge.start_sync()
    bridge.connect(gateway=False)
    _to_broker(bridge, _WARM_UP_S)
    pids = {"cpu_us": bridge.hub.pid("sync"), "store_cpu_us": bridge.hub.store_pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    seen = _to_broker(bridge, seconds)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    bridge.hub.kill("sync")
    cpu_us = {name: value / (_PER_S * seconds) * 1e6 for name, value in used.items()}
    return {name: seen[name] for name in ("p50_ms", "p99_ms", "refusals")} | cpu_us


def _to_broker(bridge: Bridge, seconds: float) -> dict[str, Any]:
    """Publish messages of all mappings but number 0 at a steady rate, and some for number 0."""
    total = int(_PER_S * seconds)
    bridge.providers.call("reset")
    bridge.providers.call(
        "to_broker",
        first=1,
        mappings=bridge.conversations.mappings - 1,
        total=total,
        rate=_PER_S,
        every=_REFUSED_EVERY,
    )
    return _arrived(bridge, total)


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
