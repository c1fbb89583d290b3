"""Due work from the log: retries, deliveries that got no permit, and expired leases of dead processes."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.clock import loop_time
from services.delivery.engine.endpoint_state import EndpointState
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.results import ResultWriter
from services.delivery.log.deliveries import MAX_EXPIRED, ClaimedDelivery, Deliveries, WaitedFor
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.log.erasures import Erasures
from services.delivery.model.outgoing_webhook import OutgoingWebhook
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import metrics
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log

_POLL_INTERVAL_S: Final = 0.5
"""The longest time until a change of the assignment is noticed."""
_GATHER_TIMEOUT_S: Final = 0.01
"""Wait this long for attempts to end, so that one claim takes several permits."""
_MAX_CLAIMED: Final = 50
_STOPPED_POLL_INTERVAL_S: Final = 1.0
"""The pause of a webhook that may not send: disabled, paused or unreadable."""
_DATABASE_RETRY_INTERVAL_S: Final = 1.0
_SHUTDOWN_TIMEOUT_S: Final = 10.0
_EXPIRY_POLL_INTERVAL_S: Final = 10.0
_STOPPED_EXPIRY_INTERVAL_S: Final = 3600.0


class Scheduler:
    """Drains the endpoint states with due deliveries, each in a task of its own."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        deliveries: Deliveries,
        due_deliveries: DueDeliveries,
        endpoint_health: EndpointHealthRecords,
        erasures: Erasures,
        endpoint_states: EndpointStates,
        attempter: Attempter,
        failure_monitor: FailureMonitor,
        results: ResultWriter,
        log: Log,
        *,
        assignment: Callable[[], tuple[int, list[int]]],
    ) -> None:
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._due_deliveries = due_deliveries
        self._endpoint_health = endpoint_health
        self._erasures = erasures
        self._endpoint_states = endpoint_states
        self._attempter = attempter
        self._failure_monitor = failure_monitor
        self._results = results
        self._log = log
        self._assignment = assignment
        self._poll_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        self._poll_task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Start nothing new and wait for attempts in flight; a lease covers those that take too long."""
        self._stopping = True
        if self._poll_task:
            self._poll_task.cancel()
            await asyncio.gather(self._poll_task, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_SHUTDOWN_TIMEOUT_S)

    async def _poll(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._endpoint_states.seconds_until_next_poll(_POLL_INTERVAL_S)):
                    await self._results.wake.wait()
            except TimeoutError:
                pass
            self._results.wake.clear()
            try:
                await self._endpoint_states.follow_assignment(*self._assignment())
            except DatabaseUnavailable as error:
                self._log.warning("scheduler.database_unavailable", error=str(error))
                continue
            # One task per endpoint state: a slow endpoint does not delay others.
            for endpoint_state in self._endpoint_states.due_states(utcnow()):
                endpoint_state.draining = True
                self._create_task(self._drain(endpoint_state))

    async def _drain(self, endpoint_state: EndpointState) -> None:
        """Attempt due deliveries while permits last. Long attempts outlive this task."""
        attempts: set[asyncio.Task[None]] = set()
        try:
            # Each pass reads the settings again: webhook, hold and circuit may change at any time.
            while not (self._stopping or endpoint_state.lost):
                await self._webhooks.ensure_current()
                webhook = await self._webhooks.find(endpoint_state.webhook_id)
                if webhook is None:
                    # Deleted, or unreadable as a document: only a deleted webhook loses its deliveries.
                    if not await self._webhooks.is_deleted(endpoint_state.webhook_id):
                        endpoint_state.pause(_STOPPED_POLL_INTERVAL_S)
                        return
                    await self._deliveries.cancel_all(endpoint_state.webhook_id)
                    await self._endpoint_health.delete(endpoint_state.webhook_id)
                    endpoint_state.next_due = None
                    return
                endpoint_state.update_webhook(webhook)
                self._failure_monitor.write_hold_state(endpoint_state)
                if not self._webhooks.may_send(webhook):
                    endpoint_state.is_limited = True
                    # Time in which a person stopped the webhook is no wait behind the circuit.
                    endpoint_state.breaker.restart_wait(loop_time())
                    await self._dead_letter_stopped(endpoint_state, webhook)
                    endpoint_state.pause(_STOPPED_POLL_INTERVAL_S)
                    return
                # A person's requests first: they go past hold and circuit.
                attempts |= await self._start_manual(endpoint_state, webhook)
                own_permits = endpoint_state.available_permits(webhook)
                permits = min(
                    own_permits, self._endpoint_states.available_permits(webhook.workspace), _MAX_CLAIMED
                )
                endpoint_state.is_limited = permits == own_permits
                # Nothing can start and nothing will free a permit here: come back later.
                if permits == 0 and not attempts:
                    await self._dead_letter_behind_circuit(endpoint_state, webhook)
                    endpoint_state.pause_until_permitted(webhook)
                    self._failure_monitor.write_hold_state(endpoint_state)
                    return
                if permits == 0:
                    _, attempts = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
                    continue
                started = await self._start_due(endpoint_state, webhook, permits)
                if started is None:
                    return
                attempts |= started
                if attempts:
                    # A short wait, so that the next claim takes the permits of several attempts.
                    _, attempts = await asyncio.wait(attempts, timeout=_GATHER_TIMEOUT_S)
        except DatabaseUnavailable as error:
            self._log.warning("scheduler.database_unavailable", error=str(error))
            endpoint_state.is_limited = False
            endpoint_state.pause(_DATABASE_RETRY_INTERVAL_S)
        finally:
            endpoint_state.draining = False

    async def _start_due(
        self, endpoint_state: EndpointState, webhook: OutgoingWebhook, permits: int
    ) -> set[asyncio.Task[None]] | None:
        """Claim and start due deliveries, at most `permits`; return None if none is due."""
        version = endpoint_state.version
        endpoint_state.due_cursor.switch_field("order" if webhook.strict else "due_at")
        # Permits are taken before the claim, which awaits: concurrent tasks must not exceed the limits.
        self._endpoint_states.acquire(endpoint_state, webhook, permits)
        claimed: list[ClaimedDelivery] = []
        try:
            claimed = await self._due_deliveries.claim(
                webhook.id, endpoint_state.due_cursor, limit=permits, timeout_s=webhook.timeout_s
            )
        finally:
            self._endpoint_states.release(endpoint_state, permits - len(claimed))
        if claimed:
            failpoint("schedule.claimed")
            claimed = await self._cancel_erased(endpoint_state, claimed)
            return {
                self._create_task(self._attempt(endpoint_state, webhook, delivery)) for delivery in claimed
            }
        # Nothing is due: find out when to search again.
        due = await self._due_deliveries.next_due(webhook.id, endpoint_state.due_cursor)
        if endpoint_state.version != version:  # became due during the search: search again
            return set()
        endpoint_state.next_due = due
        return None

    async def _start_manual(
        self, endpoint_state: EndpointState, webhook: OutgoingWebhook
    ) -> set[asyncio.Task[None]]:
        """Start deliveries that a person asked for, past hold and circuit but within the limits."""
        attempts: set[asyncio.Task[None]] = set()
        while (
            endpoint_state.manual_ids
            and self._endpoint_states.available_permits(webhook.workspace)
            and endpoint_state.permits_by_limits(webhook)
        ):
            endpoint_state.due_cursor.switch_field("order" if webhook.strict else "due_at")
            # Removed first: a delivery that is not waiting any more must not be tried for ever.
            delivery_id = endpoint_state.manual_ids.pop()
            claimed: ClaimedDelivery | None = None
            self._endpoint_states.acquire(endpoint_state, webhook)
            try:
                claimed = await self._due_deliveries.claim_one(
                    webhook.id,
                    delivery_id,
                    endpoint_state.due_cursor,
                    strict=webhook.strict,
                    timeout_s=webhook.timeout_s,
                )
            except DatabaseUnavailable:
                endpoint_state.request_manual(delivery_id)
                raise
            finally:
                if claimed is None:
                    self._endpoint_states.release(endpoint_state, 1)
            for delivery in await self._cancel_erased(endpoint_state, [claimed] if claimed else []):
                attempts.add(self._create_task(self._attempt(endpoint_state, webhook, delivery)))
        return attempts

    async def _dead_letter_behind_circuit(
        self, endpoint_state: EndpointState, webhook: OutgoingWebhook
    ) -> None:
        """Dead-letter deliveries that waited behind an open circuit for longer than allowed."""
        wait_s = endpoint_state.wait_s_behind_circuit(webhook)
        if wait_s is not None and await self._dead_letter_expired(webhook, wait_s, "circuit_open"):
            endpoint_state.postpone_expiry(min(_EXPIRY_POLL_INTERVAL_S, wait_s / 4))

    async def _dead_letter_stopped(self, endpoint_state: EndpointState, webhook: OutgoingWebhook) -> None:
        """Dead-letter deliveries that waited for a stopped webhook for as long as dead letters are kept.

        Without it, the bodies that a paused webhook collects would be stored for ever.
        """
        if loop_time() < endpoint_state.next_stopped_check:
            return
        wait_s = self._deliveries.retention["dead_letter"].total_seconds()
        if await self._dead_letter_expired(webhook, wait_s, "stopped"):
            endpoint_state.next_stopped_check = loop_time() + _STOPPED_EXPIRY_INTERVAL_S

    async def _dead_letter_expired(self, webhook: OutgoingWebhook, wait_s: float, error: WaitedFor) -> bool:
        """Dead-letter deliveries that have been due for longer than `wait_s`; return whether these were all.

        Raises `DatabaseUnavailable`.
        """
        due_before = utcnow() - timedelta(seconds=wait_s)
        count = await self._deliveries.dead_letter_expired(webhook.id, due_before, error)
        if count:
            metrics.deliveries("dead_letter").inc(count)
            self._log.warning(
                "delivery.waited_too_long", webhook_id=webhook.id, count=count, wait_s=wait_s, error=error
            )
        return count < MAX_EXPIRED

    async def _cancel_erased(
        self, endpoint_state: EndpointState, claimed: list[ClaimedDelivery]
    ) -> list[ClaimedDelivery]:
        """Cancel claimed deliveries whose event was erased; return the others.

        An event can be erased before its delivery is in the log.
        """
        erased = {
            (request.workspace, request.event_id)
            for request in (delivery.request for delivery in claimed)
            if self._erasures.is_erased(request.workspace, request.event_id)
        }
        if not erased:
            return claimed
        remaining = [
            delivery
            for delivery in claimed
            if (delivery.request.workspace, delivery.request.event_id) not in erased
        ]
        self._endpoint_states.release(endpoint_state, len(claimed) - len(remaining))
        try:
            for workspace, event_id in erased:
                await self._erasures.finish(workspace, event_id)
        except DatabaseUnavailable:  # every lease expires, and the deliveries are claimed again
            self._endpoint_states.release(endpoint_state, len(remaining))
            raise
        return remaining

    async def _attempt(
        self, endpoint_state: EndpointState, webhook: OutgoingWebhook, delivery: ClaimedDelivery
    ) -> None:
        try:
            attempt, outcome = await self._attempter.attempt(webhook, delivery)
            failpoint("schedule.sent")
            self._failure_monitor.record_attempt(
                endpoint_state, webhook, delivery.request, attempt, outcome, manual=delivery.manual
            )
            update = self._deliveries.result_update(delivery, attempt, outcome)
            await self._results.write(update, traceparent=attempt.traceparent)
            failpoint("schedule.written")
            # Only after the write: a search before it would not find the delivery.
            if outcome.due_at is not None:
                endpoint_state.note_due(outcome.due_at)
        finally:
            self._endpoint_states.finish(endpoint_state)
            if endpoint_state.next_due is not None:
                self._results.wake.set()

    def _create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
