"""Hourly statistics: outcomes and durations of attempts and new log entries, per webhook and per workspace.

There is one document for each webhook and UTC hour, and one for each workspace and hour, for 90 days. They
are written from memory: each second, those of the 100 webhooks that have waited the longest. The counts are
approximate: a killed process loses its last second, or `n / 100` seconds while it attempts at `n` webhooks,
and a lost response of MongoDB may count them twice.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from typing import Any, Final, Literal, Self

from pydantic import Field

from services.delivery.log.entry_counts import (
    MAX_HOURS_PER_READ,
    CountedTime,
    EntryCounts,
    EntryTally,
    add_entries,
    add_entry,
    counted_times,
    entry_increments,
)
from shared.contracts.errors import InterlinkError
from shared.runtime.clock import utcnow
from shared.runtime.hourly_counts import hour_of
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Duplicate, Index, Mongo, UpdateOne, Write, translate_errors
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.records import Record

CountedOutcome = Literal["delivered", "retrying", "dead_letter"]

STATISTICS: Final = "delivery_stats"
RETENTION_DAYS: Final = 90

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    STATISTICS: (Index((("hour", 1),), ttl_s=RETENTION_DAYS * 86_400),)
}

_FLUSH_INTERVAL_S: Final = 1.0
_FLUSHED_TALLIES: Final = 100
"""Tallies of one write: with more webhooks, their rows would cost the database as much as the log."""
_MAX_TALLIES: Final = 100_000
"""Tallies that are kept in memory while MongoDB is unavailable."""
_HOUR: Final = timedelta(hours=1)
_DELETED_HOURS: Final = timedelta(hours=12)
_BUCKETS_PER_DOUBLING: Final = 4
"""Latency buckets in each doubling of the latency."""
BOUNDS: Final = tuple(
    0.0005 * 2 ** (step / _BUCKETS_PER_DOUBLING) for step in range(17 * _BUCKETS_PER_DOUBLING + 1)
)
"""The upper bounds of the latency buckets in seconds, 0.5 ms to 65.5 s. One more bucket has the rest."""
_COUNTS: Final = ("attempts", "delivered", "failed_attempts", "dead_letters")
_FIRST_BUCKET: Final = len(_COUNTS)
_WIDTH: Final = _FIRST_BUCKET + len(BOUNDS) + 1

Tally = list[int]
"""The four counts, then the latency buckets."""
_Key = tuple[str, str, datetime]
"""Workspace, webhook and hour."""
_ENTRY_FIELDS: Final = ("workspace", "hour", "entries", "undelivered")
"""The fields that a search of the log needs."""


class HourRecord(Record):
    """The counts of a webhook, or of a workspace, in one hour.

    Its id is the owner and the hour. `latency` has the attempts of each latency bucket, by its number.
    """

    workspace: str
    webhook_id: str | None = None
    """None in the record of a workspace."""
    hour: datetime
    attempts: int = 0
    delivered: int = 0
    failed_attempts: int = 0
    dead_letters: int = 0
    latency: Mapping[str, int] = Field(default_factory=dict)
    entries: Mapping[str, int] = Field(default_factory=dict)
    """Entries that the log got, by minute or busy interval. Records of earlier releases have none."""
    undelivered: Mapping[str, int] = Field(default_factory=dict)
    """Those of them that were not delivered when they were logged."""


@dataclass(slots=True)
class HourCounts:
    """The counts of one hour, or the sum of several."""

    hour: datetime
    tally: Tally = field(default_factory=lambda: [0] * _WIDTH)

    @classmethod
    def of(cls, record: HourRecord) -> Self:
        """Return the counts of a record."""
        counts = cls(record.hour)
        counts.tally[:_FIRST_BUCKET] = (
            record.attempts,
            record.delivered,
            record.failed_attempts,
            record.dead_letters,
        )
        for bucket, count in record.latency.items():
            counts.tally[_FIRST_BUCKET + int(bucket)] = count
        return counts

    @property
    def attempts(self) -> int:
        return self.tally[0]

    @property
    def delivered(self) -> int:
        return self.tally[1]

    @property
    def failed_attempts(self) -> int:
        return self.tally[2]

    @property
    def dead_letters(self) -> int:
        return self.tally[3]

    def add(self, other: Self) -> None:
        """Add the counts of another hour."""
        _add(self.tally, other.tally)

    def percentile_ms(self, share: float) -> float | None:
        """Return the latency in ms that this share of the attempts did not exceed; None without attempts.

        It is the geometric middle of its bucket: within 9.1 % of the true value between 0.5 ms and 65.5 s.
        Shorter latencies are reported as 0.5, longer ones as 65536.
        """
        if not self.attempts:
            return None
        cumulative = list(accumulate(self.tally[_FIRST_BUCKET:]))
        bucket = bisect_left(cumulative, max(1.0, share * cumulative[-1]))
        if bucket == 0 or bucket == len(BOUNDS):
            return BOUNDS[min(bucket, len(BOUNDS) - 1)] * 1000
        return round(BOUNDS[bucket] * 1000 / 2 ** (0.5 / _BUCKETS_PER_DOUBLING), 1)


class Statistics:
    """Counts attempts in memory, writes the counts every second, and reads them by the hour."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._collection: Collection = mongo.collection(STATISTICS)
        self._log = log
        self._tallies: dict[_Key, Tally] = {}
        self._entries: dict[_Key, EntryTally] = {}
        """Of some keys in `_tallies`."""
        self._hour = datetime.min.replace(tzinfo=UTC)
        self._next_hour = self._hour
        self._flush_task = PeriodicTask(self._flush_oldest, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flush_task.start()

    async def stop(self) -> None:
        """Write the pending counts once, and end."""
        await self._flush_task.stop()
        await self.flush()

    def record(
        self, webhook_id: str, workspace: str, outcome: CountedOutcome, seconds: float, at: datetime
    ) -> None:
        """Count one attempt that ended at `at`. For the hot path: about a microsecond, no I/O."""
        _, tally = self._tally(workspace, webhook_id, at)
        tally[0] += 1
        if outcome == "delivered":
            tally[1] += 1
        else:
            tally[2] += 1
            if outcome == "dead_letter":
                tally[3] += 1
        tally[_FIRST_BUCKET + bisect_left(BOUNDS, seconds)] += 1

    def record_entry(self, webhook_id: str, workspace: str, at: datetime, *, delivered: bool) -> None:
        """Count one new entry of the log with the time `at`. For the hot path: no I/O."""
        key, _ = self._tally(workspace, webhook_id, at)
        add_entry(self._entries.setdefault(key, {}), at, delivered=delivered)

    def _tally(self, workspace: str, webhook_id: str, at: datetime) -> tuple[_Key, Tally]:
        # The hour is computed once an hour, not for every attempt.
        if not self._hour <= at < self._next_hour:
            self._hour = hour_of(at)
            self._next_hour = self._hour + _HOUR
        key = (workspace, webhook_id, self._hour)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = [0] * _WIDTH
        return key, tally

    async def flush(self, limit: int | None = None) -> None:
        """Write the oldest `limit` tallies, or all; keep those that MongoDB does not take.

        At most 100,000 tallies, one per webhook and hour, are kept: the oldest are dropped.
        """
        # Removed first: attempts are counted into new tallies while these are written.
        tallies = {key: self._tallies.pop(key) for key in list(islice(self._tallies, limit))}
        if not tallies:
            return
        entries = {key: self._entries.pop(key, {}) for key in tallies}
        try:
            with translate_errors():
                await self._collection.bulk_write(list(_writes(tallies, entries)), ordered=False)
        except (InterlinkError, Duplicate) as error:
            self._log.warning("statistics.write_failed", error=str(error))
            self._restore(tallies, entries)

    async def _flush_oldest(self) -> None:
        await self.flush(_FLUSHED_TALLIES)

    async def delete_all(self, workspace: str) -> None:
        """Delete the counts of a workspace and its webhooks. Raises `DatabaseUnavailable`.

        The index has only the hour: a part of a day at a time, so that the database answers in between.
        """
        end = utcnow() + _DELETED_HOURS
        start = end - timedelta(days=RETENTION_DAYS + 1)
        while start < end:
            hours = {"$gt": start - timedelta(milliseconds=1), "$lt": start + _DELETED_HOURS}
            with translate_errors():
                await self._collection.delete_many({"hour": hours, "workspace": workspace})
            start += _DELETED_HOURS

    async def webhook_hours(
        self, webhook_id: str, since: datetime, until: datetime | None = None
    ) -> list[HourCounts]:
        """Return a webhook's hours from that of `since` on, before `until`, oldest first; 90 days at most.

        Hours without attempts are left out. Raises `DatabaseUnavailable`.
        """
        return await self._hours(webhook_id, since, until)

    async def workspace_hours(
        self, workspace: str, since: datetime, until: datetime | None = None
    ) -> list[HourCounts]:
        """Return the hours of all webhooks of a workspace, as `webhook_hours` those of one."""
        return await self._hours(_workspace_owner(workspace), since, until)

    async def delivered(self, workspace: str, webhook_id: str | None, since: datetime) -> int:
        """Return how many deliveries succeeded from the hour of `since` on, of a workspace or one webhook.

        The caller must have checked that the webhook belongs to the workspace. Raises `DatabaseUnavailable`.
        """
        owner = webhook_id if webhook_id is not None else _workspace_owner(workspace)
        return sum(hour.delivered for hour in await self._hours(owner, since, None))

    async def _hours(self, owner: str, since: datetime, until: datetime | None) -> list[HourCounts]:
        now = utcnow()
        first = hour_of(max(since, now - timedelta(days=RETENTION_DAYS)))
        last = min(until, now + _HOUR) if until else now + _HOUR
        ids = []
        while first < last:
            ids.append(_id(owner, first))
            first += _HOUR
        with translate_errors():
            documents = await self._collection.find({"_id": {"$in": ids}}).to_list(len(ids))
        hours = [HourCounts.of(HourRecord.from_document(document)) for document in documents]
        return sorted((hour for hour in hours if hour.attempts), key=lambda hour: hour.hour)

    def entry_counts(self, workspace: str, webhook_id: str | None, *, undelivered: bool) -> EntryCounts:
        """Return the entry counts of a workspace's log, or of one webhook's.

        With `undelivered`, they are of the entries that were not delivered when they were logged.
        """
        owner = webhook_id if webhook_id is not None else _workspace_owner(workspace)

        async def read(hours: Sequence[datetime]) -> list[Sequence[CountedTime]]:
            records = await self._entry_records(owner, workspace, hours)
            return [
                counted_times(record.hour, record.undelivered if undelivered else record.entries)
                for record in reversed(records)
            ]

        return EntryCounts(read)

    async def first_entry(
        self, workspace: str, webhook_id: str | None, since: datetime, *, delivered_since: datetime | None
    ) -> datetime | None:
        """Return about when the log got the first entry that it still has; None if no entries are counted.

        The log is a workspace's, or one webhook's. Entries before `since` do not count, nor those before
        `delivered_since` that were delivered at once; None leaves out all of these. Raises
        `DatabaseUnavailable`.
        """
        owner = webhook_id if webhook_id is not None else _workspace_owner(workspace)
        hour, now = hour_of(since), utcnow()
        while hour <= now:
            hours = [hour + _HOUR * number for number in range(MAX_HOURS_PER_READ)]
            for record in await self._entry_records(owner, workspace, hours):
                is_retained = delivered_since is not None and record.hour + _HOUR > delivered_since
                if counts := record.entries if is_retained else record.undelivered:
                    return max(since, counted_times(record.hour, counts)[-1].start)
            hour = hours[-1] + _HOUR
        return None

    async def _entry_records(
        self, owner: str, workspace: str, hours: Sequence[datetime]
    ) -> Sequence[HourRecord]:
        """Return the records of some hours with what a search of the log needs, oldest first."""
        query = {"_id": {"$in": [_id(owner, hour) for hour in hours]}}
        with translate_errors():
            found = self._collection.find(query, dict.fromkeys(_ENTRY_FIELDS, 1))
            documents = await found.to_list(len(hours))
        records = [HourRecord.from_document(document) for document in documents]
        # A webhook id from a query may be that of another workspace.
        records = [record for record in records if record.workspace == workspace]
        return sorted(records, key=lambda record: record.hour)

    def _restore(self, tallies: dict[_Key, Tally], entries: dict[_Key, EntryTally]) -> None:
        for key, tally in self._tallies.items():
            if key in tallies:
                _add(tallies[key], tally)
            else:
                tallies[key] = tally
        for key, entry_tally in self._entries.items():
            add_entries(entries.setdefault(key, {}), entry_tally)
        # MongoDB is away for long: limit the memory.
        if len(tallies) > _MAX_TALLIES:
            oldest = sorted(tallies, key=lambda key: key[2])
            for key in oldest[: len(tallies) - _MAX_TALLIES]:
                del tallies[key]
                entries.pop(key, None)
            self._log.warning("statistics.dropped", tallies=len(oldest) - _MAX_TALLIES)
        self._tallies, self._entries = tallies, entries


def sum_hours(hours: Sequence[HourCounts], since: datetime) -> HourCounts:
    """Return the sum of several hours."""
    total = HourCounts(since)
    for hour in hours:
        total.add(hour)
    return total


def _writes(tallies: Mapping[_Key, Tally], entries: Mapping[_Key, EntryTally]) -> Iterator[Write]:
    workspaces: dict[tuple[str, datetime], tuple[Tally, EntryTally]] = {}
    for key, tally in tallies.items():
        workspace, webhook_id, hour = key
        fields = {"workspace": workspace, "webhook_id": webhook_id}
        yield _write(webhook_id, hour, tally, entries[key], fields)
        total, total_entries = workspaces.setdefault((workspace, hour), ([0] * _WIDTH, {}))
        _add(total, tally)
        add_entries(total_entries, entries[key])
    for (workspace, hour), (total, total_entries) in workspaces.items():
        yield _write(_workspace_owner(workspace), hour, total, total_entries, {"workspace": workspace})


def _write(owner: str, hour: datetime, tally: Tally, entries: EntryTally, fields: Mapping[str, Any]) -> Write:
    counts = {name: tally[index] for index, name in enumerate(_COUNTS)}
    buckets = {f"latency.{bucket}": count for bucket, count in enumerate(tally[_FIRST_BUCKET:]) if count}
    return UpdateOne(
        {"_id": _id(owner, hour)},
        {"$setOnInsert": {"hour": hour, **fields}, "$inc": counts | buckets | entry_increments(entries)},
        upsert=True,
    )


def _add(to: Tally, other: Tally) -> None:
    to[:] = map(int.__add__, to, other)


def _id(owner: str, hour: datetime) -> str:
    return f"{owner}/{hour:%Y-%m-%dT%H}"


def _workspace_owner(name: str) -> str:
    """Return the owner of a workspace's statistics. Webhook ids have no colon."""
    return f"workspace:{name}"
