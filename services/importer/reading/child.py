"""The main module of the reader process, which reads one uploaded export. Started by `reader_process`.

    python -m services.importer.reading.child DESCRIPTOR NAME LIMITS

The export is an inherited file descriptor. Commands come on standard input, and responses go to standard
output (`protocol`). Before it reads the export, the process confines itself (`confinement`).
"""

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

import orjson

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.confinement import NICENESS, confine, limit_cpu
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import (
    FILE_BLOCK_BYTES,
    MAX_PART_BYTES,
    MAX_PART_RECORDS,
    encoded,
    framed,
    overview_data,
    page_of,
)
from services.importer.reading.readers import archive_readers, described, open_archive, recognized
from shared.manifests.history_types import (
    Archive,
    Broken,
    Contents,
    HistoryMessage,
    HistoryRecord,
    ReadsArchive,
    Unit,
    Unreadable,
)

_FRAME_BYTES: Final = 256 * 1024
_MAX_LINES: Final = 500
"""A frame with lines of records ends after so many bytes or lines."""
_MERGED_RECORDS: Final = 1_000
_MERGED_BYTES: Final = 512 * 1024
_MERGED_UNITS: Final = 500
"""A part takes another unit until it has so many records, bytes or units."""
_GC_THRESHOLDS: Final = (100_000, 50, 100)
"""Records have no cycles: looking for some as often as by default takes a tenth of the time."""


class _Lines:
    """The lines of records that become a part."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._lines: list[tuple[float, str | None, bytes]] = []
        self._starts: dict[str, float] = {}

    def add(self, record: HistoryRecord, line: bytes) -> None:
        """Take the line of a record."""
        self.count += 1
        self.size += len(line)
        if not isinstance(record, HistoryMessage):
            self._lines.append((0.0, None, line))
            return
        message = record.message
        at, thread = message.sent_at, message.place.thread
        if thread is None:
            self._starts[message.external_id] = at
        self._lines.append((at, thread, line))

    def in_order(self) -> Iterator[bytes]:
        """Yield the lines in order of time, each reply behind the first message of its thread."""
        starts = self._starts

        def position(item: tuple[float, str | None, bytes]) -> tuple[float, bool]:
            at, thread, _ = item
            return (at, False) if thread is None else (max(at, starts.get(thread, 0.0)), True)

        return (line for _, _, line in sorted(self._lines, key=position))


@dataclass(slots=True)
class _Part:
    """Records that are imported together: a piece of a long unit, or several short units.

    `size` is in bytes: of the units that end with it.
    """

    position: int
    offset: int
    conversation: str
    first: str
    last: str = ""
    units: int = 0
    size: int = 0
    lines: _Lines = field(default_factory=_Lines)

    def takes(self, unit: Unit) -> bool:
        """Return whether it is short enough to have another unit."""
        lines = self.lines
        is_short = lines.count < _MERGED_RECORDS and lines.size < _MERGED_BYTES and self.units < _MERGED_UNITS
        return is_short and self.conversation == unit.conversation

    @property
    def name(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


class _Session:
    """Handles the commands about one archive. Each may take `cpu_s` seconds of CPU time."""

    def __init__(
        self, archive: Archive, reader: ReadsArchive, contents: Contents, out: BinaryIO, cpu_s: float
    ) -> None:
        self._archive = archive
        self._reader = reader
        self._contents = contents
        self._use_names({}, {})
        self._out = out
        self._cpu_s = cpu_s

    def answer(self, command: Mapping[str, Any]) -> None:
        limit_cpu(self._cpu_s)
        contents = self._contents
        match command["do"]:
            case "contents":
                if command["answers"]:
                    self._contents = described(self._archive, self._reader, command["answers"])
                self._write(encoded({"contents": overview_data(self._contents)}))
            case "list":
                items: Mapping[str, Sequence[Any]] = {
                    "people": contents.people,
                    "conversations": contents.conversations,
                    "units": contents.units,
                }
                self._write(page_of(items[command["list"]], command["start"]))
            case "names":
                self._use_names(command["users"], command["channels"])
            case "read":
                self._read(command["position"], command["skip"], merges=command["merges"])
            case "file":
                self._send_file(command["name"], command["max_bytes"])
        self._out.flush()

    def _send_file(self, name: str, max_bytes: int) -> None:
        """Write a file of the archive: before each block a frame with its size, and a last frame `end`.

        Of a file that is too large, one byte more than `max_bytes` is sent.
        """
        left = max_bytes + 1
        error = None
        try:
            with self._archive.open(name) as file:
                while left and (block := file.read(min(left, FILE_BLOCK_BYTES))):
                    left -= len(block)
                    self._write(encoded({"block": len(block)}))
                    self._out.write(block)
        except Unreadable as failure:
            error = str(failure)
        self._write(encoded({"end": error}))

    def _use_names(self, users: Mapping[str, str], channels: Mapping[str, str]) -> None:
        contents = self._contents
        self._names = Names(
            users=users,
            people={item.person.id: item.person for item in contents.people},
            channels=channels,
            conversations={item.id: item.name for item in contents.conversations},
        )

    def _read(self, position: int, skip: int, *, merges: bool) -> None:
        """Write the records of the named conversations, from a unit on, without its first `skip`."""
        part: _Part | None = None
        for unit in islice(self._contents.units, position, None):
            if unit.conversation in self._names.channels:
                if part is not None and not (merges and part.takes(unit)):
                    self._write_part(part, position)
                    part = None
                part = self._read_unit(part, position, unit, skip)
                part.units += 1
                part.size += unit.size
            elif part is not None:
                self._write_part(part, position)
                part = None
            position, skip = position + 1, 0
        if part is not None:
            self._write_part(part, position)
        self._write(b'{"end":true}')

    def _read_unit(self, part: _Part | None, position: int, unit: Unit, skip: int) -> _Part:
        """Read a unit into a part, or a new one; return the last one of it, which is not written yet."""
        part = part or _Part(position, skip, unit.conversation, unit.id)
        part.last = unit.id
        try:
            for record in islice(self._reader.read(self._archive, self._contents, unit), skip, None):
                lines = part.lines
                if lines.count >= MAX_PART_RECORDS or lines.size >= MAX_PART_BYTES:
                    self._write_part(part, position, skip)
                    part = _Part(position, skip, unit.conversation, unit.id, unit.id)
                part.lines.add(record, encoded(line_of(record, self._names, unit.day)))
                skip += 1
        except Unreadable as refusal:
            damage = Broken(unit.id, str(refusal))
            part.lines.add(damage, encoded(line_of(damage, self._names, unit.day)))
        limit_cpu(self._cpu_s)  # the next unit has as much time as this one had
        return part

    def _write_part(self, part: _Part, end_position: int, end_offset: int = 0) -> None:
        """Write the lines of a part, many in a frame; the last frame has its `part`."""
        lines: list[bytes] = []
        size = 0
        for line in part.lines.in_order():
            if size > _FRAME_BYTES or len(lines) == _MAX_LINES:
                self._write(b'{"lines":[%b]}' % b",".join(lines))
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        end = {
            "position": part.position,
            "offset": part.offset,
            "end_position": end_position,
            "end_offset": end_offset,
            "conversation": part.conversation,
            "name": part.name,
            "size": part.size,
        }
        self._write(b'{"lines":[%b],"part":%b}' % (b",".join(lines), encoded(end)))
        limit_cpu(self._cpu_s)  # the next part, too

    def _write(self, response: bytes) -> None:
        self._out.write(framed(response))


def main() -> None:
    """Handle commands until standard input ends."""
    descriptor, name, limits = int(sys.argv[1]), sys.argv[2], orjson.loads(sys.argv[3])
    file = os.fdopen(descriptor, "rb")
    commands, out = sys.stdin.buffer, sys.stdout.buffer
    os.nice(NICENESS)
    readers = archive_readers()
    confine(memory_bytes=limits["memory_bytes"])
    limit_cpu(limits["cpu_s"])
    try:
        archive = open_archive(file, name, ArchiveLimits(**limits["archive"]))
        reader, contents = recognized(archive, readers)
        session = _Session(archive, reader, contents, out, limits["cpu_s"])
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        for line in commands:
            session.answer(orjson.loads(line))
    except Unreadable as error:
        out.write(framed(encoded({"error": str(error)})))
    except MemoryError:
        out.write(framed(encoded({"error": "it needs too much memory: export a shorter time"})))
    out.flush()


if __name__ == "__main__":
    main()
