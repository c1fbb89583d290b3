"""Lists in pages, newest first: `{"items": [...], "next_cursor": "..."|null}`."""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel

from shared.contracts.errors import Malformed
from shared.runtime.mongo import Collection, Document, translate_errors

T = TypeVar("T")

_BATCH: Final = 500
_MAX_BATCHES: Final = 4

Limit = Annotated[int, Query(ge=1, le=500, description="The maximum number of items.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the previous page.")]


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


async def page(
    collection: Collection,
    query: Mapping[str, Any],
    show: Callable[[Document], T],
    *,
    limit: int,
    cursor: str | None,
    fields: Mapping[str, int] | None = None,
    matches: Callable[[Document], bool] | None = None,
    examined: int = _BATCH,
    time_field: str = "created_at",
) -> Page[T]:
    """Return one page of the documents that match a query, newest first by `time_field` and `_id`.

    `show` makes an item of a document; `fields` is the projection of MongoDB. `matches` selects documents
    that the query cannot select by an index (ADR 0061). At most four times `examined` are examined for a page
    then, so it may have fewer items than `limit`, or none, and a next page all the same. Raises `Malformed`
    if the cursor is invalid, and `DatabaseUnavailable`.
    """
    position = decode_cursor(cursor) if cursor else None
    batch, items = limit if matches is None else examined, list[T]()
    for _ in range(1 if matches is None else _MAX_BATCHES):
        documents = await _read(collection, query, position, batch, fields, time_field)
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


async def _read(
    collection: Collection,
    query: Mapping[str, Any],
    position: tuple[datetime, str] | None,
    limit: int,
    fields: Mapping[str, int] | None,
    time_field: str,
) -> list[Document]:
    """Return up to `limit` documents behind a position, and one more if there is one."""
    page_query: dict[str, Any] = dict(query)
    if position:
        at, last_id = position
        page_query["$or"] = [{time_field: {"$lt": at}}, {time_field: at, "_id": {"$lt": last_id}}]
    with translate_errors():
        return (
            await collection.find(page_query, fields)
            .sort([(time_field, -1), ("_id", -1)])
            .limit(limit + 1)
            .to_list(limit + 1)
        )


def encode_cursor(created_at: datetime, last_id: str) -> str:
    """Return the cursor of the page behind a document."""
    return base64.urlsafe_b64encode(orjson.dumps([int(created_at.timestamp() * 1000), last_id])).decode()


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the creation time and the id in a cursor. Raises `Malformed` if it is invalid."""
    try:
        at, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromtimestamp(at / 1000, UTC), str(last_id)
    except (ValueError, TypeError, binascii.Error, OverflowError, OSError):
        raise Malformed("the cursor is invalid: pass next_cursor of the previous page unchanged") from None
