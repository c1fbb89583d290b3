"""The state of a forwarded message at every target, its trace, and the links of its ids."""

from datetime import datetime
from random import randrange
from typing import Any, Final, Literal

from pydantic import Field

from shared.contracts.ids import derive
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

    `parts` are its ids there, in order, and `thread` is the thread that it is in; `revision` is that of the
    last edit shown there. `sending_at` is written before a part is sent, and removed with the outcome, for
    whoever takes over after a crash. A message is in the state `sending` then; an added part leaves it
    `sent`. `reactions` are the emoji that the hub has set there.
    """

    leg: str
    provider: str
    account: str
    conversation: str
    state: TargetState = "waiting"
    parts: tuple[str, ...] = ()
    part_count: int = 0
    thread: str | None = stored_null()
    with_files: bool = False
    text_digest: str = ""
    """Of the text that the chat has been sent last: by it, an edit that comes back is recognized."""
    revision: int = -1
    reactions: tuple[str, ...] = ()
    sending_at: datetime | None = stored_null()
    permalink: str | None = stored_null()
    code: str | None = stored_null()
    reason: str | None = stored_null()
    fix: str | None = stored_null()
    attempts: int = 0
    fetches: int = 0
    """How often a file of the message could not be fetched."""
    sent_at: datetime | None = stored_null()
    discarded_at: datetime | None = stored_null()
    """Changes that were received before are not carried any more."""
    notified_at: datetime | None = stored_null()
    """When its source got a notice that it was given up."""
    trace: tuple[TraceEntry, ...] = ()


class PersonReaction(StoredPart):
    """The last change of one person's reaction with one emoji, at one leg. `at` is a Unix time."""

    leg: str
    person: str
    name: str = ""
    emoji: str
    added: bool
    at: float


class LateEdit(StoredPart):
    """An edit that came before its message: the message is sent with this text."""

    text: str
    revision: int


class SyncedMessage(Record):
    """A message of one leg of a mapping, with its targets by leg id. Expires after `RETENTION_DAYS`.

    `leg` is where it was written, `thread` the thread there. A record without `has_come` stands for a message
    of which only a change or a reply has come; it expires soon. `edited_leg` is where the last edit was made.
    """

    workspace: str
    mapping_id: str
    leg: str
    has_come: bool = True
    message_id: str
    provider: str
    account: str
    conversation: str
    external_id: str
    thread: str | None = stored_null()
    author_id: str = ""
    author_name: str = ""
    excerpt: str = ""
    parsed_as: str = ""
    permalink: str | None = stored_null()
    received_at: datetime
    expires_at: datetime
    revision: int = 0
    edited_leg: str | None = stored_null()
    late_edit: LateEdit | None = stored_null()
    deleted: bool = False
    reactions: dict[str, PersonReaction] = Field(default_factory=dict)
    source_reactions: tuple[str, ...] = ()
    """The emoji that the hub has set on the message where it was written."""
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


QueueState = Literal["waiting", "aside", "failed"]
BUCKETS: Final = 256
"""Each change is in one of so many groups, at random: from some of them, counts of all are estimated."""


class QueuedChange(Record):
    """A change that could not be carried at once.

    Those of a `lane` (`lane_of`) that are `waiting` go out by `position`, the first of them not before
    `due_at`. A change that is `aside` holds up no other, and is tried again at `due_at`; if its lane waits
    then, it is `waiting` too. One that has `failed` is kept for a retry. `partition` is that of its record on
    `sync.requested`: the process that owns it works on the change.
    """

    workspace: str
    mapping_id: str
    lane: str
    account_key: str
    partition: int
    position: int
    state: QueueState
    due_at: datetime
    synced_id: str
    leg_id: str
    request: dict[str, Any]
    traceparent: str = ""
    attempts: int = 0
    give_up_at: datetime
    reason: str = ""
    bucket: int = Field(default_factory=lambda: randrange(BUCKETS))  # noqa: S311 -- no secret
    created_at: datetime
    expires_at: datetime


def synced_id_for(mapping_id: str, hub_message: str) -> str:
    """Derive the id of a message in a mapping, so that a repeated event finds the same record."""
    return f"syn_{derive(mapping_id, hub_message)}"
