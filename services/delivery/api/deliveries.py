"""The delivery log's API: every delivery with its attempts."""

from typing import Final

from fastapi import FastAPI

from services.delivery.api.customers import CustomerDeliveries
from services.delivery.api.delivery_schemas import DeliveryCountOut, DeliveryOut, masked
from services.delivery.api.fields import (
    CustomerReader,
    ErrorQuery,
    EventIdQuery,
    FilterQuery,
    Reader,
    StatusQuery,
    TraceIdQuery,
    sees_payloads,
)
from services.delivery.engine.waiting_reasons import WaitingReasons
from services.delivery.log.key_search import STATUSES, DeliveryQuery
from services.delivery.log.search import DeliverySearch
from shared.runtime.web.paging import Cursor, Limit, Order, Page
from shared.runtime.web.routes import Routes
from shared.runtime.web.times import UtcTime

_COUNT_TIMEOUT_S: Final = 2.0
"""Somebody waits for a count; if it takes longer, there is none."""


class DeliveriesApi:
    """The routes and what they need."""

    def __init__(
        self, deliveries: DeliverySearch, customers: CustomerDeliveries, reasons: WaitingReasons
    ) -> None:
        self._deliveries = deliveries
        self._customers = customers
        self._reasons = reasons

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        add = Routes(app, "/api").add
        add("/deliveries", self.list_deliveries, methods=["GET"])
        add("/deliveries/count", self.count, methods=["GET"], operation_id="count_deliveries")
        add("/deliveries/{delivery_id}", self.read_delivery, methods=["GET"])

    async def list_deliveries(
        self,
        key: CustomerReader,
        webhook_id: FilterQuery = None,
        event_type: FilterQuery = None,
        status: StatusQuery = None,
        event_id: EventIdQuery = None,
        error: ErrorQuery = None,
        trace_id: TraceIdQuery = None,
        since: UtcTime | None = None,
        until: UtcTime | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
        order: Order = "newest",
    ) -> Page[DeliveryOut]:
        """List the delivery log.

        With `event_type`, `error` or `trace_id`, a page may have fewer items than `limit`, or none, before
        the last one: go on until `next_cursor` is null.
        """
        await self._customers.check_webhook(key, webhook_id)
        query = DeliveryQuery(
            key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            event_id=event_id,
            statuses=status or (),
            error=error,
            trace_id=trace_id,
            since=since,
            until=until,
        )
        results = await self._deliveries.page(
            query, limit=limit, cursor=cursor, oldest_first=order == "oldest"
        )
        waiting = await self._reasons.of(results.items, key.workspace)
        return Page[DeliveryOut](
            items=[DeliveryOut.of(delivery, waiting.get(delivery.id)) for delivery in results.items],
            next_cursor=results.next_cursor,
        )

    async def count(
        self,
        key: Reader,
        webhook_id: FilterQuery = None,
        event_type: FilterQuery = None,
        status: StatusQuery = None,
        event_id: EventIdQuery = None,
        error: ErrorQuery = None,
        trace_id: TraceIdQuery = None,
        since: UtcTime | None = None,
        until: UtcTime | None = None,
    ) -> DeliveryCountOut:
        """Count the deliveries that match every filter: what a job with these filters would work on."""
        query = DeliveryQuery(
            key.workspace,
            webhook_id=webhook_id,
            event_type=event_type,
            event_id=event_id,
            statuses=status or STATUSES,
            error=error,
            trace_id=trace_id,
            since=since,
            until=until,
        )
        return DeliveryCountOut(count=await self._deliveries.count(query, timeout_s=_COUNT_TIMEOUT_S))

    async def read_delivery(self, delivery_id: str, key: CustomerReader) -> DeliveryOut:
        """Return one delivery with every attempt."""
        delivery = await self._customers.find(key, delivery_id)
        waiting = await self._reasons.of([delivery], key.workspace)
        shown = DeliveryOut.of(delivery, waiting.get(delivery_id))
        return shown if sees_payloads(key) else masked(shown)
