"""The first step of an import: find out what its source has, and show the contents."""

from dataclasses import asdict
from typing import Any, Final

from services.importer.accounts.account_calls import CallWaits
from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.walk import Walk
from services.importer.jobs.account_waits import account_waits
from services.importer.jobs.import_job import ImportJob, Summary, start_changes
from services.importer.jobs.matching import Users
from services.importer.jobs.open_source import OpenSource
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import AccountSource
from services.importer.jobs.source_readers import SourceReaders
from services.importer.reading.protocol import Overview
from services.importer.reading.reader_process import ReaderProcess
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.chat_users import ChatUsers
from services.importer.store.contents import ChannelRecord, Contents, PersonRecord
from shared.manifests.channel_types import ChannelFailure
from shared.manifests.history_types import HistoryConversation, HistoryPerson, Unit, Unreadable
from shared.runtime.jobs import JobFailed, StepResult

_MAX_NOTES: Final = 20
_BATCH: Final = 500
MAX_PEOPLE: Final = 200_000
MAX_CONVERSATIONS: Final = 100_000


class Extent:
    """The units of a conversation: their number, their size in bytes, their first and last day."""

    __slots__ = ("first", "last", "size", "units")

    def __init__(self) -> None:
        self.units = 0
        self.size = 0
        self.first = ""
        self.last = ""

    def add(self, unit: Unit) -> None:
        self.units += 1
        self.size += unit.size
        if unit.day:
            self.first = min(self.first or unit.day, unit.day)
            self.last = max(self.last, unit.day)


class ReadStep:
    """Reads what an export has, and stores it for the plan."""

    def __init__(
        self, readers: SourceReaders, contents: Contents, directory: ChatDirectory, users: ChatUsers
    ) -> None:
        self._readers = readers
        self._contents = contents
        self._directory = directory
        self._users = users

    async def users(self, workspace: str, provider: str, account: str) -> Users:
        """Return what the hub knows of the chat's users, for people of an account."""
        links = await self._directory.links(workspace, provider, account)
        return Users(links, await self._users.of_workspace(workspace))

    async def run(self, job: ImportJob) -> StepResult:
        """Store the contents of the source; then a person plans. Raises `JobFailed` if it is no export."""
        plan = Plan.model_validate(job.plan)
        source: ReaderProcess | AccountReader | None = None
        try:
            async with await self._readers.open(job) as source:
                found = await source.contents(plan.answers)
                _check_size(found)
                extents: dict[str, Extent] = {}
                size = 0
                async for unit in source.units():
                    extents.setdefault(unit.conversation, Extent()).add(unit)
                    size += unit.size
                await self._contents.delete_run(job.id)
                await self._store_channels(job, found, source, extents)
                await self._store_people(job, found, source, plan)
                if isinstance(source, AccountReader):
                    found = source.listed
        except Unreadable as error:
            raise JobFailed(str(error)) from None
        except (CallWaits, ChannelFailure) as error:
            # With the state of the calls: the next attempt has to wait for the pause that this one got.
            return account_waits(error).result(walk=_walk(source) or job.walk)
        changes = {
            "walk": _walk(source),
            "stage": "ready",
            "is_dry_run": False,
            "summary": _summary(found, size),
            "counts": {"people": {"found": found.people}, "channels": {"found": found.conversations}},
            "trial": None,
            "issues": 0,
            "run_warnings": (),
        }
        if job.starts_itself:
            return StepResult(changes=changes | start_changes(dry_run=False))
        return StepResult(waits=True, changes=changes)

    async def _store_channels(
        self, job: ImportJob, found: Overview, source: OpenSource, extents: dict[str, Extent]
    ) -> None:
        mapped = await self._directory.mapped_channels(job.workspace, found.provider, found.account)
        records: list[ChannelRecord] = []
        position = 0
        async for item in source.conversations():
            record = channel_record(job.id, job.workspace, position, item, extents.get(item.id) or Extent())
            if isinstance(job.source, AccountSource):
                record = record.model_copy(update=_of_account(item))
            if channel := mapped.get(item.id):
                record = record.model_copy(
                    update={
                        "mapped_channel_id": channel.channel_id,
                        "mapped_name": channel.name,
                        "mapping_id": channel.mapping_id,
                    }
                )
            records.append(record)
            position += 1
            if len(records) == _BATCH:
                await self._contents.add_channels(records)
                records = []
        await self._contents.add_channels(records)

    async def _store_people(self, job: ImportJob, found: Overview, source: OpenSource, plan: Plan) -> None:
        users = await self.users(job.workspace, found.provider, found.account)
        records: list[PersonRecord] = []
        position = 0
        async for item in source.people():
            record = person_record(job.id, job.workspace, position, item)
            match = users.match(record, plan)
            proposed = None if match.user_id else users.proposal(record)
            changes = {"matched_by": match.by, "user_id": match.user_id, "proposed_user_id": proposed}
            records.append(record.model_copy(update=changes))
            position += 1
            if len(records) == _BATCH:
                await self._contents.add_people(records)
                records = []
        await self._contents.add_people(records)


def _walk(source: ReaderProcess | AccountReader | None) -> Walk | None:
    return source.walk if isinstance(source, AccountReader) else None


def _check_size(found: Overview) -> None:
    """Raise `JobFailed` if an export has more people or conversations than an import may."""
    for what, number, limit in (
        ("people", found.people, MAX_PEOPLE),
        ("conversations", found.conversations, MAX_CONVERSATIONS),
    ):
        if number > limit:
            raise JobFailed(
                f"the export has {number:,} {what}, and at most {limit:,} are imported: export fewer channels"
            )


def channel_record(
    import_id: str, workspace: str, position: int, item: HistoryConversation, extent: Extent
) -> ChannelRecord:
    """Return a conversation of the export as it is stored."""
    return ChannelRecord(
        id=f"{import_id}:{position}",
        import_id=import_id,
        workspace=workspace,
        position=position,
        conversation=item.id,
        name=item.name[:256],
        kind=item.kind,
        archived=item.archived,
        members=len(item.members),
        parent=item.parent,
        problem=item.problem,
        units=extent.units,
        size=extent.size,
        first=extent.first,
        last=extent.last,
    )


def _of_account(item: HistoryConversation) -> dict[str, Any]:
    return {
        "topic": item.topic,
        "created_at": item.created_at,
        "category": item.category,
        "member_ids": tuple(item.members),
    }


def person_record(import_id: str, workspace: str, position: int, item: HistoryPerson) -> PersonRecord:
    """Return a person of the export as it is stored."""
    return PersonRecord(
        id=f"{import_id}:{position}",
        import_id=import_id,
        workspace=workspace,
        position=position,
        person_id=item.person.id,
        name=item.person.name[:256],
        email=item.person.email,
        avatar_url=item.person.avatar_url,
        bot=item.person.bot,
        active=item.active,
    )


def _summary(found: Overview, size: int) -> Summary:
    return Summary(
        kind=found.kind,
        provider=found.provider,
        account=found.account,
        people=found.people,
        conversations=found.conversations,
        units=found.units,
        size=size,
        first=found.first,
        last=found.last,
        missing=tuple(found.missing)[:_MAX_NOTES],
        notes=tuple(found.notes)[:_MAX_NOTES],
        undetermined=tuple(found.undetermined)[:_MAX_NOTES],
        choices=tuple(asdict(choice) for choice in found.choices),
        description=found.description,
    )
