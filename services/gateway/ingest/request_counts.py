"""Counts of the requests to an endpoint: increments, and what is stored of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import exp2
from time import monotonic
from typing import Any, Final, NamedTuple

from shared.runtime.clock import utcnow
from shared.runtime.mongo import UpdateOne

_LAST_BUCKET: Final = 15
"""The latency bucket from 16.4 s on. Bucket 0 is below 1 ms, and bucket n from 2^(n-1) ms to below 2^n ms."""


@dataclass(slots=True)
class RequestCounts:
    """Increments of the counts of one endpoint."""

    workspace: str
    triggered: int = 0
    accepted: int = 0
    """Accepted requests, also those without an event."""
    limited: int = 0
    """Requests that the hub turned away because of a limit, or because it was not available."""
    seconds: float = 0.0
    """Of all accepted and rejected requests together, from their first byte to the response."""
    latency: dict[int, int] = field(default_factory=dict)
    """The same requests by latency bucket."""
    stored: int = 0
    """Executions of accepted requests. They are limited, not written: see `Executions`."""
    rejected: int = 0
    streak: int = 0
    """Rejected requests of the sender since the last accepted one, or since the last write."""
    is_streak_reset: bool = False
    last_accepted: float = 0.0
    """On the monotonic clock; 0 if no event was accepted."""

    def add_time(self, seconds: float) -> None:
        """Add the time of one accepted or rejected request."""
        self.seconds += seconds
        bucket = min(int(seconds * 1000).bit_length(), _LAST_BUCKET)
        self.latency[bucket] = self.latency.get(bucket, 0) + 1

    def add(self, later: "RequestCounts") -> None:
        """Add counts of a later time."""
        self.triggered += later.triggered
        self.accepted += later.accepted
        self.limited += later.limited
        self.seconds += later.seconds
        self.latency = dict(Counter(self.latency) + Counter(later.latency))
        self.rejected += later.rejected
        self.stored = max(self.stored, later.stored)
        self.streak = later.streak if later.is_streak_reset else self.streak + later.streak
        self.is_streak_reset |= later.is_streak_reset
        self.last_accepted = later.last_accepted or self.last_accepted


class StoredCounts(NamedTuple):
    """Counts of one endpoint as `EndpointRecord` has them."""

    trigger_count: int | None = None
    error_count: int | None = None
    error_streak: int | None = None
    last_triggered: datetime | None = None


def percentile_ms(latency: Mapping[int, int], share: float) -> float | None:
    """Return a percentile of the requests in latency buckets in milliseconds; None without any.

    Within a bucket, the requests count as evenly spread on a logarithmic scale: the result is at most half or
    twice the true value between 1 ms and 16.4 s.
    """
    wanted, below = share * sum(latency.values()), 0
    for bucket, count in sorted(latency.items()):
        if below + count >= wanted:
            part = (wanted - below) / count
            if bucket in (0, _LAST_BUCKET):
                return round(part, 1) if bucket == 0 else exp2(_LAST_BUCKET - 1)
            return round(exp2(bucket - 1 + part), 1)
        below += count
    return None


def count_update(endpoint_id: str, counts: RequestCounts) -> UpdateOne:
    """Return the write of increments to the document of an endpoint."""
    increments: dict[str, int] = {}
    if counts.triggered:
        increments["trigger_count"] = counts.triggered
    if counts.rejected:
        increments["error_count"] = counts.rejected
    fields: dict[str, Any] = {}
    if counts.is_streak_reset:
        fields["error_streak"] = counts.streak
    elif counts.streak:
        increments["error_streak"] = counts.streak
    if counts.last_accepted:
        fields["last_triggered"] = utcnow() - timedelta(seconds=monotonic() - counts.last_accepted)
    # MongoDB rejects an update without any operator, so one without changes sets the time of the count.
    update = {"$inc": increments, "$set": fields or {"counted_at": utcnow()}}
    return UpdateOne(
        {"_id": endpoint_id}, {operator: values for operator, values in update.items() if values}
    )
