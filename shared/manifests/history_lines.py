"""Read the lines of an export as a stream, whatever their length, and the JSON of one line."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import orjson

from shared.contracts.errors import Malformed

MAX_LINE: Final = 8 * 1024 * 1024
"""The longest line in bytes; a message of any chat is far shorter."""
_CHUNK: Final = 256 * 1024


def lines(file: BinaryIO, max_length: int = MAX_LINE) -> Iterator[bytes | None]:
    """Yield the lines of a file without their line feeds; None for each that is too long.

    It holds one line and one chunk at a time. A carriage return at the end of a line stays.
    """
    rest = b""
    is_cut = False
    while chunk := file.read(_CHUNK):
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield None if is_cut or len(line) > max_length else line
            is_cut = False
        if is_cut or len(rest) > max_length:
            rest, is_cut = b"", True
    if rest or is_cut:
        yield None if is_cut else rest


def json_line(line: bytes | None) -> Any:
    """Return the value of a line of JSON. Raises `Malformed`, also for None: a line that is too long."""
    if line is None:
        raise Malformed(f"the line has more than {MAX_LINE // 1024**2} MB: no message is so long")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as refusal:
        return _leniently(line, refusal)


def _leniently(line: bytes, refusal: Exception) -> Any:
    """Parse JSON with halves of characters or infinite numbers: where one is decides what it spoils."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed(f"not valid JSON: {refusal}") from None
