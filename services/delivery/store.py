"""Delivery's collections: outgoing webhooks, and one document per delivery with every attempt."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

from services.delivery.request import Request
from services.delivery.retry import Attempt, Step
from services.delivery.settings import DeliverySettings
from shared.contracts.errors import StoreUnavailable
from shared.runtime.logs import Log
from shared.runtime.mongo import (
    TOMBSTONE_S,
    Collection,
    Document,
    Duplicate,
    Index,
    InsertOne,
    Mongo,
    UpdateOne,
    Write,
    translated,
    utcnow,
)

WEBHOOKS: Final = "outgoing_webhooks"
DELIVERIES: Final = "webhook_deliveries"
_OPEN: Final = {"open": True}
"""A delivery that is not finished is open, and has `due_at`: when it is tried next, or its lease runs out.

The partial indexes are on `open`, not on the presence of `due_at`: so the embedded store uses them too.
"""

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    WEBHOOKS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_S),
    ),
    DELIVERIES: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("webhook_id", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("webhook_id", 1), ("due_at", 1)), where=_OPEN),
        Index((("webhook_id", 1), ("order", 1)), where=_OPEN),
        Index((("partition", 1), ("webhook_id", 1)), where=_OPEN),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}

T = TypeVar("T")
_LEASE_MARGIN: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process may attempt; a write with an older fence does nothing."""

    request: Request
    attempts: int
    fence: int


class Deliveries:
    """Reads and writes of the delivery log."""

    def __init__(self, mongo: Mongo, settings: DeliverySettings, log: Log) -> None:
        self.collection: Collection = mongo.collection(DELIVERIES)
        self._log = log
        self._kept = {
            "delivered": timedelta(days=settings.delivered_days),
            "dead_letter": timedelta(days=settings.dead_letter_days),
        }

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these deliveries are in the log already. Raises `StoreUnavailable`."""
        with translated():
            found = await self.collection.find({"_id": {"$in": list(ids)}}, {"_id": 1}).to_list(len(ids))
        return {document["_id"] for document in found}

    def attempted(self, request: Request, attempt: Attempt, step: Step) -> Write:
        """The log entry of a first attempt."""
        return InsertOne(self._entry(request) | {"attempts": [attempt.document()]} | self._state(step, 1))

    def waiting(self, request: Request, due_at: datetime) -> Write:
        """The log entry of a delivery that nobody attempted yet."""
        return InsertOne(self._entry(request) | self._open("pending", due_at))

    def leased(self, request: Request, timeout_s: float) -> Write:
        """The log entry of a first attempt that is still under way: due again if we die."""
        return InsertOne(self._entry(request) | self._open("delivering", self._lease(timeout_s)))

    def result(self, claimed: Claimed, attempt: Attempt, step: Step) -> Write:
        """What became of a claimed delivery."""
        change: dict[str, Any] = {
            "$set": self._state(step, claimed.attempts + 1),
            "$push": {"attempts": attempt.document()},
        }
        if step.due_at is None:
            change["$unset"] = {"due_at": "", "open": ""}
        return UpdateOne({"_id": claimed.request.delivery_id, "fence": claimed.fence}, change)

    async def write(self, writes: Sequence[Write]) -> None:
        """Write all of it. A log entry that is there already is left as it is. Raises `StoreUnavailable`."""
        if not writes:
            return
        try:
            with translated():
                await self.collection.bulk_write(list(writes), ordered=False)
        except Duplicate:
            self._log.info("deliveries were in the log already", writes=len(writes))

    async def claim(self, webhook_id: str, *, most: int, strict: bool, timeout_s: float) -> list[Claimed]:
        """Take due deliveries of a webhook, oldest first, each for the time that an attempt can take.

        `strict` takes the first in order only, and only when it is due.
        """
        now = utcnow()
        most = 1 if strict else most
        with translated():
            first = (
                await self.collection.find({"webhook_id": webhook_id, **_OPEN}, {"due_at": 1})
                .sort("order" if strict else "due_at", 1)
                .limit(most)
                .to_list(most)
            )
            ids = [document["_id"] for document in first if document["due_at"] <= now]
            if not ids:
                return []
            token = uuid4().hex
            await self.collection.update_many(
                {"_id": {"$in": ids}, "due_at": {"$lte": now}},
                {
                    "$set": {"status": "delivering", "due_at": self._lease(timeout_s), "claim": token},
                    "$inc": {"fence": 1},
                },
            )
            mine = await self.collection.find({"_id": {"$in": ids}, "claim": token}).to_list(len(ids))
        mine.sort(key=lambda document: document["order"])
        return [
            Claimed(Request.from_document(document), document["attempt_count"], document["fence"])
            for document in mine
        ]

    async def next_due(self, webhook_id: str, *, strict: bool) -> datetime | None:
        """When a webhook's next open delivery is due; None when nothing is open."""
        with translated():
            first = (
                await self.collection.find({"webhook_id": webhook_id, **_OPEN}, {"due_at": 1})
                .sort("order" if strict else "due_at", 1)
                .limit(1)
                .to_list(1)
            )
        return first[0]["due_at"] if first else None

    async def backlogs(self, partitions: Iterable[int]) -> dict[str, int]:
        """The webhooks with open deliveries in these partitions, with their partition."""
        with translated():
            groups = await self.collection.aggregate(
                [
                    {"$match": {"partition": {"$in": list(partitions)}, **_OPEN}},
                    {"$group": {"_id": "$webhook_id", "partition": {"$first": "$partition"}}},
                ]
            ).to_list(None)
        return {group["_id"]: group["partition"] for group in groups}

    async def drop(self, webhook_id: str) -> None:
        """Cancel what is open of a webhook that is gone."""
        with translated():
            await self.collection.update_many(
                {"webhook_id": webhook_id, **_OPEN},
                {
                    "$set": {"status": "cancelled", "expires_at": utcnow() + self._kept["dead_letter"]},
                    "$unset": {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )

    async def insist(self, work: Callable[[], Awaitable[T]], stopping: asyncio.Event) -> T:
        """Repeat a store call until it works: what was already sent must not be sent again for its sake.

        Raises `StoreUnavailable` only once the service is stopping.
        """
        pause = 0.2
        while True:
            try:
                return await work()
            except StoreUnavailable as error:
                if stopping.is_set():
                    raise
                self._log.warning("results wait for the store", error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _entry(self, request: Request) -> Document:
        return request.document() | {"created_at": utcnow(), "fence": 0, "attempt_count": 0, "attempts": []}

    def _open(self, status: str, due_at: datetime) -> Document:
        return {"status": status, "due_at": due_at, **_OPEN}

    def _state(self, step: Step, attempts: int) -> Document:
        state: Document = {"status": step.status, "attempt_count": attempts}
        if step.due_at is not None:
            state |= {"due_at": step.due_at, **_OPEN}
        else:
            now = utcnow()
            state |= {"finished_at": now, "expires_at": now + self._kept[step.status]}
        return state

    def _lease(self, timeout_s: float) -> datetime:
        return utcnow() + timedelta(seconds=timeout_s) + _LEASE_MARGIN
