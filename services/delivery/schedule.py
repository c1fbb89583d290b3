"""Due work from the log: retries, deliveries that found no room, and leases of processes that died."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from services.delivery.attempt import Attempter
from services.delivery.lanes import SLOW_S, Lane, Lanes
from services.delivery.results import Results
from services.delivery.store import Claimed, Deliveries
from services.delivery.subscriptions import Subscriptions, Webhook
from shared.contracts.errors import StoreUnavailable
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

_LOOK_S: Final = 0.25
_MOST_CLAIMED: Final = 50
_DISABLED_AGAIN: Final = timedelta(seconds=5)


class Schedule:
    """Drains lanes that have something due, each on its own."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        deliveries: Deliveries,
        lanes: Lanes,
        attempter: Attempter,
        results: Results,
        log: Log,
        *,
        partitions: Callable[[], list[int]],
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._lanes = lanes
        self._attempter = attempter
        self._results = results
        self._log = log
        self._partitions = partitions
        self._task: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Start nothing new and wait for what is under way; a lease covers what takes too long."""
        self._stopping = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._drains:
            await asyncio.wait(set(self._drains), timeout=10)

    async def _look(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._results.wake.wait()
            except TimeoutError:
                pass
            self._results.wake.clear()
            try:
                await self._lanes.own(self._partitions())
            except StoreUnavailable as error:
                self._log.warning("due work waits for the store", error=str(error))
                continue
            for lane in self._lanes.due(utcnow()):
                lane.draining = True
                drain = asyncio.create_task(self._drain(lane))
                self._drains.add(drain)
                drain.add_done_callback(self._drains.discard)

    async def _drain(self, lane: Lane) -> None:
        try:
            while not (self._stopping or lane.lost):
                webhook = await self._subscriptions.find(lane.webhook_id)
                if webhook is None:
                    await self._deliveries.drop(lane.webhook_id)
                    lane.next_due = None
                    return
                if not webhook.enabled:
                    lane.next_due = utcnow() + _DISABLED_AGAIN
                    return
                if lane.free(webhook) == 0 or not await self._some(lane, webhook):
                    return
        except StoreUnavailable as error:
            self._log.warning("due work waits for the store", error=str(error))
            lane.next_due = utcnow() + timedelta(seconds=1)
        finally:
            lane.draining = False

    async def _some(self, lane: Lane, webhook: Webhook) -> bool:
        """Attempt what is due and has room; False when nothing is."""
        version = lane.version
        claimed = await self._deliveries.claim(
            webhook.id,
            most=min(lane.free(webhook), _MOST_CLAIMED),
            strict=webhook.strict,
            timeout_s=webhook.timeout_s,
        )
        if not claimed:
            due = await self._deliveries.next_due(webhook.id, strict=webhook.strict)
            if lane.version != version:
                return True
            lane.next_due = due
            return False
        lane.in_flight += len(claimed)
        await asyncio.gather(*(self._one(lane, webhook, delivery) for delivery in claimed))
        return True

    async def _one(self, lane: Lane, webhook: Webhook, delivery: Claimed) -> None:
        try:
            attempt, step = await self._attempter.attempt(webhook, delivery.request, delivery.attempts + 1)
            lane.slow = attempt.answer.seconds > SLOW_S
            await self._results.write(self._deliveries.result(delivery, attempt, step))
            if step.due_at is not None:
                lane.due(step.due_at)
        finally:
            lane.in_flight -= 1
