"""The registry: the only place that loads providers, by the name of their folder."""

from collections.abc import Mapping
from functools import cache, cached_property
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final

import yaml
from pydantic import ValidationError

from shared.catalog.door import Door, Reader
from shared.catalog.manifest import Manifest
from shared.catalog.mapping import EventTemplates
from shared.contracts.errors import Misconfigured

MANIFEST: Final = "manifest.yaml"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where it is there: sixty manifests take it a tenth of the time."""
_PACKAGE: Final = "shared.providers"


class Provider:
    """A manifest, compiled: what a service needs of a provider at run time."""

    def __init__(self, manifest: Manifest, reader: Reader | None = None) -> None:
        self.manifest = manifest
        self.id = manifest.id
        webhook = manifest.webhook
        self.door = Door(webhook, reader) if webhook else None
        self.handled = frozenset(webhook.handled if webhook else ())
        self.ignored = frozenset(webhook.ignored if webhook else ())

    @cached_property
    def messages(self) -> Mapping[str, EventTemplates]:
        """The templates of each event that makes a message, compiled when the first is wanted.

        Only one service shows messages; the others need not keep them. Raises `Unrenderable`, which names
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
        return self.door.json(content_type, data) if self.door else data


def folders() -> list[Traversable]:
    """The provider folders, sorted by name."""
    root = files(_PACKAGE)
    found = [entry for entry in root.iterdir() if entry.is_dir() and entry.joinpath(MANIFEST).is_file()]
    return sorted(found, key=lambda entry: entry.name)


def read_manifest(folder: Traversable) -> Manifest:
    """One folder's manifest. Raises `Misconfigured` with every fault, one a line."""
    try:
        data: Any = yaml.load(folder.joinpath(MANIFEST).read_text("utf-8"), _LOADER)  # noqa: S506 -- is safe
        manifest = Manifest.model_validate(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise Misconfigured(f"{folder.name}/{MANIFEST}: " + "; ".join(lines)) from None
    if manifest.id != folder.name:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: id is {manifest.id!r}, the folder is {folder.name!r}")
    return manifest


def reader_of(provider: str) -> Reader | None:
    """The `read` of the provider's own `body.py`, for bodies that are neither JSON nor a form."""
    name = f"{_PACKAGE}.{provider}.body"
    if not files(_PACKAGE).joinpath(provider, "body.py").is_file():
        return None
    reader: Reader = import_module(name).read
    return reader


@cache
def providers() -> Mapping[str, Provider]:
    """Every provider by its id, loaded and compiled once. Raises `Misconfigured`."""
    loaded: dict[str, Provider] = {}
    for folder in folders():
        manifest = read_manifest(folder)
        loaded[manifest.id] = Provider(manifest, reader_of(manifest.id))
    return loaded
