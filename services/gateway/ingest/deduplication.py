"""Deduplication window: the ids of webhook events that this process published recently."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Self

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
        self._deliveries: OrderedDict[str, float | Publication] = OrderedDict()

    def publication(self, keys: Sequence[str], window_s: float) -> "Publication":
        """Return the context in which a request publishes those keys that are new.

        Keys that were published within `window_s` seconds, or are being published, are not new.
        """
        publication = Publication(self, keys, window_s)
        now = monotonic()
        for position, key in enumerate(keys):
            previous = self._deliveries.get(key)
            if previous is not None:
                if isinstance(previous, Publication):
                    # A key twice in one request finds this request's own publication: there is nothing to
                    # wait for.
                    if previous is not publication:
                        publication.others.append(previous)
                    continue
                if previous > now:
                    continue
                del self._deliveries[key]  # the new entry belongs at the end
            self._deliveries[key] = publication
            publication.fresh.append(position)
        return publication

    def end(self, publication: "Publication", window_s: float | None) -> None:
        """Start the window of a publication's keys; forget them if it failed (`window_s` is None)."""
        if window_s is None:
            for position in publication.fresh:
                del self._deliveries[publication.keys[position]]
            return
        now = monotonic()
        for position in publication.fresh:
            self._deliveries[publication.keys[position]] = now + window_s
        self._evict(2 * len(publication.fresh), now)

    def _evict(self, limit: int, now: float) -> None:
        """Remove up to `limit` of the oldest keys that are expired or over the maximum number.

        Called with twice the number of new keys: the memory shrinks although each call does little work.
        """
        deliveries = self._deliveries
        for _ in range(min(limit, len(deliveries))):
            key = next(iter(deliveries))
            delivery = deliveries[key]
            if isinstance(delivery, Publication) or (
                delivery > now and len(deliveries) <= self._max_deliveries
            ):
                break
            del deliveries[key]


class Publication:
    """The publication of one request: `with recent.publication(ids, 600) as publication: ...`.

    The block publishes the keys at the positions `fresh`. If it raises, they count as not published. After
    the block, await `wait_for_others`.
    """

    __slots__ = ("_acknowledged", "_recent", "_waiters", "_window_s", "fresh", "keys", "others")

    def __init__(self, recent: RecentDeliveries, keys: Sequence[str], window_s: float) -> None:
        self._recent = recent
        self._window_s = window_s
        self._acknowledged: bool | None = None
        self._waiters: list[asyncio.Future[bool]] = []
        self.keys = keys
        self.fresh: list[int] = []
        self.others: list[Publication] = []
        """Other requests that were publishing some of the keys when this one began."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # After any error, cancellation too: a waiting repeat must learn that this one failed.
        self._acknowledged = kind is None
        self._recent.end(self, self._window_s if self._acknowledged else None)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self._acknowledged)

    async def wait_for_others(self) -> None:
        """Wait until other requests have published the keys that are not fresh.

        Raises `BrokerUnavailable` if one of them failed.
        """
        for other in self.others:
            if not await other._outcome():
                raise BrokerUnavailable("Kafka did not acknowledge the first of two equal deliveries")

    async def _outcome(self) -> bool:
        if self._acknowledged is not None:
            return self._acknowledged
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter
