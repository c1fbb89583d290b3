"""The states of a delivery, and the reasons why one waits."""

from typing import Final, Literal

DeliveryStatus = Literal[
    "pending", "delivering", "retrying", "delivered", "dead_letter", "cancelled", "discarded"
]
WaitingReason = Literal["paused", "disabled", "unreadable", "held", "circuit_open", "rate_limited", "queued"]
"""Reason for which a waiting delivery is not attempted now, apart from its schedule.

`held`: the endpoint sent `Retry-After`. `queued`: it is due, and waits for a permit (`max_in_flight`, or the
delivery before it in strict order).
"""

ENDED: Final[tuple[DeliveryStatus, ...]] = ("dead_letter", "cancelled", "discarded")
"""A delivery in one of these states starts another retry cycle when it is sent again."""
RESENT: Final[tuple[DeliveryStatus, ...]] = ("delivered", *ENDED)
"""A delivery in one of these states can be sent again under a new id."""
WAITING: Final[tuple[DeliveryStatus, ...]] = ("pending", "retrying")
"""Open states without an attempt in flight."""
