"""The first step of an import: find out what the upload is, and show its contents."""

from dataclasses import asdict
from typing import Final

from services.importer.jobs.description import days_of, describe
from services.importer.jobs.import_job import ImportJob, Summary
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import UploadSource
from services.importer.reading.reader_process import ReaderLimits, ReaderProcess
from services.importer.store.contents import ChannelRecord, Contents, PersonRecord
from services.importer.uploads.folder import UploadFolder
from shared.manifests.history_types import Contents as ExportContents
from shared.manifests.history_types import Unit, Unreadable
from shared.runtime.jobs import JobFailed, StepResult

_MAX_NOTES: Final = 20


class ReadStep:
    """Reads what an export has, and stores it for the plan."""

    def __init__(self, folder: UploadFolder, contents: Contents, limits: ReaderLimits) -> None:
        self._folder = folder
        self._contents = contents
        self._limits = limits

    def reader(self, job: ImportJob) -> ReaderProcess:
        """Return a reader of the import's upload. Raises `JobFailed` if the upload is gone."""
        source = job.source
        if not isinstance(source, UploadSource):
            raise JobFailed("its source is no upload: begin it again")
        path = self._folder.path_of(source.upload_id)
        if not path.is_file():
            raise JobFailed("its upload was deleted, or has expired: upload the export again")
        return ReaderProcess(path, source.name, self._limits)

    async def run(self, job: ImportJob) -> StepResult:
        """Store the contents of the export; then a person plans. Raises `JobFailed` if it is none."""
        try:
            async with self.reader(job) as reader:
                found = await reader.contents(Plan.model_validate(job.plan).answers)
        except Unreadable as error:
            raise JobFailed(str(error)) from None
        await self._contents.replace(job.id, _channels(job, found), _people(job, found))
        counts = {"people": {"found": len(found.people)}, "channels": {"found": len(found.conversations)}}
        changes = {"stage": "ready", "summary": _summary(found), "counts": counts}
        return StepResult(waits=True, changes=changes)


def _channels(job: ImportJob, found: ExportContents) -> list[ChannelRecord]:
    units: dict[str, list[Unit]] = {}
    for unit in found.units:
        units.setdefault(unit.conversation, []).append(unit)
    records = []
    for position, item in enumerate(found.conversations):
        own = units.get(item.id, [])
        first, last = _days(own)
        records.append(
            ChannelRecord(
                id=f"{job.id}:{position}",
                import_id=job.id,
                workspace=job.workspace,
                position=position,
                conversation=item.id,
                name=item.name[:256],
                kind=item.kind,
                archived=item.archived,
                members=len(item.members),
                parent=item.parent,
                units=len(own),
                size=sum(unit.size for unit in own),
                first=first,
                last=last,
            )
        )
    return records


def _people(job: ImportJob, found: ExportContents) -> list[PersonRecord]:
    return [
        PersonRecord(
            id=f"{job.id}:{position}",
            import_id=job.id,
            workspace=job.workspace,
            position=position,
            person_id=item.person.id,
            name=item.person.name[:256],
            email=item.person.email,
            bot=item.person.bot,
            active=item.active,
        )
        for position, item in enumerate(found.people)
    ]


def _days(units: list[Unit]) -> tuple[str, str]:
    days = [unit.day for unit in units if unit.day]
    return (min(days), max(days)) if days else ("", "")


def _summary(found: ExportContents) -> Summary:
    first, last = days_of(found)
    return Summary(
        kind=found.kind,
        provider=found.provider,
        account=found.account,
        people=len(found.people),
        conversations=len(found.conversations),
        units=len(found.units),
        size=sum(unit.size for unit in found.units),
        first=first,
        last=last,
        missing=tuple(found.missing)[:_MAX_NOTES],
        notes=tuple(found.notes)[:_MAX_NOTES],
        choices=tuple(asdict(choice) for choice in found.choices),
        description=describe(found),
    )
