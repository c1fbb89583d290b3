"""First attempts, straight from Kafka: one read for a batch, attempts side by side, one write, commit.

Attempts of a batch start as soon as it is here, beside those of the batches before it. Batches are saved in
the log in their order, those that are ready in one write; their offsets are committed after `saved`. What is
not finished when a batch's time is up stays under way with a lease in the log; what could not start waits in
the log. So a slow endpoint delays neither attempts at others nor, for long, a commit.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.endpoint_state import EndpointState, EndpointStates
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.health import EndpointHealth
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.subscriptions import OutgoingWebhook, OutgoingWebhooks
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


class WebhookBatch:
    """The part of a batch that goes to one webhook."""

    def __init__(
        self, webhook: OutgoingWebhook, lane: EndpointState, requests: Sequence[DeliveryRequest]
    ) -> None:
        self.webhook = webhook
        self.lane = lane
        self.queue = deque(requests)
        self.under_way: dict[str, DeliveryRequest] = {}
        self.writes: list[tuple[DeliveryRequest, Write]] = []
        self.next_due: datetime | None = None
        """Passed to the lane when `writes` are in the log: a look before that would find nothing due."""
        self.before: WebhookBatch | None = None
        """Of a strict webhook, the run whose end this one waits for."""
        self.ended = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """The batch has ended: what is under way is in the log as leased."""
        return self._closed

    @property
    def is_clean(self) -> bool:
        """Every delivery of the run is finished."""
        return self.ended.is_set() and not (self.queue or self.under_way or self.next_due)

    def close(self) -> None:
        self._closed = True
        self.ended.set()

    def due(self, at: datetime) -> None:
        """One of `writes` is open and due at this time."""
        if self.next_due is None or at < self.next_due:
            self.next_due = at


@dataclass(slots=True)
class _RecordBatch:
    """A batch whose results are not in the log."""

    received: dict[str, ConsumedEvent]
    """The records, by the id of their delivery."""
    size: int
    """Bytes of the records."""
    runs: list[WebhookBatch] = field(default_factory=list)
    attempted: asyncio.Task[None] | None = None
    """Ends when the batch no longer waits for attempts."""
    saved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        return self.attempted is None or self.attempted.done()

    def first_offset(self, partition: int) -> int | None:
        """Return the lowest offset that the batch has of a partition."""
        offsets = (each.offset for each in self.received.values() if each.partition == partition)
        return min(offsets, default=None)


class FirstAttemptHandler:
    """The handler of `delivery.requested`; `saved` has to return before offsets are committed."""

    def __init__(
        self,
        subscriptions: OutgoingWebhooks,
        deliveries: Deliveries,
        erasures: Erasures,
        lanes: EndpointStates,
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
        self._lanes = lanes
        self._attempter = attempter
        self._health = health
        self._results = results
        self._log = log
        self._assignment = assignment
        self._workers: set[asyncio.Task[None]] = set()
        self._batches: deque[_RecordBatch] = deque()
        self._open: dict[str, _RecordBatch] = {}
        """The batches that are not saved, by the deliveries in them."""
        self._last_runs: dict[str, WebhookBatch] = {}
        """Of strict webhooks, the last run that is not saved."""
        self._saving: asyncio.Task[None] | None = None
        self._last: dict[int, int] = {}
        """The order of the last request of each partition."""

    async def handle(self, received: Sequence[ConsumedEvent]) -> None:
        """Begin to attempt or store every request. Raises `DatabaseUnavailable` before anything is sent."""
        if sum(batch.size for batch in self._batches) > _MAX_OPEN_BYTES:
            await self.saved()
        requests: dict[str, DeliveryRequest] = {}
        batch = _RecordBatch({}, sum(len(each.event.data) for each in received))
        for each in received:
            self._shares.see(each.event.workspace, _loop_time())
            if each.event.type != DUE_TYPE:
                request = self._in_order(read_request(each))
                if request.delivery_id not in self._open:  # a repeat stands where the first one stood
                    requests.setdefault(request.delivery_id, request)
                    batch.received.setdefault(request.delivery_id, each)
        await self._lanes.own(*self._assignment())
        self._wake([each for each in received if each.event.type == DUE_TYPE and each.event.subject])
        for webhook_id, wanted in (await self._new(requests)).items():
            webhook = await self._subscriptions.find(webhook_id)
            if webhook is None:
                self._log.info("deliveries dropped: webhook gone", webhook_id=webhook_id, count=len(wanted))
                continue
            batch.runs.append(
                WebhookBatch(webhook, self._lanes.lane(webhook_id, wanted[0].partition), wanted)
            )
        if batch.runs:
            failpoint("attempt.read")
            self._begin(batch)

    def _wake(self, received: Sequence[ConsumedEvent]) -> None:
        """Look at the log again for webhooks that another process made something due for."""
        for each in received:
            lane = self._lanes.lane(each.event.subject or "", each.partition)
            lane.changed()
            if asked_for := each.event.attributes.get("delivery_id"):
                lane.request_manual(asked_for)
            self._results.wake.set()

    async def _new(self, requests: Mapping[str, DeliveryRequest]) -> dict[str, list[DeliveryRequest]]:
        """Return the requests that are neither in the log nor erased, by webhook."""
        known, _ = await asyncio.gather(self._deliveries.known(list(requests)), self._subscriptions.current())
        by_webhook: dict[str, list[DeliveryRequest]] = {}
        for request in requests.values():
            if known.get(request.delivery_id):
                # The partition's last owner wrote it after this one had looked: what follows waits behind it.
                self._lanes.lane(request.webhook_id, request.partition).due(utcnow())
                self._results.wake.set()
            if request.delivery_id in known or self._erasures.is_erased(request.workspace, request.event_id):
                continue
            by_webhook.setdefault(request.webhook_id, []).append(request)
        return by_webhook

    async def saved(self) -> None:
        """Wait until every batch that was handled before this call is in the log."""
        if self._batches:
            await self._batches[-1].saved.wait()

    def first_open(self, partition: int) -> int | None:
        """Return the offset of a partition before which every request is saved; None if all are."""
        for batch in self._batches:
            if (offset := batch.first_offset(partition)) is not None:
                return offset
        return None

    def _begin(self, batch: _RecordBatch) -> None:
        """Start the attempts of a batch, and what saves it when they have ended."""
        self._batches.append(batch)
        self._open |= dict.fromkeys(batch.received, batch)
        waiting = {run: workers for run in batch.runs if (workers := self._start(run, batch.saved))}
        if waiting:
            batch.attempted = asyncio.create_task(self._wait(waiting))
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    def _in_order(self, request: DeliveryRequest) -> DeliveryRequest:
        """The request with an order above the one before it in its partition, whatever the clocks said."""
        order = max(request.order, self._last.get(request.partition, 0) + 1)
        self._last[request.partition] = order
        return request if order == request.order else replace(request, order=order)

    async def start(self) -> None:
        """Nothing to prepare: the consumer calls `handle`."""

    async def stop(self) -> None:
        """Wait for attempts that outlived their batch; a lease covers those that take longer.

        What is not saved is not committed: whoever owns the partition next repeats it.
        """
        if self._workers:
            await asyncio.wait(set(self._workers), timeout=_SHUTDOWN_TIMEOUT_S)
        if self._saving:
            await asyncio.wait({self._saving}, timeout=_SHUTDOWN_TIMEOUT_S)
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)

    async def _wait(self, waiting: dict[WebhookBatch, list[asyncio.Task[None]]]) -> None:
        """Until every run is done, but no longer than 0.2 s for one that gets nowhere, 0.6 s for all."""
        until = _loop_time() + _BATCH_TIMEOUT_S
        while waiting and _loop_time() < until:
            before = {run: run.lane.finished for run in waiting}
            await asyncio.wait(
                [worker for workers in waiting.values() for worker in workers], timeout=_STALL_TIMEOUT_S
            )
            for run, workers in list(waiting.items()):
                if all(worker.done() for worker in workers):
                    del waiting[run]
                elif run.lane.finished == before[run]:
                    run.lane.slow = True
                    run.close()
                    del waiting[run]

    def _start(self, run: WebhookBatch, saved: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start the run's workers; return those that the batch waits for."""
        lane, webhook = run.lane, run.webhook
        lane.update_webhook(webhook)
        if webhook.strict:
            run.before = self._last_runs.get(webhook.id)
            self._last_runs[webhook.id] = run
        count = self._workers_for(run)
        if count == 0:
            run.ended.set()
        started = [asyncio.create_task(self._work(run, saved)) for _ in range(count)]
        for worker in started:
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return [] if lane.slow else started

    def _workers_for(self, run: WebhookBatch) -> int:
        """Return how many attempts of the run may start now; those that may not wait in the log."""
        lane, webhook = run.lane, run.webhook
        if webhook.strict and lane.next_due is not None:
            return 0  # something earlier is open in the log
        if webhook.policy.schedule[0] > 0:
            return 0  # the first attempt has a wait of its own
        if not self._subscriptions.sends(webhook):
            return 0  # disabled or paused since the event was fanned out
        if run.before is not None and not run.before.is_clean:
            return 0 if run.before.ended.is_set() else 1  # the worker waits for the run before
        return min(len(run.queue), lane.free(webhook), self._lanes.room(webhook.workspace))

    async def _work(self, run: WebhookBatch, saved: asyncio.Event) -> None:
        lane, webhook = run.lane, run.webhook
        try:
            if run.before is not None:
                await run.before.ended.wait()
                if not run.before.is_clean:
                    return
            while run.queue and not run.closed and lane.free(webhook) and self._lanes.room(webhook.workspace):
                request = run.queue.popleft()
                run.under_way[request.delivery_id] = request
                self._lanes.take(lane, webhook)
                finished = False
                try:
                    finished = await self._one(run, ClaimedDelivery(request, manual=request.manual), saved)
                finally:
                    self._lanes.ended(lane)
                    if lane.next_due is not None:
                        self._results.wake.set()
                del run.under_way[request.delivery_id]
                if webhook.strict and not finished:
                    return
        finally:
            if webhook.strict:
                run.ended.set()

    async def _one(self, run: WebhookBatch, claimed: ClaimedDelivery, saved: asyncio.Event) -> bool:
        """Attempt one request and record the result; return whether the delivery is finished."""
        failpoint("attempt.before_send")
        attempt, step = await self._attempter.attempt(run.webhook, claimed)
        failpoint("attempt.sent")
        self._health.learn(run.lane, run.webhook, attempt, step, manual=claimed.manual)
        run.lane.finished += 1
        if self._ended(run):
            await saved.wait()
            await self._results.write(self._deliveries.result(claimed, attempt, step))
            if step.due_at is not None:
                run.lane.due(step.due_at)
        else:
            run.writes.append((claimed.request, self._deliveries.attempted(claimed.request, attempt, step)))
            if step.due_at is not None:
                run.due(step.due_at)
        return step.due_at is None

    async def _save(self) -> None:
        """Save batches in their order, all that are ready at once, until there are none."""
        while self._batches:
            first = self._batches[0]
            if first.attempted:
                await asyncio.wait({first.attempted})
            ready = list(takewhile(lambda batch: batch.is_ready, self._batches))
            failpoint("attempt.before_write")
            await self._close([run for batch in ready for run in batch.runs])
            for batch in ready:
                self._batches.popleft()
                for delivery_id in batch.received:
                    del self._open[delivery_id]
                batch.saved.set()
            self._results.wake.set()
            failpoint("attempt.written")

    async def _close(self, runs: Sequence[WebhookBatch]) -> None:
        """End these runs: everything of them is in the log when this returns."""
        writes: list[tuple[DeliveryRequest, Write]] = []
        asked_for: list[tuple[EndpointState, str]] = []
        if any(run.lane.slow for run in runs):
            await asyncio.sleep(0)  # let workers that are not waited for take their first request
        for run in runs:
            run.close()
            writes += run.writes
            for request in run.under_way.values():
                writes.append((request, self._deliveries.leased(request, run.webhook.timeout_s)))
            asked_for += [(run.lane, request.delivery_id) for request in run.queue if request.manual]
            if run.queue:
                due_at = utcnow() + timedelta(seconds=run.webhook.policy.schedule[0])
                writes += [(request, self._deliveries.waiting(request, due_at)) for request in run.queue]
                run.due(due_at)
            run.queue.clear()
        await self._write(writes)
        for lane, delivery_id in asked_for:  # not before it is in the log: it would be looked for in vain
            lane.request_manual(delivery_id)
        for run in runs:
            if run.next_due is not None:
                run.lane.due(run.next_due)
            if self._last_runs.get(run.webhook.id) is run:
                del self._last_runs[run.webhook.id]  # from here on the log tells what is open

    async def _write(self, writes: Sequence[tuple[DeliveryRequest, Write]]) -> None:
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
                    await self._write([each])
                return
            delivery_id = writes[0][0].delivery_id
            self._log.error("delivery.not_logged", delivery_id=delivery_id, exc_info=error)
            await self._dead_letter_record(self._open[delivery_id].received[delivery_id], error)

    async def _dead_letter_record(self, received: ConsumedEvent, error: Exception) -> None:
        while True:
            try:
                await self._dead_letter(received, error)
            except RetryLater as away:
                self._log.warning("dead letter waits", error=str(away))
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return

    @staticmethod
    def _ended(run: WebhookBatch) -> bool:
        return run.closed


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
