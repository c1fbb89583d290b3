"""Why deliveries wait and until when, from what is stored, so that every process gives the same answer.

Circuit and hold of an endpoint are in the memory of the process that owns its partition. That process writes
every change to the health document. This module combines it with the webhook's settings and each delivery's
due time when it is read, so nothing has to be rewritten in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.log.deliveries import Delivery
from services.delivery.log.endpoint_health import EndpointHealthRecord, EndpointHealthRecords
from services.delivery.log.webhooks import QUEUES
from services.delivery.model.delivery_status import WAITING, WaitingReason
from shared.runtime.mongo import Document, Mongo, translate_errors, utcnow

_RATE_LIMIT_GRACE: Final = timedelta(seconds=3)
"""An endpoint state that waits for its rate limit checks it and writes it every second."""


@dataclass(frozen=True, slots=True)
class WaitingState:
    """The earliest time of the next attempt; None if a person has to act first."""

    at: datetime | None = None
    reason: WaitingReason | None = None


@dataclass(frozen=True, slots=True)
class HoldState:
    """What makes the deliveries of one webhook wait. Times in the past are None."""

    stopped: WaitingReason | None = None
    held_until: datetime | None = None
    next_probe_at: datetime | None = None
    limited_until: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open."""
        return self.next_probe_at is not None

    def waiting_state(self, due_at: datetime, now: datetime) -> WaitingState:
        """Return why and until when a delivery waits that is due at `due_at`."""
        if self.stopped:
            return WaitingState(None, self.stopped)
        if self.held_until and self.held_until > due_at:
            return WaitingState(self.held_until, "held")
        if self.next_probe_at and max(self.next_probe_at, now) > due_at:
            return WaitingState(max(self.next_probe_at, now), "circuit_open")
        if due_at > now:
            return WaitingState(due_at)
        if self.limited_until:
            return WaitingState(max(self.limited_until, now), "rate_limited")
        return WaitingState(now, "queued")


def hold_state_of(webhook: Document, health: EndpointHealthRecord, now: datetime) -> HoldState:
    """Return the hold state of a webhook from its document and its health record.

    It is empty if a person ended the hold (`lifts`) after the owner wrote it.
    """
    if (health.lifts or 0) != webhook.get("lifts", 0):
        return HoldState()
    held_until, limited_until = health.held_until, health.limited_until
    is_open = health.circuit == "open"
    return HoldState(
        held_until=held_until if held_until and held_until > now else None,
        next_probe_at=health.next_probe_at if is_open else None,
        limited_until=limited_until
        if limited_until and limited_until > now - _RATE_LIMIT_GRACE and webhook.get("rate_limit")
        else None,
    )


class WaitingReasons:
    """Determines why deliveries wait."""

    def __init__(
        self, mongo: Mongo, subscriptions: OutgoingWebhooks, endpoint_health: EndpointHealthRecords
    ) -> None:
        self._queues = mongo.collection(QUEUES)
        self._subscriptions = subscriptions
        self._endpoint_health = endpoint_health

    async def of(self, deliveries: Sequence[Delivery], workspace: str) -> dict[str, WaitingState]:
        """Return why and until when, by id, for each of these deliveries that waits.

        Raises `DatabaseUnavailable`.
        """
        waiting = [delivery for delivery in deliveries if delivery.status in WAITING]
        if not waiting:
            return {}
        ids = sorted({delivery.webhook_id for delivery in waiting})
        fields = ("enabled", "paused", "lifts", "rate_limit")
        with translate_errors():
            queue = await self._queues.find_one({"_id": workspace}, {"paused": 1})
            webhooks = await self._subscriptions.collection.find(
                {"_id": {"$in": ids}, "deleted_at": None}, dict.fromkeys(fields, 1)
            ).to_list(len(ids))
        health = await self._endpoint_health.by_webhook(ids)
        now = utcnow()
        is_paused = bool(queue and queue["paused"])
        hold_states = {
            webhook["_id"]: self._hold_state(webhook, health[webhook["_id"]], is_paused, now)
            for webhook in webhooks
        }
        no_hold = HoldState()
        return {
            delivery.id: hold_states.get(delivery.webhook_id, no_hold).waiting_state(delivery.due_at, now)
            for delivery in waiting
            if delivery.due_at is not None
        }

    def _hold_state(
        self, webhook: Document, health: EndpointHealthRecord, is_paused: bool, now: datetime
    ) -> HoldState:
        if not webhook["enabled"]:
            return HoldState("disabled")
        if is_paused or webhook.get("paused"):
            return HoldState("paused")
        if self._subscriptions.unreadable_parts(webhook["_id"]):
            return HoldState("unreadable")
        return hold_state_of(webhook, health, now)
