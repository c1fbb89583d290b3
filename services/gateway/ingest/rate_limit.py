"""What keeps one sender from drowning the rest: token buckets, and the memory of delivery ids."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from time import monotonic

from shared.contracts.errors import BrokerUnavailable


class TokenBucket:
    """A token bucket: `per_minute` in a burst, then evenly."""

    __slots__ = ("_at", "_capacity", "_rate", "_tokens")

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._rate = per_minute / 60
        self._tokens = self._capacity
        self._at = monotonic()

    def wait(self) -> float:
        """Seconds until there is a token; 0 when there is one now."""
        now = monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def take(self, tokens: float = 1.0) -> None:
        self._tokens -= tokens


class TokenBuckets:
    """A bucket for each name, of the names that were used last."""

    def __init__(self, per_minute: int, most: int = 20_000) -> None:
        self._per_minute = per_minute
        self._most = most
        self._known: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, name: str) -> TokenBucket:
        """The bucket of a name; a full one for a name that was not used lately."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = TokenBucket(self._per_minute)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(name)
        return found


class RecentDeliveries:
    """Which deliveries were published a short while ago, by this process.

    A repeat that comes while the first is still on its way waits for the first one's ack: it is
    answered as accepted only when the event is on Kafka.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        # Ordered: to look for the oldest of a dict whose oldest were deleted walks over all that were.
        self._seen: OrderedDict[str, float | asyncio.Future[bool]] = OrderedDict()

    async def publish_once(
        self, keys: Sequence[str], publish: Callable[[Sequence[int]], Awaitable[None]], *, window_s: float
    ) -> list[int]:
        """Publish those that were not published within the window; their positions among `keys`.

        Raises what `publish` raises, which then counts as never tried, and `BrokerUnavailable` when another
        request was publishing the same and failed.
        """
        now = monotonic()
        fresh: list[int] = []
        others: list[asyncio.Future[bool]] = []
        under_way: asyncio.Future[bool] | None = None
        for position, key in enumerate(keys):
            seen = self._seen.get(key)
            if isinstance(seen, asyncio.Future):
                if seen is not under_way:
                    others.append(seen)
            elif seen is None or seen <= now:
                under_way = under_way or asyncio.get_running_loop().create_future()
                self._seen.pop(key, None)
                self._seen[key] = under_way
                fresh.append(position)
        if under_way:
            await self._publish(keys, fresh, publish, under_way, window_s)
        for other in others:
            if not await asyncio.shield(other):
                raise BrokerUnavailable("Kafka did not acknowledge the first of two equal deliveries")
        return fresh

    async def _publish(
        self,
        keys: Sequence[str],
        fresh: Sequence[int],
        publish: Callable[[Sequence[int]], Awaitable[None]],
        under_way: "asyncio.Future[bool]",
        window_s: float,
    ) -> None:
        try:
            await publish(fresh)
        except BaseException:
            for position in fresh:
                del self._seen[keys[position]]
            under_way.set_result(False)
            raise
        until = monotonic() + window_s
        for position in fresh:
            self._seen[keys[position]] = until
        under_way.set_result(True)
        self._evict(2 * len(fresh))

    def _evict(self, most: int) -> None:
        """Drop the oldest while they are out of the window, or too many: for each that came, two may go."""
        now = monotonic()
        for key in list(islice(self._seen, most)):
            seen = self._seen[key]
            if isinstance(seen, asyncio.Future) or (seen > now and len(self._seen) <= self._most):
                break
            del self._seen[key]
