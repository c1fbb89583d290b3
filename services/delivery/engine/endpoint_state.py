"""Lanes: what this process knows of each outgoing webhook whose partition it owns.

A partition has one owner, so the most attempts in flight, the rate, the breaker, the order of a strict
webhook and the next due time need no lock across processes. A lane that was slow is never waited for.
"""

from datetime import datetime
from typing import Any, Final

from services.delivery.engine.clock import loop_time, to_loop_time, to_wall_time
from services.delivery.model.circuit_breaker import BreakerPolicy, CircuitBreakerState
from services.delivery.model.due_cursor import DueCursor
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.rate_limiter import RateLimiter
from shared.runtime.mongo import Document, utcnow

SLOW_THRESHOLD_S: Final = 0.2
_POLL_INTERVAL_S: Final = 1.0
_MAX_MANUAL: Final = 100


class EndpointState:
    """One webhook's deliveries in this process; `next_due` is None while nothing is open in the log."""

    __slots__ = (
        "breaker",
        "defaults",
        "draining",
        "due_cursor",
        "failing_since",
        "finished_attempts",
        "held_until",
        "in_flight",
        "lifts",
        "limited_until",
        "lost",
        "manual_ids",
        "next_due",
        "next_expiry_check",
        "not_before",
        "partition",
        "rate_limiter",
        "recorded_since",
        "slow",
        "url",
        "version",
        "warned",
        "webhook_id",
        "workspace",
        "written_hold_state",
    )

    def __init__(self, webhook_id: str, partition: int, defaults: BreakerPolicy) -> None:
        self.webhook_id = webhook_id
        self.partition = partition
        self.defaults = defaults
        self.breaker = CircuitBreakerState(defaults)
        self.rate_limiter = RateLimiter()
        self.due_cursor = DueCursor()
        self.in_flight = 0
        self.finished_attempts = 0
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
        self.next_expiry_check = 0.0
        """The loop's time of the next look for deliveries that waited too long behind an open circuit."""
        self.lifts: int | None = None
        """The webhook's `lifts` that hold and circuit are of; None until the webhook is met."""
        self.manual_ids: set[str] = set()
        """Deliveries that a person asked for: they go past hold and circuit."""
        self.written_hold_state = self.hold_state
        """The `standing` that the store has."""
        self.failing_since: datetime | None = None
        """The first failure since the last success."""
        self.recorded_since: datetime | None = None
        """Since when it is failing, as the store has it."""
        self.warned = False
        self.url = ""
        self.workspace = ""

    def update_webhook(self, webhook: OutgoingWebhook) -> None:
        """Attempts go to this webhook now: what was learnt at another URL says nothing of its own.

        What a person lifted since (by enable, resume or other settings) is over.
        """
        self.breaker.policy = self.defaults.with_settings(webhook.breaker)
        if self.url and self.url != webhook.url:
            self.failing_since, self.warned = None, False
        self.url = webhook.url
        if self.lifts is not None and self.lifts != webhook.lifts:
            self.held_until = self.not_before = 0.0
            self.breaker.reset()
        self.lifts = webhook.lifts

    @property
    def hold_state(self) -> tuple[Any, ...]:
        """What of this lane makes deliveries wait; empty if nothing does.

        A probe comes and goes too quickly to be written.
        """
        closed = self.breaker.circuit == "closed"
        if closed and not self.held_until and not self.limited_until:
            return ()
        return closed, self.breaker.probe_at, self.held_until, self.limited_until, self.lifts

    def document(self) -> Document:
        """The standing with times of the clock on the wall."""
        closed = self.breaker.circuit == "closed"
        return {
            "circuit": "closed" if closed else "open",
            "pauses": self.breaker.pauses,
            "opened_at": None if closed else to_wall_time(self.breaker.opened_at),
            "next_probe_at": None if closed else to_wall_time(self.breaker.probe_at),
            "held_until": to_wall_time(self.held_until) if self.held_until else None,
            "limited_until": to_wall_time(self.limited_until) if self.limited_until else None,
            "lifts": self.lifts or 0,
        }

    def restore(self, health: Document) -> None:
        """Take over what the partition's owner before this process had written."""
        self.failing_since = self.recorded_since = health.get("since")
        self.warned = health.get("warned", False)
        self.lifts = health.get("lifts")
        if health.get("held_until"):
            self.held_until = max(0.0, to_loop_time(health["held_until"]))
        if health.get("circuit") == "open" and health.get("next_probe_at"):
            opened_at, probe_at = to_loop_time(health["opened_at"]), to_loop_time(health["next_probe_at"])
            self.breaker.restore(health["pauses"], opened_at, probe_at)
        self.written_hold_state = self.hold_state

    def request_manual(self, delivery_id: str) -> None:
        """Send this delivery past hold and circuit: a person asks for it, and its result decides."""
        if len(self.manual_ids) < _MAX_MANUAL:
            self.manual_ids.add(delivery_id)
        self.not_before = 0.0

    def available_permits(self, webhook: OutgoingWebhook) -> int:
        """How many more attempts may start now; a strict webhook has one at a time."""
        now = loop_time()
        if now < self.held_until:
            return 0
        return int(min(self.permits_by_limits(webhook), self.breaker.available_permits(now)))

    def permits_by_limits(self, webhook: OutgoingWebhook) -> int:
        """How many more attempts may start now by what the webhook's owner set, whatever was answered."""
        max_in_flight = 1 if webhook.strict else webhook.max_in_flight
        permits = min(
            max_in_flight - self.in_flight,
            self.rate_limiter.available_permits(webhook.rate_limit, loop_time()),
        )
        return max(0, int(permits))

    def wait_s_behind_circuit(self, webhook: OutgoingWebhook) -> float | None:
        """How long a delivery may wait behind the circuit: None while it has not been open for that long.

        Nor while the endpoint asked for quiet: that is bounded by itself, and was told as the next attempt.
        """
        now, policy = loop_time(), webhook.policy
        if now < self.held_until:
            return None
        wait_s = self.breaker.policy.max_wait_s + sum(policy.schedule) * (1 + policy.jitter)
        if (
            self.breaker.circuit == "closed"
            or now < self.next_expiry_check
            or now - self.breaker.opened_at < wait_s
        ):
            return None
        return wait_s

    def postpone_expiry(self, seconds: float) -> None:
        """Do not look for so long for what has waited too long."""
        self.next_expiry_check = loop_time() + seconds

    def acquire(self, webhook: OutgoingWebhook, count: int) -> None:
        """These many attempts start now, of those that are free."""
        now = loop_time()
        self.in_flight += count
        self.rate_limiter.acquire(webhook.rate_limit, count, now)
        self.breaker.acquire(now)

    def finish(self) -> None:
        """One that was taken has ended; the breaker must not wait for a probe that told it nothing."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.breaker.release()

    def release(self, count: int) -> None:
        """These many of those taken were not needed."""
        if count:
            self.in_flight -= count
            self.rate_limiter.release(count)
            self.breaker.release()

    def pause_until_permitted(self, webhook: OutgoingWebhook) -> None:
        """Nothing may start now: look again when something may, or the webhook may have been changed."""
        now = loop_time()
        at = max(now, self.held_until)
        if self.breaker.available_permits(now) == 0:
            at = max(at, self.breaker.next_permit_at(now))
        if self.rate_limiter.available_permits(webhook.rate_limit, now) == 0:
            self.limited_until = self.rate_limiter.next_permit_at(webhook.rate_limit)
            at = max(at, self.limited_until)
        self.not_before = min(at, now + _POLL_INTERVAL_S)

    def pause(self, seconds: float) -> None:
        """Do not look at the log for so long."""
        self.not_before = loop_time() + seconds

    def hold(self, seconds: float) -> None:
        """The endpoint asked for quiet: start nothing for so long."""
        self.held_until = max(self.held_until, loop_time() + seconds)

    def record_result(self, *, succeeded: bool) -> bool:
        """The endpoint's last answer, for the breaker; whether the circuit opened or closed with it."""
        return self.breaker.record_result(succeeded=succeeded, now=loop_time())

    def note_due(self, at: datetime) -> None:
        """Something in the log is open and due at this time."""
        self.version += 1
        self.due_cursor.note_due(at)
        if self.next_due is None or at < self.next_due:
            self.next_due = at

    def note_external_change(self) -> None:
        """Another process made something in the log due."""
        now = utcnow()
        self.note_due(now)
        self.due_cursor.note_external_change(now)
