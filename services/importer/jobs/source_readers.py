"""Open the reader of an import's source: of the uploaded file, or of the connected account."""

from collections.abc import AsyncIterator
from typing import Final

from services.importer.accounts.account_reader import AccountReader
from services.importer.accounts.account_readers import AccountReaders
from services.importer.accounts.address_refresher import AddressRefresher
from services.importer.accounts.walk import Walk
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import AccountSource, UploadSource
from services.importer.reading.reader_process import ReaderLimits, ReaderProcess
from services.importer.store.contents import ChannelRecord, Contents, PersonRecord
from services.importer.store.marks import Marks
from services.importer.uploads.folder import UploadFolder
from shared.manifests.channel_types import Person
from shared.manifests.history_types import ConversationKind, HistoryConversation, HistoryPerson
from shared.runtime.jobs import JobFailed

OVERLAP_S: Final = 7 * 86_400.0
"""A repeated import reads the last days again, for edits. Readers look further back for replies."""
_WAIT_S: Final = 10.0
"""A call that has to wait for longer is made in another step, and other imports have their turn meanwhile."""
_LISTING_WAIT_S: Final = 150.0
"""Lists are not resumed, and samples neither: these calls wait."""


class SourceReaders:
    """Opens readers for the steps of imports."""

    def __init__(
        self,
        folder: UploadFolder,
        limits: ReaderLimits,
        accounts: AccountReaders,
        contents: Contents,
        marks: Marks,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._accounts = accounts
        self._contents = contents
        self._marks = marks

    async def open(self, job: ImportJob) -> ReaderProcess | AccountReader:
        """Return a reader of the import's source, to be used as an async context manager.

        Raises `JobFailed` if the upload is gone, and `ChannelFailure` if the account is not connected.
        """
        source = job.source
        if isinstance(source, UploadSource):
            return self.upload(job)
        if job.stage == "reading":
            return await self._accounts.open(
                job.workspace,
                source.integration_id,
                (source.provider, source.account),
                job.walk or Walk(),
                max_wait_s=_LISTING_WAIT_S,
            )
        return await self._running(job, source)

    def upload(self, job: ImportJob) -> ReaderProcess:
        """Return a reader of the import's upload. Raises `JobFailed` if the upload is gone, or is none."""
        source = job.source
        if not isinstance(source, UploadSource):
            raise JobFailed("its source is a connected account, which has no archive")
        path = self._folder.path_of(source.upload_id)
        if not path.is_file():
            raise JobFailed("its upload was deleted, or has expired: upload the export again")
        if (received := path.stat().st_size) < source.size:
            raise JobFailed(
                f"{received} of {source.size} bytes of its upload have arrived: resume it (tus), then import "
                "it again"
            )
        return ReaderProcess(path, source.name, self._limits)

    async def address_refresher(self, job: ImportJob) -> AddressRefresher | None:
        """Return what gets new addresses of an import's files; None if it cannot, or need not.

        Raises `ChannelFailure` if the account is not connected.
        """
        source = job.source
        if not isinstance(source, AccountSource):
            return None
        account = (source.provider, source.account)
        state = (job.walk or Walk()).limiter
        return await self._accounts.address_refresher(job.workspace, source.integration_id, account, state)

    async def _running(self, job: ImportJob, source: AccountSource) -> AccountReader:
        """Return the reader of pages: people and conversations are those of the plan."""
        plan = Plan.model_validate(job.plan)
        walk = job.walk or Walk()
        since = {}
        if not job.is_dry_run:
            prefix = f"{source.provider}:{source.account}:"
            marks = await self._marks.read(job.workspace, plan.digest)
            since = {
                key.removeprefix(prefix): at - OVERLAP_S
                for key, at in marks.items()
                if key.startswith(prefix)
            }
        return await self._accounts.open(
            job.workspace,
            source.integration_id,
            (source.provider, source.account),
            Walk(limiter=walk.limiter) if job.is_dry_run else walk,
            max_wait_s=_LISTING_WAIT_S if job.is_dry_run else _WAIT_S,
            known=_StoredLists(self._contents, job.id),
            span=plan.span(),
            since=since,
            samples=job.is_dry_run,
        )


class _StoredLists:
    """The people and conversations of one import (`StoredLists`)."""

    def __init__(self, contents: Contents, import_id: str) -> None:
        self._contents = contents
        self._import_id = import_id

    async def people(self) -> AsyncIterator[HistoryPerson]:
        async for record in self._contents.each_person(self._import_id):
            yield _person(record)

    async def conversations(self) -> AsyncIterator[HistoryConversation]:
        async for record in self._contents.each_channel(self._import_id):
            yield _conversation(record)


def _person(record: PersonRecord) -> HistoryPerson:
    person = Person(record.person_id, record.name, record.avatar_url, record.email, record.bot)
    return HistoryPerson(person, record.active)


def _conversation(record: ChannelRecord) -> HistoryConversation:
    kind: ConversationKind = record.kind
    return HistoryConversation(
        id=record.conversation,
        name=record.name,
        kind=kind,
        archived=record.archived,
        created_at=record.created_at,
        topic=record.topic,
        members=record.member_ids,
        parent=record.parent,
        category=record.category,
        problem=record.problem,
    )
