"""First attempts, straight from Kafka: what is neither in the log nor erased goes to the attempt queues."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.attempt_queues import AttemptQueues
from services.delivery.engine.clock import loop_time
from services.delivery.engine.direct_request import DirectRequest
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.known_deliveries import KnownDeliveries
from services.delivery.engine.results import ResultWriter
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.delivery_ids import DeliveryIds
from services.delivery.log.erasures import Erasures
from services.delivery.model.delivery import DUE_TYPE, DeliveryRequest, read_request
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.envelope import Event
from shared.contracts.ids import DeliveryId
from shared.runtime.clock import now_ms
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.logs import Log


class FirstAttemptHandler:
    """The handler of `delivery.requested`."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        deliveries: Deliveries,
        logged_ids: DeliveryIds,
        erasures: Erasures,
        endpoint_states: EndpointStates,
        attempter: Attempter,
        failure_monitor: FailureMonitor,
        results: ResultWriter,
        log: Log,
        *,
        assignment: Callable[[], tuple[int, list[int]]],
        shares: FairShares,
    ) -> None:
        self._shares = shares
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._erasures = erasures
        self._endpoint_states = endpoint_states
        self._results = results
        self._log = log
        self._assignment = assignment
        self._queues = AttemptQueues(
            webhooks, deliveries, erasures, endpoint_states, attempter, failure_monitor, results, log
        )
        self._known = KnownDeliveries(logged_ids, log, open_ids=self._queues.open.keys)
        self._last_order: dict[int, int] = {}
        """The order of the last request of each partition."""
        self._in_lookup: set[str] = set()
        """Requests of the batch that `handle` has not queued yet."""

    async def handle(self, batch: Batch) -> None:
        """Start to attempt or to log every request.

        Raises `DatabaseUnavailable` before anything is sent, and `Malformed` if a record is not a request.
        """
        assignment, partitions = self._assignment()
        self._known.follow_assignment(assignment)
        requests: dict[str, DeliveryRequest] = {}
        unsure: list[str] = []
        received: list[tuple[str, ConsumedEvent]] = []
        now = loop_time()
        for record in batch:
            self._shares.mark_active(record.event.workspace, now)
            if record.event.type != DUE_TYPE:
                request = read_request(record)
                is_new = self._known.is_new(request)  # by the record's time
                request = self._with_increasing_order(request)
                if delivery := self._queues.open.get(request.delivery_id):
                    # Taken at once: a delivery is dropped if all of its records are of a lost partition.
                    delivery.completions.append(batch.take(record))
                else:
                    received.append((request.delivery_id, record))
                    requests.setdefault(request.delivery_id, request)  # keep the position of the first one
                    if not is_new:
                        unsure.append(request.delivery_id)
        self._in_lookup.update(requests)
        try:
            await self._queue(batch, requests, unsure, received, assignment, partitions)
        finally:
            self._in_lookup.clear()

    async def _queue(
        self,
        batch: Batch,
        requests: Mapping[str, DeliveryRequest],
        unsure: Sequence[str],
        received: Sequence[tuple[str, ConsumedEvent]],
        assignment: int,
        partitions: Sequence[int],
    ) -> None:
        """Queue what is neither in the log nor erased, and start it."""
        # Before anything is sent: what the previous owners of gained partitions left open comes first.
        await self._endpoint_states.follow_assignment(assignment, partitions)
        self._handle_due_events(
            [record for record in batch if record.event.type == DUE_TYPE and record.event.subject]
        )
        unlogged = await self._unlogged_requests(requests, unsure)
        webhooks = {webhook_id: await self._webhooks.find(webhook_id) for webhook_id in unlogged}
        # Nothing awaits from here on: an attempt must not end before its records are taken.
        queued: list[str] = []
        for webhook_id, group in unlogged.items():
            if webhook := webhooks[webhook_id]:
                self._queues.add(webhook, group)
                queued.append(webhook_id)
                for request in group:
                    self._known.add(request.delivery_id)
            else:
                self._log.info(
                    "delivery.dropped", reason="webhook_deleted", webhook_id=webhook_id, count=len(group)
                )
        for delivery_id, record in received:
            # Others need no attempt: they are complete when this returns.
            if delivery := self._queues.open.get(delivery_id):
                delivery.completions.append(batch.take(record))
        if queued:
            failpoint("attempt.read")
            self._queues.advance(queued)

    def is_ready(self, assignment: int) -> bool:
        """Return whether open deliveries of this assignment are loaded, so that direct requests may start.

        If the assignment is a new one, the ids of the log are loaded, too.
        """
        self._known.follow_assignment(assignment)
        return self._endpoint_states.is_loaded(assignment)

    def is_new(self, delivery_id: DeliveryId, at_ms: int) -> bool:
        """Return whether the delivery is certainly neither in the log nor in hand.

        `at_ms` is the broker's time of its event: no earlier owner of the webhook's partition can have had a
        later one.
        """
        return (
            delivery_id not in self._queues.open
            and delivery_id not in self._in_lookup
            and self._known.is_new_at(delivery_id, at_ms)
        )

    def start_direct(
        self, event: Event, partition: int, at_ms: int, completion: DirectRequest, since: float
    ) -> bool:
        """Start a request that is new, with what ends with it; return False if it has to be published.

        `since` is the loop time from which on it has been open.
        """
        webhook = self._webhooks.loaded(event.subject)
        if webhook is None or not self.is_new(DeliveryId(event.id), at_ms):
            return False
        # The broker's time of the event, as a record of the request would have it a moment later.
        record = ConsumedEvent(event, "", partition, 0, min(at_ms, now_ms()))
        request = read_request(record)
        if self._erasures.is_erased(request.workspace, request.event_id):
            return False  # `handle` drops it: here, what has to wait would be logged with its payload
        self._shares.mark_active(event.workspace, loop_time())
        request = self._with_increasing_order(request)
        self._queues.add(webhook, [request], since)
        self._known.add(request.delivery_id)
        self._queues.open[request.delivery_id].completions.append(completion)
        failpoint("attempt.direct")
        self._queues.advance([webhook.id])
        return True

    async def stop(self) -> None:
        """Wait for attempts in flight; a lease covers those that take longer.

        Offsets of what the log does not have are not committed: the partition's next owner repeats it.
        """
        await self._queues.stop()
        await self._known.stop()

    def _handle_due_events(self, records: Sequence[ConsumedEvent]) -> None:
        """Search the log again for webhooks for which another process made deliveries due."""
        for record in records:
            endpoint_state = self._endpoint_states.state(record.event.subject or "", record.partition)
            endpoint_state.note_external_change()
            if delivery_id := record.event.attributes.get("delivery_id"):
                endpoint_state.request_manual(delivery_id)
            self._results.wake.set()

    async def _unlogged_requests(
        self, requests: Mapping[str, DeliveryRequest], unsure: Sequence[str]
    ) -> dict[str, list[DeliveryRequest]]:
        """Return the requests that are neither in the log nor erased, by webhook.

        `unsure` are the ids that the log may have.
        """
        if unsure:
            open_by_id, _ = await asyncio.gather(
                self._deliveries.open_by_id(unsure), self._webhooks.ensure_current()
            )
        else:
            open_by_id = {}
            await self._webhooks.ensure_current()
        by_webhook: dict[str, list[DeliveryRequest]] = {}
        for request in requests.values():
            if open_by_id.get(request.delivery_id):
                # The partition's previous owner wrote it after this process loaded the partition: a strict
                # webhook's later deliveries must wait behind it. It may have been due before the last search.
                self._endpoint_states.state(request.webhook_id, request.partition).note_external_change()
                self._results.wake.set()
            # Kafka delivers at least once: what is in the log was handled before.
            if request.delivery_id in open_by_id or self._erasures.is_erased(
                request.workspace, request.event_id
            ):
                continue
            by_webhook.setdefault(request.webhook_id, []).append(request)
        return by_webhook

    def _with_increasing_order(self, request: DeliveryRequest) -> DeliveryRequest:
        """Return the request with an order above the previous one of its partition.

        The broker's clock can go back, and strict order must not.
        """
        order = max(request.order, self._last_order.get(request.partition, 0) + 1)
        self._last_order[request.partition] = order
        return request if order == request.order else replace(request, order=order)
