"""Changes for a target, and the outcomes of applying one: done, waits, set aside, or failed."""

from dataclasses import dataclass
from datetime import datetime

from services.sync.model.synced_message import QueuedChange
from shared.contracts.sync import SyncRequested
from shared.runtime.kafka.batch import Completion


@dataclass(slots=True)
class Change:
    """A change to apply at one target.

    It has the `completion` of its record, or it is `stored`. It has both while it is being stored, and after
    that has failed: it may be in the database. `position` orders the changes of a lane.
    """

    request: SyncRequested
    workspace: str
    traceparent: str
    lane: str
    account_key: str
    partition: int
    position: int
    received_at: datetime
    completion: Completion | None = None
    stored: QueuedChange | None = None
    attempts: int = 0
    faults: int = 0
    """Errors of the hub itself."""
    first_attempt: str = ""
    """The `traceparent` of its first attempt, if that was traced."""
    method: str = ""
    """The method of the provider that was called last."""

    @property
    def is_revoked(self) -> bool:
        """True if its record belongs to another process now."""
        return self.completion is not None and self.completion.is_revoked

    @property
    def rate_key(self) -> str:
        """The key by which calls are counted: per workspace, even if two have connected the same account."""
        return f"{self.workspace}:{self.account_key}"


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The change is retried after `pause_s` seconds; later changes of its lane wait behind it."""

    pause_s: float
    reason: str
    counts: bool = True
    """True if this was an attempt, to be counted in `Change.attempts`."""
    needs_person: bool = False
    """True if the change waits until a person acts. A process that takes the partition over retries it at
    once, because it does not know whether the person has acted."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """The change is retried after `pause_s` seconds; later changes of its lane do not wait for it."""

    pause_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The change was given up. It stays stored for a retry by a person."""

    reason: str


Outcome = Done | Waits | SetAside | Failed


class Stopped(Exception):
    """An operation was stopped before its next step; `outcome` is that of its change."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
