"""Write how far an import is. Every write is fenced: a process that was replaced, or told to stop, ends."""

from collections.abc import Mapping
from typing import Any, Final

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports

STALLED_S: Final = 30.0
"""After so many seconds without a confirmation, people see what an import waits for."""
STALLED: Final = (
    "the chat to confirm the batch {batch_id} (history.stored): see its log. To publish the batch again, "
    "pause and resume"
)


class Stopped(Exception):
    """The import was paused or cancelled, or another process has it."""


class Progress:
    """The progress of one import in this process."""

    def __init__(self, imports: Imports, job: ImportJob) -> None:
        self._imports = imports
        self._job = job

    async def write(
        self,
        changes: Mapping[str, Any],
        increments: Mapping[str, int] | None = None,
        *,
        counts: Mapping[str, Any] | None = None,
    ) -> None:
        """Change fields of the import; raise numbers, and set counts, by their dotted stored names.

        What was done before the import was stopped is still written. Raises `Stopped`.
        """
        fields = {"waiting_for": None, **changes}
        if not await self._imports.record(self._job, fields, increments or {}, counts or {}):
            raise Stopped

    async def check_turn(self) -> None:
        """Raise `Stopped` if the import was stopped, or another process has it."""
        if not await self._imports.is_current(self._job):
            raise Stopped

    async def has_late_confirmations(self) -> bool:
        """Return whether the chat has confirmed a batch that was not waited for."""
        return (await self._imports.find(self._job.workspace, self._job.id)).late_batches > 0

    async def show_wait(self, batch_id: str, waited_s: float) -> None:
        """Show for which batch the import waits, if it has waited for long. Raises `Stopped`."""
        if waited_s > STALLED_S:
            await self.check_turn()  # one that is paused waits for nothing
            await self.write({"waiting_for": STALLED.format(batch_id=batch_id)})
