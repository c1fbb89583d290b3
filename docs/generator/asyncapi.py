"""The page of the Kafka topics, from the AsyncAPI document."""

from collections.abc import Mapping
from typing import Any, Final

from docs.generator.markdown import properties_table, table

_INTRODUCTION: Final = """\
# Kafka topics

Generated from `shared/contracts/topics.py`. Every record is a CloudEvent 1.0 in Kafka's binary mode: headers
hold the attributes, the value is the data. The document itself: [asyncapi.json](asyncapi.json), or
`/api/asyncapi.json` of a running hub.
"""


def topics_page(document: Mapping[str, Any]) -> str:
    """Return the page: each topic with its senders, receivers, headers and payload, then the schemas."""
    schemas = document["components"]["schemas"]
    parts = [_INTRODUCTION]
    for name, channel in document["channels"].items():
        messages = channel["messages"]
        binding = channel["bindings"]["kafka"]
        parts.append(f"## {channel['address']}\n\n{channel['description']}\n")
        rows = [
            ("sent by", _services(document, name, "send")),
            ("received by", _services(document, name, "receive")),
            ("partitions", binding["partitions"]),
        ]
        if payload := messages.get("record", {}).get("payload"):
            rows.append(("payload", _schema_links(payload)))
        rows += [
            (f"`{message['name']}`", f"{message['summary']} Data: {_schema_links(message['payload'])}")
            for message in messages.values()
            if "name" in message
        ]
        parts.append(table(("", ""), rows))
        own = next(iter(messages.values()))["headers"].get("properties", {})
        headers = [
            (f"`{header}`", field.get("description", ""))
            for header, field in own.items()
            if header not in schemas["Envelope"]["properties"]
        ]
        if headers:
            parts.append("Headers beside those of the envelope:\n\n" + table(("header", "meaning"), headers))
    for name, schema in schemas.items():
        about = f"{schema['description']}\n\n" if schema.get("description") else ""
        parts.append(f"## {name} {{ #{name.lower()} }}\n\n{about}{properties_table(schema, '')}")
    return "\n".join(parts)


def _schema_links(payload: Mapping[str, Any]) -> str:
    """Return links to the schemas that a payload may have."""
    names = [item["$ref"].rpartition("/")[2] for item in payload.get("anyOf", [payload])]
    return " or ".join(f"[{name}](#{name.lower()})" for name in names)


def _services(document: Mapping[str, Any], channel: str, action: str) -> str:
    suffix = f"_{action}_{channel}"
    found = [name.removesuffix(suffix) for name in document["operations"] if name.endswith(suffix)]
    return ", ".join(name.replace("_", " ") for name in found)
