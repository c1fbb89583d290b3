"""Endpoint state: what this process knows of an outgoing webhook whose partition it owns.

A partition has one owner. So permits, rate limit, circuit breaker, strict order and the next due time need no
lock across processes.
"""

from datetime import datetime
from typing import Any, Final

from services.delivery.engine.clock import loop_time, to_loop_time, to_wall_time
from services.delivery.log.endpoint_health import EndpointHealthRecord, StoredHoldState
from services.delivery.model.circuit_breaker import BreakerPolicy, CircuitBreakerState
from services.delivery.model.due_cursor import DueCursor
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.rate_limiter import RateLimiter
from shared.runtime.clock import utcnow

_POLL_INTERVAL_S: Final = 1.0
_MAX_MANUAL: Final = 100
"""Manual requests of one webhook that are remembered; further ones wait like other deliveries."""


class EndpointState:
    """The deliveries of one webhook in this process.

    Times of type float are seconds of the event loop's clock.
    """

    __slots__ = (
        "breaker",
        "defaults",
        "draining",
        "due_cursor",
        "failing_since",
        "held_until",
        "in_flight",
        "is_limited",
        "limited_until",
        "lost",
        "manual_ids",
        "next_due",
        "next_expiry_check",
        "next_stopped_check",
        "not_before",
        "partition",
        "rate_limiter",
        "recorded_since",
        "resets",
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
        self.slow = False
        """True if first attempts take long. Then their requests are handed over to the log without a wait."""
        self.draining = False
        """True if a task of the scheduler works on the due deliveries."""
        self.lost = False
        """Set when another process took the partition over."""
        self.version = 0
        """Rises with every delivery that becomes due, so that a search notices concurrent changes."""
        self.next_due: datetime | None = None
        """Time at which the next open delivery of the log is due; None if none is open."""
        self.is_limited = False
        """True if the endpoint decides when its due deliveries are attempted: its limits, hold or circuit, or
        a person who stopped the webhook. False if they wait for the hub."""
        self.not_before = 0.0
        """Searching the log before this time is useless."""
        self.held_until = 0.0
        """The end of the hold that the endpoint asked for."""
        self.limited_until = 0.0
        """Until when the rate limit gave no permit at the last request for one."""
        self.next_expiry_check = 0.0
        """The next check for deliveries that waited too long behind an open circuit."""
        self.next_stopped_check = 0.0
        """The next check for those that waited too long for a person who stopped the webhook."""
        self.resets: int | None = None
        """The webhook's `resets` that hold and circuit belong to; None before the webhook is read."""
        self.manual_ids: set[str] = set()
        """Deliveries that a person asked for: they go past hold and open circuit."""
        self.written_hold_state = self.hold_state
        """The `hold_state` that is in MongoDB."""
        self.failing_since: datetime | None = None
        """The first failure since the last success."""
        self.recorded_since: datetime | None = None
        """The `failing_since` that is in MongoDB."""
        self.warned = False
        """True if the warning before disabling the webhook was published."""
        self.url = ""
        self.workspace = ""

    def update_webhook(self, webhook: OutgoingWebhook) -> None:
        """Use this version of the webhook from now on.

        Failures at another URL do not count. A higher `resets` ends hold and open circuit.
        """
        self.breaker.policy = self.defaults.with_settings(webhook.breaker)
        # Another URL is another endpoint.
        if self.url and self.url != webhook.url:
            self.failing_since, self.warned = None, False
        self.url = webhook.url
        # A person enabled or resumed the webhook, or changed it: try again at once.
        if self.resets is not None and self.resets != webhook.resets:
            self.held_until = self.not_before = 0.0
            self.breaker.reset()
        self.resets = webhook.resets

    @property
    def hold_state(self) -> tuple[Any, ...]:
        """Reasons for which deliveries of this endpoint wait; empty if there are none.

        A half-open circuit counts as open: a probe is too short to be written.
        """
        closed = self.breaker.circuit == "closed"
        if closed and not self.held_until and not self.limited_until:
            return ()
        return closed, self.breaker.probe_at, self.held_until, self.limited_until, self.resets

    def stored_hold_state(self) -> StoredHoldState:
        """Return the hold state for MongoDB, with wall times."""
        closed = self.breaker.circuit == "closed"
        return StoredHoldState(
            circuit="closed" if closed else "open",
            pauses=self.breaker.pauses,
            opened_at=None if closed else to_wall_time(self.breaker.opened_at),
            next_probe_at=None if closed else to_wall_time(self.breaker.probe_at),
            held_until=to_wall_time(self.held_until) if self.held_until else None,
            limited_until=to_wall_time(self.limited_until) if self.limited_until else None,
            resets=self.resets or 0,
        )

    def restore(self, health: EndpointHealthRecord) -> None:
        """Restore what the partition's previous owner wrote."""
        self.failing_since = self.recorded_since = health.since
        self.warned = health.warned
        self.resets = health.resets
        if health.held_until:
            self.held_until = max(0.0, to_loop_time(health.held_until))
        if health.limited_until:
            self.rate_limiter.restore(to_loop_time(health.limited_until))
        # An open circuit stays open in the next process, with the pause that it had.
        if health.circuit == "open" and health.next_probe_at and health.opened_at:
            opened_at, probe_at = to_loop_time(health.opened_at), to_loop_time(health.next_probe_at)
            self.breaker.restore(health.pauses, opened_at, probe_at)
        self.written_hold_state = self.hold_state

    def request_manual(self, delivery_id: str) -> None:
        """Send this delivery past hold and open circuit: a person asked for it."""
        # A limit on memory: what is beyond it is due in the log all the same.
        if len(self.manual_ids) < _MAX_MANUAL:
            self.manual_ids.add(delivery_id)
        self.not_before = 0.0

    def available_permits(self, webhook: OutgoingWebhook) -> int:
        """Return how many more attempts may start now; at most one for a strict webhook."""
        now = loop_time()
        if now < self.held_until:
            return 0
        return int(min(self.permits_by_limits(webhook), self.breaker.available_permits(now)))

    def permits_by_limits(self, webhook: OutgoingWebhook) -> int:
        """Return how many more attempts the webhook's own limits allow, whatever hold and circuit say."""
        max_in_flight = 1 if webhook.strict else webhook.max_in_flight
        permits = min(
            max_in_flight - self.in_flight,
            self.rate_limiter.available_permits(webhook.rate_limit, loop_time()),
        )
        return max(0, int(permits))

    def wait_s_behind_circuit(self, webhook: OutgoingWebhook) -> float | None:
        """Return how long deliveries may wait behind the circuit, in seconds.

        Return None while the circuit has not been open for that long. Return None during a hold, too: it has
        a limit of its own, and the API shows its end as the next attempt.
        """
        # Jitter may lengthen every wait of the schedule, so it counts in full.
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
        """Check again for expired deliveries after this many seconds."""
        self.next_expiry_check = loop_time() + seconds

    def acquire(self, webhook: OutgoingWebhook, count: int) -> None:
        """Take permits for `count` attempts that start now. Call it only with available permits."""
        now = loop_time()
        self.in_flight += count
        self.rate_limiter.acquire(webhook.rate_limit, count, now)
        self.breaker.acquire(now, count)

    def finish(self) -> None:
        """Return the permit of an attempt that ended.

        If none is in flight, allow another probe: the last one may have said nothing about the endpoint.
        """
        self.in_flight -= 1
        if self.in_flight == 0:
            self.breaker.release()

    def release(self, count: int) -> None:
        """Return `count` unused permits."""
        if count:
            self.in_flight -= count
            self.rate_limiter.release(count)
            self.breaker.release()

    def pause_until_permitted(self, webhook: OutgoingWebhook) -> None:
        """Pause until a permit may be available, at most 1 s: the webhook may change meanwhile."""
        now = loop_time()
        # The latest of hold, probe and rate limit decides.
        at = max(now, self.held_until)
        if self.breaker.available_permits(now) == 0:
            at = max(at, self.breaker.next_permit_at(now))
        if self.rate_limiter.available_permits(webhook.rate_limit, now) == 0:
            self.limited_until = self.rate_limiter.next_permit_at(webhook.rate_limit)
            at = max(at, self.limited_until)
        # Never longer than the poll interval: settings may change meanwhile.
        self.not_before = min(at, now + _POLL_INTERVAL_S)

    def pause(self, seconds: float) -> None:
        """Do not search the log for this many seconds."""
        self.not_before = loop_time() + seconds

    def hold(self, seconds: float) -> None:
        """Start nothing for this many seconds: the endpoint asked for it with `Retry-After`."""
        self.held_until = max(self.held_until, loop_time() + seconds)

    def record_result(self, *, succeeded: bool) -> bool:
        """Record the result of an attempt; return whether the circuit opened or closed."""
        return self.breaker.record_result(succeeded=succeeded, now=loop_time())

    def overdue_s(self, now: datetime) -> float:
        """Return the age of the oldest due delivery that waits for the hub, in seconds; 0 if none does."""
        if self.next_due is None or self.is_limited:
            return 0.0
        since = self.next_due
        # While a search finds more than may start, `next_due` stays, and the cursor moves.
        if self.due_cursor.field == "due_at" and (floor := self.due_cursor.floor_time) > since:
            since = floor
        return max(0.0, (now - since).total_seconds())

    def note_due(self, at: datetime) -> None:
        """Note that a delivery in the log is open and due at this time."""
        # A search that is in progress compares this with what it saw before.
        self.version += 1
        self.due_cursor.note_due(at)
        if self.next_due is None or at < self.next_due:
            self.next_due = at

    def note_external_change(self) -> None:
        """Note that another process made a delivery in the log due."""
        now = utcnow()
        self.note_due(now)
        self.due_cursor.note_external_change(now)
