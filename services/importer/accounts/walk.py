"""Store the position of an import of a connected account: the conversation, and the page of it."""

from time import time
from typing import Any, Final

from pydantic import Field

from services.importer.accounts.rate_limiter import RateLimiterState
from shared.runtime.records import StoredPart

_SEEN: Final = 8
_MAX_EMPTY: Final = 500
"""Pages without a record in a row, after which a conversation ends: the provider may go on for ever."""


class Walk(StoredPart):
    """The place of the next page, with what is known for an estimate. It is stored with the unit before it.

    `conversation` is the position of the conversation among those of the import, and `cursor` the provider's
    for its next page. Times are Unix times.
    """

    conversation: int = 0
    cursor: str | None = None
    pages: int = 0
    """Pages of this conversation that are read."""
    empty: int = 0
    """Of them, the last ones in a row that had no record."""
    seen: tuple[str, ...] = ()
    """The last cursors, by which a circle of them is recognized."""
    fraction: float = 0.0
    """The fraction of this conversation that is read, by its time; 0.0 if unknown."""
    began_at: float = 0.0
    """The time at which the first page of this conversation was requested."""
    finished: int = 0
    """Conversations that are read, and `finished_pages` their pages."""
    finished_pages: float = 0.0
    interval_s: float = 0.0
    """Seconds between two pages, as the account allows it."""
    failures: int = 0
    """Attempts in a row to read this page that failed at the provider, or ended the reader process."""
    limiter: RateLimiterState = Field(default=RateLimiterState())

    def after_page(self, cursor: str | None, *, records: int, fraction: float, **changes: Any) -> "Walk":
        """Return the place after a page of the conversation; after its last one, the next conversation."""
        if cursor is None:
            return self.next_conversation(more_pages=1, **changes)
        return self.model_copy(
            update={
                "cursor": cursor,
                "pages": self.pages + 1,
                "empty": 0 if records else self.empty + 1,
                "seen": (*self.seen, cursor)[-_SEEN:],
                "fraction": max(self.fraction, min(fraction, 1.0)),
                "began_at": self.began_at or time(),
                "failures": 0,
                **changes,
            }
        )

    def next_conversation(self, *, more_pages: float = 0.0, **changes: Any) -> "Walk":
        """Return the start of the next conversation."""
        return self.model_copy(
            update={
                "conversation": self.conversation + 1,
                "cursor": None,
                "pages": 0,
                "empty": 0,
                "seen": (),
                "fraction": 0.0,
                "began_at": 0.0,
                "failures": 0,
                "finished": self.finished + 1,
                "finished_pages": self.finished_pages + self.pages + more_pages,
                **changes,
            }
        )

    def is_endless(self, cursor: str | None) -> bool:
        """Return whether pages repeat, or bring nothing for too long."""
        return cursor is not None and (cursor in self.seen or self.empty >= _MAX_EMPTY)

    def estimated_s(self, conversations: int) -> float | None:
        """Return the seconds that the pages of so many conversations still take; None if it is unknown."""
        whole = max(self.pages / self.fraction, self.pages) if self.fraction > 0 else None
        known = self.finished + (whole is not None)
        if not known or not self.interval_s:
            return None
        mean = (self.finished_pages + (whole or 0.0)) / known
        left = (whole if whole is not None else mean) - self.pages
        others = max(conversations - self.conversation - 1, 0)
        return max(0.0, left + others * mean) * self.interval_s

    def sampled_s(self, conversations: int) -> float | None:
        """Return the seconds that so many conversations take, by the first pages of some of them."""
        if not self.finished:
            return None
        return self.finished_pages / self.finished * conversations * self.interval_s
