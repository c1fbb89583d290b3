"""How far one webhook's open deliveries have been read: each look reads on from there, a window at a time.

Asking for the first of a million would be one short look in MongoDB, but the embedded store reads all that
matches before it cuts: so what matches is kept small, in both. Pure.

A place is a due time in milliseconds, or an order, which has milliseconds above `ORDER_BITS`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

CursorField = Literal["due_at", "order"]

ORDER_BITS: Final = 22
"""As `request.order_of` has it."""
LAST_POSITION: Final = {"due_at": 32_503_680_000_000, "order": (1 << 63) - 1}
"""The last places: the year 3000, and the store's largest number."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_DENSE_MS: Final = 50
_SPARSE_MS: Final = 1000
_WIDENING_FACTOR: Final = 16
_MAX_LOOKAHEAD: Final = timedelta(days=8)
"""Nothing waits for longer, unless somebody's clock is far off: what comes after is one window."""
_CLOCK_SKEW: Final = timedelta(seconds=60)
"""What another process has just made due may bear a time of its own clock."""


class DueCursor:
    """Nothing is open below `floor`; at first nothing is known, and the first window is everything."""

    __slots__ = ("_lowest", "_width", "field", "floor")

    def __init__(self, field: CursorField = "due_at") -> None:
        self._reset(field)

    def switch_field(self, field: CursorField) -> None:
        """Read along this field from now on: a webhook's ordering may be changed."""
        if field != self.field:
            self._reset(field)

    def note_due(self, due_at: datetime) -> None:
        """An open delivery was written here. Along the order, it stands behind all that is there."""
        if self.field == "due_at":
            self._lower(position_of("due_at", due_at))

    def note_external_change(self, now: datetime) -> None:
        """Another process made something open just now, perhaps with an order of long ago."""
        if self.field == "due_at":
            self._lower(position_of("due_at", now - _CLOCK_SKEW))
        else:
            self._reset("order")

    def windows(self, now: datetime, until: int) -> Iterator[tuple[int, int]]:
        """Windows from the floor to this place, each wider than the one before: first and last place."""
        self._lowest = LAST_POSITION[self.field]
        low, width = self.floor, self._width
        near = min(until, position_of(self.field, now + _MAX_LOOKAHEAD))
        while low <= until:
            high = min(low + width, near) if low <= near else until
            yield low, high
            low, width = high + 1, width * _WIDENING_FACTOR

    def advance(self, position: int, span: int, *, has_more: bool) -> None:
        """Nothing is open below this place; those found there, of `more`, lie in so many places."""
        least_ms = _DENSE_MS if has_more else _SPARSE_MS
        self._width = max(2 * span, least_ms << ORDER_BITS if self.field == "order" else least_ms)
        self.floor = min(position, self._lowest)

    def _reset(self, field: CursorField) -> None:
        self.field: CursorField = field
        """Along the order of a strict webhook, else along the due time."""
        self.floor = 0
        self._width = self._lowest = LAST_POSITION[field]

    def _lower(self, position: int) -> None:
        self.floor, self._lowest = min(self.floor, position), min(self._lowest, position)


def position_of(field: CursorField, at: datetime) -> int:
    """The place of a time, cut to milliseconds as the store cuts it; for an order, the first one of those."""
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    return milliseconds << ORDER_BITS if field == "order" else milliseconds


def cursor_value(field: CursorField, position: int) -> int | datetime:
    """What the store compares with: an order as it is, a due time as a time."""
    return position if field == "order" else _EPOCH + timedelta(milliseconds=position)
