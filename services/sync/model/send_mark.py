"""Marks of sends that have begun, stored apart from their messages: one document for those of a moment."""

from datetime import datetime
from typing import Final

from shared.runtime.records import Record, StoredPart

MARKS: Final = "sync_send_marks"


class SendMark(StoredPart):
    """A process is about to send a message to a target, since `at`.

    It has the message from a record of this partition of `sync.requested`.
    """

    synced_id: str
    leg: str
    partition: int
    at: datetime


class SendMarks(Record):
    """Marks that a process stored together. It deletes them when all of these sends have ended."""

    process: str
    marks: tuple[SendMark, ...]
