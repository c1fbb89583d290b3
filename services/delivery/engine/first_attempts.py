"""First attempts, straight from Kafka: each request goes to its endpoint's queue at once.

An attempt starts as soon as the limits of its endpoint allow it. Its result goes to the log with others of
the same moment (`results`), and its record is complete when the log has it. A request that cannot be finished
soon is handed over: an attempt in flight is logged with a lease, and what waits is logged as waiting. The
scheduler makes its attempts then. So a slow endpoint delays neither attempts at others nor, for long, a
commit.

Strict order: a delivered request releases the next one at once. After any other result, and after a lease,
the next one is neither attempted nor logged before the log has the result or the lease.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_queue import EndpointQueue, OpenDelivery, PatienceClock
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.results import LostPartition, ResultWriter
from services.delivery.log.deliveries import ClaimedDelivery, Deliveries, attempt_lease
from services.delivery.log.erasures import Erasures
from services.delivery.model.delivery import DUE_TYPE, DeliveryRequest, read_request
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.retry_policy import Attempt, AttemptOutcome
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

_TICK_S: Final = 0.1
_STALL_TIMEOUT_S: Final = 0.2
"""An endpoint is slow if it finishes no attempt in this time, or takes longer for one."""
_MAX_OPEN_S: Final = 1.8
"""A request that is open for longer is handed over to the log. This bounds what a killed process repeats."""
_MAX_WAITING: Final = 1_000
"""Requests of one webhook that wait in memory: those of others in its partition need room, too."""
_SHUTDOWN_TIMEOUT_S: Final = 10.0


class FirstAttemptHandler:
    """The handler of `delivery.requested`."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        deliveries: Deliveries,
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
        self._attempter = attempter
        self._failure_monitor = failure_monitor
        self._results = results
        self._log = log
        self._assignment = assignment
        self._open: dict[str, OpenDelivery] = {}
        """By delivery id: the requests that are not in the log."""
        self._queues: dict[str, EndpointQueue] = {}
        """By webhook id."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._clock = PatienceClock(_TICK_S)
        self._timer: asyncio.TimerHandle | None = None
        self._last_order: dict[int, int] = {}
        """The order of the last request of each partition."""

    async def handle(self, batch: Batch) -> None:
        """Start to attempt or to log every request.

        Raises `DatabaseUnavailable` before anything is sent, and `Malformed` if a record is not a request.
        """
        requests: dict[str, DeliveryRequest] = {}
        received: list[tuple[str, ConsumedEvent]] = []
        now = loop_time()
        for record in batch:
            self._shares.mark_active(record.event.workspace, now)
            if record.event.type != DUE_TYPE:
                request = self._with_increasing_order(read_request(record))
                received.append((request.delivery_id, record))
                if request.delivery_id not in self._open:  # keep the position of the first one
                    requests.setdefault(request.delivery_id, request)
        # Before anything is sent: what the previous owners of gained partitions left open comes first.
        await self._endpoint_states.follow_assignment(*self._assignment())
        self._handle_due_events(
            [record for record in batch if record.event.type == DUE_TYPE and record.event.subject]
        )
        unlogged = await self._unlogged_requests(requests)
        webhooks = {webhook_id: await self._webhooks.find(webhook_id) for webhook_id in unlogged}
        # Nothing awaits from here on: an attempt must not end before its records are taken.
        queues: list[EndpointQueue] = []
        for webhook_id, group in unlogged.items():
            if webhook := webhooks[webhook_id]:
                queues.append(self._enqueue(webhook, group, now))
            else:
                self._log.info(
                    "delivery.dropped", reason="webhook_deleted", webhook_id=webhook_id, count=len(group)
                )
        for delivery_id, record in received:
            # Others need no attempt, or were logged meanwhile: they are complete when this returns.
            if delivery := self._open.get(delivery_id):
                delivery.completions.append(batch.take(record))
        if queues:
            failpoint("attempt.read")
            for queue in queues:
                self._advance(queue)

    async def stop(self) -> None:
        """Wait for attempts in flight; a lease covers those that take longer.

        Offsets of what the log does not have are not committed: the partition's next owner repeats it.
        """
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=_SHUTDOWN_TIMEOUT_S)
        if self._timer:
            self._timer.cancel()

    def _handle_due_events(self, records: Sequence[ConsumedEvent]) -> None:
        """Search the log again for webhooks for which another process made deliveries due."""
        for record in records:
            endpoint_state = self._endpoint_states.state(record.event.subject or "", record.partition)
            endpoint_state.note_external_change()
            if delivery_id := record.event.attributes.get("delivery_id"):
                endpoint_state.request_manual(delivery_id)
            self._results.wake.set()

    async def _unlogged_requests(
        self, requests: Mapping[str, DeliveryRequest]
    ) -> dict[str, list[DeliveryRequest]]:
        """Return the requests that are neither in the log nor erased, by webhook."""
        open_by_id, _ = await asyncio.gather(
            self._deliveries.open_by_id(list(requests)), self._webhooks.ensure_current()
        )
        by_webhook: dict[str, list[DeliveryRequest]] = {}
        for request in requests.values():
            if open_by_id.get(request.delivery_id):
                # The partition's previous owner wrote it after this process loaded the partition: a strict
                # webhook's later deliveries must wait behind it.
                self._endpoint_states.state(request.webhook_id, request.partition).note_due(utcnow())
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

    # The queues: none of this awaits, because permits are shared

    def _enqueue(
        self, webhook: OutgoingWebhook, requests: Sequence[DeliveryRequest], now: float
    ) -> EndpointQueue:
        queue = self._queues.get(webhook.id)
        if queue is None or queue.state.lost:
            state = self._endpoint_states.state(webhook.id, requests[0].partition)
            queue = self._queues[webhook.id] = EndpointQueue(webhook, state)
        queue.webhook = webhook
        for request in requests:
            delivery = self._open[request.delivery_id] = OpenDelivery(request, now)
            queue.waiting.append(delivery)
        if self._timer is None:
            self._clock.start()
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        return queue

    def _advance(self, queue: EndpointQueue) -> None:
        """Start what may start now, and hand over what has to wait for long."""
        state = queue.state
        webhook = queue.webhook = self._webhooks.loaded(queue.webhook.id) or queue.webhook
        state.update_webhook(webhook)
        if queue.waiting and self._must_wait_in_log(queue):
            self._hand_over(queue)
        while queue.waiting and not (webhook.strict and (queue.in_flight or queue.unacknowledged)):
            if not self._endpoint_states.available_permits(webhook.workspace):
                break  # any attempt's end can free one: the next tick looks again
            if not state.available_permits(webhook):
                if not queue.in_flight:
                    # A hold, a limit or attempts of the scheduler: no attempt of this queue ends it.
                    self._hand_over(queue)
                break
            self._start(queue, queue.waiting.popleft())
        if state.slow or len(queue.waiting) > _MAX_WAITING:
            self._hand_over(queue)
        if queue.is_empty and self._queues.get(webhook.id) is queue:
            del self._queues[webhook.id]

    def _must_wait_in_log(self, queue: EndpointQueue) -> bool:
        """Return whether nothing may start before an earlier delivery ends or the webhook changes."""
        return (
            (queue.webhook.strict and queue.goes_to_log)
            or queue.webhook.policy.schedule[0] > 0
            or not self._webhooks.may_send(queue.webhook)  # disabled or paused after fan-out
        )

    def _start(self, queue: EndpointQueue, delivery: OpenDelivery) -> None:
        request = delivery.request
        if delivery.is_lost():
            del self._open[request.delivery_id]
            return
        if self._erasures.is_erased(request.workspace, request.event_id):  # while it waited
            self._close(delivery)
            return
        if all(other.lease is not None for other in queue.in_flight.values()):
            queue.progress_at = self._clock.now
        delivery.started_at = self._clock.now
        queue.in_flight[request.delivery_id] = delivery
        self._endpoint_states.acquire(queue.state, queue.webhook)
        task = asyncio.create_task(self._attempt(queue, delivery))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, queue: EndpointQueue, delivery: OpenDelivery) -> None:
        """Attempt one request and record the result."""
        claimed, webhook = ClaimedDelivery(delivery.request, manual=delivery.request.manual), queue.webhook
        is_logged = False
        try:
            failpoint("attempt.before_send")
            attempt, outcome = await self._attempter.attempt(webhook, claimed)
            failpoint("attempt.sent")
            self._failure_monitor.record_attempt(
                queue.state, webhook, attempt, outcome, manual=claimed.manual
            )
            queue.progress_at = self._clock.now
            queue.state.slow = self._clock.now - delivery.started_at > _STALL_TIMEOUT_S
            if delivery.lease is None:
                self._log_result(queue, delivery, attempt, outcome)
            else:
                await self._write_leased(queue, delivery, claimed, attempt, outcome)
            is_logged = True
        finally:
            if not is_logged and delivery.lease is None:
                # The attempt broke off: it is made again when the lease ends.
                self._lease(queue, delivery, due_at=utcnow() + attempt_lease(webhook.timeout_s))
            self._endpoint_states.finish(queue.state)
            del queue.in_flight[delivery.request.delivery_id]
            if queue.state.next_due is not None:
                self._results.wake.set()
            self._advance(queue)

    def _log_result(
        self, queue: EndpointQueue, delivery: OpenDelivery, attempt: Attempt, outcome: AttemptOutcome
    ) -> None:
        delivered = outcome.status == "delivered"
        blocks = queue.webhook.strict and not delivered
        queue.unacknowledged += blocks
        self._results.put(
            self._deliveries.attempted_entry(delivery.request, attempt, outcome),
            partial(self._after_entry, queue, delivery, outcome.due_at, blocks),
            # What was delivered is worth an entry in any case: it prevents a repeat.
            is_lost=_never if delivered else delivery.is_lost,
        )

    async def _write_leased(
        self,
        queue: EndpointQueue,
        delivery: OpenDelivery,
        claimed: ClaimedDelivery,
        attempt: Attempt,
        outcome: AttemptOutcome,
    ) -> None:
        """Write the result of an attempt that took longer than its request may be open."""
        assert delivery.lease is not None  # noqa: S101 -- the caller's condition
        # The lease of this delivery must be in the log before its result.
        if not await delivery.lease:
            return
        await self._results.write(self._deliveries.result_update(claimed, attempt, outcome))
        if outcome.due_at is not None:
            queue.state.note_due(outcome.due_at)

    def _lease(self, queue: EndpointQueue, delivery: OpenDelivery, *, due_at: datetime | None = None) -> None:
        """Log an attempt in flight with a lease. `due_at` is its end if the attempt writes no result."""
        delivery.lease = asyncio.get_running_loop().create_future()
        queue.unacknowledged += queue.webhook.strict
        self._results.put(
            self._deliveries.leased_entry(delivery.request, queue.webhook.timeout_s),
            partial(self._after_entry, queue, delivery, due_at, queue.webhook.strict),
            is_lost=delivery.is_lost,
        )

    def _hand_over(self, queue: EndpointQueue) -> None:
        """Log what waits, for the scheduler. What waits in strict order needs its head in the log first."""
        webhook = queue.webhook
        if webhook.strict:
            for delivery in queue.in_flight.values():
                if delivery.lease is None:
                    self._lease(queue, delivery)
            if queue.unacknowledged:
                return  # `_after_entry` comes back
        due_at = utcnow() + timedelta(seconds=webhook.policy.schedule[0])
        for delivery in queue.waiting:
            queue.unacknowledged += webhook.strict
            self._results.put(
                self._deliveries.waiting_entry(delivery.request, due_at),
                partial(self._after_hand_over, queue, delivery, due_at, webhook.strict),
                is_lost=delivery.is_lost,
            )
        queue.waiting.clear()

    def _after_hand_over(
        self,
        queue: EndpointQueue,
        delivery: OpenDelivery,
        due_at: datetime,
        blocks: bool,
        error: Exception | None,
    ) -> None:
        if error is None and delivery.request.manual:
            queue.state.request_manual(delivery.request.delivery_id)
        self._after_entry(queue, delivery, due_at, blocks, error)

    def _after_entry(
        self,
        queue: EndpointQueue,
        delivery: OpenDelivery,
        due_at: datetime | None,
        blocks: bool,
        error: Exception | None,
    ) -> None:
        """Complete a request that is in the log. `blocks` says that later requests wait for its entry."""
        if isinstance(error, (LostPartition, DatabaseUnavailable)):
            del self._open[delivery.request.delivery_id]  # not complete: it is handled again
        else:
            if error is not None:
                delivery_id = delivery.request.delivery_id
                self._log.error("delivery.not_logged", delivery_id=delivery_id, exc_info=error)
            elif due_at is not None:
                # After the write: a search before it finds nothing.
                queue.state.note_due(due_at)
                self._results.wake.set()
            self._close(delivery, error)
        if delivery.lease is not None:
            delivery.lease.set_result(error is None)
        if blocks and not isinstance(error, DatabaseUnavailable):
            failpoint("attempt.head_written")
            queue.unacknowledged -= 1
            self._advance(queue)

    def _close(self, delivery: OpenDelivery, error: Exception | None = None) -> None:
        del self._open[delivery.request.delivery_id]
        delivery.complete(error)

    def _tick(self) -> None:
        """Hand over what is open for too long, and start what waits for permits that all endpoints share."""
        self._clock.tick()
        now = loop_time()
        for queue in list(self._queues.values()):
            stalled = self._clock.now - queue.progress_at > _STALL_TIMEOUT_S
            if queue.in_flight and stalled:
                queue.state.slow = True
            for delivery in queue.in_flight.values():
                if delivery.lease is None and (queue.state.slow or now - delivery.since > _MAX_OPEN_S):
                    self._lease(queue, delivery)
            if queue.waiting and now - queue.waiting[0].since > _MAX_OPEN_S:
                self._hand_over(queue)
            self._advance(queue)
        self._timer = None
        if self._queues:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)


def _never() -> bool:
    return False
