"""Erasure of one event's payload from every delivery, in the log and still to come.

An erased event leaves an erasure mark for as long as it can come again. First attempts check the marks, so a
request that is still on Kafka is not sent. A request that had passed this check is found by erasing again
after ten seconds and after two minutes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.delivery.log.deliveries import DELIVERIES
from services.delivery.settings import DeliverySettings
from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.ids import derive
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Index, Mongo, translate_errors, utcnow
from shared.runtime.snapshot import Snapshot

ERASED_EVENTS: Final = "erased_events"

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    ERASED_EVENTS: (
        Index((("again_at", 1),)),
        Index((("changed_at", 1),)),
        Index((("expires_at", 1),), ttl_s=0),
    ),
}

_REPEAT_DELAYS_S: Final = (10, 120)
_POLL_INTERVAL_S: Final = 5.0
_POLL_BATCH: Final = 200
_CHUNK: Final = 500
_MARK_TTL: Final = timedelta(days=30)
_PAYLOAD: Final = {"body": "", "attempts.$[].response_body": ""}


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """How many deliveries lost their payload, and how many of them were open and are cancelled."""

    erased: int
    cancelled: int


class Erasures:
    """Erases events, and repeats each erasure for deliveries that were in flight."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, settings: DeliverySettings, log: Log
    ) -> None:
        self._deliveries: Collection = mongo.collection(DELIVERIES)
        self._marks: Collection = mongo.collection(ERASED_EVENTS)
        self._retention = timedelta(days=settings.dead_letter_days)
        self._marked_events: Snapshot[bool] = Snapshot(configuration, self._marks, lambda _mark: True, log)
        self._log = log
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._marked_events.start()
        self._task = asyncio.create_task(self._run_repeats())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._marked_events.stop()

    async def erase(self, workspace: str, event_id: str) -> ErasureResult:
        """Erase an event's payload from a workspace's log, and cancel its open deliveries.

        Response bodies are erased too, because they may echo the payload. Records on Kafka stay until the
        topic's retention ends, and are not sent. Safe to repeat. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        mark = {
            "_id": _id(workspace, event_id),
            "workspace": workspace,
            "event_id": event_id,
            "erased_at": now,
            "changed_at": now,
            "passes": 0,
            "again_at": now + timedelta(seconds=_REPEAT_DELAYS_S[0]),
            "expires_at": now + _MARK_TTL,
        }
        # The mark comes first: a delivery that is logged from now on is found by a later pass.
        with translate_errors():
            await self._marks.replace_one({"_id": mark["_id"]}, mark, upsert=True)
        # From now on no process starts a first attempt of this event.
        await self._marked_events.record(str(mark["_id"]))
        return await self._erase_in_log(workspace, event_id)

    async def finish(self, workspace: str, event_id: str) -> None:
        """Erase deliveries that entered the log after the erasure. Raises `DatabaseUnavailable`."""
        await self._erase_in_log(workspace, event_id)

    def is_erased(self, workspace: str, event_id: str) -> bool:
        """Return whether an event has an erasure mark, as of the last check of the configuration."""
        return bool(self._marked_events.items) and _id(workspace, event_id) in self._marked_events.items

    async def repeat_due(self, now: datetime) -> None:
        """Repeat the erasures that are due. Raises `DatabaseUnavailable`."""
        with translate_errors():
            due = (
                await self._marks.find({"again_at": {"$lte": now}})
                .sort("again_at", 1)
                .limit(_POLL_BATCH)
                .to_list(_POLL_BATCH)
            )
        for mark in due:
            result = await self._erase_in_log(mark["workspace"], mark["event_id"])
            if result.erased:
                self._log.info("erasure.repeated", event_id=mark["event_id"], deliveries=result.erased)
            # Each mark is repeated twice, for requests that had passed the check of the marks.
            passes = mark["passes"] + 1
            change: dict[str, Any] = {"$set": {"passes": passes}, "$unset": {"again_at": ""}}
            if passes < len(_REPEAT_DELAYS_S):
                again_at = mark["erased_at"] + timedelta(seconds=_REPEAT_DELAYS_S[passes])
                change = {"$set": {"passes": passes, "again_at": again_at}}
            with translate_errors():
                await self._marks.update_one({"_id": mark["_id"], "erased_at": mark["erased_at"]}, change)

    async def _erase_in_log(self, workspace: str, event_id: str) -> ErasureResult:
        erased = cancelled = 0
        with translate_errors():
            cursor = self._deliveries.find({"workspace": workspace, "event_id": event_id}, {"_id": 1})
            ids = [delivery["_id"] async for delivery in cursor]
        for start in range(0, len(ids), _CHUNK):
            result = await self._erase_chunk(ids[start : start + _CHUNK])
            erased, cancelled = erased + result.erased, cancelled + result.cancelled
        return ErasureResult(erased, cancelled)

    async def _erase_chunk(self, ids: Sequence[str]) -> ErasureResult:
        """Cancel, then erase: an open delivery without a body could be claimed and sent empty."""
        now = utcnow()
        erased = {"erased_at": now}
        with translate_errors():
            cancelled = await self._deliveries.update_many(
                {"_id": {"$in": ids}, "open": True},
                {
                    "$set": erased
                    | {"status": "cancelled", "finished_at": now, "expires_at": now + self._retention},
                    "$unset": _PAYLOAD | {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )
            others = await self._deliveries.update_many(
                {"_id": {"$in": ids}, "erased_at": None},
                {"$set": erased, "$unset": _PAYLOAD},
            )
        return ErasureResult(cancelled.modified_count + others.modified_count, cancelled.modified_count)

    async def _run_repeats(self) -> None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                await self.repeat_due(utcnow())
            except DatabaseUnavailable as error:
                self._log.warning("erasure.database_unavailable", error=str(error))


def _id(workspace: str, event_id: str) -> str:
    return derive(workspace, event_id)
