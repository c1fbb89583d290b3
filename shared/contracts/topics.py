"""Every topic in one table: creation, AsyncAPI and the docs are derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from shared.contracts.messages import DeadLetter, InboundMessage, MessageCreated

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic. `key` says what keeps records in order; `payload` is None where data is opaque.

    `attributes` are its headers beside those of the envelope, with what they say.
    """

    name: str
    key: str
    about: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    payload: type[BaseModel] | None = None
    partitions: int = 6
    retention_ms: int = 7 * DAY_MS
    max_message_bytes: int = 8 * 1024 * 1024
    attributes: Mapping[str, str] = field(default_factory=dict)


WEBHOOKS_RECEIVED = Topic(
    name="webhooks.received",
    key="endpoint id, or integration id",
    about="A verified webhook: the body as the platform sent it, type <provider>.<event>.",
    producers=("gateway",),
    consumers=("sync", "delivery"),
    attributes={
        "provider": "The provider's id.",
        "endpoint_id": "The endpoint, or the integration at the address of an app.",
        "event": "The provider's name of the event.",
        "delivery_id": "The provider's id of it, else ce_id.",
        "channel_id": "The channel that shows it; absent where none does.",
        "account": "The provider's account that it is about; absent where the event does not say.",
        "occurred_at": "When it happened (RFC 3339); absent where the provider does not say. When the hub "
        "received it is ce_time.",
        "triggers": "The triggers of the catalogue that it fires, with commas between; absent without any.",
        "test": "true for a test.",
        "replay_of": "ce_id of the event that this one repeats; absent of one that is new.",
    },
)
CHAT_EVENTS = Topic(
    name="chat.events",
    key="conversation or channel id",
    about="What happened in the chat, published by its own services (or POST /api/events).",
    producers=("chat services", "gateway"),
    consumers=("delivery",),
    payload=MessageCreated,
)
INTEGRATION_EVENTS = Topic(
    name="integration.events",
    key="integration id",
    about="What happened to an integration: connected, refreshed, disconnected, webhook failing.",
    producers=("internal services", "delivery", "oauth"),
    consumers=("delivery",),
)
DELIVERY_REQUESTED = Topic(
    name="delivery.requested",
    key="outgoing webhook id",
    about="One event for one outgoing webhook: the body to sign and send; or a nudge to look at its log.",
    producers=("delivery",),
    consumers=("delivery",),
    partitions=12,
)
CHAT_INBOUND = Topic(
    name="chat.inbound",
    key="channel id",
    about="A message for a channel of the chat, from a platform or an incoming webhook.",
    producers=("sync",),
    consumers=("chat services",),
    payload=InboundMessage,
)
DEAD_LETTERS = Topic(
    name="dead.letters",
    key="as in the original topic",
    about="Records that no retry can help, with the reason, original topic, partition and offset.",
    producers=("delivery", "sync"),
    consumers=("operators",),
    payload=DeadLetter,
    partitions=1,
    retention_ms=30 * DAY_MS,
)

TOPICS: tuple[Topic, ...] = (
    WEBHOOKS_RECEIVED,
    CHAT_EVENTS,
    INTEGRATION_EVENTS,
    DELIVERY_REQUESTED,
    CHAT_INBOUND,
    DEAD_LETTERS,
)


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the topics: headers are the CloudEvents envelope of each record."""
    properties = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "Unique within ce_source; consumers dedupe on both."},
        "ce_type": {"type": "string", "description": "A fact in the past tense, as message.created."},
        "ce_source": {"type": "string", "format": "uri-reference"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string"},
        "content-type": {"type": "string", "default": "application/json"},
        "traceparent": {"type": "string", "description": "W3C trace context."},
        "workspace": {"type": "string"},
    }
    envelope = {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "workspace"],
        "properties": properties,
    }
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Envelope": envelope}
    for topic in TOPICS:
        headers: dict[str, Any] = {"$ref": "#/components/schemas/Envelope"}
        if topic.attributes:
            own = {name: {"type": "string", "description": about} for name, about in topic.attributes.items()}
            headers = {**envelope, "properties": {**properties, **own}}
        message: dict[str, Any] = {"headers": headers}
        if topic.payload:
            name = topic.payload.__name__
            schema = topic.payload.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[name] = schema
            message["payload"] = {"$ref": f"#/components/schemas/{name}"}
        channel = topic.name.replace(".", "_")
        channels[channel] = {
            "address": topic.name,
            "description": f"{topic.about} Key: {topic.key}.",
            "messages": {"record": message},
            "bindings": {"kafka": {"topic": topic.name, "partitions": topic.partitions}},
        }
        reference = {"$ref": f"#/channels/{channel}"}
        for action, services in (("send", topic.producers), ("receive", topic.consumers)):
            for service in services:
                operations[f"{service.replace(' ', '_')}_{action}_{channel}"] = {
                    "action": action,
                    "channel": reference,
                }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Interlink topics", "version": version},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }
