"""The states of a delivery, and why one waits."""

from typing import Literal

DeliveryStatus = Literal[
    "pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled", "discarded"
]
WaitingReason = Literal["paused", "disabled", "unreadable", "held", "circuit_open", "rate_limited", "queued"]
"""Why a delivery that waits is not attempted now, beside its schedule.

`held`: the endpoint asked for quiet with `Retry-After`. `queued`: it is due, and its turn comes when others
of the webhook have ended (`max_in_flight`, or the one before it in strict order).
"""
