"""The step of an import, by its stage. One step does a whole stage; it writes its progress meanwhile."""

from typing import Final

from services.importer.jobs.end_steps import UndoStep, VerifyStep
from services.importer.jobs.files_step import FilesStep
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_step import RunStep
from services.importer.reading.confined_process import ProcessKilled
from shared.contracts.errors import RetryLater
from shared.runtime.jobs import JobFailed, StepResult

_MAX_KILLS: Final = 10
"""A reader that is killed so often without any progress is killed because of the export."""


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
            return await self._run_stage(job)
        except ProcessKilled:
            return await self._read_again(job)

    async def _run_stage(self, job: ImportJob) -> StepResult:
        match job.stage:
            case "reading":
                return await self._read.run(job)
            case "running" if job.step == "files":
                return await self._files.run(job)
            case "running":
                return await self._run.run(job)
            case "verifying":
                if job.repeat is not None:
                    await self._imports.create_repetition(job)
                return await self._verify.run(job)
            case "undoing":
                return await self._undo.run(job)
            case "ready" | "completed" | "undone":
                return StepResult(waits=True)

    async def _read_again(self, job: ImportJob) -> StepResult:
        """Have the step repeated, after its reader process was killed. Raises `RetryLater` or `JobFailed`."""
        current = await self._imports.find(job.workspace, job.id)
        kills = current.reader_kills + 1 if current.position == job.position else 1
        if kills >= _MAX_KILLS:
            raise JobFailed(
                "its reader process was killed again and again: the system lacks memory, or the export needs "
                "too much of it. Export a shorter time"
            )
        try:
            await Progress(self._imports.jobs, job).write({"reader_kills": kills})
        except Stopped:
            return StepResult()
        raise RetryLater("its reader process, which was killed: it is started again")
