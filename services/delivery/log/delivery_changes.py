"""Changes that people make in the delivery log: retry, cancel, discard and erase.

Each change is a conditional write on the state that was read, and raises the fence. If the engine works on
the same delivery at the same moment, one of the two writes first and the other changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from services.delivery.log.deliveries import DELIVERIES, Delivery
from services.delivery.model.delivery_status import WAITING
from services.delivery.settings import DeliverySettings
from shared.runtime.clock import utcnow
from shared.runtime.due_work import claimed_query
from shared.runtime.mongo import Collection, Mongo, UpdateOne, translate_errors

Action = Literal["recover", "cancel", "discard"]

_ERASE_CHUNK: Final = 500
_PAYLOAD: Final = {"body": "", "attempts.$[].response_body": ""}


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """Counts of one erasure: `erased` deliveries lost their payload, `cancelled` of them were still open."""

    erased: int
    cancelled: int


class DeliveryChanges:
    """The writes. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, settings: DeliverySettings) -> None:
        self._collection: Collection = mongo.collection(DELIVERIES)
        self._retention = timedelta(days=settings.dead_letter_days)

    async def read(self, workspace: str, ids: Sequence[str]) -> list[Delivery]:
        """Return those of these deliveries that exist, without bodies and attempts, to decide on a change."""
        query = {"_id": {"$in": list(ids)}, "workspace": workspace}
        with translate_errors():
            documents = await self._collection.find(query, {"attempts": 0, "body": 0}).to_list(len(ids))
        return [Delivery.from_document(document) for document in documents]

    async def apply(
        self, action: Action, deliveries: Sequence[Delivery], *, workspace: str, job: str
    ) -> list[str]:
        """Apply an action to deliveries of a workspace, as they were read; return the ids of those changed.

        The deliveries store the job's id. One that changed since it was read stays as it is, and one that was
        erased is not opened again.
        """
        if not deliveries:
            return []
        now = utcnow()
        ids = [delivery.id for delivery in deliveries]
        with translate_errors():
            await self._collection.bulk_write(
                [self._conditional_update(action, delivery, job, now) for delivery in deliveries],
                ordered=False,
            )
            # The fence decides: only deliveries with this job's id were changed by it.
            query = {"_id": {"$in": ids}, "workspace": workspace, "job": job}
            changed = await self._collection.find(query, {"_id": 1}).to_list(len(ids))
        return [document["_id"] for document in changed]

    async def erase(self, workspace: str, event_id: str) -> ErasureResult:
        """Erase an event's payload from the deliveries of a workspace, and cancel the open ones.

        Safe to repeat.
        """
        erased = cancelled = 0
        with translate_errors():
            cursor = self._collection.find({"workspace": workspace, "event_id": event_id}, {"_id": 1})
            ids = [delivery["_id"] async for delivery in cursor]
        for start in range(0, len(ids), _ERASE_CHUNK):
            result = await self._erase_chunk(ids[start : start + _ERASE_CHUNK])
            erased, cancelled = erased + result.erased, cancelled + result.cancelled
        return ErasureResult(erased, cancelled)

    async def _erase_chunk(self, ids: Sequence[str]) -> ErasureResult:
        """Cancel, then erase: an open delivery without a body could be claimed and sent empty."""
        now = utcnow()
        erased = {"erased_at": now}
        with translate_errors():
            cancelled = await self._collection.update_many(
                {"_id": {"$in": ids}, "open": True},
                {
                    "$set": {**erased, **self._cancelled_fields(now)},
                    "$unset": _PAYLOAD | {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )
            others = await self._collection.update_many(
                {"_id": {"$in": ids}, "erased_at": None},
                {"$set": erased, "$unset": _PAYLOAD},
            )
        return ErasureResult(cancelled.modified_count + others.modified_count, cancelled.modified_count)

    def _conditional_update(self, action: Action, delivery: Delivery, job: str, now: datetime) -> UpdateOne:
        query: dict[str, Any] = claimed_query(delivery) | {"status": delivery.status}
        # An erasure may come between reading and writing.
        if action == "recover":
            query["body"] = {"$exists": True}
            change = _recover_update(delivery, now)
        elif action == "cancel":
            change = {"$set": self._cancelled_fields(now), "$unset": {"due_at": "", "open": ""}}
        else:
            change = {"$set": {"status": "discarded"}}
        change["$set"] = change.get("$set", {}) | {"job": job}
        return UpdateOne(query, change | {"$inc": {"fence": 1}})

    def _cancelled_fields(self, now: datetime) -> Mapping[str, Any]:
        return {"status": "cancelled", "finished_at": now, "expires_at": now + self._retention}


def _recover_update(delivery: Delivery, now: datetime) -> dict[str, Any]:
    # In the present retry cycle: due now, never later than before.
    if delivery.status in WAITING:
        return {"$min": {"due_at": now}}
    return {
        "$set": {
            "status": "pending",
            "open": True,
            "due_at": now,
            Delivery.stored_name("cycle_start"): delivery.attempt_count,
        },
        "$unset": {"finished_at": "", "expires_at": ""},
    }
