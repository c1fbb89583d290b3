"""The gateway: the webhook path beside the management API, behind one port."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.api import event_type_records
from services.gateway.api.admins import Admins
from services.gateway.api.api_keys import ApiKeysApi
from services.gateway.api.audit import AuditApi
from services.gateway.api.catalogue import Catalogue, CatalogueApi
from services.gateway.api.documents import DocumentsApi
from services.gateway.api.endpoint_lists import EndpointLists
from services.gateway.api.endpoints import EndpointsApi
from services.gateway.api.event_type_records import EventTypeRepository
from services.gateway.api.event_type_registry import EventTypes, FixedEventTypes
from services.gateway.api.event_types import EventTypesApi
from services.gateway.api.executions import ExecutionsApi
from services.gateway.api.incoming_webhooks import IncomingWebhooksApi
from services.gateway.api.integration_webhooks import IntegrationWebhooksApi
from services.gateway.api.members import MembersApi
from services.gateway.api.polled_events import PATH as POLLED_EVENTS_PATH
from services.gateway.api.polled_events import PolledEventsApi
from services.gateway.api.proxy import ServiceProxy
from services.gateway.api.publish_events import MAX_BODY_BYTES, PublishEventsApi
from services.gateway.api.statistics import StatisticsApi
from services.gateway.api.usage import UsageApi
from services.gateway.api.workspaces import WorkspacesApi
from services.gateway.ingest import endpoint_records, execution_records
from services.gateway.ingest.app_webhooks import PREFIX, AppWebhooks, alias_provider
from services.gateway.ingest.confirmations import Confirmations
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.execution_records import ExecutionRepository
from services.gateway.ingest.executions import Executions
from services.gateway.ingest.polled_events import PolledEvents
from services.gateway.ingest.public_keys import PublishedKeys
from services.gateway.ingest.quotas import WorkspaceQuotas
from services.gateway.ingest.rate_limit import RateLimits
from services.gateway.ingest.receive import Receiver
from services.gateway.ingest.verify import Verifier
from services.gateway.retention import retentions
from services.gateway.settings import GatewaySettings
from services.gateway.workspace_data import GatewayData
from shared.connections.account_routes import AccountRoutes
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.configured_apps import configured_apps
from shared.contracts.routes import CONSOLE, CONSOLE_PATH, is_streamed
from shared.manifests.registry import registry
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.egress.client import create_egress_client
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.web.api_keys import ApiKeys
from shared.runtime.web.body_limit import BodyLimit
from shared.runtime.web.members import Members
from shared.runtime.web.retention import RetentionApi
from shared.runtime.workspaces import Workspaces

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **endpoint_records.INDEXES,
    **execution_records.INDEXES,
    **event_type_records.INDEXES,
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
    known = registry()
    endpoints = EndpointRepository(runtime.mongo, settings)
    limits = RateLimits(runtime.memory)
    inbound = InboundEndpoints(
        endpoints,
        known.providers,
        runtime.configuration,
        runtime.vault,
        log,
        public_base=public_base,
        operator=runtime.hub.operator_workspace,
        limits=limits,
    )
    executions = ExecutionRepository(runtime.mongo)
    counts = HourlyCounts(runtime.mongo, log)
    usage = DailyUsage(runtime.mongo, log)
    quotas = WorkspaceQuotas(settings, usage, runtime.mongo, runtime.configuration, log)
    recorder = Executions(
        executions, endpoints, counts, log, retention_days=settings.executions_days, workers=runtime.workers
    )
    apps = Apps(
        AppRepository(runtime.mongo, runtime.vault, known.connectors, log),
        configured_apps(known),
        runtime.configuration,
    )
    routes = AccountRoutes(runtime.configuration, log)
    accounts = ConnectedAccounts(routes, limits)
    receiver = Receiver(
        settings,
        runtime.configuration,
        inbound,
        AppWebhooks(known, apps, public_base),
        accounts,
        Verifier(PublishedKeys(client, log, limits)),
        Confirmations(client, log, limits),
        recorder,
        runtime.producer,
        quotas,
        log,
        limits=limits,
        memory=runtime.memory,
    )
    event_types = EventTypeRepository(runtime.mongo)
    types = EventTypes(event_types, runtime.configuration, log)
    fixed_types = FixedEventTypes(known.providers)
    publish_events = PublishEventsApi(types, fixed_types, runtime.keyring, quotas, runtime.producer)
    polled_events = PolledEventsApi(PolledEvents(inbound, receiver.publisher, recorder), runtime.keyring)
    catalogue = Catalogue(known, public_base)
    proxy = ServiceProxy({name: str(url) for name, url in settings.peers.items()}, runtime.draining)

    keys = ApiKeys(runtime.mongo)
    members = Members(runtime.mongo)
    admins = Admins(keys, members, issuer=settings.oidc_issuer)
    workspaces = Workspaces(runtime.mongo)
    data = GatewayData(
        keys,
        runtime.keyring,
        endpoints,
        inbound,
        executions,
        routes,
        types,
        runtime.audit_entries,
        counts,
        usage,
    )
    management = runtime.management_app(
        "Interlink gateway",
        [
            IncomingWebhooksApi(endpoints, inbound, runtime.producer, public_base=public_base),
            publish_events,
            polled_events,
            ApiKeysApi(
                runtime.keyring,
                keys,
                admins,
                known.connectors,
                per_workspace=settings.api_keys_per_workspace,
            ),
            MembersApi(
                members,
                keys,
                admins,
                workspaces,
                runtime.keyring,
                per_workspace=settings.members_per_workspace,
            ),
            WorkspacesApi(
                workspaces,
                keys,
                runtime.keyring,
                quotas.snapshot,
                operator=runtime.hub.operator_workspace,
                keys_per_workspace=settings.api_keys_per_workspace,
            ),
            AuditApi(runtime.audit_entries),
            StatisticsApi(counts, endpoints),
            UsageApi(usage, quotas, workspaces, operator=runtime.hub.operator_workspace),
            RetentionApi(runtime.name, "webhooks:read", retentions(settings, runtime.hub)),
            DocumentsApi(proxy),
            EndpointsApi(
                endpoints,
                inbound,
                EndpointLists(endpoints, inbound, runtime.configuration),
                receiver,
                known,
                runtime.producer,
                operator=runtime.hub.operator_workspace,
            ),
            ExecutionsApi(endpoints, routes, executions, runtime.producer, quotas, runtime.kafka),
            CatalogueApi(catalogue, apps),
            IntegrationWebhooksApi(endpoints, inbound, catalogue, known.providers, public_base),
            EventTypesApi(event_types, types, fixed_types),
        ],
        max_body_bytes=MAX_BODY_BYTES,
        # Not audited: events are no configuration, and two writes for each call would cost more than
        # publishing them.
        bare={"/api/events": publish_events.handle, POLLED_EVENTS_PATH: polled_events.handle},
    )
    return Service(
        app=_dispatch(receiver, management, proxy),
        parts=[
            client,
            inbound,
            apps,
            routes,
            counts,
            usage,
            quotas,
            recorder,
            types,
            proxy,
            runtime.workspace_cleanup(data.delete),
        ],
        indexes=INDEXES,
        is_edge=True,
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
                forward = proxy.stream if is_streamed(path) else limited_proxy
                return await forward(scope, receive, send)
            if path == "/" and CONSOLE in proxy.peers:
                return await RedirectResponse(CONSOLE_PATH)(scope, receive, send)
            if alias_provider(path):
                return await receiver.alias(scope, receive, send)
        return await management(scope, receive, send)

    return app
