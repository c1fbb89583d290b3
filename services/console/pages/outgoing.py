"""Outgoing webhooks, deliveries, dead letters and jobs."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.failures import advice_of, is_repaired_by_settings
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
    Values,
    column,
    read,
    status_in,
)

_DELIVERY_STATES: Final = (
    *("pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled", "discarded"),
)


def _webhook_state(item: Json) -> str:
    if not item["enabled"]:
        return "disabled"
    if item["paused"]:
        return "paused"
    return "active" if item["health"]["circuit"] == "closed" else "failing"


def _webhook_advice(item: Json) -> str:
    if item["disabled_reason"]:
        return f"It was disabled: {item['disabled_reason']}. Repair the receiver, then enable it and recover."
    if item["health"]["failing_since"]:
        return "Its receiver fails: open the deliveries to see what it answers."
    return ""


def _range(values: Values, _: Json) -> Json:
    return {name: value for name, value in values.items() if value}


def _one(_: Values, item: Json) -> Json:
    return {"ids": [item["id"]]}


_SINCE: Final = Field("since", "Since (UTC)", "time", required=True)
_UNTIL: Final = Field("until", "Until (UTC)", "time", "Left empty: until now.")
_REASONS: Final = (
    *("timeout", "connection", "tls", "dns", "status", "redirect", "circuit_open", "address_refused"),
    *("protocol", "closed_mid_response", "bad_url", "transform_failed", "condition_too_expensive", "proxy"),
)
"""The error classes of attempts."""
_SELECTION: Final = (
    Field("webhook_id", "Webhook id"),
    Field("event_type", "Event type"),
    Field("error", "Reason", "select", options=("", *_REASONS)),
    Field("since", "Since (UTC)", "time"),
    _UNTIL,
)
_REPAIRS: Final = (
    Link(
        "Change the webhook",
        "/console/webhooks/{webhook_id}/do/edit",
        is_repaired_by_settings,
        "webhooks:write",
    ),
    Link(
        "Open the webhook",
        "/console/webhooks/{webhook_id}",
        lambda item: item.get("waiting_reason") in ("paused", "disabled", "unreadable"),
    ),
)
WEBHOOKS: Final = Kind(
    "webhooks",
    "Outgoing webhooks",
    "outgoing webhook",
    "send",
    "/api/outgoing-webhooks",
    "webhooks:read",
    (
        column("Name", "name", "link"),
        Column("Status", _webhook_state, "status"),
        Column("Events", lambda item: ", ".join(item["events"])),
        column("Failing since", "health.failing_since", "time"),
        column("Address", "url", "code"),
        column("Created", "created_at", "time"),
    ),
    "An outgoing webhook sends events to an address of yours, signed and with retries. Create one.",
    "Traffic",
    filters=(Filter("name", "name"), Filter("url", "address")),
    list_actions=(
        Action(
            "create",
            "Create a webhook",
            "/api/outgoing-webhooks",
            "webhooks:write",
            "The webhook is there. The secret is shown only now: the receiver verifies signatures with it.",
            effect="Its form is one of its own: see `web.webhook_forms`.",
            shown={"secret": "Secret", "warnings": "Warnings"},
            opens="/console/webhooks/{id}",
        ),
    ),
    actions=(
        Action(
            "edit",
            "Edit",
            "/api/outgoing-webhooks/{id}",
            "webhooks:write",
            "It is changed. What waits is sent with the new settings.",
            method="PATCH",
            effect="Its form is one of its own: see `web.webhook_forms`.",
        ),
        Action(
            "test",
            "Send a test",
            "/api/outgoing-webhooks/{id}/test",
            "webhooks:operate",
            "A test event is on its way.",
            opens="/console/deliveries/{delivery_id}",
        ),
        Action(
            "pause",
            "Pause",
            "/api/outgoing-webhooks/{id}/pause",
            "webhooks:operate",
            "Nothing is sent until it is resumed; deliveries wait.",
            fits=lambda item: not item["paused"],
        ),
        Action(
            "resume",
            "Resume",
            "/api/outgoing-webhooks/{id}/resume",
            "webhooks:operate",
            "What waited is sent now.",
            fits=read("paused"),
        ),
        Action(
            "enable",
            "Enable",
            "/api/outgoing-webhooks/{id}/enable",
            "webhooks:write",
            "It gets new events again.",
            fits=lambda item: not item["enabled"],
        ),
        Action(
            "recover",
            "Recover",
            "/api/outgoing-webhooks/{id}/recover",
            "webhooks:operate",
            "A job sends again what failed.",
            fields=(_SINCE, _UNTIL),
            body=_range,
            effect="What failed in this time is sent again, under the same ids.",
            opens="/console/jobs/{job.id}",
        ),
        Action(
            "replay",
            "Replay",
            "/api/outgoing-webhooks/{id}/replay",
            "webhooks:operate",
            "A job sends again what was sent.",
            fields=(_SINCE, _UNTIL),
            body=_range,
            effect="Everything that was sent in this time is sent once more, under new ids.",
            opens="/console/jobs/{job.id}",
        ),
        Action(
            "rotate",
            "Rotate the secret",
            "/api/outgoing-webhooks/{id}/rotate-secret",
            "webhooks:write",
            "The new secret is shown only now. Until the old one ends, requests are signed with both.",
            fields=(OVERLAP,),
            effect="A new secret is made. Both sign for some time, so the receiver can change over.",
            shown={"secret": "New secret", "old_secrets_until": "The old one is valid until"},
        ),
        Action(
            "disable",
            "Disable",
            "/api/outgoing-webhooks/{id}/disable",
            "webhooks:write",
            "It gets no events.",
            fits=read("enabled"),
            effect="Events that happen while it is disabled are not sent to it, also not later.",
            is_destructive=True,
        ),
        Action(
            "delete",
            "Delete",
            "/api/outgoing-webhooks/{id}",
            "webhooks:write",
            "The webhook is deleted.",
            method="DELETE",
            effect="What waits is not sent any more. This cannot be undone.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Deliveries", "/console/deliveries?webhook_id={id}"),
        Link("Dead letters", "/console/dead-letters?webhook_id={id}"),
        Link("Jobs", "/console/jobs?webhook_id={id}"),
        Link("Audit", "/console/audit?resource={id}"),
    ),
    advice=_webhook_advice,
    repairs=(
        Link(
            "Its dead letters",
            "/console/dead-letters?webhook_id={id}",
            lambda item: _webhook_advice(item) != "",
        ),
    ),
    first=(
        *("disabled_reason", "paused", "url", "events", "health", "unreadable", "warnings", "description"),
        *("filter", "transform", "integration_id", "profile", "public_keys", "format", "ordering"),
        *("old_secrets_until", "rate_limit", "created_at", "updated_at"),
    ),
    parts=(
        Part("The last 24 hours", "/api/outgoing-webhooks/{id}/stats"),
        Part("Its deliveries", "/api/queue/stats?webhook_id={id}"),
    ),
)
DELIVERIES: Final = Kind(
    "deliveries",
    "Deliveries",
    "delivery",
    "list",
    "/api/deliveries",
    "webhooks:read",
    (
        column("Delivery", "id", "link"),
        column("Event", "event_type"),
        column("Status", "status", "status"),
        column("Attempts", "attempt_count", "number"),
        column("Error", "error"),
        column("Next attempt", "next_attempt_at", "time"),
        column("Created", "created_at", "time"),
    ),
    "A delivery appears here when an event fits an outgoing webhook. Create one, or send it a test.",
    "Traffic",
    filters=(
        Filter("status", "status", _DELIVERY_STATES),
        Filter("event_type", "event type"),
        Filter("webhook_id", "webhook id"),
        Filter("event_id", "event id"),
        Filter("trace_id", "trace id"),
    ),
    name="event_type",
    actions=(
        Action(
            "retry",
            "Retry now",
            "/api/deliveries/{id}/retry",
            "webhooks:operate",
            "It is sent again now.",
            fits=status_in("pending", "retrying", "dead_letter"),
        ),
        Action(
            "resend",
            "Send again",
            "/api/deliveries/{id}/resend",
            "webhooks:operate",
            "It is sent once more, under a new id.",
            fits=status_in("delivered", "cancelled", "discarded"),
            opens="/console/deliveries/{id}",
        ),
        Action(
            "cancel",
            "Cancel",
            "/api/deliveries/{id}/cancel",
            "webhooks:operate",
            "It is not sent any more.",
            fits=status_in("pending", "retrying"),
            effect="The receiver does not get this event. It can be sent again later.",
            is_destructive=True,
        ),
    ),
    links=(
        Link("Webhook", "/console/webhooks/{webhook_id}"),
        Link("Whole path", "/console/paths/{id}"),
        Link("All deliveries of the event", "/console/deliveries?event_id={event_id}"),
    ),
    busy=frozenset({"pending", "delivering", "retrying"}),
    advice=advice_of,
    repairs=_REPAIRS,
    first=(
        *("status", "error", "waiting_reason", "next_attempt_at", "event_type", "webhook_id", "event_id"),
        *("attempt_count", "created_at", "finished_at", "replay_of", "erased_at", "trace_id"),
    ),
)
DEAD_LETTERS: Final = Kind(
    "dead-letters",
    "Dead letters",
    "dead letter",
    "alert-triangle",
    "/api/dead-letters",
    "webhooks:read",
    (
        column("Delivery", "id", "link"),
        column("Event", "event_type"),
        column("Reason", "detail"),
        column("Error", "error"),
        column("Status code", "status_code", "number"),
        column("Attempts", "attempt_count", "number"),
        column("Finished", "finished_at", "time"),
    ),
    "No dead letters: every delivery was made, or is still tried.",
    "Traffic",
    filters=(
        Filter("error", "reason", _REASONS),
        Filter("event_type", "event type"),
        Filter("webhook_id", "webhook id"),
    ),
    name="event_type",
    list_actions=(
        Action(
            "replay",
            "Replay many",
            "/api/dead-letters/replay",
            "webhooks:operate",
            "A job sends them again.",
            fields=_SELECTION,
            effect="All dead letters that fit are sent again, under the same ids.",
            opens="/console/jobs/{job.id}",
        ),
        Action(
            "discard",
            "Discard many",
            "/api/dead-letters/discard",
            "webhooks:operate",
            "A job discards them.",
            fields=_SELECTION,
            effect="All that fit are discarded: receivers do not get them. They stay in the log.",
            is_destructive=True,
            opens="/console/jobs/{job.id}",
        ),
    ),
    actions=(
        Action(
            "replay",
            "Send again",
            "/api/dead-letters/replay",
            "webhooks:operate",
            "It is sent again now.",
            body=_one,
            opens="/console/deliveries/{id}",
        ),
        Action(
            "discard",
            "Discard",
            "/api/dead-letters/discard",
            "webhooks:operate",
            "It is no dead letter any more.",
            body=_one,
            effect="The receiver does not get this event. The delivery stays in the log.",
            is_destructive=True,
        ),
    ),
    links=(Link("Delivery", "/console/deliveries/{id}"), Link("Webhook", "/console/webhooks/{webhook_id}")),
    advice=advice_of,
    repairs=_REPAIRS,
    first=(
        *("error", "status_code", "detail", "event_type", "webhook_id", "event_id", "attempt_count"),
        *("created_at", "finished_at", "expires_at"),
    ),
)
JOBS: Final = Kind(
    "jobs",
    "Jobs",
    "job",
    "stack-2",
    "/api/delivery-jobs",
    "webhooks:read",
    (
        column("Job", "id", "link"),
        column("Does", "kind"),
        column("Status", "status", "status"),
        column("Done", "done", "number"),
        column("Of", "total", "number"),
        column("Created", "created_at", "time"),
    ),
    "A job sends many deliveries again: start one with Recover or Replay of an outgoing webhook.",
    "Traffic",
    filters=(Filter("webhook_id", "webhook id"),),
    name="kind",
    actions=(
        Action(
            "cancel",
            "Cancel",
            "/api/delivery-jobs/{id}/cancel",
            "webhooks:operate",
            "The job ends. What it has sent stays sent.",
            fits=status_in("running"),
            is_destructive=True,
        ),
    ),
    busy=frozenset({"running"}),
    advice=lambda item: str(item["error"] or item["waiting_for"] or ""),
    first=(
        *("kind", "status", "done", "skipped", "total", "waiting_for", "error", "webhook_id", "replay_no"),
        *("created_at", "finished_at"),
    ),
)
KINDS: Final[Sequence[Kind]] = (WEBHOOKS, DELIVERIES, DEAD_LETTERS, JOBS)
