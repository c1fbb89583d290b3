"""The bytes of imported files on the disk: a folder for each import, beside the uploads."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from services.importer.uploads.folder import UploadFolder
from shared.runtime.egress.part_file import PART_SUFFIXES

_NAME: Final = "files"
_SHARD: Final = slice(4, 6)
"""The digits of an attachment's id that name its folder: a folder of a million files is slow to read."""


class FileFolder:
    """The files of imports in the folder of uploads. The calls take as long as the disk: use a thread."""

    def __init__(self, uploads: UploadFolder) -> None:
        self._uploads = uploads
        self._path = uploads.path_of(_NAME)
        self.id: Final = uploads.id

    def path_of(self, import_id: str, attachment_id: str) -> Path:
        """Return where a file is, whether it exists or not."""
        return self._path / import_id / attachment_id[_SHARD] / attachment_id

    def share(self, known: Path, path: Path) -> bool:
        """Replace a file by a hard link to another one with the same bytes; return False where it cannot be.

        The bytes are deleted with the last of the two names.
        """
        temporary = path.with_name(f"{path.name}.{token_hex(4)}.part")
        try:
            temporary.hardlink_to(known)
            temporary.replace(path)
        except OSError:  # the other one was deleted, has too many links, or the disk has none
            return False
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return True

    def delete(self, files: Iterable[tuple[str, str]]) -> None:
        """Delete files, by import and attachment, with what is incomplete and folders that are empty then."""
        folders = set()
        for import_id, attachment_id in files:
            path = self.path_of(import_id, attachment_id)
            for name in (path, *(path.with_name(f"{path.name}{suffix}") for suffix in PART_SUFFIXES)):
                name.unlink(missing_ok=True)
            folders |= {path.parent, path.parent.parent}
        for folder in sorted(folders, reverse=True):  # those below come first
            with suppress(OSError):
                folder.rmdir()

    def imports(self) -> list[str]:
        """Return the ids of the imports that have files here."""
        try:
            with os.scandir(self._path) as entries:
                return [entry.name for entry in entries]
        except FileNotFoundError:
            return []

    def written_before(self, import_id: str, unix: float) -> list[Path]:
        """Return the files of an import, also incomplete ones, that were last written before a Unix time."""
        found = []
        for folder, _, names in os.walk(self._path / import_id):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < unix:
                        found.append(path)
        return found

    def delete_import(self, import_id: str) -> None:
        """Delete all files of an import."""
        shutil.rmtree(self._path / import_id, ignore_errors=True)

    def free_bytes(self) -> int:
        """Return how many bytes the disk has left."""
        return self._uploads.free_bytes()
