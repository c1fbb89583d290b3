"""Imports of history, with their parts."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.kinds import (
    Action,
    Download,
    Field,
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
            "It is tried. Nothing is published.",
            fits=status_in("ready"),
            body=lambda _values, _item: {"dry_run": True},
        ),
        Action(
            "start",
            "Start",
            "/api/imports/{id}/start",
            "imports:write",
            "The import runs.",
            fits=status_in("ready"),
            effect="Channels and messages are published to the chat. They can be undone.",
            body=lambda _values, _item: {"dry_run": False},
        ),
        Action(
            "pause",
            "Pause",
            "/api/imports/{id}/pause",
            "imports:write",
            "It publishes nothing more until it is resumed.",
            fits=status_in("reading", "running", "verifying"),
        ),
        Action(
            "resume",
            "Resume",
            "/api/imports/{id}/resume",
            "imports:write",
            "The import goes on.",
            fits=status_in("paused"),
        ),
        Action(
            "cancel",
            "Cancel",
            "/api/imports/{id}/cancel",
            "imports:write",
            "The import ends.",
            fits=status_in("reading", "ready", "running", "verifying", "paused"),
            effect="It ends where it is. Messages that it has published stay, until they are undone.",
            is_destructive=True,
        ),
        Action(
            "undo",
            "Undo",
            "/api/imports/{id}/undo",
            "imports:write",
            "Its messages are taken away.",
            fits=lambda item: item["status"] in ("completed", "failed", "cancelled") and item["added"] > 0,
            fields=(
                Field(
                    "messages",
                    "Messages to take away",
                    "number",
                    "How many it added, to confirm.",
                    required=True,
                ),
                Field("keep_answered", "Keep those that were answered", "flag"),
                Field("keep_shared", "Keep those that other imports found, too", "flag"),
            ),
            effect="Every message that this import added is taken away from the chat. This cannot be undone; "
            "the import can be repeated.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Issues", "/console/imports/{id}/issues"),
        Link("Channels", "/console/imports/{id}/channels"),
        Link("People", "/console/imports/{id}/people"),
        Link("Files", "/console/imports/{id}/files"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    list_links=(Link("Import a file", "/console/imports/new"),),
    parts=(Part("Plan", "/api/imports/{id}/plan"),),
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
        (column("Place", "place", "code"), column("Reason", "reason"), column("Record", "record", "code")),
        "No issues: everything that was read could be imported.",
        has_details=False,
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
    ),
)
KINDS: Final[Sequence[Kind]] = (IMPORTS, *IMPORT_PARTS)
