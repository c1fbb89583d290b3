"""Start an authorization: OAuth 2.0's authorization code grant, or OAuth 1.0a's three-legged flow.

`callback.py` handles the provider's response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.oauth.authorization.account_identity import account_in_use, has_another_user
from services.oauth.authorization.flows import app_for, integration_kind, oauth_connector, server_binding
from services.oauth.authorization.redirect import may_get_code, validate_return_to
from services.oauth.authorization.scopes import scopes_of_purposes, validate_user_scopes
from services.oauth.authorization.state import STATE_TTL, States, state_of_ticket
from services.oauth.authorization.state_record import (
    PendingAuthorization,
    PendingState,
    StoredRequestToken,
)
from shared.connections.apps import Apps
from shared.connections.credentials import template_values
from shared.connections.integration_record import Integration, new_integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.manifests.connect_models import Purpose
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import ProviderRejected
from shared.runtime.clock import utcnow
from shared.wire.oauth import new_code_verifier, new_state
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

MAX_SCOPES: Final = 100
_PENDING_TTL: Final = STATE_TTL + timedelta(minutes=2)
"""Time for which a new integration stays pending: longer than its state, as a last callback takes time."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Request to connect an account for a user of a workspace."""

    provider: str
    workspace: str
    user: str | None = None
    """The chat's id of the user whose account it is; None leaves the stored user unchanged."""
    scopes: Sequence[str] | None = None
    """The scopes to request; None for the manifest's, or for those requested before."""
    more_scopes: Sequence[str] = ()
    """Scopes to request besides."""
    purposes: Sequence[Purpose] = ()
    """Purposes of the account. The scopes of each are requested too."""
    user_scopes: Sequence[str] | None = None
    """The scopes to request for the person; None for the app's, or for those requested before."""
    params: Mapping[str, str] | None = None
    return_to: str | None = None
    name: str | None = None
    takeover: bool = False
    """True if an integration of another user may become this user's."""
    app_name: str | None = None
    """The app to connect with; None for the default one, or for that of before."""
    tags: Sequence[str] | None = None
    metadata: Mapping[str, str] | None = None
    """Tags and metadata of the integration; None leaves the stored ones unchanged."""


def unfinished_integration(
    connector: Connector, request: AuthorizationRequest, params: Mapping[str, str]
) -> Integration:
    """Return a new integration that waits for its tokens. Maintenance deletes it if none come."""
    return new_integration(
        request.workspace,
        request.provider,
        integration_kind(connector),
        name=request.name,
        status="pending",
        tags=tuple(request.tags or ()),
        metadata=request.metadata or {},
        reason="",
        account=None,
        params=params,
        user=request.user,
        credential=None,
        needs_maintenance=True,
        due_at=utcnow() + _PENDING_TTL,
        pending_events=(),
        has_pending_events=False,
    )


def pending_authorization(
    request: AuthorizationRequest,
    integration: Integration,
    server: tuple[str, ...],
    *,
    params: Mapping[str, str],
    scopes: Sequence[str],
    redirect_uri: str,
    is_reconnect: bool = False,
    any_account: bool = False,
    return_to: str | None = None,
) -> PendingAuthorization:
    """Return the authorization that a request starts for an integration. `server` is its `server_binding`."""
    return PendingAuthorization(
        provider=request.provider,
        server=server,
        user=request.user,
        integration_id=integration.id,
        is_reconnect=is_reconnect,
        any_account=any_account,
        takeover=request.takeover,
        app_name=request.app_name,
        tags=None if request.tags is None else tuple(request.tags),
        metadata=request.metadata,
        params=params,
        requested_scopes=tuple(scopes),
        requested_user_scopes=request.user_scopes,
        redirect_uri=redirect_uri,
        return_to=return_to,
    )


@dataclass(frozen=True, slots=True)
class AuthorizationRedirect:
    """The provider's address for the person, and the state that the browser stores as a cookie."""

    url: str
    integration_id: str
    pending_state: PendingState
    ticket: str | None
    """Opens the flow in another browser; None without a user, or a `return_to` outside of the hub."""


def _requested_scopes(connector: Connector, request: AuthorizationRequest) -> list[str]:
    """Return the scopes to ask for, each once. Raises `Invalid` if there are too many."""
    named = connector.scopes if request.scopes is None else request.scopes
    scopes = list(dict.fromkeys((*named, *request.more_scopes)))
    if len(scopes) > MAX_SCOPES:
        message = f"with the scopes of this integration there are more than {MAX_SCOPES}"
        raise Invalid("there are too many scopes", errors=(FieldError("add_scopes", message),))
    return scopes


def _with_scopes(
    connector: Connector, request: AuthorizationRequest, before: Integration | None = None
) -> AuthorizationRequest:
    """Return the request with the scopes of its purposes, and with the person's of `before` if it names none.

    Raises `Invalid` if the provider has no such scopes.
    """
    user_scopes = validate_user_scopes(connector, request.user_scopes)
    if user_scopes is None and before is not None:
        user_scopes = before.requested_user_scopes
    scopes = scopes_of_purposes(connector, request.purposes, request.scopes)
    return replace(request, scopes=scopes, user_scopes=user_scopes)


class AuthorizationStarter:
    """Starts authorizations."""

    def __init__(
        self,
        states: States,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        apps: Apps,
        tokens: TokenSource,
        *,
        redirect_uri: str,
        public_base: str,
        origins: frozenset[str],
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._connectors = connectors
        self._apps = apps
        self._tokens = tokens
        self._redirect_uri = redirect_uri
        self._base = public_base
        self._origins = origins

    async def start(self, request: AuthorizationRequest) -> AuthorizationRedirect:
        """Create a pending integration and return the redirect to the provider.

        Raises `Invalid`, `Conflict`, `DatabaseUnavailable`. With OAuth 1.0a the provider is asked for a
        request token: raises `ProviderUnavailable` if it does not answer.
        """
        connector = oauth_connector(self._connectors, request.provider)
        request = _with_scopes(connector, request)
        params = validate_fields(connector.params, request.params or {}, place="params")
        integration = unfinished_integration(connector, request, params)
        redirect = await self._authorization_redirect(
            connector, request, integration, params, reconnect=False, any_account=False
        )
        await self._integrations.add(integration)
        await self._states.save(redirect.pending_state)
        return redirect

    async def reconnect(
        self, integration: Integration, request: AuthorizationRequest, *, any_account: bool
    ) -> AuthorizationRedirect:
        """Return the redirect that connects an existing integration again. The integration keeps its id.

        `any_account` allows another account than before. Raises the same errors as `start`.
        """
        if has_another_user(integration, request.user) and not request.takeover:
            raise account_in_use()
        connector = oauth_connector(self._connectors, request.provider)
        request = _with_scopes(connector, request, before=integration)
        merged_params = {**integration.params, **(request.params or {})}
        params = validate_fields(connector.params, merged_params, place="params")
        before = integration.requested_scopes if request.scopes is None else request.scopes
        redirect = await self._authorization_redirect(
            connector,
            replace(request, scopes=before, app_name=request.app_name or integration.app_name),
            integration,
            params,
            reconnect=True,
            any_account=any_account,
        )
        if integration.is_unfinished:
            await self._integrations.change(integration, due_at=utcnow() + _PENDING_TTL)
        await self._states.save(redirect.pending_state)
        return redirect

    async def _authorization_redirect(
        self,
        connector: Connector,
        request: AuthorizationRequest,
        integration: Integration,
        params: Mapping[str, str],
        *,
        reconnect: bool,
        any_account: bool,
    ) -> AuthorizationRedirect:
        """Return the redirect, with a state that is not stored yet. `params` are those of the connection.

        Raises `Invalid` if `return_to` is not allowed; `Conflict` if the app is not usable or a value is
        missing; `ProviderUnavailable`.
        """
        app = app_for(self._apps, connector, request.workspace, request.app_name)
        values = template_values(
            connector, app, self._redirect_uri, params=params, account=integration.account
        )
        scopes = _requested_scopes(connector, request)
        ticket = new_state()
        state, verifier = state_of_ticket(ticket), new_code_verifier()
        authorization = pending_authorization(
            request,
            integration,
            server_binding(connector, app, values),
            params=params,
            scopes=scopes,
            redirect_uri=self._redirect_uri,
            is_reconnect=reconnect,
            any_account=any_account,
            return_to=validate_return_to(request.return_to, base=self._base, origins=self._origins),
        )
        try:
            if connector.oauth1 is not None:
                flow = OAuth1Flow(connector.oauth1)
                request_token = await self._request_token(request.workspace, connector, flow, values, state)
                stored_token = StoredRequestToken(token=request_token.token, secret=request_token.secret)
                authorization = authorization.model_copy(update={"request_token": stored_token})
                url = flow.authorize(values, request_token.token, scopes)
            else:
                url = connector.authorize(
                    values,
                    state=state,
                    verifier=verifier,
                    scopes=scopes,
                    user_scopes=request.user_scopes,
                )
        except MissingValue as error:
            raise Conflict(f"the app of {connector.app} is not complete: {error}") from None
        # The result has to be confirmed for this user, with a code that `return_to` gets.
        has_ticket = authorization.user is not None and may_get_code(authorization.return_to, base=self._base)
        pending_state = self._states.new(
            request.workspace, authorization, state, verifier, authorization_url=url if has_ticket else None
        )
        return AuthorizationRedirect(url, integration.id, pending_state, ticket if has_ticket else None)

    async def _request_token(
        self, workspace: str, connector: Connector, flow: OAuth1Flow, values: Mapping[str, str], state: str
    ) -> RequestToken:
        """Get a request token, the first leg of OAuth 1.0a.

        Raises `Conflict` if the provider rejects the request, `ProviderUnavailable`.
        """
        try:
            return flow.parse_request_token(
                await self._tokens.send(flow.request_token_request(values, state=state), workspace)
            )
        except ProviderRejected as error:
            secrets = (state, values.get("client_secret", ""))
            raise Conflict(f"{connector.app} rejects the request: {redact(str(error), secrets)}") from None
