"""Lists in pages, in the order of time: `{"items": [...], "next_cursor": "..."|null}`."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import orjson
from fastapi import Depends, Query
from pydantic import BaseModel

from shared.contracts.errors import Malformed
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Document
from shared.runtime.web.list_reader import EARLIEST, LATEST, ListQuery, ListReader, LongList
from shared.runtime.web.times import UtcTime

T = TypeVar("T")

_BATCH: Final = 500
_MAX_BATCHES: Final = 4

Limit = Annotated[int, Query(ge=1, le=500, description="The maximum number of items.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")]
Order = Annotated[
    Literal["newest", "oldest"], Query(description="Which come first. A cursor is valid for its order only.")
]
Since = Annotated[UtcTime | None, Query(description="The earliest time.")]
Until = Annotated[UtcTime | None, Query(description="The first time that is too late.")]


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
    long_list: LongList | None = None,
    start: datetime | None = None,
    latest: datetime | None = None,
) -> Page[T]:
    """Return one page of the documents that match a query, in the order of `time_field` and `_id`.

    `query` has equalities only. `show` makes an item of a document; `fields` is the projection of MongoDB.
    `matches` selects documents that the query cannot select by an index (ADR 0061). At most four times
    `examined` are examined for a page then, so it may have fewer items than the limit, or none, and a next
    page all the same. A `long_list` is read in slices of time; `start` is about when its first document can
    be, `latest` when the last one can be, by default now. Raises `Malformed` if the cursor is invalid, and
    `DatabaseUnavailable`.
    """
    position = decode_cursor(paging.cursor) if paging.cursor else None
    limit = paging.limit
    source = ListQuery(
        collection,
        query,
        fields,
        time_field,
        newest_first=paging.order == "newest",
        since=paging.since,
        until=paging.until,
        long_list=long_list,
        start=start,
        latest=latest or utcnow(),
    )
    reader = ListReader(source, position)
    items = list[T]()
    first = limit + 1 if matches is None else min(limit + 1, examined)
    for batch in (first, *([examined] * (_MAX_BATCHES - 1) if matches else ())):
        documents = await reader.read(batch)
        for document in documents:
            if len(items) == limit:
                return _continued(items, position)
            if matches is None or matches(document):
                items.append(show(document))
            position = document[time_field], document["_id"]
        if len(documents) < batch:
            return Page(items=items, next_cursor=None)
    return _continued(items, position)


def _continued(items: list[T], position: tuple[datetime, str] | None) -> Page[T]:
    """Return a page that is not the last one; the next one begins behind a position."""
    return Page(items=items, next_cursor=encode_cursor(*position) if position else None)


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
    if not EARLIEST <= moment < LATEST:
        raise _invalid_cursor()
    return moment, str(last_id)


def decode_position(cursor: str | None) -> int:
    """Return the number in a cursor of a list by position; 0 without one. Raises `Malformed`."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 12):
        raise _invalid_cursor()
    return int(cursor or 0)


def _invalid_cursor() -> Malformed:
    return Malformed("the cursor is invalid: pass next_cursor of the previous page unchanged")
