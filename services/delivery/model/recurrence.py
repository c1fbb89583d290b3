"""Decide if something keeps happening for long enough to act on it. Pure."""

from datetime import UTC, datetime, timedelta


class Recurrence:
    """Detects that something keeps happening.

    That is the case after at least `min_cases` cases over at least `min_duration`. A gap longer than
    `min_duration` starts the count again.
    """

    __slots__ = ("_count", "_last_at", "_min_cases", "_min_duration", "_since")

    def __init__(self, min_cases: int, min_duration: timedelta) -> None:
        self._min_cases = min_cases
        self._min_duration = min_duration
        self._count = 0
        self._since = self._last_at = datetime.min.replace(tzinfo=UTC)

    def record_case(self, at: datetime, *, not_before: datetime) -> datetime | None:
        """Record a case; return the time of the first case if the condition is met, else None.

        Cases before `not_before` do not count.
        """
        # A gap, or a person enabled the webhook since: count again.
        if self._since < not_before or at - self._last_at > self._min_duration:
            self._since, self._count = at, 0
        self._last_at = max(self._last_at, at)
        self._count += 1
        return (
            self._since if self._count >= self._min_cases and at - self._since >= self._min_duration else None
        )
