"""Builds the gateway: the bare webhook path beside the management API, behind one port."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway import event_types, store
from services.gateway.event_types import EventTypes
from services.gateway.event_types_api import EventTypesApi
from services.gateway.forward import Forwarder
from services.gateway.receive import PREFIX, Receiver
from services.gateway.routes import MOST_BODY, ManagementApi
from services.gateway.settings import GatewaySettings
from services.gateway.store import Endpoints
from shared.runtime import access
from shared.runtime.bounds import BoundedBody
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {**store.INDEXES, **event_types.INDEXES}


async def build(here: Runtime) -> Service:
    """The gateway of this process."""
    settings = load(GatewaySettings)
    endpoints = Endpoints(here.mongo, here.vault, here.log)
    types = EventTypes(here.mongo, here.log)
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
    ).mount(management)
    EventTypesApi(types).mount(management)
    receiver = Receiver(settings, endpoints, here.producer, here.log)
    return Service(app=_route(receiver, management, forwarder), parts=[endpoints, types, forwarder])


def _route(receiver: Receiver, management: ASGIApp, forwarder: Forwarder) -> ASGIApp:
    forward = BoundedBody(forwarder, most=MOST_BODY)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(PREFIX):
                return await receiver(scope, receive, send)
            if forwarder.owns(path):
                return await forward(scope, receive, send)
        return await management(scope, receive, send)

    return app
