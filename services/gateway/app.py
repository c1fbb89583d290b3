"""Builds the gateway: the bare webhook path beside the management API, behind one port."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.api import event_type_registry
from services.gateway.api.catalogue import CatalogueApi
from services.gateway.api.endpoints import EndpointsApi
from services.gateway.api.event_type_registry import EventTypes
from services.gateway.api.event_types import EventTypesApi
from services.gateway.api.executions import ExecutionsApi
from services.gateway.api.management import MAX_BODY_BYTES, ManagementApi
from services.gateway.api.proxy import ServiceProxy
from services.gateway.ingest import connected_accounts, endpoints
from services.gateway.ingest import executions as executions_store
from services.gateway.ingest.app_webhooks import PREFIX, alias_provider, app_webhook_targets
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.executions import Executions
from services.gateway.ingest.public_keys import PublishedKeys
from services.gateway.ingest.receive import Receiver
from services.gateway.ingest.verify import Verifier
from services.gateway.settings import GatewaySettings
from shared.connections.apps import Apps
from shared.runtime.egress.client import create_egress_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.web import access
from shared.runtime.web.body_limit import BodyLimit

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **endpoints.INDEXES,
    **connected_accounts.INDEXES,
    **executions_store.INDEXES,
    **event_type_registry.INDEXES,
}
_MAX_KEY_FETCHES: Final = 100
"""Connections to platforms that publish their keys."""
_MAX_KEY_FETCHES_PER_WORKSPACE: Final = 5
"""Of those, to hosts that one workspace has named."""


async def build(here: Runtime) -> Service:
    """The gateway of this process."""
    settings = load(GatewaySettings)
    client = create_egress_client(
        settings, max_connections=_MAX_KEY_FETCHES, max_per_workspace=_MAX_KEY_FETCHES_PER_WORKSPACE
    )
    endpoints = InboundEndpoints(
        here.mongo, here.configuration, here.vault, here.log, public_base=here.hub.public_base
    )
    executions = Executions(here.mongo, settings, here.log)
    verifier = Verifier(PublishedKeys(client, here.log))
    apps = Apps(here.mongo, here.configuration, here.vault, here.log)
    accounts = ConnectedAccounts(here.mongo, here.configuration)
    addresses = app_webhook_targets(apps, here.hub.public_base)
    receiver = Receiver(
        settings,
        here.configuration,
        endpoints,
        addresses,
        accounts,
        verifier,
        executions,
        here.producer,
        here.log,
    )
    types = EventTypes(here.mongo, here.configuration, here.log)
    forwarder = ServiceProxy({name: str(url) for name, url in settings.peers.items()})
    management = here.management_app("Interlink gateway", max_body_bytes=MAX_BODY_BYTES)
    ManagementApi(
        endpoints,
        types,
        here.keyring,
        here.mongo.collection(access.COLLECTION),
        here.producer,
        public_base=here.hub.public_base,
        forwarder=forwarder,
        settings=settings,
    ).mount(management)
    EndpointsApi(endpoints, receiver, per_workspace=settings.endpoints_per_workspace).mount(management)
    ExecutionsApi(endpoints, accounts, executions, here.producer, here.kafka).mount(management)
    CatalogueApi(endpoints, apps, here.hub.public_base).mount(management)
    EventTypesApi(types).mount(management)
    return Service(
        app=_dispatch(receiver, management, forwarder),
        parts=[client, endpoints, apps, executions, types, forwarder],
    )


def _dispatch(receiver: Receiver, management: ASGIApp, forwarder: ServiceProxy) -> ASGIApp:
    forward = BodyLimit(forwarder, max_bytes=MAX_BODY_BYTES)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(PREFIX):
                return await receiver(scope, receive, send)
            if forwarder.handles(path):
                return await forward(scope, receive, send)
            if alias_provider(path):
                return await receiver.alias(scope, receive, send)
        return await management(scope, receive, send)

    return app
