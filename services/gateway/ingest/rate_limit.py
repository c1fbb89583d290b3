"""Token buckets: limits of requests per endpoint and per caller, for all workers of this service together."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from services.gateway.ingest.errors import TooManyRequests
from shared.contracts.errors import Rejected
from shared.runtime.workers.memory import SharedMemory, SharedTable

_BYTES_PER_TOKEN: Final = 1024 * 1024
"""Hashed bytes that cost a caller as much as one rejected request.

Only the work counts, not the request: a provider sends webhooks of other apps from the same addresses, and a
few small ones of those must not block the webhooks of our apps.
"""
_SHARED_BUCKETS: Final = 65_536
"""Buckets of all workers that are not full at a time."""
_ONE_TOKEN: Final = 1 - 1e-6
"""Less than one: sums of fractions are not exact."""


class TokenBucket:
    """Allow `per_minute` requests in a burst, then the same number spread evenly over a minute.

    The state is one number: the time at which the bucket is full again. So a bucket that nobody uses is like
    a new one, and can be forgotten.
    """

    __slots__ = ("_capacity", "_full_at", "_rate")

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._rate = per_minute / 60
        self._full_at = 0.0

    def wait(self) -> float:
        """Return the seconds until a token is available; 0 if one is available now."""
        return self._wait(self._full_at, monotonic())

    def take(self, tokens: float = 1.0) -> None:
        """Remove tokens, also if there are too few; a negative number gives them back."""
        self._full_at = self._without(self._full_at, monotonic(), tokens)

    def try_take(self, tokens: float = 1.0) -> float:
        """Remove tokens if one is available; return the seconds until one is, 0 if they were removed."""
        now = monotonic()
        wait = self._wait(self._full_at, now)
        if wait == 0:
            self._full_at = self._without(self._full_at, now, tokens)
        return wait

    def _wait(self, full_at: float, now: float) -> float:
        tokens = self._capacity - max(0.0, full_at - now) * self._rate
        return 0.0 if tokens >= _ONE_TOKEN else (1 - tokens) / self._rate

    def _without(self, full_at: float, now: float, tokens: float) -> float:
        return max(full_at, now) + tokens / self._rate


class SharedTokenBucket(TokenBucket):
    """A token bucket in memory that all workers share."""

    __slots__ = ("_key", "_table")

    def __init__(self, per_minute: int, table: SharedTable, key: int) -> None:
        super().__init__(per_minute)
        self._table = table
        self._key = key

    def wait(self) -> float:
        return self._wait(self._table.get(self._key), monotonic())

    def take(self, tokens: float = 1.0) -> None:
        self._table.change(self._key, lambda full_at: self._without(full_at, monotonic(), tokens))

    def try_take(self, tokens: float = 1.0) -> float:
        wait = 0.0

        def take(full_at: float) -> float:
            nonlocal wait
            now = monotonic()
            wait = self._wait(full_at, now)
            return full_at if wait else self._without(full_at, now, tokens)

        self._table.change(self._key, take)
        return wait


class RateLimits:
    """Creates token buckets: in this process, or shared by the workers of this service."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        """Set the memory that the workers share; None without workers."""
        self.table = SharedTable(memory, _SHARED_BUCKETS) if memory else None

    def bucket(self, kind: str, name: str, per_minute: int) -> TokenBucket:
        """Return the bucket of a limit and a name. Without workers it is a new one, which is full."""
        if self.table is None:
            return TokenBucket(per_minute)
        # With another limit it is another bucket: a change of the limit takes effect at once.
        return SharedTokenBucket(per_minute, self.table, SharedTable.key(kind, name, str(per_minute)))


class TokenBuckets:
    """One bucket per name. In this process, holds the `max_buckets` names that were used last."""

    def __init__(
        self,
        per_minute: int,
        max_buckets: int = 20_000,
        *,
        limits: RateLimits | None = None,
        kind: str = "",
    ) -> None:
        """Set where the buckets are (`limits`), and the `kind` of limit, another one for each object."""
        self._per_minute = per_minute
        self._max_buckets = max_buckets
        self._limits = limits or RateLimits()
        self._kind = kind
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, name: str) -> TokenBucket:
        """Return the bucket of a name; a full one if the name was evicted or never used."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = self._limits.bucket(self._kind, name, self._per_minute)
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket


def check_rate(bucket: TokenBucket) -> None:
    """Raise `TooManyRequests` if the bucket has no token. Takes none."""
    wait = bucket.wait()
    if wait > 0:
        raise TooManyRequests(wait)


def charge(bucket: TokenBucket, tokens: float) -> None:
    """Take tokens from a bucket. Raises `TooManyRequests` if it has not even one."""
    wait = bucket.try_take(tokens)
    if wait > 0:
        raise TooManyRequests(wait)


@contextmanager
def charge_work(bucket: TokenBucket, work: int) -> Iterator[None]:
    """Charge a caller for `work` bytes to hash; refund them unless the block raises `Rejected`.

    The charge comes before the work: of many requests sent at once, those over the limit are rejected
    unverified. Raises `TooManyRequests` if the bucket has no token.
    """
    charge(bucket, work / _BYTES_PER_TOKEN)
    in_vain = False
    try:
        yield
    except Rejected:
        in_vain = True
        raise
    finally:
        if not in_vain:  # other errors too: an unavailable key server is not the caller's fault
            bucket.take(-work / _BYTES_PER_TOKEN)
