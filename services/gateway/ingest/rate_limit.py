"""Token buckets: limits of requests per endpoint and per caller."""

from collections import OrderedDict
from time import monotonic
from typing import Final

from services.gateway.ingest.errors import TooManyRequests
from shared.contracts.errors import Rejected

_BYTES_PER_TOKEN: Final = 1024 * 1024
"""Hashed bytes that cost a caller as much as one rejected request.

Only the work counts, not the request: a provider sends webhooks of other apps from the same addresses, and a
few small ones of those must not block the webhooks of our apps.
"""


class TokenBucket:
    """Allow `per_minute` requests in a burst, then the same number spread evenly over a minute."""

    __slots__ = ("_capacity", "_rate", "_refilled_at", "_tokens")

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._rate = per_minute / 60
        self._tokens = self._capacity
        self._refilled_at = monotonic()

    def wait(self) -> float:
        """Return the seconds until a token is available; 0 if one is available now."""
        now = monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def take(self, tokens: float = 1.0) -> None:
        """Remove tokens, also if there are too few; a negative number gives them back."""
        self._tokens -= tokens


class TokenBuckets:
    """One bucket per name. Holds the `max_buckets` names that were used last."""

    def __init__(self, per_minute: int, max_buckets: int = 20_000) -> None:
        self._per_minute = per_minute
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, name: str) -> TokenBucket:
        """Return the bucket of a name; a new, full one if the name was evicted or never used."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._per_minute)
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket


def check_rate(bucket: TokenBucket) -> None:
    """Raise `TooManyRequests` if the bucket has no token. Takes none."""
    wait = bucket.wait()
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
        check_rate(self._bucket)
        self._bucket.take(self._tokens)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # Other errors are refunded too: an unavailable key server is not the caller's fault.
        if kind is None or not issubclass(kind, Rejected):
            self._bucket.take(-self._tokens)
