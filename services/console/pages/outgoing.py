"""Outgoing webhooks and the jobs on their deliveries."""

from collections.abc import Sequence
from typing import Final

from services.console.pages.deliveries import DEAD_LETTERS, DELIVERIES, UNTIL
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


def _webhook_state(item: Json) -> str:
    if not item["enabled"]:
        return "disabled"
    if item["paused"]:
        return "paused"
    return "active" if item["health"]["circuit"] == "closed" else "failing"


def _webhook_advice(item: Json) -> str:
    if item["disabled_reason"] == "by_hand":
        return "It is disabled: enable it to get new events again."
    if item["disabled_reason"]:
        return f"It was disabled: {item['disabled_reason']}. Repair the receiver, then enable it and recover."
    if item["health"]["failing_since"]:
        return "Its receiver fails: open the deliveries to see what it answers."
    return ""


def _range(values: Values, _: Json) -> Json:
    return {name: value for name, value in values.items() if value}


_SINCE: Final = Field("since", "Since (UTC)", "time", required=True)
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
    filters=(
        Filter("status", "status", ("active", "paused", "disabled", "failing")),
        Filter("name", "name"),
        Filter("url", "address"),
    ),
    list_actions=(
        Action(
            "create",
            "Create a webhook",
            "/api/outgoing-webhooks",
            "webhooks:write",
            "The webhook was created. The secret is shown only now; receivers verify signatures with it.",
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
            fields=(_SINCE, UNTIL),
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
            fields=(_SINCE, UNTIL),
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
            "The job has ended. What it has sent stays sent.",
            fits=status_in("running"),
            effect="The job ends, and cannot go on. What it has sent stays sent.",
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
