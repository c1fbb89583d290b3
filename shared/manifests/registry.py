"""The registry: the only place that loads providers, by the name of their folder."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache, cached_property
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.errors import Misconfigured
from shared.manifests.connector import Connector
from shared.manifests.message_templates import EventTemplates
from shared.manifests.models import Manifest
from shared.manifests.webhook import BodyReader, WebhookDefinition

MANIFEST: Final = "manifest.yaml"
_PACKAGE: Final = "shared.providers"
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where it is there: sixty manifests take it a tenth of the time."""


class _UniqueKeyLoader(_LOADER):  # type: ignore[misc]
    """Refuses a key that is there twice, of which YAML would keep the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._seen: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """The first that is done with a mapping; once it is done, merged keys are among its own."""
        if id(node) not in self._seen:
            self._seen.add(id(node))
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    if key.value in lines:
                        raise yaml.YAMLError(f"{key.value}: twice, in lines {lines[key.value]} and {line}")
                    lines[key.value] = line
        super().flatten_mapping(node)


def load_yaml(text: str) -> Any:
    """What a YAML file of a folder says. Raises `yaml.YAMLError`, also for a key that is there twice."""
    return yaml.load(text, _UniqueKeyLoader)  # noqa: S506 -- is safe


class Provider:
    """A manifest, compiled: what a service needs of a provider at run time."""

    def __init__(self, manifest: Manifest, reader: BodyReader | None = None) -> None:
        self.manifest = manifest
        self.id = manifest.id
        webhook = manifest.webhook
        self.definition = WebhookDefinition(webhook, reader) if webhook else None
        self.handled = frozenset(webhook.handled if webhook else ())
        self.ignored = frozenset(webhook.ignored if webhook else ())

    @cached_property
    def messages(self) -> Mapping[str, EventTemplates]:
        """The templates of each event that makes a message, compiled when the first is wanted.

        Only one service shows messages; the others need not keep them. Raises `MessageTemplateError`, which
        names
        the template that is no Liquid.
        """
        webhook = self.manifest.webhook
        if webhook is None:
            return {}
        return {
            name: EventTemplates(name, event.message, webhook)
            for name, event in webhook.handled.items()
            if event.message
        }

    @property
    def trigger_types(self) -> list[str]:
        """The event types that a subscriber can ask for by name."""
        webhook = self.manifest.webhook
        return [
            f"{self.id}.{name}" for name in (*(webhook.handled if webhook else ()), *sorted(self.ignored))
        ]

    def payload(self, content_type: str, data: bytes) -> bytes:
        """The payload of an event's data, as JSON text. Raises `Malformed`."""
        return self.definition.json(content_type, data) if self.definition else data


def provider_folders() -> list[Traversable]:
    """The provider folders, sorted by name."""
    root = files(_PACKAGE)
    found = [entry for entry in root.iterdir() if entry.is_dir() and entry.joinpath(MANIFEST).is_file()]
    return sorted(found, key=lambda entry: entry.name)


def read_manifest(folder: Traversable) -> Manifest:
    """One folder's manifest. Raises `Misconfigured` with every fault."""
    try:
        data = load_yaml(folder.joinpath(MANIFEST).read_text("utf-8"))
        if data is None:
            raise Misconfigured(f"{folder.name}/{MANIFEST}: is empty")
        manifest = Manifest.model_validate(data)
    except FileNotFoundError:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: missing: every provider has one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: {error}") from None
    except ValidationError as error:
        lines = [_describe_fault(fault) for fault in error.errors()]
        raise Misconfigured(f"{folder.name}/{MANIFEST}: " + "; ".join(lines)) from None
    if manifest.id != folder.name:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: id is {manifest.id!r}, the folder is {folder.name!r}")
    return manifest


def _describe_fault(fault: ErrorDetails) -> str:
    """A fault of a manifest in words for who wrote it."""
    where = ".".join(map(str, fault["loc"])) or "it"
    if fault["type"] == "extra_forbidden":
        near = get_close_matches(str(fault["loc"][-1]), _field_names(fault["loc"][:-1]), n=1)
        return f"{where}: no such field" + (f" (did you mean {near[0]}?)" if near else "")
    hint = ""
    if fault["type"] in ("string_type", "tuple_type"):
        braces = fault["input"] is None or isinstance(fault["input"], dict)
        hint = ": a text with braces or # goes in quotes" if braces else ""
        if isinstance(fault["input"], int | float) and fault["type"] == "string_type":
            hint = ": a text that looks like a number, or is true or false, goes in quotes"
    return f"{where}: {fault['msg']}{hint}"


def _field_names(place: tuple[int | str, ...]) -> list[str]:
    """The names of the fields that a manifest can have at a place, as a fault gives it."""
    models: set[type[BaseModel]] = {Manifest}
    for step in place:
        fields = [each.model_fields for each in models]
        found = [
            field.annotation
            for each in fields
            for name, field in each.items()
            if step in (name, field.alias) and field.annotation
        ]
        within = {model for annotation in found for model in _annotation_models(annotation)}
        of_scheme = {
            model
            for model in models
            if "scheme" in model.model_fields and step in get_args(model.model_fields["scheme"].annotation)
        }
        models = within or of_scheme or models
    return sorted({field.alias or name for each in models for name, field in each.model_fields.items()})


def _annotation_models(annotation: Any) -> set[type[BaseModel]]:
    """The models in an annotation, however they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _annotation_models(part)}


def body_reader(provider: str) -> BodyReader | None:
    """The `read` of the provider's own `body.py`, for bodies that are neither JSON nor a form.

    Raises `Misconfigured` for a file that is no Python, fails, or has no `read`.
    """
    name = f"{_PACKAGE}.{provider}.body"
    if not files(_PACKAGE).joinpath(provider, "body.py").is_file():
        return None
    try:
        reader: BodyReader | None = getattr(import_module(name), "read", None)
    except SyntaxError as error:
        raise Misconfigured(f"{provider}/body.py: line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise Misconfigured(f"{provider}/body.py: {type(error).__name__}: {error}") from error
    if not callable(reader):
        raise Misconfigured(f"{provider}/body.py: no function read: write def read(body: bytes) -> Any")
    return reader


@cache
def providers() -> Mapping[str, Provider]:
    """Every provider by its id, loaded and compiled once. Raises `Misconfigured`."""
    load_yaml: dict[str, Provider] = {}
    for folder in provider_folders():
        manifest = read_manifest(folder)
        load_yaml[manifest.id] = Provider(manifest, body_reader(manifest.id))
    return load_yaml


@cache
def connectors() -> Mapping[str, Connector]:
    """How accounts are connected, by provider, where the manifest says it. Raises `Misconfigured`."""
    known = providers()
    found: dict[str, Connector] = {}
    for name, provider in known.items():
        connect = provider.manifest.connect
        if connect is None:
            continue
        base = known.get(connect.through) if connect.through else None
        through = base.manifest.connect if base else None
        if connect.through and (through is None or through.through):
            raise Misconfigured(f"{name}: connect.through: {connect.through} has no way of its own")
        found[name] = Connector(name, connect, through)
    return found
