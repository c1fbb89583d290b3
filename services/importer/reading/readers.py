"""Find the reader of an export among those of all providers, by the contents of its archive."""

import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.resources import files
from typing import BinaryIO, Final

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ArchiveLimits, ZipArchive
from services.importer.reading.detected import detected
from shared.manifests.history_types import Archive, Contents, ReadsArchive, Unreadable

_PACKAGE: Final = "shared.providers"
_ANY_SENDER: Final = "generic"
_MAX_CHECKED: Final = 50
_MAX_CHECKED_BYTES: Final = 64 * 1024**2
_BLOCK: Final = 64 * 1024


def archive_readers() -> Sequence[ReadsArchive]:
    """Return the `ArchiveReader` of each provider's `history.py` that has one, ordered by provider id.

    The reader of any lines of JSON and tables is the last one: exports of providers are such files, too.
    """
    names = (entry.name for entry in files(_PACKAGE).iterdir() if entry.joinpath("history.py").is_file())
    folders = sorted(names, key=lambda name: (name == _ANY_SENDER, name))
    modules = [import_module(f"{_PACKAGE}.{name}.history") for name in folders]
    return [module.ArchiveReader() for module in modules if hasattr(module, "ArchiveReader")]


def open_archive(file: BinaryIO, name: str, limits: ArchiveLimits) -> Archive:
    """Open an uploaded file: as a ZIP archive by its first bytes, or as one file. Raises `Unreadable`."""
    beginning = file.read(4)
    file.seek(0)
    if beginning in {b"PK\x03\x04", b"PK\x05\x06"} or (beginning[:2] == b"MZ" and zipfile.is_zipfile(file)):
        return ZipArchive(file, limits)
    return FileArchive(file, name)


def recognized(archive: Archive, readers: Sequence[ReadsArchive]) -> tuple[ReadsArchive, Contents]:
    """Return the reader that recognizes an archive, and the contents. Raises `Unreadable` if none does."""
    damaged: Unreadable | None = None
    for reader in readers:
        if damaged is not None and reader is readers[-1]:
            raise damaged  # a damaged export of a provider is no table
        try:
            contents = reader.contents(archive)
        except Unreadable as error:
            # It may be a file that only this reader looks at: the reader of the export counts it as a loss.
            damaged = damaged or error
            continue
        if contents is not None:
            return reader, contents
    if damaged is not None:
        raise damaged
    if damage := _damage(archive):
        raise Unreadable(damage)
    known = ", ".join(reader.KIND for reader in readers)
    raise Unreadable(f"no known export: it is {detected(archive)}. Upload one of these: {known}")


def _damage(archive: Archive) -> str | None:
    """Return why one of the first files of an archive cannot be read; None if all of them can.

    At most `_MAX_CHECKED_BYTES` are read, unpacked: what is refused may have gigabytes.
    """
    left = _MAX_CHECKED_BYTES
    for entry in archive.entries()[:_MAX_CHECKED]:
        try:
            with archive.open(entry.name) as file:
                while left > 0 and (block := file.read(_BLOCK)):
                    left -= len(block)
        except Unreadable as error:
            return str(error)
    return None


def described(archive: Archive, reader: ReadsArchive, answers: Mapping[str, str]) -> Contents:
    """Return what an archive has by a person's answers. Raises `Unreadable`, also for an unknown choice."""
    contents = reader.contents(archive, answers)
    if contents is None:
        raise Unreadable("it is no export of this kind any more: upload it again")
    if unknown := sorted(answers.keys() - {item.id for item in contents.choices}):
        raise Unreadable(f"the export has no choice {unknown[0][:80]!r}: look at its contents again")
    return contents
