"""Lists in pages, newest first: `{"items": [...], "next_cursor": "..."|null}`."""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel

from shared.contracts.errors import Malformed
from shared.runtime.mongo import Collection, Document, translate_errors

T = TypeVar("T")

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
) -> Page[T]:
    """Return one page of the documents that match a query, newest first by `created_at` and `_id`.

    `show` makes an item of a document; `fields` is the projection of MongoDB. Raises `Malformed` if the
    cursor is invalid, and `DatabaseUnavailable`.
    """
    page_query: dict[str, Any] = dict(query)
    if cursor:
        at, last_id = decode_cursor(cursor)
        page_query["$or"] = [{"created_at": {"$lt": at}}, {"created_at": at, "_id": {"$lt": last_id}}]
    with translate_errors():
        documents = (
            await collection.find(page_query, fields)
            .sort([("created_at", -1), ("_id", -1)])
            .limit(limit + 1)  # one more than the page, to see whether there is another page
            .to_list(limit + 1)
        )
    has_more = len(documents) > limit
    documents = documents[:limit]
    return Page(
        items=[show(document) for document in documents],
        next_cursor=encode_cursor(documents[-1]["created_at"], documents[-1]["_id"]) if has_more else None,
    )


def encode_cursor(created_at: datetime, document_id: str) -> str:
    """Return the cursor of the page behind a document."""
    at = int(created_at.timestamp() * 1000)
    return base64.urlsafe_b64encode(orjson.dumps([at, document_id])).decode()


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the creation time and the id in a cursor. Raises `Malformed` if it is invalid."""
    try:
        at, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromtimestamp(at / 1000, UTC), str(last_id)
    except (ValueError, TypeError, binascii.Error, OverflowError, OSError):
        raise Malformed("the cursor is invalid: pass next_cursor of the previous page unchanged") from None
