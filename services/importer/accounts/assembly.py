"""Build the clients with which the importer calls providers with connected accounts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.importer.settings import ImporterSettings
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.channel_calls import ChannelCalls
from shared.connections.configured_apps import configured_apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import Provider, registry
from shared.runtime.egress.client import EgressClient, create_egress_client
from shared.runtime.service import Runtime, ServicePart

_MAX_CONNECTIONS: Final = 100
_MAX_PER_WORKSPACE: Final = 10


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """The clients. `parts` are started and stopped with the service."""

    client: EgressClient
    integrations: IntegrationRepository
    tokens: TokenSource
    calls: ChannelCalls
    providers: Mapping[str, Provider]
    parts: tuple[ServicePart, ...]


def build_provider_access(runtime: Runtime, settings: ImporterSettings) -> ProviderAccess:
    """Build the tokens of accounts and the calls with them. Raises `Misconfigured`."""
    known = registry()
    client = create_egress_client(
        settings, max_connections=_MAX_CONNECTIONS, max_per_workspace=_MAX_PER_WORKSPACE
    )
    integrations = IntegrationRepository(runtime.mongo, runtime.vault, runtime.producer, runtime.log)
    apps = Apps(
        AppRepository(runtime.mongo, runtime.vault, known.connectors, runtime.log),
        configured_apps(known),
        runtime.configuration,
    )
    tokens = TokenSource(
        integrations,
        apps,
        known.connectors,
        runtime.configuration,
        client,
        runtime.log,
        redirect_uri=runtime.hub.public_base + CALLBACK_PATH,
    )
    calls = ChannelCalls(tokens, client, known.providers)
    return ProviderAccess(client, integrations, tokens, calls, known.providers, (apps, client, tokens))
