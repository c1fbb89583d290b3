"""Builds the gateway: the bare webhook path beside the management API, behind one port."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway import connected, event_types, store
from services.gateway import executions as executions_store
from services.gateway.catalog_api import CatalogApi
from services.gateway.connected import Accounts
from services.gateway.endpoints_api import EndpointsApi
from services.gateway.event_types import EventTypes
from services.gateway.event_types_api import EventTypesApi
from services.gateway.executions import Executions
from services.gateway.executions_api import ExecutionsApi
from services.gateway.forward import Forwarder
from services.gateway.keys import RemoteKeys
from services.gateway.receive import Receiver
from services.gateway.registered import PREFIX, aliased, app_addresses
from services.gateway.routes import MOST_BODY, ManagementApi
from services.gateway.settings import GatewaySettings
from services.gateway.store import Endpoints
from services.gateway.verify import Verifier
from shared.runtime import access
from shared.runtime.apps import Apps
from shared.runtime.bounds import BoundedBody
from shared.runtime.guarded import guarded_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **store.INDEXES,
    **connected.INDEXES,
    **executions_store.INDEXES,
    **event_types.INDEXES,
}
_MOST_KEY_FETCHES: Final = 100
"""Connections to platforms that publish their keys."""
_MOST_FOR_WORKSPACE: Final = 5
"""Of those, to hosts that one workspace has named."""


async def build(here: Runtime) -> Service:
    """The gateway of this process."""
    settings = load(GatewaySettings)
    client = guarded_client(
        settings, most_connections=_MOST_KEY_FETCHES, most_for_workspace=_MOST_FOR_WORKSPACE
    )
    endpoints = Endpoints(
        here.mongo, here.configuration, here.vault, here.log, public_base=here.hub.public_base
    )
    executions = Executions(here.mongo, settings, here.log)
    verifier = Verifier(RemoteKeys(client, here.log))
    apps = Apps(here.mongo, here.configuration, here.vault, here.log)
    accounts = Accounts(here.mongo, here.configuration)
    addresses = app_addresses(apps, here.hub.public_base)
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
    forwarder = Forwarder({name: str(url) for name, url in settings.peers.items()})
    management = here.management_app("Interlink gateway", most_body=MOST_BODY)
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
    CatalogApi(endpoints, apps, here.hub.public_base).mount(management)
    EventTypesApi(types).mount(management)
    return Service(
        app=_route(receiver, management, forwarder),
        parts=[client, endpoints, apps, executions, types, forwarder],
    )


def _route(receiver: Receiver, management: ASGIApp, forwarder: Forwarder) -> ASGIApp:
    forward = BoundedBody(forwarder, most=MOST_BODY)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(PREFIX):
                return await receiver(scope, receive, send)
            if forwarder.owns(path):
                return await forward(scope, receive, send)
            if aliased(path):
                return await receiver.alias(scope, receive, send)
        return await management(scope, receive, send)

    return app
