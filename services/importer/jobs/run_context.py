"""Hold what the phases of a run share: the job, its source, its stores and its outlet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.importer.files.records import ImportFiles
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.open_source import OpenSource
from services.importer.jobs.plan import Plan
from services.importer.jobs.progress import Progress
from services.importer.publish.confirmations import BatchRecord, Confirmations
from services.importer.publish.history_batches import Batch, BatchFactory
from services.importer.publish.outlet import TakesBatches
from services.importer.reading.protocol import Overview
from services.importer.store.contents import Contents
from services.importer.store.issues import MAX_ISSUES, IssueRecord, Issues
from services.importer.store.marks import Marks
from services.importer.store.units import Units
from shared.contracts.ids import derive

_MAX_PLACE: Final = 300
_MAX_REASON: Final = 500
_MAX_RECORD: Final = 1_000


@dataclass(frozen=True, slots=True)
class Stores:
    """The repositories to which an import writes."""

    units: Units
    issues: Issues
    contents: Contents
    confirmations: Confirmations
    files: ImportFiles
    marks: Marks


@dataclass(slots=True)
class RunContext:
    """One run of one import, by one process. `listed` is how many issues are stored."""

    job: ImportJob
    plan: Plan
    overview: Overview
    source: OpenSource
    stores: Stores
    progress: Progress
    outlet: TakesBatches
    batches: BatchFactory
    listed: int = 0

    async def publish(self, made: Sequence[Batch]) -> Sequence[BatchRecord]:
        """Publish batches of people or channels, and wait until the chat has stored them.

        Return their confirmations. Raises `Stopped`.
        """
        ids = [batch.id for batch in made]
        await self.outlet.put(made)
        await self.outlet.flush()
        while not self.outlet.is_settled(ids):
            await self.outlet.poll()
        outcomes = self.outlet.outcomes(ids)
        await self.outlet.forget(ids)
        return outcomes

    async def list_issues(self, place: str, issues: Sequence[tuple[str, str, str]]) -> None:
        """Store what failed in a step of the import: place, reason and record. Safe to repeat."""
        records = [
            IssueRecord(
                id=f"{self.job.run_id}:{place}:{number:06d}",
                import_id=self.job.run_id,
                workspace=self.job.workspace,
                place=where[:_MAX_PLACE],
                reason=reason[:_MAX_REASON],
                record=record[:_MAX_RECORD],
                position=self.listed + number,
            )
            for number, (where, reason, record) in enumerate(issues)
        ]
        await self.stores.issues.store(records[: max(0, MAX_ISSUES - self.listed)])
        self.listed += len(records)

    def new_channel_id(self, conversation: str) -> str:
        """Derive the id of the chat's channel for a conversation: the same in all imports of it."""
        account = self.overview.provider, self.overview.account
        return f"chn_{derive(self.job.workspace, *account, conversation)}"
