"""Builds the oauth service: connecting accounts, their tokens, and the apps they are connected with."""

from collections.abc import Mapping
from typing import Final

from services.oauth.api.apps import AppsApi
from services.oauth.api.authorization import AuthorizationApi
from services.oauth.api.integrations import IntegrationsApi
from services.oauth.api.pages import Pages
from services.oauth.api.subscriptions import SubscriptionsApi
from services.oauth.authorization import state
from services.oauth.authorization.account_selection import AccountSelection
from services.oauth.authorization.callback import CallbackHandler
from services.oauth.authorization.disconnect import Disconnector
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.authorization.start import AuthorizationStarter
from services.oauth.authorization.state import States
from services.oauth.credentials.mail_login import MailLoginChecker
from services.oauth.credentials.maintenance import Maintenance
from services.oauth.credentials.manual import ManualCredentials
from services.oauth.settings import OAuthSettings
from services.oauth.subscriptions import lifecycle
from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections import apps, integrations
from shared.connections.apps import Apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import connectors
from shared.runtime.egress.certificates import read_ca_file
from shared.runtime.egress.client import create_egress_client
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.http_client import ApiClient
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **state.INDEXES,
    **lifecycle.INDEXES,
    **integrations.INDEXES,
    **apps.INDEXES,
}
_GATEWAY_TIMEOUT_S: Final = 15.0
_MAX_CONNECTIONS: Final = 200
_MAX_PER_HOST_OR_WORKSPACE: Final = 50
"""Calls to one host, and calls of one workspace. A platform, or somebody's own servers, that do not answer
must not hold up the tokens of the others."""


async def build(here: Runtime) -> Service:
    """The oauth service of this process."""
    settings = load(OAuthSettings)
    connectors()  # a manifest that cannot be read is said now, not when somebody connects
    base = here.hub.public_base
    redirect_uri = base + CALLBACK_PATH
    client = create_egress_client(
        settings,
        max_connections=_MAX_CONNECTIONS,
        max_per_host=_MAX_PER_HOST_OR_WORKSPACE,
        max_per_workspace=_MAX_PER_HOST_OR_WORKSPACE,
    )
    known = IntegrationRepository(here.mongo, here.vault, here.producer, here.log)
    registered = Apps(here.mongo, here.configuration, here.vault, here.log)
    tokens = TokenSource(known, registered, here.configuration, client, here.log, redirect_uri=redirect_uri)
    endpoints = GatewayEndpoints(
        ApiClient(timeout_s=_GATEWAY_TIMEOUT_S), here.vault, url=str(settings.gateway_url)
    )
    watching = SubscriptionLifecycle(
        here.mongo, here.vault, known, tokens, endpoints, here.log, interval_s=settings.upkeep_every_s
    )
    dances = States(here.mongo, here.vault)
    connecting = AuthorizationStarter(
        dances,
        known,
        registered,
        tokens,
        redirect_uri=redirect_uri,
        public_base=base,
        origins=settings.origins,
    )
    revoking = GrantRevoker(known, tokens, here.log)
    arriving = CallbackHandler(dances, known, registered, tokens, watching, revoking, here.log)
    mail = MailLoginChecker(
        settings.allow_private_networks,
        settings.ports,
        authorities=read_ca_file(settings.egress_ca_file) if settings.egress_ca_file else None,
        proxy=settings.egress_proxy,
        names=DnsResolver(settings.name_servers),
    )
    management = here.management_app("Interlink accounts")
    pages = Pages(settings.chat_name, settings.chat_url)
    AuthorizationApi(connecting, arriving, dances, known, pages, here.log, public_base=base).mount(management)
    disconnecting = Disconnector(known, tokens, watching, revoking, here.log)
    choosing = AccountSelection(known, tokens, dances, watching)
    entering = ManualCredentials(known, tokens, mail, watching, here.log)
    IntegrationsApi(known, tokens, entering, choosing, disconnecting).mount(management)
    AppsApi(
        registered,
        known,
        tokens.app_checker,
        redirect_uri=redirect_uri,
        operator_workspace=settings.operator_workspace,
    ).mount(management)
    SubscriptionsApi(known, watching).mount(management)
    upkeep = Maintenance(known, tokens, disconnecting, here.log, interval_s=settings.upkeep_every_s)
    return Service(app=management, parts=[client, endpoints, registered, tokens, upkeep, watching])
