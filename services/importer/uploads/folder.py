"""The folder of uploads: files by the id of their upload, and the folder's own id.

Several processes may have the same folder. Whoever sees its id can work on its files.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC, EOPNOTSUPP, EPERM
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from secrets import token_hex
from time import sleep
from typing import BinaryIO, Final

from shared.contracts.errors import Conflict, Misconfigured, RetryLater

_ID_FILE: Final = "folder-id"
_MODE: Final = 0o600
_NO_LINKS: Final = frozenset({EPERM, EOPNOTSUPP})
"""The errors of disks without hard links, such as those of SMB."""
_SETTLED_S: Final = 1.0
_RESERVE_BYTES: Final = 1024**3
"""Bytes of the disk that uploads leave free."""


class UploadFolder:
    """The files of uploads. The calls take as long as the disk: use a thread for those that write."""

    def __init__(self, path: Path) -> None:
        """Open the folder, and create it where it is missing. Raises `Misconfigured`."""
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.id = _read_or_create_id(path)
        except OSError as error:
            raise Misconfigured(
                f"INTERLINK_UPLOAD_FOLDER: {path} cannot be used ({error.strerror}): name a folder that the "
                "service can write to"
            ) from None

    def path_of(self, upload_id: str) -> Path:
        """Return where the file of an upload is, whether it exists or not."""
        return self._path / upload_id

    def size_of(self, upload_id: str) -> int:
        """Return how many bytes of an upload have arrived; 0 if there is no file yet."""
        try:
            return self.path_of(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> int:
        """Return how many bytes the disk has left."""
        return shutil.disk_usage(self._path).free

    def has_room(self, size: int) -> bool:
        """Return whether the disk takes so many bytes of an upload, and keeps 1 GiB free."""
        return self.free_bytes() >= size + _RESERVE_BYTES

    def append(self, file: BinaryIO, block: bytes) -> None:
        """Append a block to an upload that is open. Raises `OSError`, also if the disk has no room for it.

        Uploads that were announced while there was room can have more bytes together than the disk.
        """
        if not self.has_room(len(block)):
            raise OSError(ENOSPC, "no room but for the reserve")
        view = memoryview(block)
        while view:
            view = view[file.write(view) :]

    @contextmanager
    def appending(self, upload_id: str) -> Iterator[BinaryIO]:
        """Open the file of an upload to append to it. Raises `Conflict` if another call does so."""
        descriptor = os.open(self.path_of(upload_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise Conflict("another request writes to this upload: wait until it has ended") from None
            file.seek(0, os.SEEK_END)
            yield file

    def delete(self, upload_id: str) -> None:
        """Delete the file of an upload, if there is one."""
        with suppress(FileNotFoundError):
            self.path_of(upload_id).unlink()

    def older_than(self, unix: float) -> list[str]:
        """Return the ids of the uploads whose files were last written before a Unix time."""
        found = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process has deleted it
                    if entry.name.startswith("upl_") and entry.stat().st_mtime < unix:
                        found.append(entry.name)
        return found


def other_folder() -> RetryLater:
    """Return the error of a call about an upload whose folder this process does not have."""
    return RetryLater(
        "this process does not have the folder of the upload, but another one has: try again, or have the "
        "proxy send all calls of one upload to the same process"
    )


def _read_or_create_id(path: Path) -> str:
    file = path / _ID_FILE
    if not file.exists():
        # Linked when it is whole: of two processes that start together, both read the id of the first.
        draft = path / f"{_ID_FILE}.{token_hex(8)}"
        draft.write_text(f"fld_{token_hex(16)}", "ascii")
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # The last one gives the file its content: processes that start together wait for it.
            draft.replace(file)
            sleep(_SETTLED_S)
        draft.unlink(missing_ok=True)
    return file.read_text("ascii").strip()
