"""Imports of history, with their parts."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.import_words import issue_step, reason_in_words
from services.console.pages.kinds import (
    Action,
    Column,
    Download,
    Filter,
    Json,
    Kind,
    Link,
    Part,
    column,
    status_in,
)


def _import_advice(item: Json) -> str:
    if item["error"]:
        return str(item["error"])
    if item["status"] == "ready":
        advice = "Its contents are read. Try it without publishing anything (dry run), then start it."
        return f"{advice} It waits: {item['waiting_for']}" if item["waiting_for"] else advice
    if item["waiting_for"]:
        return f"It waits: {item['waiting_for']}"
    if item["issues"]:
        return f"{item['issues']:,} records were not imported: see the issues."
    return ""


IMPORTS: Final = Kind(
    "imports",
    "Imports",
    "import",
    "upload",
    "/api/imports",
    "imports:read",
    (
        column("Import", "name", "link"),
        column("Status", "status", "status"),
        column("Progress (%)", "progress", "number"),
        column("Contents", "contents.description"),
        column("Issues", "issues", "number"),
        column("Created", "created_at", "time"),
    ),
    "An import brings the history of another chat here. Export it there, then upload the file.",
    "Conversations",
    actions=(
        Action(
            "dry-run",
            "Dry run",
            "/api/imports/{id}/start",
            "imports:write",
            "A dry run was started. Nothing is published.",
            fits=status_in("ready"),
            body=lambda _values, _item: {"dry_run": True},
        ),
        Action(
            "start",
            "Start",
            "/api/imports/{id}/start",
            "imports:write",
            "It was started.",
            fits=status_in("ready"),
            effect="Channels and messages are published to the chat. They can be undone.",
            body=lambda _values, _item: {"dry_run": False},
        ),
        Action(
            "pause",
            "Pause",
            "/api/imports/{id}/pause",
            "imports:write",
            "It was paused.",
            fits=status_in("reading", "running", "verifying"),
        ),
        Action(
            "resume",
            "Resume",
            "/api/imports/{id}/resume",
            "imports:write",
            "It was resumed.",
            fits=status_in("paused"),
        ),
        Action(
            "cancel",
            "Cancel",
            "/api/imports/{id}/cancel",
            "imports:write",
            "It was cancelled. What it has published stays until it is undone.",
            fits=status_in("reading", "ready", "running", "verifying", "paused"),
            effect="It ends where it is. Messages that it has published stay, until they are undone.",
            is_destructive=True,
        ),
        Action(
            "undo",
            "Undo",
            "/api/imports/{id}/undo",
            "imports:write",
            "The undo was started.",
            fits=lambda item: (
                item["status"] in ("completed", "failed", "cancelled", "paused")
                and item["started_at"] is not None
            ),
            effect="The page counts what it takes away.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Report", "/console/imports/{id}/report"),
        Link("Days", "/console/imports/{id}/days"),
        Link("Issues", "/console/imports/{id}/issues"),
        Link("Channels", "/console/imports/{id}/channels"),
        Link("People", "/console/imports/{id}/people"),
        Link("Files", "/console/imports/{id}/files"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    list_links=(Link("Import a file", "/console/imports/new", scope="imports:write"),),
    parts=(
        Part("Plan", "/api/imports/{id}/plan"),
        Part("Report", "/api/imports/{id}/report", {"rows": "false"}),
    ),
    template="import.html",
    first=("status", "repeat", "starts_at", "integration_id", "created_at", "started_at", "completed_at"),
    notes={"answers": "The answers are stored.", "options": "The options are stored."},
    downloads=(
        Download("Report (page)", "/api/imports/{id}/report", "report.html", {"format": "html"}),
        Download("Report (CSV)", "/api/imports/{id}/report", "report.csv", {"format": "csv"}),
    ),
    busy=frozenset({"reading", "running", "verifying", "undoing"}),
    advice=_import_advice,
)
IMPORT_PARTS: Final = (
    Kind(
        "imports/{parent}/issues",
        "Issues",
        "issue",
        "alert-triangle",
        "/api/imports/{parent}/issues",
        "imports:read",
        (
            column("Place", "place", "code"),
            column("Reason", "reason"),
            Column("What to do", lambda item: issue_step(item["reason"])),
            column("Record", "record", "code"),
        ),
        "No issues: everything that was read could be imported.",
        has_details=False,
        orders=(),
    ),
    Kind(
        "imports/{parent}/channels",
        "Channels",
        "channel",
        "message",
        "/api/imports/{parent}/channels",
        "imports:read",
        (
            column("Name", "name"),
            column("Kind", "kind"),
            column("Members", "members", "number"),
            column("Into channel", "channel_id", "code"),
            column("Left out", "left_out"),
            column("Problem", "problem"),
            column("First", "first", "time"),
            column("Last", "last", "time"),
        ),
        "No channels were read yet.",
        has_details=False,
        orders=(),
    ),
    Kind(
        "imports/{parent}/people",
        "People",
        "person",
        "users",
        "/api/imports/{parent}/people",
        "imports:read",
        (
            column("Name", "name"),
            column("User", "user_id", "code"),
            column("Proposed", "proposed_user_id", "code"),
            column("Matched by", "matched_by"),
        ),
        "No people were read yet.",
        has_details=False,
        orders=(),
    ),
    Kind(
        "imports/{parent}/files",
        "Files",
        "file",
        "download",
        "/api/imports/{parent}/files",
        "imports:read",
        (
            column("Name", "name"),
            column("State", "state", "status"),
            column("Reason", "detail"),
            column("Bytes", "size", "number"),
            column("Type", "content_type"),
        ),
        "No files yet: files are stored when the import runs.",
        filters=(Filter("state", "state", ("waiting", "stored", "address", "skipped", "failed")),),
        has_details=False,
        orders=(),
    ),
)
_ROW: Final = (
    column("Found", "found", "number"),
    column("Imported", "imported", "number"),
    column("There already", "duplicate", "number"),
    column("Left out", "skipped", "number"),
    column("Failed", "failed", "number"),
    column("First", "first", "time"),
    column("Last", "last", "time"),
)
REPORTS: Final = (
    Kind(
        "imports/{parent}/report",
        "Report by channel",
        "channel",
        "list",
        "/api/imports/{parent}/report/channels",
        "imports:read",
        (
            column("Channel", "name"),
            Column("Why not", lambda item: reason_in_words(item["left_out"] or "")),
            column("Days", "days", "number"),
            *_ROW,
        ),
        "No report yet: it is written at the end of a dry run and of the import.",
        has_details=False,
        orders=(),
    ),
    Kind(
        "imports/{parent}/days",
        "Report by day",
        "day",
        "list",
        "/api/imports/{parent}/report/days",
        "imports:read",
        (column("Channel", "name"), column("Day", "day"), *_ROW),
        "No report yet: it is written at the end of a dry run and of the import.",
        has_details=False,
        orders=(),
    ),
)
KINDS: Final[Sequence[Kind]] = (IMPORTS, *IMPORT_PARTS, *REPORTS)
