"""Search of the delivery log, in its order, by any combination of filters, on an index.

The log's indexes end in `status`, `created_at`, `_id`. A query reads one range of an index for each status.
The newest keys of all ranges are merged here, and only their documents are fetched. Ranges are read in slices
of time, each sixteen times as wide as the last. MongoDB, which applies a limit during the index scan, does
not need slices. The embedded database reads everything that matches before it sorts and cuts, and reads at
most a slice.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, TypeVar

from services.delivery.log.deliveries import DELIVERIES, Delivery, request_of
from services.delivery.model.delivery import DeliveryRequest
from shared.contracts.errors import DatabaseUnavailable, Malformed
from shared.runtime.due_work import OPEN
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors, utcnow
from shared.runtime.web.paging import Page

T = TypeVar("T")
LogKey = tuple[datetime, str]
"""The position of a delivery in the log: when it was logged, and its id."""

STATUSES: Final = (
    "pending",
    "delivering",
    "retrying",
    "delivered",
    "dead_letter",
    "cancelled",
    "discarded",
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_RESOLUTION: Final = timedelta(milliseconds=1)
"""The resolution of stored times."""
_FIRST_SLICE: Final = timedelta(seconds=1)
_WIDENING_FACTOR: Final = 16
_WITHOUT_ATTEMPTS: Final[Mapping[str, Any]] = {"attempts": 0, "body": 0}
_WITH_LAST_ATTEMPT: Final[Mapping[str, Any]] = {"attempts": {"$slice": -1}, "body": 0}


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Filters on the deliveries of a workspace; None or empty matches everything.

    `error` is the error class of the last attempt. `since` is inclusive, `until` exclusive.
    """

    workspace: str
    webhook_id: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    statuses: Sequence[str] = ()
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _IndexRanges:
    """Ranges of one index that are read concurrently, each in the order of the log.

    `residual` has the filters that the index does not cover; they are applied to what was read.
    """

    ranges: Sequence[Document]
    residual: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class LoggedDelivery:
    """The fields of a delivery that a job needs to plan its work."""

    id: str
    created_at: datetime
    order: int
    event_type: str


class DeliverySearch:
    """The queries of API and jobs. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection: Collection = mongo.collection(DELIVERIES)

    async def find(self, workspace: str, delivery_id: str, *, status: str | None = None) -> Delivery | None:
        """Return a delivery of a workspace with all its attempts; None if there is none in this status."""
        query: Document = {"_id": delivery_id, "workspace": workspace}
        if status is not None:
            query["status"] = status
        with translate_errors():
            document = await self._collection.find_one(query)
        return None if document is None else Delivery.from_document(document)

    async def page(
        self, query: DeliveryQuery, *, limit: int, cursor: str | None, last_attempt: bool = False
    ) -> Page[Delivery]:
        """Return one page of the log, newest first, without bodies and attempts.

        With `last_attempt`, each delivery has its last attempt. Raises `Malformed` if the cursor is invalid.
        """
        fields = _WITH_LAST_ATTEMPT if last_attempt else _WITHOUT_ATTEMPTS
        return await page(
            self._collection, query, Delivery.from_document, limit=limit, cursor=cursor, fields=fields
        )

    async def next_logged(
        self, query: DeliveryQuery, *, limit: int, after: LogKey | None
    ) -> tuple[list[LogKey], list[LoggedDelivery]]:
        """Return the keys of the next deliveries after a key, oldest first, and those that still exist."""
        keys = await find_keys(self._collection, query, limit=limit, after=after, oldest_first=True)
        fields = {"created_at": 1, "order": 1, "event_type": 1}
        documents = await _fetch_deliveries(self._collection, keys, fields)
        logged = [
            LoggedDelivery(
                document["_id"], document["created_at"], int(document["order"]), document["event_type"]
            )
            for document in documents
        ]
        return keys, logged

    async def count(self, query: DeliveryQuery, *, timeout_s: float) -> int | None:
        """Return the number of deliveries in the statuses of a query; None if counting takes too long.

        `event_id` and `error` of the query are ignored.
        """
        window: Document = {} if query.until is None else {"$lt": query.until}
        if query.since:  # with $gte, the embedded database leaves out the bound itself
            window["$gt"] = query.since - _TIME_RESOLUTION
        base: Document = {"workspace": query.workspace} | ({"created_at": window} if window else {})
        for field, value in (("webhook_id", query.webhook_id), ("event_type", query.event_type)):
            if value is not None:
                base[field] = value
        max_ms = int(timeout_s * 1000)
        try:
            async with asyncio.timeout(timeout_s):
                with translate_errors():
                    counts = [
                        await self._collection.count_documents(base | {"status": status}, maxTimeMS=max_ms)
                        for status in query.statuses
                    ]
        except (TimeoutError, DatabaseUnavailable):
            return None
        return sum(counts)

    async def requests(self, workspace: str, ids: Sequence[str]) -> list[DeliveryRequest]:
        """Return the requests of these deliveries in this order, without those that were erased."""
        query = {"_id": {"$in": list(ids)}, "workspace": workspace}
        with translate_errors():
            documents = await self._collection.find(query, {"attempts": 0}).to_list(len(ids))
        position = {delivery_id: index for index, delivery_id in enumerate(ids)}
        documents.sort(key=lambda document: position[document["_id"]])
        return [request_of(document) for document in documents if document.get("body") is not None]

    async def webhook_ids(self, workspace: str, ids: Sequence[str]) -> dict[str, str]:
        """Return the webhook id of each of these deliveries, by delivery id."""
        query = {"_id": {"$in": list(ids)}, "workspace": workspace}
        with translate_errors():
            documents = await self._collection.find(query, {"webhook_id": 1}).to_list(len(ids))
        return {document["_id"]: document["webhook_id"] for document in documents}

    async def count_by_status(
        self, workspace: str, webhook_id: str | None, statuses: Sequence[str]
    ) -> dict[str, int]:
        """Return how many deliveries of a workspace, or of one webhook, are in each of these statuses."""
        query: Document = {"workspace": workspace}
        if webhook_id is not None:
            query["webhook_id"] = webhook_id
        with translate_errors():
            counts = await asyncio.gather(
                *(self._collection.count_documents(query | {"status": status}) for status in statuses)
            )
        return dict(zip(statuses, counts, strict=True))

    async def oldest_due_at(self, workspace: str, webhook_id: str | None) -> datetime | None:
        """Return when the open delivery of a workspace, or of one webhook, was due that waits the longest.

        The query uses an index without the workspace: the caller must know that the webhook belongs to it.
        """
        owner = {"workspace": workspace} if webhook_id is None else {"webhook_id": webhook_id}
        with translate_errors():
            first = (
                await self._collection.find({**owner, **OPEN}, {"due_at": 1})
                .sort("due_at", 1)
                .limit(1)
                .to_list(1)
            )
        due_at: datetime | None = first[0].get("due_at") if first else None
        return due_at

    async def count_due(self, webhook_id: str, limit: int) -> int:
        """Return how many deliveries of a webhook are due, at most `limit`."""
        query = {"webhook_id": webhook_id, **OPEN, "due_at": {"$lte": utcnow()}}
        with translate_errors():
            return await self._collection.count_documents(query, limit=limit)


async def page(
    deliveries: Collection,
    query: DeliveryQuery,
    convert: Callable[[Document], T],
    *,
    limit: int,
    cursor: str | None,
    fields: Mapping[str, Any] | None = None,
) -> Page[T]:
    """Return one page of the log, newest first; `convert` makes its items.

    Raises `Malformed` if the cursor is invalid, `DatabaseUnavailable`.
    """
    after = _parse_cursor(cursor) if cursor else None
    keys = await find_keys(deliveries, query, limit=limit + 1, after=after)
    documents = await _fetch_deliveries(deliveries, keys[:limit], fields)
    has_more = len(keys) > limit
    return Page(
        items=[convert(document) for document in documents],
        next_cursor=_cursor(keys[limit - 1]) if has_more else None,
    )


async def find_keys(
    deliveries: Collection,
    query: DeliveryQuery,
    *,
    limit: int,
    after: LogKey | None = None,
    oldest_first: bool = False,
) -> list[LogKey]:
    """Return the first `limit` matching keys after a key, in the log's order.

    A delivery whose status changes during the search may be missing once. Raises `DatabaseUnavailable`.
    """
    index_ranges = _index_ranges(query)
    keys: list[LogKey] = []
    slices = _slices_oldest_first if oldest_first else _slices_newest_first
    # Every slice is read from all ranges before the next one: that keeps the order across ranges.
    for bounds in slices(query.since, query.until, after):
        results = await asyncio.gather(
            *(
                _read_slice(
                    deliveries, index_range | bounds, index_ranges.residual, limit - len(keys), oldest_first
                )
                for index_range in index_ranges.ranges
            )
        )
        # A delivery whose status changes may be in two ranges: the set removes the repetition.
        keys += sorted(set(chain(*results)), reverse=not oldest_first)[: limit - len(keys)]
        if len(keys) == limit:
            break
    return keys


async def _fetch_deliveries(
    deliveries: Collection, keys: Sequence[LogKey], fields: Mapping[str, Any] | None = None
) -> list[Document]:
    """Return these deliveries, in this order, without deleted ones. Raises `DatabaseUnavailable`."""
    ids = [delivery_id for _, delivery_id in keys]
    with translate_errors():
        documents = await deliveries.find({"_id": {"$in": ids}}, fields).to_list(len(ids))
    by_id = {document["_id"]: document for document in documents}
    return [by_id[delivery_id] for delivery_id in ids if delivery_id in by_id]


async def _read_slice(
    deliveries: Collection,
    query: Document,
    residual: Mapping[str, Sequence[str]],
    limit: int,
    oldest_first: bool,
) -> list[LogKey]:
    """Return the first keys of one slice of a range; without `residual`, from the index alone."""
    direction = 1 if oldest_first else -1
    fields = {"created_at": 1, **dict.fromkeys(residual, 1)}
    keys: list[LogKey] = []
    with translate_errors():
        cursor = deliveries.find(query, fields).sort([("created_at", direction), ("_id", direction)])
        async for document in cursor if residual else cursor.limit(limit):
            if all(document.get(field) in allowed for field, allowed in residual.items()):
                keys.append((document["created_at"], document["_id"]))
                if len(keys) == limit:
                    break
        await cursor.close()
    return keys


def _index_ranges(query: DeliveryQuery) -> _IndexRanges:
    """Return the ranges of the most selective index: one event, one error class, or the log's own."""
    base: Document = {"workspace": query.workspace}
    residual: dict[str, Sequence[str]] = {}
    if query.webhook_id is not None:
        base["webhook_id"] = query.webhook_id
    if query.event_type is not None:
        base["event_type"] = query.event_type
    # One event has few deliveries: the other filters are applied after reading.
    if query.event_id is not None:
        residual = {field: [value] for field, value in base.items() if field != "workspace"}
        if query.statuses:
            residual["status"] = query.statuses
        if query.error is not None:
            residual["last_error"] = [query.error]
        return _IndexRanges([{"workspace": query.workspace, "event_id": query.event_id}], residual)
    if query.error is not None:
        # The index of errors has no event type.
        if "event_type" in base:
            residual["event_type"] = [base.pop("event_type")]
        base |= {"failed": True, "last_error": query.error}
    statuses = dict.fromkeys(query.statuses or STATUSES)
    return _IndexRanges([base | {"status": status} for status in statuses], residual)


def _slices_newest_first(
    since: datetime | None, until: datetime | None, after: LogKey | None
) -> Iterator[Document]:
    """Yield slices of the log as queries, newest first."""
    floor = max(since, _EPOCH) if since else _EPOCH
    top = until
    if after:
        top = min(after[0], until) if until else after[0]
        # Deliveries of the same millisecond as the cursor come first, by id.
        if top == after[0] >= floor:
            yield {"created_at": top, "_id": {"$lt": after[1]}}
    high, width = top or utcnow(), _FIRST_SLICE
    if top and top <= floor:
        return
    while True:
        low = floor if high - floor <= width else high - width
        yield _created_between(low, top)
        if low == floor:
            return
        top, high, width = low, low, width * _WIDENING_FACTOR


def _slices_oldest_first(
    since: datetime | None, until: datetime | None, after: LogKey | None
) -> Iterator[Document]:
    """Yield slices of the log as queries, oldest first."""
    low = max(since, _EPOCH) if since else _EPOCH
    if after:
        if after[0] >= low and (until is None or after[0] < until):
            yield {"created_at": after[0], "_id": {"$gt": after[1]}}
        low = max(low, after[0] + _TIME_RESOLUTION)
    end, width = until or max(utcnow(), low), _FIRST_SLICE
    while low < end or until is None:
        high = None if end - low <= width else low + width
        yield _created_between(low, high or until)
        if high is None:
            return
        low, width = high, width * _WIDENING_FACTOR


def _created_between(low: datetime, high: datetime | None) -> Document:
    """Return the query for `created_at` from `low` (included) to `high` (excluded).

    It does not use `$gte`: the embedded database then leaves out `low` itself if the index has more fields.
    """
    return {"created_at": {"$gt": low - _TIME_RESOLUTION} | ({"$lt": high} if high else {})}


def _cursor(key: LogKey) -> str:
    return f"{round(key[0].timestamp() * 1000)}-{key[1]}"


def _parse_cursor(cursor: str) -> LogKey:
    at, _, delivery_id = cursor.partition("-")
    try:
        return datetime.fromtimestamp(int(at) / 1000, UTC), delivery_id
    except (ValueError, OverflowError, OSError):
        raise Malformed("the cursor is not valid: pass next_cursor unchanged") from None
