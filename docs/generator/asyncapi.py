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
        message = channel["messages"]["record"]
        binding = channel["bindings"]["kafka"]
        parts.append(f"## {channel['address']}\n\n{channel['description']}\n")
        rows = [
            ("sent by", _services(document, name, "send")),
            ("received by", _services(document, name, "receive")),
            ("partitions", binding["partitions"]),
        ]
        if payload := message.get("payload"):
            schema = payload["$ref"].rpartition("/")[2]
            rows.append(("payload", f"[{schema}](#{schema.lower()})"))
        parts.append(table(("", ""), rows))
        own = message["headers"].get("properties", {})
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


def _services(document: Mapping[str, Any], channel: str, action: str) -> str:
    suffix = f"_{action}_{channel}"
    found = [name.removesuffix(suffix) for name in document["operations"] if name.endswith(suffix)]
    return ", ".join(name.replace("_", " ") for name in found)
