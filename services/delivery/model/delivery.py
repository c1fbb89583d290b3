"""A delivery request: one event for one outgoing webhook, on Kafka and in the delivery log."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from services.delivery.model.due_cursor import ORDER_BITS
from shared.contracts.envelope import Event, now
from shared.contracts.errors import Malformed
from shared.contracts.ids import DeliveryId, WebhookId, new_event_id
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.tracing import continue_trace

REQUESTED_TYPE: Final = "delivery.requested"
DUE_TYPE: Final = "delivery.due"
"""Another process made deliveries of a webhook due: the partition's owner has to search the log."""
_SOURCE: Final = "/delivery"
TEST_TYPE: Final = "webhook.test"
"""The type of the event that `POST .../test` sends."""
_MANUAL: Final[Mapping[str, str]] = {"manual": "1"}
_MAX_FAULT_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """The request for one delivery.

    `order` rises along the topic's partition, and so along one webhook's deliveries. `replay_of` and
    `replay_no` are set for a repetition of an earlier delivery under a new id. `fault` says why the filter
    could not be evaluated: the first attempt fails with it, and only a manual retry sends the event.
    """

    delivery_id: DeliveryId
    webhook_id: WebhookId
    workspace: str
    event_id: str
    event_type: str
    occurred_at: str
    body: bytes
    traceparent: str
    partition: int
    order: int
    replay_of: str = ""
    replay_no: int = 0
    manual: bool = False
    """True if a person requested this delivery. It is not stored."""
    fault: str = ""
    accepted_ms: int = 0
    """The broker's time in ms of the record from which on a first attempt can be late. It is not stored."""


def request_event(
    delivery_id: DeliveryId,
    webhook_id: WebhookId,
    event: Event,
    event_type: str,
    body: bytes,
    traceparent: str,
    *,
    manual: bool = False,
    fault: str = "",
    accepted_ms: int = 0,
) -> Event:
    """Return the event that requests a delivery; `event_type` is the canonical type.

    With a `fault`, the delivery is logged as failed with that reason. `accepted_ms` is the broker's time from
    which on a first attempt can be late, that of the event's record; without, that of the request's record.
    """
    attributes = dict(_MANUAL) if manual else {}
    if accepted_ms:
        attributes["accepted_ms"] = str(accepted_ms)
    if fault:
        attributes["fault"] = fault[:_MAX_FAULT_LENGTH]
    names = (event.id, event_type)
    return _requested_event(
        delivery_id, webhook_id, event.workspace, event.time, body, traceparent, names, attributes
    )


def replay_event(
    earlier: DeliveryRequest, delivery_id: DeliveryId, replay_no: int, *, manual: bool = False
) -> Event:
    """Return the event that requests an earlier delivery again under `delivery_id`."""
    event_names = (earlier.event_id, earlier.event_type)
    attributes = {"replay_of": earlier.replay_of or earlier.delivery_id, "replay_no": str(replay_no)}
    attributes |= _MANUAL if manual else {}
    traceparent = continue_trace(earlier.traceparent)
    return _requested_event(
        delivery_id,
        earlier.webhook_id,
        earlier.workspace,
        earlier.occurred_at,
        earlier.body,
        traceparent,
        event_names,
        attributes,
    )


def due_event(webhook_id: WebhookId, workspace: str, delivery_id: str = "") -> Event:
    """Return the event that makes a webhook's owner search the log for due deliveries.

    With a `delivery_id`, the owner sends that delivery past hold and open circuit.
    """
    return Event(
        id=new_event_id(),
        type=DUE_TYPE,
        source=_SOURCE,
        workspace=workspace,
        time=now(),
        data=b"",
        subject=webhook_id,
        attributes={"delivery_id": delivery_id} if delivery_id else {},
    )


def _requested_event(
    delivery_id: DeliveryId,
    webhook_id: WebhookId,
    workspace: str,
    occurred_at: str,
    body: bytes,
    traceparent: str,
    event_names: tuple[str, str],
    attributes: Mapping[str, str] = MappingProxyType({}),
) -> Event:
    return Event(
        id=delivery_id,
        type=REQUESTED_TYPE,
        source=_SOURCE,
        workspace=workspace,
        time=occurred_at,
        subject=webhook_id,
        data=body,
        traceparent=traceparent,
        attributes={"event_id": event_names[0], "event_type": event_names[1], **attributes},
    )


def read_request(received: ConsumedEvent) -> DeliveryRequest:
    """Return the request in a record. Raises `Malformed` if it is not a delivery request."""
    event = received.event
    try:
        event_id, event_type = event.attributes["event_id"], event.attributes["event_type"]
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a delivery request") from None
    if event.type != REQUESTED_TYPE or not event.subject:
        raise Malformed(f"{event.type} is not {REQUESTED_TYPE} with the webhook's id as subject")
    return DeliveryRequest(
        delivery_id=DeliveryId(event.id),
        webhook_id=WebhookId(event.subject),
        workspace=event.workspace,
        event_id=event_id,
        event_type=event_type,
        occurred_at=event.time,
        body=event.data,
        traceparent=event.traceparent,
        partition=received.partition,
        order=order_of(received),
        replay_of=event.attributes.get("replay_of", ""),
        replay_no=_parse_number(event, "replay_no", 9),
        manual="manual" in event.attributes,
        fault=event.attributes.get("fault", ""),
        accepted_ms=_parse_number(event, "accepted_ms", 15) or received.at_ms,
    )


def order_of(received: ConsumedEvent) -> int:
    """Return a number that rises along a partition.

    It is the broker's time in milliseconds above the low bits of the offset, so it also rises when a topic
    was deleted and created again.
    """
    return received.at_ms << ORDER_BITS | received.offset & (1 << ORDER_BITS) - 1


def at_ms_of(order: int) -> int:
    """Return the broker's time of an order in milliseconds."""
    return order >> ORDER_BITS


def _parse_number(event: Event, name: str, max_digits: int) -> int:
    text = event.attributes.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= max_digits):
        raise Malformed(f"{name} is {text[:20]!r}: not a number")
    return int(text)
