"""When a consumer fetches, and how long the broker may hold a fetch that finds no records.

Apache Kafka answers a held fetch as soon as a record arrives: an idle consumer needs one every few seconds.
The embedded broker answers it only when its wait is over. There, fetches are hardly held, and after one that
found nothing the consumer pauses until a producer on this machine wakes it (`wake_ups`), at most for a
second. Not every producer does: while records come without a wake-up, the pause is a tenth of the time since
the last of them, at least 8 ms.

The embedded broker goes through all batches of a partition to find new records. When its wait is over before
that, it returns none, again and again. Where the response shows that there are some, the next fetch may be
held for twice as long.
"""

import asyncio
from time import time
from typing import Any, Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup

_MAX_WAIT_MS: Final = 2_000
"""How long the broker may hold a fetch of all partitions. Also an answer to other requests of the connection,
such as the one for metadata, waits that long."""
_PARTIAL_WAIT_MS: Final = 2
"""The same for a fetch that lacks partitions, because their records wait for the handler. They are not
fetched until it is answered: a record of theirs arrives that much later."""
_MAX_PARTIAL_WAIT_MS: Final = 20
"""Each partial fetch that finds nothing doubles the wait of the next one up to this: a partition can be
paused for long."""
_SHORT_WAIT_MS: Final = 5
"""The same for the embedded broker, of a fetch that may find nothing."""
_MAX_SEARCH_WAIT_MS: Final = 4_000
"""The same for a fetch that finds records as soon as the broker has gone through the partition: about 0.7 ms
for 1,000 batches."""
_MIN_PAUSE_S: Final = 0.008
_MAX_PAUSE_S: Final = 1.0
_PAUSE_SHARE: Final = 0.1
_FETCHER_INTERVAL_S: Final = 2.0
"""How often aiokafka looks for partitions to fetch without a reason to do so; by default every 0.2 s."""

_Reason = Literal["more", "wake-up", "timeout"]
"""Why there may be records: more of them, a wake-up, or the end of the pause."""


class FetchPacing:
    """Paces the fetches of one consumer."""

    def __init__(self, *, answers_held_fetches: bool, wake_up: asyncio.Event) -> None:
        """Set whether the broker answers a held fetch when a record arrives, and what ends a pause."""
        self._answers_held_fetches = answers_held_fetches
        self._wake_up = wake_up
        self._has_more = True
        """Whether to fetch at once: the last fetch found records, or lacked partitions."""
        self._partial_wait_ms = _PARTIAL_WAIT_MS
        self._has_missed = False
        """Whether the last fetch did not find records that the broker has."""
        self._search_wait_ms = _SHORT_WAIT_MS
        """How long the broker needs to find records. It rises only, as partitions do."""
        self._unannounced_at = 0.0
        """The loop time of the start, or at which wake-ups and records last did not match."""

    def install(self, client: AIOKafkaConsumer) -> None:
        """Pace the fetches of a started client."""
        # aiokafka has no setting for any of this. It sends each fetch through this method of its fetcher, and
        # sends no other one to the node until the method returns.
        fetcher = client._fetcher
        send = fetcher._proc_fetch_request
        self._has_more, self._unannounced_at = True, asyncio.get_running_loop().time()
        fetcher._fetcher_timeout = _FETCHER_INTERVAL_S

        async def paced(assignment: Any, node_id: int, request: Any) -> bool:
            is_complete = _is_complete(fetcher, assignment, node_id, request)
            if self._answers_held_fetches:
                request._max_wait_ms = _MAX_WAIT_MS if is_complete else self._partial_wait_ms
                found = bool(await send(assignment, node_id, request))
                if found or is_complete:
                    self._partial_wait_ms = _PARTIAL_WAIT_MS
                else:
                    self._partial_wait_ms = min(2 * self._partial_wait_ms, _MAX_PARTIAL_WAIT_MS)
                if not assignment.active:  # a rebalance, which aiokafka has cancelled the fetch for
                    _close_connection(fetcher, node_id)
                return found
            try:
                reason = await self._pause(is_complete=is_complete)
            except asyncio.CancelledError:
                return False  # as aiokafka's own: it awaits what it has cancelled
            has_records = reason == "wake-up" or self._has_missed
            wait_ms = self._search_wait_ms if has_records else _SHORT_WAIT_MS
            request._max_wait_ms, sent_at_ms = wait_ms, int(time() * 1000)
            found = bool(await send(assignment, node_id, request))
            self._has_missed = _has_missed(fetcher, assignment, request, sent_at_ms)
            if self._has_missed:
                self._search_wait_ms = max(self._search_wait_ms, min(2 * wait_ms, _MAX_SEARCH_WAIT_MS))
            # A busy broker may not have found the record that the wake-up was for.
            if (reason == "timeout" and (found or self._has_missed)) or (reason == "wake-up" and not found):
                self._unannounced_at = asyncio.get_running_loop().time()
            self._has_more = found or self._has_missed or not is_complete
            return found

        fetcher._proc_fetch_request = paced

    async def _pause(self, *, is_complete: bool) -> _Reason:
        """Wait until there may be records, and return why."""
        reason: _Reason = "more"
        if not is_complete:
            await asyncio.sleep(_MIN_PAUSE_S)
        elif not self._has_more:
            quiet_s = asyncio.get_running_loop().time() - self._unannounced_at
            try:
                async with asyncio.timeout(min(max(_MIN_PAUSE_S, quiet_s * _PAUSE_SHARE), _MAX_PAUSE_S)):
                    await self._wake_up.wait()
            except TimeoutError:
                reason = "timeout"
        if self._wake_up.is_set():
            reason = "wake-up"
            # Before the fetch: a wake-up during it may be for a record that it does not find.
            self._wake_up.clear()
        return reason


def _close_connection(fetcher: Any, node_id: int) -> None:
    """Close the connection of a fetch that the broker may still hold: the next one would wait behind it."""
    if connection := fetcher._client._conns.get((node_id, ConnectionGroup.DEFAULT)):
        connection.close()


def _is_complete(fetcher: Any, assignment: Any, node_id: int, request: Any) -> bool:
    """Return whether a fetch has all partitions of this node that are assigned."""
    requested = sum(len(partitions) for _, partitions in request.topics)
    return requested == sum(1 for tp in assignment.tps if fetcher._select_read_replica(tp) == node_id)


def _has_missed(fetcher: Any, assignment: Any, request: Any, sent_at_ms: int) -> bool:
    """Return whether the response has no records of a partition, but shows that there are some."""
    for topic, partitions in request.topics:
        for partition, offset, _ in partitions:
            tp = TopicPartition(topic, partition)
            state = assignment.state_value(tp)
            if tp in fetcher._records or state is None or state.highwater is None:
                continue
            # What an earlier response showed does not count: this one may be an error.
            if state.timestamp >= sent_at_ms and state.highwater > offset:
                return True
    return False
