"""Latency of a workspace while another workspace makes fan-out expensive, as a ratio to the latency alone.

There are two attacks: one batch of 500 events of 9 KB for 20 webhooks, and a stream of events for 40 webhooks
whose condition uses nearly its whole budget. The neighbour's events are sent at a moderate rate, after the
first events of the attacker were handled. Rounds without and with an attack alternate on one hub. Each pair
of rounds gives a ratio of the p99. The result is the median of the ratios, with their range beside it.

With the embedded broker, each round is slower than the one before, with and without an attack: it goes
through all batches of a partition to find new records (`bench.broker_fetches`). On Apache Kafka it is not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_urlsafe
from statistics import median
from threading import Thread
from time import monotonic, sleep
from typing import Any, Final

import httpx

from bench.remote import Failed, Remote
from bench.stages import Bench
from bench.system import System
from bench.webhook import body

_PER_S: Final = 50.0
_WARM_UP_S: Final = 2.0
_SETTLE_S: Final = 1.0
_HANDLED_TIMEOUT_S: Final = 30.0
_QUIET_TIMEOUT_S: Final = 90.0
_NEIGHBOUR: Final = "push"
_ATTACKER: Final = "issues"
_AGES: Final = ("p50_ms", "p99_ms")


@dataclass(frozen=True)
class _Attack:
    """An attacker's webhooks and events."""

    name: str
    webhooks: int
    payload: dict[str, Any]
    events: int
    rate: float = 0.0
    condition: str | None = None


_ATTACKS: Final = (
    _Attack("batch", 20, {"text": "x" * 9_000}, events=500),
    _Attack(
        "conditions",
        40,
        {"rows": [{"a": 1}] * 950},
        events=160,
        rate=20.0,
        condition="length(data.payload.rows[?a == `1`]) == `0`",
    ),
)


def fairness(bench: Bench) -> dict[str, Any]:
    """Return the neighbour's p50 and p99 in ms, alone and beside each attack."""
    results: dict[str, Any] = {}
    sink, feed = bench.helper("bench.sink"), bench.helper("bench.feed")
    for attack in _ATTACKS:
        with bench.hub(f"fairness-{attack.name}", "delivery") as hub:
            hub.outgoing_webhook(f"http://127.0.0.1:{bench.sink_port}/hooks", events=[f"github.{_NEIGHBOUR}"])
            key = token_urlsafe(24)
            hub.init("attacker", key)
            _feed(bench, hub, _WARM_UP_S)
            results[attack.name] = _rounds(bench, hub, _Attacker(hub, key, sink, feed), attack)
    return results


def _rounds(bench: Bench, hub: System, attacker: "_Attacker", attack: _Attack) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    for number in range(bench.plan.fair_rounds):
        rounds["alone"].append(_feed(bench, hub, bench.plan.fair_s))
        with attacker.attacks(attack):
            rounds["beside"].append(_feed(bench, hub, bench.plan.fair_s))
            arrived = attacker.arrived()
        bench.say(
            f"fairness, {attack.name}, round {number + 1}: "
            + ", ".join(
                f"{name} p50 {measured[-1]['p50_ms']:.1f} ms, p99 {measured[-1]['p99_ms']:.1f} ms"
                for name, measured in rounds.items()
            )
            + f"; {arrived} deliveries of the attacker meanwhile"
        )
    result: dict[str, Any] = {
        name: {age: median(item[age] for item in measured) for age in _AGES}
        for name, measured in rounds.items()
    }
    ratios = {
        age: [
            beside[age] / alone[age] for alone, beside in zip(rounds["alone"], rounds["beside"], strict=True)
        ]
        for age in _AGES
    }
    times = {age: median(values) for age, values in ratios.items()}
    return {**result, "times": times, "ratios": ratios, "rounds": rounds}


def _feed(bench: Bench, hub: System, seconds: float) -> dict[str, float]:
    """Send the neighbour's events; return the percentiles of their age on arrival, in ms."""
    total = int(_PER_S * seconds)
    bench.sink.call("reset")
    bench.feed.call(
        "feed",
        bootstrap=hub.bootstrap,
        workspace=hub.workspace,
        body=body().decode(),
        total=total,
        kinds=[_NEIGHBOUR],
        rate=_PER_S,
    )
    bench.arrived(total)
    seen = bench.sink.call("seen")
    if seen["count"] != total:
        raise Failed(f"{seen['count']} deliveries of {total} events")
    return {name: seen[name] for name in _AGES}


class _Attacker:
    """A workspace of the same hub, with a sink and a feed of its own."""

    def __init__(self, hub: System, key: str, sink: Remote, feed: Remote) -> None:
        self._hub = hub
        self._sink = sink
        self._feed = feed
        self._port = sink.call("listen")["port"]
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=hub.url("delivery"), headers=headers, timeout=30)

    @contextmanager
    def attacks(self, attack: _Attack) -> Iterator[None]:
        """Run an attack while the block runs. The block starts when the first events were handled."""
        webhooks = [self._webhook(number, attack.condition) for number in range(attack.webhooks)]
        sleep(_SETTLE_S)  # until every process has read them
        self._sink.call("reset")
        feeding = Thread(target=self._publish, args=(attack,))
        try:
            feeding.start()
            self._wait_handled(attack)
            yield
            feeding.join()
        finally:
            for webhook in webhooks:
                self._client.delete(f"/api/outgoing-webhooks/{webhook}").raise_for_status()
            self._wait_quiet()

    def arrived(self) -> int:
        """Return the number of the attacker's deliveries."""
        return int(self._sink.call("count")["count"])

    def _webhook(self, number: int, condition: str | None) -> str:
        webhook: dict[str, Any] = {
            "name": "attacker",
            "url": f"http://127.0.0.1:{self._port}/{number}",
            "events": [f"github.{_ATTACKER}"],
        }
        if condition:
            webhook["filter"] = {"condition": condition}
        response = self._client.post("/api/outgoing-webhooks?force=true", json=webhook)
        if response.status_code != 201:
            raise Failed(f"webhook {number} was not created: {response.status_code} {response.text}")
        return str(response.json()["id"])

    def _publish(self, attack: _Attack) -> None:
        self._feed.call(
            "feed",
            bootstrap=self._hub.bootstrap,
            workspace="attacker",
            body=json.dumps(attack.payload),
            total=attack.events,
            kinds=[_ATTACKER],
            rate=attack.rate,
        )

    def _wait_handled(self, attack: _Attack) -> None:
        deadline = monotonic() + _HANDLED_TIMEOUT_S
        handled = self._handled()
        while (self.arrived() == 0) if attack.condition is None else (self._handled() == handled):
            if monotonic() > deadline:
                raise Failed(f"no event of the attack was handled after {_HANDLED_TIMEOUT_S:.0f} s")
            sleep(0.05)

    def _wait_quiet(self) -> None:
        """Wait until the deferred events are processed. That is quick, because their webhooks are deleted."""
        deadline = monotonic() + _QUIET_TIMEOUT_S
        before = -1.0
        while before != (before := self._hub.metric("delivery", "interlink_unmatched_events_total")):
            if monotonic() > deadline:
                raise Failed(f"the attack was not over after {_QUIET_TIMEOUT_S:.0f} s")
            sleep(_SETTLE_S)

    def _handled(self) -> float:
        return self._hub.metric("delivery", "interlink_handled_total", topic="webhooks.received")
