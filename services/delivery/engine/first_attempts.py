"""First attempts, straight from Kafka: one read per batch, concurrent attempts, one write, commit.

The attempts of a batch start as soon as the batch is read, concurrently with earlier batches. Batches are
written to the log in order; consecutive batches that are ready share one write. The records of requests are
taken out of the consumer's batch, and completed when the log has their results. When a batch's time is up,
attempts still in flight are logged with a lease, and requests that could not start are logged as waiting.
So a slow endpoint delays neither attempts at others nor, for long, a commit.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.batches import RecordBatch, WebhookBatch
from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.results import ResultWriter
from services.delivery.log.deliveries import ClaimedDelivery, Deliveries
from services.delivery.log.erasures import Erasures
from services.delivery.model.delivery import DUE_TYPE, DeliveryRequest, read_request
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.batch import Batch, ConsumedEvent
from shared.runtime.logs import Log
from shared.runtime.mongo import Write, utcnow

_STALL_TIMEOUT_S: Final = 0.2
"""A batch stops waiting for an endpoint that finishes no attempt in this time."""
_BATCH_TIMEOUT_S: Final = 0.6
"""A batch waits for attempts no longer than this."""
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
        self._workers: set[asyncio.Task[None]] = set()
        self._record_batches: deque[RecordBatch] = deque()
        self._unsaved: dict[str, RecordBatch] = {}
        """The unsaved batches by delivery id."""
        self._last_batches: dict[str, WebhookBatch] = {}
        """The last unsaved webhook batch of each strict webhook."""
        self._save_task: asyncio.Task[None] | None = None
        self._last_order: dict[int, int] = {}
        """The order of the last request of each partition."""

    async def handle(self, batch: Batch) -> None:
        """Start to attempt or to log every request.

        Raises `DatabaseUnavailable` before anything is sent, and `Malformed` if a record is not a request.
        """
        requests: dict[str, DeliveryRequest] = {}
        received: list[tuple[str, ConsumedEvent]] = []
        for record in batch:
            self._shares.mark_active(record.event.workspace, loop_time())
            if record.event.type != DUE_TYPE:
                request = self._with_increasing_order(read_request(record))
                received.append((request.delivery_id, record))
                if request.delivery_id not in self._unsaved:  # keep the position of the first one
                    requests.setdefault(request.delivery_id, request)
        # Before anything is sent: what the previous owners of gained partitions left open comes first.
        await self._endpoint_states.follow_assignment(*self._assignment())
        self._handle_due_events(
            [record for record in batch if record.event.type == DUE_TYPE and record.event.subject]
        )
        record_batch = RecordBatch()
        for webhook_id, group in (await self._unlogged_requests(requests)).items():
            webhook = await self._webhooks.find(webhook_id)
            if webhook is None:
                self._log.info(
                    "delivery.dropped",
                    reason="webhook_deleted",
                    webhook_id=webhook_id,
                    count=len(group),
                )
                continue
            record_batch.batches.append(
                WebhookBatch(
                    webhook,
                    self._endpoint_states.state(webhook_id, group[0].partition),
                    group,
                )
            )
            record_batch.completions |= {request.delivery_id: [] for request in group}
        self._unsaved |= dict.fromkeys(record_batch.completions, record_batch)
        for delivery_id, record in received:
            # Others need no attempt, or were saved meanwhile: they are complete when this returns.
            if (unsaved := self._unsaved.get(delivery_id)) is not None:
                unsaved.completions[delivery_id].append(batch.take(record))
        if record_batch.batches:
            failpoint("attempt.read")
            self._start_batch(record_batch)

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

    def _start_batch(self, record_batch: RecordBatch) -> None:
        """Start the attempts of a batch, and the task that saves it when they have ended."""
        self._record_batches.append(record_batch)
        workers_by_batch = {
            batch: workers
            for batch in record_batch.batches
            if (workers := self._start_workers(batch, record_batch.saved))
        }
        if workers_by_batch:
            record_batch.workers_done = asyncio.create_task(self._wait_for_workers(workers_by_batch))
        if self._save_task is None or self._save_task.done():
            self._save_task = asyncio.create_task(self._save_batches())

    def _with_increasing_order(self, request: DeliveryRequest) -> DeliveryRequest:
        """Return the request with an order above the previous one of its partition.

        The broker's clock can go back, and strict order must not.
        """
        order = max(request.order, self._last_order.get(request.partition, 0) + 1)
        self._last_order[request.partition] = order
        return request if order == request.order else replace(request, order=order)

    async def stop(self) -> None:
        """Wait for attempts in flight; a lease covers those that take longer.

        Offsets of unsaved batches are not committed: the next owner of the partition repeats them.
        """
        if self._workers:
            await asyncio.wait(set(self._workers), timeout=_SHUTDOWN_TIMEOUT_S)
        if self._save_task:
            await asyncio.wait({self._save_task}, timeout=_SHUTDOWN_TIMEOUT_S)
            self._save_task.cancel()
            await asyncio.gather(self._save_task, return_exceptions=True)

    async def _wait_for_workers(self, workers_by_batch: dict[WebhookBatch, list[asyncio.Task[None]]]) -> None:
        """Wait for the workers: 0.2 s for one that finishes no attempt, 0.6 s for all."""
        deadline = loop_time() + _BATCH_TIMEOUT_S
        while workers_by_batch and loop_time() < deadline:
            finished_before = {batch: batch.endpoint_state.finished_attempts for batch in workers_by_batch}
            await asyncio.wait(
                [worker for workers in workers_by_batch.values() for worker in workers],
                timeout=_STALL_TIMEOUT_S,
            )
            for batch, workers in list(workers_by_batch.items()):
                if all(worker.done() for worker in workers):
                    del workers_by_batch[batch]
                elif batch.endpoint_state.finished_attempts == finished_before[batch]:  # no progress
                    batch.endpoint_state.slow = True
                    batch.close()
                    del workers_by_batch[batch]

    def _start_workers(self, batch: WebhookBatch, saved: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start the workers of a webhook batch; return those that the batch waits for."""
        endpoint_state, webhook = batch.endpoint_state, batch.webhook
        endpoint_state.update_webhook(webhook)
        if webhook.strict:
            batch.previous = self._last_batches.get(webhook.id)
            self._last_batches[webhook.id] = batch
        count = self._worker_count(batch)
        if count == 0:
            batch.ended.set()
        workers = [asyncio.create_task(self._work(batch, saved)) for _ in range(count)]
        for worker in workers:
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return [] if endpoint_state.slow else workers

    def _worker_count(self, batch: WebhookBatch) -> int:
        """Return how many attempts may start now. The other requests wait in the log."""
        endpoint_state, webhook = batch.endpoint_state, batch.webhook
        if webhook.strict and endpoint_state.next_due is not None:
            return 0  # an earlier delivery is open in the log
        if webhook.policy.schedule[0] > 0:
            return 0  # the schedule delays the first attempt
        if not self._webhooks.may_send(webhook):
            return 0  # disabled or paused after fan-out
        if batch.previous is not None and not batch.previous.is_complete:
            return 0 if batch.previous.ended.is_set() else 1  # the worker waits for it
        return min(
            len(batch.queue),
            endpoint_state.available_permits(webhook),
            self._endpoint_states.available_permits(webhook.workspace),
        )

    async def _work(self, batch: WebhookBatch, saved: asyncio.Event) -> None:
        endpoint_state, webhook = batch.endpoint_state, batch.webhook
        try:
            if (previous := batch.previous) is not None:
                await previous.ended.wait()
                if not previous.is_complete:
                    return
            while (
                batch.queue
                and not batch.closed
                and endpoint_state.available_permits(webhook)
                and self._endpoint_states.available_permits(webhook.workspace)
            ):
                # No await between the checks above and `acquire`: the permits are shared.
                request = batch.queue.popleft()
                batch.in_flight[request.delivery_id] = request
                self._endpoint_states.acquire(endpoint_state, webhook)
                finished = False
                try:
                    finished = await self._attempt(
                        batch, ClaimedDelivery(request, manual=request.manual), saved
                    )
                finally:
                    self._endpoint_states.finish(endpoint_state)
                    if endpoint_state.next_due is not None:
                        self._results.wake.set()
                del batch.in_flight[request.delivery_id]
                if webhook.strict and not finished:
                    return
        finally:
            if webhook.strict:
                batch.ended.set()

    async def _attempt(self, batch: WebhookBatch, claimed: ClaimedDelivery, saved: asyncio.Event) -> bool:
        """Attempt one request and record the result; return whether the delivery is finished."""
        failpoint("attempt.before_send")
        attempt, outcome = await self._attempter.attempt(batch.webhook, claimed)
        failpoint("attempt.sent")
        self._failure_monitor.record_attempt(
            batch.endpoint_state, batch.webhook, attempt, outcome, manual=claimed.manual
        )
        batch.endpoint_state.finished_attempts += 1
        if batch.closed:
            # The lease of this delivery must be in the log before its result.
            await saved.wait()
            await self._results.write(self._deliveries.result_update(claimed, attempt, outcome))
            if outcome.due_at is not None:
                batch.endpoint_state.note_due(outcome.due_at)
        else:
            batch.writes.append(
                (claimed.request, self._deliveries.attempted_entry(claimed.request, attempt, outcome))
            )
            if outcome.due_at is not None:
                batch.note_due(outcome.due_at)
        return outcome.due_at is None

    async def _save_batches(self) -> None:
        """Save batches in order until none is left; consecutive batches that are ready share a write."""
        while self._record_batches:
            first = self._record_batches[0]
            if first.workers_done:
                await asyncio.wait({first.workers_done})
            ready = list(takewhile(lambda record_batch: record_batch.is_ready, self._record_batches))
            failpoint("attempt.before_write")
            rejected = await self._save_webhook_batches(
                [batch for record_batch in ready for batch in record_batch.batches]
            )
            for record_batch in ready:
                self._record_batches.popleft()
                for delivery_id in record_batch.completions:
                    del self._unsaved[delivery_id]
                record_batch.complete(rejected)
            self._results.wake.set()
            failpoint("attempt.written")

    async def _save_webhook_batches(self, batches: Sequence[WebhookBatch]) -> dict[str, Exception]:
        """End these webhook batches: when this returns, all their requests are in the log.

        Return the errors of the deliveries that MongoDB rejected, by id.
        """
        writes: list[tuple[DeliveryRequest, Write]] = []
        manual: list[tuple[EndpointState, str]] = []
        if any(batch.endpoint_state.slow for batch in batches):
            await asyncio.sleep(0)  # let the workers of slow endpoints take their first request
        for batch in batches:
            batch.close()
            writes += batch.writes
            for request in batch.in_flight.values():
                writes.append((request, self._deliveries.leased_entry(request, batch.webhook.timeout_s)))
            manual += [
                (batch.endpoint_state, request.delivery_id) for request in batch.queue if request.manual
            ]
            if batch.queue:
                due_at = utcnow() + timedelta(seconds=batch.webhook.policy.schedule[0])
                writes += [
                    (request, self._deliveries.waiting_entry(request, due_at)) for request in batch.queue
                ]
                batch.note_due(due_at)
            batch.queue.clear()
        rejected = await self._write_entries(writes)
        # After the write: a search before it finds nothing.
        for endpoint_state, delivery_id in manual:
            endpoint_state.request_manual(delivery_id)
        for batch in batches:
            if batch.next_due is not None:
                batch.endpoint_state.note_due(batch.next_due)
            batch.previous = None  # else every batch of steady traffic would keep all earlier ones in memory
            if self._last_batches.get(batch.webhook.id) is batch:
                del self._last_batches[batch.webhook.id]  # from now on the log has what is open
        return rejected

    async def _write_entries(self, writes: Sequence[tuple[DeliveryRequest, Write]]) -> dict[str, Exception]:
        """Write entries, however long MongoDB is unavailable; return the errors of those that it rejects.

        Raises `DatabaseUnavailable` only while the service stops.
        """
        try:
            await self._results.write_with_retry([write for _, write in writes])
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- one bad entry must not block the others
            if len(writes) > 1:
                rejected: dict[str, Exception] = {}
                for item in writes:
                    rejected |= await self._write_entries([item])
                return rejected
            delivery_id = writes[0][0].delivery_id
            self._log.error("delivery.not_logged", delivery_id=delivery_id, exc_info=error)
            return {delivery_id: error}
        return {}
