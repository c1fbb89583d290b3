"""The kinds of objects in a portal: those of the console, limited to actions and fields for customers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from services.console.pages.deliveries import DELIVERIES
from services.console.pages.failures import advice_of
from services.console.pages.kinds import Action, Json, Kind, Link, Part
from services.console.pages.outgoing import WEBHOOKS

_WEBHOOK_ACTIONS: Final = ("edit", "test", "pause", "resume", "enable", "rotate", "delete")
_BASE: Final = "/console/portal/{session}/webhooks"


def _actions(kind: Kind, names: Sequence[str], opens: Callable[[Action], str]) -> tuple[Action, ...]:
    return tuple(replace(action, opens=opens(action)) for action in kind.actions if action.name in names)


def _advice(item: Json) -> str:
    if item["disabled_reason"]:
        return "The webhook was disabled. Repair the receiver, then enable the webhook."
    if item["health"]["failing_since"]:
        return "The receiver fails: open the deliveries to see its responses."
    return ""


PORTAL_WEBHOOKS: Final = replace(
    WEBHOOKS,
    path="portal/{session}/webhooks",
    title="Webhooks",
    one="webhook",
    empty="A webhook sends events to an address of yours, signed and with retries. Create one.",
    group=None,
    filters=(),
    actions=_actions(
        WEBHOOKS,
        _WEBHOOK_ACTIONS,
        lambda action: f"{_BASE}/{{id}}/deliveries/{{delivery_id}}" if action.name == "test" else "",
    ),
    list_actions=tuple(replace(action, opens=f"{_BASE}/{{id}}") for action in WEBHOOKS.list_actions),
    links=(Link("Deliveries", f"{_BASE}/{{id}}/deliveries"),),
    advice=_advice,
    repairs=(),
    first=(
        *("disabled_reason", "paused", "url", "events", "health", "unreadable", "description", "filter"),
        *("transform", "format", "ordering", "created_at", "updated_at"),
    ),
    parts=(Part("The last 24 hours", "/api/outgoing-webhooks/{id}/stats"),),
)
PORTAL_DELIVERIES: Final = replace(
    DELIVERIES,
    path="portal/{session}/webhooks/{parent}/deliveries",
    empty="A delivery appears here when an event fits the webhook. Send it a test.",
    group=None,
    filters=tuple(item for item in DELIVERIES.filters if item.name in ("status", "event_type")),
    params={"webhook_id": "parent"},
    bulk=(),
    actions=_actions(
        DELIVERIES,
        ("retry", "resend", "cancel"),
        lambda action: f"{_BASE}/{{parent}}/deliveries/{{id}}" if action.name == "resend" else "",
    ),
    links=(),
    advice=advice_of,
    repairs=(),
)
KINDS: Final = (PORTAL_DELIVERIES, PORTAL_WEBHOOKS)
"""Lists of an object come first: the route of an object would match their addresses."""
