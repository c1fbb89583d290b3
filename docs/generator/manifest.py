"""The page of a manifest's fields: from the models of `shared/manifests`, with examples of the providers."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from docs.generator.markdown import properties_table, schema_references
from interlink.provider.schema import manifest_schema
from shared.manifests.base import ManifestModel
from shared.manifests.registry import provider_folders, read_manifest
from shared.wire.template import TEMPLATE_PATTERN

_ROOT: Final = "Manifest"
_LOCAL: Final = "#/$defs/"
_SHARED: Final = "#/components/schemas/"
_MAX_EXAMPLE_CHARACTERS: Final = 60
_INTRODUCTION: Final = """\
# Fields of a manifest

Generated from the models, as the JSON Schema [manifest.schema.json](manifest.schema.json) is. [The
manifest](../manifest.md) explains templates and how the fields work together. The title of a section is the
place of its object in a manifest, or the name of its model if it has several places. Examples are from the
manifests of this hub. A field without *(required)* may be left out; `interlink provider check` says what else
a manifest needs.
"""


def manifest_page() -> str:
    """Return the page: a table of fields for each object of a manifest, in the order of their first use."""
    schema = manifest_schema()
    objects = {
        _ROOT: schema,
        **{name: part for name, part in schema["$defs"].items() if "properties" in part},
    }
    places: dict[str, list[str]] = {_ROOT: []}
    _collect_places(_ROOT, "", objects, places)
    titles = _titles(places)
    examples = _find_examples()
    page = [_INTRODUCTION]
    for name, paths in places.items():
        title = titles[name]
        page.append(f"## {title} {{ #{title.lower()} }}\n")
        if paths and paths != [title]:
            page.append(f"At {', '.join(f'`{path}`' for path in paths)}.\n")
        page.append(properties_table(_simplify(objects[name], titles), "", examples.get(name, {})))
    return "\n".join(page)


def _collect_places(
    name: str, path: str, objects: Mapping[str, Mapping[str, Any]], places: dict[str, list[str]]
) -> None:
    """Add the dotted paths at which each object below `name` stands, depth first. Each is entered once."""
    for field, schema in objects[name]["properties"].items():
        below = f"{path}.{field}" if path else field
        for reference in schema_references(schema):
            target = reference.removeprefix(_LOCAL)
            is_new = target not in places
            if below not in (paths := places.setdefault(target, [])):
                paths.append(below)
            if is_new:
                _collect_places(target, below, objects, places)


def _titles(places: Mapping[str, list[str]]) -> Mapping[str, str]:
    """Return the title of each object: its only place if no other object stands there, else its name."""
    count: dict[str, int] = {}
    for paths in places.values():
        for path in paths:
            count[path] = count.get(path, 0) + 1
    return {
        name: paths[0] if len(paths) == 1 and count[paths[0]] == 1 else name for name, paths in places.items()
    }


def _simplify(schema: Any, titles: Mapping[str, str]) -> Any:
    """Return a schema for readers: titles as references, no null, templates named, maps as objects."""
    if isinstance(schema, list):
        return [_simplify(part, titles) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("pattern") == TEMPLATE_PATTERN:
        return {**{key: schema[key] for key in schema if key != "pattern"}, "type": "template"}
    found = {key: _simplify(value, titles) for key, value in schema.items() if key != "discriminator"}
    if isinstance(reference := found.get("$ref"), str):
        found["$ref"] = _SHARED + titles[reference.removeprefix(_LOCAL)]
    if values := found.pop("patternProperties", None):
        found["additionalProperties"] = next(iter(values.values()))
    if pair := found.pop("prefixItems", None):
        found["items"] = pair[0]
    if "anyOf" in found:
        choices = [part for part in found["anyOf"] if part.get("type") != "null"]
        found = {key: value for key, value in found.items() if key != "anyOf"} | (
            choices[0] if len(choices) == 1 else {"anyOf": choices}
        )
    return found


def _find_examples() -> Mapping[str, Mapping[str, str]]:
    """Return a short value of each field, by the names of model and field: the first of a provider."""
    found: dict[str, dict[str, str]] = {}
    for folder in provider_folders():
        for model, field, value in _values(read_manifest(folder)):
            known = found.setdefault(model, {})
            if field not in known and (text := _short_yaml(value)):
                known[field] = f"`{text}`"
    return found


def _values(part: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield model, field and value of what a manifest sets, but for objects that have tables of their own."""
    if isinstance(part, ManifestModel):
        for name in (name for name in type(part).model_fields if name in part.model_fields_set):
            value = getattr(part, name)
            below = list(_values(value))
            yield from below
            if not below and not isinstance(value, ManifestModel):
                field = type(part).model_fields[name].alias or name
                dumped = part.model_dump(mode="json", by_alias=True, include={name})
                yield type(part).__name__, field, dumped[field]
    elif isinstance(part, Mapping | tuple | list):
        for item in part.values() if isinstance(part, Mapping) else part:
            yield from _values(item)


def _short_yaml(value: Any) -> str:
    """Return a value as YAML on one line; nothing if it is empty, or too long for a table."""
    if value in ("", [], {}, None):
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= _MAX_EXAMPLE_CHARACTERS and "`" not in text and "\n" not in text else ""
