"""The delivery log: one document per delivery with its attempts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from services.delivery.model.delivery import TEST_TYPE, DeliveryRequest
from services.delivery.model.due_cursor import (
    LAST_POSITION,
    CursorField,
    DueCursor,
    cursor_value,
    position_of,
)
from services.delivery.model.retry_policy import Attempt, AttemptOutcome
from services.delivery.settings import DeliverySettings
from shared.runtime.logs import Log
from shared.runtime.mongo import (
    Collection,
    Document,
    Duplicate,
    Index,
    InsertOne,
    Mongo,
    UpdateMany,
    UpdateOne,
    Write,
    translate_errors,
    utcnow,
)

DELIVERIES: Final = "webhook_deliveries"
OPEN: Final = {"open": True}
"""A delivery that is not finished is open, and has `due_at`: its next attempt, or the end of its lease.

The partial indexes use `open` and not the presence of `due_at`, so that the embedded database uses them too.
"""


MAX_EXPIRED: Final = 1000
"""Deliveries that are dead-lettered at a time behind an open circuit."""
_FAILED: Final = {"failed": True}
_LOG_ORDER: Final = (("status", 1), ("created_at", -1), ("_id", -1))
"""The end of each index that `search.py` reads: the order of the log within one status."""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    DELIVERIES: (
        # The log by webhook and event type: either, both or none. Every insert pays for these.
        Index((("workspace", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("event_type", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("webhook_id", 1), *_LOG_ORDER)),
        Index((("workspace", 1), ("webhook_id", 1), ("event_type", 1), *_LOG_ORDER)),
        # One event, to show or to erase it.
        Index((("workspace", 1), ("event_id", 1), ("created_at", -1), ("_id", -1))),
        # Failures by their last error. Only failures pay. The embedded database uses a partial index
        # for an equality and a range only if the index's condition is in its key too.
        Index((("workspace", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER), where=_FAILED),
        Index(
            (("workspace", 1), ("webhook_id", 1), ("failed", 1), ("last_error", 1), *_LOG_ORDER),
            where=_FAILED,
        ),
        # Due deliveries, and the longest overdue one of a workspace. Only open deliveries pay.
        Index((("webhook_id", 1), ("open", 1), ("due_at", 1)), where=OPEN),
        Index((("webhook_id", 1), ("open", 1), ("order", 1)), where=OPEN),
        Index((("partition", 1), ("webhook_id", 1)), where=OPEN),
        Index((("workspace", 1), ("due_at", 1)), where=OPEN),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}

_MAX_STORED_ATTEMPTS: Final = 200
"""The latest attempts of a delivery that are stored; manual retry cycles have no limit."""
_LEASE_MARGIN: Final = timedelta(seconds=5)
_MAX_TIMEOUT_S: Final = 60.0
"""The longest timeout of an outgoing webhook that the API accepts."""


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process may attempt. A write with an older fence changes nothing."""

    request: DeliveryRequest
    attempts: int = 0
    fence: int = 0
    cycle_start: int = 0
    """Attempts before the present retry cycle: a manual retry starts the schedule again."""
    manual: bool = False
    """Whether a person asked for it.

    It goes past hold and open circuit, and its result decides about them.
    """


class Deliveries:
    """Reads and writes of the delivery log."""

    def __init__(self, mongo: Mongo, settings: DeliverySettings, log: Log, *, instance: str) -> None:
        """Open the log.

        `instance` names this process and its predecessor in the same place, so that the leases of a killed
        process can be released.
        """
        self.collection: Collection = mongo.collection(DELIVERIES)
        self._holder: Document = {"holder": instance, "holder_run": uuid4().hex}
        self._log = log
        self._retention = {
            "delivered": timedelta(days=settings.delivered_days),
            "dead_letter": timedelta(days=settings.dead_letter_days),
        }

    async def open_by_id(self, ids: Sequence[str]) -> dict[str, bool]:
        """Return for each of these deliveries that is in the log whether it is open.

        Raises `DatabaseUnavailable`.
        """
        with translate_errors():
            documents = await self.collection.find({"_id": {"$in": list(ids)}}, {"open": 1}).to_list(len(ids))
        return {document["_id"]: "open" in document for document in documents}

    def attempted_entry(self, request: DeliveryRequest, attempt: Attempt, outcome: AttemptOutcome) -> Write:
        """Return the log entry of a first attempt that ended."""
        entry = self._entry(request) | {"attempts": [attempt.document()]} | self._outcome_fields(outcome, 1)
        return InsertOne(entry if attempt.ok else entry | _failure_fields(attempt))

    def waiting(self, request: DeliveryRequest, due_at: datetime) -> Write:
        """Return the log entry of a delivery without attempts."""
        return InsertOne(self._entry(request) | self._open_fields("pending", due_at))

    def leased_entry(self, request: DeliveryRequest, timeout_s: float) -> Write:
        """Return the log entry of a first attempt in flight: due again when its lease expires."""
        lease = self._open_fields("delivering", self._lease(timeout_s))
        return InsertOne(self._entry(request) | lease | self._holder)

    def result_update(self, claimed: ClaimedDelivery, attempt: Attempt, outcome: AttemptOutcome) -> Write:
        """Return the update with the result of a claimed delivery."""
        state = self._outcome_fields(outcome, claimed.attempts + 1)
        # A finished delivery leaves the partial indexes of open ones.
        unset = {} if outcome.due_at is not None else {"due_at": "", "open": ""}
        if attempt.ok:
            unset |= {"failed": "", "last_error": ""}
        else:
            state |= _failure_fields(attempt)
        change: dict[str, Any] = {
            "$set": state,
            "$push": {"attempts": {"$each": [attempt.document()], "$slice": -_MAX_STORED_ATTEMPTS}},
        }
        if unset:
            change["$unset"] = unset
        return UpdateOne({"_id": claimed.request.delivery_id, "fence": claimed.fence}, change)

    async def write(self, writes: Sequence[Write]) -> None:
        """Write entries and updates. An entry that is in the log already stays unchanged.

        Raises `DatabaseUnavailable`.
        """
        if not writes:
            return
        try:
            with translate_errors():
                await self.collection.bulk_write(list(writes), ordered=False)
        # A batch was repeated after a crash: its entries were written before.
        except Duplicate:
            self._log.info("delivery.already_logged", writes=len(writes))

    async def claim(
        self, webhook_id: str, due_cursor: DueCursor, *, limit: int, timeout_s: float
    ) -> list[ClaimedDelivery]:
        """Claim up to `limit` due deliveries of a webhook, the longest overdue first.

        The lease of each lasts a little longer than `timeout_s`. For strictly ordered webhooks, claim only
        the oldest open delivery, and only if it is due. Raises `DatabaseUnavailable`.
        """
        floor = due_cursor.floor
        try:
            documents = await self._claim(webhook_id, due_cursor, limit, self._lease(timeout_s))
        except BaseException:
            due_cursor.floor = min(due_cursor.floor, floor)  # what was found there is not claimed yet
            raise
        # Found by due time, sent in the order of the events.
        documents.sort(key=lambda document: document["order"])
        return [_claimed_delivery(document) for document in documents]

    async def _claim(
        self, webhook_id: str, due_cursor: DueCursor, limit: int, lease: datetime
    ) -> list[Document]:
        now = utcnow()
        with translate_errors():
            if due_cursor.field == "order":
                head = await self._head(webhook_id, due_cursor, now)
                ids = [head["_id"]] if head and head["due_at"] <= now else []
            else:
                ids = await self._due_ids(webhook_id, due_cursor, now, limit)
            if not ids:
                return []
            # Between search and update, another task may claim the same deliveries: the token
            # marks those that this call has.
            token = uuid4().hex
            await self.collection.update_many(
                {"_id": {"$in": ids}, "due_at": {"$lte": now}},
                {
                    "$set": {"status": "delivering", "due_at": lease, "claim": token, **self._holder},
                    "$inc": {"fence": 1},
                },
            )
            return await self.collection.find({"_id": {"$in": ids}, "claim": token}).to_list(len(ids))

    async def next_due(self, webhook_id: str, due_cursor: DueCursor) -> datetime | None:
        """Return when a webhook's next delivery is due; None if none is open.

        Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        with translate_errors():
            if due_cursor.field == "order":
                head = await self._head(webhook_id, due_cursor, now)
                return head["due_at"] if head else None
            for low, high in due_cursor.windows(now, LAST_POSITION["due_at"]):
                if first := await self._first(webhook_id, "due_at", low, high):
                    due_at: datetime = first[0]["due_at"]
                    return due_at
        return None

    async def _due_ids(self, webhook_id: str, due_cursor: DueCursor, now: datetime, limit: int) -> list[str]:
        """Return the ids of due deliveries, continuing where the last search ended."""
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
        cursor = self.collection.find(
            {"webhook_id": webhook_id, **OPEN, field: within}, {"due_at": 1, "order": 1}
        )
        return await cursor.sort(field, 1).limit(limit).to_list(limit)

    async def open_webhooks(self, partitions: Iterable[int]) -> dict[str, int]:
        """Return the webhooks with open deliveries in these partitions, with their partition.

        Raises `DatabaseUnavailable`.
        """
        partition_by_webhook: dict[str, int] = {}
        for partition in partitions:
            with translate_errors():
                webhooks = await self.collection.distinct("webhook_id", {"partition": partition, **OPEN})
            partition_by_webhook |= dict.fromkeys(webhooks, partition)
        return partition_by_webhook

    async def release_leases(self, webhook_ids: Iterable[str]) -> None:
        """Make due what a killed predecessor of this process was attempting at these webhooks.

        The requests may have been sent, as with every lease that expires. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        # Only leases of the same place, and of an earlier run of it.
        leased: Document = {
            **OPEN,
            "due_at": {"$gt": now, "$lte": self._lease(_MAX_TIMEOUT_S)},
            "status": "delivering",
            "holder": self._holder["holder"],
            "holder_run": {"$ne": self._holder["holder_run"]},
        }
        writes = [
            UpdateMany({"webhook_id": webhook_id, **leased}, {"$set": {"due_at": now}})
            for webhook_id in webhook_ids
        ]
        if writes:
            with translate_errors():
                await self.collection.bulk_write(writes, ordered=False)

    async def dead_letter_expired(self, webhook_id: str, due_before: datetime) -> int:
        """Dead-letter deliveries that were due before this time, at most `MAX_EXPIRED`; return how many.

        Their error is `circuit_open`. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        waiting: Document = {"status": {"$in": ["pending", "retrying"]}, "due_at": {"$lte": due_before}}
        with translate_errors():
            query = {"webhook_id": webhook_id, **OPEN, **waiting}
            documents = await self.collection.find(query, {"_id": 1}).limit(MAX_EXPIRED).to_list(MAX_EXPIRED)
            if not documents:
                return 0
            ids = [document["_id"] for document in documents]
            # The conditions are repeated: a delivery may have been claimed since it was found.
            result = await self.collection.update_many(
                {"_id": {"$in": ids}, **OPEN, **waiting},
                {
                    "$set": {
                        "status": "dead_letter",
                        "failed": True,
                        "last_error": "circuit_open",
                        "finished_at": now,
                        "expires_at": now + self._retention["dead_letter"],
                    },
                    "$unset": {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )
        return int(result.modified_count)

    async def claim_one(
        self, webhook_id: str, delivery_id: str, due_cursor: DueCursor, *, strict: bool, timeout_s: float
    ) -> ClaimedDelivery | None:
        """Claim a delivery that a person asked for, due or not; return None if it is not waiting.

        For strictly ordered webhooks, claim only the oldest open delivery, or a test event, which has no
        place in the order. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        query: Document = {
            "_id": delivery_id,
            "webhook_id": webhook_id,
            **OPEN,
            "status": {"$in": ["pending", "retrying"]},
        }
        with translate_errors():
            # A manual request must not overtake in strict order.
            if strict:
                head = await self._head(webhook_id, due_cursor, now)
                if head is None or head["_id"] != delivery_id:
                    query["event_type"] = TEST_TYPE
            document = await self.collection.find_one_and_update(
                query,
                {
                    "$set": {"status": "delivering", "due_at": self._lease(timeout_s), **self._holder},
                    "$inc": {"fence": 1},
                },
                return_document=True,
            )
        return replace(_claimed_delivery(document), manual=True) if document else None

    async def cancel_all(self, webhook_id: str) -> None:
        """Cancel every open delivery of a deleted webhook. Raises `DatabaseUnavailable`."""
        now = utcnow()
        with translate_errors():
            await self.collection.update_many(
                {"webhook_id": webhook_id, **OPEN},
                {
                    "$set": {
                        "status": "cancelled",
                        "finished_at": now,
                        "expires_at": now + self._retention["dead_letter"],
                    },
                    "$unset": {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )

    def _entry(self, request: DeliveryRequest) -> Document:
        return request.document() | {"created_at": utcnow(), "fence": 0, "attempt_count": 0, "attempts": []}

    def _open_fields(self, status: str, due_at: datetime) -> Document:
        return {"status": status, "due_at": due_at, **OPEN}

    def _outcome_fields(self, outcome: AttemptOutcome, attempts: int) -> Document:
        state: Document = {"status": outcome.status, "attempt_count": attempts}
        if outcome.due_at is not None:
            state |= {"due_at": outcome.due_at, **OPEN}
        else:
            now = utcnow()
            state |= {"finished_at": now, "expires_at": now + self._retention[outcome.status]}
        return state

    def _lease(self, timeout_s: float) -> datetime:
        return utcnow() + timedelta(seconds=timeout_s) + _LEASE_MARGIN


def _claimed_delivery(document: Document) -> ClaimedDelivery:
    return ClaimedDelivery(
        DeliveryRequest.from_document(document),
        document["attempt_count"],
        document["fence"],
        document.get("round_start", 0),
    )


def _failure_fields(attempt: Attempt) -> Document:
    """Return the fields by which failures are searched."""
    return {"failed": True, "last_error": attempt.error}
