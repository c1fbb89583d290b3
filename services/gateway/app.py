"""The gateway: the webhook path beside the management API, behind one port."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.api import event_type_registry
from services.gateway.api.api_keys import ApiKeysApi
from services.gateway.api.audit import AuditApi
from services.gateway.api.catalogue import CatalogueApi
from services.gateway.api.documents import DocumentsApi
from services.gateway.api.endpoints import EndpointsApi
from services.gateway.api.event_type_registry import EventTypes
from services.gateway.api.event_types import EventTypesApi
from services.gateway.api.executions import ExecutionsApi
from services.gateway.api.incoming_webhooks import IncomingWebhooksApi
from services.gateway.api.integration_webhooks import IntegrationWebhooksApi
from services.gateway.api.proxy import ServiceProxy
from services.gateway.api.publish_events import MAX_BODY_BYTES, PublishEventsApi
from services.gateway.ingest import connected_accounts, endpoints, executions
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
from shared.runtime.web.api_keys import ApiKeys
from shared.runtime.web.body_limit import BodyLimit

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **endpoints.INDEXES,
    **connected_accounts.INDEXES,
    **executions.INDEXES,
    **event_type_registry.INDEXES,
}
_MAX_KEY_FETCHES: Final = 100
"""Concurrent connections to hosts that publish public keys."""
_MAX_KEY_FETCHES_PER_WORKSPACE: Final = 5
"""Of these, connections to hosts that one workspace named."""


async def build(runtime: Runtime) -> Service:
    """Build the gateway of this process from its settings."""
    settings = load(GatewaySettings)
    client = create_egress_client(
        settings, max_connections=_MAX_KEY_FETCHES, max_per_workspace=_MAX_KEY_FETCHES_PER_WORKSPACE
    )
    public_base, log = runtime.hub.public_base, runtime.log
    inbound = InboundEndpoints(
        runtime.mongo, runtime.configuration, runtime.vault, log, public_base=public_base
    )
    recorder = Executions(runtime.mongo, settings, log)
    apps = Apps(runtime.mongo, runtime.configuration, runtime.vault, log)
    accounts = ConnectedAccounts(runtime.mongo, runtime.configuration)
    receiver = Receiver(
        settings,
        runtime.configuration,
        inbound,
        app_webhook_targets(apps, public_base),
        accounts,
        Verifier(PublishedKeys(client, log)),
        recorder,
        runtime.producer,
        log,
    )
    types = EventTypes(runtime.mongo, runtime.configuration, log)
    proxy = ServiceProxy({name: str(url) for name, url in settings.peers.items()})

    management = runtime.management_app(
        "Interlink gateway",
        [
            IncomingWebhooksApi(
                inbound, public_base=public_base, per_workspace=settings.incoming_webhooks_per_workspace
            ),
            PublishEventsApi(types, runtime.producer),
            ApiKeysApi(
                runtime.keyring, ApiKeys(runtime.mongo), per_workspace=settings.api_keys_per_workspace
            ),
            AuditApi(runtime.audit_entries),
            DocumentsApi(proxy),
            EndpointsApi(inbound, receiver, per_workspace=settings.endpoints_per_workspace),
            ExecutionsApi(inbound, accounts, recorder, runtime.producer, runtime.kafka),
            CatalogueApi(apps, public_base),
            IntegrationWebhooksApi(inbound, public_base),
            EventTypesApi(types),
        ],
        max_body_bytes=MAX_BODY_BYTES,
        # Events are no configuration, and two writes for each call would cost more than publishing them.
        unaudited=["/api/events"],
    )
    return Service(
        app=_dispatch(receiver, management, proxy),
        parts=[client, inbound, apps, recorder, types, proxy],
    )


def _dispatch(receiver: Receiver, management: ASGIApp, proxy: ServiceProxy) -> ASGIApp:
    """Return the app that gives each path to the webhook path, another service, or the management API."""
    limited_proxy = BodyLimit(proxy, max_bytes=MAX_BODY_BYTES)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(PREFIX):
                return await receiver(scope, receive, send)
            if proxy.handles(path):
                return await limited_proxy(scope, receive, send)
            if alias_provider(path):
                return await receiver.alias(scope, receive, send)
        return await management(scope, receive, send)

    return app
