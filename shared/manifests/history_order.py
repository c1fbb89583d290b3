"""Put the records of an export in order: many conversations in one stream, in any order of time.

A dump of a database is such a stream. Its first reading counts the records of each conversation and day
(`Survey`), which makes the units. Later readings collect the records of as many units as fit into memory
(`OrderedRecords`): a large export is read as often as it has such parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.manifests.history_types import EARLIEST, LATEST, HistoryConversation, Unit, Unreadable

UNKNOWN: Final = HistoryConversation("unknown", "Records without a channel", listed=False)
"""The conversation of records that do not say which one they are of. They are counted; none is a message."""
UNIT_BYTES: Final = 4 * 1024 * 1024
"""A unit ends with the day that reaches so many bytes."""
BUFFER_BYTES: Final = 96 * 1024 * 1024
"""Records of several units are held in memory up to so many bytes."""
_RECORD_BYTES: Final = 400
"""What holding a record takes beside its bytes."""
_MAX_DAYS: Final = 1_000_000
_DAY_S: Final = 86_400
_NO_DAY: Final = -1


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it is in the stream: its number, counted from 1, and what it is read from later.

    `at` is a Unix time, None for one that is missing or wrong. `size` is in bytes.
    """

    number: int
    conversation: str
    at: float | None
    size: int
    value: Any


def plausible_time(at: float) -> float | None:
    """Return a Unix time; None if it is not of the years 1970 to 2099."""
    return at if EARLIEST < at < LATEST else None


class Survey:
    """Counts the records of a stream by conversation and day.

    `first_at` and `last_at` are the Unix times of the first and the last record, 0 without one.
    """

    def __init__(self) -> None:
        self._days: dict[str, dict[int, int]] = {}
        self._count = 0
        self.first_at = 0.0
        self.last_at = 0.0

    def add(self, record: Raw) -> None:
        """Count a record. Raises `Unreadable` for more than a million days of conversations."""
        days = self._days.setdefault(record.conversation, {})
        if record.at is not None:
            self.first_at = min(self.first_at or record.at, record.at)
            self.last_at = max(self.last_at, record.at)
        day = _day(record.at)
        self._count += day not in days
        if self._count > _MAX_DAYS:
            raise Unreadable(
                f"it has more than {_MAX_DAYS:,} days of channels: export fewer channels, or a shorter time"
            )
        days[day] = days.get(day, 0) + record.size + _RECORD_BYTES

    @property
    def conversations(self) -> Sequence[str]:
        """The conversations that have records, by id, in the order of their first ones."""
        return list(self._days)

    def units(self) -> Iterator[Unit]:
        """Yield the units: consecutive days of a conversation. One with a wrong time is in the first unit."""
        for conversation, days in self._days.items():
            first, size = _NO_DAY, 0
            ordered = sorted(days)
            for position, day in enumerate(ordered):
                first = day if not size else first
                size += days[day]
                if size >= UNIT_BYTES or position == len(ordered) - 1:
                    yield Unit(f"{conversation}#{first}#{day}", conversation, size)
                    size = 0


class OrderedRecords:
    """The records of a stream, unit by unit, each in the order of time.

    A unit over BUFFER_BYTES, which is one day of one conversation, is in the order of the stream instead.
    """

    def __init__(self, scan: Callable[[], Iterable[Raw]], units: Sequence[Unit]) -> None:
        """Take a function that reads the stream from its start, and all units of it."""
        self._scan = scan
        self._units = units
        self._positions = {unit.id: position for position, unit in enumerate(units)}
        self._collected: Mapping[str, list[Raw]] = {}

    def records(self, unit: Unit) -> Iterator[Raw]:
        """Yield the records of a unit. Raises what reading the stream raises."""
        if unit.id not in self._collected:
            if unit.size > BUFFER_BYTES:
                days = _Days([unit])
                yield from (record for record in self._scan() if days.unit_of(record))
                return
            self._collected = {}  # is free before the next part comes
            self._collected = self._collect(self._next_units(self._positions[unit.id]))
        yield from sorted(self._collected[unit.id], key=lambda record: (record.at or 0.0, record.number))

    def _next_units(self, position: int) -> Sequence[Unit]:
        """Return the units from a position on that fit into memory together."""
        size, end = 0, position
        while end < len(self._units) and (size := size + self._units[end].size) <= BUFFER_BYTES:
            end += 1
        return self._units[position:end]

    def _collect(self, units: Sequence[Unit]) -> Mapping[str, list[Raw]]:
        days = _Days(units)
        collected: dict[str, list[Raw]] = {unit.id: [] for unit in units}
        for record in self._scan():
            if unit_id := days.unit_of(record):
                collected[unit_id].append(record)
        return collected


class _Days:
    """Which of some units a record is in."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._by_conversation: dict[str, list[tuple[int, int, str]]] = {}
        for unit in units:
            _, first, last = unit.id.rsplit("#", 2)
            self._by_conversation.setdefault(unit.conversation, []).append((int(first), int(last), unit.id))

    def unit_of(self, record: Raw) -> str | None:
        day = _day(record.at)
        for first, last, unit_id in self._by_conversation.get(record.conversation, ()):
            if first <= day <= last:
                return unit_id
        return None


def _day(at: float | None) -> int:
    return _NO_DAY if at is None else int(at // _DAY_S)
