"""The main module of the reader process, which reads one uploaded export. Started by `reader_process`.

    python -m services.importer.reading.child DESCRIPTOR NAME LIMITS

The export is an inherited file descriptor. Commands come on standard input, and responses go to standard
output (`protocol`). Before it reads the export, the process confines itself (`confinement`).
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import orjson

from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.reading.confinement import NICENESS, confine, limit_cpu
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import FILE_BLOCK_BYTES, encoded, framed
from services.importer.reading.readers import archive_readers, described, open_archive, recognized
from shared.manifests.history_types import Archive, Contents, ReadsArchive, Unit, Unreadable

_FRAME_BYTES: Final = 256 * 1024
_MAX_LINES: Final = 500
"""A frame with lines of records ends after so many bytes or lines."""


class _Session:
    """Handles the commands about one archive."""

    def __init__(self, archive: Archive, reader: ReadsArchive, contents: Contents, out: BinaryIO) -> None:
        self._archive = archive
        self._reader = reader
        self._use(contents)
        self._names = Names()
        self._out = out

    def _use(self, contents: Contents) -> None:
        self._contents = contents
        self._units = {unit.id: unit for unit in contents.units}

    def answer(self, command: Mapping[str, Any]) -> None:
        match command["do"]:
            case "contents":
                if command["answers"]:
                    self._use(described(self._archive, self._reader, command["answers"]))
                self._write(encoded({"contents": self._contents}))
            case "names":
                self._names = Names(**command["names"])
            case "read":
                self._read(self._units[command["unit"]])
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

    def _read(self, unit: Unit) -> None:
        """Write the lines of a unit, many in a frame; the last frame has `end`: null, or an error."""
        lines: list[bytes] = []
        size, end = 0, None
        try:
            for record in self._reader.read(self._archive, self._contents, unit):
                lines.append(line := encoded(line_of(record, self._names)))
                size += len(line)
                if size > _FRAME_BYTES or len(lines) == _MAX_LINES:
                    self._write(b'{"lines":[%b]}' % b",".join(lines))
                    lines, size = [], 0
        except Unreadable as error:
            end = str(error)
        self._write(b'{"lines":[%b],"end":%b}' % (b",".join(lines), encoded(end)))

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
        session = _Session(archive, reader, contents, out)
        for line in commands:
            limit_cpu(limits["cpu_s"])
            session.answer(orjson.loads(line))
    except Unreadable as error:
        out.write(framed(encoded({"error": str(error)})))
    except MemoryError:
        out.write(framed(encoded({"error": "it needs too much memory: export a shorter time"})))
    out.flush()


if __name__ == "__main__":
    main()
