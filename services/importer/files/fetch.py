"""Store the files of one import on the disk: from its archive, or from their provider.

Others chose what a file is. So it is bounded, and only this file fails. One that breaks off at its provider
goes on where it ended, also in another process, if the provider names its version and sends ranges.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from multidict import CIMultiDict

from services.importer.files.folder import FileFolder
from services.importer.files.records import FileRecord
from services.importer.reading.confined_process import ProcessKilled
from services.importer.reading.reader_process import ReaderProcess
from shared.connections.channel_calls import BeforeStep
from shared.connections.files.addresses import FileAddresses, FileRef
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
from shared.runtime.egress.exchange import ExchangeFailed, StreamedResponse
from shared.runtime.egress.part_file import DiskFailed, PartFile, PartInUse, validator_of
from shared.runtime.egress.progress import run_to_end

_MAX_READER_DEATHS: Final = 10
"""A file that ends the reader process costs only itself, and a new process."""
_BAD_REQUEST: Final = 502
_RANGE_NOT_SATISFIABLE: Final = 416
_WRITE_BYTES: Final = 1024 * 1024


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
        before: BeforeStep | None,
    ) -> None:
        """Set where files go and come from.

        `new_reader` raises `Unreadable` without the upload. `before` is awaited before each call of the
        provider's API, by which some addresses are looked up.
        """
        self._folder = folder
        self._provider = provider
        self._addresses = addresses
        self._new_reader = new_reader
        self._before = before
        self._reader: ReaderProcess | None = None
        self._deaths = 0
        self._partial: dict[str, int] = {}
        """Bytes of files that broke off, by the ids of their records."""
        self._lock = asyncio.Lock()
        """The reader process answers one command after another."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_reader()

    async def fetch(self, record: FileRecord, max_bytes: int) -> Stored:
        """Store a file of at most `max_bytes` bytes. Raises `FileFailed` and `DatabaseUnavailable`.

        What arrived before a failure is left for the next call, if the provider can send the rest.
        """
        path = self._folder.path_of(record.import_id, record.attachment_id)
        part = PartFile(path, record.id)
        try:
            await run_to_end(path.parent.mkdir, parents=True, exist_ok=True, mode=0o700)
            await run_to_end(part.open)
            try:
                return await self._store(part, record, max_bytes)
            except FileFailed as error:
                if not error.retryable:
                    await run_to_end(part.discard)
                raise
            except DiskFailed:
                with suppress(DiskFailed):  # a full disk: make room
                    await run_to_end(part.discard)
                raise
            finally:
                await run_to_end(part.close)
                self._partial.pop(record.id, None)
                if part.state is not None:
                    self._partial[record.id] = part.size
        except PartInUse:
            text = "another process still writes the file"
            raise FileFailed(_BAD_REQUEST, text, "not_reached", retryable=True) from None
        except (DiskFailed, OSError) as error:
            text = f"the hub's disk does not take the file: {getattr(error, 'strerror', None) or error}"
            raise FileFailed(507, text, "disk_full", retryable=True) from None

    async def discard(self, record: FileRecord) -> None:
        """Delete what there is of a file that is given up."""
        part = PartFile(self._folder.path_of(record.import_id, record.attachment_id), record.id)
        with suppress(DiskFailed):  # a sweep deletes it later
            await run_to_end(part.discard)
        self._partial.pop(record.id, None)

    def partial_bytes(self, record: FileRecord | None = None) -> int:
        """Return how many bytes there are of an incomplete file, or of all."""
        return sum(self._partial.values()) if record is None else self._partial.get(record.id, 0)

    async def _store(self, part: PartFile, record: FileRecord, max_bytes: int) -> Stored:
        if record.entry:
            await run_to_end(part.start, validator="", content_type="", total=None)
            await self._from_archive(record, _Body(part), max_bytes)
        else:
            await self._from_provider(record, part, max_bytes)
        if record.size and not part.size:
            raise FileFailed(_BAD_REQUEST, "the file is empty", "damaged")
        stored = Stored(part.size, part.sha256)
        await run_to_end(part.finish)
        return stored

    async def _from_archive(self, record: FileRecord, body: "_Body", max_bytes: int) -> None:
        async with self._lock:
            is_in_step = False
            try:
                reader = await self._open_reader()
                async for block in reader.file(record.entry, max_bytes):
                    await body.write(block)
                    if body.size > max_bytes:
                        raise _too_large(record, max_bytes)
                await body.flush()
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

    async def _from_provider(self, record: FileRecord, part: PartFile, max_bytes: int) -> None:
        ref = self._addresses.open(record.source)
        if ref is None:
            text = "the address of the file cannot be read: the hub's key was replaced"
            raise FileFailed(_BAD_REQUEST, text, "expired")
        try:
            if part.state is not None and part.size and part.state.total <= max_bytes:
                if part.size == part.state.total:  # the process ended before it got its name
                    return
                if await self._receive(ref, record, part, max_bytes, part.range_headers):
                    return
            await self._receive(ref, record, part, max_bytes, {})
        except (FileFailed, DatabaseUnavailable, DiskFailed, OSError):
            raise
        except InterlinkError as error:
            raise _of_error(error, record, max_bytes) from None

    async def _receive(
        self,
        ref: FileRef,
        record: FileRecord,
        part: PartFile,
        max_bytes: int,
        range_headers: Mapping[str, str],
    ) -> bool:
        """Write the file, or the rest of it. Return False if it has to be fetched from the first byte."""
        try:
            async with self._provider.opened(ref, range_headers, before=self._before) as response:
                _check_type(ref.file.content_type, response.header("Content-Type"))
                headers = CIMultiDict(
                    (name.decode(), value.decode("latin-1")) for name, value in response.headers
                )
                if response.status == 206:
                    if not range_headers or not part.continues(headers):
                        return False
                else:  # the whole file: a first request, a changed file, or a server without ranges
                    total = response.content_length
                    if (total or 0) > max_bytes:
                        raise _too_large(record, max_bytes)
                    content_type, validator = media_type(headers.get("Content-Type")), validator_of(headers)
                    await run_to_end(part.start, validator=validator, content_type=content_type, total=total)
                await _append(response, part, max_bytes)
        except FileFailed as error:
            if error.status == _RANGE_NOT_SATISFIABLE and range_headers:
                return False
            raise
        if part.state is not None and part.size < part.state.total:
            raise ExchangeFailed("closed_mid_response", "the body is shorter than the server said")
        return True

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


class _Body:
    """The bytes of a file on their way to its part, some of which are written at a time."""

    def __init__(self, part: PartFile) -> None:
        self._part = part
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """The number of bytes so far."""
        return self._part.size + len(self._buffer)

    async def write(self, chunk: bytes) -> None:
        """Append bytes. They are in the file after `flush`. Raises `DiskFailed`."""
        self._buffer += chunk
        if len(self._buffer) >= _WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is left. Raises `DiskFailed`."""
        full, self._buffer = self._buffer, bytearray()
        if full:
            await run_to_end(self._part.append, full)


async def _append(response: StreamedResponse, part: PartFile, max_bytes: int) -> None:
    """Write the body of a response behind what the part has; also before a failure, for the next request."""
    body = _Body(part)
    try:
        await response.relay(body.write, max_bytes - part.size)
    finally:
        await body.flush()


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
