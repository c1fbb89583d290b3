"""Read the JSON files of an export: small ones at once, large ones as a stream, so that memory is bounded."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import ijson
import orjson

from shared.manifests.history_types import Archive, Unreadable

MAX_AT_ONCE: Final = 8 * 1024 * 1024
"""The size in bytes of a file that is parsed at once; a larger one is parsed as a stream of its items."""


def array_items(archive: Archive, name: str, size: int) -> Iterator[Any]:
    """Yield the items of a JSON array. A file that is no array, or is cut off, raises `Unreadable`.

    What was yielded before counts: the items of a stream come before the damage is seen.
    """
    with archive.open(name) as file:
        if size <= MAX_AT_ONCE:
            yield from _parsed(file, name)
        else:
            yield from _streamed(file, name)


def _parsed(file: BinaryIO, name: str) -> Iterator[Any]:
    data = file.read(MAX_AT_ONCE + 1)
    if len(data) > MAX_AT_ONCE:
        raise Unreadable(f"{name} has more bytes than its archive says: export it again")
    try:
        items = orjson.loads(data)
    except orjson.JSONDecodeError as refusal:
        items = _parsed_leniently(data, name, refusal)
    if not isinstance(items, list):
        raise Unreadable(f"{name} is not a list of records: export it again")
    yield from items


def _parsed_leniently(data: bytes, name: str, refusal: Exception) -> Any:
    """Parse JSON with halves of characters or infinite numbers, which then spoil one record only."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(f"{name} is not valid JSON ({refusal}): export it again") from None


def _streamed(file: BinaryIO, name: str) -> Iterator[Any]:
    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is not valid JSON ({str(error)[:200]}): export it again") from None
