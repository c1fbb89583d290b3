"""Make way for live messages: while others publish, the imports of a process share a fixed rate.

An import that runs at full speed takes every core that it gets. Live messages would wait for it at each of
their hops.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from shared.contracts.topics import CHAT_INBOUND, DELIVERY_REQUESTED, SYNC_REQUESTED, WEBHOOKS_RECEIVED, Topic

LIVE_TOPICS: Final[tuple[Topic, ...]] = (
    WEBHOOKS_RECEIVED,
    DELIVERY_REQUESTED,
    CHAT_INBOUND,
    SYNC_REQUESTED,
)
"""Whatever somebody waits for passes one of these topics. `chat.events` is not among them: imports are
confirmed there."""
_LOOK_INTERVAL_S: Final = 0.25
"""So long, an import at full speed delays the first live messages."""
QUIET_S: Final = 30.0
"""After so many seconds without a live message, imports are as fast as they can be."""


class LiveTraffic:
    """Knows whether live messages are published, and paces the imports of this process meanwhile."""

    def __init__(
        self, count_records: Callable[[], Awaitable[int | None]], *, messages_per_second: int
    ) -> None:
        """`count_records` returns how many records the live topics have had; None if that is not known."""
        self._count_records = count_records
        self._rate = messages_per_second
        self._records: int | None = None
        self._looked_at = 0.0
        self._live_until = 0.0
        self._next_at = 0.0
        self._looking = asyncio.Lock()

    async def is_live(self) -> bool:
        """Return whether live messages are being published. Asks the broker four times a second at most."""
        async with self._looking:
            now = monotonic()
            if now >= self._looked_at + _LOOK_INTERVAL_S:
                self._looked_at = now
                records = await self._count_records()
                if None not in (self._records, records) and records != self._records:
                    self._live_until = now + QUIET_S
                self._records = records
        return monotonic() < self._live_until

    async def keep_pace(self, messages: int) -> None:
        """Wait as long as so many messages take at the rate that all imports of the process share."""
        now = monotonic()
        self._next_at = max(self._next_at, now) + messages / self._rate
        await asyncio.sleep(self._next_at - now)
