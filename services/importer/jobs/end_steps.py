"""The last steps of an import: its report by channel and day, and its undo."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from services.importer.files.cleanup import FileCleanup
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.run_step import RunStep, Stores
from services.importer.publish.history_batches import BatchFactory
from services.importer.publish.outlet import Outlet
from services.importer.store.units import UnitRecord, add_digest, packed, unpacked
from shared.contracts.history import HISTORY_WITHDRAWN
from shared.runtime.jobs import Jobs, StepResult

_PAGE: Final = 200


class VerifyStep:
    """Adds the counts of the units up, by channel and day."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def run(self, job: ImportJob) -> StepResult:
        """Store the report of an import, which is completed then."""
        days: dict[str, dict[str, dict[str, Any]]] = {}
        channel_ids: dict[str, str] = {}
        start = 0
        while page := await self._stores.units.read(job.id, start=start, limit=_PAGE):
            for record in page:
                channel_ids[record.conversation] = record.channel_id
                _add(days.setdefault(record.conversation, {}), record.days)
            start = page[-1].position + 1
        positions = await self._stores.contents.positions(job.id)
        results = {
            positions[conversation]: {"days": found, "channel_id": channel_ids[conversation]}
            for conversation, found in days.items()
            if conversation in positions
        }
        await self._stores.contents.set_results(job.id, results)
        return StepResult(finished=True, changes={"stage": "completed"})


class UndoStep:
    """Takes the messages away again that an import added, those in its ledger, with their files."""

    def __init__(self, jobs: Jobs[ImportJob], run: RunStep, stores: Stores, cleanup: FileCleanup) -> None:
        self._jobs = jobs
        self._run = run
        self._stores = stores
        self._cleanup = cleanup

    async def run(self, job: ImportJob) -> StepResult:
        """Withdraw the messages of one unit after another. A repeated step goes on behind the last one."""
        progress, outlet = Progress(self._jobs, job), self._run.outlet(job)
        batches = BatchFactory(job.id, job.next_number)
        start = job.position
        try:
            while page := await self._stores.units.read(job.id, start=start, limit=_PAGE):
                await self._stores.marks.remove(job.workspace, {record.source for record in page})
                for record in page:
                    await self._withdraw(job, record, progress, outlet, batches)
                start = page[-1].position + 1
        except Stopped:
            return StepResult()
        await self._cleanup.delete_marked()
        retained = await self._stores.units.count_ids(job.id)
        withdrawn = job.added + job.withdrawn - retained
        return StepResult(finished=True, changes={"stage": "undone", "withdrawn": withdrawn})

    async def _withdraw(
        self,
        job: ImportJob,
        record: UnitRecord,
        progress: Progress,
        outlet: Outlet,
        batches: BatchFactory,
    ) -> None:
        ids = unpacked(record.ids)
        made = list(
            batches.make(
                HISTORY_WITHDRAWN,
                "message_ids",
                ids,
                str(record.position),
                channel_id=record.channel_id,
                keep_answered=job.keep_answered,
            )
        )
        await outlet.put(made)
        await outlet.flush()
        while not outlet.is_settled([batch.id for batch in made]):
            await outlet.poll()
            await progress.write({})
        outcomes = outlet.outcomes([batch.id for batch in made])
        retained = {message_id for outcome in outcomes for message_id, _ in outcome.rejected}
        # Before the ids are gone: a repeated step finds them again.
        withdrawn = [message_id for message_id in ids if message_id not in retained]
        await self._stores.files.withdraw(job.workspace, withdrawn)
        await self._stores.units.keep_ids(record, b"".join(packed(item) for item in ids if item in retained))
        # Behind the unit: one that is withdrawn already has no ids left when the step is repeated.
        await progress.write(
            {
                "position": record.position + 1,
                "next_number": batches.next_number,
                "confirms": outlet.confirms,
            },
        )
        await self._stores.confirmations.remove([batch.id for batch in made])


def _add(totals: dict[str, dict[str, Any]], days: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the counts of a unit's days to those of its conversation."""
    for day, counts in days.items():
        total = totals.setdefault(day, {})
        numbers = Counter({name: value for name, value in counts.items() if isinstance(value, int)})
        for name, number in numbers.items():
            total[name] = total.get(name, 0) + number
        if digest := counts.get("digest"):
            total["digest"] = add_digest(total.get("digest", ""), [bytes.fromhex(digest)])
            total["first"] = min(total.get("first", counts["first"]), counts["first"])
            total["last"] = max(total.get("last", counts["last"]), counts["last"])
