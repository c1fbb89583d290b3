"""Read JSON arrays of an export in bounded memory: small files at once, large ones as a stream."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Protocol

import ijson
import orjson

from shared.manifests.history_types import Archive, Unreadable

MAX_AT_ONCE: Final = 8 * 1024 * 1024
"""Maximum size in bytes of a file that is parsed at once. A larger one is parsed as a stream."""


class Readable(Protocol):
    """Something with bytes to read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most `size` if that is not negative."""
        ...


MAX_LEVELS: Final = 100
"""Levels of objects and lists in a stream of JSON. An export of any chat has about ten."""
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of one text in a stream of JSON."""
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class ShallowFile:
    """A file of JSON with about MAX_LEVELS and MAX_TEXT_BYTES at most: `read` raises `ValueError` beyond.

    The stream parser makes a text of the way to each value, which takes gigabytes of copies for 100,000
    levels; and it reads a text from its start again with each part of the file.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._is_in_text = False
        self._is_escaped = False
        self._text_bytes = 0
        self._open = b""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._file.read(size)
        self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        if self._is_escaped:
            data = data[1:] if data else data
        self._is_escaped = (len(data) - len(data.rstrip(b"\\"))) % 2 == 1
        if self._is_escaped:
            data = data[:-1]
        if b"\\" in data:
            data = _ESCAPE.sub(b"", data)
        parts = data.split(b'"')
        outside = b"".join(parts[self._is_in_text :: 2])
        self._is_in_text ^= len(parts) % 2 == 0
        self._text_bytes = len(parts[-1]) + (self._text_bytes if len(parts) == 1 else 0)
        if self._is_in_text and self._text_bytes > MAX_TEXT_BYTES:
            raise ValueError(f"it has a text of more than {MAX_TEXT_BYTES} bytes")
        brackets = self._open + outside.translate(None, _NO_BRACKETS)
        for _ in range(MAX_LEVELS + 1):  # each closes a level, and the last one finds nothing
            closed = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(closed) == len(brackets):
                break
            brackets = closed
        else:
            raise ValueError(f"it has more than {MAX_LEVELS} levels")
        self._open = brackets.lstrip(b"]}")
        if len(self._open) > MAX_LEVELS:
            raise ValueError(f"it has more than {MAX_LEVELS} levels")


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
        yield from ijson.items(ShallowFile(file), "item", use_float=True)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is not valid JSON ({str(error)[:200]}): export it again") from None
