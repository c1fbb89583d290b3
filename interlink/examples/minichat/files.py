"""The files that people attach, in memory, under addresses that nobody can guess."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

MAX_FILES, MAX_BYTES = 20, 5 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    filename: str
    content_type: str
    content: bytes


class Files:
    """The last files by id."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, StoredFile] = OrderedDict()

    def add(self, filename: str, content_type: str, content: bytes) -> StoredFile:
        """Store a file. The oldest one goes when there are too many."""
        file = StoredFile(secrets.token_urlsafe(18), filename, content_type, content)
        self._files[file.id] = file
        if len(self._files) > MAX_FILES:
            self._files.popitem(last=False)
        return file

    def get(self, file_id: str) -> StoredFile | None:
        return self._files.get(file_id)
