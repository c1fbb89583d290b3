"""An archive with a single entry, for an export that is one file, such as `result.json`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from shared.manifests.history_types import Entry, Unreadable


class FileArchive:
    """One file as an archive. `name` is the name of the upload, used only for display."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._entry = Entry(name, file.seek(0, 2))

    def entries(self) -> Sequence[Entry]:
        return [self._entry]

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open the file at its start, once at a time. Raises `Unreadable` for another name."""
        if name != self._entry.name:
            raise Unreadable(f"there is no file {name!r}: upload the export again")
        self._file.seek(0)
        yield self._file
