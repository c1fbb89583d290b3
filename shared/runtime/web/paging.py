"""Lists in pages, in the order of time: `{"items": [...], "next_cursor": "..."|null}`."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import orjson
from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel

from shared.contracts.errors import Malformed
from shared.runtime.mongo import Collection, Document, translate_errors, utcnow
from shared.runtime.web.problems import to_utc

T = TypeVar("T")

_BATCH: Final = 500
_MAX_BATCHES: Final = 4
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST_SPAN: Final = timedelta(minutes=1)
_SPAN_GROWTH: Final = 3
_FUTURE: Final = timedelta(days=1000)
"""No document has a later time. It bounds the number of slices."""
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""The times of cursors. Of each, some can be taken away or added."""

Limit = Annotated[int, Query(ge=1, le=500, description="The maximum number of items.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")]
Order = Annotated[
    Literal["newest", "oldest"], Query(description="Which come first. A cursor is valid for its order only.")
]
_Time = Annotated[AwareDatetime, AfterValidator(to_utc)]
Since = Annotated[_Time | None, Query(description="The earliest time.")]
Until = Annotated[_Time | None, Query(description="The first time that is too late.")]


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is asked for. `since` is inclusive, `until` exclusive."""

    limit: int = 50
    cursor: str | None = None
    order: Literal["newest", "oldest"] = "newest"
    since: datetime | None = None
    until: datetime | None = None


def _paging(
    limit: Limit = 50,
    cursor: Cursor = None,
    order: Order = "newest",
    since: Since = None,
    until: Until = None,
) -> Paging:
    return Paging(limit, cursor, order, since, until)


PagingQuery = Annotated[Paging, Depends(_paging)]
"""The parameters of a list in an API."""


async def page(
    collection: Collection,
    query: Mapping[str, Any],
    show: Callable[[Document], T],
    paging: Paging,
    *,
    fields: Mapping[str, int] | None = None,
    matches: Callable[[Document], bool] | None = None,
    examined: int = _BATCH,
    time_field: str = "created_at",
) -> Page[T]:
    """Return one page of the documents that match a query, in the order of `time_field` and `_id`.

    `show` makes an item of a document; `fields` is the projection of MongoDB. `matches` selects documents
    that the query cannot select by an index (ADR 0061). At most four times `examined` are examined for a page
    then, so it may have fewer items than the limit, or none, and a next page all the same. Raises `Malformed`
    if the cursor is invalid, and `DatabaseUnavailable`.
    """
    position = decode_cursor(paging.cursor) if paging.cursor else None
    limit = paging.limit
    batch, items = limit if matches is None else examined, list[T]()
    for _ in range(1 if matches is None else _MAX_BATCHES):
        documents = await _read(collection, query, position, batch, fields, time_field, paging)
        for index, document in enumerate(documents[:batch], start=1):
            if matches is None or matches(document):
                items.append(show(document))
            position = document[time_field], document["_id"]
            if len(items) == limit:
                return Page(
                    items=items, next_cursor=encode_cursor(*position) if index < len(documents) else None
                )
        if len(documents) <= batch:
            return Page(items=items, next_cursor=None)
    return Page(items=items, next_cursor=encode_cursor(*position) if position else None)


async def page_in_slices(
    collection: Collection,
    query: Mapping[str, Any],
    show: Callable[[Document], T],
    paging: Paging,
    *,
    oldest: datetime,
    fields: Mapping[str, int] | None = None,
    matches: Callable[[Document], bool] | None = None,
    examined: int = _BATCH,
    time_field: str = "created_at",
) -> Page[T]:
    """Return a page as `page` does, where a query may match many documents, none older than `oldest`.

    The embedded database reads everything that matches before it applies a limit, so a page is looked for in
    a short time first: behind the cursor, else at the end where the list begins.
    """
    at = decode_cursor(paging.cursor)[0] if paging.cursor else None
    now = utcnow()
    since = max(paging.since or oldest, oldest)
    until = min(paging.until, now + _FUTURE) if paging.until else None
    span = _FIRST_SPAN
    while True:
        low, high = since, until
        if paging.order == "newest":
            high = min(filter(None, (until, at and at + _MILLISECOND)), default=None)
            low = max(since, (high or now) - span)
        else:
            low = max(since, at) if at else since
            high = low + span if low + span < (until or now) else until
        found = await page(
            collection,
            query,
            show,
            replace(paging, since=low, until=high),
            fields=fields,
            matches=matches,
            examined=examined,
            time_field=time_field,
        )
        has_all = low <= since if paging.order == "newest" else high == until
        if found.next_cursor is not None or has_all:
            return found
        span *= _SPAN_GROWTH


async def _read(
    collection: Collection,
    query: Mapping[str, Any],
    position: tuple[datetime, str] | None,
    limit: int,
    fields: Mapping[str, int] | None,
    time_field: str,
    paging: Paging,
) -> list[Document]:
    """Return up to `limit` documents behind a position, and one more if there is one."""
    behind, direction = ("$lt", -1) if paging.order == "newest" else ("$gt", 1)
    window: dict[str, datetime] = {}
    if paging.since:  # with $gte, the embedded database leaves out the bound itself
        window["$gt"] = max(paging.since, _EARLIEST) - _MILLISECOND
    if paging.until:
        window["$lt"] = paging.until
    ranges: list[dict[str, Any]] = []
    if position:
        # Two ranges of the index: for an $or, the embedded database reads the whole collection.
        at, last_id = position
        if window.get("$gt", _EARLIEST - _MILLISECOND) < at < window.get("$lt", _LATEST):
            ranges.append({time_field: at, "_id": {behind: last_id}})
        closest = min if behind == "$lt" else max
        window[behind] = closest(window.get(behind, at), at)
    ranges.append({time_field: window} if window else {})
    documents: list[Document] = []
    for part in ranges:
        wanted = limit + 1 - len(documents)
        if wanted == 0:
            break
        with translate_errors():
            cursor = collection.find({**query, **part}, fields)
            cursor = cursor.sort([(time_field, direction), ("_id", direction)])
            documents += await cursor.limit(wanted).to_list(wanted)
    return documents


def encode_cursor(created_at: datetime, last_id: str) -> str:
    """Return the cursor of the page behind a document."""
    return base64.urlsafe_b64encode(orjson.dumps([int(created_at.timestamp() * 1000), last_id])).decode()


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the creation time and the id in a cursor. Raises `Malformed` if it is invalid."""
    try:
        at, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        moment = datetime.fromtimestamp(at / 1000, UTC)
    except (ValueError, TypeError, binascii.Error, OverflowError, OSError):
        raise _invalid_cursor() from None
    if not _EARLIEST <= moment < _LATEST:
        raise _invalid_cursor()
    return moment, str(last_id)


def decode_position(cursor: str | None) -> int:
    """Return the number in a cursor of a list by position; 0 without one. Raises `Malformed`."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 12):
        raise _invalid_cursor()
    return int(cursor or 0)


def _invalid_cursor() -> Malformed:
    return Malformed("the cursor is invalid: pass next_cursor of the previous page unchanged")
