"""API keys, the audit log and event types."""

from collections.abc import Sequence
from typing import Final, get_args

from services.console.pages.kinds import Action, Column, Field, Filter, Json, Kind, column
from shared.runtime.web.api_keys import KeyScope


def _actor(item: Json) -> str:
    actor = item["actor"]
    name = actor["key_name"] or actor["key_id"]
    name = f"{name} ({actor['role']})" if actor["role"] else name
    return f"{name} by {actor['service']}" if actor["service"] else str(name)


EVENT_TYPES: Final = Kind(
    "event-types",
    "Event types",
    "event type",
    "tag",
    "/api/event-types",
    "webhooks:read",
    (column("Name", "name", "link"), column("Source", "source"), column("About", "about")),
    "No event types.",
    "Settings",
    key="name",
    orders=(),
)
API_KEYS: Final = Kind(
    "api-keys",
    "API keys",
    "API key",
    "key",
    "/api/api-keys",
    "admin",
    (
        column("Name", "name"),
        column("Begins with", "prefix", "code"),
        Column("Scopes", lambda item: ", ".join(item["scopes"])),
        column("Last used", "last_used_at", "time"),
        column("Expires", "expires_at", "time"),
    ),
    "No keys.",
    "Settings",
    has_details=False,
    list_actions=(
        Action(
            "create",
            "Create an API key",
            "/api/api-keys",
            "admin",
            "The key is shown only now: store it where the program reads it.",
            fields=(
                Field("name", "Name", hint="Who or what uses it.", required=True),
                Field("scopes", "Scopes", "checks", options=get_args(KeyScope), required=True),
                Field("expires_at", "Expires (UTC)", "time", "Left empty: never."),
            ),
            shown={"key": "API key"},
            opens="/console/api-keys",
        ),
    ),
    actions=(
        Action(
            "revoke",
            "Revoke",
            "/api/api-keys/{id}",
            "admin",
            "No service accepts the key any more, and sessions of it have ended.",
            method="DELETE",
            effect="Programs that use it are refused at once, and its sessions end. It cannot be undone.",
            is_destructive=True,
        ),
    ),
)
AUDIT: Final = Kind(
    "audit",
    "Audit",
    "entry",
    "history",
    "/api/audit",
    "admin",
    (
        column("Time", "at", "time"),
        Column("Who", _actor),
        Column("What", lambda item: f"{item['method']} {item['route']}"),
        Column("Objects", lambda item: ", ".join(item["resources"]), "code"),
        Column("Fields", lambda item: ", ".join(item["fields"])),
        column("Status", "status", "number"),
        column("Address", "client"),
    ),
    "Nothing was changed yet. Each change by an API key or in this console has a line here.",
    "Settings",
    filters=(
        Filter("actor", "key id"),
        Filter("resource", "object id"),
        Filter("service", "service"),
    ),
    has_details=False,
)
KINDS: Final[Sequence[Kind]] = (EVENT_TYPES, API_KEYS, AUDIT)
