"""The registry: the only place that loads providers, by the names of their folders."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.errors import Misconfigured
from shared.manifests.connector import Connector
from shared.manifests.history_models import HistorySpec
from shared.manifests.models import Manifest
from shared.manifests.provider_code import (
    PACKAGE,
    body_reader,
    load_channel,
    load_dialect,
    load_signed_address,
    member,
)
from shared.manifests.webhook import BodyReader, WebhookDefinition

if TYPE_CHECKING:
    from shared.manifests.channel_types import Channel, ExternalFile, Operation
    from shared.manifests.message_templates import EventTemplates
    from shared.richtext.dialect import Dialect
    from shared.richtext.tree import Document
    from shared.wire.message_template import BoundedEnvironment

    RefreshedAddresses = Callable[[HistorySpec, Sequence[ExternalFile], float], Operation[Mapping[str, str]]]

T = TypeVar("T")

MANIFEST: Final = "manifest.yaml"
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C loader if libyaml is there: it loads sixty manifests in a tenth of the time."""


class _UniqueKeyLoader(_LOADER):  # type: ignore[misc]
    """Rejects a repeated key, of which YAML would silently use the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._seen: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check a mapping's keys before anything else handles it.

        Afterwards the keys of a YAML merge (`<<`) are among its own and may repeat.
        """
        if id(node) not in self._seen:
            self._seen.add(id(node))
            line_by_key: dict[str, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    if key.value in line_by_key:
                        raise yaml.YAMLError(
                            f"{key.value}: repeated, in lines {line_by_key[key.value]} and {line}"
                        )
                    line_by_key[key.value] = line
        super().flatten_mapping(node)


def load_yaml(text: str) -> Any:
    """Parse a YAML file of a provider's folder. Raises `yaml.YAMLError`, also for a repeated key."""
    return yaml.load(text, _UniqueKeyLoader)  # noqa: S506 -- a safe loader


class Provider:
    """A manifest, compiled: what a service needs of a provider at run time."""

    def __init__(self, manifest: Manifest, reader: BodyReader | None = None) -> None:
        self.manifest = manifest
        self.id = manifest.id
        webhook = manifest.webhook
        self.definition = WebhookDefinition(webhook, reader) if webhook else None
        handled = dict(webhook.handled) if webhook else {}
        handled |= manifest.polling.handled if manifest.polling else {}
        self.handled = frozenset(handled)
        self.ignored = frozenset(webhook.ignored if webhook else ())
        self.quiet = frozenset(name for name, event in handled.items() if event.quiet)

    @cached_property
    def messages(self) -> "Mapping[str, EventTemplates]":
        """The templates of each event that makes a message, compiled on first use.

        Only one service renders messages; the others need not hold Liquid and the templates in memory. Raises
        `MessageTemplateError`, which names the template that is not valid Liquid.
        """
        from shared.manifests.message_templates import EventTemplates  # noqa: PLC0415 -- saves memory

        environment = template_environment()
        return {
            name: EventTemplates(name, event.message, section, environment)
            for section in (self.manifest.webhook, self.manifest.polling)
            if section
            for name, event in section.handled.items()
            if event.message
        }

    @cached_property
    def channel(self) -> "Channel | None":
        """The code of the provider's conversations, loaded on first use; None if it has no `channel` section.

        Only services that carry messages need it. Raises `Misconfigured` if `channel.py` cannot be loaded.
        """
        spec = self.manifest.channel
        return None if spec is None else load_channel(self.id, spec)

    def signed_address(self, file: "ExternalFile") -> str | None:
        """Return the address of a file if it has a proof of its own, and is the provider's; else None.

        The provider's `files.py` says so. Raises `Misconfigured` if it cannot be loaded.
        """
        return self._signed_address(file) if self._signed_address else None

    @cached_property
    def _signed_address(self) -> "Callable[[ExternalFile], str | None] | None":
        return load_signed_address(self.id)

    @cached_property
    def refreshed_addresses(self) -> "RefreshedAddresses | None":
        """The operation by which a connected account gets new addresses of files; None if there is none.

        It returns new addresses, by the old ones, of those files whose addresses have expired at a Unix time.
        Raises `Misconfigured` if the provider's `files.py` cannot be loaded.
        """
        try:
            function: RefreshedAddresses | None = member(self.id, "files.py", "refreshed_addresses")
        except FileNotFoundError:
            return None
        return function

    @property
    def trigger_types(self) -> list[str]:
        """The event types that a subscriber can ask for by name."""
        webhook, polling = self.manifest.webhook, self.manifest.polling
        names = (*(webhook.handled if webhook else ()), *(polling.handled if polling else ()))
        return [f"{self.id}.{name}" for name in (*names, *sorted(self.ignored))]

    @property
    def takes_description(self) -> bool:
        """True if the owner of an endpoint may describe its sender (`configurable`)."""
        webhook = self.manifest.webhook
        return webhook is not None and webhook.configurable

    def payload(self, content_type: str, data: bytes) -> bytes:
        """Return the payload of an event's data as JSON text. Raises `Malformed`."""
        return self.definition.json(content_type, data) if self.definition else data


def provider_folders() -> list[Traversable]:
    """Return the provider folders, sorted by name."""
    root = files(PACKAGE)
    folders = [entry for entry in root.iterdir() if entry.is_dir() and entry.joinpath(MANIFEST).is_file()]
    return sorted(folders, key=lambda entry: entry.name)


def read_manifest(folder: Traversable) -> Manifest:
    """Read a folder's manifest. Raises `Misconfigured` with every error."""
    try:
        data = load_yaml(folder.joinpath(MANIFEST).read_text("utf-8"))
        if data is None:
            raise Misconfigured(f"{folder.name}/{MANIFEST}: is empty")
        manifest = Manifest.model_validate(data)
    except FileNotFoundError:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: missing: every provider needs one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: {error}") from None
    except ValidationError as error:
        lines = [_describe_error(detail) for detail in error.errors()]
        raise Misconfigured(f"{folder.name}/{MANIFEST}: " + "; ".join(lines)) from None
    if manifest.id != folder.name:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: id is {manifest.id!r}, the folder is {folder.name!r}")
    return manifest


def _describe_error(detail: ErrorDetails) -> str:
    """Describe a validation error in terms of the manifest, with a hint what to change."""
    location = ".".join(map(str, detail["loc"])) or "manifest"
    if detail["type"] == "extra_forbidden":
        matches = get_close_matches(str(detail["loc"][-1]), _field_names(detail["loc"][:-1]), n=1)
        return f"{location}: unknown field" + (f" (did you mean {matches[0]}?)" if matches else "")
    hint = ""
    if detail["type"] in ("string_type", "tuple_type"):
        is_unquoted = detail["input"] is None or isinstance(detail["input"], dict)
        hint = ": put a text with braces or # in quotes" if is_unquoted else ""
        if isinstance(detail["input"], int | float) and detail["type"] == "string_type":
            hint = ": put a text that looks like a number, or is true or false, in quotes"
    return f"{location}: {detail['msg']}{hint}"


def _field_names(location: tuple[int | str, ...]) -> list[str]:
    """Return the field names that a manifest allows at a location, as a validation error gives it."""
    models: set[type[BaseModel]] = {Manifest}
    for step in location:
        annotations = [
            field.annotation
            for model in models
            for name, field in model.model_fields.items()
            if step in (name, field.alias) and field.annotation
        ]
        nested = {model for annotation in annotations for model in _annotation_models(annotation)}
        scheme_models = {
            model
            for model in models
            if "scheme" in model.model_fields and step in get_args(model.model_fields["scheme"].annotation)
        }
        # An unknown step keeps the models: list positions are steps too.
        models = nested or scheme_models or models
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _annotation_models(annotation: Any) -> set[type[BaseModel]]:
    """Return the models in a type annotation, however they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _annotation_models(argument)}


class _OnFirstUse(Mapping[str, T]):
    """A mapping whose values are made when they are first asked for."""

    def __init__(self, names: Callable[[], Collection[str]], make: Callable[[str], T | None]) -> None:
        """`names` are the keys to iterate over. `make` returns None for a key that there is not."""
        self._names = names
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            made = self._make(name)
            if made is None:  # not kept: names that strangers send would fill the memory
                raise KeyError(name)
            self._made[name] = made
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


class Registry:
    """The providers of an installation, and their connectors. Each is loaded and compiled on first use.

    Iterating over `providers` needs no manifest, over `connectors` every one. What loads a manifest that is
    wrong raises `Misconfigured`.
    """

    def __init__(self, folders: Iterable[Traversable] | None = None) -> None:
        """Find the providers in `folders`; by default, in those of this package."""
        found = provider_folders() if folders is None else folders
        self._folders: Final = {folder.name: folder for folder in found}
        self.providers: Final[Mapping[str, Provider]] = _OnFirstUse(lambda: self._folders, self._load)
        self.connectors: Final[Mapping[str, Connector]] = _OnFirstUse(self._connecting, self._connect)

    def folder(self, name: str) -> Traversable:
        """Return the folder of a provider, with its manifest, fixtures and icon. Raises `KeyError`."""
        return self._folders[name]

    def _load(self, name: str) -> Provider | None:
        folder = self._folders.get(name)
        return None if folder is None else Provider(read_manifest(folder), body_reader(name))

    def _connecting(self) -> Collection[str]:
        return [name for name, provider in self.providers.items() if provider.manifest.connect]

    def _connect(self, name: str) -> Connector | None:
        provider = self.providers.get(name)
        connect = provider.manifest.connect if provider else None
        if connect is None:
            return None
        base = self.providers.get(connect.through) if connect.through else None
        through = base.manifest.connect if base else None
        if connect.through and (through is None or through.through):
            raise Misconfigured(f"{name}: connect.through: {connect.through} has neither oauth2 nor oauth1")
        return Connector(name, connect, through)


@cache
def dialects() -> "Mapping[str, Dialect]":
    """Return the dialects of formatted text that providers offer, by the provider's id.

    Raises `Misconfigured` if one cannot be loaded.
    """
    loaded = {folder.name: load_dialect(folder.name) for folder in provider_folders()}
    return {name: dialect for name, dialect in loaded.items() if dialect}


@cache
def template_environment() -> "BoundedEnvironment":
    """Return the environment of manifests' templates: with a filter for each dialect that has one."""
    from shared.wire.message_template import new_environment  # noqa: PLC0415 -- saves memory

    return new_environment(dialects=dialect_filters())


def dialect_filters() -> "Mapping[str, Callable[[str], Document]]":
    """Return the parsers of dialects by the names of their filters."""
    return {dialect.filter: dialect.parse for dialect in dialects().values() if dialect.filter}


@cache
def registry() -> Registry:
    """Return the registry of this process, for an `app.py` to pass on."""
    return Registry()
