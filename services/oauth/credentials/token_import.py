"""Connect accounts by OAuth tokens that were issued before, to the same app, outside of the hub.

The provider is asked which account they belong to before they count. It is not asked which app they were
issued to, as most providers do not say. With a token of another app, somebody could claim the account of a
person who uses that app, and receive what the provider sends for it to the installation's app. So the tokens
have to be of the workspace's own app, whose webhooks it could forge in any case; only the operator imports
tokens of the installation's app.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.fetch_account import fetch_account
from services.oauth.authorization.flows import app_for, oauth_connector, server_binding
from services.oauth.authorization.start import (
    AuthorizationRequest,
    pending_authorization,
    unfinished_integration,
)
from services.oauth.authorization.state import States
from services.oauth.authorization.store_connection import ConnectionWriter
from shared.connections.apps import Apps
from shared.connections.credentials import template_values
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.token_response import TokenResponse, Tokens
from shared.runtime.clock import utcnow
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_ACCESS_TOKEN: Final = "tokens.access_token"  # noqa: S105 -- the name of a field


@dataclass(frozen=True, slots=True)
class ImportedTokens:
    """Tokens as they are at the moment. `expires_at` is the access token's; None: it is not known."""

    access_token: str
    refresh_token: str = ""
    expires_at: datetime | None = None


class TokenImporter:
    """Imports tokens. `operator_workspace` is the one that may import tokens of the installation's apps."""

    def __init__(
        self,
        states: States,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        apps: Apps,
        tokens: TokenSource,
        writer: ConnectionWriter,
        *,
        redirect_uri: str,
        operator_workspace: str,
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._connectors = connectors
        self._apps = apps
        self._tokens = tokens
        self._writer = writer
        self._redirect_uri = redirect_uri
        self._operator_workspace = operator_workspace

    async def add(self, request: AuthorizationRequest, imported: ImportedTokens) -> Integration:
        """Connect the account of the tokens. Return its integration: the existing one, or a new one.

        The scopes of `request` are those that the tokens have. Tokens that are not stored are left as they
        are: they may be in use elsewhere.

        Raises `Invalid` if the provider rejects the access token, or if its tokens cannot be imported;
        `Conflict` if there is no app for them or the account cannot be connected; `ProviderUnavailable`,
        `DatabaseUnavailable`.
        """
        connector = _importable(oauth_connector(self._connectors, request.provider))
        params = validate_fields(connector.params, request.params or {}, place="params")
        app = app_for(self._apps, connector, request.workspace, request.app_name)
        if request.workspace not in (app.workspace, self._operator_workspace):
            raise Conflict(
                "tokens can be imported for an app of the workspace only: "
                f"PUT /api/platform-credentials/{connector.app} with the app that they were issued to"
            )
        values = template_values(connector, app, self._redirect_uri, params=params, account=None)
        imported_at, granted = utcnow(), _token_response(request, imported)
        account, resources = await self._identify(connector, request.workspace, values, granted)
        integration = unfinished_integration(connector, request, params)
        pending = pending_authorization(
            request,
            integration,
            server_binding(connector, app, values),
            params=params,
            scopes=request.scopes or connector.scopes,
            redirect_uri=self._redirect_uri,
        )
        await self._integrations.add(integration)
        try:
            async with self._states.lock(request.workspace, request.provider, account.id):
                return await self._writer.store(
                    pending, integration, connector, granted, account, resources, granted_at=imported_at
                )
        except AuthorizationFailed as error:
            await self._integrations.delete(integration)
            field = "takeover" if error.code == "account_in_use" else "tokens"
            raise Conflict(error.detail, errors=(FieldError(field, error.code),)) from error

    async def _identify(
        self, connector: Connector, workspace: str, values: Mapping[str, str], granted: TokenResponse
    ) -> tuple[AccountIdentity, list[AccountResource]]:
        """Return the account of the tokens, and its resources. Raises `Invalid`, `ProviderUnavailable`."""
        try:
            return await fetch_account(self._tokens, workspace, connector, values, granted, {})
        except (ProviderRejected, MissingValue) as error:
            secrets = [values.get("client_secret", "")]
            if granted.tokens is not None:
                secrets += [granted.tokens.access_token, granted.tokens.refresh_token]
            field_error = FieldError(_ACCESS_TOKEN, redact(str(error), secrets))
            raise Invalid("the provider does not accept the access token", errors=(field_error,)) from None


def _importable(connector: Connector) -> Connector:
    """Return the connector. Raises `Invalid` if its accounts cannot be identified by a token alone."""
    account, flow = connector.account, connector.oauth2
    if flow is None:
        detail = "tokens of OAuth 1.0a cannot be imported: POST /api/auth/oauth/connect"
    elif account is None or account.call is None or flow.callback.keep:
        detail = "it names the account only in an authorization: POST /api/auth/oauth/connect"
    else:
        return connector
    raise Invalid("tokens of this provider cannot be imported", errors=(FieldError("provider", detail),))


def _token_response(request: AuthorizationRequest, imported: ImportedTokens) -> TokenResponse:
    """Return the tokens as if the provider had just issued them. Raises `Invalid` if they have expired."""
    expires_in = None
    if imported.expires_at is not None:
        expires_in = (imported.expires_at - utcnow()).total_seconds()
        if expires_in <= 0:
            field_error = FieldError("tokens.expires_at", "must be later than now: refresh the tokens first")
            raise Invalid("the access token has expired", errors=(field_error,))
    tokens = Tokens(
        access_token=imported.access_token,
        refresh_token=imported.refresh_token,
        expires_in=expires_in,
        scopes=tuple(request.scopes or ()),
    )
    return TokenResponse(tokens, {}, None)
