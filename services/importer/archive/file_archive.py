"""An export that is one file, such as `result.json`: an archive with a single entry."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from shared.manifests.history_types import Entry, Unreadable


class FileArchive:
    """One file as an archive. `name` is what it was uploaded as: it is shown, and decides nothing."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._entry = Entry(name, file.seek(0, 2))

    def entries(self) -> Sequence[Entry]:
        return [self._entry]

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open the file from its start. It is open once at a time."""
        if name != self._entry.name:
            raise Unreadable(f"there is no file {name!r}: upload the export again")
        self._file.seek(0)
        yield self._file
