"""What due work costs as more and more of it waits: claiming it, and working it off."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final

from bench.remote import Failed
from bench.stages import Bench
from bench.system import System
from bench.waiting import fill, log_at
from services.delivery.log.deliveries import Deliveries
from services.delivery.model.due_cursor import DueCursor
from shared.runtime.mongo import translate_errors, utcnow

_WEBHOOKS: Final = 10
_CLAIMED: Final = 50
"""As many as `services/delivery/engine/scheduler.py` takes at once."""
_CALLS: Final = 20
_ROUNDS: Final = 3
_DRAINS: Final = 2
_DRAINED: Final = 2_000
_SHARE: Final = 0.9
_LEASE_S: Final = 600.0
_AGO: Final = timedelta(seconds=1)


def backlog(bench: Bench) -> dict[str, Any]:
    """For each size: ms of a claim of 50, calls a second, deliveries a second that reach the sink.

    The deliveries are put straight into the log, by delivery's own code; they are due, over ten webhooks.
    """
    with bench.hub("backlog", "delivery") as hub:
        webhooks = [_subscribe(hub, bench.sink_port, number) for number in range(_WEBHOOKS)]
        hub.stop_service("delivery")
        work = _Work(bench, hub, webhooks)
        sizes = [work.at(size) for size in bench.plan.backlogs]
    return {"sizes": sizes, **_worst(sizes)}


class _Work:
    """A log that is filled up, claimed from and worked off."""

    def __init__(self, bench: Bench, hub: System, webhooks: Sequence[str]) -> None:
        self._bench = bench
        self._hub = hub
        self._webhooks = webhooks
        self._entered = 0
        self._waiting = 0

    def at(self, size: int) -> dict[str, float]:
        """Measure with this many waiting."""
        seconds = self._fill_up(size)
        claims = asyncio.run(_claims(self._hub.store_uri, self._webhooks))
        rates: list[float] = []
        for _ in range(_DRAINS):
            self._fill_up(size)
            rates.append(self._drain(size))
        found = {
            "due": size,
            "filled_s": seconds,
            "claim_p50_ms": median(claims) * 1000,
            "claim_p99_ms": sorted(claims)[int(len(claims) * 0.99)] * 1000,
            "claims_per_s": len(claims) / sum(claims),
            "drained_per_s": median(rates),
        }
        self._bench.say(
            f"backlog: {size:,} due (filled in {seconds:.0f} s): a claim of {_CLAIMED} takes "
            f"{found['claim_p50_ms']:.1f} ms, p99 {found['claim_p99_ms']:.1f} ms, "
            f"{found['claims_per_s']:.0f}/s; {found['drained_per_s']:,.0f} deliveries/s"
        )
        return found

    def _fill_up(self, size: int) -> float:
        missing = size - self._waiting
        hub = self._hub
        seconds = fill(hub.store_uri, hub.workspace, self._webhooks, missing, self._entered)
        self._entered += missing
        self._waiting = size
        return seconds

    def _drain(self, size: int) -> float:
        """Deliveries a second, from the first to the last of some thousand."""
        aim = min(int(size * _SHARE), _DRAINED)
        sink, hub = self._bench.sink, self._hub
        sink.call("reset", upto=aim)
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        self._bench.arrived(aim)
        hub.stop_service("delivery")
        seen = sink.call("seen")
        self._waiting -= seen["count"]
        return float(aim / (seen["upto_at"] - seen["first"]))


def _subscribe(hub: System, port: int, number: int) -> str:
    """A webhook with every default; its id."""
    url = f"http://127.0.0.1:{port}/hooks/{number}"
    return str(hub.outgoing_webhook(url, events=["message.created"])["id"])


async def _claims(uri: str, webhooks: Sequence[str]) -> list[float]:
    """Seconds of each claim, over the webhooks in turn; after each round what it claimed is due again."""
    seconds: list[float] = []
    reaches = {webhook: DueCursor() for webhook in webhooks}
    async with log_at(uri) as deliveries:
        claimed: list[str] = []
        for webhook, reach in reaches.items():  # as after a start
            first = await deliveries.claim(webhook, reach, limit=1, timeout_s=_LEASE_S)
            claimed += [one.request.delivery_id for one in first]
        for _ in range(_ROUNDS):
            await _make_due(deliveries, reaches.values(), claimed)
            claimed = []
            for number in range(_CALLS):
                webhook = webhooks[number % len(webhooks)]
                began = perf_counter()
                some = await deliveries.claim(webhook, reaches[webhook], limit=_CLAIMED, timeout_s=_LEASE_S)
                seconds.append(perf_counter() - began)
                if len(some) != _CLAIMED:
                    raise Failed(f"{len(some)} claimed, not {_CLAIMED}")
                claimed += [one.request.delivery_id for one in some]
        await _make_due(deliveries, reaches.values(), claimed)
    return seconds


async def _make_due(deliveries: Deliveries, reaches: Iterable[DueCursor], claimed: Sequence[str]) -> None:
    """What was claimed waits again."""
    due_at = utcnow() - _AGO
    for reach in reaches:
        reach.note_due(due_at)
    with translate_errors():
        await deliveries.collection.update_many(
            {"_id": {"$in": claimed}}, {"$set": {"status": "pending", "due_at": due_at}}
        )


def _worst(sizes: Sequence[dict[str, float]]) -> dict[str, float]:
    """How much slower the slowest size is than the smallest: claims, and working off."""
    first = sizes[0]
    return {
        "claim_times": max(each["claim_p50_ms"] for each in sizes) / first["claim_p50_ms"],
        "drain_times": first["drained_per_s"] / min(each["drained_per_s"] for each in sizes),
    }
