"""How fast one endpoint may be sent to: its rate limit, and the breaker that spares a dead one. Pure.

Times are seconds of the event loop's clock. Both only ever make deliveries wait: what waits stays due in
the log and uses up none of its attempts.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, Literal

_MAX_DOUBLINGS: Final = 20


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `period_s` seconds."""

    requests: int
    period_s: float


class RateLimiter:
    """Counts the requests of the last period."""

    __slots__ = ("_starts",)

    def __init__(self) -> None:
        self._starts: deque[float] = deque()

    def room(self, limit: RateLimit | None, now: float) -> float:
        """How many requests may start now."""
        if limit is None:
            return inf
        while self._starts and self._starts[0] <= now - limit.period_s:
            self._starts.popleft()
        return max(0, limit.requests - len(self._starts))

    def next_permit_at(self, limit: RateLimit | None) -> float:
        """When the next request may start, given that none may start now."""
        if limit is None or len(self._starts) < limit.requests:
            return 0.0
        return self._starts[len(self._starts) - limit.requests] + limit.period_s

    def take(self, limit: RateLimit | None, count: int, now: float) -> None:
        """These many requests start now."""
        if limit is not None:
            self._starts.extend([now] * count)

    def unused(self, count: int) -> None:
        """These many of those taken last did not start."""
        for _ in range(min(count, len(self._starts))):
            self._starts.pop()


Circuit = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When an endpoint gets only probes: after so many failures in a row over at least `failing_s` seconds.

    The first pause has `pause_s` seconds; each later one is twice as long, up to `max_pause_s`. A delivery
    waits behind an open circuit for as long as its own schedule and `max_wait_s` more.
    """

    enabled: bool
    failures: int
    failing_s: float
    pause_s: float
    max_pause_s: float
    max_wait_s: float

    def changed(self, settings: Mapping[str, Any] | None) -> "BreakerPolicy":
        """Return this policy with what a webhook sets otherwise."""
        return replace(self, **{name: value for name, value in (settings or {}).items() if value is not None})

    def pause(self, number: int) -> float:
        """Return the seconds of a pause; `number` counts from 0."""
        return min(self.pause_s * 2.0 ** min(number, _MAX_DOUBLINGS), max(self.pause_s, self.max_pause_s))


class CircuitBreakerState:
    """Opens after failures as its policy says; then one probe at a time, each pause twice the last one."""

    __slots__ = ("_failing_since", "_failures", "_probing", "opened_at", "pauses", "policy", "until")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.reset()

    def reset(self) -> None:
        """Close the circuit and forget what was learnt."""
        self._failures = 0
        self._failing_since = 0.0
        self._probing = False
        self.pauses = 0
        """How many pauses there were since the circuit opened; 0 while it is closed."""
        self.opened_at = 0.0
        self.until = 0.0
        """When the next probe may start."""

    def restore(self, pauses: int, opened_at: float, until: float) -> None:
        """Take over an open circuit from the process that had it before."""
        self.pauses, self.opened_at, self.until = pauses, opened_at, until

    def restart_wait(self, now: float) -> None:
        """Count the wait behind the circuit from now on: until now, deliveries waited for a person."""
        self.opened_at = now

    @property
    def circuit(self) -> Circuit:
        """Closed lets everything through, open nothing, half open one probe."""
        if self.pauses == 0 or not self.policy.enabled:
            return "closed"
        return "half_open" if self._probing else "open"

    def room(self, now: float) -> float:
        """How many attempts may start now: any, one probe, or none."""
        if self.pauses == 0 or not self.policy.enabled:
            return inf
        return 1 if now >= self.until and not self._probing else 0

    def next_permit_at(self, now: float) -> float:
        """When the next attempt may start, given that none may start now; a probe's end is not known."""
        return now if self._probing else self.until

    def permit_used(self, now: float) -> None:
        """An attempt starts; the first one after the pause is the probe."""
        if self.pauses and now >= self.until:
            self._probing = True

    def unused(self) -> None:
        """An attempt that was taken did not start: if it was to be the probe, there is none."""
        self._probing = False

    def answered(self, *, well: bool, now: float) -> bool:
        """An attempt ended; whether the circuit opened or closed with it.

        Failures of what was sent before the circuit opened do not make its pause longer, nor do those of
        what a person sent past it.
        """
        if well:
            changed = self.pauses > 0
            self.reset()
            return changed
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        policy = self.policy
        if self.pauses == 0:
            if self._failures < policy.failures or now - self._failing_since < policy.failing_s:
                return False
            if not policy.enabled:
                return False
            self.opened_at = now
        elif not self._probing:
            return False
        self.until = now + policy.pause(self.pauses)
        self.pauses += 1
        self._probing = False
        return self.pauses == 1


class Recurrence:
    """Whether something keeps happening: `times` or more over at least `over`, no two cases so far apart."""

    __slots__ = ("_count", "_last", "_over", "_since", "_times")

    def __init__(self, times: int, over: timedelta) -> None:
        self._times = times
        self._over = over
        self._count = 0
        self._since = self._last = datetime.min.replace(tzinfo=UTC)

    def record_case(self, at: datetime, *, not_before: datetime) -> datetime | None:
        """It happened; the time of the first case if it has happened often and long enough, else None."""
        if self._since < not_before or at - self._last > self._over:
            self._since, self._count = at, 0
        self._last = max(self._last, at)
        self._count += 1
        return self._since if self._count >= self._times and at - self._since >= self._over else None
