"""How fast one endpoint may be sent to: its rate limit, and the breaker that spares a dead one. Pure.

Times are seconds of the event loop's clock. Both only ever make deliveries wait: what waits stays due in
the log and uses up none of its attempts.
"""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Final, Literal

_LONGEST_OPEN: Final = 10
"""The breaker's pause doubles up to this many times its first."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `period_s` seconds."""

    requests: int
    period_s: float


class Pace:
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

    def again_at(self, limit: RateLimit | None) -> float:
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


class Breaker:
    """Opens after so many failures in a row; then one probe at a time, each pause twice the last one."""

    __slots__ = ("_failures", "_most", "_open_s", "_opened", "_probing", "_until")

    def __init__(self, most_failures: int, open_s: float) -> None:
        self._most = most_failures
        self._open_s = open_s
        self._failures = 0
        self._opened = 0
        self._until = 0.0
        self._probing = False

    @property
    def circuit(self) -> Circuit:
        """Closed lets everything through, open nothing, half open one probe."""
        if self._opened == 0:
            return "closed"
        return "half_open" if self._probing else "open"

    def room(self, now: float) -> float:
        """How many attempts may start now: any, one probe, or none."""
        if self._opened == 0:
            return inf
        return 1 if now >= self._until and not self._probing else 0

    def again_at(self, now: float) -> float:
        """When the next attempt may start, given that none may start now; a probe's end is not known."""
        return now if self._probing else self._until

    def took(self, now: float) -> None:
        """An attempt starts; the first one after the pause is the probe."""
        if self._opened and now >= self._until:
            self._probing = True

    def unused(self) -> None:
        """An attempt that was taken did not start: if it was to be the probe, there is none."""
        self._probing = False

    def hurry(self) -> None:
        """Let the next probe go at once."""
        self._until = 0.0

    def answered(self, *, well: bool, now: float) -> bool:
        """An attempt ended; whether the circuit opened or closed with it.

        Failures of what was sent before the circuit opened do not make its pause longer.
        """
        if well:
            changed = self._opened > 0
            self._failures, self._opened, self._probing = 0, 0, False
            return changed
        self._failures += 1
        if self._opened and not self._probing:
            return False
        if self._opened == 0 and self._failures < self._most:
            return False
        changed = self._opened == 0
        self._until = now + self._open_s * min(2**self._opened, _LONGEST_OPEN)
        self._opened = min(self._opened + 1, _LONGEST_OPEN)
        self._probing = False
        return changed


class Recurrence:
    """Whether something keeps happening: `times` or more over at least `over`, no two cases so far apart."""

    __slots__ = ("_count", "_last", "_over", "_since", "_times")

    def __init__(self, times: int, over: timedelta) -> None:
        self._times = times
        self._over = over
        self._count = 0
        self._since = self._last = datetime.min.replace(tzinfo=UTC)

    def happened(self, at: datetime, *, not_before: datetime) -> datetime | None:
        """It happened; the time of the first case if it has happened often and long enough, else None."""
        if self._since < not_before or at - self._last > self._over:
            self._since, self._count = at, 0
        self._last = max(self._last, at)
        self._count += 1
        return self._since if self._count >= self._times and at - self._since >= self._over else None
