"""What is derived for the Helm chart: the schema of its settings, and the manifests rendered from it.

`python -m tests.deploy.chart` writes both; the tests compare them with what is committed.
"""

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings

from interlink.commands.common import ServiceName
from interlink.doctor import own_settings
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings
from tests.support.helm_library import Helm, unavailable

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "interlink"
MANIFESTS = ROOT / "deploy" / "kubernetes"
EXAMPLES = ("small", "medium", "large")
SERVICES = tuple(name.value for name in ServiceName)
_SCHEMA = CHART / "values.schema.json"
_HEADER = """\
# Rendered from deploy/helm/interlink with its values/{name}.yaml, as release "hub" in namespace "chat", by
# `make manifests`. Replace what is an example: the image, the addresses, the names of secrets and networks.
"""

CHART_SETTINGS = frozenset(
    {
        "INTERLINK_HOST",
        "INTERLINK_PORT",
        "INTERLINK_PUBLIC_URL",
        "INTERLINK_TRUSTED_PROXIES",
        "INTERLINK_ENCRYPTION_KEY",
        "INTERLINK_ENCRYPTION_KEY_FILE",
        "INTERLINK_DRAIN_SECONDS",
        "INTERLINK_EGRESS_PORTS",
        "INTERLINK_GATEWAY_URL",
        "INTERLINK_PEERS",
        "INTERLINK_OIDC_CLIENT_SECRET",
        "INTERLINK_OIDC_CLIENT_SECRET_FILE",
        "INTERLINK_FILE_FOLDER",
        "INTERLINK_FILE_DISK_BYTES",
        "INTERLINK_CHAT_FILES_TOKEN",
        "INTERLINK_CHAT_FILES_TOKEN_FILE",
        "INTERLINK_UPLOAD_FOLDER",
    }
)
"""Variables that the chart sets from other values, or that would put a secret into the values."""
NO_FILES = frozenset({"INTERLINK_CHAT_LOGO", "INTERLINK_EGRESS_CA_FILE"})
"""Variables that name files, for which the chart has no volume."""
EMBEDDED = frozenset({"INTERLINK_EMBEDDED_BROKER_IMPORT_BYTES"})
"""Variables for the embedded broker, which no chart starts."""
_CONNECTION: Mapping[str, type[BaseSettings]] = {
    "KAFKA_SESSION_TIMEOUT_MS": KafkaSettings,
    "MONGODB_TIMEOUT_MS": MongoSettings,
}
_TRACES = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": {
        "type": "string",
        "pattern": "^https?://",
        "description": "The collector of traces, which takes OTLP over HTTP. Allow it in extraEgress.",
    },
    "OTEL_RESOURCE_ATTRIBUTES": {
        "type": "string",
        "description": "Attributes of all spans, as name=value, separated by commas.",
    },
}
"""Variables of the OpenTelemetry SDK. Those with secrets do not belong into values."""
_KEYWORDS = (
    *("type", "enum", "pattern", "minLength", "maxLength"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
)


def settings_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas of the settings of all services, and of each service, by their names in `$defs`."""
    shared = {
        **_properties(HubSettings),
        **{name: _properties(kind)[name] for name, kind in _CONNECTION.items()},
        **_TRACES,
    }
    return {
        "settings_all": _closed(shared),
        **{
            f"settings_{service}": _closed({**shared, **_properties(kind)})
            for service, kind in service_settings().items()
        },
    }


def service_settings() -> dict[str, type[BaseSettings]]:
    """Return the class of the settings of each service."""
    return dict(own_settings(SERVICES))


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(sorted(properties.items()))}


def _properties(kind: type[BaseSettings]) -> dict[str, Any]:
    """Return the schema of each variable of a class that the chart passes on."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    schema = kind.model_json_schema(mode="validation")
    found = {}
    for name, field in schema["properties"].items():
        variable = f"{prefix}{name}".upper()
        if variable in CHART_SETTINGS | NO_FILES | EMBEDDED:
            continue
        options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
        [option] = options
        value = {word: option[word] for word in _KEYWORDS if word in option}
        found[variable] = {**value, "description": field.get("description", "")}
    return found


def schema() -> dict[str, Any]:
    """Return the committed schema of the chart's values."""
    found: dict[str, Any] = json.loads(_SCHEMA.read_text("utf-8"))
    return found


def derived_schema() -> dict[str, Any]:
    """Return the schema as it has to be: with the settings of today."""
    found = schema()
    others = {name: value for name, value in found["$defs"].items() if not name.startswith("settings_")}
    return {**found, "$defs": {**others, **settings_schemas()}}


def example(name: str) -> Path:
    """Return the values of an example."""
    return CHART / "values" / f"{name}.yaml"


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with changes, as Helm merges them: documents by key, anything else as a whole."""
    result = copy.deepcopy(dict(values))
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def example_values(name: str) -> dict[str, Any]:
    """Return all values of an example, with the chart's defaults."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return merged(defaults, yaml.safe_load(example(name).read_text("utf-8")))


def manifest_files(helm: Helm) -> Iterator[tuple[Path, str]]:
    """Yield the path and text of each rendered manifest."""
    for name in EXAMPLES:
        text = helm.text(CHART, example(name))
        yield MANIFESTS / f"{name}.yaml", _HEADER.format(name=name) + text


def _write() -> None:
    text = json.dumps(derived_schema(), indent=2, ensure_ascii=False)
    _SCHEMA.write_text(f"{text}\n", "utf-8")
    if reason := unavailable():
        sys.exit(f"the manifests were not rendered: {reason}")
    MANIFESTS.mkdir(exist_ok=True)
    with Helm() as helm:
        for path, rendered in manifest_files(helm):
            path.write_text(rendered, "utf-8")


if __name__ == "__main__":
    _write()
