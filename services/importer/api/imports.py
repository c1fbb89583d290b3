"""`/api/imports`: imports of exports, from the upload to the report, and back by an undo."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

import orjson
from fastapi import FastAPI, Query
from starlette.responses import Response, StreamingResponse

from services.importer.api.fields import Reader, Writer
from services.importer.api.import_schemas import (
    ImportChannelOut,
    ImportCreate,
    ImportIssueOut,
    ImportOut,
    ImportPersonOut,
    ImportStart,
    ImportUndo,
)
from services.importer.jobs.imports import Imports
from services.importer.jobs.plan import Plan
from services.importer.store.contents import Contents
from services.importer.store.issues import Issues
from shared.contracts.errors import OverLimit
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.web.paging import Cursor, Limit, Page
from shared.runtime.web.routes import Routes

_EVENT_INTERVAL_S: Final = 1.0
_MAX_STREAM_S: Final = 300.0
_MAX_STREAMS: Final = 10
_REPORT_PAGE: Final = 500
_COUNTS: Final = ("found", "imported", "duplicate", "skipped", "failed")


class ImportsApi:
    """The routes of imports."""

    def __init__(self, imports: Imports, contents: Contents, issues: Issues) -> None:
        self._imports = imports
        self._contents = contents
        self._issues = issues
        self._streams = WorkspaceLimits(_MAX_STREAMS)

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/imports").add
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add("/{import_id}", self.read, methods=["GET"])
        add("/{import_id}/plan", self.change_plan, methods=["PUT"])
        add("/{import_id}/start", self.start, methods=["POST"])
        add("/{import_id}/pause", self.pause, methods=["POST"])
        add("/{import_id}/resume", self.resume, methods=["POST"])
        add("/{import_id}/cancel", self.cancel, methods=["POST"])
        add("/{import_id}/undo", self.undo, methods=["POST"])
        add("/{import_id}/channels", self.list_channels, methods=["GET"])
        add("/{import_id}/people", self.list_people, methods=["GET"])
        add("/{import_id}/issues", self.list_issues, methods=["GET"])
        add("/{import_id}/report", self.report, methods=["GET"], response_class=Response)
        add("/{import_id}/events", self.stream_events, methods=["GET"], response_class=StreamingResponse)

    async def create(self, body: ImportCreate, key: Writer) -> ImportOut:
        """Create the import of an upload. It is `ready` for its plan when its contents are read."""
        return ImportOut.of(await self._imports.create(key.workspace, body.upload_id))

    async def list_all(self, key: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[ImportOut]:
        """List the workspace's imports, newest first."""
        found = await self._imports.page(key.workspace, limit=limit, cursor=cursor)
        return Page(items=[ImportOut.of(job) for job in found.items], next_cursor=found.next_cursor)

    async def read(self, import_id: str, key: Reader) -> ImportOut:
        """Return an import."""
        return ImportOut.of(await self._imports.find(key.workspace, import_id))

    async def change_plan(self, import_id: str, body: Plan, key: Writer) -> ImportOut:
        """Set what is imported, while the import is ready. With other `answers`, it is read again."""
        return ImportOut.of(await self._imports.set_plan(key.workspace, import_id, body))

    async def start(self, import_id: str, body: ImportStart, key: Writer) -> ImportOut:
        """Start an import that is ready, or a dry run of it."""
        job = await self._imports.start(key.workspace, import_id, dry_run=body.dry_run)
        return ImportOut.of(job)

    async def pause(self, import_id: str, key: Writer) -> ImportOut:
        """Pause an import. It publishes nothing more within seconds."""
        return ImportOut.of(await self._imports.pause(key.workspace, import_id))

    async def resume(self, import_id: str, key: Writer) -> ImportOut:
        """Go on with a paused import."""
        return ImportOut.of(await self._imports.resume(key.workspace, import_id))

    async def cancel(self, import_id: str, key: Writer) -> ImportOut:
        """End an import. The messages that it published stay; `undo` takes them away."""
        return ImportOut.of(await self._imports.cancel(key.workspace, import_id))

    async def undo(self, import_id: str, body: ImportUndo, key: Writer) -> ImportOut:
        """Take away what an import added, and nothing else."""
        job = await self._imports.undo(
            key.workspace, import_id, messages=body.messages, keep_answered=body.keep_answered
        )
        return ImportOut.of(job)

    async def list_channels(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ImportChannelOut]:
        """List the conversations of the export, in its order."""
        await self._imports.find(key.workspace, import_id)
        found = await self._contents.channels(import_id, limit=limit, cursor=cursor)
        return Page(items=[ImportChannelOut.of(item) for item in found.items], next_cursor=found.next_cursor)

    async def list_people(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ImportPersonOut]:
        """List the people of the export, in its order."""
        await self._imports.find(key.workspace, import_id)
        found = await self._contents.people(import_id, limit=limit, cursor=cursor)
        return Page(items=[ImportPersonOut.of(item) for item in found.items], next_cursor=found.next_cursor)

    async def list_issues(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ImportIssueOut]:
        """List the records that could not be imported: the first 10,000."""
        await self._imports.find(key.workspace, import_id)
        found = await self._issues.page(import_id, limit=limit, cursor=cursor)
        return Page(items=[ImportIssueOut.of(item) for item in found.items], next_cursor=found.next_cursor)

    async def report(
        self,
        import_id: str,
        key: Reader,
        form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    ) -> Response:
        """Return the report: for each channel and day, what was found and what became of it."""
        job = await self._imports.find(key.workspace, import_id)
        rows = [row async for row in self._rows(import_id)]
        if form == "csv":
            return Response(_csv(rows), media_type="text/csv; charset=utf-8")
        notes = []
        if job.confirms is False:
            notes.append("published, not confirmed: the chat did not say what it stored")
        body = {"import": ImportOut.of(job).model_dump(mode="json"), "days": rows, "not_determined": notes}
        return Response(orjson.dumps(body), media_type="application/json")

    async def stream_events(self, import_id: str, key: Reader) -> StreamingResponse:
        """Stream the import as server-sent events: its state now, and whenever it changes, for 5 minutes."""
        await self._imports.find(key.workspace, import_id)
        if self._streams.users(key.workspace) >= _MAX_STREAMS:
            raise OverLimit(f"{_MAX_STREAMS} streams of imports are open: close one")
        return StreamingResponse(
            self._events(key.workspace, import_id),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def _events(self, workspace: str, import_id: str) -> AsyncIterator[bytes]:
        shown = b""
        async with self._streams.hold(workspace):
            for _ in range(int(_MAX_STREAM_S / _EVENT_INTERVAL_S)):
                job = await self._imports.find(workspace, import_id)
                out = ImportOut.of(job).model_dump_json(exclude={"plan"}).encode()
                yield b": still here\n\n" if out == shown else b"data: " + out + b"\n\n"
                shown = out
                if job.status != "running":
                    return
                await asyncio.sleep(_EVENT_INTERVAL_S)

    async def _rows(self, import_id: str) -> AsyncIterator[dict[str, object]]:
        cursor = None
        while True:
            found = await self._contents.channels(import_id, limit=_REPORT_PAGE, cursor=cursor)
            for channel in found.items:
                for day, counts in sorted(channel.days.items()):
                    numbers = {name: counts.get(name, 0) for name in _COUNTS}
                    row = {"conversation": channel.conversation, "channel_id": channel.channel_id}
                    yield (
                        row
                        | {"name": channel.name, "day": day or None}
                        | numbers
                        | {
                            "first": counts.get("first"),
                            "last": counts.get("last"),
                            "digest": counts.get("digest"),
                        }
                    )
            cursor = found.next_cursor
            if cursor is None:
                return


def _csv(rows: list[dict[str, object]]) -> str:
    out = io.StringIO()
    names = ("conversation", "name", "channel_id", "day", *_COUNTS, "first", "last", "digest")
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def _cell(value: object) -> object:
    """Return a value for a spreadsheet, which must not take a name of a stranger for a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
