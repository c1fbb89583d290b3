"""The steps of recovery jobs: plan a page of the log, then work on it a hundred deliveries at a time.

The planned deliveries are stored before the first of them is changed, and every effect can be repeated
without a second one. So a process may be killed at any point.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

from services.delivery.log.key_search import DeliveryQuery
from services.delivery.log.recovery import WEBHOOK_DELETED, WEBHOOK_DISABLED, Recovery
from services.delivery.log.recovery_jobs import RecoveryJob
from services.delivery.log.search import DeliverySearch
from services.delivery.webhooks.repository import WebhookRepository
from shared.contracts.errors import RetryLater
from shared.runtime.jobs import JobFailed, StepResult
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


class RecoverySteps:
    """The step of every kind of recovery job."""

    def __init__(self, recovery: Recovery, deliveries: DeliverySearch, webhooks: WebhookRepository) -> None:
        self._recovery = recovery
        self._deliveries = deliveries
        self._webhooks = webhooks

    async def run(self, job: RecoveryJob) -> StepResult:
        """Plan the next page, or work on up to 100 planned deliveries; return the progress.

        Raises `RetryLater` while the webhook cannot be sent to, `JobFailed` if it was deleted.
        """
        await self._check_webhook(job)
        if not job.batch and not job.is_planned:
            return await self._plan_next(job)
        step_ids, remaining = job.batch[:_STEP_SIZE], job.batch[_STEP_SIZE:]
        # A crash after this line repeats the step: every effect is idempotent.
        done = await self._apply(job, step_ids) if step_ids else 0
        return StepResult(
            finished=job.is_planned and not remaining,
            done=done,
            skipped=len(step_ids) - done,
            changes={"batch": remaining},
            # The pause limits the job's rate, whichever process takes the next step.
            pause_s=len(step_ids) / _MAX_PER_SECOND,
        )

    async def _apply(self, job: RecoveryJob, ids: Sequence[str]) -> int:
        """Apply the job's action to these deliveries; return to how many it was applied."""
        if job.kind == "replay":
            return await self._recovery.replay(ids, workspace=job.workspace, replay_no=job.replay_no or 0)
        outcomes = await self._recovery.apply(
            job.kind, ids, workspace=job.workspace, statuses=job.statuses, job=job.id
        )
        changed = [delivery_id for delivery_id, refusal in outcomes.items() if refusal is None]
        if changed and job.kind != "discard":
            await self._recovery.notify_owners(changed, workspace=job.workspace, manual=bool(job.manual))
        return len(changed)

    async def _check_webhook(self, job: RecoveryJob) -> None:
        """Check that the job's webhook can be sent to now.

        Raises `JobFailed` if it was deleted; `RetryLater` if it is disabled, or a replay has to give way.
        """
        if job.webhook_id is None or job.kind == "discard":
            return
        enabled = await self._webhooks.is_enabled(job.webhook_id, workspace=job.workspace)
        if enabled is None:
            raise JobFailed(WEBHOOK_DELETED)
        if not enabled:
            raise RetryLater(WEBHOOK_DISABLED)
        # Live deliveries share the webhook's permits with the replay.
        if job.kind == "replay" and await self._deliveries.count_due(job.webhook_id, _MAX_DUE) >= _MAX_DUE:
            raise RetryLater(
                f"{_MAX_DUE} of the webhook's deliveries are due: the replay continues when there are fewer"
            )

    async def _plan_next(self, job: RecoveryJob) -> StepResult:
        """Plan the next deliveries in sending order; count all of them the first time."""
        query = _job_query(job)
        changes: dict[str, Any] = {}
        if job.cursor is None:
            changes["total"] = await self._deliveries.count(query, timeout_s=_COUNT_TIMEOUT_S)
        after = (job.cursor[0], job.cursor[1]) if job.cursor else None
        found, rows = await self._deliveries.next_logged(query, limit=_PAGE_SIZE, after=after)
        is_planned = found.resume is None
        # Hold back the end of the page: deliveries of the same batch may be on the next one.
        if not is_planned and len(rows) > _ORDER_MARGIN:
            rows = rows[: sortable_prefix([row.order for row in rows], _ORDER_MARGIN)]
            changes["cursor"] = [rows[-1].created_at, rows[-1].id]
        elif found.resume:
            changes["cursor"] = list(found.resume)
        # Logged in the order of writes, sent in the order of events.
        rows.sort(key=lambda row: row.order)
        batch = [row.id for row in rows if not job.events or matches(job.events, row.event_type)]
        changes |= {"batch": batch, "is_planned": is_planned}
        return StepResult(finished=is_planned and not batch, changes=changes)


def sortable_prefix(orders: Sequence[int], margin: int) -> int:
    """Return how many of these rows can be sorted on their own, without the last `margin`.

    The rows are in the order in which they were written. That is the order of their batches, but not of the
    deliveries in a batch. At a cut between two batches, all orders before are less than all after.
    """
    max_length = len(orders) - margin
    highest = list(accumulate(orders, max))
    lowest = list(accumulate(reversed(orders), min))[::-1]
    return next((at for at in range(max_length, 0, -1) if highest[at - 1] < lowest[at]), max_length)


def _job_query(job: RecoveryJob) -> DeliveryQuery:
    """Return the query for the job's deliveries: none that were logged after the job started."""
    return DeliveryQuery(
        workspace=job.workspace,
        webhook_id=job.webhook_id,
        event_type=job.event_type,
        event_id=job.event_id,
        statuses=job.statuses,
        error=job.last_error,
        trace_id=job.trace_id,
        since=job.since,
        until=min(job.until, job.created_at) if job.until else job.created_at,
    )
