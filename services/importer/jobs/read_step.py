"""The first step of an import: find out what its source has, and show the contents."""

from dataclasses import asdict
from typing import Any, Final

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.walk import Walk
from services.importer.jobs.account_waits import account_waits
from services.importer.jobs.description import days_of, describe
from services.importer.jobs.import_job import ImportJob, Summary, start_changes
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import AccountSource
from services.importer.jobs.source_readers import SourceReaders
from services.importer.reading.reader_process import ReaderProcess
from services.importer.store.contents import ChannelRecord, Contents, PersonRecord
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_types import Contents as ExportContents
from shared.manifests.history_types import HistoryConversation, Unit, Unreadable
from shared.runtime.jobs import JobFailed, StepResult

_MAX_NOTES: Final = 20


class ReadStep:
    """Reads what an export or an account has, and stores it for the plan."""

    def __init__(self, readers: SourceReaders, contents: Contents) -> None:
        self._readers = readers
        self._contents = contents

    async def run(self, job: ImportJob) -> StepResult:
        """Store the contents of the source; then a person plans. Raises `JobFailed` if it is no export."""
        reader: ReaderProcess | AccountReader | None = None
        try:
            async with await self._readers.open(job) as reader:
                found = await reader.contents(Plan.model_validate(job.plan).answers)
        except Unreadable as error:
            raise JobFailed(str(error)) from None
        except (CallWaits, ChannelFailure) as error:
            # With the state of the calls: the next attempt has to wait for the pause that this one got.
            return account_waits(error).result(walk=_walk(reader) or job.walk)
        await self._contents.replace(job.id, _channels(job, found), _people(job, found))
        counts = {"people": {"found": len(found.people)}, "channels": {"found": len(found.conversations)}}
        changes = {"stage": "ready", "summary": _summary(found), "counts": counts, "walk": _walk(reader)}
        if job.starts_itself:
            return StepResult(changes=changes | start_changes(dry_run=False))
        return StepResult(waits=True, changes=changes)


def _walk(reader: ReaderProcess | AccountReader | None) -> Walk | None:
    return reader.walk if isinstance(reader, AccountReader) else None


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
                problem=item.problem,
                **(_of_account(item) if isinstance(job.source, AccountSource) else {}),
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
            avatar_url=item.person.avatar_url,
            bot=item.person.bot,
            active=item.active,
        )
        for position, item in enumerate(found.people)
    ]


def _of_account(item: HistoryConversation) -> dict[str, Any]:
    return {
        "topic": item.topic,
        "created_at": item.created_at,
        "category": item.category,
        "member_ids": tuple(item.members),
    }


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
