"""Select the OAuth flow and the app that an account is connected with."""

from collections.abc import Mapping
from typing import Final

from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.state_record import PendingAuthorization
from shared.connections.apps import Apps
from shared.connections.credentials import template_values
from shared.connections.integration_record import Integration
from shared.connections.provider_app import DEFAULT_APP, App, app_ref
from shared.contracts.errors import Conflict, FieldError, Invalid, Rejected
from shared.manifests.connector import Connector
from shared.wire.request_template import RequestTemplate

OAUTH_KINDS: Final = ("oauth2", "oauth1")
"""Kinds of integrations that are connected by OAuth."""


def integration_kind(connector: Connector) -> str:
    """Return the kind of the integrations that a provider's OAuth flow creates."""
    return "oauth2" if connector.oauth2 is not None else "oauth1"


def oauth_connector(connectors: Mapping[str, Connector], provider: str) -> Connector:
    """Return the connector of a provider whose accounts are connected by OAuth 2.0 or 1.0a.

    Raises `Invalid` if there is no such provider, or if its accounts are not connected by OAuth.
    """
    connector = connectors.get(provider)
    if connector is None:
        field_error = FieldError("provider", "accounts of this provider cannot be connected")
        raise Invalid("no such provider", errors=(field_error,))
    if connector.oauth2 is None and connector.oauth1 is None:
        kinds = ", ".join(connector.manual_credentials)
        hint = f"send the credentials to POST /api/integrations (kind: {kinds})" if kinds else "not by OAuth"
        raise Invalid(
            "accounts of this provider are not connected by OAuth", errors=(FieldError("provider", hint),)
        )
    return connector


def app_for(apps: Apps, connector: Connector, workspace: str, name: str | None) -> App:
    """Return the OAuth app that accounts of a workspace are connected with: the default one, or by its name.

    Raises `Conflict` if there is none, its secrets cannot be decrypted, or it is not verified.
    """
    app = apps.select(connector.app, workspace, name or DEFAULT_APP)
    app_path = f"/api/platform-credentials/{connector.app}"
    if app is None and name:
        raise Conflict(
            f"no app {name} is registered for {connector.app}: PUT {app_path} with app, client_id and "
            "client_secret"
        )
    if app is None:
        raise Conflict(
            f"no app is registered for {connector.app}: PUT {app_path} with client_id and client_secret"
        )
    query = f"?app={name}" if name else ""
    if not app.readable:
        raise Conflict(
            f"the secrets of the app of {connector.app} cannot be decrypted: restore their encryption key, "
            f"or PUT {app_path} with client_id and client_secret"
        )
    if not app.verified:
        raise Conflict(
            f"the app of {connector.app} is not verified: POST {app_path}/verify{query}, "
            f"or PUT {app_path} with verified: true"
        )
    return app


def authorized_connector(
    connectors: Mapping[str, Connector], apps: Apps, pending: PendingAuthorization, integration: Integration
) -> tuple[Connector, dict[str, str]]:
    """Return the connector of an authorization, and the template values for the provider's requests.

    Raises `AuthorizationFailed` if app, provider or server are not those that the authorization was started
    with: a code or token must not be sent to a server that did not issue it.
    """
    try:
        connector = oauth_connector(connectors, pending.provider)
        app = app_for(apps, connector, integration.workspace, pending.app_name)
    except Rejected as error:
        raise AuthorizationFailed(
            "app_gone", f"the app of {pending.provider} cannot be used here any more", log_detail=error.detail
        ) from error
    values = template_values(
        connector, app, pending.redirect_uri, params=pending.params, account=integration.account
    )
    if server_binding(connector, app, values) != pending.server:
        raise AuthorizationFailed("app_changed", f"the app of {pending.provider} was changed: start again")
    return connector, values


def server_binding(connector: Connector, app: App, values: Mapping[str, str]) -> tuple[str, ...]:
    """Return what must be the same at the start and at the callback: `app_ref`, token URL and issuer.

    A code that was issued for one server or app must not be sent to another one (RFC 9700, 4.4).
    """
    texts: list[str] = []
    if connector.oauth2 is not None:
        texts = [connector.oauth2.token_url, connector.oauth2.callback.issuer]
    elif connector.oauth1 is not None:
        texts = [connector.oauth1.token_url]
    addresses = (RequestTemplate(text).render_or_empty(values) for text in texts)
    return (*app_ref(app), *addresses)
