"""Serve the stored files of imports from the disk, by their signed addresses."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from services.importer.files.folder import FileFolder
from services.importer.files.records import FileRecord, ImportFiles
from shared.connections.files.addresses import FileRef
from shared.connections.files.failure import FileFailed
from shared.contracts.errors import RetryLater
from shared.contracts.routes import MAX_FILE_BYTES
from shared.runtime.egress.exchange import ExchangeFailed
from shared.runtime.egress.progress import run_to_end

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK_BYTES: Final = 256 * 1024
_RETRY_AFTER_S: Final = 30.0
_GONE: Final = "no such file: its import was undone, or its time is over"
_NOT_YET: Final = "the file is not stored yet: its import has not come to it, or was ended before"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file, or a range of it, as a response has it."""

    file: BinaryIO
    sha256: str
    size: int
    start: int
    end: int
    status: int

    @property
    def content_length(self) -> int:
        """The number of bytes of the range."""
        return self.end - self.start

    def header(self, name: str) -> str:
        """Return a header of the response; '' for another one."""
        match name:
            case "ETag":
                return _tag(self.sha256)
            case "Accept-Ranges":
                return "bytes"
            case "Content-Range":
                return f"bytes {self.start}-{self.end - 1}/{self.size}"
        return ""

    async def relay(self, write: Callable[[bytes], Awaitable[None]], max_bytes: int) -> None:
        """Call `write` with the bytes. Raises `ExchangeFailed` if the disk does not give them."""
        left = min(self.content_length, max_bytes)
        try:
            await run_to_end(self.file.seek, self.start)
            while left:
                chunk = await run_to_end(self.file.read, min(left, _CHUNK_BYTES))
                if not chunk:
                    raise ExchangeFailed("closed_mid_response", "the file on the disk was cut off")
                left -= len(chunk)
                await write(chunk)
        except OSError as error:
            raise ExchangeFailed("connection", f"the disk does not give the file: {error}") from None


class ImportedFiles:
    """The source of the files of imports (`shared.connections.files.server.FileSource`)."""

    def __init__(self, files: ImportFiles, folder: FileFolder) -> None:
        self._files = files
        self._folder = folder

    def max_bytes(self, _provider: str) -> int:
        """Return how many bytes a file may have: any that was stored."""
        return MAX_FILE_BYTES

    @asynccontextmanager
    async def opened(
        self, ref: FileRef, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[StoredFile]:
        """Return the context of a file, or of the range in `headers`.

        Raises `FileFailed` with the reason for which there are no bytes, `RetryLater` if another process has
        the folder, and `DatabaseUnavailable`.
        """
        record = await self._files.find(ref.file.id)
        if record is None or record.is_deleted:
            raise FileFailed(404, _GONE, "file_not_found")
        if record.state == "waiting":
            raise FileFailed(404, _NOT_YET, "not_stored_yet", retry_after_s=_RETRY_AFTER_S)
        if record.state != "stored":
            raise FileFailed(404, record.detail or _GONE, "file_not_found")
        if record.folder != self._folder.id:
            raise RetryLater("this process does not have the folder of the file: another one has")
        path = self._folder.path_of(record.import_id, record.attachment_id)
        try:
            file = await run_to_end(path.open, "rb")
        except FileNotFoundError:
            raise FileFailed(404, _GONE, "file_not_found") from None
        try:
            yield _range(file, record, headers or {})
        finally:
            await run_to_end(file.close)


def _range(file: BinaryIO, record: FileRecord, headers: Mapping[str, str]) -> StoredFile:
    """Return what a range of the request stands for. Raises `FileFailed` if the file does not have it."""
    size = record.stored_bytes
    wanted = _RANGE.fullmatch(headers.get("Range", ""))
    if wanted is None or headers.get("If-Range", _tag(record.sha256)) != _tag(record.sha256):
        return StoredFile(file, record.sha256, size, 0, size, 200)
    first, last = wanted[1], wanted[2]
    if first:
        start, end = int(first), min(size, int(last) + 1) if last else size
    else:  # the last bytes
        start, end = max(0, size - int(last or 0)), size
    if start >= end:
        text = "the file does not have the requested range"
        raise FileFailed(416, text, "damaged", headers={"Content-Range": f"bytes */{size}"})
    return StoredFile(file, record.sha256, size, start, end, 206)


def _tag(sha256: str) -> str:
    return f'"{sha256}"'
