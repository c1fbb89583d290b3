"""Read JSON arrays of an export in bounded memory: small files at once, large ones as a stream."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import ijson
import orjson

from shared.manifests.history_types import Archive, Unreadable

MAX_AT_ONCE: Final = 8 * 1024 * 1024
"""Maximum size in bytes of a file that is parsed at once. A larger one is parsed as a stream."""


def array_items(archive: Archive, name: str, size: int) -> Iterator[Any]:
    """Yield the items of the JSON array in a file. Raises `Unreadable` if it is no array, or is truncated.

    The error may follow after valid items, because a large file is parsed as a stream.
    """
    with archive.open(name) as file:
        if size <= MAX_AT_ONCE:
            yield from _parsed(file, name)
        else:
            yield from _streamed(file, name)


def _parsed(file: BinaryIO, name: str) -> Iterator[Any]:
    data = file.read(MAX_AT_ONCE + 1)
    if len(data) > MAX_AT_ONCE:
        raise Unreadable(f"{name} is larger than the archive says: export it again")
    try:
        items = orjson.loads(data)
    except orjson.JSONDecodeError as refusal:
        items = _parsed_leniently(data, name, refusal)
    if not isinstance(items, list):
        raise Unreadable(f"{name} is not a list of records: export it again")
    yield from items


def _parsed_leniently(data: bytes, name: str, refusal: Exception) -> Any:
    """Parse JSON with lone surrogates or infinite numbers: they make one record invalid, not the file."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable(f"{name} is not valid JSON ({refusal}): export it again") from None


def _streamed(file: BinaryIO, name: str) -> Iterator[Any]:
    try:
        yield from ijson.items(file, "item", use_float=True)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is not valid JSON ({str(error)[:200]}): export it again") from None
