"""Executions as they are stored: their record, their indexes, and every read and write of them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import Field

from shared.contracts.errors import NotFound
from shared.contracts.ids import EXECUTION_ID_PREFIX, ExecutionId
from shared.runtime.kafka.producer import RecordPosition
from shared.runtime.mongo import Document, Index, Mongo, translate_errors
from shared.runtime.records import Record
from shared.runtime.web.list_reader import LongList
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "webhook_executions"
_MAX_WINDOW: Final = timedelta(days=1, minutes=1)
"""The maximum deduplication window, and the time that requests take."""
_EXAMINED: Final = 10
"""Executions that are read at a time in search of the one that published an event, about three times."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("endpoint_id", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("related_ids", 1), ("created_at", -1), ("_id", -1))),
        Index((("endpoint_id", 1), ("event_ids", 1)), retired=True),
        Index((("expires_at", 1),), ttl_s=0),
    )
}


class ExecutionRecord(Record):
    """One request to an endpoint. A field that does not apply to it is not stored."""

    id: ExecutionId = Field(alias="_id")
    endpoint_id: str
    """An endpoint, or an integration for a request to an app webhook."""
    workspace: str
    created_at: datetime
    expires_at: datetime
    outcome: str
    status: int
    duration_ms: float = Field(alias="ms")
    """From the request's first byte to the response, in milliseconds."""
    size: int = Field(alias="bytes")
    """Bytes of the body after decompression."""
    verdict: str | None = None
    detail: str | None = None
    test: bool | None = None
    events: int | None = None
    """The number of events; the fields below list the first 100."""
    types: tuple[str, ...] | None = None
    event_ids: tuple[str, ...] | None = None
    triggers: tuple[str, ...] | None = None
    accounts: tuple[str, ...] | None = None
    occurred_at: str | None = None
    delivery_ids: tuple[str, ...] | None = None
    places: tuple[tuple[int, ...], ...] | None = None
    """Partition and offset of each event on Kafka; empty for one that an earlier request published."""
    body: bytes | None = None
    """The start of a rejected body."""
    content_type: str | None = None
    replays: int | None = None
    trace_id: str | None = None
    related_ids: tuple[str, ...] | None = None
    """Ids by which it is found: its trace, its events, and the provider's own ids of them."""

    @property
    def positions(self) -> dict[str, RecordPosition]:
        """Positions on Kafka of the events that this request published, by their ids."""
        return _positions(self.event_ids or (), self.places or ())


class ExecutionRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._list = LongList()

    async def insert(self, records: Sequence[ExecutionRecord]) -> None:
        """Insert executions."""
        with translate_errors():
            await self._collection.insert_many([record.document() for record in records], ordered=False)

    async def list_page(self, endpoint_id: str, paging: Paging) -> Page[ExecutionRecord]:
        """Return a page of an endpoint's executions, newest first. Raises `Malformed` for a wrong cursor."""
        query = {"endpoint_id": endpoint_id}
        return await page(
            self._collection, query, ExecutionRecord.from_document, paging, long_list=self._list
        )

    async def list_related(self, workspace: str, related_id: str, paging: Paging) -> Page[ExecutionRecord]:
        """Return a page of the executions with an id among their `related_ids`, or as their own.

        Raises `Malformed` for a wrong cursor.
        """
        if related_id.startswith(EXECUTION_ID_PREFIX):
            with translate_errors():
                document = await self._collection.find_one({"_id": related_id, "workspace": workspace})
            items = [] if document is None else [ExecutionRecord.from_document(document)]
            return Page(items=items, next_cursor=None)
        query = {"workspace": workspace, "related_ids": related_id}
        # A sender may give all requests the same trace.
        return await page(
            self._collection, query, ExecutionRecord.from_document, paging, long_list=self._list
        )

    async def find(self, endpoint_id: str, execution_id: str) -> ExecutionRecord:
        """Return one execution of an endpoint. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self._collection.find_one(
                {"_id": execution_id, "endpoint_id": endpoint_id}
            )
        if document is None:
            raise NotFound("no such execution")
        return ExecutionRecord.from_document(document)

    async def find_positions(
        self, execution: ExecutionRecord, event_ids: Sequence[str]
    ) -> dict[str, RecordPosition]:
        """Return the positions on Kafka of an execution's events, as far as they are known.

        An event that it repeated is where an earlier request published it.
        """
        positions = execution.positions
        for event_id in event_ids:
            if event_id not in positions:
                # That request may have published others of them, too.
                positions = await self._find_earlier(execution, event_id) | positions
        return positions

    async def _find_earlier(self, execution: ExecutionRecord, event_id: str) -> dict[str, RecordPosition]:
        """Return the positions of a request to the same endpoint that published an event; {} if unknown.

        Looks at the earliest ones with the event within the maximum deduplication window: the first of them
        has published it, and a sender can add any number of repeats.
        """

        def positions(document: Document) -> dict[str, RecordPosition]:
            return _positions(document.get("event_ids", ()), document.get("places", ()))

        found = await page(
            self._collection,
            {"workspace": execution.workspace, "related_ids": event_id},
            positions,
            Paging(limit=1, order="oldest", since=execution.created_at - _MAX_WINDOW),
            fields={"created_at": 1, "endpoint_id": 1, "event_ids": 1, "places": 1},
            matches=lambda document: (
                document["endpoint_id"] == execution.endpoint_id and event_id in positions(document)
            ),
            examined=_EXAMINED,
            long_list=self._list,
        )
        return found.items[0] if found.items else {}

    async def delete_all(self, endpoint_id: str) -> None:
        """Delete the executions of an endpoint or an integration."""
        with translate_errors():
            await self._collection.delete_many({"endpoint_id": endpoint_id})

    async def count_replay(self, record: ExecutionRecord) -> int:
        """Count a replay of an execution; return its number. An execution that has expired is not counted."""
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                {"_id": record.id}, {"$inc": {"replays": 1}}, return_document=True
            )
        return int(document["replays"]) if document else record.replays or 1


def _positions(event_ids: Iterable[str], places: Iterable[Sequence[int]]) -> dict[str, RecordPosition]:
    return {
        event_id: (place[0], place[1])
        for event_id, place in zip(event_ids, places, strict=False)  # an event for each place
        if place
    }
