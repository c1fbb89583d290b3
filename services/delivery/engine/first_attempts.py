"""First attempts, straight from Kafka: one read for a batch, attempts side by side, one write, commit.

Attempts of a batch start as soon as it is here, beside those of the batches before it. Batches are saved in
the log in their order, those that are ready in one write; their offsets are committed after `saved`. What is
not finished when a batch's time is up stays under way with a lease in the log; what could not start waits in
the log. So a slow endpoint delays neither attempts at others nor, for long, a commit.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.batches import RecordBatch, WebhookBatch
from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.health import EndpointHealth
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.log.deliveries import ClaimedDelivery, Deliveries
from services.delivery.log.erasures import Erasures
from services.delivery.model.delivery import DUE_TYPE, DeliveryRequest, read_request
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.consumer import ConsumedEvent
from shared.runtime.logs import Log
from shared.runtime.mongo import Write, utcnow

_STALL_TIMEOUT_S: Final = 0.2
_BATCH_TIMEOUT_S: Final = 0.6
_SHUTDOWN_TIMEOUT_S: Final = 10.0
_RETRY_INTERVAL_S: Final = 1.0
_MAX_OPEN_BYTES: Final = 64 << 20
"""Bytes of requests in batches that are not saved, beyond which no other batch is begun."""

DeadLetter = Callable[[ConsumedEvent, Exception], Awaitable[None]]


class FirstAttemptHandler:
    """The handler of `delivery.requested`; `saved` has to return before offsets are committed."""

    def __init__(
        self,
        subscriptions: OutgoingWebhooks,
        deliveries: Deliveries,
        erasures: Erasures,
        endpoint_states: EndpointStates,
        attempter: Attempter,
        health: EndpointHealth,
        results: ResultWriter,
        log: Log,
        *,
        assignment: Callable[[], tuple[int, list[int]]],
        dead_letter: DeadLetter,
        shares: FairShares,
    ) -> None:
        """`dead_letter` takes a record whose result cannot be written, and the reason."""
        self._shares = shares
        self._dead_letter = dead_letter
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._erasures = erasures
        self._endpoint_states = endpoint_states
        self._attempter = attempter
        self._health = health
        self._results = results
        self._log = log
        self._assignment = assignment
        self._workers: set[asyncio.Task[None]] = set()
        self._batches: deque[RecordBatch] = deque()
        self._unsaved: dict[str, RecordBatch] = {}
        """The batches that are not saved, by the deliveries in them."""
        self._last_webhook_batches: dict[str, WebhookBatch] = {}
        """Of strict webhooks, the last run that is not saved."""
        self._save_task: asyncio.Task[None] | None = None
        self._last_order: dict[int, int] = {}
        """The order of the last request of each partition."""

    async def handle(self, received: Sequence[ConsumedEvent]) -> None:
        """Begin to attempt or store every request. Raises `DatabaseUnavailable` before anything is sent."""
        if sum(batch.size for batch in self._batches) > _MAX_OPEN_BYTES:
            await self.wait_saved()
        requests: dict[str, DeliveryRequest] = {}
        batch = RecordBatch({}, sum(len(each.event.data) for each in received))
        for each in received:
            self._shares.mark_active(each.event.workspace, loop_time())
            if each.event.type != DUE_TYPE:
                request = self._with_increasing_order(read_request(each))
                if request.delivery_id not in self._unsaved:  # a repeat stands where the first one stood
                    requests.setdefault(request.delivery_id, request)
                    batch.received.setdefault(request.delivery_id, each)
        await self._endpoint_states.follow_assignment(*self._assignment())
        self._handle_due_events(
            [each for each in received if each.event.type == DUE_TYPE and each.event.subject]
        )
        for webhook_id, wanted in (await self._unlogged_requests(requests)).items():
            webhook = await self._subscriptions.find(webhook_id)
            if webhook is None:
                self._log.info("deliveries dropped: webhook gone", webhook_id=webhook_id, count=len(wanted))
                continue
            batch.webhook_batches.append(
                WebhookBatch(webhook, self._endpoint_states.state(webhook_id, wanted[0].partition), wanted)
            )
        if batch.webhook_batches:
            failpoint("attempt.read")
            self._start_batch(batch)

    def _handle_due_events(self, received: Sequence[ConsumedEvent]) -> None:
        """Look at the log again for webhooks that another process made something due for."""
        for each in received:
            endpoint_state = self._endpoint_states.state(each.event.subject or "", each.partition)
            endpoint_state.note_external_change()
            if asked_for := each.event.attributes.get("delivery_id"):
                endpoint_state.request_manual(asked_for)
            self._results.wake.set()

    async def _unlogged_requests(
        self, requests: Mapping[str, DeliveryRequest]
    ) -> dict[str, list[DeliveryRequest]]:
        """Return the requests that are neither in the log nor erased, by webhook."""
        known, _ = await asyncio.gather(
            self._deliveries.open_by_id(list(requests)), self._subscriptions.ensure_current()
        )
        by_webhook: dict[str, list[DeliveryRequest]] = {}
        for request in requests.values():
            if known.get(request.delivery_id):
                # The partition's last owner wrote it after this one had looked: what follows waits behind it.
                self._endpoint_states.state(request.webhook_id, request.partition).note_due(utcnow())
                self._results.wake.set()
            if request.delivery_id in known or self._erasures.is_erased(request.workspace, request.event_id):
                continue
            by_webhook.setdefault(request.webhook_id, []).append(request)
        return by_webhook

    async def wait_saved(self) -> None:
        """Wait until every batch that was handled before this call is in the log."""
        if self._batches:
            await self._batches[-1].saved.wait()

    def first_unsaved_offset(self, partition: int) -> int | None:
        """Return the offset of a partition before which every request is saved; None if all are."""
        for batch in self._batches:
            if (offset := batch.first_offset(partition)) is not None:
                return offset
        return None

    def _start_batch(self, batch: RecordBatch) -> None:
        """Start the attempts of a batch, and what saves it when they have ended."""
        self._batches.append(batch)
        self._unsaved |= dict.fromkeys(batch.received, batch)
        waiting = {
            webhook_batch: workers
            for webhook_batch in batch.webhook_batches
            if (workers := self._start_workers(webhook_batch, batch.saved))
        }
        if waiting:
            batch.attempted = asyncio.create_task(self._wait_for_workers(waiting))
        if self._save_task is None or self._save_task.done():
            self._save_task = asyncio.create_task(self._save_batches())

    def _with_increasing_order(self, request: DeliveryRequest) -> DeliveryRequest:
        """The request with an order above the one before it in its partition, whatever the clocks said."""
        order = max(request.order, self._last_order.get(request.partition, 0) + 1)
        self._last_order[request.partition] = order
        return request if order == request.order else replace(request, order=order)

    async def start(self) -> None:
        """Nothing to prepare: the consumer calls `handle`."""

    async def stop(self) -> None:
        """Wait for attempts that outlived their batch; a lease covers those that take longer.

        What is not saved is not committed: whoever owns the partition next repeats it.
        """
        if self._workers:
            await asyncio.wait(set(self._workers), timeout=_SHUTDOWN_TIMEOUT_S)
        if self._save_task:
            await asyncio.wait({self._save_task}, timeout=_SHUTDOWN_TIMEOUT_S)
            self._save_task.cancel()
            await asyncio.gather(self._save_task, return_exceptions=True)

    async def _wait_for_workers(self, waiting: dict[WebhookBatch, list[asyncio.Task[None]]]) -> None:
        """Until every run is done, but no longer than 0.2 s for one that gets nowhere, 0.6 s for all."""
        until = loop_time() + _BATCH_TIMEOUT_S
        while waiting and loop_time() < until:
            before = {
                webhook_batch: webhook_batch.endpoint_state.finished_attempts for webhook_batch in waiting
            }
            await asyncio.wait(
                [worker for workers in waiting.values() for worker in workers], timeout=_STALL_TIMEOUT_S
            )
            for webhook_batch, workers in list(waiting.items()):
                if all(worker.done() for worker in workers):
                    del waiting[webhook_batch]
                elif webhook_batch.endpoint_state.finished_attempts == before[webhook_batch]:
                    webhook_batch.endpoint_state.slow = True
                    webhook_batch.close()
                    del waiting[webhook_batch]

    def _start_workers(self, webhook_batch: WebhookBatch, saved: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start the run's workers; return those that the batch waits for."""
        endpoint_state, webhook = webhook_batch.endpoint_state, webhook_batch.webhook
        endpoint_state.update_webhook(webhook)
        if webhook.strict:
            webhook_batch.previous = self._last_webhook_batches.get(webhook.id)
            self._last_webhook_batches[webhook.id] = webhook_batch
        count = self._worker_count(webhook_batch)
        if count == 0:
            webhook_batch.ended.set()
        started = [asyncio.create_task(self._work(webhook_batch, saved)) for _ in range(count)]
        for worker in started:
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return [] if endpoint_state.slow else started

    def _worker_count(self, webhook_batch: WebhookBatch) -> int:
        """Return how many attempts of the run may start now; those that may not wait in the log."""
        endpoint_state, webhook = webhook_batch.endpoint_state, webhook_batch.webhook
        if webhook.strict and endpoint_state.next_due is not None:
            return 0  # something earlier is open in the log
        if webhook.policy.schedule[0] > 0:
            return 0  # the first attempt has a wait of its own
        if not self._subscriptions.may_send(webhook):
            return 0  # disabled or paused since the event was fanned out
        if webhook_batch.previous is not None and not webhook_batch.previous.is_complete:
            return 0 if webhook_batch.previous.ended.is_set() else 1  # the worker waits for the run before
        return min(
            len(webhook_batch.queue),
            endpoint_state.available_permits(webhook),
            self._endpoint_states.available_permits(webhook.workspace),
        )

    async def _work(self, webhook_batch: WebhookBatch, saved: asyncio.Event) -> None:
        endpoint_state, webhook = webhook_batch.endpoint_state, webhook_batch.webhook
        try:
            if webhook_batch.previous is not None:
                await webhook_batch.previous.ended.wait()
                if not webhook_batch.previous.is_complete:
                    return
            while (
                webhook_batch.queue
                and not webhook_batch.closed
                and endpoint_state.available_permits(webhook)
                and self._endpoint_states.available_permits(webhook.workspace)
            ):
                request = webhook_batch.queue.popleft()
                webhook_batch.under_way[request.delivery_id] = request
                self._endpoint_states.acquire(endpoint_state, webhook)
                finished = False
                try:
                    finished = await self._attempt(
                        webhook_batch, ClaimedDelivery(request, manual=request.manual), saved
                    )
                finally:
                    self._endpoint_states.finish(endpoint_state)
                    if endpoint_state.next_due is not None:
                        self._results.wake.set()
                del webhook_batch.under_way[request.delivery_id]
                if webhook.strict and not finished:
                    return
        finally:
            if webhook.strict:
                webhook_batch.ended.set()

    async def _attempt(
        self, webhook_batch: WebhookBatch, claimed: ClaimedDelivery, saved: asyncio.Event
    ) -> bool:
        """Attempt one request and record the result; return whether the delivery is finished."""
        failpoint("attempt.before_send")
        attempt, outcome = await self._attempter.attempt(webhook_batch.webhook, claimed)
        failpoint("attempt.sent")
        self._health.record_attempt(
            webhook_batch.endpoint_state, webhook_batch.webhook, attempt, outcome, manual=claimed.manual
        )
        webhook_batch.endpoint_state.finished_attempts += 1
        if webhook_batch.closed:
            await saved.wait()
            await self._results.write(self._deliveries.result_update(claimed, attempt, outcome))
            if outcome.due_at is not None:
                webhook_batch.endpoint_state.note_due(outcome.due_at)
        else:
            webhook_batch.writes.append(
                (claimed.request, self._deliveries.attempted_entry(claimed.request, attempt, outcome))
            )
            if outcome.due_at is not None:
                webhook_batch.due(outcome.due_at)
        return outcome.due_at is None

    async def _save_batches(self) -> None:
        """Save batches in their order, all that are ready at once, until there are none."""
        while self._batches:
            first = self._batches[0]
            if first.attempted:
                await asyncio.wait({first.attempted})
            ready = list(takewhile(lambda batch: batch.is_ready, self._batches))
            failpoint("attempt.before_write")
            await self._save_webhook_batches(
                [webhook_batch for batch in ready for webhook_batch in batch.webhook_batches]
            )
            for batch in ready:
                self._batches.popleft()
                for delivery_id in batch.received:
                    del self._unsaved[delivery_id]
                batch.saved.set()
            self._results.wake.set()
            failpoint("attempt.written")

    async def _save_webhook_batches(self, webhook_batches: Sequence[WebhookBatch]) -> None:
        """End these runs: everything of them is in the log when this returns."""
        writes: list[tuple[DeliveryRequest, Write]] = []
        asked_for: list[tuple[EndpointState, str]] = []
        if any(webhook_batch.endpoint_state.slow for webhook_batch in webhook_batches):
            await asyncio.sleep(0)  # let workers that are not waited for take their first request
        for webhook_batch in webhook_batches:
            webhook_batch.close()
            writes += webhook_batch.writes
            for request in webhook_batch.under_way.values():
                writes.append(
                    (request, self._deliveries.leased_entry(request, webhook_batch.webhook.timeout_s))
                )
            asked_for += [
                (webhook_batch.endpoint_state, request.delivery_id)
                for request in webhook_batch.queue
                if request.manual
            ]
            if webhook_batch.queue:
                due_at = utcnow() + timedelta(seconds=webhook_batch.webhook.policy.schedule[0])
                writes += [
                    (request, self._deliveries.waiting(request, due_at)) for request in webhook_batch.queue
                ]
                webhook_batch.due(due_at)
            webhook_batch.queue.clear()
        await self._write_entries(writes)
        for (
            endpoint_state,
            delivery_id,
        ) in asked_for:  # not before it is in the log: it would be looked for in vain
            endpoint_state.request_manual(delivery_id)
        for webhook_batch in webhook_batches:
            if webhook_batch.next_due is not None:
                webhook_batch.endpoint_state.note_due(webhook_batch.next_due)
            if self._last_webhook_batches.get(webhook_batch.webhook.id) is webhook_batch:
                del self._last_webhook_batches[
                    webhook_batch.webhook.id
                ]  # from here on the log tells what is open

    async def _write_entries(self, writes: Sequence[tuple[DeliveryRequest, Write]]) -> None:
        """Write entries, however long the store is away; dead-letter those that it cannot take.

        Raises `DatabaseUnavailable` only once the service is stopping.
        """
        try:
            await self._results.write_with_retry([write for _, write in writes])
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- one entry must not cost the others
            if len(writes) > 1:
                for each in writes:
                    await self._write_entries([each])
                return
            delivery_id = writes[0][0].delivery_id
            self._log.error("delivery.not_logged", delivery_id=delivery_id, exc_info=error)
            await self._dead_letter_record(self._unsaved[delivery_id].received[delivery_id], error)

    async def _dead_letter_record(self, received: ConsumedEvent, error: Exception) -> None:
        while True:
            try:
                await self._dead_letter(received, error)
            except RetryLater as away:
                self._log.warning("dead letter waits", error=str(away))
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return
