"""Recovery by hand: deliveries are sent again, cancelled, discarded, or repeated under a new id.

`delivery_changes.py` has the writes. This module decides which deliveries may be changed, and publishes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.delivery.log.deliveries import Delivery
from services.delivery.log.delivery_changes import Action, DeliveryChanges
from services.delivery.log.search import DeliverySearch
from services.delivery.model.delivery import DeliveryRequest, due_event, replay_event
from services.delivery.model.delivery_status import RESENT
from services.delivery.webhooks.repository import WebhookRepository
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import DeliveryId, WebhookId, derive
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.kafka.producer import Producer, Record, event_record

NOT_FOUND: Final = "no such delivery"
WEBHOOK_DELETED: Final = "its outgoing webhook was deleted"
WEBHOOK_DISABLED: Final = "its outgoing webhook is disabled: enable it, then try again"
_ERASED: Final = "its payload was erased: there is nothing to send"
_STILL_OPEN: Final = "it is not finished: use retry to send it now, under the same id"
_CHANGED_CONCURRENTLY: Final = "it changed at the same moment: try again"

_REFUSAL_REASONS: Final[Mapping[Action, Mapping[str, str]]] = {
    "recover": {
        "delivered": "it was delivered: a resend or a replay of its webhook sends it again, under a new id",
        "delivering": "an attempt is under way: try again when it has ended",
    },
    "cancel": {
        "delivering": "an attempt is under way: try again when it has ended",
        "delivered": "it was delivered: there is nothing to cancel",
        "dead_letter": "it is a dead letter and is not sent any more: discard it to remove it from the list",
        "discarded": "it was discarded and is not sent any more",
    },
    "discard": {"cancelled": "it was cancelled: only dead letters can be discarded"},
}

_NOTIFY_TIMEOUT_S: Final = 2.0
"""A caller waits for the notification; if it fails, a job repeats it."""
_PUBLISH_TIMEOUT_S: Final = 10.0
_MAX_PUBLISH_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are published in one call, to be acknowledged within `_PUBLISH_TIMEOUT_S`."""


def replay_id(original: str, replay_no: int) -> DeliveryId:
    """Return the id of a delivery's repetition: the same however often a replay is started."""
    return DeliveryId(f"dlv_{derive(original, 'replay', str(replay_no))}")


class Recovery:
    """The actions, on the log and on Kafka. `recovery_steps.py` applies them to many deliveries."""

    def __init__(
        self,
        changes: DeliveryChanges,
        deliveries: DeliverySearch,
        webhooks: WebhookRepository,
        producer: Producer,
    ) -> None:
        self._changes = changes
        self._deliveries = deliveries
        self._webhooks = webhooks
        self._producer = producer

    async def apply(
        self, action: Action, ids: Sequence[str], *, workspace: str, statuses: Sequence[str], job: str
    ) -> dict[str, str | None]:
        """Apply an action to the deliveries that are in one of these statuses.

        Return by id why it was not applied, or None. The deliveries store the job's id: a job that is
        repeated recognises what it did. Raises `DatabaseUnavailable`.
        """
        deliveries = await self._changes.read(workspace, ids)
        enabled_by_webhook = await self._enabled_by_webhook(deliveries) if action == "recover" else {}
        outcomes: dict[str, str | None] = dict.fromkeys(ids, NOT_FOUND)
        to_change: list[Delivery] = []
        for delivery in deliveries:
            if delivery.job == job:  # a repeated step: this delivery is done
                outcomes[delivery.id] = None
                continue
            refusal = _refusal_reason(action, delivery, statuses, enabled_by_webhook)
            outcomes[delivery.id] = refusal or _CHANGED_CONCURRENTLY
            if refusal is None:
                to_change.append(delivery)
        changed = await self._changes.apply(action, to_change, workspace=workspace, job=job)
        return outcomes | dict.fromkeys(changed, None)

    async def notify_owners(self, ids: Sequence[str], *, workspace: str, manual: bool = False) -> None:
        """Make the owners of these deliveries' webhooks search the log. Raises `RetryLater`.

        With `manual`, they send these deliveries past hold and open circuit.
        """
        webhook_ids = await self._deliveries.webhook_ids(workspace, ids)
        targets = sorted(
            {(webhook_id, delivery_id if manual else "") for delivery_id, webhook_id in webhook_ids.items()}
        )
        records = [
            event_record(
                DELIVERY_REQUESTED, webhook_id, due_event(WebhookId(webhook_id), workspace, delivery_id)
            )
            for webhook_id, delivery_id in targets
        ]
        if records:
            await self._producer.publish_all(records, timeout_s=_NOTIFY_TIMEOUT_S)

    async def replay(self, ids: Sequence[str], *, workspace: str, replay_no: int) -> int:
        """Request these deliveries again, in this order, each under its derived id; return how many.

        Deliveries without a payload are left out. Repeating the call requests the same ids, and a delivery
        that is in the log already is not sent again. Raises `RetryLater`, `TooLarge`.
        """
        records = []
        for earlier in await self._deliveries.requests(workspace, ids):
            new_id = replay_id(earlier.replay_of or earlier.delivery_id, replay_no)
            records.append(
                event_record(DELIVERY_REQUESTED, earlier.webhook_id, replay_event(earlier, new_id, replay_no))
            )
        # In order, one batch after the other: the order of a replay is that of the originals.
        for batch in _split_by_size(records):
            await self._producer.publish_all(batch, timeout_s=_PUBLISH_TIMEOUT_S)
        return len(records)

    async def resend(self, delivery_id: str, *, workspace: str) -> DeliveryRequest:
        """Request a finished delivery again: its body under a new id, to the webhook's present settings.

        Return the request of the new delivery, which goes past its endpoint's hold and open circuit. Raises
        `NotFound`; `Conflict` if it is not finished, its payload was erased, or its webhook is deleted or
        disabled; `RetryLater`, `TooLarge`.
        """
        delivery = await self._deliveries.find(workspace, delivery_id)
        if delivery is None:
            raise NotFound(NOT_FOUND)
        if delivery.status not in RESENT:
            raise Conflict(_STILL_OPEN)
        if delivery.erased_at or delivery.body is None:
            raise Conflict(_ERASED)
        # Counted with the webhook's replays, so that every repetition of a delivery has its own number.
        replay_no = await self._webhooks.next_replay_number(
            delivery.webhook_id, workspace=workspace, only_enabled=True
        )
        if replay_no is None:
            enabled_by_webhook = await self._enabled_by_webhook([delivery])
            raise Conflict(_webhook_refusal_reason(enabled_by_webhook, delivery) or _CHANGED_CONCURRENTLY)
        earlier = delivery.request
        original = earlier.replay_of or earlier.delivery_id
        request = replace(
            earlier,
            delivery_id=replay_id(original, replay_no),
            replay_of=original,
            replay_no=replay_no,
            manual=True,
        )
        event = replay_event(earlier, request.delivery_id, replay_no, manual=True)
        await self._producer.publish(
            event_record(DELIVERY_REQUESTED, request.webhook_id, event), timeout_s=_NOTIFY_TIMEOUT_S
        )
        return request

    async def _enabled_by_webhook(self, deliveries: Iterable[Delivery]) -> dict[str, bool]:
        """Return for each of these deliveries' webhooks that exists whether it is enabled."""
        return await self._webhooks.enabled_by_id({delivery.webhook_id for delivery in deliveries})


def _split_by_size(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and size + len(record.value) > _MAX_PUBLISH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.value)
    if batch:
        yield batch


def _refusal_reason(
    action: Action, delivery: Delivery, statuses: Sequence[str], enabled_by_webhook: Mapping[str, bool]
) -> str | None:
    """Return why an action cannot be applied to a delivery; None if it can."""
    if delivery.status not in statuses:
        reason = f"its status is {delivery.status}, not {' or '.join(statuses)}"
        return _REFUSAL_REASONS[action].get(delivery.status, reason)
    if action != "recover":
        return None
    if delivery.erased_at:
        return _ERASED
    return _webhook_refusal_reason(enabled_by_webhook, delivery)


def _webhook_refusal_reason(enabled_by_webhook: Mapping[str, bool], delivery: Delivery) -> str | None:
    """Return why nothing can be sent to a delivery's webhook; None if it can."""
    enabled = enabled_by_webhook.get(delivery.webhook_id)
    if enabled is None:
        return WEBHOOK_DELETED
    return None if enabled else WEBHOOK_DISABLED
