"""Write how far an import is. Every write is fenced: a process that was replaced, or told to stop, ends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.selection import DUPLICATE, FAILED, FOUND, IMPORTED, SELECTED, UnitResult
from shared.runtime.jobs import Jobs

_COUNTED: Final = (FOUND, SELECTED, IMPORTED, DUPLICATE, FAILED)


class Stopped(Exception):
    """The import was paused or cancelled, or another process has it."""


class Progress:
    """The progress of one import in this process."""

    def __init__(self, jobs: Jobs[ImportJob], job: ImportJob) -> None:
        self._jobs = jobs
        self._job = job

    async def write(self, changes: Mapping[str, Any], increments: Mapping[str, int] | None = None) -> None:
        """Change fields of the import, and raise counts by their dotted names. Raises `Stopped`."""
        update: dict[str, Any] = {"$set": ImportJob.stored_fields({"waiting_for": None, **changes})}
        if increments:
            update["$inc"] = dict(increments)
        if not await self._jobs.work.write(self._job, update):
            raise Stopped

    async def wait_for(self, reason: str) -> None:
        """Show why the import makes no progress. Raises `Stopped`."""
        await self.write({"waiting_for": reason})


def increments_of(results: Sequence[UnitResult]) -> dict[str, int]:
    """Return by how much the counts of messages and files grow with these units."""
    totals: Counter[str] = Counter()
    for result in results:
        for day in result.days.values():
            for name in _COUNTED:
                totals[f"counts.messages.{name}"] += day[name]
        for reason, number in result.skipped.items():
            totals[f"counts.messages.skipped.{reason}"] += number
        for name, number in result.files.counts().items():
            totals[f"counts.files.{name}"] += number
    return {name: number for name, number in totals.items() if number}
