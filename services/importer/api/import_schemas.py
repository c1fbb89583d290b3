"""The request and response models of imports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from services.importer.api.fields import Id
from services.importer.jobs.estimate import in_words, remaining_s
from services.importer.jobs.import_job import ImportJob, Repeat, State, Step, Summary
from services.importer.jobs.plan import Plan
from services.importer.jobs.source import AccountSource, UploadSource
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.store.contents import ChannelRecord, PersonRecord
from services.importer.store.issues import IssueRecord
from shared.contracts.envelope import rfc3339
from shared.runtime.clock import utcnow
from shared.runtime.web.access import ApiKey


@dataclass(frozen=True, slots=True)
class Estimate:
    """Inputs of a dry run's estimates: the rate for a chat that confirms nothing, and the broker's memory."""

    messages_per_second: int
    broker_memory: BrokerMemory


_UNCLAIMED: Final = timedelta(seconds=30)
"""After this time, an import that no process has taken says so. A killed process is replaced before."""
_TIMES: Final = ("seconds", "estimated_s")
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
    keep_shared: Annotated[
        bool,
        Field(
            description="Keep messages that other imports have found, too (`shared` of GET .../undo). They "
            "belong to these imports then, and their undo takes them away."
        ),
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


class DryRunOut(BaseModel):
    """The result of a dry run. `counts` are those of the import, unless the chat rejects messages.

    `read_s` is how long the dry run took, and `publish_s` how long the messages take for a chat that confirms
    nothing. `broker_memory_bytes` is what the embedded broker needs; null for Kafka, which deletes records.
    `estimated_s` is how long a connected account takes at half of its rate.
    """

    counts: dict[str, Any]
    read_s: float
    publish_s: float
    kafka_records: int
    kafka_bytes: int
    broker_memory_bytes: int | None
    estimated_s: int | None

    @classmethod
    def of(cls, trial: Mapping[str, Any], estimate: Estimate) -> Self:
        """Return the model of the counts of a dry run."""
        kafka = trial.get("kafka", {})
        size = kafka.get("bytes", 0)
        return cls(
            counts={name: value for name, value in trial.items() if name not in _TIMES},
            read_s=trial["seconds"],
            publish_s=round(trial.get("messages", {}).get("imported", 0) / estimate.messages_per_second, 1),
            kafka_records=kafka.get("records", 0),
            kafka_bytes=size,
            broker_memory_bytes=estimate.broker_memory.needed_bytes(size),
            estimated_s=trial.get("estimated_s"),
        )


class RetainedOut(BaseModel):
    """A number of channels or people that an undo has not removed, with the reason, mostly the chat's."""

    reason: str
    number: int


class RemovedOut(BaseModel):
    """The number of channels or people that an undo has removed, and the reasons for which others stay."""

    removed: int
    retained: list[RetainedOut]

    @classmethod
    def of(cls, removed: int, retained: Sequence[tuple[str, int]]) -> Self:
        """Return the model of numbers by reason."""
        return cls(
            removed=removed,
            retained=[RetainedOut(reason=reason, number=number) for reason, number in retained],
        )


class UndoResultOut(BaseModel):
    """The result of an undo for the channels and people that the import had created.

    If the chat confirms nothing, they count as removed.
    """

    channels: RemovedOut
    people: RemovedOut


class MappedChannelOut(BaseModel):
    """A channel of the chat, and the mapping that joins the conversation with it."""

    channel_id: str
    name: str | None
    mapping_id: str | None


class ImportOut(BaseModel):
    """An import of an upload, or of a connected account.

    `progress` is in percent; `counts` are by kind of record, `dry_run` those of the last trial.

    Of each kind, found = imported + duplicate + skipped + failed when it has ended. `losses` among the counts
    are texts that lost this kind of formatting, and `kafka` has records and bytes. `items_processed` are
    messages; `items_total` is known after a dry run. `confirmed` is false if the chat confirms nothing: then
    messages count as imported when they are published. `added` is how many messages an undo would take away;
    `withdrawn` are those that one has taken away, and `left` those that it has left to other imports. `undo`
    says, after an undo, what became of channels and people.
    `estimate` says `estimated_s` in words. `starts_at` is when a repeated import is due.
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
    errors: list[str]
    warnings: list[str]
    contents: ContentsOut | None
    plan_version: int
    counts: dict[str, Any]
    dry_run: DryRunOut | None
    confirmed: bool | None
    added: int
    withdrawn: int
    left: int
    undo: UndoResultOut | None
    issues: int
    created_at: str
    started_at: str | None
    completed_at: str | None
    estimated_s: int | None
    estimate: str | None
    repeat: Repeat | None
    starts_at: str | None

    @classmethod
    def of(cls, job: ImportJob, estimate: Estimate) -> Self:
        """Return the model of an import."""
        source = job.source
        counts = (job.trial if job.is_dry_run else job.counts) or {}
        has_run = job.trial is not None and "seconds" in job.trial
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
            items_processed=counts.get("messages", {}).get("found", 0),
            items_total=job.trial.get("messages", {}).get("found", 0) if has_run and job.trial else None,
            waiting_for=_waiting_for(job),
            error=job.error,
            errors=_errors(job),
            warnings=_warnings(job),
            contents=ContentsOut.of(job.summary) if job.summary else None,
            plan_version=job.plan_version,
            counts=job.counts,
            dry_run=DryRunOut.of(job.trial, estimate) if has_run and job.trial else None,
            confirmed=job.confirms,
            added=job.added,
            withdrawn=job.withdrawn,
            left=job.left,
            undo=_undo_result(job),
            issues=job.issues,
            created_at=rfc3339(job.created_at),
            started_at=rfc3339(job.started_at) if job.started_at else None,
            completed_at=rfc3339(job.finished_at) if job.finished_at else None,
            estimated_s=(estimated_s := remaining_s(job)),
            estimate=in_words(estimated_s),
            repeat=job.repeat,
            starts_at=rfc3339(job.queued_at) if job.starts_itself and job.started_at is None else None,
        )


class UndoOut(BaseModel):
    """The effect of an undo now: it withdraws `messages` messages, the number to confirm.

    `shared` are those of them that other imports have found in the chat, too: `keep_shared` keeps them.
    `channels` and `people` are the channels and guests that it has brought. The chat removes those that are
    not used otherwise.
    """

    messages: int
    shared: int
    channels: int
    people: int


class ImportChannelOut(BaseModel):
    """A conversation of the export; `bytes` are those of its files of messages.

    `problem` says why a connected account cannot read it, and what to do.

    `mapped` is the channel of the chat that sync joins it with. `channel_id` is where the last run put it,
    and `left_out` why it was not imported. `samples` are messages of the last dry run, as the chat would get
    them; there are none for a caller without the scope `payloads:read`.
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
    mapped: MappedChannelOut | None
    channel_id: str | None
    left_out: str | None
    samples: list[dict[str, Any]]

    @classmethod
    def of(cls, record: ChannelRecord, key: ApiKey) -> Self:
        """Return a conversation as the caller `key` sees it."""
        mapped = None
        if record.mapped_channel_id is not None:
            mapped = MappedChannelOut(
                channel_id=record.mapped_channel_id,
                name=record.mapped_name or None,
                mapping_id=record.mapping_id,
            )
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
            mapped=mapped,
            channel_id=record.channel_id or None,
            left_out=record.left_out,
            samples=record.samples if key.allows("payloads:read") else [],
        )


class ImportPersonOut(BaseModel):
    """A person of the export; `email` only if the provider verified it.

    `matched_by` says how the person was found in the chat, by the plan as it was when the export was read, or
    at the last run: `link` (/api/people-links), `email`, `manual` or `name` (by the plan), `guest` or
    `leave_out`. `proposed_user_id` is the only user with the same name: it counts if the plan says so.
    """

    id: str
    name: str
    email: str | None
    bot: bool
    active: bool
    matched_by: str
    user_id: str | None
    proposed_user_id: str | None

    @classmethod
    def of(cls, record: PersonRecord) -> Self:
        """Return the model of a record."""
        return cls(
            id=record.person_id,
            name=record.name,
            email=record.email,
            bot=record.bot,
            active=record.active,
            matched_by=record.matched_by,
            user_id=record.user_id,
            proposed_user_id=record.proposed_user_id,
        )


class ImportIssueOut(BaseModel):
    """A record that could not be imported: its place in the export, the reason, and its beginning.

    `record` is empty for a caller without the scope `payloads:read`.
    """

    place: str
    reason: str
    record: str

    @classmethod
    def of(cls, issue: IssueRecord, key: ApiKey) -> Self:
        """Return an issue as the caller `key` sees it."""
        record = issue.record if key.allows("payloads:read") else ""
        return cls(place=issue.place, reason=issue.reason, record=record)


def _undo_result(job: ImportJob) -> UndoResultOut | None:
    if job.stage != "undone":
        return None
    return UndoResultOut(
        channels=RemovedOut.of(job.removed_channels, job.retained_channels),
        people=RemovedOut.of(job.removed_people, job.retained_people),
    )


def _waiting_for(job: ImportJob) -> str | None:
    """Return why an import makes no progress; also if it is due, and no process has taken it for long."""
    if job.open and job.due_at is not None and utcnow() - job.due_at > _UNCLAIMED:
        return (
            "a process that has room for it, and the folder of its upload: see that all importers run, or "
            "upload it again"
            if isinstance(job.source, UploadSource)
            else "a process that has room for it: see that the importers run"
        )
    return job.waiting_for


def _percent(job: ImportJob) -> int:
    fraction = job.walk.fraction if job.walk else 0.0
    return min(99, int(100 * (job.done + fraction) / job.total)) if job.total else 0


def _errors(job: ImportJob) -> list[str]:
    """Return the error with which it failed, and how many records failed."""
    found = [job.error] if job.error else []
    if job.issues:
        found.append(f"{job.issues} records were not imported: see /api/imports/{job.id}/issues")
    return found


def _warnings(job: ImportJob) -> list[str]:
    """Return doubts about the export, the plan and the last run."""
    notes = list(job.summary.notes) if job.summary else []
    number = sum(job.lost_by.values())
    lost = (
        f"the undo of another import has taken {number} messages away that this import had found in the "
        "chat: import again to have them"
    )
    return [*notes, *job.plan_warnings, *job.run_warnings, *([lost] if number else [])]
