"""Decide when a consumer fetches, and how long the broker may hold a fetch that finds no records.

Apache Kafka answers a held fetch as soon as a record arrives: an idle consumer needs one every few seconds.
The embedded broker answers it only when its wait is over, and pays for each partition that is asked for.
There, the consumer fetches the partitions for which a producer on this machine wakes it (`wake_ups`). Not
every producer does: all partitions are fetched at least once a second, and more often while records come
without a wake-up.

The embedded broker goes through all batches of a partition to find new records. When its wait is over before
that, it returns none, again and again. Where the response shows that there are some, the next fetch may be
held for twice as long.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from time import monotonic, time
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup

from shared.runtime.kafka.wake_ups import WakeUpReceiver

_MAX_WAIT_MS: Final = 2_000
"""Time for which the broker may hold a fetch of all partitions. Other requests of the connection,
such as the one for metadata, wait as long."""
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
"""Interval at which aiokafka looks for partitions to fetch without a reason to; its default is 0.2 s."""

Send = Callable[[Any, int, Any], Awaitable[bool]]
"""aiokafka's method that sends a fetch: assignment, node, request. Returns whether it found records."""


class _Pacing(Protocol):
    async def fetch(self, fetcher: Any, send: Send, assignment: Any, node_id: int, request: Any) -> bool: ...


class FetchPacing:
    """Paces the fetches of one consumer."""

    def __init__(self, *, answers_held_fetches: bool, wake_ups: WakeUpReceiver) -> None:
        """Set whether the broker answers a held fetch when a record arrives, and what ends a pause."""
        self._answers_held_fetches = answers_held_fetches
        self._wake_ups = wake_ups

    def install(self, client: AIOKafkaConsumer) -> None:
        """Pace the fetches of a started client."""
        # aiokafka has no setting for any of this. It sends each fetch through this method of its fetcher, and
        # sends no other one to the node until the method returns.
        fetcher = client._fetcher
        send = fetcher._proc_fetch_request
        fetcher._fetcher_timeout = _FETCHER_INTERVAL_S
        pacing: _Pacing = _HeldFetches() if self._answers_held_fetches else _WokenFetches(self._wake_ups)

        async def paced(assignment: Any, node_id: int, request: Any) -> bool:
            return await pacing.fetch(fetcher, send, assignment, node_id, request)

        fetcher._proc_fetch_request = paced


class _HeldFetches:
    """Fetches that the broker holds until a record arrives."""

    def __init__(self) -> None:
        self._partial_wait_ms = _PARTIAL_WAIT_MS

    async def fetch(self, fetcher: Any, send: Send, assignment: Any, node_id: int, request: Any) -> bool:
        """Send the fetch with the wait that suits it; return whether it found records."""
        is_complete = _is_complete(fetcher, assignment, node_id, request)
        request._max_wait_ms = _MAX_WAIT_MS if is_complete else self._partial_wait_ms
        found = await send(assignment, node_id, request)
        if found or is_complete:
            self._partial_wait_ms = _PARTIAL_WAIT_MS
        else:
            self._partial_wait_ms = min(2 * self._partial_wait_ms, _MAX_PARTIAL_WAIT_MS)
        if not assignment.active:  # a rebalance, which aiokafka has cancelled the fetch for
            _close_connection(fetcher, node_id)
        return found


class _WokenFetches:
    """Fetches of the partitions that have new records, as a wake-up or their high watermark shows.

    All partitions are fetched after a pause of a tenth of the time since wake-ups and records last did not
    match: at least 8 ms, at most a second.
    """

    def __init__(self, wake_ups: WakeUpReceiver) -> None:
        self._wake_ups = wake_ups
        self._unannounced_at = self._complete_at = monotonic()
        """Times at which wake-ups and records last did not match, and all partitions were last fetched."""
        self._fruitless: dict[TopicPartition, int] = {}
        """Positions at which a partition had no record, whatever its high watermark was before."""
        self._search_wait_ms = _SHORT_WAIT_MS
        """Wait with which the broker finds records. It only increases, because partitions only grow."""

    async def fetch(self, fetcher: Any, send: Send, assignment: Any, node_id: int, request: Any) -> bool:
        """Wait until there may be records, and fetch them; return whether any were found."""
        positions = dict(_positions(request))
        is_complete = _is_complete(fetcher, assignment, node_id, request)
        try:
            woken = await self._wait(assignment, positions, is_complete=is_complete)
        except asyncio.CancelledError:
            return False  # as aiokafka's own: it awaits what it has cancelled
        if woken:
            request._topics = [
                (topic, chosen)
                for topic, partitions in request._topics
                if (chosen := [item for item in partitions if TopicPartition(topic, item[0]) in woken])
            ]
            request._max_wait_ms, sent_at_ms = self._search_wait_ms, int(time() * 1000)
            found = await send(assignment, node_id, request)
            if _has_missed(fetcher, assignment, request, sent_at_ms):
                self._search_wait_ms = min(2 * self._search_wait_ms, _MAX_SEARCH_WAIT_MS)
            elif not found:
                self._unannounced_at = monotonic()
                self._fruitless |= {tp: positions[tp] for tp in woken}
            return found
        if monotonic() < self._complete_due_at:
            return False  # aiokafka builds the next request with the partitions that were handled meanwhile
        request._max_wait_ms = _SHORT_WAIT_MS
        found = await send(assignment, node_id, request)
        self._complete_at = monotonic()
        if found:
            self._unannounced_at = self._complete_at
        return found

    @property
    def _complete_due_at(self) -> float:
        quiet_s = self._complete_at - self._unannounced_at
        return self._complete_at + min(max(_MIN_PAUSE_S, quiet_s * _PAUSE_SHARE), _MAX_PAUSE_S)

    async def _wait(
        self, assignment: Any, positions: Mapping[TopicPartition, int], *, is_complete: bool
    ) -> set[TopicPartition]:
        """Return the partitions that have records; none when all are due, or may be offered again by now."""
        woken = {
            tp
            for tp, position in positions.items()
            if (assignment.state_value(tp).highwater or 0) > position != self._fruitless.get(tp)
        }
        woken |= self._wake_ups.take(positions, assignment.tps)
        pause_s = self._complete_due_at - monotonic()
        if woken or pause_s <= 0:
            return woken
        try:
            async with asyncio.timeout(pause_s if is_complete else min(pause_s, _MIN_PAUSE_S)):
                await self._wake_ups.event.wait()
        except TimeoutError:
            return set()
        return self._wake_ups.take(positions, assignment.tps)


def _positions(request: Any) -> Iterator[tuple[TopicPartition, int]]:
    for topic, partitions in request.topics:
        for partition, position, _ in partitions:
            yield TopicPartition(topic, partition), position


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
