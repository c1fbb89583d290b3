"""The phase of files: four at a time, after the messages.

A process that takes over goes on with the files that are still waiting. What counts is stored with each file,
so nothing is counted twice.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from services.importer.accounts.account_calls import CallWaits
from services.importer.files.assembly import Files
from services.importer.files.fetch import FileFetcher, Stored
from services.importer.files.new_addresses import NewAddresses
from services.importer.files.records import FileRecord, FileSet, FileTotals
from services.importer.jobs.account_waits import AccountWaits, account_waits
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.plan import Plan
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.source import AccountSource
from services.importer.jobs.source_readers import SourceReaders
from services.importer.reading.reader_process import ReaderProcess
from shared.connections.files.failure import FileFailed
from shared.connections.files.names import shown_size
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_types import Unreadable
from shared.runtime.egress.progress import run_to_end
from shared.runtime.jobs import JobFailed, StepResult
from shared.runtime.retry import Backoff

_AT_A_TIME: Final = 4
_PAGE: Final = 100
_SETTLED_AT_ONCE: Final = 50
_SETTLE_INTERVAL_S: Final = 1.0
_MAX_ATTEMPTS: Final = 4
_BACKOFF: Final = Backoff(first_s=1.0, max_s=30.0)
_PROGRESS_BYTES: Final = 8 * 1024**2
"""An attempt that brings so many bytes more than those before it does not count."""
_MAX_LIMITED: Final = 20
"""Maximum number of responses 429 with `Retry-After` for one file."""
_MAX_PAUSE_S: Final = 60.0
"""For a longer pause, the step ends, and other imports have their turn meanwhile."""
_MIN_SHARED_BYTES: Final = 64 * 1024
"""Smaller files take about as much of the disk as the query for the same one costs."""
_DISK_RESERVE_BYTES: Final = 1024**3
"""Bytes of the disk that files leave free."""
_GRANT_BYTES: Final = 16 * 1024**2
"""Room that is taken for the next files: a small one does not need a write of its own."""
_MAX_DETAIL: Final = 500
_GONE: Final = "the provider gives no address of the file that works: it was deleted there"


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Limits in bytes: of one file, and of all files of a workspace's imports. `days` is their retention."""

    max_file_bytes: int
    bytes_per_workspace: int
    days: int

    def expiry_of(self, job: ImportJob) -> datetime:
        """Return when the files of an import are deleted, and their addresses end."""
        return job.created_at + timedelta(days=self.days)


class FilesStep:
    """Stores the files of imports."""

    def __init__(
        self,
        imports: Imports,
        readers: SourceReaders,
        files: Files,
        limits: FileLimits,
    ) -> None:
        self._imports = imports
        self._readers = readers
        self._files = files
        self._limits = limits

    async def run(self, job: ImportJob) -> StepResult:
        """Store all files of an import that wait. A file that fails, fails alone. Raises `RetryLater`."""

        def new_reader() -> ReaderProcess:
            try:
                return self._readers.upload(job)
            except JobFailed as error:
                raise Unreadable(str(error)) from None

        progress, files = Progress(self._imports, job), self._files
        try:
            expires_at = self._limits.expiry_of(job)
            await files.records.open_set(
                FileSet(id=job.id, workspace=job.workspace, folder=files.folder.id, expires_at=expires_at)
            )
            addresses = files.addresses.provider
            before = files.limit_lookups(job.summary.provider) if job.summary else None
            fetcher = FileFetcher(files.folder, files.provider, addresses, new_reader, before)
            refresher = await self._readers.address_refresher(job)
            new_addresses = NewAddresses(refresher, addresses) if refresher else None
            async with fetcher:
                await _Run(job, files, fetcher, new_addresses, self._limits, progress).run()
        except Stopped:
            return StepResult()
        except AccountWaits as waits:
            return waits.result()
        except ChannelFailure as failure:
            return account_waits(failure).result()
        return StepResult(changes={"stage": "verifying", "step": "verify"})


class _Run:
    """The phase of files of one import, by one process."""

    def __init__(
        self,
        job: ImportJob,
        files: Files,
        fetcher: FileFetcher,
        new_addresses: NewAddresses | None,
        limits: FileLimits,
        progress: Progress,
    ) -> None:
        self._job = job
        self._files = files.records
        self._folder = files.folder
        self._fetcher = fetcher
        self._new_addresses = new_addresses
        self._progress = progress
        self._quota = limits.bytes_per_workspace
        planned = Plan.model_validate(job.plan).files.max_bytes
        self._max_bytes = min(limits.max_file_bytes, planned or limits.max_file_bytes)
        self._next: deque[FileRecord] = deque()
        self._last: FileRecord | None = None
        self._reading = asyncio.Lock()
        self._totals = FileTotals()
        self._results: dict[str, Mapping[str, Any]] = {}
        self._settling = asyncio.Lock()
        self._reserved = 0
        self._granted = 0
        """Bytes that are stored as taken by this import."""
        self._reserving = asyncio.Lock()
        self._free_at = 0.0
        """The time (`monotonic`) from which the provider takes requests for files again."""

    async def run(self) -> None:
        """Store every file that waits. Raises `Stopped`, `AccountWaits` and `DatabaseUnavailable`."""
        self._totals = await self._files.totals(self._job.id)
        await self._files.set_partial(self._job.id, 0)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                workers = [group.create_task(self._work()) for _ in range(_AT_A_TIME)]
                await asyncio.wait(workers)
                watch.cancel()
            await self._settle()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            # What is on the disk counts, also if the import was stopped meanwhile.
            await self._files.settle(self._results)
            await self._files.release_bytes(self._job.id, self._totals.bytes, granted=self._granted)
            await self._files.set_partial(self._job.id, self._fetcher.partial_bytes())

    async def _watch(self) -> None:
        """Notice soon that the import was stopped, also while large files are on their way."""
        while True:
            await asyncio.sleep(_SETTLE_INTERVAL_S)
            await self._settle()

    async def _work(self) -> None:
        while (record := await self._take()) is not None:
            self._results[record.id] = await self._fetch(record)
            if len(self._results) >= _SETTLED_AT_ONCE:
                await self._settle()

    async def _take(self) -> FileRecord | None:
        async with self._reading:
            if not self._next:
                waiting = await self._files.waiting(self._job.id, self._last, _PAGE)
                if not waiting:
                    return None
                self._last = waiting[-1]
                self._next.extend(await self._refreshed(waiting))
            return self._next.popleft()

    async def _refreshed(
        self, records: Sequence[FileRecord], *, refused: bool = False
    ) -> Sequence[FileRecord]:
        """Return files with new addresses where theirs have expired. Raises `AccountWaits`."""
        if self._new_addresses is None:
            return records
        try:
            return await self._new_addresses.replace(records, refused=refused)
        except (CallWaits, ChannelFailure) as error:
            raise account_waits(error) from None

    async def _fetch(self, record: FileRecord) -> Mapping[str, Any]:
        """Store a file, and return what is changed of its record. Raises `AccountWaits`."""
        bound = min(self._max_bytes, record.size or self._max_bytes)
        if record.size is not None and record.size > self._max_bytes:
            text = f"it has {shown_size(record.size)}, and {shown_size(self._max_bytes)} are stored at most"
            return self._failed(FileFailed(502, text, "too_large"))
        try:
            await self._reserve(bound)
        except FileFailed as error:
            return self._failed(error)
        try:
            stored = await self._fetch_repeatedly(record, bound)
            self._totals.add("stored", None, stored.size)
        except FileFailed as error:
            await self._fetcher.discard(record)
            return self._failed(error)
        finally:
            self._reserved -= bound
        await self._share(record, stored)
        return {
            "state": "stored",
            "reason": None,
            "sha256": stored.sha256,
            "stored_bytes": stored.size,
            "folder": self._folder.id,
            "source": "",
        }

    async def _fetch_repeatedly(self, record: FileRecord, bound: int) -> Stored:
        """Store a file, in several attempts if it breaks off. Raises `FileFailed` and `AccountWaits`."""
        attempt = limited = received = 0
        is_refreshed = False
        while True:
            await self._wait_turn()
            try:
                return await self._fetcher.fetch(record, bound)
            except FileFailed as error:
                if error.reason == "account_not_connected" and isinstance(self._job.source, AccountSource):
                    raise AccountWaits(
                        0.0, f"{error.text}, then resume the import", for_person=True
                    ) from None
                if error.reason == "expired" and self._new_addresses is not None:
                    if is_refreshed:
                        raise FileFailed(404, _GONE, "file_not_found") from None
                    [record], is_refreshed = await self._refreshed([record], refused=True), True
                    continue
                if error.reason == "too_many_requests" and error.retry_after_s and limited < _MAX_LIMITED:
                    limited += 1
                    self._free_at = max(self._free_at, monotonic() + error.retry_after_s)
                    continue
                if (partial := self._fetcher.partial_bytes(record)) >= received + _PROGRESS_BYTES:
                    attempt, received = 0, partial  # it goes on
                attempt += 1
                if not error.retryable or attempt == _MAX_ATTEMPTS:
                    raise
                pause_s = error.retry_after_s or _BACKOFF.pause_s(attempt)
                await asyncio.sleep(min(pause_s, _MAX_PAUSE_S))

    async def _wait_turn(self) -> None:
        """Wait until the provider takes requests for files again. Raises `AccountWaits` for a long time."""
        while (pause_s := self._free_at - monotonic()) > 0:
            if pause_s > _MAX_PAUSE_S:
                raise AccountWaits(pause_s, "the provider allows no more files for now")
            await asyncio.sleep(pause_s)

    async def _share(self, record: FileRecord, stored: Stored) -> None:
        """Have the bytes once on the disk if an import of the workspace has stored the same ones."""
        if stored.size < _MIN_SHARED_BYTES:
            return
        same = await self._files.same_file(record.workspace, self._folder.id, stored.sha256)
        if same is not None and same.id != record.id:
            known = self._folder.path_of(same.import_id, same.attachment_id)
            path = self._folder.path_of(record.import_id, record.attachment_id)
            await run_to_end(self._folder.share, known, path)

    async def _reserve(self, size: int) -> None:
        """Reserve room for a file. Raises `FileFailed`."""
        async with self._reserving:
            if self._folder.free_bytes() < self._reserved + size + _DISK_RESERVE_BYTES:
                raise FileFailed(507, "the hub's disk has no room: ask the operator for more", "disk_full")
            needed = self._totals.bytes + self._reserved + size
            if needed > self._granted:
                await self._grant(needed)
            self._reserved += size

    async def _grant(self, needed: int) -> None:
        """Take room of the workspace's quota, if possible for more files. Raises `FileFailed`."""
        for wanted in (needed + _GRANT_BYTES, needed):
            # Stored before it is counted: of two imports at the same time, none exceeds the quota.
            await self._files.set_bytes(self._job.id, wanted)
            if await self._files.bytes_of(self._job.workspace) <= self._quota:
                self._granted = wanted
                return
        self._granted = self._totals.bytes + self._reserved
        await self._files.set_bytes(self._job.id, self._granted)
        text = (
            f"files of imports have {shown_size(self._quota)} in a workspace at most: undo an "
            "import, or have the operator raise INTERLINK_IMPORT_FILE_BYTES_PER_WORKSPACE"
        )
        raise FileFailed(507, text, "quota_exceeded")

    async def _settle(self) -> None:
        """Store results, then the counts, which are those of the stored results. Raises `Stopped`."""
        async with self._settling:
            results = dict(self._results)
            await self._files.settle(results)
            for file_id in results:
                del self._results[file_id]
            await self._progress.write({"counts": {**self._job.counts, "files": self._counts()}})

    def _counts(self) -> dict[str, Any]:
        """Return the counts of files: those of the messages, with the results of this phase."""
        totals = self._totals
        counted = {
            "imported": totals.stored,
            "bytes": totals.bytes,
            "failed": sum(totals.failures.values()),
            "failures": dict(totals.failures),
        }
        found: dict[str, Any] = self._job.counts.get("files", {})
        return found | {name: value for name, value in counted.items() if value}

    def _failed(self, error: FileFailed) -> Mapping[str, Any]:
        self._totals.add("failed", error.reason, 0)
        detail = error.text[:_MAX_DETAIL]
        return {"state": "failed", "reason": error.reason, "detail": detail, "source": ""}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that decides: that the import was stopped, or else the first one."""
    stopped, others = group.split(Stopped)
    if stopped is not None:
        return Stopped()
    assert others is not None  # noqa: S101 -- a group has at least one error
    first = others.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
