"""The states of a delivery, and the reasons why one waits."""

from typing import Literal

DeliveryStatus = Literal[
    "pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled", "discarded"
]
WaitingReason = Literal["paused", "disabled", "unreadable", "held", "circuit_open", "rate_limited", "queued"]
"""Why a waiting delivery is not attempted now, apart from its schedule.

`held`: the endpoint sent `Retry-After`. `queued`: it is due, and waits for a permit (`max_in_flight`, or the
delivery before it in strict order).
"""
