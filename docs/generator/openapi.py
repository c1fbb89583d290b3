"""The pages of the REST API, from its OpenAPI document: an index, a page per resource, a page of schemas."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from docs.generator.markdown import cell, properties_table, schema_limits, schema_type, table
from shared.contracts.routes import DEFAULT_SERVICE, SERVICE_PATHS

_FOLDER: Final = "reference/rest-api"
_SCHEMAS: Final = "schemas.md"
_INTRODUCTION: Final = """\
# REST API

Generated from the code of the services. Every call but those under `webhooks` and the OAuth callback needs an
API key: `Authorization: Bearer ilk_...`. Errors are problem details (RFC 9457). Lists have `next_cursor`:
send it as `cursor` for the next page. Calls that change something take an `Idempotency-Key`. A call that
was refused, for example over a quota, can be repeated with the same key.

The document itself: [openapi.json](openapi.json), or `/api/openapi.json` of a running hub.
"""


def rest_api_pages(document: Mapping[str, Any]) -> dict[str, str]:
    """Return every page by its path on the site."""
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = defaultdict(list)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            by_tag[call["tags"][0]].append((method.upper(), path, call))
    pages = {"reference/rest-api.md": _index(by_tag)}
    for tag, operations in by_tag.items():
        parts = [f"# {tag}\n", *(_operation(*operation) for operation in operations)]
        pages[f"{_FOLDER}/{tag}.md"] = "\n".join(parts)
    pages[f"{_FOLDER}/{_SCHEMAS}"] = _schemas(document["components"]["schemas"])
    return pages


def _index(by_tag: Mapping[str, list[tuple[str, str, Mapping[str, Any]]]]) -> str:
    parts = [_INTRODUCTION]
    for tag in sorted(by_tag):
        rows = [
            (f"[`{method} {path}`](rest-api/{tag}.md#{_anchor(call)})", call.get("summary", ""))
            for method, path, call in by_tag[tag]
        ]
        parts.append(f"## {tag}\n\n{table(('call', 'meaning'), rows)}")
    services = [(f"`{path}`", name) for name, paths in SERVICE_PATHS.items() for path in paths]
    rows = [*services, ("every other path", DEFAULT_SERVICE)]
    parts.append(f"## Which service answers\n\n{table(('path and below', 'service'), rows)}")
    return "\n".join(parts)


def _anchor(call: Mapping[str, Any]) -> str:
    return str(call["operationId"])


def _operation(method: str, path: str, call: Mapping[str, Any]) -> str:
    parts = [f"## `{method} {path}` {{ #{_anchor(call)} }}\n", f"{call.get('summary', '')}.\n"]
    if call.get("description"):
        parts.append(f"{call['description']}\n")
    parameters = [
        (
            f"`{item['name']}`" + " (required)" * bool(item.get("required")),
            item["in"],
            schema_type(item.get("schema", {}), _SCHEMAS),
            schema_limits(item.get("schema", {})),
            item.get("description", ""),
        )
        for item in call.get("parameters", ())
    ]
    if parameters:
        parts.append(table(("parameter", "in", "type", "limits", "meaning"), parameters))
    for media, content in call.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body: `{media}`, {cell(schema_type(content.get('schema', {}), _SCHEMAS))}\n")
    answers = [
        (status, _answer_type(answer), answer.get("description", ""))
        for status, answer in call.get("responses", {}).items()
    ]
    parts.append(table(("status", "body", "meaning"), answers))
    return "\n".join(parts)


def _answer_type(answer: Mapping[str, Any]) -> str:
    kinds = [
        schema_type(content.get("schema", {}), _SCHEMAS) for content in answer.get("content", {}).values()
    ]
    return " or ".join(dict.fromkeys(kinds))


def _schemas(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    parts = ["# Schemas of the REST API\n"]
    for name in sorted(schemas):
        schema = schemas[name]
        parts.append(f"## {name} {{ #{name.lower()} }}\n")
        if schema.get("description"):
            parts.append(f"{schema['description']}\n")
        parts.append(properties_table(schema, "") or f"{schema_type(schema, '')}\n")
    return "\n".join(parts)
