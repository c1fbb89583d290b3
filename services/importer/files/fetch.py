"""Store the files of one import on the disk: from its archive, or from their provider.

Others chose what a file is. So it is bounded, and only this file fails.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.importer.files.folder import FileFolder
from services.importer.files.records import FileRecord
from services.importer.reading.confined_process import ProcessKilled
from services.importer.reading.reader_process import ReaderProcess
from shared.connections.files.addresses import FileAddresses
from shared.connections.files.disk_file import DiskFile
from shared.connections.files.failure import FileFailed
from shared.connections.files.names import changes_type, media_type, shown_size
from shared.connections.files.source import ProviderFiles
from shared.contracts.errors import (
    Conflict,
    DatabaseUnavailable,
    InterlinkError,
    Misconfigured,
    NotFound,
    RetryLater,
)
from shared.manifests.history_types import Unreadable
from shared.runtime.egress.exchange import ExchangeFailed
from shared.runtime.egress.progress import run_to_end

_MAX_READER_DEATHS: Final = 10
"""A file that ends the reader process costs only itself, and a new process."""
_BAD_REQUEST: Final = 502


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is on the disk."""

    size: int
    sha256: str


class FileFetcher:
    """Stores files of one import. Use it as an async context manager, by several tasks at a time."""

    def __init__(
        self,
        folder: FileFolder,
        provider: ProviderFiles,
        addresses: FileAddresses,
        new_reader: Callable[[], ReaderProcess],
    ) -> None:
        """Set where files go and come from. `new_reader` raises `Unreadable` without the upload."""
        self._folder = folder
        self._provider = provider
        self._addresses = addresses
        self._new_reader = new_reader
        self._reader: ReaderProcess | None = None
        self._deaths = 0
        self._lock = asyncio.Lock()
        """The reader process answers one command after another."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_reader()

    async def fetch(self, record: FileRecord, max_bytes: int) -> Stored:
        """Store a file of at most `max_bytes` bytes. Raises `FileFailed` and `DatabaseUnavailable`."""
        import_id, attachment_id = record.import_id, record.attachment_id
        try:
            part = await run_to_end(self._folder.new_part, import_id, attachment_id)
            try:
                stored = await self._write(part, record, max_bytes)
                await run_to_end(self._folder.complete, part, import_id, attachment_id)
            finally:
                await run_to_end(part.unlink, missing_ok=True)
        except OSError as error:
            text = f"the hub's disk does not take the file: {error.strerror or error}"
            raise FileFailed(507, text, "disk_full", retryable=True) from None
        return stored

    async def _write(self, part: Path, record: FileRecord, max_bytes: int) -> Stored:
        async with DiskFile(part) as file:
            if record.entry:
                await self._from_archive(record, file, max_bytes)
            else:
                await self._from_provider(record, file, max_bytes)
            if record.size and not file.size:
                raise FileFailed(_BAD_REQUEST, "the file is empty", "damaged")
            return Stored(file.size, await file.finish(durable=True))

    async def _from_archive(self, record: FileRecord, file: DiskFile, max_bytes: int) -> None:
        async with self._lock:
            is_in_step = False
            try:
                reader = await self._open_reader()
                async for block in reader.file(record.entry, max_bytes):
                    await file.write(block)
                    if file.size > max_bytes:
                        raise _too_large(record, max_bytes)
                is_in_step = True
            except ProcessKilled as error:
                raise FileFailed(_BAD_REQUEST, str(error), "not_reached", retryable=True) from None
            except Unreadable as error:
                if self._reader is None:  # it was not started
                    raise FileFailed(_BAD_REQUEST, str(error), "upload_deleted") from None
                is_in_step = self._reader.is_alive
                raise FileFailed(_BAD_REQUEST, str(error), "damaged") from None
            finally:
                if not is_in_step and self._reader is not None:
                    self._deaths += 1
                    await self._reader.kill()
                    await self._close_reader()

    async def _from_provider(self, record: FileRecord, file: DiskFile, max_bytes: int) -> None:
        ref = self._addresses.open(record.source)
        if ref is None:
            text = "the address of the file cannot be read: the hub's key was replaced"
            raise FileFailed(_BAD_REQUEST, text, "expired")
        try:
            async with self._provider.opened(ref) as response:
                if (response.content_length or 0) > max_bytes:
                    raise _too_large(record, max_bytes)
                _check_type(ref.file.content_type, response.header("Content-Type"))
                await response.relay(file.write, max_bytes)
        except (FileFailed, DatabaseUnavailable, OSError):
            raise
        except InterlinkError as error:
            raise _of_error(error, record, max_bytes) from None

    async def _open_reader(self) -> ReaderProcess:
        if self._deaths >= _MAX_READER_DEATHS:
            raise Unreadable("too many files of the archive cannot be read: export it again")
        if self._reader is None:
            reader = self._new_reader()
            await reader.__aenter__()
            self._reader = reader
        return self._reader

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__(None, None, None)


def _check_type(announced: str | None, received: str) -> None:
    if changes_type(announced, received):
        text = f"it is {media_type(received)} instead of {media_type(announced)}"
        raise FileFailed(_BAD_REQUEST, text, "changed_type")


def _too_large(record: FileRecord, max_bytes: int) -> FileFailed:
    text = f"it is larger than {shown_size(max_bytes)}"
    if record.size == max_bytes:
        text = f"it is larger than was announced ({shown_size(max_bytes)})"
    return FileFailed(_BAD_REQUEST, text, "too_large")


def _of_error(error: InterlinkError, record: FileRecord, max_bytes: int) -> FileFailed:
    """Return the failure of a file that the provider did not give."""
    match error:
        case ExchangeFailed(failure="too_large"):
            return _too_large(record, max_bytes)
        case ExchangeFailed():
            return FileFailed(_BAD_REQUEST, str(error), "not_reached", retryable=True)
        case NotFound() | Conflict():
            return FileFailed(_BAD_REQUEST, error.detail, "account_not_connected")
        case RetryLater() | Misconfigured():
            return FileFailed(_BAD_REQUEST, str(error), "provider_unavailable", retryable=True)
    return FileFailed(_BAD_REQUEST, str(error), "not_reached")
