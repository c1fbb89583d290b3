"""A lane: the changes of a mapping for one conversation, as far as they are in memory."""

from dataclasses import dataclass, field
from typing import Final

from services.sync.carry.outcomes import Change
from services.sync.store.queue import QueueCursor

MAX_IN_MEMORY: Final = 32
"""The maximum number of changes of a lane in memory. Further changes are stored."""


@dataclass(slots=True, eq=False)
class Lane:
    """The state of one lane in this process. One that waits takes little memory: there may be 10,000."""

    name: str
    workspace: str
    account_key: str
    changes: list[Change] = field(default_factory=list)
    has_stored: bool = False
    """True if the database has changes that follow those in `changes`."""
    cursor: QueueCursor = field(default_factory=QueueCursor)
    is_running: bool = False
    """True while it has a turn, or is in the line for one."""
    due_at: float | None = None
    """When it goes on, on the clock of the event loop; None if it does not wait."""
    is_woken: bool = False
    """True if `Lanes.wake` was called during its turn, or before one: it must not wait then."""
    is_due: bool = False
    """True if the pause of the first change has ended, by its time or by `Lanes.wake`."""

    # Its record (`LaneRecord`)
    record_id: str = ""
    stamp: str = ""
    """Empty if there is no record."""
    is_recorded: bool = False
    """True if this process has written the record since it got the partition."""
    recorded_head: int = 0
    storing: int = 0
    """Calls that store changes now."""
    stores: int = 0
    """Such calls so far."""

    @property
    def takes_more(self) -> bool:
        """True if it does not wait, and has room for another change in memory."""
        return self.due_at is None and len(self.changes) < MAX_IN_MEMORY
