"""`/api/imports`: imports of exports, from the upload to the end, and back by an undo."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import FastAPI, Query
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from services.importer.api.fields import Reader, Writer
from services.importer.api.import_schemas import (
    Estimate,
    ImportChannelOut,
    ImportCreate,
    ImportIssueOut,
    ImportOut,
    ImportPersonOut,
    ImportStart,
    ImportUndo,
    UndoOut,
)
from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.ledger import Ledger
from services.importer.jobs.matching import MatchedBy
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.plan import Plan, PlanUpdate
from services.importer.store.contents import ContentCriteria, Contents
from services.importer.store.issues import Issues
from shared.contracts.errors import Invalid, OverLimit
from shared.manifests.history_types import ConversationKind
from shared.runtime.draining import Draining
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.web.paging import Cursor, Limit, Page, PagingQuery
from shared.runtime.web.problems import field_errors
from shared.runtime.web.routes import Routes
from shared.runtime.web.versions import IfMatch, check_version, expected_version

_Search = Annotated[
    str, Query(alias="query", max_length=200, description="Only those with this text in their name or id.")
]
_EVENT_INTERVAL_S: Final = 1.0
_MAX_STREAM_S: Final = 300.0
_MAX_STREAMS: Final = 10
_MAX_PREVIEWS: Final = 5
"""Previews of undos of a workspace, those that wait included, in each process."""
_MAX_NAMED: Final = 10


class ImportsApi:
    """The routes of imports."""

    def __init__(
        self,
        imports: Imports,
        contents: Contents,
        issues: Issues,
        ledger: Ledger,
        new_contents: NewContents,
        estimate: Estimate,
        draining: Draining,
    ) -> None:
        self._imports = imports
        self._contents = contents
        self._issues = issues
        self._ledger = ledger
        self._new_contents = new_contents
        self._estimate = estimate
        self._draining = draining
        self._streams = WorkspaceLimits(_MAX_STREAMS)
        self._previews = WorkspaceLimits(1)

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/imports").add
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add("/{import_id}", self.read, methods=["GET"])
        add("/{import_id}/plan", self.read_plan, methods=["GET"])
        add("/{import_id}/plan", self.replace_plan, methods=["PUT"])
        add("/{import_id}/plan", self.change_plan, methods=["PATCH"])
        add("/{import_id}/start", self.start, methods=["POST"])
        add("/{import_id}/pause", self.pause, methods=["POST"])
        add("/{import_id}/resume", self.resume, methods=["POST"])
        add("/{import_id}/cancel", self.cancel, methods=["POST"])
        add("/{import_id}/undo", self.preview_undo, methods=["GET"])
        add("/{import_id}/undo", self.undo, methods=["POST"])
        add("/{import_id}/channels", self.list_channels, methods=["GET"])
        add("/{import_id}/people", self.list_people, methods=["GET"])
        add("/{import_id}/issues", self.list_issues, methods=["GET"])
        add("/{import_id}/events", self.stream_events, methods=["GET"], response_class=StreamingResponse)

    async def create(self, body: ImportCreate, key: Writer) -> ImportOut:
        """Create the import of an upload. It is `ready` for its plan when its contents are read."""
        return self._out(await self._imports.create(key.workspace, body.upload_id))

    async def list_all(self, key: Reader, paging: PagingQuery) -> Page[ImportOut]:
        """List the workspace's imports, newest first."""
        found = await self._imports.page(key.workspace, paging)
        return Page(items=[self._out(job) for job in found.items], next_cursor=found.next_cursor)

    async def read(self, import_id: str, key: Reader) -> ImportOut:
        """Return an import."""
        return self._out(await self._imports.find(key.workspace, import_id))

    async def read_plan(self, import_id: str, key: Reader) -> Plan:
        """Return the plan. It can be changed, and used for another import."""
        return await self._imports.read_plan(key.workspace, import_id)

    async def replace_plan(
        self, import_id: str, body: Plan, key: Writer, if_match: IfMatch = None
    ) -> ImportOut:
        """Set what is imported, while the import is ready. With other `answers`, it is read again.

        What the plan names and the export does not have is a warning, so that a plan can serve for several
        exports. The version for `If-Match` is `plan_version` of the import.
        """
        before = await self._imports.read_planned(key.workspace, import_id)
        return await self._set_plan(import_id, key.workspace, body, before, expected_version(if_match))

    async def change_plan(
        self, import_id: str, body: PlanUpdate, key: Writer, if_match: IfMatch = None
    ) -> ImportOut:
        """Change fields of the plan, and single channels, people and answers; otherwise like `PUT`."""
        before = await self._imports.read_planned(key.workspace, import_id)
        try:
            plan = body.applied_to(before[0])
        except ValidationError as error:
            raise Invalid(
                "these changes do not fit the plan", errors=field_errors(error.errors(include_input=False))
            ) from None
        return await self._set_plan(import_id, key.workspace, plan, before, expected_version(if_match))

    async def _set_plan(
        self,
        import_id: str,
        workspace: str,
        plan: Plan,
        before: tuple[Plan, int],
        expected: int | None,
    ) -> ImportOut:
        check_version(expected, before[1])
        job = await self._imports.find(workspace, import_id)
        plan, warnings = await self._checked(job, plan)
        return self._out(await self._imports.set_plan(workspace, import_id, plan, warnings, before=before))

    async def start(self, import_id: str, body: ImportStart, key: Writer) -> ImportOut:
        """Start an import that is ready, or a dry run of it."""
        return self._out(await self._imports.start(key.workspace, import_id, dry_run=body.dry_run))

    async def pause(self, import_id: str, key: Writer) -> ImportOut:
        """Pause an import. It publishes nothing more within seconds."""
        return self._out(await self._imports.pause(key.workspace, import_id))

    async def resume(self, import_id: str, key: Writer) -> ImportOut:
        """Go on with a paused import."""
        return self._out(await self._imports.resume(key.workspace, import_id))

    async def cancel(self, import_id: str, key: Writer) -> ImportOut:
        """End an import. The messages that it published stay; `undo` takes them away."""
        return self._out(await self._imports.cancel(key.workspace, import_id))

    async def preview_undo(self, import_id: str, key: Reader) -> UndoOut:
        """Return what an undo would take away now. A large import takes some seconds."""
        job = await self._imports.find(key.workspace, import_id)
        if self._previews.users(key.workspace) >= _MAX_PREVIEWS:
            raise OverLimit(f"{_MAX_PREVIEWS} undos are being counted: wait for one of them")
        async with self._previews.hold(key.workspace):  # one at a time: it reads the whole ledger
            shared = await self._ledger.count_shared(key.workspace, job.id)
            channels, people = await self._new_contents.count(job)
            messages = await self._ledger.count(job.id)
            return UndoOut(messages=messages, shared=shared, channels=channels, people=people)

    async def undo(self, import_id: str, body: ImportUndo, key: Writer) -> ImportOut:
        """Take away what an import added, and nothing else."""
        job = await self._imports.find(key.workspace, import_id)
        added = await self._ledger.count(job.id)
        undone = await self._imports.undo(
            key.workspace,
            import_id,
            messages=body.messages,
            added=added,
            keep_answered=body.keep_answered,
            keep_shared=body.keep_shared,
        )
        return self._out(undone)

    async def list_channels(
        self,
        import_id: str,
        key: Reader,
        text: _Search = "",
        kind: Annotated[ConversationKind | None, Query(description="Only those of this kind.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ImportChannelOut]:
        """List the conversations of the export, in its order.

        With `query` or `kind`, or after a dry run, a page may have fewer items than `limit`, or none; the
        list ends where `next_cursor` is null.
        """
        await self._imports.find(key.workspace, import_id)
        criteria = ContentCriteria(text, "kind", kind)
        found = await self._contents.channels(import_id, criteria, limit=limit, cursor=cursor)
        return Page(
            items=[ImportChannelOut.of(item, key) for item in found.items], next_cursor=found.next_cursor
        )

    async def list_people(
        self,
        import_id: str,
        key: Reader,
        text: _Search = "",
        matched_by: Annotated[MatchedBy | None, Query(description="Only those matched so.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ImportPersonOut]:
        """List the people of the export, in its order. Filters are as those of its conversations."""
        await self._imports.find(key.workspace, import_id)
        criteria = ContentCriteria(text, "matched_by", matched_by)
        found = await self._contents.people(import_id, criteria, limit=limit, cursor=cursor)
        return Page(items=[ImportPersonOut.of(item) for item in found.items], next_cursor=found.next_cursor)

    async def list_issues(
        self, import_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ImportIssueOut]:
        """List the records that could not be imported: the first 10,000."""
        job = await self._imports.find(key.workspace, import_id)
        found = await self._issues.page(job.run_id, listed=job.issues, limit=limit, cursor=cursor)
        return Page(
            items=[ImportIssueOut.of(item, key) for item in found.items], next_cursor=found.next_cursor
        )

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
                out = self._out(job).model_dump_json().encode()
                yield b": still here\n\n" if out == shown else b"data: " + out + b"\n\n"
                shown = out
                if job.status != "running" or self._draining.has_started:
                    return
                await self._draining.wait(_EVENT_INTERVAL_S)

    async def _checked(self, job: ImportJob, plan: Plan) -> tuple[Plan, list[str]]:
        """Return the plan without answers to unknown questions, and warnings about unknown ids."""
        warnings = []
        known = {choice["id"] for choice in job.summary.choices} if job.summary else set()
        if unknown := sorted(plan.answers.keys() - known):
            warnings.append(_unknown("answers questions that the export does not ask", unknown))
            answers = {key: value for key, value in plan.answers.items() if key in known}
            plan = plan.model_copy(update={"answers": answers})
        channels, people = await self._contents.unknown_ids(job.id, plan.channels, plan.people)
        if channels:
            warnings.append(_unknown("names channels that the export does not have", channels))
        if people:
            warnings.append(_unknown("names people whom the export does not have", people))
        return plan, warnings

    def _out(self, job: ImportJob) -> ImportOut:
        return ImportOut.of(job, self._estimate)


def _unknown(what: str, ids: list[str]) -> str:
    named = ", ".join(item[:80] for item in ids[:_MAX_NAMED])
    return f"the plan {what}: {named}" + (f", and {len(ids) - _MAX_NAMED} more" * (len(ids) > _MAX_NAMED))
