"""The queues of first attempts: each request goes to its endpoint's queue, and from there to the log.

An attempt starts as soon as the limits of its endpoint allow it. Its result goes to the log with others of
the same moment (`results`), and its record is complete when the log has it. A request that cannot be finished
soon is handed over: an attempt in flight is logged with a lease, and what waits is logged as waiting. The
scheduler makes its attempts then. So a slow endpoint delays neither attempts at others nor, for long, a
commit.

Strict order: a delivered request releases the next one at once. After any other result, and after a lease,
the next one is neither attempted nor logged before the log has the result or the lease.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_queue import EndpointQueue, OpenDelivery, PatienceClock
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.results import LostPartition, ResultWriter
from services.delivery.log.deliveries import ClaimedDelivery, Deliveries, attempt_lease
from services.delivery.log.erasures import Erasures
from services.delivery.model.delivery import DeliveryRequest
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.model.retry_policy import Attempt, AttemptOutcome
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import metrics
from shared.runtime.clock import now_ms, utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log

_TICK_S: Final = 0.1
_STALL_TIMEOUT_S: Final = 0.2
"""An endpoint is slow if it finishes no attempt in this time, or takes longer for one."""
_MAX_OPEN_S: Final = 1.8
"""A request that is open for longer is handed over to the log. This bounds what a killed process repeats."""
_MAX_WAITING: Final = 1_000
"""Requests of one webhook that wait in memory: those of others in its partition need room, too."""
_SHUTDOWN_TIMEOUT_S: Final = 10.0
FIRST_ATTEMPT_TARGET_MS: Final = 5_000
"""A first attempt that starts later after the record of its request is late; see `metrics.FIRST_ATTEMPTS`."""


class AttemptQueues:
    """The open requests of this process, by webhook.

    Nothing but attempts awaits, because permits are shared.
    """

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
    ) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._erasures = erasures
        self._endpoint_states = endpoint_states
        self._attempter = attempter
        self._failure_monitor = failure_monitor
        self._results = results
        self._log = log
        self.open: dict[str, OpenDelivery] = {}
        """By delivery id: the requests that are not in the log."""
        self._queues: dict[str, EndpointQueue] = {}
        """By webhook id."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._clock = PatienceClock(_TICK_S)
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        """The check of the configuration while requests wait."""
        # From 0 on: the rate of a series that begins with its first count misses that count.
        self._started_in_time = metrics.FIRST_ATTEMPTS.labels("in_time")
        self._started_late = metrics.FIRST_ATTEMPTS.labels("late")

    def add(
        self, webhook: OutgoingWebhook, requests: Sequence[DeliveryRequest], since: float | None = None
    ) -> None:
        """Queue requests. `advance` starts them, after their records were taken.

        `since` is the loop time from which on they have been open, if that is not now.
        """
        queue = self._queues.get(webhook.id)
        if queue is None or queue.state.lost:
            state = self._endpoint_states.state(webhook.id, requests[0].partition)
            queue = self._queues[webhook.id] = EndpointQueue(webhook, state)
        queue.webhook = webhook
        since = loop_time() if since is None else since
        for request in requests:
            delivery = self.open[request.delivery_id] = OpenDelivery(request, since)
            queue.waiting.append(delivery)
        if self._timer is None:
            self._clock.start()
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def advance(self, webhook_ids: Iterable[str]) -> None:
        """Start what may start now, and hand over what has to wait for long."""
        for webhook_id in webhook_ids:
            self._advance(self._queues[webhook_id])

    async def stop(self) -> None:
        """Wait for attempts in flight; a lease covers those that take longer."""
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=_SHUTDOWN_TIMEOUT_S)
        if self._timer:
            self._timer.cancel()
        if self._check:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    def _advance(self, queue: EndpointQueue) -> None:
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
            or self._webhooks.loaded(queue.webhook.id) is None  # deleted: the scheduler cancels what is there
        )

    def _start(self, queue: EndpointQueue, delivery: OpenDelivery) -> None:
        request = delivery.request
        if delivery.is_lost():
            del self.open[request.delivery_id]
            delivery.give_back()
            return
        if self._erasures.is_erased(request.workspace, request.event_id):  # while it waited
            self._close(delivery)
            return
        if all(other.lease is not None for other in queue.in_flight.values()):
            queue.progress_at = self._clock.now
        delivery.started_at = self._clock.now
        queue.in_flight[request.delivery_id] = delivery
        # By the broker's time: a sender chooses the time of its event.
        is_late = now_ms() - request.accepted_ms > FIRST_ATTEMPT_TARGET_MS
        (self._started_late if is_late else self._started_in_time).inc()
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
                queue.state, webhook, claimed.request, attempt, outcome, manual=claimed.manual
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
        queue.unacknowledged += not delivered
        self._results.put(
            self._deliveries.attempted_entry(delivery.request, attempt, outcome),
            partial(self._after_entry, queue, delivery, outcome.due_at, not delivered),
            # What was delivered is worth an entry in any case: it prevents a repeat.
            is_lost=_never if delivered else delivery.is_lost,
            blocks=queue.webhook.strict and not delivered,
            traceparent=attempt.traceparent,
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
        update = self._deliveries.result_update(claimed, attempt, outcome)
        await self._results.write(update, traceparent=attempt.traceparent)
        if outcome.due_at is not None:
            queue.state.note_due(outcome.due_at)

    def _lease(self, queue: EndpointQueue, delivery: OpenDelivery, *, due_at: datetime | None = None) -> None:
        """Log an attempt in flight with a lease. `due_at` is its end if the attempt writes no result."""
        delivery.lease = asyncio.get_running_loop().create_future()
        queue.unacknowledged += 1
        self._results.put(
            self._deliveries.leased_entry(delivery.request, queue.webhook.timeout_s),
            partial(self._after_entry, queue, delivery, due_at, True),
            is_lost=delivery.is_lost,
            blocks=True,
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
            queue.unacknowledged += 1
            self._results.put(
                self._deliveries.waiting_entry(delivery.request, due_at),
                partial(self._after_hand_over, queue, delivery, due_at),
                is_lost=delivery.is_lost,
                blocks=True,
            )
        queue.waiting.clear()

    def _after_hand_over(
        self,
        queue: EndpointQueue,
        delivery: OpenDelivery,
        due_at: datetime,
        error: Exception | None,
    ) -> None:
        if error is None and delivery.request.manual:
            queue.state.request_manual(delivery.request.delivery_id)
        self._after_entry(queue, delivery, due_at, True, error)

    def _after_entry(
        self,
        queue: EndpointQueue,
        delivery: OpenDelivery,
        due_at: datetime | None,
        blocks: bool,
        error: Exception | None,
    ) -> None:
        """Complete a request that is in the log.

        `blocks` says that later requests of a strict webhook wait for its entry.
        """
        if isinstance(error, (LostPartition, DatabaseUnavailable)):
            del self.open[delivery.request.delivery_id]  # not complete: it is handled again
            delivery.give_back()
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
            if queue.webhook.strict:
                failpoint("attempt.head_written")
            queue.unacknowledged -= 1
            self._advance(queue)

    def _close(self, delivery: OpenDelivery, error: Exception | None = None) -> None:
        del self.open[delivery.request.delivery_id]
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
        if any(queue.waiting for queue in self._queues.values()) and (
            self._check is None or self._check.done()
        ):
            self._check = asyncio.create_task(self._check_configuration())
        self._timer = None
        if self._queues:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def _check_configuration(self) -> None:
        """Bring webhooks and erasure marks up to date for requests that wait."""
        with suppress(DatabaseUnavailable):
            await self._webhooks.ensure_current()


def _never() -> bool:
    return False
