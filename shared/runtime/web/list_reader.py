"""Reads the documents of a list in the order of time, from any position on.

The embedded database reads everything that matches before it sorts and cuts, and the whole collection if a
query has `$or` (ADR 0061). So the documents of the cursor's own millisecond are a query of their own, and a
list that may be long is read in slices of time.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.mongo import Collection, Document, ExecutionTimeout, translate_errors

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""The times of cursors. Of each, some can be taken away or added."""
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST_SPAN: Final = timedelta(minutes=1)
_GROWTH: Final = 4
_DENSE_GROWTH: Final = 3
_DENSE_SPAN: Final = timedelta(hours=1)
_SHORT_SLICES: Final = 48
"""Slices of a dense list from which on spans grow without limit. A read of nothing takes about a millisecond,
a read of some hours at once may be one of 100,000 documents."""
_MAX_LISTS: Final = 1_000
_MAX_TIME_MS: Final = 3_000
_TOO_SLOW: Final = "the list is too long to be read in 3 s: choose a range of time, or the newest first"


class LongList:
    """Caches where the queries of a long list begin, as earlier reads found it.

    It is a memory of one process, and says only from where on slices should be short: all times are read, so
    a beginning that is out of date costs reads, and no document is missed.
    """

    def __init__(self, *, is_dense: bool = False) -> None:
        """Set `is_dense` for a list that may get many documents an hour, all the time."""
        self.is_dense = is_dense
        self._firsts: OrderedDict[tuple[str, bool], datetime] = OrderedDict()

    def first(self, query: Mapping[str, Any], *, newest_first: bool) -> datetime | None:
        """Return the time of the first document that a query has had in an order; None if not known."""
        return self._firsts.get((repr(query), newest_first))

    def remember(self, query: Mapping[str, Any], first: datetime, *, newest_first: bool) -> None:
        """Remember the time of the first document of a query in an order."""
        key = repr(query), newest_first
        self._firsts[key] = first
        self._firsts.move_to_end(key)
        if len(self._firsts) > _MAX_LISTS:
            self._firsts.popitem(last=False)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The documents of a list: a query with equalities only, its time field, and the range of time.

    `since` is inclusive, `until` exclusive. `start` and `latest` are about when the first and the last
    document of a long list can be.
    """

    collection: Collection
    query: Mapping[str, Any]
    fields: Mapping[str, int] | None
    time_field: str
    newest_first: bool
    since: datetime | None
    until: datetime | None
    latest: datetime
    long_list: LongList | None = None
    start: datetime | None = None


class ListReader:
    """Reads on from where it stopped."""

    def __init__(self, source: ListQuery, position: tuple[datetime, str] | None) -> None:
        """Begin behind a position, or with the first document."""
        self._source = source
        self._since = None if source.since is None else _within_cursors(source.since)
        self._until = None if source.until is None else _within_cursors(source.until)
        self._edge = self._until if source.newest_first else self._since
        """All before it, in the list's order, was read."""
        self._position: tuple[datetime, str] | None = None
        """The last document that was read of a millisecond that is not finished."""
        self._ended = False
        if position:
            self._skip_to(position)
        self._from_start = position is None and self._edge is None
        self._span = _FIRST_SPAN
        self._slices = 0

    def _skip_to(self, position: tuple[datetime, str]) -> None:
        """Begin behind a position, which may be outside of the range of time."""
        is_late = self._until is not None and position[0] >= self._until
        is_early = self._since is not None and position[0] < self._since
        self._ended = is_early if self._source.newest_first else is_late
        if not is_early and not is_late:
            self._position = position

    async def read(self, count: int) -> list[Document]:
        """Return the next `count` documents; fewer at the list's end only. Raises `DatabaseUnavailable`."""
        found: list[Document] = []
        while len(found) < count and not self._ended:
            wanted = count - len(found)
            position = self._position
            low, high = (None, None) if position else self._slice()
            part = await self._find(position, low, high, wanted)
            found += part
            if len(part) == wanted:
                last = part[-1]
                at = last[self._source.time_field]
                if not position and self._source.long_list:
                    # The rest of the slice would be read as a whole again: the next slice is shorter.
                    edge = self._edge or (self._source.latest if self._source.newest_first else EARLIEST)
                    self._span = min(self._span, max(abs(edge - at), _MILLISECOND))
                self._position = at, last["_id"]
            elif position:
                self._end_millisecond(position[0])
            else:
                self._end_slice(low, high)
        source = self._source
        if found and self._from_start and source.long_list:
            first = found[0][source.time_field]
            source.long_list.remember(source.query, first, newest_first=source.newest_first)
        self._from_start = False
        return found

    async def _find(
        self,
        position: tuple[datetime, str] | None,
        low: datetime | None,
        high: datetime | None,
        limit: int,
    ) -> list[Document]:
        """Return documents of the position's millisecond behind it, else from `low` until `high`."""
        source = self._source
        query = dict(source.query)
        if position:
            behind = "$lt" if source.newest_first else "$gt"
            query |= {source.time_field: position[0], "_id": {behind: position[1]}}
        else:
            window: dict[str, datetime] = {}
            if low:  # with $gte, the embedded database leaves out the bound itself
                window["$gt"] = low - _MILLISECOND
            if high:
                window["$lt"] = high
            if window:
                query[source.time_field] = window
        direction = -1 if source.newest_first else 1
        with translate_errors():
            try:
                return (
                    await source.collection.find(query, source.fields)
                    .sort([(source.time_field, direction), ("_id", direction)])
                    .limit(limit)
                    .max_time_ms(_MAX_TIME_MS)
                    .to_list(limit)
                )
            except ExecutionTimeout:
                raise DatabaseUnavailable(_TOO_SLOW) from None

    def _slice(self) -> tuple[datetime | None, datetime | None]:
        """Return the range of time of the next slice; None where it has no bound."""
        source, edge, latest = self._source, self._edge, self._source.latest
        if source.long_list is None:
            return (self._since, edge) if source.newest_first else (edge, self._until)
        if source.newest_first:
            top = min(edge, latest) if edge else latest
            low = max(top - self._span, self._since or EARLIEST)
            first = source.long_list.first(source.query, newest_first=True)
            # Behind a time without documents, a long slice would have many.
            return max(low, first) if first and first < top else low, edge
        low = edge or EARLIEST
        start = source.long_list.first(source.query, newest_first=False) or source.start
        high = start if start and low < start else low + self._span
        return low, high if high < min(self._until or latest, latest) else self._until

    def _end_slice(self, low: datetime | None, high: datetime | None) -> None:
        """Go on behind a slice of which everything was read; the next one is wider."""
        source = self._source
        if source.newest_first:
            self._edge = low
            self._ended = low == (self._since or (EARLIEST if source.long_list else None))
            if source.long_list and low == source.long_list.first(source.query, newest_first=True):
                self._span, self._slices = _FIRST_SPAN, 0
                return
        else:
            self._edge = high
            self._ended = high == self._until
            if low and high and high - low > self._span:
                return  # it was the time before the list begins
        self._slices += 1
        if source.long_list is None or not source.long_list.is_dense:
            self._span *= _GROWTH
        elif self._slices < _SHORT_SLICES:
            self._span = min(self._span * _DENSE_GROWTH, _DENSE_SPAN)
        else:
            self._span *= _DENSE_GROWTH

    def _end_millisecond(self, at: datetime) -> None:
        """Go on behind a millisecond of which everything was read."""
        self._position = None
        if self._source.newest_first:
            self._edge = at
            self._ended = at == self._since
        else:
            self._edge = at + _MILLISECOND
            self._ended = self._until is not None and self._edge >= self._until


def _within_cursors(at: datetime) -> datetime:
    """Return the nearest time that a cursor can have."""
    return min(max(at, EARLIEST), LATEST)
