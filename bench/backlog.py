"""Cost of due deliveries as the backlog grows: claiming them, and delivering them."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final

from bench.remote import Failed
from bench.stages import Bench
from bench.system import System
from bench.waiting import database_at, fill
from services.delivery.log.deliveries import DELIVERIES
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.model.due_cursor import DueCursor
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Mongo, translate_errors

_WEBHOOKS: Final = 10
_CLAIM_SIZE: Final = 50
"""The batch size of `services/delivery/engine/scheduler.py`."""
_CALLS: Final = 20
_ROUNDS: Final = 3
_DRAINS: Final = 2
_MAX_DRAINED: Final = 2_000
_SHARE: Final = 0.9
_LEASE_S: Final = 600.0
_AGO: Final = timedelta(seconds=1)


def backlog(bench: Bench) -> dict[str, Any]:
    """Return for each size: ms per claim of 50, claims per second, deliveries per second at the sink.

    The deliveries are inserted into the log by delivery's own code. They are due, and spread over ten
    webhooks.
    """
    with bench.hub("backlog", "delivery") as hub:
        webhooks = [_subscribe(hub, bench.sink_port, number) for number in range(_WEBHOOKS)]
        hub.stop_service("delivery")
        log = _Backlog(bench, hub, webhooks)
        sizes = [log.measure(size) for size in bench.plan.backlogs]
    return {"sizes": sizes, **_worst(sizes)}


class _Backlog:
    """A delivery log that is filled, claimed from and drained."""

    def __init__(self, bench: Bench, hub: System, webhooks: Sequence[str]) -> None:
        self._bench = bench
        self._hub = hub
        self._webhooks = webhooks
        self._inserted = 0
        self._waiting = 0

    def measure(self, size: int) -> dict[str, float]:
        """Measure with `size` due deliveries."""
        seconds = self._fill_up(size)
        claims = asyncio.run(_claims(self._hub.store_uri, self._webhooks))
        rates: list[float] = []
        for _ in range(_DRAINS):
            self._fill_up(size)
            rates.append(self._drain(size))
        result = {
            "due": size,
            "filled_s": seconds,
            "claim_p50_ms": median(claims) * 1000,
            "claim_p99_ms": sorted(claims)[int(len(claims) * 0.99)] * 1000,
            "claims_per_s": len(claims) / sum(claims),
            "drained_per_s": median(rates),
        }
        self._bench.say(
            f"backlog: {size:,} due (filled in {seconds:.0f} s): a claim of {_CLAIM_SIZE} takes "
            f"{result['claim_p50_ms']:.1f} ms, p99 {result['claim_p99_ms']:.1f} ms, "
            f"{result['claims_per_s']:.0f}/s; {result['drained_per_s']:,.0f} deliveries/s"
        )
        return result

    def _fill_up(self, size: int) -> float:
        missing = size - self._waiting
        hub = self._hub
        seconds = fill(hub.store_uri, hub.workspace, self._webhooks, missing, self._inserted)
        self._inserted += missing
        self._waiting = size
        return seconds

    def _drain(self, size: int) -> float:
        """Return deliveries per second, from the first to the last of up to 2,000."""
        total = min(int(size * _SHARE), _MAX_DRAINED)
        sink, hub = self._bench.sink, self._hub
        sink.call("reset", upto=total)
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        self._bench.arrived(total)
        hub.stop_service("delivery")
        seen = sink.call("seen")
        self._waiting -= seen["count"]
        return float(total / (seen["upto_at"] - seen["first"]))


def _subscribe(hub: System, port: int, number: int) -> str:
    """Create a webhook with default settings; return its id."""
    url = f"http://127.0.0.1:{port}/hooks/{number}"
    return str(hub.outgoing_webhook(url, events=["message.created"])["id"])


async def _claims(uri: str, webhooks: Sequence[str]) -> list[float]:
    """Return the seconds of each claim, over the webhooks in turn.

    After each round, its claimed deliveries become due again.
    """
    seconds: list[float] = []
    cursors = {webhook: DueCursor() for webhook in webhooks}
    async with database_at(uri) as mongo:
        deliveries = DueDeliveries(mongo, holder={"holder": "bench", "holder_run": "bench"})
        claimed: list[str] = []
        for webhook, cursor in cursors.items():  # as after a start
            first = await deliveries.claim(webhook, cursor, limit=1, timeout_s=_LEASE_S)
            claimed += [item.request.delivery_id for item in first]
        for _ in range(_ROUNDS):
            await _make_due(mongo, cursors.values(), claimed)
            claimed = []
            for number in range(_CALLS):
                webhook = webhooks[number % len(webhooks)]
                started = perf_counter()
                batch = await deliveries.claim(
                    webhook, cursors[webhook], limit=_CLAIM_SIZE, timeout_s=_LEASE_S
                )
                seconds.append(perf_counter() - started)
                if len(batch) != _CLAIM_SIZE:
                    raise Failed(f"{len(batch)} claimed, not {_CLAIM_SIZE}")
                claimed += [item.request.delivery_id for item in batch]
        await _make_due(mongo, cursors.values(), claimed)
    return seconds


async def _make_due(mongo: Mongo, cursors: Iterable[DueCursor], claimed: Sequence[str]) -> None:
    """Make claimed deliveries due again."""
    due_at = utcnow() - _AGO
    for cursor in cursors:
        cursor.note_due(due_at)
    with translate_errors():
        await mongo.collection(DELIVERIES).update_many(
            {"_id": {"$in": claimed}}, {"$set": {"status": "pending", "due_at": due_at}}
        )


def _worst(sizes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return how many times slower the slowest size is than the smallest, for claims and for draining."""
    first = sizes[0]
    return {
        "claim_times": max(item["claim_p50_ms"] for item in sizes) / first["claim_p50_ms"],
        "drain_times": first["drained_per_s"] / min(item["drained_per_s"] for item in sizes),
    }
