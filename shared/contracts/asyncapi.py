"""The AsyncAPI 3.0 document of the topics, derived from the table of topics."""

from typing import Any

from shared.contracts.topics import TOPICS


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
