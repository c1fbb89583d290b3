"""Builds the oauth service: connecting accounts, their tokens, and the apps they are connected with."""

from collections.abc import Mapping
from typing import Final

from services.oauth import states, watch
from services.oauth.arrive import Arriving
from services.oauth.choose import Choosing
from services.oauth.connect import Connecting
from services.oauth.connect_api import ConnectApi
from services.oauth.disconnect import Disconnecting
from services.oauth.endpoints import Endpoints
from services.oauth.enter import Entering
from services.oauth.integrations_api import IntegrationsApi
from services.oauth.mail import MailLogins
from services.oauth.pages import Pages
from services.oauth.platform_api import PlatformApi
from services.oauth.revoke import Revoking
from services.oauth.settings import OAuthSettings
from services.oauth.states import States
from services.oauth.upkeep import Upkeep
from services.oauth.watch import Watching
from services.oauth.watches_api import WatchesApi
from shared.catalog.listing import CALLBACK
from shared.catalog.registry import connectors
from shared.runtime import apps, integrations
from shared.runtime.apps import Apps
from shared.runtime.certificates import authorities
from shared.runtime.guarded import guarded_client
from shared.runtime.http import ApiClient
from shared.runtime.integrations import Integrations
from shared.runtime.mongo import Index
from shared.runtime.names import Names
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.tokens import TokenSource

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **states.INDEXES,
    **watch.INDEXES,
    **integrations.INDEXES,
    **apps.INDEXES,
}
_GATEWAY_S: Final = 15.0
_MOST_CALLS: Final = 200
_MOST_FOR_ONE: Final = 50
"""Calls to one host, and calls of one workspace. A platform, or somebody's own servers, that do not answer
must not hold up the tokens of the others."""


async def build(here: Runtime) -> Service:
    """The oauth service of this process."""
    settings = load(OAuthSettings)
    connectors()  # a manifest that cannot be read is said now, not when somebody connects
    base = here.hub.public_base
    redirect_uri = base + CALLBACK
    client = guarded_client(
        settings,
        most_connections=_MOST_CALLS,
        most_for_one=_MOST_FOR_ONE,
        most_for_workspace=_MOST_FOR_ONE,
    )
    known = Integrations(here.mongo, here.vault, here.producer, here.log)
    registered = Apps(here.mongo, here.configuration, here.vault, here.log)
    tokens = TokenSource(known, registered, here.configuration, client, here.log, redirect_uri=redirect_uri)
    endpoints = Endpoints(ApiClient(timeout_s=_GATEWAY_S), here.vault, url=str(settings.gateway_url))
    watching = Watching(
        here.mongo, here.vault, known, tokens, endpoints, here.log, every_s=settings.upkeep_every_s
    )
    dances = States(here.mongo, here.vault)
    connecting = Connecting(
        dances,
        known,
        registered,
        tokens,
        redirect_uri=redirect_uri,
        public_base=base,
        origins=settings.origins,
    )
    revoking = Revoking(known, tokens, here.log)
    arriving = Arriving(dances, known, registered, tokens, watching, revoking, here.log)
    mail = MailLogins(
        settings.allow_private_networks,
        settings.ports,
        authorities=authorities(settings.egress_ca_file) if settings.egress_ca_file else None,
        proxy=settings.egress_proxy,
        names=Names(settings.name_servers),
    )
    management = here.management_app("Interlink accounts")
    pages = Pages(settings.chat_name, settings.chat_url)
    ConnectApi(connecting, arriving, dances, known, pages, here.log, public_base=base).mount(management)
    disconnecting = Disconnecting(known, tokens, watching, revoking, here.log)
    choosing = Choosing(known, tokens, dances, watching)
    entering = Entering(known, tokens, mail, watching, here.log)
    IntegrationsApi(known, tokens, entering, choosing, disconnecting).mount(management)
    PlatformApi(
        registered,
        known,
        tokens.trial,
        redirect_uri=redirect_uri,
        operator_workspace=settings.operator_workspace,
    ).mount(management)
    WatchesApi(known, watching).mount(management)
    upkeep = Upkeep(known, tokens, disconnecting, here.log, every_s=settings.upkeep_every_s)
    return Service(app=management, parts=[client, endpoints, registered, tokens, upkeep, watching])
