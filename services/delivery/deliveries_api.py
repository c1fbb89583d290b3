"""The delivery log's API: every delivery with its attempts."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import AfterValidator, AwareDatetime

from services.delivery import log
from services.delivery.log_schemas import DeliveryStatus, ShownAttempt, ShownDelivery
from services.delivery.store import Deliveries
from services.delivery.waiting import Waiting, WaitingReasons
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import NotFound
from shared.runtime.access import ApiKey, requires
from shared.runtime.mongo import Document, translated
from shared.runtime.paging import Cursor, Limit, Page
from shared.runtime.problems import in_utc

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]
Filter = Annotated[str | None, Query(max_length=200)]


class DeliveriesApi:
    """The routes and what they need."""

    def __init__(self, deliveries: Deliveries, reasons: WaitingReasons) -> None:
        self._deliveries = deliveries
        self._reasons = reasons

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/deliveries", self.list_deliveries, methods=["GET"])
        add("/deliveries/{delivery_id}", self.read_delivery, methods=["GET"])
        app.include_router(router)

    async def list_deliveries(
        self,
        key: Reader,
        webhook_id: Filter = None,
        event_type: Filter = None,
        status: Annotated[
            list[DeliveryStatus] | None, Query(max_length=20, description="Any of these; repeat it.")
        ] = None,
        event_id: Annotated[str | None, Query(max_length=1000)] = None,
        error: Annotated[
            str | None, Query(max_length=100, description="The error class of the last attempt.")
        ] = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ShownDelivery]:
        """The log, newest first."""
        wanted = log.Wanted(
            key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            event_id=event_id,
            statuses=status or (),
            error=error,
            since=since,
            until=until,
        )
        found = await log.page(
            self._deliveries.collection,
            wanted,
            _itself,
            limit=limit,
            cursor=cursor,
            fields={"attempts": 0, "body": 0},
        )
        waiting = await self._reasons.of(found.items, key.workspace)
        return Page[ShownDelivery](
            items=[_delivery(document, waiting.get(document["_id"])) for document in found.items],
            next_cursor=found.next_cursor,
        )

    async def read_delivery(self, delivery_id: str, key: Reader) -> ShownDelivery:
        """One delivery with every attempt."""
        with translated():
            document = await self._deliveries.collection.find_one(
                {"_id": delivery_id, "workspace": key.workspace}
            )
        if document is None:
            raise NotFound("no such delivery")
        waiting = await self._reasons.of([document], key.workspace)
        return _delivery(document, waiting.get(delivery_id))


def _itself(document: Document) -> Document:
    return document


def _delivery(document: Document, waiting: Waiting | None) -> ShownDelivery:
    def shown(moment: datetime | None) -> str | None:
        return rfc3339(moment) if moment else None

    attempts = document.get("attempts")
    body = document.get("body")
    return ShownDelivery(
        id=document["_id"],
        webhook_id=document["webhook_id"],
        event_id=document["event_id"],
        event_type=document["event_type"],
        status=document["status"],
        attempt_count=document["attempt_count"],
        trace_id=document["traceparent"][3:35],
        occurred_at=document["occurred_at"],
        created_at=rfc3339(document["created_at"]),
        finished_at=shown(document.get("finished_at")),
        next_attempt_at=shown(waiting.at if waiting else None),
        waiting_reason=waiting.reason if waiting else None,
        error=document.get("last_error"),
        replay_of=document.get("replay_of"),
        replay_no=document.get("replay_no"),
        erased_at=shown(document.get("erased_at")),
        attempts=None if attempts is None else [_attempt(attempt) for attempt in attempts],
        body=None if body is None else bytes(body).decode("utf-8", "replace"),
    )


def _attempt(kept: Document) -> ShownAttempt:
    shown = {
        "started_at": rfc3339(kept["started_at"]),
        "response_headers": dict(kept["response_headers"]),
        "response_body": kept.get("response_body"),
    }
    return ShownAttempt(**kept | shown)
