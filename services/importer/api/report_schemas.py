"""The rows of reports in lists."""

from pydantic import BaseModel


class ReportRowOut(BaseModel):
    """What was found of a conversation, and what became of it.

    Found = imported + duplicate + skipped + failed; `changed` are among the duplicates. `digest` is the sum
    of the ids of its messages.
    """

    conversation: str
    name: str
    channel_id: str | None
    found: int
    imported: int
    duplicate: int
    skipped: int
    failed: int
    changed: int
    first: str | None
    last: str | None
    digest: str | None


class ReportChannelOut(ReportRowOut):
    """A conversation. `left_out` says why it was not imported, `days` on how many days something was found.

    `without_parent` are replies to messages that no import has.
    """

    left_out: str | None
    days: int
    without_parent: int


class ReportDayOut(ReportRowOut):
    """A day of a conversation; `day` is null for messages without a time."""

    day: str | None
