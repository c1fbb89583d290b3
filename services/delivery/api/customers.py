"""Limits of customers' keys: their webhooks' deliveries, and the event types of the key."""

from collections.abc import Sequence

from services.delivery.api.fields import customer_of
from services.delivery.log.deliveries import Delivery
from services.delivery.log.recovery import NOT_FOUND
from services.delivery.log.search import DeliverySearch
from services.delivery.webhooks.repository import WebhookRepository
from shared.contracts.errors import FieldError, Invalid, NotFound
from shared.runtime.web.access import ApiKey
from shared.webhooks.patterns import includes


class CustomerDeliveries:
    """Finds deliveries for keys of workspaces and of customers.

    Every method raises `DatabaseUnavailable`.
    """

    def __init__(self, deliveries: DeliverySearch, webhooks: WebhookRepository) -> None:
        self._deliveries = deliveries
        self._webhooks = webhooks

    async def check_webhook(self, key: ApiKey, webhook_id: str | None) -> None:
        """Check that a key may see the deliveries of a webhook; None stands for all webhooks.

        Raises `NotFound` if the webhook is not the customer's, `Invalid` if a customer names none.
        """
        customer = customer_of(key)
        if customer is None:
            return
        if webhook_id is None:
            error = FieldError("webhook_id", "give the id of one of your webhooks")
            raise Invalid("some fields are not acceptable", errors=(error,))
        await self._webhooks.check_exists(webhook_id, workspace=key.workspace, customer=customer)

    async def find(self, key: ApiKey, delivery_id: str) -> Delivery:
        """Return a delivery with its attempts. Raises `NotFound`, also if it is not the customer's."""
        delivery = await self._deliveries.find(key.workspace, delivery_id)
        if delivery is None:
            raise NotFound(NOT_FOUND)
        try:
            await self.check_webhook(key, delivery.webhook_id)
        except NotFound:
            raise NotFound(NOT_FOUND) from None
        return delivery


def check_patterns(key: ApiKey, events: Sequence[str], accepted: Sequence[str] = ()) -> None:
    """Check that a key may subscribe to patterns of event types; those of `accepted` always pass.

    Raises `Invalid` for a customer's key that does not include a pattern.
    """
    if key.customer is None:
        return
    errors = [
        FieldError(f"events.{position}", "this event type is not offered here: choose one from the list")
        for position, pattern in enumerate(events)
        if pattern not in accepted and not includes(key.customer.events, pattern)
    ]
    if errors:
        raise Invalid("some fields are not acceptable", errors=tuple(errors))
