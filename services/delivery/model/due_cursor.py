"""The due cursor: where the last search for due deliveries of one webhook ended. Pure.

Each search continues there and reads window after window. A search with a limit alone would be enough for
MongoDB. The embedded database reads everything that matches before it applies a limit, so the windows keep
small what matches.

A position is a due time in milliseconds, or an order, which has milliseconds above `ORDER_BITS`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

CursorField = Literal["due_at", "order"]

ORDER_BITS: Final = 22
"""Bits of the record offset in an order; see `order_of` in `delivery.py`."""
LAST_POSITION: Final = {"due_at": 32_503_680_000_000, "order": (1 << 63) - 1}
"""The highest positions: the year 3000, and MongoDB's largest integer."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_DENSE_MS: Final = 50
_SPARSE_MS: Final = 1000
_WIDENING_FACTOR: Final = 16
_MAX_LOOKAHEAD: Final = timedelta(days=8)
"""Deliveries wait no longer than this unless a clock is wrong; everything later is one window."""
_MAX_DELAY: Final = timedelta(hours=1)
"""The longest time from when another process makes a delivery due until that is in the database.

It repeats the write while MongoDB is unavailable to it, and its clock may be behind."""


class DueCursor:
    """The lowest position that may hold an open delivery (`floor`), and the width of the next window.

    A new cursor knows nothing: its first window is everything.
    """

    __slots__ = ("_lowest", "_width", "field", "floor")

    def __init__(self, field: CursorField = "due_at") -> None:
        self._reset(field)

    @property
    def floor_time(self) -> datetime:
        """The due time at the floor of a cursor along due times."""
        return _EPOCH + timedelta(milliseconds=self.floor)

    def switch_field(self, field: CursorField) -> None:
        """Search along this field from now on: a webhook's ordering can change."""
        if field != self.field:
            self._reset(field)

    def note_due(self, due_at: datetime) -> None:
        """Note that this process wrote an open delivery.

        Along the order nothing changes: a new delivery is behind all others.
        """
        if self.field == "due_at":
            self._lower(position_of("due_at", due_at))

    def note_external_change(self, now: datetime) -> None:
        """Note that another process has opened a delivery, possibly with an old order or due time."""
        if self.field == "due_at":
            self._lower(position_of("due_at", now - _MAX_DELAY))
        else:
            self._reset("order")

    def windows(self, now: datetime, until: int) -> Iterator[tuple[int, int]]:
        """Yield windows from the floor up to `until`, each wider than the last.

        A window is its first and its last position, both included.
        """
        # From here on, `_lower` records what is written during this search.
        self._lowest = LAST_POSITION[self.field]
        low, width = self.floor, self._width
        # Beyond the look-ahead one window covers the rest: growing windows would take too many searches.
        near = min(until, position_of(self.field, now + _MAX_LOOKAHEAD))
        while low <= until:
            high = min(low + width, near) if low <= near else until
            yield low, high
            low, width = high + 1, width * _WIDENING_FACTOR

    def advance(self, position: int, span: int, *, has_more: bool) -> None:
        """Move the floor to `position`: nothing is open below it.

        `span` is the distance between the first and the last delivery that were found, and sets the width of
        the next window. `has_more` says that the search ended at its limit.
        """
        least_ms = _DENSE_MS if has_more else _SPARSE_MS
        self._width = max(2 * span, least_ms << ORDER_BITS if self.field == "order" else least_ms)
        # A delivery that was written during the search may be below the position.
        self.floor = min(position, self._lowest)

    def _reset(self, field: CursorField) -> None:
        self.field: CursorField = field
        """The order for a strict webhook, else the due time."""
        self.floor = 0
        self._width = self._lowest = LAST_POSITION[field]

    def _lower(self, position: int) -> None:
        self.floor, self._lowest = min(self.floor, position), min(self._lowest, position)


def position_of(field: CursorField, at: datetime) -> int:
    """Return the position of a time, truncated to milliseconds like stored times.

    For the order it is the first position of that millisecond.
    """
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    return milliseconds << ORDER_BITS if field == "order" else milliseconds


def cursor_value(field: CursorField, position: int) -> int | datetime:
    """Return the value of a position to compare stored fields with."""
    return position if field == "order" else _EPOCH + timedelta(milliseconds=position)
