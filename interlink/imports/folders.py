"""Pack the folder of an export as one ZIP archive: many programs write their exports as folders."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from shared.contracts.errors import Misconfigured

_MAX_FILES: Final = 500_000
"""Entries of an archive that the importer accepts by default."""
_LEVEL: Final = 1
_MIN_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: a copy of a folder makes the same archive."""


@contextmanager
def archive_of(path: Path) -> Iterator[Path]:
    """Yield the path itself, or for a folder the path of a temporary ZIP archive of its files.

    The same files make the same archive, byte for byte, so an upload that was interrupted goes on. Links are
    left out. Raises `Misconfigured` if a file cannot be read, if there is none, or if there is no room.
    """
    if not path.is_dir():
        yield path
        return
    with TemporaryDirectory(prefix="interlink-") as temporary:
        archive = Path(temporary) / f"{path.resolve().name or 'export'}.zip"
        try:
            _pack(path, archive)
        except OSError as error:
            raise Misconfigured(
                f"{path} cannot be packed as a ZIP archive ({error}): make its files readable, or set "
                "TMPDIR to a folder with more room"
            ) from None
        yield archive


def _pack(folder: Path, archive: Path) -> None:
    names = sorted(_files(folder))
    if not names:
        raise Misconfigured(f"{folder} has no files: name the folder that the export was written to")
    if len(names) > _MAX_FILES:
        raise Misconfigured(f"{folder} has more than {_MAX_FILES:,} files: name the folder of one export")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as out:
        for name in names:
            entry = zipfile.ZipInfo(name, _MIN_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with (folder / name).open("rb") as source, out.open(entry, "w", force_zip64=True) as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)


def _files(folder: Path) -> Iterator[str]:
    """Yield the regular files of a folder and of those in it, by their paths with slashes."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()
