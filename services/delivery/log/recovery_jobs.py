"""Jobs on many deliveries: started by an API call, carried on by any delivery process.

See `recovery_worker.py` for the work.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final, Literal

from services.delivery.log.recovery import Action, Recovery
from shared.contracts.errors import BrokerUnavailable, Conflict, NotFound
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Index, Mongo, translate_errors, utcnow

JOBS: Final = "delivery_jobs"
OPEN_JOBS: Final = {"open": True}

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    JOBS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("due_at", 1),), where=OPEN_JOBS),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}

JobKind = Literal["recover", "replay", "discard", "cancel"]

MAX_RUNNING: Final = 20
"""Running jobs that a workspace may have."""
LEASE: Final = timedelta(seconds=10)
_JOB_TTL: Final = timedelta(days=30)


class RecoveryJobs:
    """The jobs of all workspaces, for the API."""

    def __init__(self, mongo: Mongo, recovery: Recovery, log: Log) -> None:
        self.collection: Collection = mongo.collection(JOBS)
        self._recovery = recovery
        self._log = log
        self.wake = asyncio.Event()
        """Set when there is a new job."""

    async def begin(
        self, kind: JobKind, workspace: str, webhook_id: str | None, scope: Mapping[str, Any]
    ) -> Document:
        """Start a job on the deliveries that are in the log now; return its document.

        `scope` has `statuses` and optionally `since`, `until`, `events` (patterns), `event_type` and
        `last_error`. Raises `NotFound`; `Conflict` if the webhook is disabled or too many jobs are running;
        `DatabaseUnavailable`.
        """
        now = utcnow()
        job = self._new_job(kind, workspace, now) | {"webhook_id": webhook_id, **scope}
        with translate_errors():
            running = await self.collection.count_documents(
                {"workspace": workspace, **OPEN_JOBS}, limit=MAX_RUNNING
            )
            if running >= MAX_RUNNING:
                raise Conflict(f"{MAX_RUNNING} jobs are running: wait for one to end, or cancel one")
            if webhook_id is not None and kind != "discard":
                job["replay_no"] = await self._check_webhook(kind, workspace, webhook_id)
            await self.collection.insert_one(job)
        self.wake.set()
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
        """Apply an action to these deliveries now; return by id why it was not applied, or None.

        It is a job until the webhooks' owners are notified: if this process dies or Kafka is unavailable,
        another process notifies them. With `manual`, the deliveries go past hold and open circuit. Raises
        `DatabaseUnavailable`.
        """
        ids = list(dict.fromkeys(ids))
        now = utcnow()
        lease = {"batch": ids, "read": True, "total": len(ids), "due_at": now + LEASE, "fence": 1}
        job = self._new_job(action, workspace, now) | lease | {"statuses": list(statuses), "manual": manual}
        # The job exists before its first effect, leased by this process: nothing is forgotten in a crash.
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
        # The deliveries are changed, but their owners do not know: a worker notifies them when Kafka answers.
        except BrokerUnavailable as error:
            self._log.warning("job.notification_postponed", job_id=job["_id"], error=str(error))
            with translate_errors():
                await self.collection.update_one(own_lease, {"$set": {"due_at": utcnow()}})
        else:
            with translate_errors():
                await self.collection.delete_one(own_lease)
        return outcomes

    async def cancel(self, workspace: str, job_id: str) -> Document:
        """End a job after the step in progress; a finished job stays as it is. Raises `NotFound`."""
        now = utcnow()
        with translate_errors():
            await self.collection.update_one(
                {"_id": job_id, "workspace": workspace, **OPEN_JOBS}, end_update("cancelled", now)
            )
        return await self.read(workspace, job_id)

    async def read(self, workspace: str, job_id: str) -> Document:
        """Return a job. Raises `NotFound`."""
        with translate_errors():
            job = await self.collection.find_one({"_id": job_id, "workspace": workspace}, {"batch": 0})
        if job is None:
            raise NotFound("no such job")
        return job

    async def _check_webhook(self, kind: JobKind, workspace: str, webhook_id: str) -> int | None:
        """Check that the webhook can be sent to; return the number of a replay, None for other jobs.

        Raises `NotFound`; `Conflict` if the webhook is disabled.
        """
        webhooks = self._recovery.webhooks
        enabled = await webhooks.is_enabled(webhook_id, workspace=workspace)
        if enabled is None:
            raise NotFound("no such outgoing webhook")
        if not enabled:
            raise Conflict("the outgoing webhook is disabled: enable it, then try again")
        if kind != "replay":
            return None
        replay_no = await webhooks.next_replay_number(webhook_id, workspace=workspace)
        if replay_no is None:
            raise NotFound("no such outgoing webhook")
        return replay_no

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


def end_update(status: str, now: datetime, **more: Any) -> Document:
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
