"""Count what each workspace uses by UTC day, in memory and written every 5 s, for quotas and the API.

There is one document for each workspace and day, which processes increment. It is deleted after 90 days.
A killed process loses at most the counts of 5 s. A write without a response is not repeated, because that
could count twice: it loses at most the counts of 5 s too. What is counted within 5 s of midnight may count on
the next day, and so does what MongoDB does not take until then.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, Literal

from shared.contracts.errors import InterlinkError
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.metrics import WORKSPACE_USAGE
from shared.runtime.mongo import Index, Mongo, UpdateOne, translate_errors, write_increments
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.records import Record
from shared.runtime.workspace_usage import UsageKind

QuotaName = Literal["requests", "events", "deliveries", "stored_bytes"]
Usage = Literal[QuotaName, "refused"]

COLLECTION: Final = "daily_usage"
RETENTION_DAYS: Final = 90
STORED_DAYS: Final = 7
"""Days whose bytes count as stored: the retention of topics, and by default that of delivered events."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (Index((("day", 1),), ttl_s=RETENTION_DAYS * 86_400), Index((("workspace", 1),)))
}
_FLUSH_INTERVAL_S: Final = 5.0
_MAX_IDS_PER_QUERY: Final = 48
"""The embedded database takes quadratic time in the number of ids of a query."""
_DAY: Final = timedelta(days=1)
_METRIC_KINDS: Final[Mapping[Usage, UsageKind]] = {
    "requests": "request",
    "events": "event",
    "deliveries": "attempt",
    "stored_bytes": "stored_byte",
    "refused": "refusal",
}


class UsageRecord(Record):
    """What a workspace used on one UTC day. Its id is workspace and day."""

    workspace: str
    day: datetime
    requests: int = 0
    events: int = 0
    deliveries: int = 0
    """Attempts."""
    stored_bytes: int = 0
    """Bytes of the events of this day, and of the deliveries that came into the log on it."""
    refused: int = 0
    """Requests that were refused over a quota, and events of app webhooks that were left out."""


class DailyUsage:
    """Counts what workspaces use, writes it, and knows the totals of today of those that it is asked for."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._log = log
        self._pending: dict[str, Counter[str]] = {}
        self._totals: dict[str, Counter[str]] = {}
        """Totals of all processes as far as this one knows, with its own counts."""
        self._asked: set[str] = set()
        """Workspaces whose totals were asked for since they were last read."""
        self._earlier_bytes: dict[str, int] = {}
        """Bytes that were stored on the days before today, as far as they count."""
        self._today = day_of(utcnow())
        self._flushing = PeriodicTask(self.flush, _FLUSH_INTERVAL_S, log)

    async def start(self) -> None:
        await self._flushing.start()

    async def stop(self) -> None:
        """Write the pending counts once, and end."""
        await self._flushing.stop()

    @property
    def ends_at(self) -> datetime:
        """The end of the day whose totals `totals` returns."""
        return self._today + _DAY

    def add(self, workspace: str, counts: Mapping[Usage, int]) -> None:
        """Count what a workspace used. For hot paths: no I/O."""
        pending = self._pending.get(workspace)
        if pending is None:
            pending = self._pending[workspace] = Counter()
        totals = self._totals.get(workspace)
        for name, amount in counts.items():
            pending[name] += amount
            if totals is not None:
                totals[name] += amount
            WORKSPACE_USAGE.count(workspace, _METRIC_KINDS[name], amount)

    def totals(self, workspace: str) -> Counter[str]:
        """Return what a workspace used today; `stored_bytes` are those of 7 days. For hot paths: no I/O.

        Counts of other processes are known about 10 s later, and if this process has not been asked for the
        workspace today, its own are at first all that it knows.
        """
        self._asked.add(workspace)
        totals = self._totals.get(workspace)
        if totals is None:
            totals = self._totals[workspace] = Counter(self._pending.get(workspace, ()))
        return totals

    def start_day(self) -> bool:
        """Forget the totals if their day has ended; return whether it has."""
        today = day_of(utcnow())
        if today == self._today:
            return False
        self._today = today
        self._totals.clear()
        self._earlier_bytes.clear()
        return True

    async def flush(self) -> None:
        """Write the pending counts, and read the totals that were asked for."""
        self.start_day()
        asked, self._asked = self._asked, set()
        pending, self._pending = self._pending, {}
        if pending:
            writes = {workspace: self._write(workspace, counts) for workspace, counts in pending.items()}
            for workspace in await write_increments(self._collection, writes, self._log):
                self._pending.setdefault(workspace, Counter()).update(pending[workspace])
        try:
            await self._read_totals(asked)
        except InterlinkError as error:
            self._log.warning("daily_usage.read_failed", error=str(error))
            self._asked |= asked

    async def read(self, workspace: str, days: int) -> Sequence[UsageRecord]:
        """Return the records of a workspace of the last `days` days with today, oldest first.

        Days without use have none. Raises `DatabaseUnavailable`.
        """
        today = day_of(utcnow())
        first, last = _id(workspace, today - (days - 1) * _DAY), _id(workspace, today)
        with translate_errors():
            documents = await self._collection.find({"_id": {"$gte": first, "$lte": last}}).to_list(days)
        return sorted(map(UsageRecord.from_document, documents), key=lambda record: record.day)

    async def delete_all(self, workspace: str) -> None:
        """Delete the counts of a workspace, written or not. Raises `DatabaseUnavailable`."""
        self._pending.pop(workspace, None)
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    def _write(self, workspace: str, counts: Mapping[str, int]) -> UpdateOne:
        fields = {"workspace": workspace, "day": self._today}
        return UpdateOne(
            {"_id": _id(workspace, self._today)}, {"$setOnInsert": fields, "$inc": dict(counts)}, upsert=True
        )

    async def _read_totals(self, workspaces: Iterable[str]) -> None:
        """Read what all processes have written. Own counts that are not written yet are added to it."""
        today, remaining = self._today, iter(workspaces)
        while chunk := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            for workspace in chunk:
                if workspace not in self._earlier_bytes:
                    records = await self.read(workspace, STORED_DAYS)
                    if today != self._today:  # the day ended meanwhile
                        return
                    stored = sum(record.stored_bytes for record in records if record.day < today)
                    self._earlier_bytes[workspace] = stored
            ids = [_id(workspace, today) for workspace in chunk]
            with translate_errors():
                documents = await self._collection.find({"_id": {"$in": ids}}).to_list(len(ids))
            records_of = {record.workspace: record for record in map(UsageRecord.from_document, documents)}
            if today != self._today:
                return
            for workspace in chunk:
                totals = Counter(self._pending.get(workspace, ()))
                if record := records_of.get(workspace):
                    totals.update({name: getattr(record, name) for name in _METRIC_KINDS})
                totals["stored_bytes"] += self._earlier_bytes[workspace]
                self._totals[workspace] = totals


def day_of(moment: datetime) -> datetime:
    """Return the UTC day that contains a time, as its midnight."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _id(workspace: str, day: datetime) -> str:
    return f"{workspace}/{day:%Y-%m-%d}"
