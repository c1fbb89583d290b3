"""The pages of members and their roles."""

from collections.abc import Sequence
from typing import Final, get_args

from services.console.pages.kinds import Action, Column, Field, Json, Kind, Link, column, status_in
from shared.runtime.web.members import Role

_ROLE: Final = Field(
    "role",
    "Role",
    "select",
    "A viewer reads everything but payloads. An operator also sees these, sends again, pauses, and manages "
    "mappings and imports. An admin also manages keys, credentials and members.",
    options=get_args(Role),
)
_SIGN_IN: Final = {"key": "with a key", "openid": "at the identity provider"}


def _has_key(item: Json) -> bool:
    return bool(item["sign_in"] == "key" and item["status"] == "active")


def _advice(item: Json) -> str:
    if item["status"] == "removed":
        return "This member was removed: the identity provider cannot let them in until they are restored."
    return ""


MEMBERS: Final = Kind(
    "members",
    "Members",
    "member",
    "users",
    "/api/members",
    "admin",
    (
        column("Name", "name", "link"),
        column("Role", "role"),
        column("Status", "status", "status"),
        Column("Signs in", lambda item: _SIGN_IN[item["sign_in"]]),
        column("Email", "email"),
        column("Last used", "last_used_at", "time"),
        column("Created", "created_at", "time"),
    ),
    "Nobody but API keys uses this workspace yet. Create a member for each person. Users of the identity "
    "provider become members when they first sign in.",
    "Settings",
    list_actions=(
        Action(
            "create",
            "Create a member",
            "/api/members",
            "admin",
            "Give the key to the member, who signs in with it. It is shown only now.",
            fields=(Field("name", "Name", required=True), _ROLE),
            shown={"key": "Key"},
            opens="/console/members/{id}",
        ),
    ),
    actions=(
        Action(
            "role",
            "Change the role",
            "/api/members/{id}",
            "admin",
            "The role counts already, also in open sessions.",
            method="PATCH",
            fits=_has_key,
            fields=(_ROLE,),
            effect="The role counts at once, also in open sessions.",
        ),
        Action(
            "rotate-key",
            "Replace the key",
            "/api/members/{id}/rotate-key",
            "admin",
            "Give the new key to the member. It is shown only now; the old one has ended.",
            fits=_has_key,
            effect="The key that they have now is refused at once, and the sessions that they started with "
            "it end, in every process. The new key is shown once.",
            shown={"key": "Key"},
            opens="/console/members/{id}",
        ),
        Action(
            "remove",
            "Remove",
            "/api/members/{id}",
            "admin",
            "The member is removed. Their key and their sessions have ended.",
            method="DELETE",
            fits=status_in("active"),
            effect="Their key is refused at once, and their sessions end, in every process. What they have "
            "done stays in the audit log. A key does not come back; a member of the identity provider stays "
            "in the list, is refused there, and can be restored. API keys that they know are not revoked: "
            "revoke these too.",
            is_destructive=True,
        ),
        Action(
            "restore",
            "Restore",
            "/api/members/{id}/restore",
            "admin",
            "They can sign in at the identity provider again.",
            fits=status_in("removed"),
        ),
    ),
    links=(Link("Audit", "/console/audit?actor={id}"), Link("Sessions", "/console/sessions")),
    advice=_advice,
)
KINDS: Final[Sequence[Kind]] = (MEMBERS,)
