"""The step of an import, by its stage. One step does a whole stage; it writes its progress meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from services.importer.jobs.files_step import FilesStep
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_step import RunStep
from services.importer.jobs.undo_step import UndoStep
from services.importer.jobs.verify_step import VerifyStep
from services.importer.reading.confined_process import ProcessKilled
from shared.contracts.errors import DatabaseUnavailable, RetryLater
from shared.runtime.jobs import JobFailed, StepResult

_MAX_KILLS: Final = 10
"""A reader that is killed so often without any progress is killed because of the export."""

_LOOK_INTERVAL_S: Final = 1.0
"""An import that is paused or cancelled stops after this time, whatever it waits for."""


class ImportSteps:
    """Does what is due of an import."""

    def __init__(
        self,
        imports: Imports,
        read: ReadStep,
        run: RunStep,
        files: FilesStep,
        verify: VerifyStep,
        undo: UndoStep,
    ) -> None:
        self._imports = imports
        self._read = read
        self._run = run
        self._files = files
        self._verify = verify
        self._undo = undo

    async def run(self, job: ImportJob) -> StepResult:
        """Do the stage of an import. Raises `RetryLater` while it is not its turn, and `JobFailed`."""
        if not await self._imports.may_run(job):
            raise RetryLater("other imports of the workspace or the account: it goes on when one has ended")
        try:
            return await self._work(job)
        except RetryLater:
            raise
        except Exception:
            # An import that is repeated every day goes on tomorrow, whatever has ended this one.
            await self._repeat(job)
            raise

    async def _work(self, job: ImportJob) -> StepResult:
        try:
            return await self._run_stage(job)
        except ProcessKilled:
            return await self._read_again(job)

    async def _repeat(self, job: ImportJob) -> None:
        """Create the next import of an account that is imported every day, if this one is not a trial."""
        is_started = job.starts_itself or job.stage != "reading"
        if job.repeat is not None and is_started and not job.is_dry_run:
            await self._imports.create_repetition(job)

    async def _run_stage(self, job: ImportJob) -> StepResult:
        match job.stage:
            case "reading":
                return await self._until_stopped(job, self._read.run(job))
            case "running" if job.step == "files":
                return await self._until_stopped(job, self._files.run(job))
            case "running":
                return await self._until_stopped(job, self._run.run(job))
            case "verifying":
                await self._repeat(job)
                return await self._until_stopped(job, self._verify.run(job))
            case "undoing":
                return await self._until_stopped(job, self._undo.run(job))
            case "ready" | "completed" | "undone":
                return StepResult(waits=True)

    async def _until_stopped(self, job: ImportJob, work: Coroutine[Any, Any, StepResult]) -> StepResult:
        """Do work until it is done, or until the import is paused, cancelled or taken over."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_INTERVAL_S))[0]:
                try:
                    is_current = await self._imports.is_current(job)
                except DatabaseUnavailable:
                    continue
                if not is_current and not task.done():
                    return StepResult()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read_again(self, job: ImportJob) -> StepResult:
        """Have the step repeated, after its reader process was killed. Raises `RetryLater` or `JobFailed`."""
        current = await self._imports.find(job.workspace, job.id)
        is_further = (current.position, current.offset) != (job.position, job.offset)
        kills = 1 if is_further else current.reader_kills + 1
        if kills >= _MAX_KILLS:
            raise JobFailed(
                "its reader process was killed again and again: the system lacks memory, or the export needs "
                "too much of it. Export a shorter time"
            )
        try:
            await Progress(self._imports, job).write({"reader_kills": kills})
        except Stopped:
            return StepResult()
        raise RetryLater("its reader process, which was killed: it is started again")
