"""The recovery API: one delivery, many of them as a job, and dead letters."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.responses import Response

from services.delivery import log
from services.delivery.jobs import Jobs
from services.delivery.log_schemas import ShownAttempt
from services.delivery.recovery import ENDED, NOT_FOUND, WAITING, Action, Recovery
from services.delivery.recovery_schemas import (
    Begun,
    Changed,
    DeadLetters,
    Done,
    Moment,
    Outcome,
    Recover,
    Replay,
    Resent,
    ShownDeadLetter,
    ShownJob,
)
from services.delivery.waiting import Waiting, WaitingReasons
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.runtime.access import ApiKey, requires
from shared.runtime.mongo import Document, translated
from shared.runtime.paging import Cursor, Limit, Page, page

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
Text = Annotated[str | None, Query(max_length=200)]

_DEAD: Final = "dead_letter"
_LISTED: Final[Any] = {"attempts": {"$slice": -1}, "body": 0}
_JOB_FIELDS: Final = {"batch": 0}


class RecoveryApi:
    """The routes and what they need."""

    def __init__(self, jobs: Jobs, recovery: Recovery, reasons: WaitingReasons) -> None:
        self._jobs = jobs
        self._reasons = reasons
        self._recovery = recovery
        self._deliveries = recovery.deliveries

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
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
        app.include_router(router)

    # One delivery

    async def retry(self, delivery_id: str, key: Writer) -> Changed:
        """Send it again now, under the same id. What has ended begins its schedule anew.

        What waits for its next attempt is due now and goes on with the schedule that it has. It goes past an
        endpoint's hold and open circuit, and its result decides about them.
        """
        return await self._step("recover", delivery_id, key, (*ENDED, *WAITING))

    async def resend(self, delivery_id: str, key: Writer) -> Resent:
        """Send one that has ended again, as a new delivery: the body as it was recorded, under a new id.

        For what was delivered and got lost behind the receiver's 2xx, because a receiver that knows the id
        takes a repetition for a duplicate. What failed can be resent too; a retry sends it under its own id.
        It goes past an endpoint's hold and open circuit, and its result decides about them.
        """
        again = await self._recovery.resend(delivery_id, workspace=key.workspace)
        return Resent(
            id=again.delivery_id,
            webhook_id=again.webhook_id,
            replay_of=again.replay_of,
            replay_no=again.replay_no,
        )

    async def cancel(self, delivery_id: str, key: Writer) -> Changed:
        """Send it no more. One that is cancelled already stays so."""
        document = await self._find(delivery_id, key)
        if document["status"] == "cancelled":
            return await self._changed(document)
        return await self._step("cancel", delivery_id, key, WAITING)

    # Many deliveries of a webhook

    async def recover(self, webhook_id: str, body: Recover, key: Writer) -> Begun:
        """Send again, under the same ids, what failed in this time."""
        scope = {"since": body.since, "until": body.until, "statuses": list(body.statuses)}
        return Begun(job=_job(await self._jobs.begin("recover", key.workspace, webhook_id, scope)))

    async def replay(self, webhook_id: str, body: Replay, key: Writer) -> Begun:
        """Send again everything that ended in this time, under new ids, in the original order."""
        scope = {
            "since": body.since,
            "until": body.until,
            "statuses": list(body.statuses),
            "events": body.events,
        }
        return Begun(job=_job(await self._jobs.begin("replay", key.workspace, webhook_id, scope)))

    async def list_jobs(
        self, key: Reader, webhook_id: Text = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ShownJob]:
        """The workspace's jobs of the last 30 days, newest first."""
        query = {"workspace": key.workspace} | ({} if webhook_id is None else {"webhook_id": webhook_id})
        return await page(self._jobs.collection, query, _job, limit=limit, cursor=cursor, fields=_JOB_FIELDS)

    async def read_job(self, job_id: str, key: Reader) -> ShownJob:
        """How far a job is."""
        return _job(await self._jobs.read(key.workspace, job_id))

    async def cancel_job(self, job_id: str, key: Writer) -> ShownJob:
        """End a job after the step at hand: what it did stays done. One that has ended stays as it is."""
        return _job(await self._jobs.cancel(key.workspace, job_id))

    # Dead letters

    async def list_dead_letters(
        self,
        key: Reader,
        webhook_id: Text = None,
        event_type: Text = None,
        since: Moment | None = None,
        until: Moment | None = None,
        error: Text = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ShownDeadLetter]:
        """Deliveries that nothing more is tried for, newest first; `error` is their last attempt's."""
        wanted = log.Wanted(
            workspace=key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            statuses=(_DEAD,),
            error=error,
            since=since,
            until=until,
        )
        return await log.page(
            self._deliveries, wanted, _dead_letter, limit=limit, cursor=cursor, fields=_LISTED
        )

    async def read_dead_letter(self, dead_letter_id: str, key: Reader) -> ShownDeadLetter:
        """One dead letter with every attempt and its body."""
        document = await self._find(dead_letter_id, key, status=_DEAD)
        shown = _dead_letter(document)
        shown.attempts = [_attempt(attempt) for attempt in document["attempts"]]
        if document.get("body") is not None:
            shown.body = bytes(document["body"]).decode("utf-8", "replace")
        return shown

    async def replay_dead_letters(self, body: DeadLetters, key: Writer, response: Response) -> Done:
        """Send dead letters again, under their ids, with their schedule anew: at once, or as a job."""
        return await self._dead_letters("recover", body, key, response)

    async def discard_dead_letters(self, body: DeadLetters, key: Writer, response: Response) -> Done:
        """Put dead letters away: at once, or as a job. They stay in the log until they expire."""
        return await self._dead_letters("discard", body, key, response)

    async def _dead_letters(self, action: Action, body: DeadLetters, key: ApiKey, response: Response) -> Done:
        if body.ids is not None:
            outcomes = await self._jobs.at_once(action, key.workspace, body.ids, statuses=(_DEAD,))
            return Done(
                results=[
                    Outcome(id=name, done=reason is None, reason=reason) for name, reason in outcomes.items()
                ]
            )
        scope = body.model_dump(include={"event_type", "since", "until"})
        scope |= {"last_error": body.error, "statuses": [_DEAD]}
        response.status_code = 202
        return Done(job=_job(await self._jobs.begin(action, key.workspace, body.webhook_id, scope)))

    # The log

    async def _step(
        self, action: Action, delivery_id: str, key: ApiKey, statuses: tuple[str, ...]
    ) -> Changed:
        outcomes = await self._jobs.at_once(
            action, key.workspace, [delivery_id], statuses=statuses, manual=True
        )
        refused = outcomes[delivery_id]
        if refused == NOT_FOUND:
            raise NotFound(NOT_FOUND)
        if refused is not None:
            raise Conflict(refused)
        return await self._changed(await self._find(delivery_id, key))

    async def _changed(self, document: Document) -> Changed:
        waiting = (await self._reasons.of([document], document["workspace"])).get(document["_id"], Waiting())
        return Changed(
            id=document["_id"],
            status=document["status"],
            next_attempt_at=_shown(waiting.at),
            waiting_reason=waiting.reason,
        )

    async def _find(self, delivery_id: str, key: ApiKey, **more: str) -> Document:
        with translated():
            document = await self._deliveries.find_one(
                {"_id": delivery_id, "workspace": key.workspace, **more}
            )
        if document is None:
            raise NotFound(NOT_FOUND if not more else "no such dead letter")
        return document


def _job(document: Document) -> ShownJob:
    shown: Mapping[str, Any] = {
        name: document.get(name)
        for name in ShownJob.model_fields
        if name not in ("id", "created_at", "finished_at")
    }
    return ShownJob(
        id=document["_id"],
        created_at=rfc3339(document["created_at"]),
        finished_at=_shown(document.get("finished_at")),
        **shown,
    )


def _dead_letter(document: Document) -> ShownDeadLetter:
    last = document["attempts"][-1] if document["attempts"] else {}
    return ShownDeadLetter(
        id=document["_id"],
        webhook_id=document["webhook_id"],
        event_id=document["event_id"],
        event_type=document["event_type"],
        attempt_count=document["attempt_count"],
        error=document.get("last_error", last.get("error")),
        status_code=last.get("status_code"),
        detail=last.get("detail", ""),
        occurred_at=document["occurred_at"],
        created_at=rfc3339(document["created_at"]),
        finished_at=_shown(document.get("finished_at")),
        expires_at=_shown(document.get("expires_at")),
    )


def _attempt(kept: Document) -> ShownAttempt:
    shown = {
        "started_at": rfc3339(kept["started_at"]),
        "response_headers": dict(kept["response_headers"]),
    }
    return ShownAttempt(**kept | shown)


def _shown(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment else None
