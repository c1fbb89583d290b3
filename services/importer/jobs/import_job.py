"""An import as it is stored: a job with stages, its plan and its counts."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field

from services.importer.accounts.walk import Walk
from services.importer.jobs.source import AccountSource, Source
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN
from shared.runtime.jobs import Job
from shared.runtime.mongo import Index
from shared.runtime.records import StoredPart, stored_null

COLLECTION: Final = "imports"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("source.folder", 1), ("due_at", 1)), where=OPEN),
        Index((("expires_at", 1),), ttl_s=0),
    )
}

Stage = Literal["reading", "ready", "running", "verifying", "completed", "undoing", "undone"]
State = Literal[
    "reading", "ready", "running", "verifying", "completed",
    "paused", "failed", "cancelled", "undoing", "undone",
]  # fmt: skip
Repeat = Literal["daily"]
Step = Literal["read", "people", "channels", "messages", "files", "verify"]


class Summary(StoredPart):
    """The contents of an export in numbers. `first` and `last` are days (`2024-11-05`), empty if unknown."""

    kind: str
    provider: str
    account: str
    people: int
    conversations: int
    units: int
    size: int
    first: str = ""
    last: str = ""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()
    description: str
    choices: tuple[dict[str, Any], ...] = ()
    """Questions that the export does not answer, as the reader asks them."""


def start_changes(*, dry_run: bool) -> dict[str, Any]:
    """Return the fields of an import that starts, by their names in Python."""
    now = utcnow()
    return {
        "stage": "running",
        "is_dry_run": dry_run,
        "step": "people",
        "total": None,
        "done": 0,
        "issues": 0,
        "position": 0,
        "offset": 0,
        "next_number": 1,
        "confirms": None,
        "estimated_s": None,
        "run_warnings": (),
        "queued_at": now,
        "started_at": now,
        **({"trial": {}} if dry_run else {}),
    }


class ImportJob(Job):
    """An import of one source. `open` is false while a person decides: when it is ready, or paused.

    `total` and `done` are the sizes of the units that are selected, and of those that are done.
    """

    source: Source
    stage: Stage = "reading"
    is_paused: bool = Field(default=False, alias="paused")
    is_dry_run: bool = Field(default=False, alias="dry_run")
    """True if the last run publishes nothing."""
    queued_at: Any = stored_null()
    """The time from which it waits for its turn among the imports of the workspace."""
    started_at: Any = stored_null()
    summary: Summary | None = stored_null()
    plan: dict[str, Any] = Field(default_factory=dict)
    plan_version: int = 1
    plan_warnings: tuple[str, ...] = ()
    """Doubts about the plan, such as ids that the export does not have."""
    run_warnings: tuple[str, ...] = ()
    """Doubts of the last run, such as channels of the same name."""
    step: Step = "read"
    position: int = 0
    """The first unit that is not stored as done, of the export's units in their order."""
    offset: int = 0
    """The number of records of that unit that are stored as done."""
    next_number: int = 1
    """The number of the next batch."""
    confirms: bool | None = stored_null()
    """True if the chat confirms batches; None until it is known."""
    counts: dict[str, Any] = Field(default_factory=dict)
    """Counts by kind of record: found, selected, imported, duplicate, failed, and skipped by reason.

    `losses` are kinds of formatting that texts have lost, and `kafka` has records and bytes.
    """
    trial: dict[str, Any] | None = stored_null()
    """The same of the last dry run, with `seconds`; None without one by the present plan."""
    estimated_s: int | None = stored_null()
    reader_kills: int = 0
    """The number of times its reader process was killed since the last progress."""
    issues: int = 0
    walk: Walk | None = stored_null()
    """The place of the next page; only of a connected account."""
    repeat: Repeat | None = stored_null()
    starts_itself: bool = False
    """True if it starts when it is read, with the plan of the import that it repeats."""
    keep_answered: bool = False
    keep_shared: bool = False
    """True if an undo leaves messages that other imports have found to these."""
    withdrawn: int = 0
    """Messages that an undo has taken away."""
    left: int = 0
    """Messages that an undo has left to other imports, which have found them too."""
    inherited_from: dict[str, int] = Field(default_factory=dict)
    """Messages that undone imports have left to this one, by the ids of these."""
    lost_by: dict[str, int] = Field(default_factory=dict)
    """Messages that it has found in the chat, and that undos of other imports have taken away."""
    late: int = 0
    """Messages that count as imported, and that the chat had or rejects: it confirmed them late."""
    late_batches: int = 0
    """Batches that the chat confirmed when the import did not wait for them."""
    remaining: int | None = stored_null()
    """Messages that are still its own after an undo, because they were answered."""
    removed_channels: int = 0
    removed_people: int = 0
    """Channels, and guests, that an undo has taken away."""
    retained_channels: tuple[tuple[str, int], ...] = ()
    retained_people: tuple[tuple[str, int], ...] = ()
    """Reasons for which an undo has not taken others away, each with their number."""
    has_leftovers: bool = False
    """True if an undo has not taken all channels and guests away."""

    @property
    def has_published(self) -> bool:
        """Whether it was started, and not only as a dry run."""
        return self.started_at is not None and not self.is_dry_run

    @property
    def added(self) -> int:
        """The number of messages that it has added and not withdrawn."""
        if self.remaining is not None:
            return self.remaining
        imported = int(self.counts.get("messages", {}).get("imported", 0))
        return imported + sum(self.inherited_from.values()) - self.withdrawn - self.left - self.late

    @property
    def run_id(self) -> str:
        """The id under which parts and issues of the last run are stored: a dry run has its own."""
        return dry_run_id(self.id) if self.is_dry_run else self.id

    @property
    def counted(self) -> str:
        """The field with the counts of the last run."""
        return "trial" if self.is_dry_run else "counts"

    @property
    def state(self) -> State:
        """The state that people see."""
        if self.status in ("failed", "cancelled"):
            return self.status
        if self.is_paused:
            return "paused"
        return self.stage


def dry_run_id(import_id: str) -> str:
    """Return the id under which parts and issues of an import's dry run are stored."""
    return f"{import_id}:dry"


def conflicting_query(job: ImportJob) -> Mapping[str, Any] | None:
    """Return the query for imports of the workspace that may not run beside this one; None without any."""
    if isinstance(job.source, AccountSource):
        return {"source.provider": job.source.provider, "source.account": job.source.account}
    if job.summary is None or job.stage == "reading" or job.is_dry_run:
        return None
    stages: Sequence[Stage] = ("running", "verifying", "undoing") if job.stage == "undoing" else ("undoing",)
    return {
        "source.kind": "upload",
        "summary.provider": job.summary.provider,
        "summary.account": job.summary.account,
        "stage": {"$in": list(stages)},
        "dry_run": False,
    }


def expected_bytes(job: ImportJob) -> int:
    """Return how many bytes an import takes in Kafka: by its dry run, or else about those of the export."""
    if job.trial and (measured := job.trial.get("kafka")):
        return int(measured.get("bytes", 0))
    return job.summary.size if job.summary else 0
