"""An edit that waits for a person: both sides have edited the message, and the mapping asks."""

from datetime import datetime, timedelta
from typing import Final, Literal

from shared.contracts.ids import derive
from shared.runtime.records import Record, stored_null

COLLECTION: Final = "sync_conflicts"
RETENTION: Final = timedelta(days=30)
ConflictState = Literal["open", "applied", "dropped"]


class Conflict(Record):
    """An edit at `leg` of a message whose last edit was made at `other_leg`. `text` is in Markdown.

    `applied_revision` is what the edit was published as, once a person has chosen it.
    """

    workspace: str
    mapping_id: str
    synced_id: str
    leg: str
    other_leg: str
    text: str
    revision: int
    author_id: str
    author_name: str = ""
    state: ConflictState = "open"
    applied_revision: int | None = stored_null()
    created_at: datetime
    resolved_at: datetime | None = stored_null()
    expires_at: datetime


def conflict_id_for(synced_id: str, leg: str, revision: int) -> str:
    """Derive the id of a conflict, so that a repeated event finds the same record."""
    return f"cfl_{derive(synced_id, leg, str(revision))}"
