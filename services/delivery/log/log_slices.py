"""Slices of time in which the log is searched, as wide as they must be to find what is wanted.

The newest first, entry counts say where a slice has to begin to have about so many entries, however long
nothing was logged. Without counts, a slice is up to sixteen times as wide as the last one. Counts and gaps
choose nothing but widths: every time is in a slice, so those that are missing or wrong cost reads, and no
delivery is missed.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.delivery.log.entry_counts import EntryCounts
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document

LogKey = tuple[datetime, str]
"""The position of a delivery in the log: when it was logged, and its id."""

TIME_RESOLUTION: Final = timedelta(milliseconds=1)
"""The resolution of stored times."""
SPARE: Final = 1.25
"""The next slice is this much wider than what should suffice."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SLICE: Final = timedelta(seconds=1)
_MAX_WIDENING: Final = 16.0
_MAX_FILTERED_WIDENING: Final = 4.0
_MAX_COUNTED_WIDENING: Final = 4.0
_COUNTED_AFTER: Final = timedelta(seconds=10)
"""The counts of the last seconds may not be written yet."""
_WIDE_SLICE: Final = 4_000
"""Counted entries from which on slices widen slowly: the next ones may all be what is searched for."""
_WIDE_WIDENING: Final = 1.5


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without deliveries, up to `high`. `width` is that of a slice with one page right before it."""

    high: datetime
    width: timedelta


Gaps = dict[datetime, Gap]
"""Gaps by the time of the last delivery before each."""


class SliceWidth:
    """The width of the next slice: a number of entries where they are counted, else a time."""

    def __init__(self, wanted: int) -> None:
        """Start with a narrow slice. `wanted` is the number of deliveries that are searched for."""
        self._wanted = wanted
        self.reset()

    def reset(self) -> None:
        """Make the next slice narrow."""
        self.time = _FIRST_SLICE
        self.entries = SPARE * self._wanted
        self.is_counted = False
        """True if the last slice was chosen by `entries`."""

    def adapt(self, *, examined: int, found: int, wanted: int, budget: int) -> None:
        """Set the width of the next slice: as wide as it must be to find `wanted`, and to examine `budget`.

        It is the present one, up to four times as wide; sixteen times if the last slice was empty, and not
        counted. `examined` and `found` are of the last slice.
        """
        widening = _MAX_COUNTED_WIDENING if self.is_counted else _MAX_WIDENING
        if examined:
            widening = min(_MAX_FILTERED_WIDENING, budget / examined)
        if found:
            widening = min(widening, SPARE * wanted / found)
        if self.is_counted:
            widening = min(widening, max(_WIDE_SLICE / self.entries, _WIDE_WIDENING))
            self.entries *= max(1.0, widening)
        else:
            self.time *= max(1.0, widening)


async def slices_newest_first(
    since: datetime | None,
    until: datetime | None,
    after: LogKey | None,
    width: SliceWidth,
    gaps: Mapping[datetime, Gap],
    counts: EntryCounts | None,
) -> AsyncGenerator[Document, None]:
    """Yield slices of the log as queries, newest first, each as wide as `width` is then.

    A slice that reaches into a gap goes to the gap's end, and the next one is narrow again. Raises
    `DatabaseUnavailable`.
    """
    floor = max(since, _EPOCH) if since else _EPOCH
    top = until
    if after:
        top = min(after[0], until) if until else after[0]
        # Deliveries of the same millisecond as the cursor come first, by id.
        if top == after[0] >= floor:
            yield {"created_at": top, "_id": {"$lt": after[1]}}
            width.reset()  # a millisecond says nothing about the next second
    now = utcnow()
    high = top or now
    if top and top <= floor:
        return
    while True:
        gap = start = None
        if counts and high <= now - _COUNTED_AFTER:
            start = await counts.start_of(high, width.entries, floor)
        width.is_counted = start is not None
        if start:
            low = max(floor, min(start, high - TIME_RESOLUTION))
        else:
            low = floor if high - floor <= width.time else high - width.time
            end = max((end for end in gaps if floor <= end and end + TIME_RESOLUTION < high), default=None)
            gap = gaps[end] if end and low <= gaps[end].high else None
            if end and gap:
                low = end + TIME_RESOLUTION
        yield _created_between(low, top)
        if low == floor:
            return
        if gap:
            width.time = gap.width
        top, high = low, low


async def slices_oldest_first(
    since: datetime | None,
    until: datetime | None,
    after: LogKey | None,
    width: SliceWidth,
    start: datetime | None = None,
) -> AsyncGenerator[Document, None]:
    """Yield slices of the log as queries, oldest first, each as wide as `width` is then.

    The time until `start`, about when the first entry was logged, is one slice.
    """
    low = max(since, _EPOCH) if since else _EPOCH
    if after:
        if after[0] >= low and (until is None or after[0] < until):
            yield {"created_at": after[0], "_id": {"$gt": after[1]}}
            width.reset()
        low = max(low, after[0] + TIME_RESOLUTION)
    end = until or max(utcnow(), low)
    if start and low < start < end:
        yield _created_between(low, start)
        width.reset()
        low = start
    while low < end or until is None:
        high = None if end - low <= width.time else low + width.time
        yield _created_between(low, high or until)
        if high is None:
            return
        low = high


def _created_between(low: datetime, high: datetime | None) -> Document:
    """Return the query for `created_at` from `low` (included) to `high` (excluded).

    It does not use `$gte`: the embedded database then leaves out `low` itself if the index has more fields.
    """
    return {"created_at": {"$gt": low - TIME_RESOLUTION} | ({"$lt": high} if high else {})}
