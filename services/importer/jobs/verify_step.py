"""The last step of an import: its report by channel and day."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.progress import Progress, Stopped
from services.importer.jobs.run_context import Stores
from services.importer.jobs.source import AccountSource
from services.importer.store.contents import ChannelRecord
from services.importer.store.reports import ROWS, Kind, Reports
from services.importer.store.unit_record import add_digest, split_ids
from shared.contracts.envelope import rfc3339
from shared.runtime.clock import utcnow
from shared.runtime.jobs import StepResult

COUNTS: Final = ("found", "imported", "duplicate", "skipped", "failed", "changed")
"""The numbers of a row. Found = imported + duplicate + skipped + failed; changed are among the duplicates."""
_MAX_OUTSIDE: Final = 200_000
"""Parents of replies that are looked for at a time: a hostile export has any number of them."""


class VerifyStep:
    """The last step: stores the report."""

    def __init__(self, imports: Imports, rows: "ReportRows") -> None:
        self._imports = imports
        self._rows = rows

    async def run(self, job: ImportJob) -> StepResult:
        """Store the report of an import, which is completed then; after a dry run it is ready again."""
        without_parent = await self._rows.store(job)
        numbers: dict[str, Any] = {f"{job.counted}.without_parent": without_parent} if without_parent else {}
        if job.is_dry_run:
            numbers["trial.seconds"] = round((utcnow() - job.started_at).total_seconds(), 1)
        try:
            await Progress(self._imports, job).write({"estimated_s": None}, counts=numbers)
        except Stopped:
            return StepResult()
        if job.is_dry_run:
            return StepResult(waits=True, changes={"stage": "ready", "step": "read"})
        return StepResult(finished=True, changes={"stage": "completed"})


class ReportRows:
    """Adds the counts of the parts up, by channel and day."""

    def __init__(self, stores: Stores, reports: Reports) -> None:
        self._stores = stores
        self._reports = reports

    async def store(self, job: ImportJob) -> int:
        """Store the rows of the parts that are done. Return how many replies are without their parents."""
        await self._reports.delete_run(job.run_id)
        channels = _Rows(self._reports, job, "channels")
        days = _Rows(self._reports, job, "days")
        without_parent = 0
        async for record in self._stores.contents.each_channel(job.id):
            totals, by_day = await self._totals(job, record)
            without_parent += totals["without_parent"]
            await channels.add(_channel_row(record, totals))
            for day, counts in sorted(by_day.items()):
                await days.add(_day_row(record, day, counts))
        await days.close()
        await channels.close()  # last: `ReportsApi` takes them for complete rows
        return without_parent

    async def _totals(
        self, job: ImportJob, record: ChannelRecord
    ) -> tuple[dict[str, Any], Mapping[str, dict[str, Any]]]:
        """Return the counts of a conversation, and those of each of its days."""
        by_day: dict[str, dict[str, Any]] = {}
        outside: Counter[bytes] = Counter()
        source, without_parent = "", 0
        # The units of an account are pages, which nobody counts before they are read.
        has_units = record.units or isinstance(job.source, AccountSource)
        if has_units and record.left_out is None:
            async for unit in self._stores.units.of_conversation(job.run_id, record.conversation):
                outside.update(split_ids(unit.outside))
                source = source or unit.source
                if len(outside) > _MAX_OUTSIDE:
                    without_parent += await self._without_parent(job, record.conversation, source, outside)
                    outside.clear()
                for day, counts in unit.days.items():
                    _add(by_day.setdefault(day, {}), counts)
        totals: dict[str, Any] = {"days": len(by_day)}
        for counts in by_day.values():
            _add(totals, counts)
        without_parent += await self._without_parent(job, record.conversation, source, outside)
        totals["without_parent"] = without_parent
        return totals, by_day

    async def _without_parent(
        self, job: ImportJob, conversation: str, source: str, outside: Counter[bytes]
    ) -> int:
        """Return how many replies belong to messages that neither this import nor another one has."""
        units = self._stores.units
        if outside:
            async for ids in units.ids_of_conversation(job.run_id, conversation):
                for packed_id in ids:
                    outside.pop(packed_id, None)
        if outside and source:
            async for ids in units.ids_of_others(job.workspace, source, other_than=job.id):
                for packed_id in ids:
                    outside.pop(packed_id, None)
        return outside.total()


class _Rows:
    """Stores the rows of one kind, some hundred at a time."""

    def __init__(self, reports: Reports, job: ImportJob, kind: Kind) -> None:
        self._reports = reports
        self._job = job
        self._kind: Kind = kind
        self._rows: list[bytes] = []
        self._number = 0

    async def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(orjson.dumps(row))
        if len(self._rows) == ROWS:
            await self.close()

    async def close(self) -> None:
        """Store what is left."""
        if self._rows:
            job = self._job
            await self._reports.store(job.run_id, job.workspace, self._kind, self._number, self._rows)
            self._number += 1
            self._rows = []


def _add(total: dict[str, Any], counts: Mapping[str, Any]) -> None:
    """Add counts of a day to others: numbers, and first, last and digest of the messages."""
    for name in COUNTS:
        if name in counts:
            total[name] = total.get(name, 0) + counts[name]
    if digest := counts.get("digest"):
        total["digest"] = add_digest(total.get("digest", ""), [bytes.fromhex(digest)])
        total["first"] = min(total.get("first", counts["first"]), counts["first"])
        total["last"] = max(total.get("last", counts["last"]), counts["last"])


def _channel_row(record: ChannelRecord, totals: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "conversation": record.conversation,
        "name": record.name,
        "channel_id": record.channel_id or None,
        "left_out": record.left_out,
        "days": totals["days"],
        **_numbers(totals),
        "without_parent": totals["without_parent"],
    }


def _day_row(record: ChannelRecord, day: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "conversation": record.conversation,
        "name": record.name,
        "channel_id": record.channel_id or None,
        "day": day or None,
        **_numbers(counts),
    }


def _numbers(counts: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: counts.get(name, 0) for name in COUNTS}
    extent = {name: _time(counts.get(name)) for name in ("first", "last")}
    return numbers | extent | {"digest": counts.get("digest")}


def _time(unix_s: float | None) -> str | None:
    return None if unix_s is None else rfc3339(datetime.fromtimestamp(unix_s, UTC))
