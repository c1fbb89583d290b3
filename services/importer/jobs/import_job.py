"""An import as it is stored: a job with stages, its plan and its counts."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from services.importer.accounts.walk import Walk
from services.importer.jobs.source import Source
from shared.runtime.due_work import OPEN
from shared.runtime.jobs import Job
from shared.runtime.mongo import Index, utcnow
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
Step = Literal["read", "people", "messages", "files", "verify"]


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
    description: str
    choices: tuple[dict[str, Any], ...] = ()
    """Questions that the export does not answer, as the reader asks them."""


def start_changes(*, dry_run: bool) -> dict[str, Any]:
    """Return the fields of an import that starts, by their names in Python."""
    return {
        "stage": "running",
        "is_dry_run": dry_run,
        "step": "people",
        "done": 0,
        "issues": 0,
        "position": 0,
        "queued_at": utcnow(),
        "started_at": utcnow(),
    }


class ImportJob(Job):
    """An import of one source. `open` is false while a person decides: when it is ready, or paused."""

    source: Source
    stage: Stage = "reading"
    is_paused: bool = Field(default=False, alias="paused")
    is_dry_run: bool = Field(default=False, alias="dry_run")
    """True while the run publishes nothing."""
    queued_at: Any = stored_null()
    """The time from which it waits for its turn among the imports of the workspace."""
    started_at: Any = stored_null()
    summary: Summary | None = stored_null()
    plan: dict[str, Any] = Field(default_factory=dict)
    step: Step = "read"
    position: int = 0
    """The first unit that is not stored as done, of the export's units in their order."""
    next_number: int = 1
    """The number of the next batch."""
    confirms: bool | None = stored_null()
    """Whether the chat confirms batches; None until it is known."""
    counts: dict[str, Any] = Field(default_factory=dict)
    """Counts by kind of record: found, selected, imported, duplicate, failed, and skipped by reason."""
    trial: dict[str, Any] | None = stored_null()
    """The counts of the last dry run."""
    reader_kills: int = 0
    """How often its reader process was killed since the last progress."""
    issues: int = 0
    keep_answered: bool = False
    walk: Walk | None = stored_null()
    """The place of the next page; only of a connected account."""
    repeat: Repeat | None = stored_null()
    starts_itself: bool = False
    """True if it starts when it is read, with the plan of the import that it repeats."""
    withdrawn: int = 0

    @property
    def added(self) -> int:
        """How many messages it has added, and not taken away again."""
        return int(self.counts.get("messages", {}).get("imported", 0)) - self.withdrawn

    @property
    def state(self) -> State:
        """The state that people see."""
        if self.status in ("failed", "cancelled"):
            return self.status
        if self.is_paused:
            return "paused"
        return self.stage
