"""The work on recovery jobs, step by step, in any delivery process.

A step is at most a hundred deliveries. A process claims a step with a lease and a fence. The step's
deliveries are stored before it starts, and every effect of it can be repeated without a second one. So a
process may be killed at any point: the next one repeats the step and continues.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any, Final

from services.delivery.log.deliveries import OPEN
from services.delivery.log.recovery import WEBHOOK_DELETED, WEBHOOK_DISABLED, Recovery
from services.delivery.log.recovery_jobs import LEASE, OPEN_JOBS, JobKind, RecoveryJobs, end_update
from services.delivery.log.search import DeliveryQuery, fetch_deliveries, find_keys
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, translate_errors, utcnow
from shared.webhooks.patterns import matches

_STEP_SIZE: Final = 100
_MAX_PER_SECOND: Final = 800
"""Deliveries per second that a job sends at most, to leave most of every partition to live traffic."""
_MAX_DUE: Final = 2_000
"""A replay pauses while this many of the webhook's deliveries are due, so that live ones need not wait."""
_ORDER_MARGIN: Final = 500
"""At most this many deliveries of a webhook, a consumer batch, are logged in another order than they came."""
_PAGE_SIZE: Final = 2 * _ORDER_MARGIN
_COUNT_TIMEOUT_S: Final = 3.0
"""Counting a job's deliveries may take this long; then its total stays unknown."""
_POLL_INTERVAL_S: Final = 1.0
_POSTPONE_DELAY: Final = timedelta(seconds=1)
_SHUTDOWN_TIMEOUT_S: Final = 10.0


class RecoveryWorker:
    """Works on the jobs of all workspaces, beside other delivery processes."""

    def __init__(self, jobs: RecoveryJobs, recovery: Recovery, log: Log) -> None:
        self._jobs = jobs
        self._recovery = recovery
        self._log = log
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Finish the step in progress. Another process continues the job."""
        self._stopping = True
        self._jobs.wake.set()
        if self._task:
            _, late = await asyncio.wait({self._task}, timeout=_SHUTDOWN_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping:
            self._jobs.wake.clear()
            try:
                pause = await self._run_due_step()
            except DatabaseUnavailable as error:
                self._log.warning("job.database_unavailable", error=str(error))
                pause = _POLL_INTERVAL_S
            if pause > 0 and not self._stopping:
                try:
                    async with asyncio.timeout(pause):
                        await self._jobs.wake.wait()
                except TimeoutError:
                    pass

    async def _run_due_step(self) -> float:
        """Run the step that is overdue the longest; return the seconds until the next may be due."""
        now = utcnow()
        with translate_errors():
            first = await self._jobs.collection.find_one(OPEN_JOBS, {"due_at": 1}, sort=[("due_at", 1)])
        if first is None:
            return _POLL_INTERVAL_S
        if first["due_at"] > now:  # leased by another process, or postponed
            wait: timedelta = first["due_at"] - now
            return min(_POLL_INTERVAL_S, wait.total_seconds())
        with translate_errors():
            job = await self._jobs.collection.find_one_and_update(
                {"_id": first["_id"], "due_at": {"$lte": now}, **OPEN_JOBS},
                {"$set": {"due_at": now + LEASE}, "$inc": {"fence": 1}},
                return_document=True,
            )
        if job is not None:
            await self._run_step_logged(job)
        return 0

    async def _run_step_logged(self, job: Document) -> None:
        try:
            await self._run_step(job)
        except RetryLater as error:
            await self._postpone(job, str(error))
        except Exception as error:  # noqa: BLE001 -- a broken job must not block the others
            self._log.error("job.failed", job_id=job["_id"], kind=job["kind"], exc_info=error)
            await self._save(
                job, end_update("failed", utcnow(), error=f"{type(error).__name__}: {error}"[:500])
            )

    async def _run_step(self, job: Document) -> None:
        if await self._must_wait(job):
            return
        if not job["batch"] and not job["read"]:
            # Store the plan first: after a crash, the same deliveries are processed in the same order.
            plan = await self._plan_next(job)
            if not await self._save(job, {"$set": plan}):
                return
            job |= plan
        step_ids, remaining = job["batch"][:_STEP_SIZE], job["batch"][_STEP_SIZE:]
        # A crash after this line repeats the step: every effect is idempotent.
        done_count = await self._apply(job, step_ids) if step_ids else 0
        progress = {"$inc": {"done": done_count, "skipped": len(step_ids) - done_count}}
        if remaining or not job["read"]:
            # The pause limits the job's rate, whichever process takes the next step.
            due_at = utcnow() + timedelta(seconds=len(step_ids) / _MAX_PER_SECOND)
            change = progress | {"$set": {"batch": remaining, "due_at": due_at, "waiting_for": None}}
        else:
            change = progress | end_update("done", utcnow())
            self._log.info("job.done", job_id=job["_id"], kind=job["kind"])
        if not await self._save(job, change):  # cancelled meanwhile: count what was done
            with translate_errors():
                await self._jobs.collection.update_one({"_id": job["_id"], "fence": job["fence"]}, progress)

    async def _apply(self, job: Document, ids: Sequence[str]) -> int:
        """Apply the job's action to these deliveries; return to how many it was applied."""
        kind: JobKind = job["kind"]
        workspace = job["workspace"]
        if kind == "replay":
            return await self._recovery.replay(ids, workspace=workspace, replay_no=job["replay_no"])
        outcomes = await self._recovery.apply(
            kind, ids, workspace=workspace, statuses=job["statuses"], job=job["_id"]
        )
        changed = [delivery_id for delivery_id, refusal in outcomes.items() if refusal is None]
        if changed and kind != "discard":
            await self._recovery.notify_owners(changed, workspace=workspace, manual=job.get("manual", False))
        return len(changed)

    async def _must_wait(self, job: Document) -> bool:
        """Return whether the job's webhook cannot be sent to now. The job of a deleted webhook fails."""
        if job["webhook_id"] is None or job["kind"] == "discard":
            return False
        with translate_errors():
            enabled = await self._recovery.webhooks.is_enabled(job["webhook_id"])
            if enabled is None:
                await self._save(job, end_update("failed", utcnow(), error=WEBHOOK_DELETED))
                return True
            if not enabled:
                await self._postpone(job, WEBHOOK_DISABLED)
                return True
            if job["kind"] != "replay":
                return False
            # Live deliveries share the webhook's permits with the replay.
            due = await self._recovery.deliveries.count_documents(
                {"webhook_id": job["webhook_id"], **OPEN, "due_at": {"$lte": utcnow()}}, limit=_MAX_DUE
            )
        if due >= _MAX_DUE:
            await self._postpone(
                job,
                f"{_MAX_DUE} of the webhook's deliveries are due: the replay continues when there are fewer",
            )
        return due >= _MAX_DUE

    async def _plan_next(self, job: Document) -> Document:
        """Return the next deliveries in sending order, the cursor for the next search, and the total once."""
        query = _job_query(job)
        plan: Document = {}
        if job["cursor"] is None:
            plan["total"] = await self._count_deliveries(query)
        log = self._recovery.deliveries
        after = (job["cursor"][0], job["cursor"][1]) if job["cursor"] else None
        keys = await find_keys(log, query, limit=_PAGE_SIZE, after=after, oldest_first=True)
        rows = await fetch_deliveries(log, keys, {"created_at": 1, "order": 1, "event_type": 1})
        plan["read"] = len(keys) < _PAGE_SIZE
        # Hold back the end of the page: deliveries of the same batch may be on the next one.
        if not plan["read"] and len(rows) > _ORDER_MARGIN:
            rows = rows[: sortable_prefix([row["order"] for row in rows], _ORDER_MARGIN)]
            plan["cursor"] = [rows[-1]["created_at"], rows[-1]["_id"]]
        elif keys:
            plan["cursor"] = list(keys[-1])
        # Logged in the order of writes, sent in the order of events.
        rows.sort(key=lambda row: int(row["order"]))
        return plan | {"batch": [row["_id"] for row in rows if _matches(job, row)]}

    async def _count_deliveries(self, delivery_query: DeliveryQuery) -> int | None:
        """Return the number of deliveries; None if counting takes too long."""
        window: Document = {"$lt": delivery_query.until}
        if delivery_query.since:  # with $gte, the embedded database leaves out the bound itself
            window["$gt"] = delivery_query.since - timedelta(milliseconds=1)
        query: Document = {"workspace": delivery_query.workspace, "created_at": window}
        for field, value in (
            ("webhook_id", delivery_query.webhook_id),
            ("event_type", delivery_query.event_type),
        ):
            if value is not None:
                query[field] = value
        log, max_ms = self._recovery.deliveries, int(_COUNT_TIMEOUT_S * 1000)
        try:
            async with asyncio.timeout(_COUNT_TIMEOUT_S):
                with translate_errors():
                    counts = [
                        await log.count_documents(query | {"status": status}, maxTimeMS=max_ms)
                        for status in delivery_query.statuses
                    ]
        except (TimeoutError, DatabaseUnavailable):
            return None
        return sum(counts)

    async def _postpone(self, job: Document, reason: str) -> None:
        await self._save(job, {"$set": {"due_at": utcnow() + _POSTPONE_DELAY, "waiting_for": reason}})

    async def _save(self, job: Document, change: Mapping[str, Any]) -> bool:
        """Write a change; return False if the job ended or another process has its lease."""
        with translate_errors():
            saved = await self._jobs.collection.update_one(
                {"_id": job["_id"], "fence": job["fence"], **OPEN_JOBS}, change
            )
        return bool(saved.matched_count)


def sortable_prefix(orders: Sequence[int], margin: int) -> int:
    """Return how many of these rows can be sorted on their own, without the last `margin`.

    The rows are in the order in which they were written. That is the order of their batches, but not of the
    deliveries in a batch. At a cut between two batches, all orders before are less than all after.
    """
    max_length = len(orders) - margin
    highest = list(accumulate(orders, max))
    lowest = list(accumulate(reversed(orders), min))[::-1]
    return next((at for at in range(max_length, 0, -1) if highest[at - 1] < lowest[at]), max_length)


def _matches(job: Document, row: Document) -> bool:
    patterns = job.get("events")
    return not patterns or matches(patterns, row["event_type"])


def _job_query(job: Document) -> DeliveryQuery:
    """Return the query for the job's deliveries: none that were logged after the job started."""
    created_at, until = job["created_at"], job.get("until")
    return DeliveryQuery(
        workspace=job["workspace"],
        webhook_id=job["webhook_id"],
        event_type=job.get("event_type"),
        statuses=job["statuses"],
        error=job.get("last_error"),
        since=job.get("since"),
        until=min(until, created_at) if until else created_at,
    )
