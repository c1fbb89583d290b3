"""Erasing one event's payload: out of every delivery in the log, and out of those that are still to come.

An erased event leaves a mark for as long as it can come again. First attempts look at the marks, so that a
request that is still on Kafka is not sent. What was past that look when the mark was made is found by
going through the log again, ten seconds and two minutes later.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.delivery.log.deliveries import DELIVERIES
from services.delivery.settings import DeliverySettings
from shared.contracts.errors import DatabaseUnavailable
from shared.contracts.ids import derive
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Mongo, translate_errors, utcnow
from shared.runtime.snapshot import Snapshot

ERASED_EVENTS: Final = "erased_events"

_REPEAT_DELAYS_S: Final = (10, 120)
_POLL_INTERVAL_S: Final = 5.0
_POLL_BATCH: Final = 200
_CHUNK: Final = 500
_MARK_TTL: Final = timedelta(days=30)
_PAYLOAD: Final = {"body": "", "attempts.$[].response_body": ""}


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """How many deliveries lost their payload, and how many of them were cancelled for it."""

    erased: int
    cancelled: int


class Erasures:
    """Erases, and goes through the log again for what was under way."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, settings: DeliverySettings, log: Log
    ) -> None:
        self._deliveries: Collection = mongo.collection(DELIVERIES)
        self._marks: Collection = mongo.collection(ERASED_EVENTS)
        self._kept = timedelta(days=settings.dead_letter_days)
        self._known: Snapshot[bool] = Snapshot(configuration, self._marks, lambda _mark: True, log)
        self._log = log
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._known.start()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._known.stop()

    async def erase(self, workspace: str, event_id: str) -> ErasureResult:
        """Erase an event's payload from the log of a workspace and cancel what is open of it.

        Response bodies go too: they may echo the payload. What is on Kafka stays there for as long as its
        topic keeps it, and is not sent. Safe to repeat. Raises `DatabaseUnavailable`.
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
        with translate_errors():
            await self._marks.replace_one({"_id": mark["_id"]}, mark, upsert=True)
        await self._known.record(str(mark["_id"]))
        return await self._pass(workspace, event_id)

    async def finish(self, workspace: str, event_id: str) -> None:
        """Erase and cancel what entered the log after the event was erased. Raises `DatabaseUnavailable`."""
        await self._pass(workspace, event_id)

    def is_erased(self, workspace: str, event_id: str) -> bool:
        """Return whether an event is marked, as of the last check of the configuration."""
        return bool(self._known.items) and _id(workspace, event_id) in self._known.items

    async def again(self, now: datetime) -> None:
        """Go through the log again for the marks whose time for that has come.

        Raises `DatabaseUnavailable`.
        """
        with translate_errors():
            due = (
                await self._marks.find({"again_at": {"$lte": now}})
                .sort("again_at", 1)
                .limit(_POLL_BATCH)
                .to_list(_POLL_BATCH)
            )
        for mark in due:
            done = await self._pass(mark["workspace"], mark["event_id"])
            if done.erased:
                self._log.info("erased what was under way", event_id=mark["event_id"], deliveries=done.erased)
            passes = mark["passes"] + 1
            change: dict[str, Any] = {"$set": {"passes": passes}, "$unset": {"again_at": ""}}
            if passes < len(_REPEAT_DELAYS_S):
                again_at = mark["erased_at"] + timedelta(seconds=_REPEAT_DELAYS_S[passes])
                change = {"$set": {"passes": passes, "again_at": again_at}}
            with translate_errors():
                await self._marks.update_one({"_id": mark["_id"], "erased_at": mark["erased_at"]}, change)

    async def _pass(self, workspace: str, event_id: str) -> ErasureResult:
        erased = cancelled = 0
        with translate_errors():
            found = self._deliveries.find({"workspace": workspace, "event_id": event_id}, {"_id": 1})
            ids = [delivery["_id"] async for delivery in found]
        for start in range(0, len(ids), _CHUNK):
            some = await self._some(ids[start : start + _CHUNK])
            erased, cancelled = erased + some.erased, cancelled + some.cancelled
        return ErasureResult(erased, cancelled)

    async def _some(self, ids: Sequence[str]) -> ErasureResult:
        """Cancel before erasing: an open delivery without a body could be claimed and sent empty."""
        now = utcnow()
        erased = {"erased_at": now}
        with translate_errors():
            cancelled = await self._deliveries.update_many(
                {"_id": {"$in": ids}, "open": True},
                {
                    "$set": erased
                    | {"status": "cancelled", "finished_at": now, "expires_at": now + self._kept},
                    "$unset": _PAYLOAD | {"due_at": "", "open": ""},
                    "$inc": {"fence": 1},
                },
            )
            others = await self._deliveries.update_many(
                {"_id": {"$in": ids}, "erased_at": None},
                {"$set": erased, "$unset": _PAYLOAD},
            )
        return ErasureResult(cancelled.modified_count + others.modified_count, cancelled.modified_count)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                await self.again(utcnow())
            except DatabaseUnavailable as error:
                self._log.warning("erasing again waits for the store", error=str(error))


def _id(workspace: str, event_id: str) -> str:
    return derive(workspace, event_id)
