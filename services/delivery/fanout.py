"""Fan-out: one event becomes one delivery request for every outgoing webhook that wants it."""

from collections.abc import Sequence
from typing import Final

import orjson

from services.delivery.request import request_event
from services.delivery.subscriptions import Subscriptions
from shared.catalog.registry import providers
from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed
from shared.contracts.ids import delivery_id_for
from shared.contracts.topics import DELIVERY_REQUESTED, WEBHOOKS_RECEIVED
from shared.runtime.kafka.consume import Received
from shared.runtime.kafka.produce import Producer, Record, record_of
from shared.wire.bodies import parse_json
from shared.wire.tracing import child_of

_WITHIN_S: Final = 30.0


class Fanout:
    """The handler of `chat.events`, `integration.events` and `webhooks.received`."""

    def __init__(self, subscriptions: Subscriptions, producer: Producer) -> None:
        self._subscriptions = subscriptions
        self._producer = producer

    async def handle(self, batch: Sequence[Received]) -> None:
        """Put the requests of a batch on Kafka, in order. Raises `BusUnavailable`, `Malformed`."""
        records: list[Record] = []
        for received in batch:
            event = received.event
            webhooks = self._subscriptions.wanting(event.workspace, event.type)
            if not webhooks:
                continue
            body = body_of(event, from_provider=received.topic == WEBHOOKS_RECEIVED.name)
            traceparent = child_of(event.traceparent)
            for webhook in webhooks:
                delivery_id = delivery_id_for(event.workspace, event.source, event.id, webhook.id)
                request = request_event(delivery_id, webhook.id, event, body, traceparent)
                records.append(record_of(DELIVERY_REQUESTED, webhook.id, request))
        if records:
            await self._producer.publish_all(records, within_s=_WITHIN_S)


def body_of(event: Event, *, from_provider: bool) -> bytes:
    """The request body: id, type, workspace, occurred_at and data.

    The data of a provider's event carries `provider`, `endpoint_id`, `event`, `delivery_id` and the
    platform's `payload`, whose bytes are put in as they came. Raises `Malformed` when data is not JSON.
    """
    head = orjson.dumps(
        {"id": event.id, "type": event.type, "workspace": event.workspace, "occurred_at": event.time}
    )
    data = _provider_data(event) if from_provider else _checked(event.data)
    return head[:-1] + b',"data":' + data + b"}"


def _provider_data(event: Event) -> bytes:
    names = ("provider", "endpoint_id", "event", "delivery_id")
    try:
        head = orjson.dumps({name: event.attributes[name] for name in names})
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a received webhook") from None
    provider = providers().get(event.attributes["provider"])
    payload = provider.payload(event.content_type, event.data) if provider else event.data
    return head[:-1] + b',"payload":' + _checked(payload) + b"}"


def _checked(data: bytes) -> bytes:
    """JSON text that may stand inside a JSON text; the gateway's check does not cover other producers."""
    if not data:
        return b"null"
    parse_json(data)
    return data
