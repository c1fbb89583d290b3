"""Handle the OAuth callback: validate the response, exchange the code, fetch the account.

Tokens are stored only after the provider has said which account they belong to. Tokens that will not be
stored are revoked. `store_connection.py` writes the integration. If the authorization was opened with a
ticket, the tokens wait for a confirmation instead (`confirmation.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.fetch_account import fetch_account
from services.oauth.authorization.flows import authorized_connector
from services.oauth.authorization.state import STATE_TTL, States
from services.oauth.authorization.state_record import (
    ConsumedState,
    LockTimeout,
    PendingAuthorization,
    UsedCode,
)
from services.oauth.authorization.store_connection import ConnectionWriter
from services.oauth.authorization.unconfirmed_grants import (
    CONFIRMATION_REQUIRED,
    CONFIRMATION_TTL,
    UnconfirmedGrants,
)
from shared.connections.apps import Apps
from shared.connections.integration_record import Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured, NotFound
from shared.manifests.accounts import AccountIdentity
from shared.manifests.connector import Connector
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.manifests.token_response import TokenResponse
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_MAX_CODE_LENGTH: Final = 4096
_MAX_ERROR_LENGTH: Final = 100
_DENIAL_ERRORS: Final = frozenset(
    {"access_denied", "user_denied", "user_cancelled_login", "user_cancelled_authorize"}
)
_GONE_DETAIL: Final = "the integration does not exist any more: start again"
_FOREIGN_RESPONSE_DETAIL: Final = "the response is not from the provider that was asked: start again"


@dataclass(frozen=True, slots=True)
class CompletedAuthorization:
    """Result of a callback that connected an account, or that waits for its confirmation."""

    state: ConsumedState
    integration: Integration
    account: AccountIdentity
    confirmation_code: str = field(default="", repr=False)
    """Code that confirms it; '' if the integration is connected already."""


class CallbackHandler:
    """Completes authorizations from the responses that browsers bring back from providers."""

    def __init__(
        self,
        states: States,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        apps: Apps,
        tokens: TokenSource,
        writer: ConnectionWriter,
        unconfirmed: UnconfirmedGrants,
        log: Log,
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._connectors = connectors
        self._apps = apps
        self._tokens = tokens
        self._writer = writer
        self._unconfirmed = unconfirmed
        self._log = log

    async def complete(self, query: Sequence[tuple[str, str]], cookie: str | None) -> CompletedAuthorization:
        """Complete the authorization that a callback belongs to.

        `query` holds the callback's parameters, among them `state`; `cookie` is the value of the state's
        cookie, None if the browser sent none.

        Raises `AuthorizationFailed` if nothing was connected. Raises what `States.consume` raises if the
        state or the browser is not acceptable; then nothing was done, and the browser must not be redirected
        to `return_to`.
        """
        await self._apps.current()
        state = await self._states.consume(dict(query).get("state", ""), cookie)
        try:
            return await self._complete(state, query)
        except AuthorizationFailed as error:
            error.pending = state.authorization
            await self._states.mark_failed(dict(query)["state"])
            raise
        except (NotFound, DatabaseUnavailable, Misconfigured) as error:
            is_unavailable = not isinstance(error, NotFound)
            if isinstance(error, Misconfigured):
                self._log.error(
                    "authorization.misconfigured",
                    error=str(error),
                    provider=state.authorization.provider,
                )
            failure = AuthorizationFailed(
                "unavailable" if is_unavailable else "gone",
                "the service is not available: start again in a moment" if is_unavailable else _GONE_DETAIL,
                status=503 if is_unavailable else 410,
            )
            failure.pending = state.authorization
            await self._states.mark_failed(dict(query)["state"])
            raise failure from error

    async def _complete(
        self, state: ConsumedState, query: Sequence[tuple[str, str]]
    ) -> CompletedAuthorization:
        """Get the tokens, and connect the integration or have it confirmed. Revoke them if that fails."""
        pending, workspace = state.authorization, state.workspace
        integration = await self._integrations.find(pending.integration_id, workspace)
        connector, values = authorized_connector(self._connectors, self._apps, pending, integration)
        if integration.status == "disabled":
            raise AuthorizationFailed("disabled", "the integration is disabled: enable it first")
        callback_values = await self._check_response(pending, integration, connector, values, query)
        code = dict(query).get("oauth_verifier" if connector.oauth1 else "code", "")
        if not code or len(code) > _MAX_CODE_LENGTH:
            raise AuthorizationFailed("no_code", "the provider sent no authorization code: start again")
        granted = await self._exchange_code(state, connector, values, code)
        # From here on there are tokens: each path below stores them, or revokes them, or leaves them alone
        # because another connection may use them.
        provider_account: AccountIdentity | None = None
        try:
            granted = await self._exchange_long_lived(workspace, connector, values, granted)
            provider_account, resources = await fetch_account(
                self._tokens, workspace, connector, values, granted, callback_values
            )
            if state.needs_confirmation:
                code = await self._unconfirmed.add(workspace, pending, granted, provider_account, resources)
                return CompletedAuthorization(
                    state, await self._await_confirmation(integration), provider_account, code
                )
            # Callbacks of one account wait for each other, so that the second sees what the first stored.
            async with self._states.lock(workspace, pending.provider, provider_account.id):
                connected = await self._writer.store(
                    pending, integration, connector, granted, provider_account, resources
                )
            return CompletedAuthorization(state, connected, provider_account)
        except LockTimeout:
            # Where one revocation ends all grants of the account, it would also end the grant of the
            # callback that holds the lock.
            if not connector.revokes_all_grants:
                await self._writer.revoke_unused(integration, values, granted, provider_account, None)
            raise
        except (DatabaseUnavailable, Misconfigured):
            raise  # The write may have succeeded all the same, so the tokens may be in use.
        except (AuthorizationFailed, InterlinkError) as error:
            holder = error.holder if isinstance(error, AuthorizationFailed) else None
            await self._writer.revoke_unused(integration, values, granted, provider_account, holder)
            if isinstance(error, AuthorizationFailed | NotFound):
                raise
            if isinstance(error, ProviderRejected) and error.code == "nothing_to_choose":
                raise AuthorizationFailed(error.code, error.detail) from error
            secrets = [values.get("client_secret", ""), *_secret_texts(granted)]
            raise AuthorizationFailed(
                "no_account",
                "the provider did not return the account that was connected: try again",
                log_detail=redact(f"the account could not be fetched: {error}", secrets),
            ) from error

    async def _await_confirmation(self, integration: Integration) -> Integration:
        """Let a new integration stay until its grant is confirmed or revoked. Return it as it is now.

        An integration that was connected before stays as it is.
        """
        if not integration.is_unfinished:
            return integration
        changed = await self._integrations.change(
            integration, reason=CONFIRMATION_REQUIRED, due_at=utcnow() + CONFIRMATION_TTL + STATE_TTL
        )
        return changed or integration

    async def _check_response(
        self,
        pending: PendingAuthorization,
        integration: Integration,
        connector: Connector,
        values: Mapping[str, str],
        query: Sequence[tuple[str, str]],
    ) -> Mapping[str, str]:
        """Return the account values that the callback's parameters hold.

        Raises `AuthorizationFailed` if the response is not from the provider that was asked, or if it is an
        error response. The origin is checked first, so that a forged error cannot end an authorization.
        """
        parameters = dict(query)
        error_code = parameters.get("error")
        if connector.oauth1 is not None:
            try:
                OAuth1Flow(connector.oauth1).verifier(parameters, _request_token(pending))
            except ProviderRejected as error:
                if error.code != "access_denied":
                    raise AuthorizationFailed(error.code, _FOREIGN_RESPONSE_DETAIL) from error
                error_code = error_code or error.code
        try:
            callback_values = connector.validate_callback(query, values) if connector.oauth2 else {}
        except (ProviderRejected, MissingValue) as error:
            code = error.code if isinstance(error, ProviderRejected) else "wrong_answer"
            # An error response may lack other parameters, but never comes from another issuer.
            if not error_code or code == "wrong_issuer":
                raise AuthorizationFailed(code, _FOREIGN_RESPONSE_DETAIL) from error
            callback_values = {}
        if not error_code:
            return callback_values
        if error_code not in _DENIAL_ERRORS:
            raise AuthorizationFailed(
                "platform_error", f"the provider returned an error: {error_code[:_MAX_ERROR_LENGTH]}"
            )
        if not pending.is_reconnect and integration.is_unfinished:
            await self._integrations.delete(integration)
        raise AuthorizationFailed("access_denied", "access was denied at the provider")

    async def _exchange_code(
        self, state: ConsumedState, connector: Connector, values: Mapping[str, str], code: str
    ) -> TokenResponse:
        """Exchange the authorization code for tokens. A code is sent to a provider once only.

        Raises `AuthorizationFailed`, `DatabaseUnavailable`.
        """
        pending, workspace = state.authorization, state.workspace
        try:
            await self._states.consume_code(code)
            if connector.oauth1 is not None:
                flow = OAuth1Flow(connector.oauth1)
                token_request = flow.access_token_request(values, _request_token(pending), code)
                return flow.parse_token_response(await self._tokens.send(token_request, workspace))
            call = connector.exchange(values, code=code, verifier=state.verifier)
            return connector.parse_token_response(await self._tokens.send(call, workspace))
        except (GrantRevoked, UsedCode) as error:
            raise AuthorizationFailed(
                "code_refused", "the provider does not accept the authorization code: start again"
            ) from error
        except ProviderRejected as error:
            secrets = [code, state.verifier, values.get("client_secret", "")]
            if pending.request_token is not None:
                secrets += [pending.request_token.token, pending.request_token.secret]
            error_code, detail = redact(error.code, secrets), redact(error.detail, secrets)
            if isinstance(error, InvalidClient):
                rejection = InvalidClient(error_code, detail)
                app = self._apps.find(connector.app, workspace, pending.server[:2])
                if await self._tokens.app_checker.handle_invalid_client(app, connector, workspace, rejection):
                    raise AuthorizationFailed(
                        "app_refused", "the provider rejects the app's client id or secret"
                    ) from error
            text = f"{error_code} ({detail})" if detail else error_code
            raise AuthorizationFailed("platform_error", f"the provider rejected the code: {text}") from error
        except (ProviderUnavailable, MissingValue) as error:
            raise AuthorizationFailed(
                "platform_unavailable", "the provider could not be reached: try again"
            ) from error

    async def _exchange_long_lived(
        self, workspace: str, connector: Connector, values: Mapping[str, str], granted: TokenResponse
    ) -> TokenResponse:
        """Return `granted` with long-lived tokens, if the provider issues them."""
        if granted.tokens is None or connector.oauth2 is None:
            return granted
        long_lived_request = connector.long_lived_request(
            {**values, "access_token": granted.tokens.access_token}
        )
        if long_lived_request is None:
            return granted
        long_lived = connector.parse_token_response(await self._tokens.send(long_lived_request, workspace))
        if long_lived.tokens and long_lived.tokens.scopes is None:
            long_lived = replace(long_lived, tokens=replace(long_lived.tokens, scopes=granted.tokens.scopes))
        return replace(long_lived, document=granted.document)


def _request_token(pending: PendingAuthorization) -> RequestToken:
    """Return the request token of an OAuth 1.0a flow.

    Raises `AuthorizationFailed` if there is none: the provider had another flow at the start.
    """
    stored = pending.request_token
    if stored is None:
        raise AuthorizationFailed("app_changed", f"the app of {pending.provider} was changed: start again")
    return RequestToken(stored.token, stored.secret)


def _secret_texts(granted: TokenResponse) -> list[str]:
    """Return every token of a token response."""
    all_tokens = [tokens for tokens in (granted.tokens, *granted.others.values()) if tokens is not None]
    return [token for tokens in all_tokens for token in (tokens.access_token, tokens.refresh_token)]
