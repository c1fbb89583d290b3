"""The polling triggers that the manifests define."""

from dataclasses import dataclass
from typing import Final

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.models import PollingSection
from shared.manifests.polling import PollSpec
from shared.manifests.registry import Registry

_SEPARATOR: Final = "_trigger_"


@dataclass(frozen=True, slots=True)
class PollingType:
    """A polling trigger of a provider."""

    provider: str
    trigger: str
    spec: PollSpec
    section: PollingSection


class PollingTypes:
    """The polling triggers of all providers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, provider: str, trigger: str) -> PollingType | None:
        """Return a polling trigger; None if the provider has none with this id."""
        known = self._registry.providers.get(provider)
        section = known.manifest.polling if known else None
        spec = section.triggers.get(trigger) if section else None
        if section is None or spec is None:
            return None
        return PollingType(provider, trigger, spec, section)

    def get(self, trigger: str) -> PollingType:
        """Return the polling trigger with this id. Raises `Invalid` if there is none."""
        # An id begins with that of its provider: no other manifest has to be read.
        provider = trigger.partition(_SEPARATOR)[0].replace("_", "-")
        found = self.find(provider, trigger)
        if found is None:
            known = self._registry.providers.get(provider)
            section = known.manifest.polling if known else None
            hint = f"{provider} has {', '.join(section.triggers)}" if section else "see GET /api/catalog"
            raise Invalid(
                "there is no such polling trigger",
                errors=(FieldError("trigger", f"it cannot be polled: {hint}"),),
            )
        return found
