"""Due work from the log: retries, deliveries that found no room, and leases of processes that died."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from services.delivery.engine.attempt import Attempter
from services.delivery.engine.endpoint_state import EndpointState, EndpointStates
from services.delivery.engine.health import EndpointHealth
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.subscriptions import OutgoingWebhook, OutgoingWebhooks
from services.delivery.log.deliveries import MAX_GIVEN_UP, ClaimedDelivery, Deliveries
from services.delivery.log.erasures import Erasures
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

_POLL_INTERVAL_S: Final = 0.25
_GATHER_TIMEOUT_S: Final = 0.01
_MAX_CLAIMED: Final = 50
_STOPPED_POLL_INTERVAL_S: Final = 1.0
_DATABASE_RETRY_INTERVAL_S: Final = 1.0
_SHUTDOWN_TIMEOUT_S: Final = 10.0
_EXPIRY_POLL_INTERVAL_S: Final = 10.0


class Scheduler:
    """Drains lanes that have something due, each on its own."""

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
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._erasures = erasures
        self._lanes = lanes
        self._attempter = attempter
        self._health = health
        self._results = results
        self._log = log
        self._assignment = assignment
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Start nothing new and wait for what is under way; a lease covers what takes too long."""
        self._stopping = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._running:
            await asyncio.wait(set(self._running), timeout=_SHUTDOWN_TIMEOUT_S)

    async def _look(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._lanes.next_look(_POLL_INTERVAL_S)):
                    await self._results.wake.wait()
            except TimeoutError:
                pass
            self._results.wake.clear()
            try:
                await self._lanes.own(*self._assignment())
            except DatabaseUnavailable as error:
                self._log.warning("due work waits for the store", error=str(error))
                continue
            for lane in self._lanes.due(utcnow()):
                lane.draining = True
                self._run(self._drain(lane))

    async def _drain(self, lane: EndpointState) -> None:
        """Attempt what is due while there is room; attempts that take long outlive this."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            while not (self._stopping or lane.lost):
                await self._subscriptions.current()
                webhook = await self._subscriptions.find(lane.webhook_id)
                if webhook is None:
                    if not await self._subscriptions.is_gone(lane.webhook_id):
                        lane.sleep(_STOPPED_POLL_INTERVAL_S)
                        return
                    await self._deliveries.drop(lane.webhook_id)
                    lane.next_due = None
                    return
                lane.update_webhook(webhook)
                self._health.publish(lane)
                if not self._subscriptions.sends(webhook):
                    lane.breaker.restart_wait(asyncio.get_running_loop().time())
                    lane.sleep(_STOPPED_POLL_INTERVAL_S)
                    return
                under_way |= await self._start_manual(lane, webhook)
                room = min(lane.free(webhook), self._lanes.room(webhook.workspace), _MAX_CLAIMED)
                if room == 0 and not under_way:
                    await self._give_up(lane, webhook)
                    lane.rest(webhook)
                    self._health.publish(lane)
                    return
                if room == 0:
                    _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    continue
                started = await self._some(lane, webhook, room)
                if started is None:
                    return
                under_way |= started
                if under_way:
                    _, under_way = await asyncio.wait(under_way, timeout=_GATHER_TIMEOUT_S)
        except DatabaseUnavailable as error:
            self._log.warning("due work waits for the store", error=str(error))
            lane.sleep(_DATABASE_RETRY_INTERVAL_S)
        finally:
            lane.draining = False

    async def _some(
        self, lane: EndpointState, webhook: OutgoingWebhook, room: int
    ) -> set[asyncio.Task[None]] | None:
        """Start what is due and has room; None when nothing is."""
        version = lane.version
        lane.due_cursor.turn("order" if webhook.strict else "due_at")
        self._lanes.take(lane, webhook, room)
        claimed: list[ClaimedDelivery] = []
        try:
            claimed = await self._deliveries.claim(
                webhook.id, lane.due_cursor, most=room, timeout_s=webhook.timeout_s
            )
        finally:
            self._lanes.unused(lane, room - len(claimed))
        if claimed:
            failpoint("schedule.claimed")
            claimed = await self._not_erased(lane, claimed)
            return {self._run(self._one(lane, webhook, delivery)) for delivery in claimed}
        due = await self._deliveries.next_due(webhook.id, lane.due_cursor)
        if lane.version != version:
            return set()
        lane.next_due = due
        return None

    async def _start_manual(self, lane: EndpointState, webhook: OutgoingWebhook) -> set[asyncio.Task[None]]:
        """Start what a person asked for, past hold and circuit but not past the other limits."""
        started: set[asyncio.Task[None]] = set()
        while lane.manual and self._lanes.room(webhook.workspace) and lane.free_by_limits(webhook):
            lane.due_cursor.turn("order" if webhook.strict else "due_at")
            delivery_id = lane.manual.pop()
            claimed: ClaimedDelivery | None = None
            self._lanes.take(lane, webhook)
            try:
                claimed = await self._deliveries.claim_one(
                    webhook.id,
                    delivery_id,
                    lane.due_cursor,
                    strict=webhook.strict,
                    timeout_s=webhook.timeout_s,
                )
            except DatabaseUnavailable:
                lane.request_manual(delivery_id)
                raise
            finally:
                if claimed is None:
                    self._lanes.unused(lane, 1)
            for delivery in await self._not_erased(lane, [claimed] if claimed else []):
                started.add(self._run(self._one(lane, webhook, delivery)))
        return started

    async def _give_up(self, lane: EndpointState, webhook: OutgoingWebhook) -> None:
        """Dead-letter what has waited behind an open circuit for longer than it may."""
        wait_s = lane.wait_s_behind_circuit(webhook)
        if wait_s is None:
            return
        count = await self._deliveries.give_up(webhook.id, utcnow() - timedelta(seconds=wait_s))
        if count < MAX_GIVEN_UP:
            lane.postpone_expiry(min(_EXPIRY_POLL_INTERVAL_S, wait_s / 4))
        if count:
            metrics.deliveries("dead_letter").inc(count)
            self._log.warning("delivery.waited_too_long", webhook_id=webhook.id, count=count, wait_s=wait_s)

    async def _not_erased(self, lane: EndpointState, claimed: list[ClaimedDelivery]) -> list[ClaimedDelivery]:
        """Cancel claimed deliveries whose event was erased before they were in the log; return the others."""
        erased = {
            (request.workspace, request.event_id)
            for request in (delivery.request for delivery in claimed)
            if self._erasures.is_erased(request.workspace, request.event_id)
        }
        if not erased:
            return claimed
        left = [each for each in claimed if (each.request.workspace, each.request.event_id) not in erased]
        self._lanes.unused(lane, len(claimed) - len(left))
        try:
            for workspace, event_id in erased:
                await self._erasures.finish(workspace, event_id)
        except DatabaseUnavailable:  # the lease of all of them ends, and they are claimed again
            self._lanes.unused(lane, len(left))
            raise
        return left

    async def _one(self, lane: EndpointState, webhook: OutgoingWebhook, delivery: ClaimedDelivery) -> None:
        try:
            attempt, step = await self._attempter.attempt(webhook, delivery)
            failpoint("schedule.sent")
            self._health.learn(lane, webhook, attempt, step, manual=delivery.manual)
            await self._results.write(self._deliveries.result(delivery, attempt, step))
            failpoint("schedule.written")
            if step.due_at is not None:
                lane.due(step.due_at)
        finally:
            self._lanes.ended(lane)
            if lane.next_due is not None:
                self._results.wake.set()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
