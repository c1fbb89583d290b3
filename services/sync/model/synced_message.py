"""The state of a forwarded message at every target, its trace, and the links of its ids."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from shared.contracts.ids import derive
from shared.runtime.due_work import DueRecord
from shared.runtime.records import Record, StoredPart, stored_null

MESSAGES: Final = "synced_messages"
LINKS: Final = "message_links"
QUEUE: Final = "sync_queue"
RETENTION_DAYS: Final = 400
MAX_TRACE: Final = 50
"""Entries of the trace of one target. The first one stays, the oldest of the others go."""

TargetState = Literal["waiting", "sending", "sent", "failed", "unknown", "skipped", "discarded", "deleted"]
Step = Literal[
    "received", "parsed", "waiting", "sending", "sent", "edited", "deleted", "reacted", "stored", "failed",
    "skipped", "unknown", "lost_formatting", "discarded", "retried", "duplicate_possible",
]  # fmt: skip


class TraceEntry(StoredPart):
    """What happened, when, at which attempt. `detail` is for people, and never has a secret or the text."""

    at: datetime
    step: Step
    attempt: int = 0
    detail: str = ""


class Target(StoredPart):
    """A message at one leg.

    `parts` are its ids there, in order; `revision` is that of the last edit shown there.
    `sending` is written before the visible step, so that whoever takes over after a crash knows of it.
    """

    leg: str
    provider: str
    account: str
    conversation: str
    state: TargetState = "waiting"
    parts: tuple[str, ...] = ()
    part_count: int = 0
    revision: int = -1
    permalink: str | None = stored_null()
    code: str | None = stored_null()
    reason: str | None = stored_null()
    fix: str | None = stored_null()
    attempts: int = 0
    sent_at: datetime | None = stored_null()
    trace: tuple[TraceEntry, ...] = ()


class SyncedMessage(Record):
    """A message of one leg of a mapping, with its targets by leg id. Expires after `RETENTION_DAYS`."""

    workspace: str
    mapping_id: str
    message_id: str
    provider: str
    account: str
    conversation: str
    external_id: str
    author_id: str
    author_name: str = ""
    excerpt: str = ""
    permalink: str | None = stored_null()
    received_at: datetime
    expires_at: datetime
    revision: int = 0
    targets: dict[str, Target] = Field(default_factory=dict)


class MessageLink(Record):
    """An external id of a message: `_id` is `link_id(...)`. `leg` is None for the source."""

    workspace: str
    mapping_id: str
    synced_id: str
    leg: str | None = stored_null()
    part: int = 0
    external_id: str
    expires_at: datetime


class QueuedChange(DueRecord):
    """A change that could not be carried at once.

    Those of a `lane` (target conversation) go out by `position`.
    """

    workspace: str
    mapping_id: str
    lane: str
    account_key: str
    position: int
    synced_id: str
    request: dict[str, Any]
    give_up_at: datetime
    reason: str = ""
    created_at: datetime


def synced_id_for(mapping_id: str, hub_message: str) -> str:
    """Derive the id of a message in a mapping, so that a repeated event finds the same record."""
    return f"syn_{derive(mapping_id, hub_message)}"
