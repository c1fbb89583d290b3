"""First attempts, straight from the Kafka batch: one read, attempts side by side, one write, commit.

What is not finished when the batch's time is up stays under way with a lease in the log; what could
not start waits in the log. Either way the batch ends, so that a slow endpoint delays nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Final

from services.delivery.attempt import Attempter
from services.delivery.erasures import Erasures
from services.delivery.health import Health
from services.delivery.lanes import Lane, Lanes
from services.delivery.request import DUE, Request, read_request
from services.delivery.results import Results
from services.delivery.shares import Shares
from services.delivery.store import Claimed, Deliveries
from services.delivery.subscriptions import Subscriptions, Webhook
from shared.runtime.crash import crash_point
from shared.runtime.kafka.consume import Received
from shared.runtime.logs import Log
from shared.runtime.mongo import Write, utcnow

_STUCK_S: Final = 0.2
_BATCH_S: Final = 0.6
_FINISH_S: Final = 10.0
_PROMPT_S: Final = 0.02
"""A batch that ends within this time has not waited for anybody."""
_PATIENCE_PER_S: Final = 100_000.0
_PATIENCE: Final = 600_000.0
"""Batches wait for slow endpoints for a tenth of the time, shared by workspaces, and 0.6 s after a pause."""


class _Run:
    """The part of a batch that goes to one webhook."""

    def __init__(self, webhook: Webhook, lane: Lane, requests: Sequence[Request]) -> None:
        self.webhook = webhook
        self.lane = lane
        self.queue = deque(requests)
        self.under_way: dict[str, Request] = {}
        self.writes: list[Write] = []
        self.finished = 0
        self.next_due: datetime | None = None
        """Told to the lane when `writes` are in the log: a look before that would find nothing due."""
        self._closed = False

    @property
    def closed(self) -> bool:
        """The batch has ended: what is under way is in the log as leased."""
        return self._closed

    def close(self) -> None:
        self._closed = True

    def due(self, at: datetime) -> None:
        """One of `writes` is open and due at this time."""
        if self.next_due is None or at < self.next_due:
            self.next_due = at


class FirstAttempts:
    """The handler of `delivery.requested`."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        deliveries: Deliveries,
        erasures: Erasures,
        lanes: Lanes,
        attempter: Attempter,
        health: Health,
        results: Results,
        log: Log,
        *,
        assignment: Callable[[], tuple[int, list[int]]],
        shares: Shares,
    ) -> None:
        self._shares = shares
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
        self._patience = Shares(_PATIENCE_PER_S, _PATIENCE, most_at_once=inf)
        """The time, in microseconds, that batches may still wait for each workspace's endpoints."""
        self._last: dict[int, int] = {}
        """The order of the last request of each partition."""

    async def handle(self, batch: Sequence[Received]) -> None:
        """Attempt or store every request of the batch. Raises `StoreUnavailable` before anything is sent."""
        requests: dict[str, Request] = {}
        for each in batch:
            self._shares.see(each.event.workspace, _clock())
            if each.event.type != DUE:
                request = self._in_order(read_request(each))
                requests.setdefault(request.delivery_id, request)  # a repeat stands where the first one stood
        await self._lanes.own(*self._assignment())
        for each in batch:
            if each.event.type == DUE and each.event.subject:
                lane = self._lanes.lane(each.event.subject, each.partition)
                lane.changed()
                if asked_for := each.event.attributes.get("delivery_id"):
                    lane.ask_for(asked_for)
                self._results.wake.set()
        known, _ = await asyncio.gather(self._deliveries.known(list(requests)), self._subscriptions.current())
        by_webhook: dict[str, list[Request]] = {}
        for request in requests.values():
            if known.get(request.delivery_id):
                # The partition's last owner wrote it after this one had looked: what follows waits behind it.
                self._lanes.lane(request.webhook_id, request.partition).due(utcnow())
                self._results.wake.set()
            if request.delivery_id in known or self._erasures.is_erased(request.workspace, request.event_id):
                continue
            by_webhook.setdefault(request.webhook_id, []).append(request)
        runs: list[_Run] = []
        for webhook_id, wanted in by_webhook.items():
            webhook = await self._subscriptions.find(webhook_id)
            if webhook is None:
                self._log.info("deliveries dropped: webhook gone", webhook_id=webhook_id, count=len(wanted))
                continue
            runs.append(_Run(webhook, self._lanes.lane(webhook_id, wanted[0].partition), wanted))
        if not runs:
            return
        crash_point("attempt.read")
        saved = asyncio.Event()
        await self._wait({run: workers for run in runs if (workers := self._start(run, saved))})
        crash_point("attempt.before_write")
        await self._close(runs, saved)
        crash_point("attempt.written")

    def _in_order(self, request: Request) -> Request:
        """The request with an order above the one before it in its partition, whatever the clocks said."""
        order = max(request.order, self._last.get(request.partition, 0) + 1)
        self._last[request.partition] = order
        return request if order == request.order else replace(request, order=order)

    async def start(self) -> None:
        """Nothing to prepare: the consumer calls `handle`."""

    async def stop(self) -> None:
        """Wait for attempts that outlived their batch; a lease covers those that take longer."""
        if self._workers:
            await asyncio.wait(set(self._workers), timeout=_FINISH_S)

    async def _wait(self, waiting: dict[_Run, list[asyncio.Task[None]]]) -> None:
        """Until every run is done, but no longer than 0.2 s for one that gets nowhere, 0.6 s for all."""
        began = _clock()
        until = began + _BATCH_S
        kept: dict[str, float] = {}  # how long each workspace has kept the batch waiting
        while waiting and _clock() < until:
            before = {run: run.finished for run in waiting}
            await asyncio.wait(
                [worker for workers in waiting.values() for worker in workers], timeout=_STUCK_S
            )
            for run, workers in list(waiting.items()):
                if all(worker.done() for worker in workers):
                    del waiting[run]
                elif run.finished == before[run]:
                    run.lane.slow = True
                    run.close()
                    del waiting[run]
                kept[run.webhook.workspace] = _clock() - began
        for workspace, seconds in kept.items():
            if seconds > _PROMPT_S:
                self._patience.spend(workspace, seconds * 1e6, _clock())

    def _start(self, run: _Run, saved: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start the run's workers; return those that the batch waits for."""
        lane, webhook = run.lane, run.webhook
        lane.meet(webhook)
        if webhook.strict and lane.next_due is not None:
            return []  # something earlier is open: these wait behind it, in the log
        if webhook.policy.schedule[0] > 0:
            return []  # the first attempt has a wait of its own
        if not self._subscriptions.sends(webhook):
            return []  # disabled or paused since the event was fanned out
        count = min(len(run.queue), lane.free(webhook), self._lanes.room(webhook.workspace))
        started = [asyncio.create_task(self._work(run, saved)) for _ in range(count)]
        for worker in started:
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return started if not lane.slow and self._patience.affords(webhook.workspace, _clock()) else []

    async def _work(self, run: _Run, saved: asyncio.Event) -> None:
        lane, webhook = run.lane, run.webhook
        while run.queue and not run.closed and lane.free(webhook) and self._lanes.room(webhook.workspace):
            request = run.queue.popleft()
            run.under_way[request.delivery_id] = request
            self._lanes.take(lane, webhook)
            try:
                if (
                    not await self._one(run, Claimed(request, manual=request.manual), saved)
                    and webhook.strict
                ):
                    return
            finally:
                self._lanes.ended(lane)
                if lane.next_due is not None:
                    self._results.wake.set()
            del run.under_way[request.delivery_id]

    async def _one(self, run: _Run, claimed: Claimed, saved: asyncio.Event) -> bool:
        """Attempt one request and keep the result; whether the delivery is finished."""
        crash_point("attempt.before_send")
        attempt, step = await self._attempter.attempt(run.webhook, claimed)
        crash_point("attempt.sent")
        self._health.learn(run.lane, run.webhook, attempt, step, manual=claimed.manual)
        run.finished += 1
        if self._ended(run):
            await saved.wait()
            await self._results.write(self._deliveries.result(claimed, attempt, step))
            if step.due_at is not None:
                run.lane.due(step.due_at)
        else:
            run.writes.append(self._deliveries.attempted(claimed.request, attempt, step))
            if step.due_at is not None:
                run.due(step.due_at)
        return step.due_at is None

    async def _close(self, runs: Sequence[_Run], saved: asyncio.Event) -> None:
        """End the batch: everything of it is in the log when this returns."""
        writes: list[Write] = []
        asked_for: list[tuple[Lane, str]] = []
        if any(run.lane.slow for run in runs):
            await asyncio.sleep(0)  # let workers that are not waited for take their first request
        for run in runs:
            run.close()
            writes += run.writes
            for request in run.under_way.values():
                writes.append(self._deliveries.leased(request, run.webhook.timeout_s))
            asked_for += [(run.lane, request.delivery_id) for request in run.queue if request.manual]
            if run.queue:
                due_at = utcnow() + timedelta(seconds=run.webhook.policy.schedule[0])
                writes += [self._deliveries.waiting(request, due_at) for request in run.queue]
                run.due(due_at)
            run.queue.clear()
        await self._results.insist(writes)
        for lane, delivery_id in asked_for:  # not before it is in the log: it would be looked for in vain
            lane.ask_for(delivery_id)
        for run in runs:
            if run.next_due is not None:
                run.lane.due(run.next_due)
        saved.set()
        self._results.wake.set()

    @staticmethod
    def _ended(run: _Run) -> bool:
        return run.closed


def _clock() -> float:
    return asyncio.get_running_loop().time()
