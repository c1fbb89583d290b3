"""Endpoints and their executions."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.kinds import (
    OVERLAP,
    Action,
    Column,
    Field,
    Filter,
    Json,
    Kind,
    Link,
    Part,
    column,
)

_VERDICTS: Final = {
    "verified": "The signature is right.",
    "unsigned": "Accepted without a signature, because the endpoint allows it.",
    "claims": "The token is signed, but for somebody else or too old: compare the endpoint's settings.",
    "no_secret": "The endpoint has no secret yet: follow the setup steps.",
    "too_costly": "The body is too large to be checked with every secret: end rotations of the secret.",
    "wrong_secret": "Signed with another secret: compare the one at the provider with this endpoint's.",
    "old_secret": "Signed with a secret that has ended: enter the new one at the provider.",
    "body_changed": "The body was changed on its way: a proxy in front of the hub rewrites it.",
    "stale": "The request is too old: compare the clocks of the sender and of this machine.",
    "missing": "The request has no signature: enter the secret at the provider. Or it is from somebody else.",
    "doubled": "The signature is in the request twice: a proxy in front of the hub adds headers.",
    "unreadable": "The signature has not the form of this provider: is the endpoint for the right one?",
    "mismatch": "The signature does not fit: compare the secret at the provider with this endpoint's.",
}


def endpoint_advice(item: Json) -> str:
    """Return what an endpoint needs to receive webhooks; empty if it needs nothing."""
    if item["awaits"] == "secret":
        return "It has no secret yet: follow the setup steps."
    if item["awaits"] == "handshake":
        return "The provider has not confirmed the address yet: follow the setup steps."
    if item["secret_handed_over"]:
        return (
            "The provider has handed over a secret. If it asks for it again, show it: that is possible once."
        )
    return f"It is disabled: {item['disabled_reason']}." if item["disabled_reason"] else ""


def verdict_in_words(item: Json) -> str:
    """Return the verdict on a request in words, and why it was refused if that is something else."""
    words = _VERDICTS.get(str(item["verdict"]), "")
    detail = "" if words and item["outcome"] == "signature" else str(item["detail"])
    return f"{words} {detail}".strip()


def _execution_advice(item: Json) -> str:
    return verdict_in_words(item) if item["detail"] else ""


ENDPOINTS: Final = Kind(
    "endpoints",
    "Endpoints",
    "endpoint",
    "inbox",
    "/api/inbound-endpoints",
    "integrations:read",
    (
        column("Name", "name", "link", "name"),
        column("Provider", "provider"),
        column("Status", "status", "status"),
        column("Webhooks", "trigger_count", "number", "most_webhooks"),
        column("Errors", "error_count", "number", "most_errors"),
        column("Last webhook", "last_triggered", "time", "last_webhook"),
        column("Address", "url", "code"),
    ),
    "An endpoint is an address that a provider calls. Create one, and follow its setup steps.",
    "Traffic",
    filters=(Filter("status", "status", ("active", "inactive", "error")),),
    orders=("newest", "oldest", "name", "last_webhook", "most_webhooks", "most_errors"),
    list_links=(Link("Create an endpoint", "/console/endpoints/new", scope="integrations:write"),),
    actions=(
        Action(
            "edit",
            "Edit",
            "/api/inbound-endpoints/{id}",
            "integrations:write",
            "It is changed. New requests are received with the new settings.",
            method="PATCH",
            effect="Its form is one of its own: see `web.endpoint_edit`.",
        ),
        Action(
            "test",
            "Send a test",
            "/api/inbound-endpoints/{id}/test",
            "integrations:write",
            "A webhook as the provider sends it was received.",
            body=lambda _values, _item: {},
            shown={"fixture": "Sample", "status": "Status", "answer": "Answer"},
            opens="/console/endpoints/{id}/events",
        ),
        Action(
            "enable",
            "Enable",
            "/api/inbound-endpoints/{id}/enable",
            "integrations:write",
            "It accepts webhooks.",
            fits=lambda item: item["status"] == "inactive",
        ),
        Action(
            "rotate",
            "Rotate the secret",
            "/api/inbound-endpoints/{id}/rotate-secret",
            "integrations:write",
            "The new secret is shown only now. Enter it at the provider; the old one is valid for a while.",
            fields=(OVERLAP, Field("secret", "Secret", "key", "Only if the provider gives you one.")),
            effect="A new secret is made. The old one stays valid for some time, so nothing is refused.",
            shown={"secret": "New secret", "old_secrets_until": "The old one is valid until"},
        ),
        Action(
            "show-secret",
            "Show the handed-over secret",
            "/api/inbound-endpoints/{id}/handed-over-secret",
            "integrations:write",
            "The secret of the provider's handshake is shown only now: enter it where the provider asks.",
            fits=lambda item: bool(item["secret_handed_over"]),
            shown={"secret": "Secret"},
        ),
        Action(
            "disable",
            "Disable",
            "/api/inbound-endpoints/{id}/disable",
            "integrations:write",
            "It refuses webhooks.",
            fits=lambda item: item["status"] != "inactive",
            effect="Webhooks are refused with status 410 until it is enabled. Some providers stop sending.",
            is_destructive=True,
        ),
        Action(
            "delete",
            "Delete",
            "/api/inbound-endpoints/{id}",
            "integrations:write",
            "The endpoint is deleted.",
            method="DELETE",
            effect="Its address answers 404 for ever. This cannot be undone.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Setup and test", "/console/endpoints/{id}/setup"),
        Link("Executions", "/console/endpoints/{id}/events"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    advice=endpoint_advice,
)
EXECUTIONS: Final = Kind(
    "endpoints/{parent}/events",
    "Executions",
    "execution",
    "list",
    "/api/inbound-endpoints/{parent}/events",
    "integrations:read",
    (
        column("Time", "at", "time"),
        column("Execution", "id", "link"),
        column("Outcome", "outcome", "status"),
        Column("Verdict", verdict_in_words),
        column("Status", "status", "number"),
        Column("Events", lambda item: ", ".join(item["types"])),
        column("Bytes", "bytes", "number"),
        column("Duration (ms)", "duration_ms", "number"),
    ),
    "Nothing came to this endpoint yet. Follow its setup steps at the provider, or send a test.",
    name="id",
    actions=(
        Action(
            "replay",
            "Replay",
            "/api/inbound-endpoints/{parent}/events/{id}/replay",
            "integrations:operate",
            "Its events are published again.",
            fits=lambda item: bool(item["event_ids"]),
            effect="The events are published once more: messages and deliveries are made of them again.",
        ),
    ),
    links=(Link("Whole path", "/console/paths/{id}"),),
    parts=(Part("Payload", "/api/inbound-endpoints/{parent}/events/{id}/payload"),),
    advice=_execution_advice,
)
INCOMING: Final = Kind(
    "incoming-webhooks",
    "Incoming webhooks",
    "incoming webhook",
    "message",
    "/api/incoming-webhooks",
    "integrations:read",
    (
        column("Name", "name", "link"),
        column("Channel", "target_channel_id", "code"),
        column("Enabled", "enabled"),
        column("Created", "created_at", "time"),
    ),
    "An incoming webhook is an address with a token, where scripts post into a channel. Create one.",
    "Traffic",
    list_actions=(
        Action(
            "create",
            "Create an incoming webhook",
            "/api/incoming-webhooks",
            "integrations:write",
            "The address is shown only now: who has it can post.",
            fields=(
                Field("name", "Name", required=True),
                Field("target_channel_id", "Channel", hint="Its id in the chat.", required=True),
            ),
            shown={"url": "Address with token"},
            opens="/console/incoming-webhooks/{id}",
        ),
    ),
    actions=(
        Action(
            "rotate",
            "Rotate the token",
            "/api/incoming-webhooks/{id}/rotate-token",
            "integrations:write",
            "The new address is shown only now.",
            fields=(OVERLAP,),
            effect="A new token is made. The old one stays valid for some time.",
            shown={"url": "Address with token"},
        ),
        Action(
            "delete",
            "Delete",
            "/api/incoming-webhooks/{id}",
            "integrations:write",
            "The incoming webhook is deleted.",
            method="DELETE",
            effect="Its address answers 404 for ever. This cannot be undone.",
            is_destructive=True,
        ),
    ),
    links=(Link("Audit", "/console/audit?resource={id}"),),
)
POLLING: Final = Kind(
    "polling-triggers",
    "Polling triggers",
    "polling trigger",
    "activity",
    "/api/polling-triggers",
    "integrations:read",
    (
        column("Name", "name", "link"),
        column("Trigger", "trigger"),
        column("Status", "status", "status"),
        column("Last asked", "last_polled_at", "time"),
        column("Last event", "last_event_at", "time"),
        column("Failures", "failures", "number"),
    ),
    "A polling trigger asks a provider again and again for what no webhook brings.",
    "Traffic",
    actions=(
        Action(
            "pause",
            "Pause",
            "/api/polling-triggers/{id}/pause",
            "integrations:write",
            "It asks no more until it is resumed.",
            fits=lambda item: item["status"] in ("pending", "active", "failing"),
        ),
        Action(
            "resume",
            "Resume",
            "/api/polling-triggers/{id}/resume",
            "integrations:write",
            "It asks again.",
            fits=lambda item: item["status"] in ("paused", "stopped"),
        ),
        Action(
            "delete",
            "Delete",
            "/api/polling-triggers/{id}",
            "integrations:write",
            "The polling trigger is deleted.",
            method="DELETE",
            effect="It asks no more, and its endpoint is deleted. This cannot be undone.",
            is_destructive=True,
        ),
    ),
    links=(Link("Executions", "/console/endpoints/{endpoint_id}/events"),),
    advice=lambda item: str(item["last_error"]["detail"]) if item["last_error"] else "",
)
KINDS: Final[Sequence[Kind]] = (ENDPOINTS, EXECUTIONS, INCOMING, POLLING)
