"""A delivery request: one event for one outgoing webhook, as it travels on Kafka and is kept in the log."""

from dataclasses import dataclass

from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed
from shared.contracts.ids import DeliveryId, WebhookId
from shared.runtime.kafka.consume import Received
from shared.runtime.mongo import Document

TYPE = "delivery.requested"


@dataclass(frozen=True, slots=True)
class Request:
    """`order` grows along the topic's partition, so also along one webhook's deliveries."""

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

    def document(self) -> Document:
        return {
            "_id": self.delivery_id,
            "webhook_id": self.webhook_id,
            "workspace": self.workspace,
            "event_id": self.event_id,
            "event_type": self.event_type,
            "occurred_at": self.occurred_at,
            "body": self.body,
            "traceparent": self.traceparent,
            "partition": self.partition,
            "order": self.order,
        }

    @classmethod
    def from_document(cls, document: Document) -> "Request":
        return cls(
            delivery_id=document["_id"],
            webhook_id=document["webhook_id"],
            workspace=document["workspace"],
            event_id=document["event_id"],
            event_type=document["event_type"],
            occurred_at=document["occurred_at"],
            body=bytes(document["body"]),
            traceparent=document["traceparent"],
            partition=document["partition"],
            order=document["order"],
        )


def request_event(
    delivery_id: DeliveryId, webhook_id: WebhookId, event: Event, body: bytes, traceparent: str
) -> Event:
    """The event that asks for a delivery."""
    return Event(
        id=delivery_id,
        type=TYPE,
        source="/delivery",
        workspace=event.workspace,
        time=event.time,
        subject=webhook_id,
        data=body,
        traceparent=traceparent,
        attributes={"event_id": event.id, "event_type": event.type},
    )


def read_request(received: Received) -> Request:
    """The request that a record carries. Raises `Malformed`."""
    event = received.event
    try:
        event_id, event_type = event.attributes["event_id"], event.attributes["event_type"]
    except KeyError as error:
        raise Malformed(f"header {error.args[0]} is missing from a delivery request") from None
    if event.type != TYPE or not event.subject:
        raise Malformed(f"{event.type} is not {TYPE} with the webhook's id as subject")
    return Request(
        delivery_id=DeliveryId(event.id),
        webhook_id=WebhookId(event.subject),
        workspace=event.workspace,
        event_id=event_id,
        event_type=event_type,
        occurred_at=event.time,
        body=event.data,
        traceparent=event.traceparent,
        partition=received.partition,
        order=received.at_ms << 22 | received.offset & 0x3FFFFF,
    )
