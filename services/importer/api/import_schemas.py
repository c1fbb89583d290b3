"""The request and response models of imports."""

from typing import Annotated, Any, Final, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from services.importer.api.fields import Id
from services.importer.jobs.estimate import in_words, remaining_s
from services.importer.jobs.import_job import ImportJob, Repeat, State, Step, Summary
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import AccountSource, UploadSource
from services.importer.store.contents import ChannelRecord, PersonRecord
from services.importer.store.issues import IssueRecord
from shared.contracts.envelope import rfc3339

_STEPS: Final[tuple[Step, ...]] = get_args(Step)


class ImportCreate(BaseModel):
    """`POST /api/imports`: the import of a complete upload. It is read at once; nothing is published yet."""

    model_config = ConfigDict(extra="forbid")

    upload_id: Id


class AccountImportCreate(BaseModel):
    """`POST /api/integrations/{id}/import`: the import of a connected account, by the provider's API.

    With `repeat`, it is imported again each day after it has ended, by the same plan.
    """

    model_config = ConfigDict(extra="forbid")

    plan: Plan = Plan()
    repeat: Annotated[
        Repeat | None,
        Field(description="`daily`: read what is new each day, until the next one is cancelled."),
    ] = None


class ImportStart(BaseModel):
    """`POST /api/imports/{id}/start`. A dry run publishes nothing and counts the same."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = False


class ImportUndo(BaseModel):
    """`POST /api/imports/{id}/undo`: `messages` is how many the import added (`added`), as a confirmation."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[int, Field(ge=0)]
    keep_answered: Annotated[
        bool, Field(description="Keep messages that somebody has answered since; the chat decides.")
    ] = False


class OptionOut(BaseModel):
    """An answer to a choice."""

    value: str
    text: str


class ChoiceOut(BaseModel):
    """A question that the export does not answer: the plan's `answers` do."""

    id: str
    text: str
    options: list[OptionOut]
    answer: str | None
    required: bool


class ContentsOut(BaseModel):
    """The contents of the export. `description` says them in a sentence; `first` and `last` are days."""

    description: str
    kind: str
    provider: str
    account: str
    people: int
    conversations: int
    bytes: int
    first: str | None
    last: str | None
    missing: list[str]
    notes: list[str]
    choices: list[ChoiceOut]

    @classmethod
    def of(cls, summary: Summary) -> Self:
        """Return the model of a summary."""
        return cls(
            description=summary.description,
            kind=summary.kind,
            provider=summary.provider,
            account=summary.account,
            people=summary.people,
            conversations=summary.conversations,
            bytes=summary.size,
            first=summary.first or None,
            last=summary.last or None,
            missing=list(summary.missing),
            notes=list(summary.notes),
            choices=[ChoiceOut.model_validate(choice) for choice in summary.choices],
        )


class ImportOut(BaseModel):
    """An import of an upload, or of a connected account.

    `progress` is in percent; `counts` are by kind of record, `dry_run` those of the last trial. `confirmed`
    is false if the chat confirms nothing: then messages count as imported when they are published. `added` is
    how many messages an undo would take away. `estimate` says `estimated_s` in words. `starts_at` is when a
    repeated import is due.
    """

    id: str
    upload_id: str | None
    integration_id: str | None
    name: str
    status: State
    current_step: str
    step_number: int
    steps: int
    progress: int
    items_processed: int
    items_total: int | None
    waiting_for: str | None
    error: str | None
    contents: ContentsOut | None
    plan: Plan
    counts: dict[str, Any]
    dry_run: dict[str, Any] | None
    confirmed: bool | None
    added: int
    issues: int
    created_at: str
    started_at: str | None
    completed_at: str | None
    estimated_s: int | None
    estimate: str | None
    repeat: Repeat | None
    starts_at: str | None

    @classmethod
    def of(cls, job: ImportJob) -> Self:
        """Return the model of an import."""
        source = job.source
        return cls(
            id=job.id,
            upload_id=source.upload_id if isinstance(source, UploadSource) else None,
            integration_id=source.integration_id if isinstance(source, AccountSource) else None,
            name=source.name,
            status=job.state,
            current_step=job.step,
            step_number=_STEPS.index(job.step) + 1,
            steps=len(_STEPS),
            progress=100 if job.stage in ("completed", "undone") else _percent(job),
            items_processed=job.done,
            items_total=job.total,
            waiting_for=job.waiting_for,
            error=job.error,
            contents=ContentsOut.of(job.summary) if job.summary else None,
            plan=Plan.model_validate(job.plan),
            counts=job.counts,
            dry_run=job.trial,
            confirmed=job.confirms,
            added=job.added,
            issues=job.issues,
            created_at=rfc3339(job.created_at),
            started_at=rfc3339(job.started_at) if job.started_at else None,
            completed_at=rfc3339(job.finished_at) if job.finished_at else None,
            estimated_s=(estimated_s := remaining_s(job)),
            estimate=in_words(estimated_s),
            repeat=job.repeat,
            starts_at=rfc3339(job.queued_at) if job.starts_itself and job.started_at is None else None,
        )


class ImportChannelOut(BaseModel):
    """A conversation of the export; `bytes` are those of its files of messages.

    `problem` says why a connected account cannot read it, and what to do.

    `days` has the report by day, when the import has ended: found = imported + duplicate + skipped + failed.
    `samples` are messages of the last dry run, as the chat would get them.
    """

    conversation: str
    name: str
    kind: str
    archived: bool
    members: int
    parent: str | None
    bytes: int
    first: str | None
    last: str | None
    problem: str | None
    channel_id: str | None
    days: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]

    @classmethod
    def of(cls, record: ChannelRecord) -> Self:
        """Return the model of a record."""
        return cls(
            conversation=record.conversation,
            name=record.name,
            kind=record.kind,
            archived=record.archived,
            members=record.members,
            parent=record.parent,
            bytes=record.size,
            first=record.first or None,
            last=record.last or None,
            problem=record.problem or None,
            channel_id=record.channel_id or None,
            days=record.days,
            samples=record.samples,
        )


class ImportPersonOut(BaseModel):
    """A person of the export; `email` only if the provider verified it."""

    id: str
    name: str
    email: str | None
    bot: bool
    active: bool

    @classmethod
    def of(cls, record: PersonRecord) -> Self:
        """Return the model of a record."""
        return cls(
            id=record.person_id, name=record.name, email=record.email, bot=record.bot, active=record.active
        )


class ImportIssueOut(BaseModel):
    """A record that could not be imported: its place in the export, the reason, and its beginning."""

    place: str
    reason: str
    record: str

    @classmethod
    def of(cls, record: IssueRecord) -> Self:
        """Return the model of a record."""
        return cls(place=record.place, reason=record.reason, record=record.record)


def _percent(job: ImportJob) -> int:
    fraction = job.walk.fraction if job.walk else 0.0
    return min(99, int(100 * (job.done + fraction) / job.total)) if job.total else 0
