"""Recovery jobs, on many deliveries: started by an API call, carried on by any delivery process.

See `recovery_steps.py` for the work.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from secrets import token_hex
from typing import Final, Literal, TypedDict

from services.delivery.log.delivery_changes import Action
from services.delivery.log.recovery import Recovery
from services.delivery.webhooks.repository import WebhookRepository
from shared.contracts.errors import BrokerUnavailable, Conflict, NotFound
from shared.runtime.clock import utcnow
from shared.runtime.jobs import JOB_INDEXES, Job, Jobs
from shared.runtime.logs import Log
from shared.runtime.mongo import Index, Mongo
from shared.runtime.records import stored_null
from shared.runtime.web.paging import Page, Paging

JOBS: Final = "delivery_jobs"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {JOBS: JOB_INDEXES}

JobKind = Literal["recover", "replay", "discard", "cancel"]

MAX_RUNNING: Final = 20
"""Running jobs that a workspace may have."""
_LATER_FIELDS: Final = frozenset({"event_id", "trace_id"})
"""Stored only where they are given: otherwise a job is as an earlier release stores it."""


class JobScope(TypedDict, total=False):
    """The deliveries of a job: all that match. `events` has patterns, `last_error` an error class.

    A field that is given is stored, also as null, but for `_LATER_FIELDS`.
    """

    statuses: list[str]
    since: datetime | None
    until: datetime | None
    events: list[str] | None
    event_type: str | None
    event_id: str | None
    trace_id: str | None
    last_error: str | None


class RecoveryJob(Job):
    """A job on deliveries of a workspace, or of one webhook."""

    kind: JobKind
    webhook_id: str | None = stored_null()
    statuses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    events: tuple[str, ...] | None = None
    event_type: str | None = None
    event_id: str | None = None
    trace_id: str | None = None
    last_error: str | None = None
    replay_no: int | None = None
    """The number of a replay, from which the ids of the new deliveries derive."""
    manual: bool | None = None
    """True if hold and open circuit do not delay the deliveries."""


class RecoveryJobs:
    """The jobs of all workspaces, for the API. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, recovery: Recovery, webhooks: WebhookRepository, log: Log) -> None:
        self.jobs: Jobs[RecoveryJob] = Jobs(mongo.collection(JOBS), RecoveryJob, max_running=MAX_RUNNING)
        self._recovery = recovery
        self._webhooks = webhooks
        self._log = log

    async def begin(
        self, kind: JobKind, workspace: str, webhook_id: str | None, scope: JobScope
    ) -> RecoveryJob:
        """Start a job on the deliveries that are in the log now, and return it.

        Raises `NotFound`; `Conflict` if the webhook is disabled or too many jobs are running.
        """
        await self.jobs.check_limit(workspace)
        more: dict[str, object] = {
            name: value for name, value in scope.items() if value is not None or name not in _LATER_FIELDS
        }
        if webhook_id is not None and kind != "discard":
            more["replay_no"] = await self._check_webhook(kind, workspace, webhook_id)
        return await self.jobs.start(_new_job(kind, workspace, webhook_id=webhook_id), more)

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
        another process notifies them. With `manual`, the deliveries go past hold and open circuit.
        """
        ids = list(dict.fromkeys(ids))
        # The job exists before its first effect, leased by this process: nothing is forgotten in a crash.
        job = await self.jobs.start_leased(
            _new_job(
                action,
                workspace,
                batch=tuple(ids),
                is_planned=True,
                total=len(ids),
                statuses=tuple(statuses),
                manual=manual,
            )
        )
        outcomes = await self._recovery.apply(action, ids, workspace=workspace, statuses=statuses, job=job.id)
        try:
            if action != "discard":
                changed = [delivery_id for delivery_id, refusal in outcomes.items() if refusal is None]
                await self._recovery.notify_owners(changed, workspace=workspace, manual=manual)
        # The deliveries are changed, but their owners do not know: a worker notifies them when Kafka answers.
        except BrokerUnavailable as error:
            self._log.warning("job.notification_postponed", job_id=job.id, error=str(error))
            await self.jobs.work.release(job, utcnow())
        else:
            await self.jobs.delete(job)
        return outcomes

    async def cancel(self, workspace: str, job_id: str) -> RecoveryJob:
        """End a job after the step in progress; a finished job stays as it is. Raises `NotFound`."""
        return await self.jobs.cancel(workspace, job_id)

    async def read(self, workspace: str, job_id: str) -> RecoveryJob:
        """Return a job. Raises `NotFound`."""
        return await self.jobs.read(workspace, job_id)

    async def page(self, workspace: str, webhook_id: str | None, paging: Paging) -> Page[RecoveryJob]:
        """Return a page of a workspace's jobs, newest first. Raises `Malformed`."""
        return await self.jobs.page(workspace, paging, webhook_id=webhook_id)

    async def _check_webhook(self, kind: JobKind, workspace: str, webhook_id: str) -> int | None:
        """Check that the webhook can be sent to; return the number of a replay, None for other jobs.

        Raises `NotFound`; `Conflict` if the webhook is disabled.
        """
        enabled = await self._webhooks.is_enabled(webhook_id, workspace=workspace)
        if enabled is None:
            raise NotFound("no such outgoing webhook")
        if not enabled:
            raise Conflict("the outgoing webhook is disabled: enable it, then try again")
        if kind != "replay":
            return None
        replay_no = await self._webhooks.next_replay_number(webhook_id, workspace=workspace)
        if replay_no is None:
            raise NotFound("no such outgoing webhook")
        return replay_no


def _new_job(kind: JobKind, workspace: str, **fields: object) -> RecoveryJob:
    values = {"id": f"job_{token_hex(16)}", "created_at": utcnow(), "kind": kind, "workspace": workspace}
    return RecoveryJob.model_validate(values | fields)
