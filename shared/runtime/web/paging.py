"""Lists, newest first, page by page: `{"items": [...], "next_cursor": "..."|null}`."""

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

Limit = Annotated[int, Query(ge=1, le=500, description="How many, at most.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

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
    """One page of the documents that match, by `created_at` and `_id`. Raises `Malformed`: bad cursor."""
    wanted: dict[str, Any] = dict(query)
    if cursor:
        at, last = _decode_cursor(cursor)
        wanted["$or"] = [{"created_at": {"$lt": at}}, {"created_at": at, "_id": {"$lt": last}}]
    with translate_errors():
        found = (
            await collection.find(wanted, fields)
            .sort([("created_at", -1), ("_id", -1)])
            .limit(limit + 1)
            .to_list(limit + 1)
        )
    more = len(found) > limit
    found = found[:limit]
    return Page(
        items=[show(document) for document in found], next_cursor=_encode_cursor(found[-1]) if more else None
    )


def _encode_cursor(document: Document) -> str:
    at = int(document["created_at"].timestamp() * 1000)
    return base64.urlsafe_b64encode(orjson.dumps([at, document["_id"]])).decode()


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        at, last = orjson.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromtimestamp(at / 1000, UTC), str(last)
    except (ValueError, TypeError, binascii.Error, OverflowError, OSError):
        raise Malformed("the cursor is not one of ours: pass next_cursor as it was") from None
