"""The registry: the only place that loads providers, by the name of their folder."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final

import yaml
from pydantic import ValidationError

from shared.catalog.manifest import Manifest
from shared.catalog.mapping import EventTemplates
from shared.contracts.errors import Misconfigured
from shared.wire.bodies import FORM, form_field, media_type
from shared.wire.render import Unrenderable

MANIFEST: Final = "manifest.yaml"


class Provider:
    """A manifest, compiled: what a service needs of a provider at run time."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises `Unrenderable`, which names the template that is no Liquid."""
        self.manifest = manifest
        self.id = manifest.id
        webhook = manifest.webhook
        self.verifier = webhook.verification.compile() if webhook else None
        self.handled: Mapping[str, EventTemplates] = (
            {name: EventTemplates(name, event, webhook) for name, event in webhook.handled.items()}
            if webhook
            else {}
        )
        self.ignored = frozenset(webhook.ignored if webhook else ())

    @property
    def trigger_types(self) -> list[str]:
        """The event types that a subscriber can ask for by name."""
        return [f"{self.id}.{name}" for name in (*self.handled, *sorted(self.ignored))]

    def payload(self, content_type: str, body: bytes) -> bytes:
        """The JSON text of a webhook's body. Raises `Malformed` when a form lacks its field."""
        field = self.manifest.webhook.form_field if self.manifest.webhook else None
        if field and media_type(content_type) == FORM:
            return form_field(body, field)
        return body


def folders() -> list[Traversable]:
    """The provider folders, sorted by name."""
    root = files("shared.providers")
    found = [entry for entry in root.iterdir() if entry.is_dir() and entry.joinpath(MANIFEST).is_file()]
    return sorted(found, key=lambda entry: entry.name)


def read_manifest(folder: Traversable) -> Manifest:
    """One folder's manifest. Raises `Misconfigured` with every fault, one a line."""
    try:
        data: Any = yaml.safe_load(folder.joinpath(MANIFEST).read_text("utf-8"))
        manifest = Manifest.model_validate(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise Misconfigured(f"{folder.name}/{MANIFEST}: " + "; ".join(lines)) from None
    if manifest.id != folder.name:
        raise Misconfigured(f"{folder.name}/{MANIFEST}: id is {manifest.id!r}, the folder is {folder.name!r}")
    return manifest


@cache
def providers() -> Mapping[str, Provider]:
    """Every provider by its id, loaded and compiled once. Raises `Misconfigured`."""
    loaded: dict[str, Provider] = {}
    for folder in folders():
        manifest = read_manifest(folder)
        try:
            loaded[manifest.id] = Provider(manifest)
        except Unrenderable as error:
            raise Misconfigured(f"{folder.name}/{MANIFEST}: {error}") from None
    return loaded
