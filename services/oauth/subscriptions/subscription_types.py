"""The types of provider subscriptions that the manifests define."""

from collections.abc import Mapping, Sequence

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.registry import Registry
from shared.manifests.subscriptions import SubscriptionSpec


class SubscriptionTypes:
    """The types of subscriptions of all providers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of(self, provider: str) -> Sequence[SubscriptionSpec]:
        """Return the types that a provider has; none for an unknown provider."""
        known = self._registry.providers.get(provider)
        return () if known is None else known.manifest.watches

    def find(self, provider: str, type_id: str) -> SubscriptionSpec | None:
        """Return one type; None if the provider does not have it."""
        return next((item for item in self.of(provider) if item.id == type_id), None)

    def get(self, provider: str, type_id: str) -> SubscriptionSpec:
        """Return one type. Raises `Invalid` if the provider does not have it."""
        definition = self.find(provider, type_id)
        if definition is None:
            listed = ", ".join(item.id for item in self.of(provider)) or "none"
            raise Invalid("no such kind of watch", errors=(FieldError("watch", f"there is {listed}"),))
        return definition

    def dependent_on_app(self, app: str) -> Mapping[str, Sequence[str]]:
        """Return the ids of the types that use settings or secrets of an app, by provider.

        `app` is the provider id that the app is registered under; several providers can use it.
        """
        type_ids = {
            provider: [item.id for item in self.of(provider) if item.needs or item.endpoint_secret]
            for provider, connector in self._registry.connectors.items()
            if connector.app == app
        }
        return {provider: ids for provider, ids in type_ids.items() if ids}
