"""The readers of all kinds of exports, and the choice among them by what an archive contains."""

import zipfile
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from typing import BinaryIO, Final

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ArchiveLimits, ZipArchive
from shared.manifests.history_types import Archive, Contents, ReadsArchive, Unreadable

_PACKAGE: Final = "shared.providers"
_MAX_NAMES: Final = 5


def archive_readers() -> Sequence[ReadsArchive]:
    """Return the reader of each provider's `history.py` that reads archives, by the names of the folders."""
    folders = sorted(
        entry.name for entry in files(_PACKAGE).iterdir() if entry.joinpath("history.py").is_file()
    )
    modules = [import_module(f"{_PACKAGE}.{name}.history") for name in folders]
    return [module.ArchiveReader() for module in modules if hasattr(module, "ArchiveReader")]


def open_archive(file: BinaryIO, name: str, limits: ArchiveLimits) -> Archive:
    """Open an uploaded file: a ZIP archive by its beginning, else a single file. Raises `Unreadable`."""
    beginning = file.read(4)
    file.seek(0)
    if beginning in {b"PK\x03\x04", b"PK\x05\x06"} or (beginning[:2] == b"MZ" and zipfile.is_zipfile(file)):
        return ZipArchive(file, limits)
    return FileArchive(file, name)


def recognized(archive: Archive, readers: Sequence[ReadsArchive]) -> tuple[ReadsArchive, Contents]:
    """Return the reader of an archive, and what it has. Raises `Unreadable` if no reader knows it."""
    for reader in readers:
        contents = reader.contents(archive)
        if contents is not None:
            return reader, contents
    names = ", ".join(repr(entry.name[:80]) for entry in archive.entries()[:_MAX_NAMES])
    known = ", ".join(reader.KIND for reader in readers)
    raise Unreadable(f"no known export: it has {names or 'no file'}. Upload one of these: {known}")
