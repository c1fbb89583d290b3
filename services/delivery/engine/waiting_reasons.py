"""Determine why deliveries wait and until when, from stored values: every process gives the same answer.

Circuit and hold of an endpoint are in the memory of the process that owns its partition. That process writes
every change to the health document. This module combines it with the webhook's settings and each delivery's
due time when it is read, so nothing has to be rewritten in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.delivery.log.deliveries import Delivery
from services.delivery.log.endpoint_health import EndpointHealthRecord, EndpointHealthRecords
from services.delivery.model.delivery_status import WAITING, WaitingReason
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from services.delivery.webhooks.queues import DeliveryQueues
from services.delivery.webhooks.repository import SendConditions, WebhookRepository
from shared.runtime.clock import utcnow

_RATE_LIMIT_GRACE: Final = timedelta(seconds=3)
"""An endpoint state that waits for its rate limit checks it and writes it every second."""


@dataclass(frozen=True, slots=True)
class WaitingState:
    """The earliest time of the next attempt; None if a person has to act first."""

    at: datetime | None = None
    reason: WaitingReason | None = None


@dataclass(frozen=True, slots=True)
class HoldState:
    """Reasons for which the deliveries of one webhook wait. Times in the past are None."""

    stopped: WaitingReason | None = None
    held_until: datetime | None = None
    next_probe_at: datetime | None = None
    limited_until: datetime | None = None

    @property
    def is_open(self) -> bool:
        """True if the circuit is open."""
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


def hold_state_of(webhook: SendConditions, health: EndpointHealthRecord, now: datetime) -> HoldState:
    """Return the hold state of a webhook from its record and its health record.

    It is empty if a person ended the hold (`resets`) after the owner wrote it.
    """
    if (health.resets or 0) != webhook.resets:
        return HoldState()
    held_until, limited_until = health.held_until, health.limited_until
    is_open = health.circuit == "open"
    return HoldState(
        held_until=held_until if held_until and held_until > now else None,
        next_probe_at=health.next_probe_at if is_open else None,
        limited_until=limited_until
        if limited_until and limited_until > now - _RATE_LIMIT_GRACE and webhook.rate_limit
        else None,
    )


class WaitingReasons:
    """Determines why deliveries wait."""

    def __init__(
        self,
        repository: WebhookRepository,
        queues: DeliveryQueues,
        webhooks: OutgoingWebhooks,
        endpoint_health: EndpointHealthRecords,
    ) -> None:
        self._repository = repository
        self._queues = queues
        self._webhooks = webhooks
        self._endpoint_health = endpoint_health

    async def of(self, deliveries: Sequence[Delivery], workspace: str) -> dict[str, WaitingState]:
        """Return why and until when, by id, for each of these deliveries that waits.

        Raises `DatabaseUnavailable`.
        """
        waiting = [delivery for delivery in deliveries if delivery.status in WAITING]
        if not waiting:
            return {}
        ids = sorted({delivery.webhook_id for delivery in waiting})
        is_paused = await self._queues.read_paused(workspace)
        webhooks = await self._repository.send_conditions(ids)
        health = await self._endpoint_health.by_webhook(ids)
        now = utcnow()
        hold_states = {
            webhook.id: self._hold_state(webhook, health[webhook.id], is_paused, now) for webhook in webhooks
        }
        no_hold = HoldState()
        return {
            delivery.id: hold_states.get(delivery.webhook_id, no_hold).waiting_state(delivery.due_at, now)
            for delivery in waiting
            if delivery.due_at is not None
        }

    def _hold_state(
        self, webhook: SendConditions, health: EndpointHealthRecord, is_paused: bool, now: datetime
    ) -> HoldState:
        if not webhook.enabled:
            return HoldState("disabled")
        if is_paused or webhook.paused:
            return HoldState("paused")
        if self._webhooks.unreadable_parts(webhook.id):
            return HoldState("unreadable")
        return hold_state_of(webhook, health, now)
