"""Count events and refusals of a workspace by hour and name, in memory, for statistics.

There is one document for each workspace, kind of count and UTC hour. It is deleted after 90 days. Counts are
written every 5 s, so a killed process loses at most those of 5 s. A write without a response is not
repeated, because that could count twice: it loses at most the counts of 5 s too. Names are untrusted: a
process counts at most 200 names of a workspace in each kind and hour, and further ones as `OTHER`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote, unquote

from pydantic import Field

from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.mongo import Index, Mongo, UpdateOne, translate_errors, write_increments
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.records import Record

COLLECTION: Final = "hourly_counts"
RETENTION_DAYS: Final = 90
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("hour", 1),), ttl_s=RETENTION_DAYS * 86_400), Index((("workspace", 1),)))
}
OTHER: Final = "other"
CountKind = Literal[
    "events",
    "rate_limited",
    "requests_accepted",
    "requests_refused",
    "requests_limited",
    "requests_ms",
    "requests_latency",
]
"""Events by type; answers 429 by provider; requests, their milliseconds, and those in each latency bucket, by
endpoint or integration."""
_FLUSH_INTERVAL_S: Final = 5.0
_MAX_NAMES: Final = 200
_MAX_NAME: Final = 100
_MAX_TALLIES: Final = 10_000
"""Pending tallies in memory while MongoDB is unavailable. The oldest are dropped."""
_READ_HOURS: Final = 24
"""Hours of one query: a workspace with many names can have documents of some 100 KB."""
_HOUR: Final = timedelta(hours=1)

_Key = tuple[str, CountKind, datetime]


class HourlyCountRecord(Record):
    """The counts of a kind in one hour, by encoded name. Its id is workspace, kind and hour."""

    workspace: str
    kind: CountKind
    hour: datetime
    counts: Mapping[str, int] = Field(default_factory=dict)


class HourlyCounts:
    """Count in memory, write the counts every 5 s, and read them."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._log = log
        self._tallies: dict[_Key, dict[str, int]] = {}
        self._names: dict[_Key, set[str]] = {}
        """Names of the current hour, those already written included."""
        self._hour = datetime.min.replace(tzinfo=UTC)
        self._flushing = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flushing.start()

    async def stop(self) -> None:
        """Write the pending counts once, and end."""
        await self._flushing.stop()

    def add(
        self, workspace: str, kind: CountKind, name: str, count: int = 1, *, bucket: int | None = None
    ) -> None:
        """Count occurrences of a name, with a `bucket` under `<name> <bucket>`. For hot paths: no I/O.

        Names are limited, buckets are not: callers use a fixed number.
        """
        now = utcnow()
        if not self._hour <= now < self._hour + _HOUR:  # computed once an hour, not for every event
            self._hour = hour_of(now)
        key = workspace, kind, self._hour
        names = self._names.setdefault(key, set())
        name = name[:_MAX_NAME]
        if name not in names:
            if len(names) >= _MAX_NAMES:
                name = OTHER
            names.add(name)
        if bucket is not None:
            name = f"{name} {bucket}"
        tally = self._tallies.setdefault(key, {})
        tally[name] = tally.get(name, 0) + count

    async def flush(self) -> None:
        """Write the pending counts; keep those that MongoDB does not take, up to a bound."""
        tallies, self._tallies = self._tallies, {}
        hour = hour_of(utcnow())
        self._names = {key: names for key, names in self._names.items() if key[2] == hour}
        if not tallies:
            return
        writes = {key: _write(key, tally) for key, tally in tallies.items()}
        unwritten = {key: tallies[key] for key in await write_increments(self._collection, writes, self._log)}
        if not unwritten:
            return
        for key, later in self._tallies.items():
            tally = unwritten.setdefault(key, {})
            for name, count in later.items():
                tally[name] = tally.get(name, 0) + count
        self._tallies = dict(list(unwritten.items())[-_MAX_TALLIES:])

    async def read(
        self, workspace: str, kind: CountKind, since: datetime, until: datetime
    ) -> AsyncIterator[tuple[datetime, Mapping[str, int]]]:
        """Yield the hours with counts from that of `since` on, before `until`, oldest first.

        At most 90 days, of which a day is in memory at a time. Raises `DatabaseUnavailable`.
        """
        first, ids = hour_of(max(since, utcnow() - timedelta(days=RETENTION_DAYS))), []
        while first < min(until, utcnow() + _HOUR):
            ids.append(_id(workspace, kind, first))
            first += _HOUR
        for position in range(0, len(ids), _READ_HOURS):
            some = ids[position : position + _READ_HOURS]
            with translate_errors():
                documents = await self._collection.find({"_id": {"$in": some}}).to_list(len(some))
            for document in sorted(documents, key=lambda document: document["hour"]):
                record = HourlyCountRecord.from_document(document)
                yield record.hour, {unquote(name): count for name, count in record.counts.items()}
                await asyncio.sleep(0)  # other requests go on between hours with many names

    async def delete_all(self, workspace: str) -> None:
        """Delete the counts of a workspace, written or not. Raises `DatabaseUnavailable`."""
        self._tallies = {key: tally for key, tally in self._tallies.items() if key[0] != workspace}
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})


def hour_of(moment: datetime) -> datetime:
    """Return the UTC hour that contains a time."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _id(workspace: str, kind: CountKind, hour: datetime) -> str:
    return f"{workspace}/{kind}/{hour:%Y-%m-%dT%H}"


def _write(key: _Key, tally: Mapping[str, int]) -> UpdateOne:
    workspace, kind, hour = key
    # A dot or a dollar in a name of a field would lead elsewhere.
    counts = {f"counts.{quote(name, safe=' :-_').replace('.', '%2E')}": n for name, n in tally.items()}
    fields = {"workspace": workspace, "kind": kind, "hour": hour}
    return UpdateOne({"_id": _id(*key)}, {"$setOnInsert": fields, "$inc": counts}, upsert=True)
