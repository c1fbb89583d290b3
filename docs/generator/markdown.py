"""Pieces of Markdown that the generated pages share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

_REFERENCE: Final = "#/components/schemas/"
_LIMITS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "minItems": "items at least",
    "maxItems": "items at most",
    "pattern": "pattern",
}


def cell(text: object) -> str:
    """Return a text for the cell of a table: on one line, with bars escaped."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with its heading, or nothing if it has no rows."""
    lines = ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines]) + "\n"


def schema_type(schema: Mapping[str, Any], schemas_page: str) -> str:
    """Return the type of a JSON Schema in a few words, with links to the page of the schemas."""
    if reference := schema.get("$ref", "").removeprefix(_REFERENCE):
        return f"[{reference}]({schemas_page}#{reference.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(schema_type(part, schemas_page) for part in schema[key])
    if "const" in schema:
        return f"`{_literal(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{_literal(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {schema_type(schema.get('items', {}), schemas_page)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {schema_type(schema['additionalProperties'], schemas_page)}"
    detail = f" ({schema['format']})" if "format" in schema else ""
    return f"{' or '.join(kind) if isinstance(kind, list) else kind}{detail}"


def schema_limits(schema: Mapping[str, Any]) -> str:
    """Return the bounds and the default of a JSON Schema in a few words."""
    parts = [part for part in (schema, *schema.get("anyOf", ())) if isinstance(part, Mapping)]
    found = [f"{text} `{part[name]}`" for part in parts for name, text in _LIMITS.items() if name in part]
    if schema.get("default") is not None:
        found.append(f"default `{_literal(schema['default'])}`")
    return ", ".join(found)


def properties_table(
    schema: Mapping[str, Any], schemas_page: str, examples: Mapping[str, str] | None = None
) -> str:
    """Return a table of the fields of an object: name, type, limits and description.

    With `examples`, Markdown by the name of the field, it has a column of them.
    """
    required = set(schema.get("required", ()))
    rows = [
        (
            f"`{name}`" + " (required)" * (name in required),
            schema_type(field, schemas_page),
            schema_limits(field),
            field.get("description", ""),
            *(() if examples is None else (examples.get(name, ""),)),
        )
        for name, field in schema.get("properties", {}).items()
    ]
    head = ("field", "type", "limits", "meaning")
    return table(head if examples is None else (*head, "example"), rows)


def schema_references(schema: Any) -> Iterator[str]:
    """Yield the references in a JSON Schema, at any depth, in their order."""
    if isinstance(schema, Mapping):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for name, value in schema.items():
            if name != "discriminator":
                yield from schema_references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from schema_references(value)


def _literal(value: object) -> str:
    if value == "":
        return '""'
    return str(value).lower() if isinstance(value, bool) else str(value)
