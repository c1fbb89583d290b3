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
PROBLEM_STATES: Final = frozenset({"failed", "unknown", "skipped", "discarded"})
"""States of a target that a person may look for among many messages."""
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
    """The copy of a message at one leg.

    `parts` are the ids of its parts in order, `thread` is the thread that has it, `revision` is that of the
    last edit shown there. `sending_at` is stored before a part is sent, and removed with the outcome: if it
    is set after a crash, the part may have been sent. The state is `sending` meanwhile, except for a part
    that an edit adds, during which it stays `sent`. `reactions` are the emoji that the hub has set there, and
    `unsure_reactions` those that may be set: stored before the calls, and removed with their outcome.
    """

    leg: str
    provider: str
    account: str
    conversation: str
    state: TargetState = "waiting"
    parts: tuple[str, ...] = ()
    thread: str | None = stored_null()
    with_files: bool = False
    text_digest: str = ""
    """Digest of the text last sent to the chat, by which an echo of an edit is recognized."""
    revision: int = -1
    reactions: tuple[str, ...] = ()
    unsure_reactions: tuple[str, ...] = ()
    sending_at: datetime | None = stored_null()
    permalink: str | None = stored_null()
    code: str | None = stored_null()
    reason: str | None = stored_null()
    fix: str | None = stored_null()
    attempts: int = 0
    fetches: int = 0
    """Number of attempts that ended because a file of the message could not be downloaded."""
    first_fetch_at: datetime | None = None
    """When the first of them ended."""
    sent_at: datetime | None = stored_null()
    discarded_at: datetime | None = stored_null()
    """When the target was discarded: changes received before are not applied."""
    notified_at: datetime | None = stored_null()
    """When a notice of the failure was written to the source conversation."""
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
    `had_problem` is true once a target had one of the `PROBLEM_STATES`: an index has these messages.
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
    event_id: str = ""
    trace_id: str = ""
    received_at: datetime
    expires_at: datetime
    revision: int = 0
    edited_leg: str | None = stored_null()
    late_edit: LateEdit | None = stored_null()
    deleted: bool = False
    had_problem: bool = False
    reactions: dict[str, PersonReaction] = Field(default_factory=dict)
    source_reactions: tuple[str, ...] = ()
    """The emoji that the hub has set on the message where it was written."""
    unsure_source_reactions: tuple[str, ...] = ()
    """Those that may be set there, as the `unsure_reactions` of a target."""
    targets: dict[str, Target] = Field(default_factory=dict)

    @property
    def has_problem(self) -> bool:
        """True if a target has one of the `PROBLEM_STATES`."""
        return any(target.state in PROBLEM_STATES for target in self.targets.values())

    def document(self) -> dict[str, Any]:
        """Return the document to store; `had_problem` is true in it if a target has a problem."""
        document = super().document()
        document["had_problem"] = self.had_problem or self.has_problem
        return document


class MessageLink(Record):
    """Ids by which a message is found.

    An external id of a copy has `link_id(...)` as its `_id`. That of the source, where `leg` is None, has the
    message's: with the external id it has the ids of the event and the trace that brought the message.
    """

    workspace: str
    mapping_id: str
    synced_id: str
    leg: str | None = stored_null()
    part: int = 0
    related_ids: tuple[str, ...] = ()
    expires_at: datetime


QueueState = Literal["waiting", "aside", "failed"]
BUCKETS: Final = 256
"""Number of buckets. Each change is in a random one, so a few buckets are a sample of all changes."""


class QueuedChange(Record):
    """A change that could not be applied at once.

    The `waiting` changes of a `lane` (`lane_of`) are applied by `position`, the first one not before its
    `due_at`. A change that is `aside` is retried at `due_at`, and later changes of its lane do not wait for
    it; if its lane waits at that time, it becomes `waiting`. A `failed` change is stored for a retry by a
    person, for some days; the others do not expire before their message. `partition` is that of its record on
    `sync.requested`: the owner of that partition applies it.
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
    first_attempt: str | None = None
    """The `traceparent` of its first attempt, if that was traced."""
    attempts: int = 0
    give_up_at: datetime
    reason: str = ""
    bucket: int = Field(default_factory=lambda: randrange(BUCKETS))  # noqa: S311 -- no secret
    created_at: datetime
    expires_at: datetime


def synced_id_for(mapping_id: str, hub_message: str) -> str:
    """Derive the id of a message in a mapping, so that a repeated event finds the same record."""
    return f"syn_{derive(mapping_id, hub_message)}"
