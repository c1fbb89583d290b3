"""Read an untrusted ZIP archive: its directory is checked before an entry is decompressed."""

import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, Final, cast

from services.importer.archive.end_record import MIN_ENTRY, count_entries, read_directory
from shared.manifests.history_types import Entry, Unreadable
from shared.richtext.build import clean_line

_ENCRYPTED: Final = 0x1
_UTF_8: Final = 0x800
_MAX_DIRECTORY_PER_ENTRY: Final = 1024
"""Maximum average size of a directory entry in bytes. Real names and extra fields are far shorter."""
_MAX_UNCHECKED_RATIO_BYTES: Final = 1024 * 1024
"""Maximum size in bytes of a file without a limit of its compression ratio."""
_LOCAL_HEADER: Final = 30
_DAMAGE_ERRORS: Final = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError),
    UnicodeDecodeError,
)
"""The exceptions that `zipfile` raises for damage, and for unsupported compression methods."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits of an archive: entries, size of all files in bytes, and compression ratio of a file."""

    entries: int = 500_000
    total_bytes: int = 200 * 1024**3
    ratio: int = 200


class ZipArchive:
    """The files of a ZIP archive, by their names as decoded by `_decoded_name`."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits = ArchiveLimits()) -> None:
        """Open the archive and check its directory. Raises `Unreadable`, with the first refused entry."""
        directory = read_directory(file)
        entries = directory.entries
        if directory.size > limits.entries * MIN_ENTRY:  # it may have more than it says
            entries = max(entries, count_entries(file, directory, limits.entries))
        if entries > limits.entries:
            raise Unreadable(
                f"the ZIP archive has {entries:,} files, and at most {limits.entries:,} are read: "
                "export a shorter time, or raise INTERLINK_IMPORT_MAX_ENTRIES"
            )
        if directory.size > (limits.entries + 1) * _MAX_DIRECTORY_PER_ENTRY:
            raise Unreadable("the directory of the ZIP archive is too large: export it again")
        file.seek(0)
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGE_ERRORS as error:
            raise Unreadable(f"the ZIP archive is damaged ({_short(error)}): export it again") from None
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        _check(infos, limits, self._zip.start_dir)
        self._by_name = {_decoded_name(info): info for info in infos}
        if len(self._by_name) != len(infos):
            name = Counter(_decoded_name(info) for info in infos).most_common(1)[0][0]
            raise Unreadable(f"the ZIP archive has two files named {name[:200]!r}: export it again")

    def entries(self) -> Sequence[Entry]:
        """Return all files, in the order of the directory."""
        return [Entry(name, info.file_size) for name, info in self._by_name.items()]

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file. Raises `Unreadable` if it is missing or damaged, also while the context is open."""
        info = self._by_name.get(name)
        if info is None:
            raise Unreadable(f"the ZIP archive has no file {name[:200]!r}: export it again")
        try:
            with self._opened(info) as file:
                yield cast("BinaryIO", file)
        except _DAMAGE_ERRORS as error:
            raise Unreadable(f"{name[:200]} is damaged ({_short(error)}): export it again") from None

    def _opened(self, info: zipfile.ZipInfo) -> IO[bytes]:
        try:
            return self._zip.open(info)
        except UnicodeError:  # of the name that stands before the file's data
            raise zipfile.BadZipFile("Bad file name") from None


def _short(error: Exception) -> str:
    """Return the text of an error: `zipfile` puts whole parts of a damaged archive there."""
    return clean_line(str(error))[:200]


def _check(infos: Sequence[zipfile.ZipInfo], limits: ArchiveLimits, directory_at: int) -> None:
    """Check the entries against attacks: size, ratio, paths, links and overlaps. Raises `Unreadable`."""
    if sum(info.file_size for info in infos) > limits.total_bytes:
        raise Unreadable(
            f"the files of the ZIP archive have more than {limits.total_bytes // 1024**3} GB: export a "
            "shorter time, or raise INTERLINK_IMPORT_MAX_BYTES"
        )
    for info in infos:
        if problem := _problem(info, limits):
            raise Unreadable(f"the ZIP archive has a file that is refused: {info.filename[:200]!r} {problem}")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise Unreadable(
                f"files of the ZIP archive lie on each other, at {info.filename[:200]!r}: export it again"
            )
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    if end > directory_at:
        raise Unreadable("files of the ZIP archive lie on its directory: export it again")


def _problem(info: zipfile.ZipInfo, limits: ArchiveLimits) -> str:
    """Return why an entry is refused, and the fix; '' for a valid entry."""
    name = info.filename
    if not name:
        return "has no name: export it again"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted: export it without a password"
    if name.startswith(("/", "\\")) or ":" in name.split("/", 1)[0][:3] or "\\" in name:
        return "has an absolute path or a Windows path: pack the folder again"
    if ".." in name.split("/"):
        return "has a path that leads out of the archive: pack the folder again"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link: pack the files themselves"
    if info.file_size > max(_MAX_UNCHECKED_RATIO_BYTES, info.compress_size * limits.ratio):
        return f"grows more than {limits.ratio} times when it is unpacked: export it again"
    return ""


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry. UTF-8 without its flag, which `zipfile` reads as cp437, is decoded."""
    if info.flag_bits & _UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
