"""When a consumer fetches, and how long the broker may hold a fetch that finds no records.

Apache Kafka answers a held fetch as soon as a record arrives: an idle consumer needs one every few seconds.
The embedded broker answers it only when its wait is over. There, fetches are not held, and after one that
found nothing the consumer pauses until a producer on this machine wakes it (`wake_ups`). Not every producer
does, so the pause lasts a tenth of the time since the last record, at least 8 ms and at most half a second.
"""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

_MAX_WAIT_MS: Final = 2_000
"""How long the broker may hold a fetch of all partitions. Also an answer to other requests of the connection,
such as the one for metadata, waits that long."""
_PARTIAL_WAIT_MS: Final = 20
"""The same for a fetch that lacks partitions, because their records wait for the handler. They are not
fetched until it is answered."""
_UNHELD_WAIT_MS: Final = 1
"""With 0, the embedded broker returns no records."""
_MIN_PAUSE_S: Final = 0.008
_MAX_PAUSE_S: Final = 0.5
_PAUSE_SHARE: Final = 0.1
_FETCHER_INTERVAL_S: Final = 2.0
"""How often aiokafka looks for partitions to fetch without a reason to do so; by default every 0.2 s."""


class FetchPacing:
    """Paces the fetches of one consumer."""

    def __init__(self, *, answers_held_fetches: bool, wake_up: asyncio.Event) -> None:
        """Set whether the broker answers a held fetch when a record arrives, and what ends a pause."""
        self._answers_held_fetches = answers_held_fetches
        self._wake_up = wake_up
        self._has_more = True
        """Whether the last fetch found records."""
        self._found_at = 0.0
        """The loop time of the last fetch that found records, or of the start."""

    def install(self, client: AIOKafkaConsumer) -> None:
        """Pace the fetches of a started client."""
        # aiokafka has no setting for any of this. It sends each fetch through this method of its fetcher, and
        # sends no other one to the node until the method returns.
        fetcher = client._fetcher
        send = fetcher._proc_fetch_request
        self._has_more, self._found_at = True, asyncio.get_running_loop().time()
        fetcher._fetcher_timeout = _FETCHER_INTERVAL_S

        async def paced(assignment: Any, node_id: int, request: Any) -> bool:
            is_complete = _is_complete(fetcher, assignment, node_id, request)
            if self._answers_held_fetches:
                request._max_wait_ms = _MAX_WAIT_MS if is_complete else _PARTIAL_WAIT_MS
                return bool(await send(assignment, node_id, request))
            request._max_wait_ms = _UNHELD_WAIT_MS
            try:
                await self._pause(is_complete=is_complete)
            except asyncio.CancelledError:
                return False  # as aiokafka's own: it awaits what it has cancelled
            self._has_more = bool(await send(assignment, node_id, request))
            if self._has_more:
                self._found_at = asyncio.get_running_loop().time()
            return self._has_more

        fetcher._proc_fetch_request = paced

    async def _pause(self, *, is_complete: bool) -> None:
        """Wait until there may be records."""
        if not self._has_more:
            quiet_s = asyncio.get_running_loop().time() - self._found_at
            pause_s = min(max(_MIN_PAUSE_S, quiet_s * _PAUSE_SHARE), _MAX_PAUSE_S)
            try:
                async with asyncio.timeout(pause_s if is_complete else _MIN_PAUSE_S):
                    await self._wake_up.wait()
            except TimeoutError:
                pass
        # Before the fetch: a wake-up during it may be for a record that it does not find.
        self._wake_up.clear()


def _is_complete(fetcher: Any, assignment: Any, node_id: int, request: Any) -> bool:
    """Return whether a fetch has all partitions of this node that are assigned."""
    requested = sum(len(partitions) for _, partitions in request.topics)
    return requested == sum(1 for tp in assignment.tps if fetcher._select_read_replica(tp) == node_id)
