"""Search of the log's keys, in its order, by any combination of filters, with bounded reads.

The log's indexes end in `status`, `created_at`, `_id`. A search reads one range of an index for each status,
and merges the keys of all ranges. Ranges are read in slices of time, each sixteen times as wide as the last.
MongoDB, which applies a limit during the index scan, does not need slices. The embedded database reads
everything that matches before it sorts and cuts, and reads at most a slice.

A slice that is wide because nothing newer was logged for days reads a whole burst of deliveries behind that
time. `LogGaps` remembers where such times end, so that the next search ends a slice there.

Filters that the index does not have, event type and error, are applied here to what was read. Then a search
examines about `MAX_EXAMINED` deliveries at most, and returns where it stopped.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final

from shared.runtime.mongo import Collection, Document, translate_errors, utcnow

LogKey = tuple[datetime, str]
"""The position of a delivery in the log: when it was logged, and its id."""

STATUSES: Final = (
    "pending",
    "delivering",
    "retrying",
    "delivered",
    "dead_letter",
    "cancelled",
    "discarded",
)

MAX_EXAMINED: Final = 5_000
"""Deliveries that one search examines, if it filters what it reads; at most this many for each status."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIME_RESOLUTION: Final = timedelta(milliseconds=1)
"""The resolution of stored times."""
_FIRST_SLICE: Final = timedelta(seconds=1)
_MAX_WIDENING: Final = 16.0
_MAX_FILTERED_WIDENING: Final = 4.0
_SPARE: Final = 1.25
"""The next slice is this much wider than what should suffice."""
_MIN_GAP: Final = timedelta(minutes=1)
_MAX_GAPS: Final = 8
"""Gaps of one log that are remembered, the last ones that were found."""
_MAX_LOGS: Final = 20
"""Logs of one workspace, each of a webhook or of all and of some statuses, whose gaps are remembered."""
_MAX_WORKSPACES: Final = 1_000


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Filters on the deliveries of a workspace; None or empty matches everything.

    `error` is the error class of the last attempt. `since` is inclusive, `until` exclusive.
    """

    workspace: str
    webhook_id: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    statuses: Sequence[str] = ()
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _IndexRanges:
    """Ranges of one index that are read concurrently, each in the order of the log.

    `residual` has the filters that the index does not cover; they are applied to what was read.
    """

    ranges: Sequence[Document]
    residual: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """The result of a search. `resume` is where the next one goes on, `after` it; None at the log's end."""

    keys: Sequence[LogKey]
    resume: LogKey | None


@dataclass(frozen=True, slots=True)
class _SliceKeys:
    """The keys in one slice of one range, and the first and last key that was examined."""

    keys: Sequence[LogKey]
    examined: int
    first: LogKey | None
    last: LogKey | None
    has_stopped: bool
    """Whether the budget ended it, at `last`."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """A time without deliveries, up to `high`. `width` is that of a slice with one page right before it."""

    high: datetime
    width: timedelta


_Gaps = dict[datetime, _Gap]
"""Gaps by the time of the last delivery before each."""
_Log = tuple[str | None, tuple[str, ...]]
"""A webhook, None for all, and statuses."""


class LogGaps:
    """Times in which nothing was logged, as earlier searches found them: a memory of one process.

    A gap only says where a slice should end. The slice is read all the same, so a gap that is out of date
    costs reads, and no delivery is missed.
    """

    def __init__(self) -> None:
        self._workspaces: OrderedDict[str, OrderedDict[_Log, _Gaps]] = OrderedDict()

    def of(self, query: DeliveryQuery) -> _Gaps:
        """Return the gaps in what a query reads."""
        logs = self._workspaces.get(query.workspace)
        return logs.get(_log_of(query), {}) if logs else {}

    def remember(self, query: DeliveryQuery, low: datetime, gap: _Gap) -> None:
        """Remember that what a query reads has nothing after `low`, until the end of the gap."""
        logs = self._workspaces.setdefault(query.workspace, OrderedDict())
        gaps = logs.setdefault(_log_of(query), {})
        for known in [known for known in gaps if low <= known < gap.high]:
            del gaps[known]
        gaps[low] = gap
        if len(gaps) > _MAX_GAPS:
            del gaps[next(iter(gaps))]
        # Each workspace has its own share of the memory, whatever it searches for.
        logs.move_to_end(_log_of(query))
        if len(logs) > _MAX_LOGS:
            logs.popitem(last=False)
        self._workspaces.move_to_end(query.workspace)
        if len(self._workspaces) > _MAX_WORKSPACES:
            self._workspaces.popitem(last=False)


def _log_of(query: DeliveryQuery) -> _Log:
    return query.webhook_id, tuple(sorted(set(query.statuses)))


class _SliceWidth:
    """The width of the next slice of time."""

    def __init__(self) -> None:
        self.value = _FIRST_SLICE

    def adapt(self, *, examined: int, found: int, wanted: int, budget: int) -> None:
        """Set the width of the next slice: as wide as it must be to find `wanted`, and to examine `budget`.

        It is the present one, up to four times as wide; sixteen times if the last slice was empty. `examined`
        and `found` are of the last slice.
        """
        widening = _MAX_WIDENING
        if examined:
            widening = min(_MAX_FILTERED_WIDENING, budget / examined)
        if found:
            widening = min(widening, _SPARE * wanted / found)
        self.value *= max(1.0, widening)


async def search_keys(
    deliveries: Collection,
    query: DeliveryQuery,
    *,
    limit: int,
    after: LogKey | None = None,
    oldest_first: bool = False,
    max_examined: int = MAX_EXAMINED,
    log_gaps: LogGaps | None = None,
) -> FoundKeys:
    """Return the first `limit` matching keys after a key, in the log's order.

    A search for an event type or an error may return fewer keys, or none, before the log's end. A delivery
    whose status changes during the search may be missing once. `log_gaps` is used for the newest first.
    Raises `DatabaseUnavailable`.
    """
    index_ranges = _index_ranges(query)
    keys: list[LogKey] = []
    width, budget = _SliceWidth(), max_examined
    if query.event_id or oldest_first:
        log_gaps = None
    slices = (
        _slices_oldest_first(query.since, query.until, after, width)
        if oldest_first
        else _slices_newest_first(
            query.since, query.until, after, width, log_gaps.of(query) if log_gaps else {}
        )
    )
    empty_from = (after[0] if after else query.until) or utcnow()
    # Every slice is read from all ranges before the next one: that keeps the order across ranges.
    for bounds in slices:
        wanted = limit - len(keys)
        parts = await asyncio.gather(
            *(
                _read_slice(
                    deliveries, index_range | bounds, index_ranges.residual, wanted, budget, oldest_first
                )
                for index_range in index_ranges.ranges
            )
        )
        if newest := max((part.first[0] for part in parts if part.first), default=None):
            if log_gaps and empty_from - newest >= _MIN_GAP:
                log_gaps.remember(query, newest, _Gap(empty_from, _page_width(parts, wanted)))
            empty_from = min(part.last[0] for part in parts if part.last)
        # A delivery whose status changes may be in two ranges: the set removes the repetition.
        found = sorted(set(chain(*(part.keys for part in parts))), reverse=not oldest_first)
        stops = [part.last for part in parts if part.has_stopped and part.last]
        stopped_at = None
        if stops:
            # Behind the first stop, not every range was read.
            stopped_at = min(stops) if oldest_first else max(stops)
            found = [key for key in found if (key <= stopped_at if oldest_first else key >= stopped_at)]
        keys += found[:wanted]
        if len(keys) == limit:
            return FoundKeys(keys, keys[-1])
        if stopped_at is not None:
            return FoundKeys(keys, stopped_at)
        examined = 0  # without filters to apply here, there is no budget
        if index_ranges.residual:
            examined = sum(part.examined for part in parts)
            budget = max(1, budget - examined)  # with 1, the next delivery that is found ends the search
        width.adapt(examined=examined, found=len(found), wanted=limit - len(keys), budget=budget)
    return FoundKeys(keys, None)


def _page_width(parts: Sequence[_SliceKeys], wanted: int) -> timedelta:
    """Return the width of a slice with about so many deliveries, by the densest range."""
    max_examined = max(part.examined for part in parts)
    spans = [
        part.first[0] - part.last[0]
        for part in parts
        if part.first and part.last and part.examined == max_examined
    ]
    return max(min(spans) * (_SPARE * wanted / max_examined), TIME_RESOLUTION)


async def _read_slice(
    deliveries: Collection,
    query: Document,
    residual: Mapping[str, Sequence[str]],
    limit: int,
    budget: int,
    oldest_first: bool,
) -> _SliceKeys:
    """Return the first keys of one slice of a range; without `residual`, from the index alone.

    With `residual`, at most `budget` deliveries are examined.
    """
    direction = 1 if oldest_first else -1
    fields = {"created_at": 1, **dict.fromkeys(residual, 1)}
    keys: list[LogKey] = []
    examined, first, last = 0, None, None
    with translate_errors():
        cursor = deliveries.find(query, fields).sort([("created_at", direction), ("_id", direction)])
        async for document in cursor.limit(budget if residual else limit):
            examined, last = examined + 1, (document["created_at"], document["_id"])
            first = first or last
            if all(document.get(field) in allowed for field, allowed in residual.items()):
                keys.append(last)
                if len(keys) == limit:
                    break
        await cursor.close()
    has_stopped = bool(residual) and examined == budget and len(keys) < limit
    return _SliceKeys(keys, examined, first, last, has_stopped)


def _index_ranges(query: DeliveryQuery) -> _IndexRanges:
    """Return the ranges of the most selective index: one event, one webhook, or the whole log."""
    base: Document = {"workspace": query.workspace}
    residual: dict[str, Sequence[str]] = {}
    if query.event_type is not None:
        residual["event_type"] = [query.event_type]
    if query.error is not None:
        residual["last_error"] = [query.error]
    if query.event_id is not None:
        if query.webhook_id is not None:
            residual["webhook_id"] = [query.webhook_id]
        if query.statuses:
            residual["status"] = query.statuses
        return _IndexRanges([base | {"event_id": query.event_id}], residual)
    if query.webhook_id is not None:
        base["webhook_id"] = query.webhook_id
    statuses = dict.fromkeys(query.statuses or STATUSES)
    if query.error is not None:
        statuses.pop("delivered", None)  # the last attempt of a delivered one had no error
    return _IndexRanges([base | {"status": status} for status in statuses], residual)


def _slices_newest_first(
    since: datetime | None,
    until: datetime | None,
    after: LogKey | None,
    width: _SliceWidth,
    gaps: Mapping[datetime, _Gap],
) -> Iterator[Document]:
    """Yield slices of the log as queries, newest first, each as wide as `width` is then.

    A slice that reaches into a gap goes to the gap's end, and the next one is narrow again.
    """
    floor = max(since, _EPOCH) if since else _EPOCH
    top = until
    if after:
        top = min(after[0], until) if until else after[0]
        # Deliveries of the same millisecond as the cursor come first, by id.
        if top == after[0] >= floor:
            yield {"created_at": top, "_id": {"$lt": after[1]}}
            width.value = _FIRST_SLICE  # a millisecond says nothing about the next second
    high = top or utcnow()
    if top and top <= floor:
        return
    while True:
        low = floor if high - floor <= width.value else high - width.value
        end = max((end for end in gaps if floor <= end and end + TIME_RESOLUTION < high), default=None)
        gap = gaps[end] if end and low <= gaps[end].high else None
        if end and gap:
            low = end + TIME_RESOLUTION
        yield _created_between(low, top)
        if low == floor:
            return
        if gap:
            width.value = gap.width
        top, high = low, low


def _slices_oldest_first(
    since: datetime | None, until: datetime | None, after: LogKey | None, width: _SliceWidth
) -> Iterator[Document]:
    """Yield slices of the log as queries, oldest first, each as wide as `width` is then."""
    low = max(since, _EPOCH) if since else _EPOCH
    if after:
        if after[0] >= low and (until is None or after[0] < until):
            yield {"created_at": after[0], "_id": {"$gt": after[1]}}
            width.value = _FIRST_SLICE
        low = max(low, after[0] + TIME_RESOLUTION)
    end = until or max(utcnow(), low)
    while low < end or until is None:
        high = None if end - low <= width.value else low + width.value
        yield _created_between(low, high or until)
        if high is None:
            return
        low = high


def _created_between(low: datetime, high: datetime | None) -> Document:
    """Return the query for `created_at` from `low` (included) to `high` (excluded).

    It does not use `$gte`: the embedded database then leaves out `low` itself if the index has more fields.
    """
    return {"created_at": {"$gt": low - TIME_RESOLUTION} | ({"$lt": high} if high else {})}
