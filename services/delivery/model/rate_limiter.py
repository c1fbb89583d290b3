"""The rate limit of one endpoint. Pure.

Times are seconds of the event loop's clock.
"""

from collections import deque
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `period_s` seconds."""

    requests: int
    period_s: float


class RateLimiter:
    """The start times of the requests in the last period."""

    __slots__ = ("_restored_until", "_starts")

    def __init__(self) -> None:
        self._starts: deque[float] = deque()
        self._restored_until: float | None = None

    def restore(self, until: float) -> None:
        """Take over that another limiter gives no permit before this time."""
        self._restored_until = until

    def available_permits(self, limit: RateLimit | None, now: float) -> float:
        """Return how many requests may start now; infinite without a limit."""
        if limit is None:
            return inf
        if self._restored_until is not None:
            # When each request started is not known: all count as long as the first one.
            first = min(self._restored_until - limit.period_s, now)
            self._starts.extendleft([first] * limit.requests)
            self._restored_until = None
        while self._starts and self._starts[0] <= now - limit.period_s:
            self._starts.popleft()
        return max(0, limit.requests - len(self._starts))

    def next_permit_at(self, limit: RateLimit | None) -> float:
        """Return when the next request may start. Call it only when none may start now."""
        if limit is None or len(self._starts) < limit.requests:
            return 0.0
        return self._starts[len(self._starts) - limit.requests] + limit.period_s

    def acquire(self, limit: RateLimit | None, count: int, now: float) -> None:
        """Record that `count` requests start now."""
        if limit is not None:
            self._starts.extend([now] * count)

    def release(self, count: int) -> None:
        """Forget the last `count` acquired permits: their requests did not start."""
        for _ in range(min(count, len(self._starts))):
            self._starts.pop()
