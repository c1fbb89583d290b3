"""Claims of due deliveries, and where they are found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from services.delivery.log.deliveries import (
    DELIVERIES,
    ClaimedDelivery,
    attempt_lease,
    batches_of_ids,
    request_of,
)
from services.delivery.model.delivery import TEST_TYPE
from services.delivery.model.due_cursor import (
    LAST_POSITION,
    CursorField,
    DueCursor,
    cursor_value,
    position_of,
)
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueWork
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors

_MAX_TIMEOUT_S: Final = 60.0
"""The longest timeout of an outgoing webhook that the API accepts."""
_LEASE_FIELDS: Final = {"status": 1, "holder": 1, "holder_run": 1}


class DueDeliveries:
    """Searches and claims due deliveries. Every method raises `DatabaseUnavailable`.

    The search is not that of `DueWork`: it goes webhook by webhook, as permits allow, in windows.
    """

    def __init__(self, mongo: Mongo, *, holder: Mapping[str, str]) -> None:
        """Open the log; `holder` has the fields that name this process in a lease (`Deliveries.holder`)."""
        self._collection: Collection = mongo.collection(DELIVERIES)
        self._holder = holder
        self._work: DueWork[ClaimedDelivery] = DueWork(
            self._collection,
            _claimed_delivery,
            lease=attempt_lease(_MAX_TIMEOUT_S),
            claim_fields={"status": "delivering", **holder},
        )

    async def claim(
        self, webhook_id: str, due_cursor: DueCursor, *, limit: int, timeout_s: float
    ) -> list[ClaimedDelivery]:
        """Claim up to `limit` due deliveries of a webhook, the longest overdue first.

        The lease of each lasts a little longer than `timeout_s`. For strictly ordered webhooks, claim only
        the oldest open delivery, and only if it is due.
        """
        floor = due_cursor.floor
        try:
            ids = await self._due_ids(webhook_id, due_cursor, utcnow(), limit)
            claimed = await self._work.claim_all(ids, lease=attempt_lease(timeout_s))
        except BaseException:
            due_cursor.floor = min(due_cursor.floor, floor)  # what was found there is not claimed yet
            raise
        # Found by due time, sent in the order of the events.
        return sorted(claimed, key=lambda delivery: delivery.request.order)

    async def claim_one(
        self, webhook_id: str, delivery_id: str, due_cursor: DueCursor, *, strict: bool, timeout_s: float
    ) -> ClaimedDelivery | None:
        """Claim a delivery that a person asked for, due or not; return None if it is not waiting.

        For strictly ordered webhooks, claim only the oldest open delivery, or a test event, which has no
        place in the order.
        """
        condition: Document = {"webhook_id": webhook_id, "status": {"$in": ["pending", "retrying"]}}
        # A manual request must not overtake in strict order.
        if strict:
            head = await self._head(webhook_id, due_cursor, utcnow())
            if head is None or head["_id"] != delivery_id:
                condition["event_type"] = TEST_TYPE
        claimed = await self._work.claim(
            delivery_id, condition=condition, lease=attempt_lease(timeout_s), early=True
        )
        return replace(claimed, manual=True) if claimed else None

    async def next_due(self, webhook_id: str, due_cursor: DueCursor) -> datetime | None:
        """Return when a webhook's next delivery is due; None if none is open."""
        now = utcnow()
        if due_cursor.field == "order":
            head = await self._head(webhook_id, due_cursor, now)
            return head["due_at"] if head else None
        for low, high in due_cursor.windows(now, LAST_POSITION["due_at"]):
            if first := await self._first(webhook_id, "due_at", low, high):
                due_at: datetime = first[0]["due_at"]
                return due_at
        return None

    async def open_webhooks(self, partitions: Iterable[int]) -> dict[str, int]:
        """Return the webhooks with open deliveries in these partitions, with their partition."""
        partition_by_webhook: dict[str, int] = {}
        for partition in partitions:
            with translate_errors():
                webhooks = await self._collection.distinct("webhook_id", {"partition": partition, **OPEN})
            partition_by_webhook |= dict.fromkeys(webhooks, partition)
        return partition_by_webhook

    async def release_leases(self, webhook_ids: Iterable[str]) -> None:
        """Make due what a killed predecessor of this process was attempting at these webhooks.

        The requests may have been sent, as with every lease that expires.
        """
        now = utcnow()
        soon: Document = {**OPEN, "due_at": {"$gt": now, "$lte": now + attempt_lease(_MAX_TIMEOUT_S)}}
        for webhook_id in webhook_ids:
            # The embedded database would scan the log if the query had other fields than its index.
            found = self._collection.find({"webhook_id": webhook_id, **soon}, _LEASE_FIELDS)
            with translate_errors():
                ids = [document["_id"] async for document in found if self._is_of_predecessor(document)]
                for batch in batches_of_ids(ids):
                    # The conditions are repeated: it may have been claimed since it was found.
                    await self._collection.update_many(
                        {
                            "_id": {"$in": batch},
                            **soon,
                            "status": "delivering",
                            "holder": self._holder["holder"],
                            "holder_run": {"$ne": self._holder["holder_run"]},
                        },
                        {"$set": {"due_at": now}},
                    )

    def _is_of_predecessor(self, document: Mapping[str, Any]) -> bool:
        """Return whether an open delivery is leased to an earlier run in this process's place."""
        return (
            document["status"] == "delivering"
            and document.get("holder") == self._holder["holder"]
            and document.get("holder_run") != self._holder["holder_run"]
        )

    async def _due_ids(self, webhook_id: str, due_cursor: DueCursor, now: datetime, limit: int) -> list[str]:
        """Return the ids of due deliveries, continuing where the last search ended."""
        if due_cursor.field == "order":
            head = await self._head(webhook_id, due_cursor, now)
            return [head["_id"]] if head and head["due_at"] <= now else []
        documents: list[Document] = []
        last = position_of("due_at", now)
        for low, high in due_cursor.windows(now, last):
            documents += await self._first(webhook_id, "due_at", low, high, limit - len(documents))
            if len(documents) == limit:
                break
        positions = [position_of("due_at", document["due_at"]) for document in documents]
        span = positions[-1] - positions[0] if positions else 0
        has_more = len(documents) == limit
        due_cursor.advance(positions[-1] if has_more else last + 1, span, has_more=has_more)
        return [document["_id"] for document in documents]

    async def _head(self, webhook_id: str, due_cursor: DueCursor, now: datetime) -> Document | None:
        """Return the oldest open delivery in order."""
        for low, high in due_cursor.windows(now, LAST_POSITION["order"]):
            if first := await self._first(webhook_id, "order", low, high):
                due_cursor.advance(first[0]["order"], 0, has_more=True)
                return first[0]
        return None

    async def _first(
        self, webhook_id: str, field: CursorField, low: int, high: int, limit: int = 1
    ) -> list[Document]:
        within = {"$gte": cursor_value(field, low), "$lte": cursor_value(field, high)}
        cursor = self._collection.find(
            {"webhook_id": webhook_id, **OPEN, field: within}, {"due_at": 1, "order": 1}
        )
        with translate_errors():
            return await cursor.sort(field, 1).limit(limit).to_list(limit)


def _claimed_delivery(document: Document) -> ClaimedDelivery:
    return ClaimedDelivery(
        request_of(document),
        document["attempt_count"],
        document["fence"],
        document.get("round_start", 0),
        first_attempt=_first_traceparent(document.get("attempts")),
    )


def _first_traceparent(attempts: Sequence[Mapping[str, Any]] | None) -> str:
    return str(attempts[0]["request_headers"].get("traceparent", "")) if attempts else ""
