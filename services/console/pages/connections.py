"""Connected accounts, mapped conversations with their messages."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.authorization_failures import reason_in_words
from services.console.pages.kinds import (
    Action,
    Column,
    Field,
    Filter,
    Json,
    Kind,
    Link,
    Part,
    Values,
    column,
    status_in,
)

_ACCOUNT_STATES: Final = ("pending", "connected", "reauth_required", "error", "disabled", "disconnected")
_OAUTH: Final = ("oauth2", "oauth1")
_TARGET_STATES: Final = (
    *("waiting", "sending", "sent", "failed", "unknown", "skipped", "discarded", "deleted"),
)
_CHOICES: Final = {
    "this": "this edit: it is sent to the other conversations",
    "other": "the other edit: this one stays only where it was made",
}


def _account_advice(item: Json) -> str:
    reason = reason_in_words(item["reason"] or "")
    match item["status"]:
        case "pending":
            if item["choices"]:
                return "One step is left: choose what it is connected for."
            if item["reason"] == "confirmation_required":
                return (
                    "It was allowed at the provider, and the chat has not confirmed it yet. After ten "
                    "minutes the grant is revoked: then connect it again."
                )
            return "Nobody has agreed at the provider yet: connect it again."
        case "reauth_required":
            how = "Connect it again" if item["kind"] in _OAUTH else "Enter new credentials"
            return f"Its access has ended: {reason or 'the provider refuses it'}. {how}."
        case "error":
            return f"The provider does not answer as it should: {reason}. It is tried again; check it."
        case "disabled":
            return "It is disabled: enable it to use it again."
        case "disconnected":
            return "It is disconnected, and its tokens are deleted. Connect it again to use it."
    if item["missing_scopes"]:
        return f"It lacks scopes: {', '.join(item['missing_scopes'])}. Connect it again to add them."
    if item["health"] == "at_risk":
        if item["last_error"]:
            error = item["last_error"]
            return f"The last call of the provider failed: {error['detail'] or error['code']}. Check it."
        return f"Its access ends on {str(item['reconnect_by'])[:10]}. Connect it again before."
    return ""


def _failed(item: Json) -> str:
    """Return the reason and the fix that an object has."""
    return " ".join(str(item[name]) for name in ("reason", "fix") if item.get(name))


def _targets(item: Json) -> str:
    return ", ".join(f"{target['provider']}: {target['state']}" for target in item["targets"])


def _legs(item: Json) -> str:
    return " ↔ ".join(f"{leg['provider']} {leg['name'] or leg['conversation']}" for leg in item["legs"])


def _nothing(_values: Values, _item: Json) -> Json:
    return {}


INTEGRATIONS: Final = Kind(
    "integrations",
    "Accounts",
    "account",
    "plug",
    "/api/integrations",
    "integrations:read",
    (
        column("Name", "name", "link"),
        column("Provider", "provider"),
        column("Status", "status", "status"),
        column("Reason", "reason"),
        column("Connected", "connected_at", "time"),
        column("Expires", "expires_at", "time"),
        column("Last used", "last_used_at", "time"),
    ),
    "No account is connected. Choose a provider in the catalogue, and connect one there.",
    "Connections",
    list_links=(Link("Connect an account", "/console/catalogue"),),
    filters=(
        Filter("status", "status", _ACCOUNT_STATES),
        Filter("provider", "provider"),
        Filter("account_id", "account id at the provider"),
        Filter("user", "user"),
        Filter("tag", "tag"),
    ),
    actions=(
        Action(
            "check",
            "Check",
            "/api/integrations/{id}/check",
            "integrations:write",
            "The provider was asked: the status is up to date.",
            fits=status_in("connected", "error", "reauth_required"),
        ),
        Action(
            "enable",
            "Enable",
            "/api/integrations/{id}/enable",
            "integrations:write",
            "It can be used again.",
            fits=status_in("disabled"),
        ),
        Action(
            "disable",
            "Disable",
            "/api/integrations/{id}/disable",
            "integrations:write",
            "It is not used until it is enabled.",
            fits=status_in("connected", "error"),
            effect="Nothing uses it until it is enabled again; mapped conversations of it wait.",
            is_destructive=True,
        ),
        Action(
            "disconnect",
            "Disconnect",
            "/api/integrations/{id}/disconnect",
            "integrations:write",
            "Its tokens are revoked and deleted.",
            fits=lambda item: item["status"] != "disconnected",
            effect="Tokens are revoked at the provider and deleted, its subscriptions end, and mapped "
            "conversations of it stop. To use it again, it has to be connected again.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Webhooks of its app", "/console/endpoints/{id}/events"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    parts=(Part("Provider subscriptions", "/api/integrations/{id}/watches"),),
    template="account.html",
    notes={"connect": "The account is connected."},
    advice=_account_advice,
)
MAPPINGS: Final = Kind(
    "mappings",
    "Mappings",
    "mapping",
    "link",
    "/api/mappings",
    "sync:read",
    (
        column("Name", "name", "link"),
        Column("Conversations", _legs),
        column("Status", "status", "status"),
        column("Reason", "reason"),
        column("Created", "created_at", "time"),
    ),
    "A mapping lets conversations of different chats follow each other. Connect an account, then create one.",
    "Conversations",
    filters=(
        Filter("status", "status", ("active", "paused", "error")),
        Filter("provider", "provider"),
        Filter("conversation", "conversation"),
    ),
    list_actions=(
        Action(
            "create",
            "Create a mapping",
            "/api/mappings",
            "sync:write",
            "The conversations follow each other now.",
            effect="Its form is one of its own: see `web.mapping_forms`.",
            opens="/console/mappings/{id}",
        ),
    ),
    list_links=(Link("Find a conversation", "/console/mappings/find", scope="sync:read"),),
    actions=(
        Action(
            "edit",
            "Change",
            "/api/mappings/{id}",
            "sync:write",
            "The mapping is changed.",
            method="PATCH",
            effect="Its form is one of its own: see `web.mapping_forms`.",
        ),
        Action(
            "pause",
            "Pause",
            "/api/mappings/{id}/pause",
            "sync:write",
            "It is paused. What is written until it is resumed is not forwarded.",
            fits=status_in("active", "error"),
            effect="What is written until it is resumed is not forwarded. What already waits is sent then.",
        ),
        Action(
            "resume",
            "Resume",
            "/api/mappings/{id}/resume",
            "sync:write",
            "New messages are forwarded again, after those that already waited.",
            fits=status_in("paused", "error"),
        ),
        Action(
            "test",
            "Test",
            "/api/mappings/{id}/test",
            "sync:write",
            "Each conversation was tried.",
            effect="A short message is sent to each conversation that receives.",
            body=_nothing,
            shown={"legs": "Conversations"},
        ),
        Action(
            "delete",
            "Delete",
            "/api/mappings/{id}",
            "sync:write",
            "The mapping is deleted.",
            method="DELETE",
            effect="The conversations do not follow each other any more. Messages stay where they are.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Messages", "/console/messages?mapping_id={id}"),
        Link("Conflicts", "/console/conflicts?mapping_id={id}"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    template="mapping.html",
    first=("status", "created_at", "changed_at", "filters", "options"),
    advice=_failed,
)
MESSAGES: Final = Kind(
    "messages",
    "Messages",
    "message",
    "message",
    "/api/synced-messages",
    "sync:read",
    (
        column("Message", "excerpt", "link"),
        column("From", "source.provider"),
        column("Author", "source.author.name"),
        Column("Targets", _targets),
        column("Received", "received_at", "time"),
    ),
    "A message of a mapped conversation appears here with its way to each target. Create a mapping first.",
    "Conversations",
    filters=(
        Filter("state", "state of a target", _TARGET_STATES),
        Filter("mapping_id", "mapping id"),
        Filter("message_id", "message id"),
        Filter("related_id", "provider's, event or trace id"),
    ),
    name="excerpt",
    actions=(
        Action(
            "retry",
            "Retry",
            "/api/synced-messages/{id}/retry",
            "sync:write",
            "What failed is sent again.",
            fits=lambda item: any(target["state"] in ("failed", "unknown") for target in item["targets"]),
            body=_nothing,
        ),
        Action(
            "discard",
            "Discard",
            "/api/synced-messages/{id}/discard",
            "sync:write",
            "It is not sent any more.",
            fits=lambda item: any(
                target["state"] in ("failed", "waiting", "unknown") for target in item["targets"]
            ),
            effect="Targets that do not have the message yet never get it.",
            body=_nothing,
            is_destructive=True,
        ),
    ),
    links=(Link("Mapping", "/console/mappings/{mapping_id}"), Link("Whole path", "/console/paths/{id}")),
    advice=lambda item: " ".join(
        _failed(target) for target in item["targets"] if target["state"] == "failed"
    ),
)
CONFLICTS: Final = Kind(
    "conflicts",
    "Conflicts",
    "conflict",
    "git-merge",
    "/api/conflicts",
    "sync:read",
    (
        column("Message", "text"),
        column("State", "state", "status"),
        column("Author", "author_name"),
        column("Created", "created_at", "time"),
        column("Resolved", "resolved_at", "time"),
    ),
    "A conflict appears when both sides edit a message, and the mapping leaves the decision to a person.",
    "Conversations",
    filters=(Filter("state", "state", ("open", "applied", "dropped")), Filter("mapping_id", "mapping id")),
    name="text",
    has_details=False,
    actions=(
        Action(
            "resolve",
            "Resolve",
            "/api/conflicts/{id}/resolve",
            "sync:write",
            "It is resolved. This edit, if it was chosen, is on its way to the other conversations.",
            fits=lambda item: item.get("state", "open") == "open",
            fields=(Field("use", "Use", "select", options=tuple(_CHOICES), labels=_CHOICES),),
            effect="A message was edited in two conversations, and this edit waits for a decision.",
        ),
    ),
)
PEOPLE: Final = Kind(
    "people",
    "People",
    "person",
    "users",
    "/api/people-links",
    "sync:read",
    (
        column("Provider", "provider"),
        column("Account", "account", "code"),
        column("Person there", "person_id", "code"),
        column("User of the chat", "user_id", "code"),
        column("E-mail", "email"),
        column("How", "how"),
        column("Changed", "changed_at", "time"),
    ),
    "A link joins a person of another chat with a user of the chat, so that mentions arrive. Create one.",
    "Conversations",
    filters=(Filter("provider", "provider"), Filter("person_id", "person"), Filter("user_id", "user")),
    name="person_id",
    has_details=False,
    list_actions=(
        Action(
            "link",
            "Link a person",
            "/api/people-links",
            "sync:write",
            "The link is stored.",
            method="PUT",
            fields=(
                Field("provider", "Provider", hint="slack or telegram", required=True),
                Field("account", "Account", hint="The id of the team or server; left empty: the only one."),
                Field("person_id", "Person there", hint="Their id at the provider.", required=True),
                Field("user_id", "User of the chat", hint="Left empty: a guest."),
                Field("how", "How", "select", options=("manual", "guest")),
            ),
        ),
    ),
    actions=(
        Action(
            "delete",
            "Delete",
            "/api/people-links/{id}",
            "sync:write",
            "The link is deleted.",
            method="DELETE",
            effect="Messages of this person have their name only, and mentions do not reach the user.",
            is_destructive=True,
        ),
    ),
)
KINDS: Final[Sequence[Kind]] = (INTEGRATIONS, MAPPINGS, MESSAGES, CONFLICTS, PEOPLE)
