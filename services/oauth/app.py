"""Build the oauth service: connected accounts, their tokens, OAuth apps and provider subscriptions."""

from collections.abc import Mapping
from typing import Final

from services.oauth.api.account_calls import AccountCalls, AccountCallsApi, audited, dispatch
from services.oauth.api.account_tokens import AccountTokensApi
from services.oauth.api.apps import AppsApi
from services.oauth.api.authorization import AuthorizationApi
from services.oauth.api.cookies import StateCookies
from services.oauth.api.integrations import IntegrationsApi
from services.oauth.api.pages import Pages
from services.oauth.api.polling_triggers import PollingTriggersApi
from services.oauth.api.subscriptions import SubscriptionsApi
from services.oauth.api.tickets import TicketsApi
from services.oauth.authorization import state, unconfirmed_grants
from services.oauth.authorization.account_identity import AccountMatcher
from services.oauth.authorization.account_selection import AccountSelection
from services.oauth.authorization.callback import CallbackHandler
from services.oauth.authorization.confirmation import GrantConfirmer
from services.oauth.authorization.disconnect import Disconnector
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.authorization.start import AuthorizationStarter
from services.oauth.authorization.state import States
from services.oauth.authorization.store_connection import ConnectionWriter
from services.oauth.authorization.unconfirmed_grants import UnconfirmedGrants
from services.oauth.calls.forward import CallForwarder
from services.oauth.credentials.mail_login import MailLoginChecker
from services.oauth.credentials.maintenance import Maintenance
from services.oauth.credentials.manual import ManualCredentials
from services.oauth.credentials.token_import import TokenImporter
from services.oauth.polling import records as polling_records
from services.oauth.polling.budget import PollBudget
from services.oauth.polling.poller import Poller
from services.oauth.polling.polling_types import PollingTypes
from services.oauth.polling.records import PollingTriggerRepository
from services.oauth.polling.requests import PollRequests
from services.oauth.settings import OAuthSettings
from services.oauth.subscriptions import records
from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from services.oauth.subscriptions.provider_calls import ProviderCalls
from services.oauth.subscriptions.records import SubscriptionRepository
from services.oauth.subscriptions.renewal import SubscriptionRenewal
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from services.oauth.workspace_data import OAuthData
from shared.connections import app_records, integrations
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.configured_apps import configured_apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import registry
from shared.runtime.egress.certificates import read_ca_file
from shared.runtime.egress.client import create_egress_client
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.http_client import ApiClient
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.web.audit import Audit, audited_routes

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **state.INDEXES,
    **unconfirmed_grants.INDEXES,
    **records.INDEXES,
    **polling_records.INDEXES,
    **integrations.INDEXES,
    **app_records.INDEXES,
}
_GATEWAY_TIMEOUT_S: Final = 15.0
_MAX_CONNECTIONS: Final = 200
_MAX_PER_HOST_OR_WORKSPACE: Final = 50
"""Calls to one host, and calls of one workspace. A provider or a customer's server that does not answer must
not block the tokens of the others."""
_MAX_CALL_CONNECTIONS: Final = 500
"""Connections of calls with accounts. They are others than those of tokens, for the same reason."""


async def build(runtime: Runtime) -> Service:
    """Build the oauth service of this process. Raises `Misconfigured` if a setting is wrong."""
    settings = load(OAuthSettings)
    known = registry()
    connectors = known.connectors
    public_base = runtime.hub.public_base
    redirect_uri = public_base + CALLBACK_PATH
    client = create_egress_client(
        settings,
        max_connections=_MAX_CONNECTIONS,
        max_per_host=_MAX_PER_HOST_OR_WORKSPACE,
        max_per_workspace=_MAX_PER_HOST_OR_WORKSPACE,
    )
    call_client = create_egress_client(settings, max_connections=_MAX_CALL_CONNECTIONS)
    integrations_repository = IntegrationRepository(
        runtime.mongo, runtime.vault, runtime.producer, runtime.log
    )
    app_repository = AppRepository(runtime.mongo, runtime.vault, connectors, runtime.log)
    registered_apps = Apps(app_repository, configured_apps(known), runtime.configuration)
    tokens = TokenSource(
        integrations_repository,
        registered_apps,
        connectors,
        runtime.configuration,
        client,
        runtime.log,
        redirect_uri=redirect_uri,
    )

    # Provider subscriptions
    endpoints = GatewayEndpoints(
        ApiClient(timeout_s=_GATEWAY_TIMEOUT_S), runtime.vault, url=str(settings.gateway_url)
    )
    subscription_types = SubscriptionTypes(known)
    subscription_repository = SubscriptionRepository(runtime.mongo, runtime.vault)
    provider_calls = ProviderCalls(
        subscription_repository, subscription_types, connectors, tokens, endpoints, runtime.log
    )
    subscriptions = SubscriptionLifecycle(
        subscription_repository,
        subscription_types,
        integrations_repository,
        provider_calls,
        tokens,
        endpoints,
        runtime.log,
    )
    renewal = SubscriptionRenewal(
        subscription_repository,
        subscription_types,
        app_repository,
        subscriptions,
        provider_calls,
        runtime.log,
        interval_s=settings.upkeep_every_s,
    )

    # Polling triggers
    polling_types = PollingTypes(known)
    polling_triggers = PollingTriggerRepository(
        runtime.mongo, per_workspace=settings.polling_triggers_per_workspace
    )
    poll_budget = PollBudget()
    counts = HourlyCounts(runtime.mongo, runtime.log)
    poller = Poller(
        polling_triggers,
        polling_types,
        integrations_repository,
        connectors,
        PollRequests(tokens, connectors, client, poll_budget),
        endpoints,
        poll_budget,
        counts,
        runtime.log,
        search_interval_s=settings.upkeep_every_s,
    )

    # Authorizations
    accounts = AccountMatcher(integrations_repository, connectors, tokens)
    states = States(runtime.mongo, runtime.vault)
    starter = AuthorizationStarter(
        states,
        integrations_repository,
        connectors,
        registered_apps,
        tokens,
        redirect_uri=redirect_uri,
        public_base=public_base,
        origins=settings.origins,
    )
    revoker = GrantRevoker(integrations_repository, connectors, tokens, runtime.log)
    writer = ConnectionWriter(integrations_repository, accounts, tokens, subscriptions, revoker)
    unconfirmed = UnconfirmedGrants(runtime.mongo, runtime.vault)
    callback_handler = CallbackHandler(
        states, integrations_repository, connectors, registered_apps, tokens, writer, unconfirmed, runtime.log
    )
    confirmer = GrantConfirmer(
        unconfirmed,
        states,
        integrations_repository,
        connectors,
        registered_apps,
        tokens,
        writer,
        revoker,
        runtime.log,
        interval_s=settings.upkeep_every_s,
    )
    account_selection = AccountSelection(integrations_repository, accounts, tokens, states, subscriptions)
    disconnector = Disconnector(
        integrations_repository, connectors, tokens, subscriptions, revoker, runtime.log
    )

    # Credentials
    mail_logins = MailLoginChecker(
        settings.allow_private_networks,
        settings.ports,
        authorities=read_ca_file(settings.egress_ca_file) if settings.egress_ca_file else None,
        proxy=settings.egress_proxy,
        resolver=DnsResolver(settings.name_servers),
    )
    manual_credentials = ManualCredentials(
        integrations_repository, connectors, tokens, mail_logins, subscriptions, runtime.log
    )
    token_importer = TokenImporter(
        states,
        integrations_repository,
        connectors,
        registered_apps,
        tokens,
        writer,
        redirect_uri=redirect_uri,
        operator_workspace=runtime.hub.operator_workspace,
    )
    maintenance = Maintenance(
        integrations_repository,
        connectors,
        tokens,
        disconnector,
        runtime.log,
        interval_s=settings.upkeep_every_s,
    )

    # Routes
    pages = Pages(settings.chat_name, settings.chat_url)
    cookies = StateCookies(public_base)
    management = runtime.management_app(
        "Interlink accounts",
        [
            AuthorizationApi(
                starter,
                callback_handler,
                states,
                integrations_repository,
                connectors,
                pages,
                cookies,
                runtime.log,
                public_base=public_base,
            ),
            TicketsApi(states, confirmer, known, connectors, pages, cookies),
            IntegrationsApi(
                integrations_repository,
                connectors,
                tokens,
                manual_credentials,
                token_importer,
                account_selection,
                disconnector,
            ),
            AppsApi(
                registered_apps,
                connectors,
                integrations_repository,
                tokens.app_checker,
                states,
                redirect_uri=redirect_uri,
                operator_workspace=runtime.hub.operator_workspace,
            ),
            SubscriptionsApi(
                integrations_repository, subscription_repository, subscription_types, subscriptions
            ),
            AccountTokensApi(integrations_repository, tokens),
            AccountCallsApi(),
            PollingTriggersApi(polling_triggers, polling_types, integrations_repository, connectors),
        ],
    )
    calls = Audit(
        AccountCalls(
            CallForwarder(tokens, call_client, counts, public_base=public_base),
            integrations_repository,
            runtime.keyring,
            runtime.log,
        ),
        routes=audited(audited_routes(management.routes, ())),
        entries=runtime.audit_entries,
        keyring=runtime.keyring,
        service=runtime.name,
        log=runtime.log,
    )
    return Service(
        app=dispatch(calls, management),
        parts=[
            client,
            call_client,
            endpoints,
            registered_apps,
            tokens,
            counts,
            maintenance,
            renewal.worker,
            confirmer.worker,
            poller.worker,
            runtime.workspace_cleanup(
                OAuthData(
                    integrations_repository, disconnector, confirmer, registered_apps, polling_triggers
                ).delete
            ),
        ],
        indexes=INDEXES,
    )
