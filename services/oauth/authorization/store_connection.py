"""Write the result of an authorization into an integration, and revoke the tokens that are not stored."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from services.oauth.authorization.account_identity import (
    ACCOUNT_IN_USE,
    CONNECTED_EVENTS,
    AccountMatcher,
    has_another_user,
    identity_fields,
    selected_resource_id,
)
from services.oauth.authorization.account_selection import SELECTION_TIMEOUT
from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.authorization.state_record import PendingAuthorization
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.credentials import (
    merge_tokens,
    refresh_schedule,
    reset_refresh_state,
    retained_refresh_tokens,
    token_values,
)
from shared.connections.integration_record import USABLE, Account, Integration, Resource, SelectedResource
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Misconfigured
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.manifests.scopes import granted_user_scopes
from shared.manifests.token_response import TokenResponse
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate

_MAX_ATTEMPTS: Final = 10
"""To store a connection while others change the integration: of several at once, one succeeds each time."""


class ConnectionWriter:
    """Stores connections, and revokes grants that are unused or replaced."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        accounts: AccountMatcher,
        tokens: TokenSource,
        subscriptions: SubscriptionLifecycle,
        revoker: GrantRevoker,
    ) -> None:
        self._integrations = integrations
        self._accounts = accounts
        self._tokens = tokens
        self._subscriptions = subscriptions
        self._revoker = revoker

    async def store(
        self,
        pending: PendingAuthorization,
        started: Integration,
        connector: Connector,
        granted: TokenResponse,
        provider_account: AccountIdentity,
        resources: list[AccountResource],
        *,
        granted_at: datetime | None = None,
        confirmation: str | None = None,
    ) -> Integration:
        """Store the tokens and return the changed integration.

        The target is the integration that already has this account, else the one that the authorization was
        started for (`started`). The latter is deleted if it is not the target. Lifetimes of tokens count from
        `granted_at` (default: now). `confirmation` identifies a grant that was confirmed. Call it while
        holding the lock of the account.

        Raises `AuthorizationFailed` if the account is not acceptable, or if the integration changed at every
        attempt; `NotFound`, `DatabaseUnavailable`, `Misconfigured`.
        """
        for _ in range(_MAX_ATTEMPTS):
            integration = await self._integrations.find(started.id, started.workspace)
            target = await self._find_target(pending, integration, provider_account, resources)
            retained = self._retained_tokens(pending, target, granted, provider_account)
            change = _connection_change(
                pending,
                target,
                connector,
                granted,
                provider_account,
                resources,
                retained,
                granted_at,
                server=self._server(pending, target),
            )
            if confirmation is not None:
                change["confirmation"] = confirmation
            change["credential"] = self._integrations.seal(target, merge_tokens(retained, granted))
            if change["status"] == "connected":
                await self._subscriptions.prepare_automatic(target, app=pending.server[:2])
            taken_over = has_another_user(target, pending.user)
            try:
                changed = await self._integrations.change(
                    target,
                    publish=CONNECTED_EVENTS[taken_over] if change["status"] == "connected" else (),
                    # If it was disabled or deleted since it was read, read it again. So too if a refresh
                    # began: the change settles the fence that was read.
                    condition={"status": target.status, "fence": target.fence},
                    **change,
                )
            except Duplicate:  # Another process connected the same account at the same time.
                continue
            if changed is not None:
                break
        else:
            raise AuthorizationFailed("overtaken", "the integration changed while it was updated: try again")
        self._tokens.forget(changed.id)
        await self._revoke_replaced(target, provider_account, changed, taken_over=taken_over)
        if changed.id != integration.id:
            await self._integrations.delete(integration, merged_into=changed.id)
        await self._subscriptions.resume(changed.id)
        is_other = target.account is not None and target.account.id != provider_account.id
        await self._subscriptions.recreate_for_choice(changed, is_other_account=is_other)
        return changed

    async def revoke_unused(
        self,
        integration: Integration,
        values: Mapping[str, str],
        granted: TokenResponse,
        provider_account: AccountIdentity | None,
        holder: Integration | None,
    ) -> None:
        """Revoke tokens that will not be stored, except those that the integration `holder` uses.

        `provider_account` is None if the account is not known. Failures are logged, never raised.
        """
        account = provider_account.id if provider_account else None
        tokens_in_use = self.tokens_in_use(holder) if holder is not None else ()
        await self._revoker.revoke(
            integration, values, merge_tokens({}, granted), account, tokens_in_use=tokens_in_use
        )

    async def _find_target(
        self,
        pending: PendingAuthorization,
        integration: Integration,
        provider_account: AccountIdentity,
        resources: Sequence[AccountResource],
    ) -> Integration:
        """Return the integration to write into.

        Raises `AuthorizationFailed` if the account is connected already, belongs to another user, or is not
        the account that was to be connected.
        """
        before = integration.account
        resource = _preselected_resource(resources, integration)
        # Each resource of an account can have its own integration. Until one is selected, it is not known
        # which integration is the same.
        is_resource_known = resource is not None or not resources
        user = pending.user or integration.user
        server = self._server(pending, integration)
        same = (
            await self._accounts.find_same_account(integration, provider_account, resource, user, server)
            if is_resource_known
            else None
        )
        is_unchanged = self._accounts.is_same_account(integration, provider_account, integration.user)
        # With an app of another server it becomes the same id's account there, which may be connected.
        stays = self._accounts.server_of(integration, integration.app) in ("", server)
        if is_unchanged and (same is None or (resource is None and stays)):
            _check_available(pending, integration)
            return integration
        if before and not is_unchanged and not pending.any_account:
            raise _wrong_account(pending, integration, before, provider_account)
        if before and same is not None:
            label = resource.label if resource else provider_account.label
            name_suffix = f": {same.name}" if same.name and not has_another_user(same, user) else ""
            raise AuthorizationFailed(
                "connected_already",
                f"{label} is connected already{name_suffix}",
                log_detail=f"the account is that of {same.id}",
            )
        target = same or integration
        _check_available(pending, target)
        return target

    def _server(self, pending: PendingAuthorization, integration: Integration) -> str:
        return self._accounts.server_of(integration, pending.server[:2])

    def _retained_tokens(
        self,
        pending: PendingAuthorization,
        target: Integration,
        granted: TokenResponse,
        provider_account: AccountIdentity,
    ) -> dict[str, Any]:
        """Return stored refresh tokens to keep because the provider's response has none.

        Some providers issue a refresh token only with the first consent. It is kept only for the same
        account, person, app and parameters, and only if its scopes are not wider than those granted now.
        """
        is_same_grant = (
            target.account is not None
            and target.account.id == provider_account.id
            and self._accounts.person_of(target) == provider_account.person
            and target.status in USABLE
            and (target.app or ()) == pending.server[:2]
            and target.params == pending.params
        )
        if not is_same_grant or not set(target.scopes) <= set(_granted_scopes(pending, granted)):
            return {}
        try:
            before = self._integrations.open(target)
        except Misconfigured:
            return {}
        return retained_refresh_tokens(before, granted)

    async def _revoke_replaced(
        self,
        before: Integration,
        provider_account: AccountIdentity,
        changed: Integration,
        *,
        taken_over: bool,
    ) -> None:
        """Revoke the previous tokens of an integration if they are of another account, person or user."""
        account = before.account
        if account is None or before.credential is None:
            return
        is_same_person = self._accounts.person_of(before) in (None, provider_account.person)
        if account.id == provider_account.id and is_same_person and not taken_over:
            return
        try:
            secrets = self._integrations.open(before)
        except Misconfigured:
            return
        values, tokens_in_use = self._tokens.values(before), self.tokens_in_use(changed)
        await self._revoker.revoke(before, values, secrets, account.id, tokens_in_use=tokens_in_use)

    def tokens_in_use(self, integration: Integration) -> Collection[str]:
        """Return the tokens of an integration, in clear; none if they cannot be decrypted."""
        try:
            secrets = self._integrations.open(integration)
        except Misconfigured:
            return ()
        grants = (secrets, *secrets.get("others", {}).values())
        return [token for grant in grants for token in token_values(grant).values()]


def _check_available(pending: PendingAuthorization, integration: Integration) -> None:
    """Raise `AuthorizationFailed` if the integration belongs to another user or is disabled.

    Connecting an account does not enable a disabled integration.
    """
    if has_another_user(integration, pending.user) and not pending.takeover:
        error = AuthorizationFailed("account_in_use", ACCOUNT_IN_USE, status=409)
        error.holder = integration
        raise error
    if integration.status == "disabled":
        raise AuthorizationFailed("disabled", "the integration is disabled: enable it first")


def _wrong_account(
    pending: PendingAuthorization,
    integration: Integration,
    account: Account,
    provider_account: AccountIdentity,
) -> AuthorizationFailed:
    """Return the error for an account other than `account`, which is the integration's.

    It does not name the integration's account if that belongs to another user.
    """
    if has_another_user(integration, pending.user):
        detail = f"you signed in as {provider_account.label}, but this integration is for another account"
    elif account.id == provider_account.id:
        detail = (
            f"another person of {provider_account.label} signed in. Sign in at the provider as before, or "
            "connect it as an account of its own"
        )
    else:
        detail = (
            f"you signed in as {provider_account.label}, but this integration is for {account.label}. "
            f"Sign in at the provider as {account.label}, or connect {provider_account.label} as an account "
            "of its own"
        )
    return AuthorizationFailed("other_account", detail, log_detail="another account signed in")


def _connection_change(
    pending: PendingAuthorization,
    target: Integration,
    connector: Connector,
    granted: TokenResponse,
    provider_account: AccountIdentity,
    resources: Sequence[AccountResource],
    retained: Mapping[str, Any],
    granted_at: datetime | None,
    *,
    server: str,
) -> dict[str, Any]:
    """Return the fields to set on `target`, without the credential.

    `retained` are the refresh tokens that are kept from before, `server` is that of the account. The
    integration stays `pending` if the account has several resources and none is selected.
    """
    resource = _preselected_resource(resources, target)
    account = Account(
        id=provider_account.id,
        label=provider_account.label,
        url=provider_account.url,
        attributes={**provider_account.attributes, **(resource.attributes if resource else {})},
        person=provider_account.person,
        resource=SelectedResource(id=resource.id, label=resource.label) if resource else None,
    )
    is_complete = resource is not None or not resources
    times = refresh_schedule(
        connector,
        granted,
        refreshable=bool(retained),
        refresh_expires_at=target.refresh_expires_at if retained else None,
        at=granted_at,
    )
    if not is_complete:
        times |= {
            "needs_maintenance": True,
            "due_at": utcnow() + SELECTION_TIMEOUT,
            "due_at_once_selected": times["due_at"],
        }
    return {
        "status": "connected" if is_complete else "pending",
        "reason": "" if is_complete else "choice_required",
        "resources": tuple(
            Resource(id=item.id, label=item.label, attributes=item.attributes) for item in resources
        ),
        "account": account,
        "params": pending.params,
        "app": pending.server[:2],
        "app_name": pending.app_name,
        "requested_scopes": pending.requested_scopes,
        "scopes": _granted_scopes(pending, granted),
        "requested_user_scopes": pending.requested_user_scopes,
        "user_scopes": granted_user_scopes(connector.oauth2, granted) or (),
        "version": target.version + 1,
        "connected_at": utcnow(),
        "user": pending.user or target.user,
        **({} if pending.tags is None else {"tags": pending.tags}),
        **({} if pending.metadata is None else {"metadata": pending.metadata}),
        **reset_refresh_state(target),
        **times,
        **(
            identity_fields(target, account, server) if is_complete else {"allows_takeover": pending.takeover}
        ),
    }


def _granted_scopes(pending: PendingAuthorization, granted: TokenResponse) -> tuple[str, ...]:
    """Return the granted scopes; the requested ones if the provider does not list them."""
    scopes = granted.tokens.scopes if granted.tokens else None
    return pending.requested_scopes if scopes is None else tuple(scopes)


def _preselected_resource(
    resources: Sequence[AccountResource], before: Integration
) -> AccountResource | None:
    """Return the only resource, or the one that the integration had before; None if a person must select."""
    if len(resources) == 1:
        return resources[0]
    earlier = selected_resource_id(before)
    return next((resource for resource in resources if resource.id == earlier), None)
