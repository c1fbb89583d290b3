"""Deduplication window: the ids of webhook events that this service published recently."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Final

from shared.contracts.errors import BrokerUnavailable
from shared.runtime.workers.memory import SharedMemory, SharedTable

_SHARED_DELIVERIES: Final = 131_072
_PUBLICATION_S: Final = 5.0
"""The time after which a publication of another worker counts as failed. None takes half as long."""
_POLL_INTERVAL_S: Final = 0.01


class RecentDeliveries:
    """Remembers what this process published, so that a repeated delivery is published once.

    A repeat that arrives while the first is being published waits for that acknowledgement: a request is
    answered as accepted only when its event is on Kafka.
    """

    def __init__(self, max_deliveries: int = 50_000) -> None:
        self._max_deliveries = max_deliveries
        # The value is the end of the window (monotonic seconds), or the publication that is under way. It is
        # an OrderedDict because the first key of a plain dict is found only by walking over all deleted ones.
        self._deliveries: OrderedDict[str, float | asyncio.Future[bool]] = OrderedDict()

    async def publish_once(
        self, keys: Sequence[str], publish: Callable[[Sequence[int]], Awaitable[None]], *, window_s: float
    ) -> list[int]:
        """Publish the keys that were not published within `window_s` seconds; return their positions.

        Raises what `publish` raises; its keys then count as not published. Raises `BrokerUnavailable` if
        another request was publishing the same key and failed.
        """
        now = monotonic()
        fresh: list[int] = []
        others: list[asyncio.Future[bool]] = []
        elsewhere: list[str] = []
        publication: asyncio.Future[bool] | None = None
        for position, key in enumerate(keys):
            previous = self._deliveries.get(key)
            if isinstance(previous, asyncio.Future):
                # A key twice in one request finds this request's own publication: there is nothing to wait
                # for.
                if previous is not publication:
                    others.append(previous)
            elif previous is None or previous <= now:
                if not self._claim(key):
                    elsewhere.append(key)
                    continue
                publication = publication or asyncio.get_running_loop().create_future()
                self._deliveries.pop(key, None)
                self._deliveries[key] = publication
                fresh.append(position)
        if publication:
            try:
                await publish(fresh)
            except BaseException:  # cancellation too: a waiting repeat must learn that this one failed
                for position in fresh:
                    self._forget(keys[position])
                publication.set_result(False)
                raise
            window_end = monotonic() + window_s
            for position in fresh:
                self._remember(keys[position], window_end)
            publication.set_result(True)
            self._evict(2 * len(fresh))
        if others or elsewhere:
            is_published = [await asyncio.shield(other) for other in others]
            is_published += [await self._wait_elsewhere(key) for key in elsewhere]
            if not all(is_published):
                raise BrokerUnavailable("Kafka did not acknowledge the first of two equal deliveries")
        return fresh

    def _claim(self, key: str) -> bool:  # noqa: ARG002 -- of `SharedRecentDeliveries`
        """Claim the publication of a key; return False if another worker publishes or has published it."""
        return True

    async def _wait_elsewhere(self, key: str) -> bool:  # noqa: ARG002 -- of `SharedRecentDeliveries`
        """Wait for the publication of another worker; return whether it was acknowledged."""
        return True

    def _forget(self, key: str) -> None:
        """Note that a key was not published."""
        del self._deliveries[key]

    def _remember(self, key: str, window_end: float) -> None:
        """Note that a key was published."""
        self._deliveries[key] = window_end

    def _evict(self, limit: int) -> None:
        """Remove up to `limit` of the oldest keys that are expired or over the maximum number.

        Called with twice the number of new keys: the memory shrinks although each call does little work.
        """
        now = monotonic()
        for key in list(islice(self._deliveries, limit)):
            delivery = self._deliveries[key]
            if isinstance(delivery, asyncio.Future) or (
                delivery > now and len(self._deliveries) <= self._max_deliveries
            ):
                break
            del self._deliveries[key]


class SharedRecentDeliveries(RecentDeliveries):
    """Remembers what all workers of this service published.

    The table has the end of each window. While a worker publishes a key, it has the negative of the time at
    which that worker counts as dead; `_deliveries` has only the publications of this worker.
    """

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__()
        self._table = SharedTable(memory, _SHARED_DELIVERIES)

    def _claim(self, key: str) -> bool:
        claimed = False

        def claim(time: float) -> float:
            nonlocal claimed
            now = monotonic()
            claimed = abs(time) <= now
            return -(now + _PUBLICATION_S) if claimed else time

        self._table.change(SharedTable.key(key), claim)
        return claimed

    async def _wait_elsewhere(self, key: str) -> bool:
        while -self._table.get(SharedTable.key(key)) > monotonic():  # noqa: ASYNC110 -- of another process
            await asyncio.sleep(_POLL_INTERVAL_S)
        return self._table.get(SharedTable.key(key)) > 0

    def _forget(self, key: str) -> None:
        super()._forget(key)
        # Another worker may have published the key if this one stood still for long.
        self._table.change(SharedTable.key(key), lambda time: max(time, 0.0))

    def _remember(self, key: str, window_end: float) -> None:
        super()._forget(key)
        self._table.change(SharedTable.key(key), lambda _: window_end)
