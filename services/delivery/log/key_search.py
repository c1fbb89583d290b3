"""Search of the log's keys, in its order, by any combination of filters, with bounded reads.

The log's indexes end in `status`, `created_at`, `_id`. A search reads one range of an index for each status,
and merges the keys of all ranges. Ranges are read in slices of time. MongoDB, which applies a limit during
the index scan, does not need slices. The embedded database reads everything that matches before it sorts and
cuts, and reads at most a slice.

Where entries are counted (`entry_counts.py`), a slice has about as many as are wanted. Elsewhere, one that is
wide because nothing newer was logged for days reads a whole burst of deliveries behind that time. `LogGaps`
remembers where such times end, so that the next search ends a slice there.

Filters that the index does not have, event type, error and trace, are applied here to what was read. Then a
search examines about `MAX_EXAMINED` deliveries at most, and returns where it stopped.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

from services.delivery.log.entry_counts import EntryCounts
from services.delivery.log.log_slices import (
    SPARE,
    TIME_RESOLUTION,
    Gap,
    Gaps,
    LogKey,
    SliceWidth,
    slices_newest_first,
    slices_oldest_first,
)
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Collection, Document, translate_errors

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
_MIN_GAP: Final = timedelta(minutes=1)
_MAX_GAPS: Final = 8
"""Gaps of one log that are remembered, the last ones that were found."""
_MAX_LOGS: Final = 20
"""Limit of logs per workspace whose gaps are stored. A log is selected by webhook and statuses."""
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
    trace_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_Residual = Mapping[str, Callable[[Any], bool]]
"""Filters that an index does not cover, by field; they are applied to what was read."""


@dataclass(frozen=True, slots=True)
class _IndexRanges:
    """Ranges of one index that are read concurrently, each in the order of the log."""

    ranges: Sequence[Document]
    residual: _Residual


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
    """True if the budget ended the slice, at `last`."""


_Log = tuple[str | None, tuple[str, ...]]
"""A webhook, None for all, and statuses."""


class LogGaps:
    """Times in which nothing was logged, as earlier searches found them: a memory of one process.

    A gap only says where a slice should end. The slice is read all the same, so a gap that is out of date
    costs reads, and no delivery is missed.
    """

    def __init__(self) -> None:
        self._workspaces: OrderedDict[str, OrderedDict[_Log, Gaps]] = OrderedDict()

    def of(self, query: DeliveryQuery) -> Gaps:
        """Return the gaps in what a query reads."""
        logs = self._workspaces.get(query.workspace)
        return logs.get(_log_of(query), {}) if logs else {}

    def remember(self, query: DeliveryQuery, low: datetime, gap: Gap) -> None:
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


async def search_keys(
    deliveries: Collection,
    query: DeliveryQuery,
    *,
    limit: int,
    after: LogKey | None = None,
    oldest_first: bool = False,
    max_examined: int = MAX_EXAMINED,
    log_gaps: LogGaps | None = None,
    counts: EntryCounts | None = None,
    start: datetime | None = None,
) -> FoundKeys:
    """Return the first `limit` matching keys after a key, in the log's order.

    A search for an event type, an error or a trace may return fewer keys, or none, before the log's end. A
    delivery may be missing if its status changes during the search. `log_gaps` and `counts` are used for the
    newest first; for the oldest first, `start` is about when the first entry was logged. Raises
    `DatabaseUnavailable`.
    """
    index_ranges = _index_ranges(query)
    keys: list[LogKey] = []
    width, budget = SliceWidth(limit), max_examined
    if query.event_id or oldest_first:
        log_gaps = counts = None
    slices = (
        slices_oldest_first(query.since, query.until, after, width, start)
        if oldest_first
        else slices_newest_first(
            query.since, query.until, after, width, log_gaps.of(query) if log_gaps else {}, counts
        )
    )
    empty_from = (after[0] if after else query.until) or utcnow()
    # Every slice is read from all ranges before the next one: that keeps the order across ranges.
    async with aclosing(slices):
        async for bounds in slices:
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
                    log_gaps.remember(query, newest, Gap(empty_from, _page_width(parts, wanted)))
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
    return max(min(spans) * (SPARE * wanted / max_examined), TIME_RESOLUTION)


async def _read_slice(
    deliveries: Collection,
    query: Document,
    residual: _Residual,
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
            if all(fits(document.get(field)) for field, fits in residual.items()):
                keys.append(last)
                if len(keys) == limit:
                    break
        await cursor.close()
    has_stopped = bool(residual) and examined == budget and len(keys) < limit
    return _SliceKeys(keys, examined, first, last, has_stopped)


def _index_ranges(query: DeliveryQuery) -> _IndexRanges:
    """Return the ranges of the most selective index: one event, one webhook, or the whole log."""
    base: Document = {"workspace": query.workspace}
    residual: dict[str, Callable[[Any], bool]] = {}
    if query.event_type is not None:
        residual["event_type"] = (query.event_type,).__contains__
    if query.error is not None:
        residual["last_error"] = (query.error,).__contains__
    if (trace_id := query.trace_id) is not None:
        residual["traceparent"] = lambda traceparent: str(traceparent)[3:35] == trace_id
    if query.event_id is not None:
        if query.webhook_id is not None:
            residual["webhook_id"] = (query.webhook_id,).__contains__
        if query.statuses:
            residual["status"] = query.statuses.__contains__
        return _IndexRanges([base | {"event_id": query.event_id}], residual)
    if query.webhook_id is not None:
        base["webhook_id"] = query.webhook_id
    statuses = dict.fromkeys(query.statuses or STATUSES)
    if query.error is not None:
        statuses.pop("delivered", None)  # the last attempt of a delivered one had no error
    return _IndexRanges([base | {"status": status} for status in statuses], residual)
