"""The outcomes of carrying a change: it is done, waits, is set aside, or has failed."""

from dataclasses import dataclass
from datetime import datetime

from services.sync.model.synced_message import QueuedChange
from shared.contracts.sync import SyncRequested
from shared.runtime.kafka.batch import Completion


@dataclass(slots=True)
class Change:
    """A change that is to be carried to one target.

    It has the `completion` of its record, or it is `stored`. `position` orders the changes of a lane.
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
    method: str = ""
    """The method of the provider that was called last."""

    @property
    def is_revoked(self) -> bool:
        """True if its record belongs to another process now."""
        return self.completion is not None and self.completion.is_revoked

    @property
    def rate_key(self) -> str:
        """The key by which calls are counted: workspaces that share an account never wait for each other."""
        return f"{self.workspace}:{self.account_key}"


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The change is tried again after `pause_s`, and what is behind it in its lane waits too."""

    pause_s: float
    reason: str
    counts: bool = True
    """True if it was an attempt."""
    needs_person: bool = False
    """True if the change waits until a person acts. A process that takes the partition over retries it at
    once, because it does not know whether the person has acted."""


@dataclass(frozen=True, slots=True)
class Aside:
    """The change is tried again after `pause_s`; it holds up no other."""

    pause_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The change was given up. It is kept for a retry."""

    reason: str


Outcome = Done | Waits | Aside | Failed


class Stopped(Exception):
    """An operation was ended before its next step, with the outcome of its change."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
