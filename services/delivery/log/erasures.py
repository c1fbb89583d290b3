"""Erasure of one event's payload from every delivery, in the log and still to come.

An erased event leaves an erasure mark for as long as it can come again. First attempts check the marks, so a
request that is still on Kafka is not sent. A request that had passed this check is found by erasing again
after ten seconds and after two minutes.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from services.delivery.log.delivery_changes import DeliveryChanges, ErasureResult
from shared.contracts.errors import DatabaseUnavailable, Misconfigured
from shared.contracts.ids import derive
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Index, Mongo, translate_errors
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.records import Record
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
_MARK_TTL: Final = timedelta(days=30)


class ErasureMark(Record):
    """The mark of an erased event. Its id derives from workspace and event."""

    workspace: str
    event_id: str
    erased_at: datetime
    changed_at: datetime
    passes: int = 0
    """The number of times that the erasure was repeated."""
    again_at: datetime | None = None
    """Time at which it is repeated next; None after the last one."""
    expires_at: datetime


class Erasures:
    """Erases events, and repeats each erasure for deliveries that were in flight."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, changes: DeliveryChanges, log: Log
    ) -> None:
        self._changes = changes
        self._marks: Collection = mongo.collection(ERASED_EVENTS)
        # A mark counts even if it cannot be read as a record: its id is all that has to be known.
        self._marked_events: Snapshot[bool] = Snapshot(configuration, self._marks, lambda _mark: True, log)
        self._log = log
        self._repeat_task = PeriodicTask(self._repeat_logged, _POLL_INTERVAL_S, log)

    async def start(self) -> None:
        await self._marked_events.start()
        await self._repeat_task.start()

    async def stop(self) -> None:
        await self._repeat_task.stop()
        await self._marked_events.stop()

    async def erase(self, workspace: str, event_id: str) -> ErasureResult:
        """Erase an event's payload from a workspace's log, and cancel its open deliveries.

        Response bodies are erased too, because they may echo the payload. Records on Kafka stay until the
        topic's retention ends, and are not sent. Safe to repeat. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        mark = ErasureMark(
            id=_id(workspace, event_id),
            workspace=workspace,
            event_id=event_id,
            erased_at=now,
            changed_at=now,
            again_at=now + timedelta(seconds=_REPEAT_DELAYS_S[0]),
            expires_at=now + _MARK_TTL,
        )
        # The mark comes first: a delivery that is logged from now on is found by a later pass.
        with translate_errors():
            await self._marks.replace_one({"_id": mark.id}, mark.document(), upsert=True)
        # From now on no process starts a first attempt of this event.
        await self._marked_events.announce(mark.id)
        return await self._changes.erase(workspace, event_id)

    async def finish(self, workspace: str, event_id: str) -> None:
        """Erase deliveries that entered the log after the erasure. Raises `DatabaseUnavailable`."""
        await self._changes.erase(workspace, event_id)

    def is_erased(self, workspace: str, event_id: str) -> bool:
        """Return whether an event has an erasure mark, as of the last check of the configuration."""
        return bool(self._marked_events.items) and _id(workspace, event_id) in self._marked_events.items

    async def repeat_due(self, now: datetime) -> None:
        """Repeat the erasures that are due. Raises `DatabaseUnavailable`."""
        with translate_errors():
            documents = (
                await self._marks.find({"again_at": {"$lte": now}})
                .sort("again_at", 1)
                .limit(_POLL_BATCH)
                .to_list(_POLL_BATCH)
            )
        # Without a lease: two processes that repeat the same erasure do no harm.
        for document in documents:
            try:
                mark = ErasureMark.from_document(document)
            except Misconfigured as error:  # one unreadable mark must not keep the others from being repeated
                self._log.error("erasure.unreadable", error=str(error))
                continue
            result = await self._changes.erase(mark.workspace, mark.event_id)
            if result.erased:
                self._log.info("erasure.repeated", event_id=mark.event_id, deliveries=result.erased)
            # Each mark is repeated twice, for requests that had passed the check of the marks.
            passes = mark.passes + 1
            change: dict[str, Any] = {"$set": {"passes": passes}, "$unset": {"again_at": ""}}
            if passes < len(_REPEAT_DELAYS_S):
                again_at = mark.erased_at + timedelta(seconds=_REPEAT_DELAYS_S[passes])
                change = {"$set": {"passes": passes, "again_at": again_at}}
            with translate_errors():
                await self._marks.update_one({"_id": mark.id, "erased_at": mark.erased_at}, change)

    async def _repeat_logged(self) -> None:
        try:
            await self.repeat_due(utcnow())
        except DatabaseUnavailable as error:
            self._log.warning("erasure.database_unavailable", error=str(error))


def _id(workspace: str, event_id: str) -> str:
    return derive(workspace, event_id)
