"""The queries of API and jobs on the delivery log. `key_search.py` finds the keys of what they ask for."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from services.delivery.log.deliveries import DELIVERIES, Delivery, batches_of_ids, request_of
from services.delivery.log.entry_counts import EntryCounts
from services.delivery.log.key_search import (
    MAX_EXAMINED,
    DeliveryQuery,
    FoundKeys,
    LogGaps,
    search_keys,
)
from services.delivery.log.log_slices import TIME_RESOLUTION, LogKey
from services.delivery.log.statistics import Statistics
from services.delivery.model.delivery import DeliveryRequest
from shared.contracts.errors import DatabaseUnavailable, Malformed
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors
from shared.runtime.web.paging import Page

T = TypeVar("T")

MAX_PAGE_EXAMINED: Final = 1_000
"""Deliveries that the search of a page examines, if it filters what it reads: somebody waits for it."""
_LARGE_PAGE: Final = 100
"""Items of a page from which on its search examines as many deliveries as other searches."""
_COUNTED_KEYS: Final = 1_000
"""Keys that are found at a time to count them."""
_DELETED_KEYS: Final = 500
"""Keys that are found at a time to delete them."""
_MAX_STARTS: Final = 1_000
_MAX_WEBHOOKS: Final = 100
"""Webhooks of one query for what is due."""
_WITHOUT_ATTEMPTS: Final[Mapping[str, Any]] = {"attempts": 0, "body": 0}
_WITH_LAST_ATTEMPT: Final[Mapping[str, Any]] = {"attempts": {"$slice": -1}, "body": 0}


@dataclass(frozen=True, slots=True)
class LoggedDelivery:
    """The fields of a delivery that a job needs to plan its work."""

    id: str
    created_at: datetime
    order: int
    event_type: str


class DeliverySearch:
    """The queries of API and jobs. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, mongo: Mongo, statistics: Statistics, retention: Mapping[str, timedelta] | None = None
    ) -> None:
        """Open the log. `retention` is that of finished deliveries, as `Deliveries` has it.

        Without it, a page with the oldest first reads all until the first slice with a delivery.
        """
        self._retention = retention
        self._collection: Collection = mongo.collection(DELIVERIES)
        self._statistics = statistics
        self._gaps = LogGaps()
        self._starts: OrderedDict[tuple[str, str | None, bool], datetime] = OrderedDict()
        """The time of the oldest entry, as last read, by workspace, webhook, and `has_delivered`."""

    async def find(self, workspace: str, delivery_id: str, *, status: str | None = None) -> Delivery | None:
        """Return a delivery of a workspace with all its attempts; None if there is none in this status."""
        query: Document = {"_id": delivery_id, "workspace": workspace}
        if status is not None:
            query["status"] = status
        with translate_errors():
            document = await self._collection.find_one(query)
        return None if document is None else Delivery.from_document(document)

    async def page(
        self,
        query: DeliveryQuery,
        *,
        limit: int,
        cursor: str | None,
        oldest_first: bool = False,
        last_attempt: bool = False,
    ) -> Page[Delivery]:
        """Return one page of the log, in its order, without bodies and attempts.

        With `last_attempt`, each delivery has its last attempt. Raises `Malformed` if the cursor is invalid.
        """
        fields = _WITH_LAST_ATTEMPT if last_attempt else _WITHOUT_ATTEMPTS
        undelivered = query.error is not None or bool(query.statuses and "delivered" not in query.statuses)
        start = None
        if oldest_first:
            start = await self._start(query, cursor, undelivered=undelivered)
        return await page(
            self._collection,
            query,
            Delivery.from_document,
            limit=limit,
            cursor=cursor,
            oldest_first=oldest_first,
            fields=fields,
            log_gaps=self._gaps,
            counts=self._statistics.entry_counts(query.workspace, query.webhook_id, undelivered=undelivered),
            start=start,
        )

    async def _start(self, query: DeliveryQuery, cursor: str | None, *, undelivered: bool) -> datetime | None:
        """Return about when the first delivery of a page was logged; None if that is not known."""
        if query.event_id is not None or self._retention is None:
            return None
        now, log = utcnow(), (query.workspace, query.webhook_id, undelivered)
        after = _parse_cursor(cursor)[0] if cursor else None
        floors = [now - max(self._retention.values()), self._starts.get(log), query.since, after]
        start = await self._statistics.first_entry(
            query.workspace,
            query.webhook_id,
            max(filter(None, floors)),
            delivered_since=None if undelivered else now - self._retention["delivered"],
        )
        if start and not after and not query.since:
            self._starts[log] = start
            self._starts.move_to_end(log)
            if len(self._starts) > _MAX_STARTS:
                self._starts.popitem(last=False)
        return start

    async def next_logged(
        self, query: DeliveryQuery, *, limit: int, after: LogKey | None
    ) -> tuple[FoundKeys, list[LoggedDelivery]]:
        """Return the keys of the next deliveries after a key, oldest first, and those that still exist."""
        found = await search_keys(self._collection, query, limit=limit, after=after, oldest_first=True)
        fields = {"created_at": 1, "order": 1, "event_type": 1}
        documents = await _fetch_deliveries(self._collection, found.keys, fields)
        logged = [
            LoggedDelivery(
                document["_id"], document["created_at"], int(document["order"]), document["event_type"]
            )
            for document in documents
        ]
        return found, logged

    async def count(self, query: DeliveryQuery, *, timeout_s: float) -> int | None:
        """Return the number of deliveries in the statuses of a query; None if counting takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                if not (query.event_type or query.event_id or query.error or query.trace_id):
                    return await self._count_indexed(query, max_ms=int(timeout_s * 1000))
                count, after = 0, None
                while True:
                    found = await search_keys(
                        self._collection, query, limit=_COUNTED_KEYS, after=after, oldest_first=True
                    )
                    count, after = count + len(found.keys), found.resume
                    if after is None:
                        return count
        except (TimeoutError, DatabaseUnavailable):
            return None

    async def _count_indexed(self, query: DeliveryQuery, *, max_ms: int) -> int:
        """Return the number of deliveries of a query that an index has; its other filters are ignored."""
        window: Document = {} if query.until is None else {"$lt": query.until}
        if query.since:  # with $gte, the embedded database leaves out the bound itself
            window["$gt"] = query.since - TIME_RESOLUTION
        base: Document = {"workspace": query.workspace} | ({"created_at": window} if window else {})
        if query.webhook_id is not None:
            base["webhook_id"] = query.webhook_id
        with translate_errors():
            counts = [
                await self._collection.count_documents(base | {"status": status}, maxTimeMS=max_ms)
                for status in query.statuses
            ]
        return sum(counts)

    async def delete_all(self, workspace: str) -> None:
        """Delete every delivery of a workspace."""
        after: LogKey | None = None
        while True:
            found = await search_keys(
                self._collection,
                DeliveryQuery(workspace),
                limit=_DELETED_KEYS,
                after=after,
                log_gaps=self._gaps,
            )
            for batch in batches_of_ids([delivery_id for _, delivery_id in found.keys]):
                with translate_errors():
                    await self._collection.delete_many({"_id": {"$in": list(batch)}})
            after = found.resume
            if after is None:
                return

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
            # One after the other: the embedded database reads all that it counts, beside other work.
            return {
                status: await self._collection.count_documents(query | {"status": status})
                for status in statuses
            }

    async def oldest_due_at(self, webhook_ids: Sequence[str]) -> datetime | None:
        """Return when the open delivery of these webhooks was due that waits the longest; None without one.

        The caller must know that the webhooks belong to the workspace.
        """
        oldest: datetime | None = None
        for start in range(0, len(webhook_ids), _MAX_WEBHOOKS):
            query = {"webhook_id": {"$in": webhook_ids[start : start + _MAX_WEBHOOKS]}, **OPEN}
            with translate_errors():
                first = (
                    await self._collection.find(query, {"due_at": 1}).sort("due_at", 1).limit(1).to_list(1)
                )
            if first and (oldest is None or first[0]["due_at"] < oldest):
                oldest = first[0]["due_at"]
        return oldest

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
    oldest_first: bool = False,
    fields: Mapping[str, Any] | None = None,
    log_gaps: LogGaps | None = None,
    counts: EntryCounts | None = None,
    start: datetime | None = None,
) -> Page[T]:
    """Return one page of the log, in its order; `convert` makes its items.

    A page of an event type or an error may have fewer items than `limit`, or none, and a next one. Raises
    `Malformed` if the cursor is invalid, `DatabaseUnavailable`.
    """
    after = _parse_cursor(cursor) if cursor else None
    found = await search_keys(
        deliveries,
        query,
        limit=limit + 1,
        after=after,
        oldest_first=oldest_first,
        max_examined=MAX_EXAMINED if limit >= _LARGE_PAGE else MAX_PAGE_EXAMINED,
        log_gaps=log_gaps,
        counts=counts,
        start=start,
    )
    documents = await _fetch_deliveries(deliveries, found.keys[:limit], fields)
    last = found.keys[limit - 1] if len(found.keys) > limit else found.resume
    return Page(
        items=[convert(document) for document in documents],
        next_cursor=_cursor(last) if last else None,
    )


async def _fetch_deliveries(
    deliveries: Collection, keys: Sequence[LogKey], fields: Mapping[str, Any] | None = None
) -> list[Document]:
    """Return these deliveries, in this order, without deleted ones. Raises `DatabaseUnavailable`."""
    ids = [delivery_id for _, delivery_id in keys]
    with translate_errors():
        documents = await deliveries.find({"_id": {"$in": ids}}, fields).to_list(len(ids))
    by_id = {document["_id"]: document for document in documents}
    return [by_id[delivery_id] for delivery_id in ids if delivery_id in by_id]


def _cursor(key: LogKey) -> str:
    return f"{round(key[0].timestamp() * 1000)}-{key[1]}"


def _parse_cursor(cursor: str) -> LogKey:
    at, _, delivery_id = cursor.partition("-")
    try:
        return datetime.fromtimestamp(int(at) / 1000, UTC), delivery_id
    except (ValueError, OverflowError, OSError):
        raise Malformed("the cursor is not valid: pass next_cursor unchanged") from None
