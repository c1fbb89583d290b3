"""Deliveries and dead letters."""

from typing import Final

from services.console.pages.failures import advice_of, is_repaired_by_settings
from services.console.pages.kinds import (
    Action,
    BulkAction,
    Field,
    Filter,
    Json,
    Kind,
    Link,
    Values,
    column,
    status_in,
)

_DELIVERY_STATES: Final = (
    *("pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled", "discarded"),
)


def _one(_: Values, item: Json) -> Json:
    return {"ids": [item["id"]]}


UNTIL: Final = Field("until", "Until (UTC)", "time", "Left empty: until now.")
_REASONS: Final = (
    *("timeout", "connection", "tls", "dns", "status", "redirect", "circuit_open", "stopped"),
    *("address_refused", "protocol", "closed_mid_response", "bad_url", "transform_failed"),
    *("condition_too_expensive", "proxy"),
)
"""The error classes of attempts, and of waits that were too long."""
_SELECTION: Final = (
    Field("webhook_id", "Webhook id"),
    Field("event_type", "Event type"),
    Field("error", "Reason", "select", options=("", *_REASONS)),
    Field("since", "Since (UTC)", "time"),
    UNTIL,
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
_COUNT: Final = "/api/deliveries/count"
_LETTER: Final = ("dead_letter",)
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
    notes={"test": "A test event is on its way."},
    bulk=(
        BulkAction(
            "retry",
            "Retry",
            "/api/deliveries/retry",
            "webhooks:operate",
            "They are sent again under the same ids, as soon as their endpoints accept requests: what has "
            "failed or was cancelled starts again, what waits is due now. What is delivered stays as it is.",
            "Sent again",
            _COUNT,
            ("dead_letter", "retrying"),
            ("pending", "retrying", "dead_letter", "cancelled", "discarded"),
            is_for_statuses=True,
        ),
    ),
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
    bulk=(
        BulkAction(
            "replay",
            "Send again",
            "/api/dead-letters/replay",
            "webhooks:operate",
            "They are sent again under the same ids, as soon as their endpoints accept requests.",
            "Sent again",
            _COUNT,
            _LETTER,
            _LETTER,
        ),
        BulkAction(
            "discard",
            "Discard",
            "/api/dead-letters/discard",
            "webhooks:operate",
            "Their receivers do not get these events. The deliveries stay in the log.",
            "Discarded",
            _COUNT,
            _LETTER,
            _LETTER,
            is_destructive=True,
        ),
    ),
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
