"""The AsyncAPI 3.0 document of the topics, derived from the table of topics."""

from typing import Any

from pydantic import TypeAdapter

from shared.contracts.event_types import EVENT_TYPES
from shared.contracts.topics import TOPICS, Topic

_REFERENCE = "#/components/schemas/{model}"


def asyncapi(version: str) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of the topics; `version` is the hub's own.

    Each topic is a channel whose messages have the CloudEvents envelope as headers, and the topic's payload
    model where there is one. Producers send to the channel, consumers receive from it.
    """
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
        # The envelope's properties are repeated beside the topic's own attributes, so that tools show both.
        if topic.attributes:
            attributes = {
                name: {"type": "string", "description": about} for name, about in topic.attributes.items()
            }
            headers = {**envelope, "properties": {**properties, **attributes}}
        channel = topic.name.replace(".", "_")
        channels[channel] = {
            "address": topic.name,
            "description": f"{topic.about} Key: {topic.key}.",
            "messages": _messages(topic, headers, schemas),
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


def _messages(topic: Topic, headers: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the messages of a topic: one for each of its types, or else `record`. Adds their schemas."""
    if not topic.types:
        message: dict[str, Any] = {"headers": headers}
        if topic.payload:
            message["payload"] = _payload(topic.payload, schemas)
        return {"record": message}
    return {
        name.replace(".", "_"): {
            "name": name,
            "summary": EVENT_TYPES[name].about,
            "headers": headers,
            "payload": _payload(EVENT_TYPES[name].payload, schemas),
        }
        for name in topic.types
    }


def _payload(payload: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a reference to a model's schema, or `anyOf` for a union of models. Adds the schemas."""
    schema = TypeAdapter(payload).json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    if "anyOf" in schema:
        return schema
    schemas[payload.__name__] = schema
    return {"$ref": _REFERENCE.format(model=payload.__name__)}
