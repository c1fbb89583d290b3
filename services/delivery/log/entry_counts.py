"""Entry counts: how many entries the delivery log got in each minute of an hour, as statistics store them.

Five seconds in which many entries are written at once have a count of their own, so that the density of a
short burst is known. Searches of the log use the counts to choose the width of a slice, and for nothing else:
they are as approximate as all statistics.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from shared.runtime.clock import utcnow

EntryTally = dict[int, list[int]]
"""Entries by interval of the hour: all, and those that were not delivered when they were logged."""

_INTERVAL_S: Final = 5
_BUSY_INTERVAL: Final = 100
"""Entries of one interval, in one write, from which on the interval has a count of its own.

It bounds what a search reads because it takes the rest of a minute to be evenly spread. An hour has at most
720 intervals.
"""
_MINUTE_S: Final = 60
_HOUR: Final = timedelta(hours=1)
_MAX_AGE: Final = timedelta(days=90)
"""The retention of statistics."""
_FIRST_HOURS: Final = 2
MAX_HOURS_PER_READ: Final = 48
"""Hours that are read at a time, once some have records: the embedded database compares each with all."""
_MAX_RECORDS: Final = 200
"""Hours with a record that one search reads, about: eight days of a log that is never quiet for an hour."""


@dataclass(frozen=True, slots=True)
class CountedTime:
    """A time with a number of entries that are taken to be evenly spread. Pieces of it have fractions."""

    start: datetime
    end: datetime
    entries: float


ReadCounts = Callable[[Sequence[datetime]], Awaitable[Sequence[Sequence[CountedTime]]]]
"""Reads some hours: for each that has a record, its counted times, all newest first."""


def add_entry(tally: EntryTally, at: datetime, *, delivered: bool) -> None:
    """Count one entry of the log."""
    counts = tally.setdefault((at.minute * _MINUTE_S + at.second) // _INTERVAL_S, [0, 0])
    counts[0] += 1
    counts[1] += not delivered


def add_entries(to: EntryTally, other: EntryTally) -> None:
    """Add the counts of another tally of the same hour."""
    for interval, counts in other.items():
        sums = to.setdefault(interval, [0, 0])
        sums[0] += counts[0]
        sums[1] += counts[1]


def entry_increments(tally: EntryTally) -> dict[str, int]:
    """Return what to add to the fields of an hour's record.

    Counts of minutes are named like `entries.7`, those of busy intervals by their first second like
    `entries.7:40`. `undelivered` has the same names.
    """
    increments: dict[str, int] = {}
    for interval, counts in tally.items():
        minute, second = divmod(interval * _INTERVAL_S, _MINUTE_S)
        name = f"{minute}:{second}" if counts[0] >= _BUSY_INTERVAL else str(minute)
        for field, count in zip(("entries", "undelivered"), counts, strict=True):
            if count:
                increments[f"{field}.{name}"] = increments.get(f"{field}.{name}", 0) + count
    return increments


def counted_times(hour: datetime, counts: Mapping[str, int]) -> Sequence[CountedTime]:
    """Return the times of an hour that have entries, newest first, without overlaps."""
    minutes: dict[int, int] = {}
    busy: dict[int, dict[int, int]] = {}
    for name, count in counts.items():
        minute, _, second = name.partition(":")
        if second:
            busy.setdefault(int(minute), {})[int(second)] = count
        else:
            minutes[int(minute)] = count
    return [
        time
        for minute in sorted({*minutes, *busy}, reverse=True)
        for time in _of_minute(hour + timedelta(minutes=minute), minutes.get(minute, 0), busy.get(minute, {}))
    ]


def _of_minute(start: datetime, count: int, busy: Mapping[int, int]) -> Iterator[CountedTime]:
    """Yield the parts of a minute that have entries, newest first. `busy` has intervals by first second."""

    def part(first: int, end: int, entries: int) -> Iterator[CountedTime]:
        total = entries + count * (end - first) / _MINUTE_S
        if total and first < end:
            yield CountedTime(start + timedelta(seconds=first), start + timedelta(seconds=end), total)

    end = _MINUTE_S
    for second in sorted(busy, reverse=True):
        yield from part(second + _INTERVAL_S, end, 0)
        yield from part(second, second + _INTERVAL_S, busy[second])
        end = second
    yield from part(0, end, 0)


class EntryCounts:
    """The entry counts of one log, read from the newest to the oldest as far as a search needs them."""

    def __init__(self, read: ReadCounts) -> None:
        self._read = read
        self._times: list[CountedTime] = []
        self._first = 0
        """The first of `_times` that can still be needed."""
        self._unread_until: datetime | None = None
        self._hours_per_read = _FIRST_HOURS
        self._records = 0

    async def start_of(self, high: datetime, entries: float, floor: datetime) -> datetime | None:
        """Return where a slice begins that ends at `high` and has so many entries.

        If fewer are counted after `floor`, it begins where the counts do; None if there are none. `high` must
        not rise from call to call. Raises `DatabaseUnavailable`.
        """
        position, total, start = self._first, 0.0, None
        while total < entries:
            if position == len(self._times):
                if not await self._read_more(high, floor):
                    break
                continue
            time = self._times[position]
            position += 1
            if time.start >= high:
                self._first = position
                continue
            end = min(time.end, high)
            counted = time.entries * ((end - time.start) / (time.end - time.start))
            start = end - (end - time.start) * min(1.0, (entries - total) / counted)
            total += counted
        return start

    async def _read_more(self, high: datetime, floor: datetime) -> bool:
        """Read the counts of earlier hours; return False if there are none, or enough were read."""
        until = self._unread_until or high.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
        oldest = max(floor, utcnow() - _MAX_AGE)
        if until <= oldest or self._records >= _MAX_RECORDS:
            return False
        hours = [until - _HOUR * number for number in range(1, self._hours_per_read + 1)]
        found = await self._read([hour for hour in hours if hour + _HOUR > oldest])
        for times in found:
            self._times += times
        self._records += len(found)
        self._unread_until = hours[-1]
        self._hours_per_read *= 2
        if found:
            self._hours_per_read = min(self._hours_per_read, MAX_HOURS_PER_READ)
        return True
