"""Token buckets: limits of requests per endpoint and per caller, for all workers of this service together."""

from collections import OrderedDict
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
_ROUNDING_S: Final = 1e-6
"""By which sums of intervals may be wrong."""


class TokenBucket:
    """Allow `per_minute` requests in a burst, then the same number spread evenly over a minute.

    The state is one number: the time at which the bucket is full again. So a bucket that nobody uses is like
    a new one, and can be forgotten.
    """

    __slots__ = ("_burst_s", "_full_at", "_interval_s")

    def __init__(self, per_minute: int) -> None:
        self._interval_s = 60 / per_minute
        # With so many seconds until it is full, the bucket has its last token.
        self._burst_s = (per_minute - 1) * self._interval_s + _ROUNDING_S
        self._full_at = 0.0

    def wait(self) -> float:
        """Return the seconds until a token is available; 0 if one is available now."""
        return max(0.0, self._full_at - monotonic() - self._burst_s)

    def take(self, tokens: float = 1.0) -> None:
        """Remove tokens, also if there are too few; a negative number gives them back."""
        self._full_at = max(self._full_at, monotonic()) + tokens * self._interval_s

    def try_take(self, tokens: float = 1.0) -> float:
        """Remove tokens if one is available; return the seconds until one is, 0 if they were removed."""
        full_at = max(self._full_at, now := monotonic())
        wait = full_at - now - self._burst_s
        if wait > 0:
            return wait
        self._full_at = full_at + tokens * self._interval_s
        return 0.0

    def try_hold(self, tokens: float) -> float:
        """Remove tokens like `try_take`, until `settle` decides about them."""
        return self.try_take(tokens)

    def settle(self, tokens: float, *, spent: bool) -> None:
        """Decide about tokens of `try_hold`: they are spent, or given back."""
        if not spent:
            self._full_at -= tokens * self._interval_s


class SharedTokenBucket(TokenBucket):
    """A token bucket in memory that all workers share.

    Tokens that are held count at this worker only, until they are spent: nearly all are given back.
    """

    __slots__ = ("_held", "_key", "_table")

    def __init__(self, per_minute: int, table: SharedTable, key: int) -> None:
        super().__init__(per_minute)
        self._table = table
        self._key = key
        self._held = 0.0

    def wait(self) -> float:
        now = monotonic()
        full_at = max(self._table.get(self._key), now) + self._held * self._interval_s
        return max(0.0, full_at - now - self._burst_s)

    def take(self, tokens: float = 1.0) -> None:
        added_s = tokens * self._interval_s
        self._table.change(self._key, lambda full_at: max(full_at, monotonic()) + added_s)

    def try_take(self, tokens: float = 1.0) -> float:
        wait = 0.0

        def take(full_at: float) -> float:
            nonlocal wait
            now = monotonic()
            wait = max(0.0, full_at - now - self._burst_s)
            return full_at if wait else max(full_at, now) + tokens * self._interval_s

        self._table.change(self._key, take)
        return wait

    def try_hold(self, tokens: float) -> float:
        wait = self.wait()
        if wait == 0:
            self._held += tokens
        return wait

    def settle(self, tokens: float, *, spent: bool) -> None:
        self._held -= tokens
        if spent:
            self.take(tokens)


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


class ChargedWork:
    """Charges a caller for work in vain: `with ChargedWork(bucket, bytes_to_hash): ...`.

    The charge comes before the work: of many requests sent at once, those over the limit are rejected
    unverified. It is refunded unless the block raises `Rejected`. Raises `TooManyRequests` if the bucket has
    no token.
    """

    __slots__ = ("_bucket", "_tokens")

    def __init__(self, bucket: TokenBucket, work: int) -> None:
        """Set the work in bytes to hash."""
        self._bucket = bucket
        self._tokens = work / _BYTES_PER_TOKEN

    def __enter__(self) -> None:
        wait = self._bucket.try_hold(self._tokens)
        if wait > 0:
            raise TooManyRequests(wait)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # Refunded after other errors too: an unavailable key server is not the caller's fault.
        self._bucket.settle(self._tokens, spent=kind is not None and issubclass(kind, Rejected))
