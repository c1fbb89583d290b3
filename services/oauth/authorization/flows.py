"""Which flow an account is connected by, and with which app."""

from collections.abc import Mapping
from typing import Final

from shared.connections.apps import App, Apps, app_ref
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.manifests.connector import Connector
from shared.manifests.registry import connectors
from shared.wire.request_template import RequestTemplate

OAUTH_KINDS: Final = ("oauth2", "oauth1")
"""Kinds of integrations that a person connects at the platform."""


def integration_kind(connector: Connector) -> str:
    """Of an integration that is connected by the provider's flow."""
    return "oauth2" if connector.oauth2 is not None else "oauth1"


def oauth_connector(provider: str) -> Connector:
    """A provider whose accounts are connected by OAuth, 2.0 or 1.0a. Raises `Invalid`."""
    connector = connectors().get(provider)
    if connector is None:
        fault = FieldError("provider", "accounts of it cannot be connected")
        raise Invalid("no such provider", errors=(fault,))
    if connector.oauth2 is None and connector.oauth1 is None:
        kinds = ", ".join(connector.entered)
        hint = f"send what was entered to POST /api/integrations (kind: {kinds})" if kinds else "not by OAuth"
        raise Invalid("not by OAuth", errors=(FieldError("provider", hint),))
    return connector


def app_for(apps: Apps, connector: Connector, workspace: str) -> App:
    """The app that a workspace's accounts are connected with.

    Raises `Conflict`: there is none, or it cannot be opened, or it is not verified.
    """
    app = apps.select(connector.app, workspace)
    there = f"/api/platform-credentials/{connector.app}"
    if app is None:
        raise Conflict(
            f"no app is registered for {connector.app}: PUT {there} with client_id and client_secret"
        )
    if not app.readable:
        raise Conflict(
            f"the app of {connector.app} cannot be opened: bring back the encryption key of its secrets, "
            f"or PUT {there} with client_id and client_secret"
        )
    if not app.verified:
        raise Conflict(
            f"the app of {connector.app} is not verified: POST {there}/verify, "
            f"or PUT {there} with verified: true"
        )
    return app


def server_binding(connector: Connector, app: App, values: Mapping[str, str]) -> list[str]:
    """What must not change while a person is at the platform: `app_ref`, and where its code goes.

    A code that was made for one server or one app must not be brought to another one (RFC 9700, 4.4).
    """
    texts: list[str] = []
    if connector.oauth2 is not None:
        texts = [connector.oauth2.token_url, connector.oauth2.callback.issuer]
    elif connector.oauth1 is not None:
        texts = [connector.oauth1.token_url]
    addresses = (RequestTemplate(text).render_or_empty(values) for text in texts)
    return [*app_ref(app), *addresses]
