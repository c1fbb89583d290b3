"""The JSON Schema of manifests, for editors: `shared/providers/manifest.schema.json`."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from shared.manifests.models import Manifest

SCHEMA: Final = "manifest.schema.json"
"""The file's name. It stands beside the provider folders, so that a manifest finds it at `../`."""


class _Generator(GenerateJsonSchema):
    """Generates what an author of manifests needs: strict keys, and no more than the descriptions of fields.

    Titles are left out, and so are the docstrings of models, which are for those who read the code.
    """

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        """Leave out the defaults that say only that the field may be left out."""
        generated = super().default_schema(schema)
        default = generated.get("default")
        if default in (None, "", [], {}) or isinstance(default, dict):
            generated.pop("default", None)
        return generated

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        """Refuse keys that do not have the pattern: alone, `patternProperties` ignores them."""
        generated = super().dict_schema(schema)
        return {**generated, "additionalProperties": False} if "patternProperties" in generated else generated

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        generated = super().model_schema(schema)
        return {name: value for name, value in generated.items() if name not in ("title", "description")}


def manifest_schema() -> Mapping[str, Any]:
    """Return the JSON Schema (2020-12) of a manifest, with the descriptions of its fields."""
    generated = Manifest.model_json_schema(by_alias=True, schema_generator=_Generator)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Manifest of an Interlink provider",
        "description": "Made by `interlink provider schema` from shared/manifests.",
        **generated,
    }


def schema_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(manifest_schema(), indent=1, ensure_ascii=False) + "\n"
