"""What keeps one endpoint from drowning the rest: token buckets, and the memory of delivery ids."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from time import monotonic

from shared.contracts.errors import BusUnavailable


class Bucket:
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

    def take(self) -> None:
        self._tokens -= 1


class Recent:
    """Which deliveries were published within the window, by this process.

    A repeat that comes while the first is still on its way waits for the first one's ack: it is
    answered as accepted only when the event is on Kafka.
    """

    def __init__(self, window_s: float, most: int = 50_000) -> None:
        self._window_s = window_s
        self._most = most
        self._seen: dict[str, float | asyncio.Future[bool]] = {}

    async def once(self, key: str, publish: Callable[[], Awaitable[None]]) -> bool:
        """Publish unless this key was, within the window; True when it was published now."""
        seen = self._seen.get(key)
        if isinstance(seen, asyncio.Future):
            if await asyncio.shield(seen):
                return False
            raise BusUnavailable("Kafka did not acknowledge the first of two equal deliveries")
        if seen is not None and seen > monotonic():
            return False
        under_way = asyncio.get_running_loop().create_future()
        self._seen.pop(key, None)
        self._seen[key] = under_way
        try:
            await publish()
        except BaseException:
            del self._seen[key]
            under_way.set_result(False)
            raise
        self._seen[key] = monotonic() + self._window_s
        under_way.set_result(True)
        self._forget()
        return True

    def _forget(self) -> None:
        """Drop the oldest while it is out of the window, or there are too many: one comes, two may go."""
        now = monotonic()
        for key in list(islice(self._seen, 2)):
            seen = self._seen[key]
            if isinstance(seen, asyncio.Future) or (seen > now and len(self._seen) <= self._most):
                break
            del self._seen[key]
