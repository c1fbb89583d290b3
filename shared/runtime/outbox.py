"""Outbox: events that are stored in the document whose change caused them, until they are published.

A change and its events are one write, which a crash cannot split. The process that wrote them publishes them
at once. If it dies, or Kafka is unavailable, any process publishes them later (`publish_pending`), which a
service calls at intervals. Events of one document are published in the order of its changes. An event can be
published twice, with the same id: its id has to be derived from the change.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import orjson
from pydantic import Field

from shared.contracts.envelope import Event, rfc3339
from shared.contracts.errors import Misconfigured, Rejected, RetryLater
from shared.contracts.ids import EventId
from shared.contracts.topics import Topic
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Index, translate_errors
from shared.runtime.records import Record, StoredPart
from shared.runtime.tracing import continue_trace

_PENDING_FILTER: Final = {"untold": True}
OUTBOX_INDEX: Final = Index((("changed_at", 1), ("_id", 1)), where=_PENDING_FILTER)
"""The index of a collection that has an outbox."""

_PUBLISH_TIMEOUT_S: Final = 2.0
_MAX_PENDING_EVENTS: Final = 20
"""Events that a document holds. If there are more, the oldest are dropped."""
_BATCH_SIZE: Final = 200
_PUBLISH_DELAY: Final = timedelta(seconds=5)
"""The process that stored an event publishes it within this time. After that, any process may."""


class PendingEvent(StoredPart):
    """An event that is stored, and not yet acknowledged by Kafka."""

    id: str
    type: str
    at: datetime
    data: Mapping[str, Any]


class OutboxRecord(Record):
    """A record whose changes publish events."""

    workspace: str
    changed_at: datetime
    pending_events: tuple[PendingEvent, ...] = Field(default=(), alias="events")
    has_pending_events: bool = Field(default=False, alias="untold")


R = TypeVar("R", bound=OutboxRecord)


class Outbox(Generic[R]):
    """The outbox of one collection, whose documents are records of `record_type`.

    Events go to `topic`, keyed by the id of their record, with `source` as the source of their envelope.
    """

    def __init__(
        self,
        collection: Collection,
        record_type: type[R],
        producer: Producer,
        log: Log,
        *,
        topic: Topic,
        source: str,
    ) -> None:
        self._collection = collection
        self._record_type = record_type
        self._producer = producer
        self._log = log
        self._topic = topic
        self._source = source

    def with_events(self, update: Mapping[str, Any], events: Sequence[PendingEvent]) -> Document:
        """Return an update of a document that stores events too.

        The update has to set `changed_at`. After the write, pass the new record to `publish`.
        """
        if not events:
            return dict(update)
        stored = self._record_type.stored_fields({"pending_events": events, "has_pending_events": True})
        return {
            **update,
            "$set": {**update.get("$set", {}), "untold": stored["untold"]},
            "$push": {"events": {"$each": stored["events"], "$slice": -_MAX_PENDING_EVENTS}},
        }

    async def publish(self, record: R) -> bool:
        """Publish the stored events of a record in order. Return whether none is left.

        Without Kafka they stay in the outbox. Without MongoDB they may be published again, with the same ids.
        An event that Kafka will never accept is dropped. Nothing is raised: the caller's change is stored by
        now, and must not seem to have failed.
        """
        failpoint("outbox.stored")
        try:
            for event in record.pending_events:
                await self._publish_event(record, event)
            published = [event.id for event in record.pending_events]
            with translate_errors():
                await self._collection.update_one(
                    {"_id": record.id}, {"$pull": {"events": {"id": {"$in": published}}}}
                )
                # Only if no other process has stored more events since.
                await self._collection.update_one(
                    {"_id": record.id, "events": []}, {"$set": {"untold": False}}
                )
        except RetryLater as error:
            self._log.warning(
                "outbox.publish_delayed",
                collection=self._collection.name,
                record_id=record.id,
                error=str(error),
            )
            return False
        return True

    async def _publish_event(self, record: R, event: PendingEvent) -> None:
        envelope = Event(
            id=EventId(event.id),
            type=event.type,
            source=self._source,
            workspace=record.workspace,
            time=rfc3339(event.at),
            data=orjson.dumps(event.data),
            subject=record.id,
            traceparent=continue_trace(""),
        )
        try:
            await self._producer.publish(
                event_record(self._topic, record.id, envelope), timeout_s=_PUBLISH_TIMEOUT_S
            )
        except Rejected as error:
            self._log.error(
                "outbox.event_dropped",
                collection=self._collection.name,
                record_id=record.id,
                type=event.type,
                error=str(error),
            )

    async def publish_pending(self) -> None:
        """Publish events that other processes stored but did not publish, the oldest first.

        At most 200 records are handled. Stop at the first failure of Kafka or MongoDB. Raises
        `DatabaseUnavailable`.
        """
        query = {**_PENDING_FILTER, "changed_at": {"$lt": utcnow() - _PUBLISH_DELAY}}
        with translate_errors():
            documents = (
                await self._collection.find(query)
                .sort([("changed_at", 1)])
                .limit(_BATCH_SIZE)
                .to_list(_BATCH_SIZE)
            )
        for document in documents:
            try:
                record = self._record_type.from_document(document)
            except Misconfigured as error:  # It must not stand in the way of the others.
                self._log.error(
                    "outbox.record_unreadable", collection=self._collection.name, error=str(error)
                )
                continue
            if not await self.publish(record):
                return
