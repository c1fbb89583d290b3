"""Read the end record of a ZIP archive, to check the directory's size before `zipfile` opens the archive.

`zipfile` loads the whole directory, about half a kilobyte of memory for each entry, without a limit.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from shared.manifests.history_types import Unreadable

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<28s3H12x")
"""An entry of the directory: what is before the lengths of its name, extra field and comment, and these."""
_MAX_COMMENT: Final = 65_535
_IN_64: Final = 0xFFFF
_IN_64_LONG: Final = 0xFFFFFFFF
MIN_ENTRY: Final = _ENTRY.size
"""The size of the shortest entry of a directory in bytes."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory of a ZIP archive as its end record has it: entries, size and position in bytes."""

    entries: int
    size: int
    start: int


def read_directory(file: BinaryIO) -> Directory:
    """Return the number of entries and the size that the end record has. Raises `Unreadable` without one."""
    length = file.seek(0, 2)
    tail_start = max(0, length - _END.size - _MAX_COMMENT)
    file.seek(tail_start)
    tail = file.read(length - tail_start)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        raise Unreadable("the ZIP archive is truncated: upload it again, or export it again")
    _, _, _, _, entries, size, offset, _ = _END.unpack_from(tail, position)
    if entries == _IN_64 or _IN_64_LONG in (size, offset):
        found = _read_64(file, tail_start + position)
        if found is not None:
            return found
    return Directory(entries, size, tail_start + position - size)


def count_entries(file: BinaryIO, directory: Directory, limit: int) -> int:
    """Return the number of entries that a directory really has, at most `limit` + 1.

    `zipfile` reads as many as there are, whatever the end record says.
    """
    file.seek(max(0, directory.start))
    left = directory.size
    count = 0
    while left >= _ENTRY.size and count <= limit:
        entry = file.read(_ENTRY.size)
        if len(entry) < _ENTRY.size:
            break
        _, *lengths = _ENTRY.unpack(entry)
        file.seek(sum(lengths), 1)
        left -= _ENTRY.size + sum(lengths)
        count += 1
    return count


def _read_64(file: BinaryIO, end: int) -> Directory | None:
    """Return the values of the ZIP64 end record; None if the archive has none, and the short one is valid."""
    if end < _LOCATOR.size:
        return None
    file.seek(end - _LOCATOR.size)
    signature, _, offset, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    file.seek(offset)
    record = file.read(_END64.size)
    if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
        raise Unreadable("the end record of the ZIP archive is damaged: export it again")
    fields = _END64.unpack(record)
    return Directory(fields[7], fields[8], end - _LOCATOR.size - _END64.size - fields[8])
