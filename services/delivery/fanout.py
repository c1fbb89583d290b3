"""Fan-out: one event becomes one delivery request for every outgoing webhook that wants it."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from services.delivery.request import order_of, request_event
from services.delivery.subscriptions import Subscriptions
from shared.catalog.registry import providers
from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed
from shared.contracts.event_types import canonical
from shared.contracts.ids import delivery_id_for
from shared.contracts.topics import DELIVERY_REQUESTED, WEBHOOKS_RECEIVED
from shared.runtime.crash import crash_point
from shared.runtime.kafka.consume import Received
from shared.runtime.kafka.produce import Producer, Record, record_of
from shared.wire.bodies import parse_json
from shared.wire.facts import Facts
from shared.wire.formats import Format, render_body
from shared.wire.tracing import child_of

_WITHIN_S: Final = 30.0


class Fanout:
    """The handler of `chat.events`, `integration.events` and `webhooks.received`."""

    def __init__(self, subscriptions: Subscriptions, producer: Producer) -> None:
        self._subscriptions = subscriptions
        self._producer = producer

    async def handle(self, batch: Sequence[Received]) -> None:
        """Put the requests of a batch on Kafka, in order. Raises `BusUnavailable`, `Malformed`."""
        crash_point("fanout.read")
        records = [record for received in batch for record in self._requests(received)]
        if records:
            await self._producer.publish_all(records, within_s=_WITHIN_S)
        crash_point("fanout.published")

    def _requests(self, received: Received) -> list[Record]:
        event = received.event
        kind = canonical(event.type)
        from_provider = received.topic == WEBHOOKS_RECEIVED.name
        triggers = triggers_of(event) if from_provider else ()
        webhooks = self._subscriptions.wanting(event.workspace, kind, triggers)
        if not webhooks:
            return []
        facts = facts_of(event, kind, str(order_of(received)), from_provider=from_provider)
        traceparent = child_of(event.traceparent)
        bodies: dict[Format, bytes] = {}
        records: list[Record] = []
        for webhook in webhooks:
            if webhook.filter is not None and not webhook.filter.passes(facts, webhook.integration_id):
                continue
            body = bodies.get(webhook.format)
            if body is None:
                body = bodies[webhook.format] = render_body(webhook.format, facts)
            delivery_id = delivery_id_for(event.workspace, event.source, event.id, webhook.id)
            request = request_event(delivery_id, webhook.id, event, kind, body, traceparent)
            records.append(record_of(DELIVERY_REQUESTED, webhook.id, request))
        return records


def facts_of(event: Event, kind: str, sequence: str, *, from_provider: bool = False) -> Facts:
    """An event as filters and formats see it. Raises `Malformed` when its data is not JSON.

    The data of a provider's event is a `ProviderEvent`: the platform's `payload`, whose bytes stay as they
    came, and what the headers say of it. It occurred when the platform says, else when the hub received it.
    """
    raw, data = _provider_data(event) if from_provider else _data(event.data)
    occurred = event.attributes.get("occurred_at") if from_provider else None
    return Facts(event.id, kind, event.workspace, occurred or event.time, event.subject, sequence, raw, data)


def triggers_of(event: Event) -> tuple[str, ...]:
    """The catalogue's triggers that a provider's event fires; none for a record that does not say."""
    told = event.attributes.get("triggers")
    return tuple(told.split(",")) if told else ()


def _provider_data(event: Event) -> tuple[bytes, Any]:
    names = ("provider", "endpoint_id", "event", "delivery_id")
    try:
        head: dict[str, Any] = {name: event.attributes[name] for name in names}
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a received webhook") from None
    head |= {
        "triggers": list(triggers_of(event)),
        "account": event.attributes.get("account") or None,
        "received_at": event.time,
        "test": event.attributes.get("test") == "true",
        "replay_of": event.attributes.get("replay_of") or None,
    }
    provider = providers().get(event.attributes["provider"])
    raw, payload = _data(provider.payload(event.content_type, event.data) if provider else event.data)
    return orjson.dumps(head)[:-1] + b',"payload":' + raw + b"}", {**head, "payload": payload}


def _data(raw: bytes) -> tuple[bytes, Any]:
    """JSON text that may stand inside a JSON text; the gateway's check does not cover other producers."""
    return (raw, parse_json(raw)) if raw else (b"null", None)
