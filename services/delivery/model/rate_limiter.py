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
    """Counts the requests of the last period."""

    __slots__ = ("_starts",)

    def __init__(self) -> None:
        self._starts: deque[float] = deque()

    def available_permits(self, limit: RateLimit | None, now: float) -> float:
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

    def acquire(self, limit: RateLimit | None, count: int, now: float) -> None:
        """These many requests start now."""
        if limit is not None:
            self._starts.extend([now] * count)

    def release(self, count: int) -> None:
        """These many of those taken last did not start."""
        for _ in range(min(count, len(self._starts))):
            self._starts.pop()
