"""The main module of the reader process, which reads one uploaded export. Started by `reader_process`.

    python -m services.importer.reading.child DESCRIPTOR NAME LIMITS

The export is an inherited file descriptor. Commands come on standard input, and responses go to standard
output (`protocol`). Before it reads the export, the process confines itself (`confinement`).
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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


_Lines = list[tuple[HistoryRecord, bytes]]
"""Records with their lines."""


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
                self._read(command["position"], command["skip"])
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

    def _read(self, position: int, skip: int) -> None:
        """Write the records of the named conversations, from a unit on, without its first `skip`."""
        for unit in islice(self._contents.units, position, None):
            if unit.conversation in self._names.channels:
                self._read_unit(position, unit, skip)
            position, skip = position + 1, 0
        self._write(b'{"end":true}')

    def _read_unit(self, position: int, unit: Unit, skip: int) -> None:
        error = None
        part: _Lines = []
        size = 0
        try:
            for record in islice(self._reader.read(self._archive, self._contents, unit), skip, None):
                if len(part) == MAX_PART_RECORDS or size >= MAX_PART_BYTES:
                    self._write_part(part, {"position": position, "unit": unit, "is_last": False})
                    part, size = [], 0
                line = encoded(line_of(record, self._names))
                part.append((record, line))
                size += len(line)
        except Unreadable as refusal:
            error = str(refusal)
        self._write_part(part, {"position": position, "unit": unit, "is_last": True, "error": error})

    def _write_part(self, part: _Lines, end: Mapping[str, Any]) -> None:
        """Write the lines of a part, many in a frame; the last frame has its `part`."""
        lines: list[bytes] = []
        size = 0
        for line in _in_order(part):
            if size > _FRAME_BYTES or len(lines) == _MAX_LINES:
                self._write(b'{"lines":[%b]}' % b",".join(lines))
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        self._write(b'{"lines":[%b],"part":%b}' % (b",".join(lines), encoded(end)))
        limit_cpu(self._cpu_s)  # the next part has as much time as this one had

    def _write(self, response: bytes) -> None:
        self._out.write(framed(response))


def _in_order(part: _Lines) -> Iterator[bytes]:
    """Yield the lines in order of time, each reply behind the first message of its thread."""
    starts = {
        record.message.external_id: record.message.sent_at
        for record, _ in part
        if isinstance(record, HistoryMessage) and record.message.place.thread is None
    }

    def position(item: tuple[HistoryRecord, bytes]) -> tuple[float, bool]:
        record = item[0]
        if not isinstance(record, HistoryMessage):
            return 0.0, False
        thread = record.message.place.thread
        start = starts.get(thread, 0.0) if thread is not None else 0.0
        return max(record.message.sent_at, start), thread is not None

    return (line for _, line in sorted(part, key=position))


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
        for line in commands:
            session.answer(orjson.loads(line))
    except Unreadable as error:
        out.write(framed(encoded({"error": str(error)})))
    except MemoryError:
        out.write(framed(encoded({"error": "it needs too much memory: export a shorter time"})))
    out.flush()


if __name__ == "__main__":
    main()
