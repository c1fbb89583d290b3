"""The delivery log's API: every delivery with its attempts."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query

from services.delivery.api.delivery_schemas import DeliveryOut
from services.delivery.api.fields import FilterQuery, Reader, UtcTime, attempt_out, identity, optional_rfc3339
from services.delivery.engine.waiting_reasons import WaitingReasons, WaitingState
from services.delivery.log import search
from services.delivery.log.deliveries import Deliveries
from services.delivery.model.delivery_status import DeliveryStatus
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import NotFound
from shared.runtime.mongo import Document, translate_errors
from shared.runtime.web.paging import Cursor, Limit, Page


class DeliveriesApi:
    """The routes and what they need."""

    def __init__(self, deliveries: Deliveries, reasons: WaitingReasons) -> None:
        self._deliveries = deliveries
        self._reasons = reasons

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/deliveries", self.list_deliveries, methods=["GET"])
        add("/deliveries/{delivery_id}", self.read_delivery, methods=["GET"])
        app.include_router(router)

    async def list_deliveries(
        self,
        key: Reader,
        webhook_id: FilterQuery = None,
        event_type: FilterQuery = None,
        status: Annotated[
            list[DeliveryStatus] | None,
            Query(max_length=20, description="One of these states; repeat the parameter for several."),
        ] = None,
        event_id: Annotated[str | None, Query(max_length=1000)] = None,
        error: Annotated[
            str | None, Query(max_length=100, description="The error class of the last attempt.")
        ] = None,
        since: UtcTime | None = None,
        until: UtcTime | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[DeliveryOut]:
        """List the delivery log, newest first."""
        query = search.DeliveryQuery(
            key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            event_id=event_id,
            statuses=status or (),
            error=error,
            since=since,
            until=until,
        )
        results = await search.page(
            self._deliveries.collection,
            query,
            identity,
            limit=limit,
            cursor=cursor,
            fields={"attempts": 0, "body": 0},
        )
        waiting = await self._reasons.of(results.items, key.workspace)
        return Page[DeliveryOut](
            items=[_delivery_out(document, waiting.get(document["_id"])) for document in results.items],
            next_cursor=results.next_cursor,
        )

    async def read_delivery(self, delivery_id: str, key: Reader) -> DeliveryOut:
        """Return one delivery with every attempt."""
        with translate_errors():
            document = await self._deliveries.collection.find_one(
                {"_id": delivery_id, "workspace": key.workspace}
            )
        if document is None:
            raise NotFound("no such delivery")
        waiting = await self._reasons.of([document], key.workspace)
        return _delivery_out(document, waiting.get(delivery_id))


def _delivery_out(document: Document, waiting: WaitingState | None) -> DeliveryOut:
    attempts = document.get("attempts")
    body = document.get("body")
    return DeliveryOut(
        id=document["_id"],
        webhook_id=document["webhook_id"],
        event_id=document["event_id"],
        event_type=document["event_type"],
        status=document["status"],
        attempt_count=document["attempt_count"],
        trace_id=document["traceparent"][3:35],
        occurred_at=document["occurred_at"],
        created_at=rfc3339(document["created_at"]),
        finished_at=optional_rfc3339(document.get("finished_at")),
        next_attempt_at=optional_rfc3339(waiting.at if waiting else None),
        waiting_reason=waiting.reason if waiting else None,
        error=document.get("last_error"),
        replay_of=document.get("replay_of"),
        replay_no=document.get("replay_no"),
        erased_at=optional_rfc3339(document.get("erased_at")),
        attempts=None if attempts is None else [attempt_out(attempt) for attempt in attempts],
        body=None if body is None else bytes(body).decode("utf-8", "replace"),
    )
