"""The recovery API: retry, resend and cancel one delivery or many, and dead letters."""

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from starlette.responses import Response

from services.delivery.api.customers import CustomerDeliveries
from services.delivery.api.delivery_schemas import attempts_out, body_out, masked
from services.delivery.api.fields import (
    CustomerOperator,
    FilterQuery,
    Operator,
    Reader,
    optional_rfc3339,
    sees_payloads,
)
from services.delivery.api.recovery_schemas import (
    DeadLetterOut,
    DeadLetterSelection,
    DeliveryChangedOut,
    DeliveryResultOut,
    DeliveryResultsOut,
    DeliverySelection,
    JobOut,
    JobStartedOut,
    RecoverCreate,
    ReplayCreate,
    ResendOut,
)
from services.delivery.engine.waiting_reasons import WaitingReasons, WaitingState
from services.delivery.log.deliveries import Delivery
from services.delivery.log.delivery_changes import Action
from services.delivery.log.key_search import DeliveryQuery
from services.delivery.log.recovery import NOT_FOUND, Recovery
from services.delivery.log.recovery_jobs import JobScope, RecoveryJobs
from services.delivery.log.search import DeliverySearch
from services.delivery.model.delivery_status import ENDED, WAITING
from shared.contracts.errors import Conflict, NotFound
from shared.runtime.web.access import ApiKey
from shared.runtime.web.paging import Cursor, Limit, Order, Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.web.times import UtcTime

_DEAD_LETTER: Final = "dead_letter"


class RecoveryApi:
    """The routes and what they need."""

    def __init__(
        self,
        jobs: RecoveryJobs,
        recovery: Recovery,
        deliveries: DeliverySearch,
        customers: CustomerDeliveries,
        reasons: WaitingReasons,
    ) -> None:
        self._customers = customers
        self._jobs = jobs
        self._recovery = recovery
        self._deliveries = deliveries
        self._reasons = reasons

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        add = Routes(app, "/api").add
        add("/deliveries/retry", self.retry_many, methods=["POST"])
        add("/deliveries/{delivery_id}/retry", self.retry, methods=["POST"], status_code=202)
        add("/deliveries/{delivery_id}/resend", self.resend, methods=["POST"], status_code=202)
        add("/deliveries/{delivery_id}/cancel", self.cancel, methods=["POST"])
        add("/outgoing-webhooks/{webhook_id}/recover", self.recover, methods=["POST"], status_code=202)
        add("/outgoing-webhooks/{webhook_id}/replay", self.replay, methods=["POST"], status_code=202)
        add("/delivery-jobs", self.list_jobs, methods=["GET"])
        add("/delivery-jobs/{job_id}", self.read_job, methods=["GET"])
        add("/delivery-jobs/{job_id}/cancel", self.cancel_job, methods=["POST"])
        add("/dead-letters", self.list_dead_letters, methods=["GET"])
        add("/dead-letters/replay", self.replay_dead_letters, methods=["POST"])
        add("/dead-letters/discard", self.discard_dead_letters, methods=["POST"])
        add("/dead-letters/{dead_letter_id}", self.read_dead_letter, methods=["GET"])

    # One delivery

    async def retry(self, delivery_id: str, key: CustomerOperator) -> DeliveryChangedOut:
        """Send the delivery again now, under the same id. A finished one starts another retry cycle.

        A waiting one is due now, and continues its retry cycle. It goes past the endpoint's hold and open
        circuit, and its result decides about them.
        """
        await self._customers.find(key, delivery_id)
        return await self._apply_action("recover", delivery_id, key, (*ENDED, *WAITING))

    async def retry_many(
        self, body: DeliverySelection, key: Operator, response: Response
    ) -> DeliveryResultsOut:
        """Send deliveries again, under their ids: those of `ids` at once, others as a job.

        A finished delivery starts another retry cycle; a waiting one is due now. Hold and open circuit of an
        endpoint delay them, unlike the retry of one delivery.
        """
        return await self._work_on(body, "recover", (*ENDED, *WAITING), body.statuses, key, response)

    async def resend(self, delivery_id: str, key: CustomerOperator) -> ResendOut:
        """Send a finished delivery again as a new one: the recorded body, under a new id.

        This is for deliveries that got lost after the subscriber's 2xx: a subscriber that knows the id would
        drop a repetition as a duplicate. Failed deliveries can be resent too; a retry sends them under their
        own id. It goes past the endpoint's hold and open circuit, and its result decides about them.
        """
        await self._customers.find(key, delivery_id)
        request = await self._recovery.resend(delivery_id, workspace=key.workspace)
        return ResendOut(
            id=request.delivery_id,
            webhook_id=request.webhook_id,
            replay_of=request.replay_of,
            replay_no=request.replay_no,
        )

    async def cancel(self, delivery_id: str, key: CustomerOperator) -> DeliveryChangedOut:
        """Cancel a waiting delivery. A cancelled one stays cancelled."""
        delivery = await self._customers.find(key, delivery_id)
        if delivery.status == "cancelled":
            return await self._delivery_changed_out(delivery)
        return await self._apply_action("cancel", delivery_id, key, WAITING)

    # Many deliveries of a webhook

    async def recover(self, webhook_id: str, body: RecoverCreate, key: Operator) -> JobStartedOut:
        """Send the failed deliveries of a time window again, under the same ids."""
        scope = JobScope(since=body.since, until=body.until, statuses=list(body.statuses))
        return JobStartedOut(
            job=JobOut.of(await self._jobs.begin("recover", key.workspace, webhook_id, scope))
        )

    async def replay(self, webhook_id: str, body: ReplayCreate, key: Operator) -> JobStartedOut:
        """Send the finished deliveries of a time window again, under new ids, in the original order."""
        scope = JobScope(since=body.since, until=body.until, statuses=list(body.statuses), events=body.events)
        return JobStartedOut(
            job=JobOut.of(await self._jobs.begin("replay", key.workspace, webhook_id, scope))
        )

    async def list_jobs(
        self, key: Reader, paging: PagingQuery, webhook_id: FilterQuery = None
    ) -> Page[JobOut]:
        """List the workspace's jobs of the last 30 days, newest first."""
        jobs = await self._jobs.page(key.workspace, webhook_id, paging)
        return Page[JobOut](items=[JobOut.of(job) for job in jobs.items], next_cursor=jobs.next_cursor)

    async def read_job(self, job_id: str, key: Reader) -> JobOut:
        """Return a job with its progress."""
        return JobOut.of(await self._jobs.read(key.workspace, job_id))

    async def cancel_job(self, job_id: str, key: Operator) -> JobOut:
        """End a job after the step in progress; what it did is kept. A finished job stays as it is."""
        return JobOut.of(await self._jobs.cancel(key.workspace, job_id))

    # Dead letters

    async def list_dead_letters(
        self,
        key: Reader,
        webhook_id: FilterQuery = None,
        event_type: FilterQuery = None,
        since: UtcTime | None = None,
        until: UtcTime | None = None,
        error: FilterQuery = None,
        limit: Limit = 50,
        cursor: Cursor = None,
        order: Order = "newest",
    ) -> Page[DeadLetterOut]:
        """List dead letters, newest first; `error` is the error class of the last attempt.

        With `event_type` or `error`, a page may have fewer items than `limit`, or none, before the last one:
        go on until `next_cursor` is null.
        """
        query = DeliveryQuery(
            workspace=key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            statuses=(_DEAD_LETTER,),
            error=error,
            since=since,
            until=until,
        )
        results = await self._deliveries.page(
            query, limit=limit, cursor=cursor, oldest_first=order == "oldest", last_attempt=True
        )
        return Page[DeadLetterOut](
            items=[DeadLetterOut.of(delivery) for delivery in results.items], next_cursor=results.next_cursor
        )

    async def read_dead_letter(self, dead_letter_id: str, key: Reader) -> DeadLetterOut:
        """Return one dead letter with every attempt and its body."""
        delivery = await self._deliveries.find(key.workspace, dead_letter_id, status=_DEAD_LETTER)
        if delivery is None:
            raise NotFound("no such dead letter")
        dead_letter = DeadLetterOut.of(delivery)
        dead_letter.attempts = attempts_out(delivery)
        dead_letter.body = body_out(delivery)
        return dead_letter if sees_payloads(key) else masked(dead_letter)

    async def replay_dead_letters(
        self, body: DeadLetterSelection, key: Operator, response: Response
    ) -> DeliveryResultsOut:
        """Send dead letters again, under their ids, in another retry cycle: at once, or as a job."""
        return await self._work_on(body, "recover", (_DEAD_LETTER,), [_DEAD_LETTER], key, response)

    async def discard_dead_letters(
        self, body: DeadLetterSelection, key: Operator, response: Response
    ) -> DeliveryResultsOut:
        """Discard dead letters: at once, or as a job. They stay in the log until they expire."""
        return await self._work_on(body, "discard", (_DEAD_LETTER,), [_DEAD_LETTER], key, response)

    async def _work_on(
        self,
        body: DeadLetterSelection | DeliverySelection,
        action: Action,
        of_ids: Sequence[str],
        of_filters: Sequence[str],
        key: ApiKey,
        response: Response,
    ) -> DeliveryResultsOut:
        """Work on selected deliveries: on ids in a state of `of_ids` at once, on filters as a job."""
        # Filters may match millions.
        if body.ids is not None:
            outcomes = await self._jobs.run_immediately(action, key.workspace, body.ids, statuses=of_ids)
            return DeliveryResultsOut(
                results=[
                    DeliveryResultOut(id=delivery_id, done=reason is None, reason=reason)
                    for delivery_id, reason in outcomes.items()
                ]
            )
        scope = JobScope(
            event_type=body.event_type,
            event_id=body.event_id,
            trace_id=body.trace_id,
            since=body.since,
            until=body.until,
            last_error=body.error,
            statuses=list(of_filters),
        )
        job = await self._jobs.begin(action, key.workspace, body.webhook_id, scope)
        response.status_code = 202
        return DeliveryResultsOut(job=JobOut.of(job))

    # The log

    async def _apply_action(
        self, action: Action, delivery_id: str, key: ApiKey, statuses: tuple[str, ...]
    ) -> DeliveryChangedOut:
        outcomes = await self._jobs.run_immediately(
            action, key.workspace, [delivery_id], statuses=statuses, manual=True
        )
        refusal = outcomes[delivery_id]
        if refusal == NOT_FOUND:
            raise NotFound(NOT_FOUND)
        if refusal is not None:
            raise Conflict(refusal)
        return await self._delivery_changed_out(await self._customers.find(key, delivery_id))

    async def _delivery_changed_out(self, delivery: Delivery) -> DeliveryChangedOut:
        waiting = (await self._reasons.of([delivery], delivery.workspace)).get(delivery.id, WaitingState())
        return DeliveryChangedOut(
            id=delivery.id,
            status=delivery.status,
            next_attempt_at=optional_rfc3339(waiting.at),
            waiting_reason=waiting.reason,
        )
