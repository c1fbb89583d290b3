"""Deduplication window: the ids of webhook events that this process published recently."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from time import monotonic

from shared.contracts.errors import BrokerUnavailable


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
        publication: asyncio.Future[bool] | None = None
        for position, key in enumerate(keys):
            previous = self._deliveries.get(key)
            if isinstance(previous, asyncio.Future):
                # A key twice in one request finds this request's own publication: there is nothing to wait
                # for.
                if previous is not publication:
                    others.append(previous)
            elif previous is None or previous <= now:
                publication = publication or asyncio.get_running_loop().create_future()
                self._deliveries.pop(key, None)
                self._deliveries[key] = publication
                fresh.append(position)
        if publication:
            await self._publish(keys, fresh, publish, publication, window_s)
        for other in others:
            if not await asyncio.shield(other):
                raise BrokerUnavailable("Kafka did not acknowledge the first of two equal deliveries")
        return fresh

    async def _publish(
        self,
        keys: Sequence[str],
        fresh: Sequence[int],
        publish: Callable[[Sequence[int]], Awaitable[None]],
        publication: "asyncio.Future[bool]",
        window_s: float,
    ) -> None:
        try:
            await publish(fresh)
        except BaseException:  # cancellation too: a waiting repeat must learn that this one failed
            for position in fresh:
                del self._deliveries[keys[position]]
            publication.set_result(False)
            raise
        window_end = monotonic() + window_s
        for position in fresh:
            self._deliveries[keys[position]] = window_end
        publication.set_result(True)
        self._evict(2 * len(fresh))

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
