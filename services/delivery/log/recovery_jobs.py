"""Work on many deliveries: begun by a call, carried on by whichever delivery process is free, step by step.

A step is at most a hundred deliveries. Its claim is a lease with a fence, as the engine's; what the step is
about is written down before it is done, and every effect of it can be repeated without a second one. So a
process may be killed anywhere: the next one repeats that step and goes on.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from secrets import token_hex
from typing import Any, Final, Literal

from services.delivery.log.recovery import WEBHOOK_DISABLED, WEBHOOK_GONE, Action, Recovery
from services.delivery.log.search import DeliveryQuery, fetch_deliveries, find_keys
from shared.contracts.errors import BrokerUnavailable, Conflict, DatabaseUnavailable, NotFound, RetryLater
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Index, Mongo, translate_errors, utcnow
from shared.webhooks.patterns import matches

JOBS: Final = "delivery_jobs"
_OPEN: Final = {"open": True}

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    JOBS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("due_at", 1),), where=_OPEN),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}

JobKind = Literal["recover", "replay", "discard", "cancel"]

MAX_RUNNING: Final = 20
"""Jobs of a workspace at a time."""
_STEP_SIZE: Final = 100
_MAX_PER_SECOND: Final = 800
"""What a job puts on its way at most, so that live traffic has the better part of every partition."""
_MAX_DUE: Final = 2_000
"""A replay waits while so many of the webhook's deliveries are due: live ones stand behind no more."""
_ORDER_MARGIN: Final = 500
"""No more deliveries of a webhook than a consumer's batch are in the log in another order than they came."""
_PAGE_SIZE: Final = 2 * _ORDER_MARGIN
_COUNT_TIMEOUT_S: Final = 3.0
_LEASE: Final = timedelta(seconds=10)
_POLL_INTERVAL_S: Final = 1.0
_POSTPONE_DELAY: Final = timedelta(seconds=1)
_SHUTDOWN_TIMEOUT_S: Final = 10.0
_JOB_TTL: Final = timedelta(days=30)


class RecoveryJobs:
    """The jobs of all workspaces: begins and cancels them for the API, and does its share of the work."""

    def __init__(self, mongo: Mongo, recovery: Recovery, log: Log) -> None:
        self.collection: Collection = mongo.collection(JOBS)
        self._recovery = recovery
        self._log = log
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Finish the step at hand; what is left, another process goes on with."""
        self._stopping = True
        self._wake.set()
        if self._task:
            _, late = await asyncio.wait({self._task}, timeout=_SHUTDOWN_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # For the API

    async def begin(
        self, kind: JobKind, workspace: str, webhook_id: str | None, scope: Mapping[str, Any]
    ) -> Document:
        """Begin a job over the deliveries that are in the log now; its document.

        `scope` has `statuses` and, where they are given, `since`, `until`, `events` (patterns),
        `event_type` and `last_error`. Raises `NotFound`, `Conflict`, `DatabaseUnavailable`.
        """
        now = utcnow()
        job = self._new_job(kind, workspace, now) | {"webhook_id": webhook_id, **scope}
        with translate_errors():
            running = await self.collection.count_documents(
                {"workspace": workspace, **_OPEN}, limit=MAX_RUNNING
            )
            if running >= MAX_RUNNING:
                raise Conflict(f"{MAX_RUNNING} jobs are running: wait for one to end, or cancel one")
            if webhook_id is not None and kind != "discard":
                job["replay_no"] = await self._check_webhook(kind, workspace, webhook_id)
            await self.collection.insert_one(job)
        self._wake.set()
        return job

    async def run_immediately(
        self,
        action: Action,
        workspace: str,
        ids: Sequence[str],
        *,
        statuses: Sequence[str],
        manual: bool = False,
    ) -> dict[str, str | None]:
        """Take a step with these deliveries now; per id why it was not taken, or None.

        It is a job all the same until the webhooks' owners are told: a process that dies on the way, or a
        bus that is away, leaves it to the others. With `manual`, these deliveries go past hold and circuit.
        Raises `DatabaseUnavailable`.
        """
        ids = list(dict.fromkeys(ids))
        now = utcnow()
        lease = {"batch": ids, "read": True, "total": len(ids), "due_at": now + _LEASE, "fence": 1}
        job = self._new_job(action, workspace, now) | lease | {"statuses": list(statuses), "manual": manual}
        with translate_errors():
            await self.collection.insert_one(job)
        outcomes = await self._recovery.apply(
            action, ids, workspace=workspace, statuses=statuses, job=job["_id"]
        )
        own_lease = {"_id": job["_id"], "fence": 1}
        try:
            if action != "discard":
                changed = [delivery_id for delivery_id, refusal in outcomes.items() if refusal is None]
                await self._recovery.notify_owners(changed, workspace=workspace, manual=manual)
        except BrokerUnavailable as error:
            self._log.warning("the owners are told later", job_id=job["_id"], error=str(error))
            with translate_errors():
                await self.collection.update_one(own_lease, {"$set": {"due_at": utcnow()}})
        else:
            with translate_errors():
                await self.collection.delete_one(own_lease)
        return outcomes

    async def cancel(self, workspace: str, job_id: str) -> Document:
        """End a job after the step at hand; one that has ended stays as it is. Raises `NotFound`."""
        now = utcnow()
        with translate_errors():
            await self.collection.update_one(
                {"_id": job_id, "workspace": workspace, **_OPEN}, _end_update("cancelled", now)
            )
        return await self.read(workspace, job_id)

    async def read(self, workspace: str, job_id: str) -> Document:
        """A job. Raises `NotFound`."""
        with translate_errors():
            job = await self.collection.find_one({"_id": job_id, "workspace": workspace}, {"batch": 0})
        if job is None:
            raise NotFound("no such job")
        return job

    async def _check_webhook(self, kind: JobKind, workspace: str, webhook_id: str) -> int | None:
        """The number of this replay of the webhook; None of another job."""
        webhooks = self._recovery.webhooks
        query = {"_id": webhook_id, "workspace": workspace, "deleted_at": None}
        webhook = await webhooks.find_one(query, {"enabled": 1})
        if webhook is None:
            raise NotFound("no such outgoing webhook")
        if not webhook["enabled"]:
            raise Conflict("the outgoing webhook is disabled: enable it, then ask again")
        if kind != "replay":
            return None
        # Counted in one place, whichever process is asked: the new deliveries' ids are derived from it.
        updated = await webhooks.find_one_and_update(
            query, {"$inc": {"replays": 1}}, projection={"replays": 1}, return_document=True
        )
        if updated is None:
            raise NotFound("no such outgoing webhook")
        return int(updated["replays"])

    # The work

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                pause = await self._run_due_step()
            except DatabaseUnavailable as error:
                self._log.warning("jobs wait for the store", error=str(error))
                pause = _POLL_INTERVAL_S
            if pause > 0 and not self._stopping:
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _run_due_step(self) -> float:
        """Take the step that is due the longest; the seconds until there may be another."""
        now = utcnow()
        with translate_errors():
            first = await self.collection.find_one(_OPEN, {"due_at": 1}, sort=[("due_at", 1)])
        if first is None:
            return _POLL_INTERVAL_S
        if first["due_at"] > now:
            wait: timedelta = first["due_at"] - now
            return min(_POLL_INTERVAL_S, wait.total_seconds())
        with translate_errors():
            job = await self.collection.find_one_and_update(
                {"_id": first["_id"], "due_at": {"$lte": now}, **_OPEN},
                {"$set": {"due_at": now + _LEASE}, "$inc": {"fence": 1}},
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
        except Exception as error:  # noqa: BLE001 -- one that cannot go on must not hold up the others
            self._log.error("job failed", job_id=job["_id"], kind=job["kind"], exc_info=error)
            await self._save(
                job, _end_update("failed", utcnow(), error=f"{type(error).__name__}: {error}"[:500])
            )

    async def _run_step(self, job: Document) -> None:
        if await self._must_wait(job):
            return
        if not job["batch"] and not job["read"]:
            plan = await self._plan_next(job)
            if not await self._save(job, {"$set": plan}):
                return
            job |= plan
        step_ids, remaining = job["batch"][:_STEP_SIZE], job["batch"][_STEP_SIZE:]
        done_count = await self._apply(job, step_ids) if step_ids else 0
        progress = {"$inc": {"done": done_count, "skipped": len(step_ids) - done_count}}
        if remaining or not job["read"]:
            due_at = utcnow() + timedelta(seconds=len(step_ids) / _MAX_PER_SECOND)
            change = progress | {"$set": {"batch": remaining, "due_at": due_at, "waiting_for": None}}
        else:
            change = progress | _end_update("done", utcnow())
            self._log.info("job done", job_id=job["_id"], kind=job["kind"])
        if not await self._save(job, change):  # cancelled in the meantime: what was done is counted
            with translate_errors():
                await self.collection.update_one({"_id": job["_id"], "fence": job["fence"]}, progress)

    async def _apply(self, job: Document, ids: Sequence[str]) -> int:
        """Do what the job is about with these deliveries; with how many it was done."""
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
        """Whether the job's webhook is in no state to be sent to; a job of one that is gone fails."""
        if job["webhook_id"] is None or job["kind"] == "discard":
            return False
        with translate_errors():
            webhook = await self._recovery.webhooks.find_one(
                {"_id": job["webhook_id"], "deleted_at": None}, {"enabled": 1}
            )
            if webhook is None:
                await self._save(job, _end_update("failed", utcnow(), error=WEBHOOK_GONE))
                return True
            if not webhook["enabled"]:
                await self._postpone(job, WEBHOOK_DISABLED)
                return True
            if job["kind"] != "replay":
                return False
            due = await self._recovery.deliveries.count_documents(
                {"webhook_id": job["webhook_id"], **_OPEN, "due_at": {"$lte": utcnow()}}, limit=_MAX_DUE
            )
        if due >= _MAX_DUE:
            await self._postpone(job, f"{_MAX_DUE} of the webhook's deliveries are due already")
        return due >= _MAX_DUE

    async def _plan_next(self, job: Document) -> Document:
        """The next deliveries in the order in which they go, where to look on, and the total once."""
        query = _job_query(job)
        plan: Document = {}
        if job["cursor"] is None:
            plan["total"] = await self._count_deliveries(query)
        log = self._recovery.deliveries
        after = (job["cursor"][0], job["cursor"][1]) if job["cursor"] else None
        keys = await find_keys(log, query, limit=_PAGE_SIZE, after=after, oldest_first=True)
        rows = await fetch_deliveries(log, keys, {"created_at": 1, "order": 1, "event_type": 1})
        plan["read"] = len(keys) < _PAGE_SIZE
        if not plan["read"] and len(rows) > _ORDER_MARGIN:
            rows = rows[: sortable_prefix([row["order"] for row in rows], _ORDER_MARGIN)]
            plan["cursor"] = [rows[-1]["created_at"], rows[-1]["_id"]]
        elif keys:
            plan["cursor"] = list(keys[-1])
        rows.sort(key=lambda row: int(row["order"]))
        return plan | {"batch": [row["_id"] for row in rows if _matches(job, row)]}

    async def _count_deliveries(self, delivery_query: DeliveryQuery) -> int | None:
        """How many deliveries these are; None when that is not to be had soon."""
        window: Document = {"$lt": delivery_query.until}
        if delivery_query.since:  # the embedded store loses the bound itself of $gte within a longer index
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
        """Write a change if the job is still open and ours."""
        with translate_errors():
            saved = await self.collection.update_one(
                {"_id": job["_id"], "fence": job["fence"], **_OPEN}, change
            )
        return bool(saved.matched_count)

    @staticmethod
    def _new_job(kind: JobKind, workspace: str, now: datetime) -> Document:
        return {
            "_id": f"job_{token_hex(16)}",
            "workspace": workspace,
            "kind": kind,
            "webhook_id": None,
            "status": "running",
            "open": True,
            "due_at": now,
            "fence": 0,
            "created_at": now,
            "error": None,
            "waiting_for": None,
            "total": None,
            "done": 0,
            "skipped": 0,
            "batch": [],
            "cursor": None,
            "read": False,
        }


def sortable_prefix(orders: Sequence[int], margin: int) -> int:
    """How many of these rows can be put in order by themselves, without the `margin` that come last.

    The rows stand in the order in which they were written, which is that of their batches, not of the
    deliveries in a batch: a cut between two batches is one where all before are less than all after.
    """
    max_length = len(orders) - margin
    highest = list(accumulate(orders, max))
    lowest = list(accumulate(reversed(orders), min))[::-1]
    return next((at for at in range(max_length, 0, -1) if highest[at - 1] < lowest[at]), max_length)


def _matches(job: Document, row: Document) -> bool:
    patterns = job.get("events")
    return not patterns or matches(patterns, row["event_type"])


def _job_query(job: Document) -> DeliveryQuery:
    """What the log is asked for: nothing that was entered after the job began."""
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


def _end_update(status: str, now: datetime, **more: Any) -> Document:
    return {
        "$set": {
            "status": status,
            "finished_at": now,
            "expires_at": now + _JOB_TTL,
            "waiting_for": None,
            "batch": [],
            **more,
        },
        "$unset": {"open": "", "due_at": ""},
    }
