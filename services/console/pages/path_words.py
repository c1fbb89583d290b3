"""Describe the path of an event from its request to its targets: what failed, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.console.pages.failures import advice_of, is_repaired_by_settings
from services.console.pages.inbound import verdict_in_words

Json = Mapping[str, Any]
Step = Mapping[str, Any]
_FAILED_TARGETS: Final = ("failed", "unknown")
_REFUSED_STATUS: Final = 400
_CREATE: Final = "/console/webhooks/do/create"
_UNMATCHED: Final[Mapping[str, str]] = {
    "no_pattern": "No outgoing webhook is subscribed to events of its type. Add the type to one.",
    "disabled": "Only disabled webhooks are subscribed to it. Enable one; this event is not sent later.",
    "filtered": "The filters of all webhooks leave it out. Change one, and try it in its preview.",
}


def execution_words(execution: Json) -> tuple[str, str]:
    """Return what became of a request in words, and the next step if it was refused, else empty."""
    words = verdict_in_words(execution) or str(execution["detail"])
    if execution["status"] >= _REFUSED_STATUS:
        return f"Refused with status {execution['status']}. {words}".strip(), "Open its setup steps"
    if not execution["events"]:
        return "Answered. It had no event, as a handshake has none.", ""
    published = f"{execution['events']:,} event{'s' if execution['events'] > 1 else ''} published."
    return f"Accepted. {published} {words}".strip(), ""


def delivery_words(delivery: Json) -> tuple[str, str, str]:
    """Return the next step of a delivery, and title and address of its page; empty if it needs none."""
    advice = advice_of(delivery)
    if not advice:
        return "", "", ""
    if is_repaired_by_settings(delivery):
        return advice, "Change the webhook", f"/console/webhooks/{delivery['webhook_id']}/do/edit"
    if delivery.get("waiting_reason") in ("paused", "disabled", "unreadable"):
        return advice, "Open the webhook", f"/console/webhooks/{delivery['webhook_id']}"
    return advice, "Open the delivery", f"/console/deliveries/{delivery['id']}"


def unmatched_words(reason: str) -> tuple[str, str, str]:
    """Return why no webhook got an event and the next step, and title and address of the page for it."""
    if reason == "no_webhook":
        return "There was no outgoing webhook. Create one.", "Create a webhook", _CREATE
    return _UNMATCHED.get(reason, "No outgoing webhook got it."), "Outgoing webhooks", "/console/webhooks"


def needs_retry(message: Json) -> bool:
    """Return whether a message has not reached a target, and can be sent again."""
    return any(target["state"] in _FAILED_TARGETS for target in message["targets"])


def summary(executions: Sequence[Json], deliveries: Sequence[Json], messages: Sequence[Json]) -> str:
    """Return one sentence about the whole path; empty if nothing of it is known."""
    parts = []
    if executions:
        refused = sum(item["status"] >= _REFUSED_STATUS for item in executions)
        parts.append(_counted(len(executions), "request", (refused, "refused")))
    if deliveries:
        delivered = sum(item["status"] == "delivered" for item in deliveries)
        dead = sum(item["status"] == "dead_letter" for item in deliveries)
        found = (delivered, "delivered"), (dead, "failed")
        parts.append(_counted(len(deliveries), "delivery", *found, plural="deliveries"))
    if targets := [target for message in messages for target in message["targets"]]:
        sent = sum(target["state"] == "sent" for target in targets)
        failed = sum(target["state"] in _FAILED_TARGETS for target in targets)
        parts.append(_counted(len(targets), "target of messages", (sent, "sent"), (failed, "failed")))
    return "; ".join(parts) + "." if parts else ""


def _counted(number: int, one: str, *states: tuple[int, str], plural: str = "") -> str:
    many = plural or (f"{one}s" if " " not in one else one.replace(" ", "s ", 1))
    known = ", ".join(f"{count:,} {state}" for count, state in states if count)
    return f"{number:,} {one if number == 1 else many}" + (f" ({known})" if known else "")
