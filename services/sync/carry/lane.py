"""The in-memory state of a lane: the changes of one mapping for one conversation, in their order."""

from dataclasses import dataclass, field
from typing import Final

from services.sync.carry.outcomes import Change
from services.sync.store.queue import QueueCursor

MAX_IN_MEMORY: Final = 32
"""The maximum number of changes of a lane in memory. Further changes are stored."""


@dataclass(slots=True, eq=False)
class Lane:
    """The state of one lane in this process. A waiting lane takes little memory: there may be 10,000."""

    name: str
    workspace: str
    account_key: str
    changes: list[Change] = field(default_factory=list)
    has_stored: bool = False
    """True if the database may have changes that follow those in `changes`."""
    cursor: QueueCursor = field(default_factory=QueueCursor)
    is_running: bool = False
    """True while it has a turn, or is queued for one."""
    due_at: float | None = None
    """The end of its pause, on the clock of the event loop; None if it does not wait."""
    is_retry_requested: bool = False
    """True if `Lanes.retry_waiting` was called while it did not wait: its next pause is skipped."""
    is_due: bool = False
    """True if the pause of the first change has ended, by its time or by `Lanes.retry_waiting`."""

    # Its record (`LaneRecord`)
    record_id: str = ""
    stamp: str = ""
    """The stamp of its record; empty if there is no record."""
    is_recorded: bool = False
    """True if this process has written the record since the partition was assigned to it."""
    recorded_head: int = 0
    storing: int = 0
    """Number of writes of changes to the database that are under way."""
    stores: int = 0
    """Number of such writes that have ended."""

    @property
    def takes_more(self) -> bool:
        """True if it does not wait, and may hold another change in memory."""
        return self.due_at is None and len(self.changes) < MAX_IN_MEMORY
