"""Lanes: what this process knows of each outgoing webhook whose partition it owns.

A partition has one owner, so the most attempts in flight, the rate, the breaker, the order of a strict
webhook and the next due time need no lock across processes. A lane that was slow is never waited for.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from services.delivery.engine.subscriptions import OutgoingWebhook
from services.delivery.log.deliveries import Deliveries
from services.delivery.model.due_cursor import DueCursor
from services.delivery.model.flow_control import BreakerPolicy, CircuitBreakerState, RateLimiter
from services.delivery.settings import DeliverySettings
from shared.runtime.mongo import Document, utcnow

SLOW_THRESHOLD_S: Final = 0.2
_POLL_INTERVAL_S: Final = 1.0
_MAX_MANUAL: Final = 100
_RESERVED_DIVISOR: Final = 10
"""One slot in so many is for workspaces with nothing under way."""


class EndpointState:
    """One webhook's deliveries in this process; `next_due` is None while nothing is open in the log."""

    __slots__ = (
        "breaker",
        "defaults",
        "draining",
        "due_cursor",
        "expire_at",
        "failing_since",
        "finished",
        "held_until",
        "in_flight",
        "lifts",
        "limited_until",
        "lost",
        "manual",
        "next_due",
        "not_before",
        "partition",
        "published",
        "rate_limiter",
        "recorded",
        "slow",
        "url",
        "version",
        "warned",
        "webhook_id",
        "workspace",
    )

    def __init__(self, webhook_id: str, partition: int, defaults: BreakerPolicy) -> None:
        self.webhook_id = webhook_id
        self.partition = partition
        self.defaults = defaults
        self.breaker = CircuitBreakerState(defaults)
        self.rate_limiter = RateLimiter()
        self.due_cursor = DueCursor()
        self.in_flight = 0
        self.finished = 0
        """First attempts that ended here."""
        self.slow = False
        self.draining = False
        self.lost = False
        self.version = 0
        self.next_due: datetime | None = None
        self.not_before = 0.0
        """The loop's time before which a look at the log is of no use."""
        self.held_until = 0.0
        """The loop's time until which the endpoint asked for quiet."""
        self.limited_until = 0.0
        """The loop's time until which the rate limit let nothing through when it was last asked."""
        self.expire_at = 0.0
        """The loop's time of the next look for deliveries that waited too long behind an open circuit."""
        self.lifts: int | None = None
        """The webhook's `lifts` that hold and circuit are of; None until the webhook is met."""
        self.manual: set[str] = set()
        """Deliveries that a person asked for: they go past hold and circuit."""
        self.published = self.standing
        """The `standing` that the store has."""
        self.failing_since: datetime | None = None
        """The first failure since the last success."""
        self.recorded: datetime | None = None
        """Since when it is failing, as the store has it."""
        self.warned = False
        self.url = ""
        self.workspace = ""

    def update_webhook(self, webhook: OutgoingWebhook) -> None:
        """Attempts go to this webhook now: what was learnt at another URL says nothing of its own.

        What a person lifted since (by enable, resume or other settings) is over.
        """
        self.breaker.policy = self.defaults.changed(webhook.breaker)
        if self.url and self.url != webhook.url:
            self.failing_since, self.warned = None, False
        self.url = webhook.url
        if self.lifts is not None and self.lifts != webhook.lifts:
            self.held_until = self.not_before = 0.0
            self.breaker.reset()
        self.lifts = webhook.lifts

    @property
    def standing(self) -> tuple[Any, ...]:
        """What of this lane makes deliveries wait; empty if nothing does.

        A probe comes and goes too quickly to be written.
        """
        closed = self.breaker.circuit == "closed"
        if closed and not self.held_until and not self.limited_until:
            return ()
        return closed, self.breaker.until, self.held_until, self.limited_until, self.lifts

    def document(self) -> Document:
        """The standing with times of the clock on the wall."""
        closed = self.breaker.circuit == "closed"
        return {
            "circuit": "closed" if closed else "open",
            "pauses": self.breaker.pauses,
            "opened_at": None if closed else _to_wall_time(self.breaker.opened_at),
            "next_probe_at": None if closed else _to_wall_time(self.breaker.until),
            "held_until": _to_wall_time(self.held_until) if self.held_until else None,
            "limited_until": _to_wall_time(self.limited_until) if self.limited_until else None,
            "lifts": self.lifts or 0,
        }

    def restore(self, health: Document) -> None:
        """Take over what the partition's owner before this process had written."""
        self.failing_since = self.recorded = health.get("since")
        self.warned = health.get("warned", False)
        self.lifts = health.get("lifts")
        if health.get("held_until"):
            self.held_until = max(0.0, _to_loop_time(health["held_until"]))
        if health.get("circuit") == "open" and health.get("next_probe_at"):
            opened_at, until = _to_loop_time(health["opened_at"]), _to_loop_time(health["next_probe_at"])
            self.breaker.restore(health["pauses"], opened_at, until)
        self.published = self.standing

    def request_manual(self, delivery_id: str) -> None:
        """Send this delivery past hold and circuit: a person asks for it, and its result decides."""
        if len(self.manual) < _MAX_MANUAL:
            self.manual.add(delivery_id)
        self.not_before = 0.0

    def free(self, webhook: OutgoingWebhook) -> int:
        """How many more attempts may start now; a strict webhook has one at a time."""
        now = _loop_time()
        if now < self.held_until:
            return 0
        return int(min(self.free_by_limits(webhook), self.breaker.room(now)))

    def free_by_limits(self, webhook: OutgoingWebhook) -> int:
        """How many more attempts may start now by what the webhook's owner set, whatever was answered."""
        most = 1 if webhook.strict else webhook.max_in_flight
        room = min(most - self.in_flight, self.rate_limiter.room(webhook.rate_limit, _loop_time()))
        return max(0, int(room))

    def wait_s_behind_circuit(self, webhook: OutgoingWebhook) -> float | None:
        """How long a delivery may wait behind the circuit: None while it has not been open for that long.

        Nor while the endpoint asked for quiet: that is bounded by itself, and was told as the next attempt.
        """
        now, policy = _loop_time(), webhook.policy
        if now < self.held_until:
            return None
        wait_s = self.breaker.policy.max_wait_s + sum(policy.schedule) * (1 + policy.jitter)
        if self.breaker.circuit == "closed" or now < self.expire_at or now - self.breaker.opened_at < wait_s:
            return None
        return wait_s

    def postpone_expiry(self, seconds: float) -> None:
        """Do not look for so long for what has waited too long."""
        self.expire_at = _loop_time() + seconds

    def take(self, webhook: OutgoingWebhook, count: int) -> None:
        """These many attempts start now, of those that are free."""
        now = _loop_time()
        self.in_flight += count
        self.rate_limiter.take(webhook.rate_limit, count, now)
        self.breaker.permit_used(now)

    def ended(self) -> None:
        """One that was taken has ended; the breaker must not wait for a probe that told it nothing."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.breaker.unused()

    def unused(self, count: int) -> None:
        """These many of those taken were not needed."""
        if count:
            self.in_flight -= count
            self.rate_limiter.unused(count)
            self.breaker.unused()

    def rest(self, webhook: OutgoingWebhook) -> None:
        """Nothing may start now: look again when something may, or the webhook may have been changed."""
        now = _loop_time()
        at = max(now, self.held_until)
        if self.breaker.room(now) == 0:
            at = max(at, self.breaker.next_permit_at(now))
        if self.rate_limiter.room(webhook.rate_limit, now) == 0:
            self.limited_until = self.rate_limiter.next_permit_at(webhook.rate_limit)
            at = max(at, self.limited_until)
        self.not_before = min(at, now + _POLL_INTERVAL_S)

    def sleep(self, seconds: float) -> None:
        """Do not look at the log for so long."""
        self.not_before = _loop_time() + seconds

    def hold(self, seconds: float) -> None:
        """The endpoint asked for quiet: start nothing for so long."""
        self.held_until = max(self.held_until, _loop_time() + seconds)

    def answered(self, *, well: bool) -> bool:
        """The endpoint's last answer, for the breaker; whether the circuit opened or closed with it."""
        return self.breaker.answered(well=well, now=_loop_time())

    def due(self, at: datetime) -> None:
        """Something in the log is open and due at this time."""
        self.version += 1
        self.due_cursor.written(at)
        if self.next_due is None or at < self.next_due:
            self.next_due = at

    def changed(self) -> None:
        """Another process made something in the log due."""
        now = utcnow()
        self.due(now)
        self.due_cursor.changed(now)


class EndpointStates:
    """The lanes of the partitions that this process owns, and the room that they share."""

    def __init__(self, deliveries: Deliveries, settings: DeliverySettings) -> None:
        self._deliveries = deliveries
        self._settings = settings
        self._owned: set[int] = set()
        self._assignment = -1
        self._lanes: dict[str, EndpointState] = {}
        self._in_flight = 0
        self._of_workspace: Counter[str] = Counter()

    def room(self, workspace: str) -> int:
        """How many more attempts of a workspace this process may start.

        A workspace has no more under way than are free for others then: one alone gets half of all, two get
        a third each. The last tenth is for workspaces with nothing under way, one attempt each: halves of
        halves would leave none for the eleventh that comes while the attempts of ten hang.
        """
        free = max(0, self._settings.most_in_flight - self._in_flight)
        own = self._of_workspace[workspace]
        reserved = self._settings.most_in_flight // _RESERVED_DIVISOR
        first = 1 if own == 0 and free else 0
        return max(first, min((free - own + 1) // 2, free - reserved))

    def take(self, lane: EndpointState, webhook: OutgoingWebhook, count: int = 1) -> None:
        """These many attempts of a lane start now."""
        lane.workspace = webhook.workspace
        self._in_flight += count
        self._of_workspace[webhook.workspace] += count
        lane.take(webhook, count)

    def unused(self, lane: EndpointState, count: int) -> None:
        """These many of them were not needed."""
        self._give_back(lane, count)
        lane.unused(count)

    def ended(self, lane: EndpointState) -> None:
        """One of them has ended, however it did."""
        self._give_back(lane, 1)
        lane.ended()

    def _give_back(self, lane: EndpointState, count: int) -> None:
        self._in_flight -= count
        self._of_workspace[lane.workspace] -= count
        if self._of_workspace[lane.workspace] <= 0:
            del self._of_workspace[lane.workspace]

    def lane(self, webhook_id: str, partition: int) -> EndpointState:
        lane = self._lanes.get(webhook_id)
        if lane is None:
            lane = self._lanes[webhook_id] = EndpointState(webhook_id, partition, self._settings.breaker)
        return lane

    async def own(self, assignment: int, partitions: Iterable[int]) -> None:
        """Follow the assignment: forget lanes that went away, load what is open of those that came.

        With a new number of the assignment, all may have come: whoever owned a partition in between may have
        left something open, also if this process has the partition again by the time that it looks.
        """
        wanted = set(partitions)
        gone, came = self._owned - wanted, wanted - self._owned
        if gone:
            for lane in [lane for lane in self._lanes.values() if lane.partition in gone]:
                lane.lost = True
                del self._lanes[lane.webhook_id]
            self._owned -= gone
        looked_at = wanted if assignment != self._assignment else came
        if looked_at:
            known = await self._deliveries.endpoint_states(came) if came else []
            backlogs = await self._deliveries.backlogs(looked_at)
            await self._deliveries.release(backlogs)
            for health in known:
                self.lane(health["_id"], health["partition"]).restore(health)
            for webhook_id, partition in backlogs.items():
                self.lane(webhook_id, partition).due(utcnow())
            self._owned |= came
        self._assignment = assignment

    def due(self, now: datetime) -> list[EndpointState]:
        """Lanes with something due that nobody is draining, the longest due first."""
        clock = _loop_time()
        due = [
            lane
            for lane in self._lanes.values()
            if lane.next_due is not None
            and lane.next_due <= now
            and lane.not_before <= clock
            and not lane.draining
        ]
        return sorted(due, key=lambda lane: lane.next_due or now)

    def next_look(self, most: float) -> float:
        """Seconds until a lane that rests may go on, at most so many."""
        clock = _loop_time()
        waits = (
            lane.not_before - clock
            for lane in self._lanes.values()
            if lane.not_before > clock and lane.next_due is not None
        )
        return min(most, min(waits, default=most))


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _to_wall_time(at: float) -> datetime:
    """The time on the wall of a time of the loop."""
    return utcnow() + timedelta(seconds=at - _loop_time())


def _to_loop_time(at: datetime) -> float:
    """The loop's time of a time on the wall."""
    return _loop_time() + (at - utcnow()).total_seconds()
