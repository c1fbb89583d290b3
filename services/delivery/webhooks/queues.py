"""Delivery queues: which workspaces have paused all their deliveries."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Index, Mongo, translate_errors
from shared.runtime.records import Record
from shared.runtime.snapshot import Snapshot

COLLECTION: Final = "delivery_queues"

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("changed_at", 1),)),)}


class QueueRecord(Record):
    """The queue of a workspace that was ever paused. Its id is the workspace."""

    paused: bool
    changed_at: datetime


class DeliveryQueues:
    """The stored queues, and in memory which of them are paused."""

    def __init__(self, mongo: Mongo, configuration: Configuration, log: Log) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._snapshot: Snapshot[bool] = Snapshot(configuration, self._collection, _is_paused, log)

    async def start(self) -> None:
        """Load the queues and follow their changes. Raises `DatabaseUnavailable`."""
        await self._snapshot.start()

    async def stop(self) -> None:
        """Stop following changes."""
        await self._snapshot.stop()

    def is_paused(self, workspace: str) -> bool:
        """Return whether the workspace's queue is paused, as of the last `Configuration.current`."""
        return self._snapshot.items.get(workspace, False)

    async def read_paused(self, workspace: str) -> bool:
        """Return whether the workspace's queue is paused, as stored. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": workspace})
        return document is not None and _is_paused(document)

    async def set_paused(self, workspace: str, *, paused: bool) -> None:
        """Pause or resume the workspace's queue in every process. Raises `DatabaseUnavailable`."""
        fields = QueueRecord.stored_fields({"paused": paused, "changed_at": utcnow()})
        with translate_errors():
            await self._collection.update_one({"_id": workspace}, {"$set": fields}, upsert=True)
        # Announced before the caller responds: every process reads the new state before its next attempt.
        await self._snapshot.announce(workspace)


def _is_paused(document: Document) -> bool:
    return QueueRecord.from_document(document).paused
