"""The report of an import: for each channel and day, what was found and what became of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import FastAPI, Query
from jinja2 import Environment
from starlette.responses import Response, StreamingResponse

from services.importer.api.csv_rows import csv_lines
from services.importer.api.fields import Reader
from services.importer.api.files import ImportFileOut
from services.importer.api.import_schemas import Estimate, ImportOut
from services.importer.api.report_schemas import ReportChannelOut, ReportDayOut
from services.importer.files.records import ImportFiles
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.source import AccountSource
from services.importer.jobs.verify_step import COUNTS, ReportRows
from services.importer.store.contents import Contents
from services.importer.store.reports import ROWS, Kind, Reports
from shared.runtime.cached_reads import CachedReads
from shared.runtime.clock import utcnow
from shared.runtime.web.paging import Cursor, Limit, Page
from shared.runtime.web.routes import Routes

_PAGE_DOCUMENTS: Final = 20
"""Documents of 500 rows that a page has."""
_MAX_SHOWN: Final = _PAGE_DOCUMENTS * ROWS
"""Rows of channels in one response. An import has up to 100,000, which take 200 MB of memory and seconds."""
_MAX_FILES: Final = 1_000
"""Files on the page for people."""
_CSV_ROWS: Final = 500
_LAST_PART: Final = timedelta(seconds=10)
"""A cancelled import stores the part that it is at within this time."""
_COLUMNS: Final = (
    *("conversation", "name", "channel_id", "day", *COUNTS),
    *("first", "last", "digest"),
)
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_TEMPLATE: Final = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    (Path(__file__).parent / "report.html").read_text("utf-8")
)

Row = dict[str, Any]


class ReportsApi:
    """The route of reports."""

    def __init__(
        self,
        imports: Imports,
        contents: Contents,
        reports: Reports,
        rows: ReportRows,
        files: ImportFiles,
        estimate: Estimate,
    ) -> None:
        self._report_rows = rows
        self._people: CachedReads[dict[str, int]] = CachedReads()
        self._storing: CachedReads[int] = CachedReads()
        self._imports = imports
        self._contents = contents
        self._reports = reports
        self._files = files
        self._estimate = estimate

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        add = Routes(app, "/api/imports").add
        add("/{import_id}/report", self.report, methods=["GET"], response_class=Response)
        add("/{import_id}/report/channels", self.list_channels, methods=["GET"])
        add("/{import_id}/report/days", self.list_days, methods=["GET"])

    async def report(
        self,
        import_id: str,
        key: Reader,
        form: Annotated[
            Literal["json", "csv", "html"],
            Query(alias="format", description="`csv` has all days, `html` is a page for people."),
        ] = "json",
        rows: Annotated[bool, Query(description="Of JSON: false leaves channels and days out.")] = True,
        cursor: Cursor = None,
    ) -> Response:
        """Return the report of the last run, which may be a dry run.

        As JSON, it has a row for each channel, the first 10,000 of them (`has_more_channels`; all are in
        `.../report/channels`), and for each channel and day; of these 10,000 at a time, and
        `next_cursor` for the next ones. Of each row, found = imported + duplicate + skipped + failed.
        `files` has the addresses of the list of files, each with its bytes and its hash, and of the same as
        CSV; the page has the first 1,000 of them.
        """
        job = await self._find(key.workspace, import_id)
        if form == "csv":
            name = f'attachment; filename="{job.id}.csv"'
            headers = {"Content-Disposition": name}
            return StreamingResponse(self._csv(job), media_type="text/csv; charset=utf-8", headers=headers)
        people = await self._people.get(key.workspace, job.id, lambda: self._contents.count_people(job.id))
        if form == "json" and not rows:
            return Response(orjson.dumps(self._summary(job, people)), media_type="application/json")
        if form == "html":
            shown, total, number = await self._channels(job)
            days, has_more = await self._reports.page(job.run_id, "days", documents=_PAGE_DOCUMENTS)
            files = await self._files.page(job.id, state=None, limit=_MAX_FILES, cursor=None)
            page = await asyncio.to_thread(  # it may take a second
                _TEMPLATE.render,
                job=ImportOut.of(job, self._estimate),
                columns=COUNTS,
                channels=shown,
                has_more_channels=number > _MAX_SHOWN,
                total=total,
                days=[orjson.loads(row) for row in days],
                has_more_days=has_more is not None,
                files=[ImportFileOut.of(item) for item in files.items],
                has_more_files=files.next_cursor is not None,
                files_csv=_files_of(job)["csv"],
                people=people,
                notes=_not_determined(job),
            )
            return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)
        channels, further = await self._reports.page(job.run_id, "channels", documents=_PAGE_DOCUMENTS)
        days, next_cursor = await self._reports.page(
            job.run_id, "days", documents=_PAGE_DOCUMENTS, cursor=cursor
        )
        body = {
            **self._summary(job, people),
            "channels": list(map(orjson.Fragment, channels)),
            "has_more_channels": further is not None,
            "days": list(map(orjson.Fragment, days)),
            "next_cursor": next_cursor,
        }
        return Response(orjson.dumps(body), media_type="application/json")

    async def _channels(self, job: ImportJob) -> tuple[Sequence[Row], Mapping[str, int], int]:
        """Return the rows of channels to show, the sums of all rows, and their number."""
        shown: list[Row] = []
        total, number = Counter[str](), 0
        async for encoded in self._reports.each(job.run_id, "channels"):
            row = orjson.loads(encoded)
            number += 1
            total.update({name: row[name] for name in COUNTS})
            if number <= _MAX_SHOWN:
                shown.append(row)
        return shown, total, number

    def _summary(self, job: ImportJob, people: Mapping[str, int]) -> dict[str, Any]:
        """Return the report without its rows."""
        return {
            "import": ImportOut.of(job, self._estimate).model_dump(mode="json"),
            "people": people,
            "files": _files_of(job),
            "not_determined": _not_determined(job),
        }

    async def list_channels(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ReportChannelOut]:
        """List the report's rows of channels: what was found in each, and what became of it."""
        rows, following = await self._rows(key.workspace, import_id, "channels", limit, cursor)
        items = [ReportChannelOut.model_validate_json(row) for row in rows]
        return Page(items=items, next_cursor=following)

    async def list_days(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ReportDayOut]:
        """List the report's rows of channels and days."""
        rows, following = await self._rows(key.workspace, import_id, "days", limit, cursor)
        return Page(items=[ReportDayOut.model_validate_json(row) for row in rows], next_cursor=following)

    async def _rows(
        self, workspace: str, import_id: str, kind: Kind, limit: int, cursor: str | None
    ) -> tuple[list[bytes], str | None]:
        job = await self._find(workspace, import_id)
        return await self._reports.rows(job.run_id, kind, limit=limit, cursor=cursor)

    async def _find(self, workspace: str, import_id: str) -> ImportJob:
        """Return an import with rows in its report.

        One that was cancelled, or failed, has none before somebody looks at it.
        """
        job = await self._imports.find(workspace, import_id)
        if job.state in ("cancelled", "failed") and job.has_published:
            stored, _ = await self._reports.page(job.run_id, "channels", documents=1)
            is_final = job.finished_at is None or utcnow() > job.finished_at + _LAST_PART
            if not stored or not is_final:
                await self._storing.get(workspace, job.id, lambda: self._report_rows.store(job))
        return job

    async def _csv(self, job: ImportJob) -> AsyncIterator[str]:
        yield csv_lines([_COLUMNS])
        rows: list[Sequence[Any]] = []
        async for encoded in self._reports.each(job.run_id, "days"):
            row = orjson.loads(encoded)
            rows.append([row[name] for name in _COLUMNS])
            if len(rows) == _CSV_ROWS:
                yield csv_lines(rows)
                rows = []
        yield csv_lines(rows)


def _files_of(job: ImportJob) -> Mapping[str, Any]:
    """Return the counts of an import's files, and the addresses of their list; it can be long."""
    address = f"/api/imports/{job.id}/files"
    counts = (job.trial if job.is_dry_run else job.counts) or {}
    return {"counts": counts.get("files", {}), "list": address, "csv": f"{address}?format=csv"}


def _not_determined(job: ImportJob) -> list[str]:
    """Return sentences about facts that the import could not determine."""
    counts = (job.trial if job.is_dry_run else job.counts) or {}
    notes = []
    if job.is_dry_run:
        notes.append("a dry run: nothing was published; the chat may have messages that the hub cannot see")
    elif job.confirms is False:
        notes.append("published, not confirmed: the chat did not say what it stored")
    if job.state in ("cancelled", "failed"):
        ended = "was cancelled" if job.state == "cancelled" else "failed"
        notes.append(
            f"the import {ended}: the chat may have messages of its last batches, which no row counts"
        )
    if job.late:
        notes.append(
            f"{job.late} messages that count as imported were in the chat already, or rejected: it confirmed "
            "them when the import no longer waited for it"
        )
    if number := counts.get("without_parent"):
        notes.append(
            f"{number} replies answer messages that no import has: each of these threads is one of its own, "
            "without its first message"
        )
    if number := counts.get("reactions", {}).get("skipped", {}).get("too_many"):
        notes.append(f"{number} people in reactions are only counted: a message has at most 1,000 of them")
    if number := counts.get("messages", {}).get("changed"):
        notes.append(f"{number} messages were updated: an undo does not restore their earlier text")
    is_account = isinstance(job.source, AccountSource)
    if job.summary:
        lack = "were not read" if is_account else "are not in the export"
        notes += [f"{item} {lack}" for item in job.summary.missing]
        notes += [*job.summary.notes, *job.summary.undetermined]
    read = "the account was read" if is_account else "the export was made"
    notes.append(f"what was deleted before {read}, and earlier texts of edited messages")
    return notes
