"""Direct requests: from fan-out to the attempt queues of the same process, without `delivery.requested`.

A request goes directly if this process owns its webhook's partition of that topic and can start the attempt
at once, its delivery is certainly not in the log, and its webhook is not strict. The others are published.

The record of the event stays open until each of its direct requests is in the log. If the process loses the
webhook's partition before that, it publishes the request for the next owner. If it loses the partition of the
event, the next owner of that repeats the event under the same delivery ids.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from services.delivery.engine.backlog import Backlog
from services.delivery.engine.direct_request import DirectEvent, DirectRequest
from services.delivery.engine.first_attempts import FirstAttemptHandler
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.envelope import Event
from shared.contracts.errors import BrokerUnavailable, Rejected
from shared.contracts.ids import DeliveryId
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Completion, ConsumedEvent
from shared.runtime.kafka.producer import Producer, Record, event_record, partition_of
from shared.runtime.logs import Log

_MAX_OPEN: Final = 2_000
_MAX_OPEN_BYTES: Final = 16 << 20
"""Direct requests in memory, and their bodies. What is beyond it is published."""
_PUBLISH_TIMEOUT_S: Final = 30.0
_RETRY_INTERVAL_S: Final = 0.5
_MAX_RETURNED: Final = 100
"""Requests that are published together."""

Requests = tuple[ConsumedEvent, Sequence[Event]]
"""An event, and the requests for its deliveries."""


class DirectRequests:
    """The direct requests of this process."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        producer: Producer,
        first_attempts: FirstAttemptHandler,
        backlog: Backlog,
        log: Log,
        *,
        assignment: Callable[[], tuple[int, list[int]]],
    ) -> None:
        """Initialise; `assignment` is that of `delivery.requested`."""
        self._webhooks = webhooks
        self._producer = producer
        self._first_attempts = first_attempts
        self._backlog = backlog
        self._log = log
        self._assignment = assignment
        self._drained_assignment = -1
        self._open = 0
        self._open_bytes = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._returned: deque[tuple[DirectRequest, Event]] = deque()
        """Requests that the owner of their webhook's partition has to deal with, and what it gets."""
        self._return_task: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Publish no more requests of lost partitions: the offsets of their events are not committed."""
        if self._return_task:
            self._return_task.cancel()
            await asyncio.gather(self._return_task, return_exceptions=True)

    def split(self, expanded: Sequence[Requests]) -> tuple[list[Record], list[Requests]]:
        """Return the records to publish, in order, and the events that have direct requests, with those."""
        records: list[Record] = []
        direct: list[Requests] = []
        owned, count = self._ready_partitions()
        planned, planned_bytes = self._open, self._open_bytes
        for received, requests in expanded:
            own: list[Event] = []
            for request in requests:
                webhook = self._webhooks.loaded(request.subject)
                if (
                    webhook is not None
                    and not webhook.strict
                    and planned < _MAX_OPEN
                    and planned_bytes + len(request.data) <= _MAX_OPEN_BYTES
                    and partition_of(request.subject.encode(), count) in owned
                    and self._first_attempts.is_new(DeliveryId(request.id), received.at_ms)
                ):
                    own.append(request)
                    planned += 1
                    planned_bytes += len(request.data)
                else:
                    records.append(event_record(DELIVERY_REQUESTED, request.subject, request))
            if own:
                direct.append((received, own))
        return records, direct

    def begin(
        self, completion: Completion, received: ConsumedEvent, requests: Sequence[Event], since: float
    ) -> DirectEvent:
        """Start the attempts of an event's direct requests; `completion` ends when the log has all of them.

        `since` is the loop time from which on the event has been open.
        """
        if completion.is_revoked:
            return DirectEvent(completion, 0, lambda: None)  # the next owner of its partition repeats it
        workspace, source = received.event.workspace, (received.topic, received.partition)
        event = DirectEvent(completion, len(requests), lambda: self._backlog.end_direct(workspace, source))
        self._backlog.begin_direct(workspace, source)
        assignment, _ = self._assignment()
        owned, count = self._ready_partitions()
        for request in requests:
            self._open += 1
            self._open_bytes += len(request.data)
            self._none_open.clear()
            direct = DirectRequest(self, event, request, assignment)
            partition = partition_of(request.subject.encode(), count)
            if partition in owned and self._first_attempts.start_direct(
                request, partition, received.at_ms, direct, since
            ):
                metrics.DIRECT_REQUESTS.inc()
            else:  # since `split`, the partition was lost, or the same request came from elsewhere
                self.publish(direct, request)
        return event

    async def drain(self) -> None:
        """Start no more before the next assignment, and wait until the log has all that are open."""
        self._drained_assignment, _ = self._assignment()
        await self._none_open.wait()

    def is_lost(self, assignment: int) -> bool:
        """Return whether the partitions of this assignment were given up."""
        return self._assignment()[0] != assignment

    def publish(self, request: DirectRequest, event: Event) -> None:
        """Publish an event for the owner of the webhook's partition, and end the request then."""
        self._returned.append((request, event))
        if self._return_task is None or self._return_task.done():
            self._return_task = asyncio.create_task(self._publish_returned())

    def end(self, request: DirectRequest, error: Exception | None) -> None:
        """End a request: the log has it, it is published, or it failed with the error."""
        self._open -= 1
        self._open_bytes -= len(request.event.data)
        if not self._open:
            self._none_open.set()
        request.source.end(error)

    def _ready_partitions(self) -> tuple[frozenset[int], int]:
        """Return the partitions of which this process may start attempts, and how many the topic has."""
        assignment, partitions = self._assignment()
        count = self._producer.partition_count(DELIVERY_REQUESTED)
        if (
            not partitions  # a rebalance is under way: what it loaded now would be of too early a time
            or assignment == self._drained_assignment
            or not count
            or not self._first_attempts.is_ready(assignment)
        ):
            return frozenset(), 1
        return frozenset(partitions), count

    async def _publish_returned(self) -> None:
        """Publish until nothing is left, however long Kafka is unavailable."""
        count = _MAX_RETURNED
        while self._returned:
            batch = list(islice(self._returned, count))
            rejected: Rejected | None = None
            # The next owner of the event's partition repeats the event, and with it the request.
            records = [
                event_record(DELIVERY_REQUESTED, event.subject, event)
                for request, event in batch
                if not request.source.is_revoked
            ]
            try:
                if records:
                    await self._producer.publish_all(records, timeout_s=_PUBLISH_TIMEOUT_S)
            except Rejected as error:  # one of them is too large: find it
                if count > 1:
                    count = 1
                    continue
                rejected = error
            except Exception as error:  # noqa: BLE001 -- without an end of these, their events stay open
                detail = str(error) if isinstance(error, BrokerUnavailable) else repr(error)
                self._log.warning("direct_requests.publish_failed", error=detail)
                await asyncio.sleep(_RETRY_INTERVAL_S)
                continue
            failpoint("direct.published")
            for request, _ in batch:
                self._returned.popleft()
                self.end(request, rejected)


def published(expanded: Sequence[Requests]) -> list[Record]:
    """Return the records of requests that are published, in order."""
    return [
        event_record(DELIVERY_REQUESTED, request.subject, request)
        for _, requests in expanded
        for request in requests
    ]
