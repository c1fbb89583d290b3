"""The step of an import, by its stage. One step does a whole stage; it writes its progress meanwhile."""

from services.importer.jobs.end_steps import UndoStep, VerifyStep
from services.importer.jobs.files_step import FilesStep
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_step import RunStep
from shared.contracts.errors import RetryLater
from shared.runtime.jobs import StepResult


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
