"""Explain error classes and status codes of failed attempts, each with the next step."""

from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]

_BY_CLASS: Final[Mapping[str, str]] = {
    "timeout": "The receiver did not answer in time. Let it answer first and work afterwards, or allow it "
    "more time.",
    "connection": "Nothing answers at this address: the receiver is not running there, or a firewall is "
    "between. Start it, or correct the address.",
    "tls": "The encrypted connection failed. Renew the receiver's certificate with its whole chain, or "
    "correct the address.",
    "dns": "The name in the address does not resolve. Correct the address, or the name's DNS record.",
    "address_refused": "The address is internal, and deliveries go to public ones only. Correct it, or "
    "let the operator allow it.",
    "protocol": "What answers at this address does not speak HTTP as it should. Correct the address or its "
    "port.",
    "closed_mid_response": "The receiver closed the connection while it answered. Its log has the reason.",
    "bad_url": "The address cannot be requested. Correct it.",
    "transform_failed": "The projection fails for this event. Try it in the preview, and correct it.",
    "condition_too_expensive": "The condition of the filter takes too long for this event. Make it simpler.",
    "proxy": "The hub's egress proxy does not work: that is the operator's. Retry when it does.",
    "redirect": "The receiver redirects, and redirects are not followed. Enter the address that it names.",
    "circuit_open": "The receiver failed so often that this waited too long. Repair it, then retry.",
    "stopped": "Its webhook was paused or disabled for so long that this was given up. Resume or enable the "
    "webhook, then retry.",
}
_BY_STATUS: Final[Mapping[int, str]] = {
    400: "The receiver does not accept this body. The response says why; format or projection can change it.",
    401: "The receiver does not recognize the hub. Give the receiver the webhook's secret, or the "
    "webhook the receiver's credentials.",
    403: "The receiver forbids the request. Give it the webhook's secret, or let it accept the hub's "
    "address.",
    404: "The receiver has nothing at this path. Correct the address.",
    405: "The receiver does not take POST at this path. Correct the address.",
    408: "The receiver gave up waiting for the request. Retry; if it recurs, look into the receiver's log.",
    410: "The receiver wants no more events (410), so the webhook was disabled. Correct the address, "
    "and enable it.",
    413: "The body is too large for the receiver. Let it accept more, or send less with a projection.",
    415: "The receiver does not take JSON at this path. Correct the address, or the receiver.",
    429: "The receiver gets too many requests. Give the webhook a rate limit, or wait: it is tried again.",
}
_WAITS: Final[Mapping[str, str]] = {
    "paused": "It waits because its webhook is paused: resume the webhook.",
    "disabled": "It waits because its webhook is disabled: enable the webhook.",
    "unreadable": "It waits because a secret of its webhook cannot be decrypted: the operator adds the key.",
    "held": "It waits because the receiver asked for a pause. Retry sends it in spite of that.",
    "circuit_open": "It waits because the receiver failed too often. Retry sends it in spite of that.",
    "rate_limited": "It waits for the webhook's rate limit.",
    "queued": "It waits behind earlier deliveries of its webhook.",
}
_WAITED: Final = frozenset({"circuit_open", "stopped"})
"""Classes of what waited too long, often without an attempt."""
_OF_SETTINGS: Final = _WAITED | {"proxy", "closed_mid_response"}
"""Classes that no setting of the webhook repairs."""


def next_step(error: str | None, status_code: int | None) -> str:
    """Return what an error class and a status code mean, and what to do; empty without an error."""
    if not error:
        return ""
    if error != "status":
        return _BY_CLASS.get(error, "The attempt failed.")
    status_code = status_code or 0
    if step := _BY_STATUS.get(status_code):
        return step
    if status_code >= 500:
        return f"The receiver failed itself ({status_code}). Its log has the reason: repair it, then retry."
    return f"The receiver refused the request ({status_code}). The response says why."


def advice_of(delivery: Json) -> str:
    """Return the next step for a delivery or a dead letter: why it failed or waits, and what to do."""
    if reason := delivery.get("waiting_reason"):
        return _WAITS.get(reason, "It waits.")
    if delivery.get("status", "dead_letter") not in ("dead_letter", "retrying"):
        return ""
    attempts = delivery.get("attempts") or ()
    status_code = attempts[-1]["status_code"] if attempts else delivery.get("status_code")
    text = next_step(delivery.get("error"), status_code)
    if delivery.get("status") == "retrying":
        return f"The last attempt failed, and it is tried again. {text}"
    return text if delivery.get("error") in _WAITED else f"Every attempt failed. {text}"


def is_repaired_by_settings(delivery: Json) -> bool:
    """Return whether a delivery failed for a reason that the webhook's form can repair."""
    if delivery.get("status", "dead_letter") not in ("dead_letter", "retrying"):
        return False
    attempts = delivery.get("attempts") or ()
    status_code = (attempts[-1]["status_code"] if attempts else None) or 0
    return bool(delivery.get("error")) and delivery["error"] not in _OF_SETTINGS and status_code < 500
