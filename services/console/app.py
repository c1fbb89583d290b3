"""The console: the pages where people see and control the hub."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.console import saved_views as view_store
from services.console.embedding import records as embedded_store
from services.console.embedding.api import EmbeddedSessionsApi
from services.console.embedding.frame import EmbeddedFrame, Logo
from services.console.embedding.records import EmbeddedSessions
from services.console.embedding.site import PATHS, EmbeddedSite
from services.console.embedding.texts import Catalogues
from services.console.embedding.visits import EmbeddedVisits
from services.console.hub_api import HubApi
from services.console.live.event_feed import EventFeed
from services.console.live.streams import Streams
from services.console.openid.configuration import openid_configuration
from services.console.openid.provider import IdentityProvider
from services.console.openid.sign_in import OpenIdSignIn
from services.console.saved_views import SavedViews
from services.console.sessions import failures as failure_store
from services.console.sessions import records as session_store
from services.console.sessions import used_states
from services.console.sessions.failures import Failures
from services.console.sessions.records import Sessions
from services.console.sessions.sign_in import SignIn
from services.console.sessions.used_states import UsedStates
from services.console.settings import ConsoleSettings
from services.console.web.site import Site
from services.console.web.static_files import StaticFiles
from shared.contracts.routes import is_console
from shared.runtime.egress.client import create_egress_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, Sequence[Index]]] = {
    **session_store.INDEXES,
    **failure_store.INDEXES,
    **view_store.INDEXES,
    **embedded_store.INDEXES,
    **used_states.INDEXES,
}
_MAX_IDENTITY_CALLS: Final = 20
"""Connections to the identity provider at a time."""
_STATIC: Final = Path(__file__).parent / "static"


async def build(runtime: Runtime) -> Service:
    """Build the console of this process. Raises `Misconfigured`."""
    settings = load(ConsoleSettings)
    sessions = Sessions(
        runtime.mongo,
        idle=timedelta(hours=settings.console_idle_hours),
        max_age=timedelta(days=settings.console_session_days),
    )
    peers = {name: str(url) for name, url in settings.peers.items()}
    hub = HubApi(runtime.vault, str(settings.gateway_url), peers)
    failures = Failures(runtime.mongo)
    configuration = openid_configuration(settings, runtime.hub.public_base)
    issuer = configuration.issuer if configuration else ""
    sign_in = SignIn(failures, runtime.keyring, sessions, issuer=issuer)
    client = create_egress_client(settings, max_connections=_MAX_IDENTITY_CALLS)
    openid = (
        None
        if configuration is None
        else OpenIdSignIn(
            IdentityProvider(configuration, client, runtime.log),
            runtime.vault,
            hub,
            failures,
            UsedStates(runtime.mongo),
            sessions,
            runtime.log,
        )
    )
    views = SavedViews(runtime.mongo)
    feed = EventFeed(runtime.kafka, runtime.log, instance=runtime.instance)
    streams = Streams(sign_in, runtime.draining)
    files = StaticFiles(_STATIC)
    site = Site(
        hub, sessions, sign_in, views, openid, files, runtime.hub.public_base, runtime.log, feed, streams
    )

    # For chats that embed the hub
    embedded_sessions = EmbeddedSessions(
        runtime.mongo, per_workspace=settings.embedded_sessions_per_workspace
    )
    catalogues = Catalogues()
    logo = Logo(settings.chat_logo) if settings.chat_logo else None
    embedded = EmbeddedSite(
        hub,
        embedded_sessions,
        EmbeddedVisits(embedded_sessions, runtime.keyring, runtime.hub.public_base),
        EmbeddedFrame(files, catalogues, settings.chat_name, logo),
        files,
        logo,
        runtime.log,
    )
    api = EmbeddedSessionsApi(
        embedded_sessions,
        hub,
        catalogues,
        public_base=runtime.hub.public_base,
        return_origins=settings.origins,
    )
    management = runtime.management_app("Interlink console", [api])
    return Service(
        app=_dispatch(site.app(), embedded.app(), management),
        parts=[
            hub,
            client,
            feed,
            runtime.workspace_cleanup(sessions.delete_all, views.delete_all, embedded_sessions.delete_all),
        ],
        indexes=INDEXES,
        is_edge=True,
        # Pages leave cycles behind, which would take some 70 MB before the usual thresholds.
        gc_thresholds=(5_000, 5, 3),
    )


def _dispatch(site: ASGIApp, embedded: ASGIApp, management: ASGIApp) -> ASGIApp:
    """Return the app that gives pages to the sites, and every other path to the management API."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        owner = embedded if path.startswith(PATHS) else site if is_console(path) else management
        await owner(scope, receive, send)

    return app
