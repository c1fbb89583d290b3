"""The delivery log's API: every delivery with its attempts, and the queue's statistics."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import AfterValidator, AwareDatetime

from services.delivery.log_schemas import DeliveryStatus, QueueStats, ShownAttempt, ShownDelivery
from services.delivery.store import Deliveries
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import NotFound
from shared.runtime.access import ApiKey, requires
from shared.runtime.mongo import Document, translated, utcnow
from shared.runtime.paging import Cursor, Limit, Page, page
from shared.runtime.problems import in_utc

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]

_COUNTED: Final[Mapping[str, str]] = {
    "pending": "pending",
    "active": "delivering",
    "completed": "delivered",
    "failed": "dead_letter",
    "delayed": "retrying",
}


class DeliveriesApi:
    """The routes and what they need."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/deliveries", self.list_deliveries, methods=["GET"])
        add("/deliveries/{delivery_id}", self.read_delivery, methods=["GET"])
        add("/queue/stats", self.queue_stats, methods=["GET"])
        app.include_router(router)

    async def list_deliveries(
        self,
        key: Reader,
        webhook_id: str | None = None,
        event_type: str | None = None,
        status: DeliveryStatus | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ShownDelivery]:
        """The log, newest first."""
        wanted = {"webhook_id": webhook_id, "event_type": event_type, "status": status}
        query: dict[str, Any] = {"workspace": key.workspace}
        query |= {field: value for field, value in wanted.items() if value is not None}
        if since or until:
            window = {"$gte": since, "$lt": until}
            query["created_at"] = {operator: at for operator, at in window.items() if at}
        return await page(
            self._deliveries.collection,
            query,
            _delivery,
            limit=limit,
            cursor=cursor,
            fields={"attempts": 0, "body": 0},
        )

    async def read_delivery(self, delivery_id: str, key: Reader) -> ShownDelivery:
        """One delivery with every attempt."""
        with translated():
            document = await self._deliveries.collection.find_one(
                {"_id": delivery_id, "workspace": key.workspace}
            )
        if document is None:
            raise NotFound("no such delivery")
        return _delivery(document)

    async def queue_stats(
        self, key: Reader, webhook_id: Annotated[str | None, Query(max_length=100)] = None
    ) -> QueueStats:
        """Counts by state, for the workspace or one webhook."""
        query: dict[str, Any] = {"workspace": key.workspace}
        if webhook_id is not None:
            query["webhook_id"] = webhook_id
        with translated():
            counts = {
                name: await self._deliveries.collection.count_documents(query | {"status": status})
                for name, status in _COUNTED.items()
            }
            oldest = (
                await self._deliveries.collection.find(
                    query | {"status": {"$in": ["pending", "retrying"]}}, {"due_at": 1}
                )
                .sort("due_at", 1)
                .limit(1)
                .to_list(1)
            )
        overdue = (utcnow() - oldest[0]["due_at"]).total_seconds() if oldest else None
        late = overdue if overdue is not None and overdue > 0 else None
        return QueueStats(total=sum(counts.values()), oldest_due_s=late, **counts)


def _delivery(document: Document) -> ShownDelivery:
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
        next_attempt_at=shown(document.get("due_at"))
        if document["status"] in ("pending", "retrying")
        else None,
        attempts=None if attempts is None else [_attempt(attempt) for attempt in attempts],
        body=None if body is None else bytes(body).decode("utf-8", "replace"),
    )


def _attempt(kept: Document) -> ShownAttempt:
    shown = {
        "started_at": rfc3339(kept["started_at"]),
        "response_headers": dict(kept["response_headers"]),
    }
    return ShownAttempt(**kept | shown)
