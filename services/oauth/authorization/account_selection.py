"""Select which resource of an account (a site, a page) an integration is for. Each can have its own."""

from datetime import timedelta
from typing import Any, Final

from services.oauth.authorization.account_identity import (
    CONNECTED_EVENTS,
    AccountMatcher,
    account_in_use,
    has_another_user,
    identity_fields,
)
from services.oauth.authorization.state import States
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.credentials import reset_refresh_state
from shared.connections.integration_record import Account, Integration, SelectedResource
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.runtime.mongo import Duplicate

SELECTION_TIMEOUT: Final = timedelta(days=7)
"""Time for which a grant waits for the selection before it is revoked."""
_MAX_ATTEMPTS: Final = 5
_MAX_LISTED_CHOICES: Final = 20
_GRANT_FIELDS: Final = (
    "params",
    "app",
    "app_name",
    "requested_scopes",
    "scopes",
    "requested_user_scopes",
    "user_scopes",
    "resources",
    "connected_at",
    "expires_at",
    "renew_at",
    "refresh_expires_at",
    "grant_ends_at",
    "warned_at",
    "refreshable",
    "confirmation",
)
"""The fields of an integration that describe its grant, beside the credential."""


class AccountSelection:
    """Stores selections."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        accounts: AccountMatcher,
        tokens: TokenSource,
        states: States,
        subscriptions: SubscriptionLifecycle,
    ) -> None:
        self._integrations = integrations
        self._accounts = accounts
        self._tokens = tokens
        self._states = states
        self._subscriptions = subscriptions

    async def choose(self, integration_id: str, workspace: str, choice: str) -> Integration:
        """Select the resource with the id `choice`. Return its integration.

        If the resource has an integration already, that one gets the new grant, and the one that was pending
        is deleted.

        Raises `NotFound`, `Invalid` if there is no such resource, `Conflict` if the resource is connected,
        disabled or another user's, or if the integration changed at every attempt; `DatabaseUnavailable`.
        """
        for _ in range(_MAX_ATTEMPTS):
            integration = await self._integrations.find(integration_id, workspace)
            account, resource = _find_resource(integration, choice)
            async with self._states.lock(workspace, integration.provider, account.id):
                merged = await self._find_merged(integration, account.id)
                provider_account = AccountIdentity(account.id, account.label, person=account.person or "")
                server = self._accounts.server_of(integration, integration.app)
                same = await self._accounts.find_same_account(
                    integration, provider_account, resource, integration.user, server
                )
                if merged is not None:
                    # An earlier call wrote the merged integration and died before it deleted this one.
                    changed: Integration | None = merged
                    await self._delete_merged(integration, merged)
                else:
                    selected = _with_resource(account, resource)
                    try:
                        changed = await (
                            self._apply_selection(integration, selected)
                            if same is None
                            else self._merge_into_existing(integration, resource.label, selected, same)
                        )
                    except Duplicate:  # Another process connected the same resource at the same time.
                        changed = None
            if changed is not None:
                await self._subscriptions.resume(changed.id)
                await self._subscriptions.recreate_for_choice(changed)
                return changed
        raise Conflict("the integration changed while it was updated: try again")

    async def _apply_selection(self, integration: Integration, account: Account) -> Integration | None:
        """Store the selection in the integration itself. Return None if it changed since it was read."""
        server = self._accounts.server_of(integration, integration.app)
        change: dict[str, Any] = {"account": account, **identity_fields(integration, account, server)}
        is_pending = integration.status == "pending"
        if is_pending:
            change |= {"status": "connected", "reason": "", **_due_fields(integration)}
            await self._subscriptions.prepare_automatic(integration, app=integration.app)
        changed = await self._integrations.change(
            integration,
            publish="integration.connected" if is_pending else (),
            condition={"status": integration.status},
            **change,
        )
        self._tokens.forget(integration.id)
        return changed

    async def _merge_into_existing(
        self, integration: Integration, label: str, account: Account, same: Integration
    ) -> Integration | None:
        """Move the grant of a pending integration to `same`, the integration that has the resource.

        `label` is the resource's. Return None if `same` changed since it was read. Raises `Conflict`.
        """
        taken_over = has_another_user(same, integration.user)
        if integration.status != "pending":
            name_suffix = "" if taken_over else f": {same.display_name}"
            raise Conflict(f"{label} is connected already{name_suffix}")
        if taken_over and not integration.allows_takeover:
            raise account_in_use()
        if same.status == "disabled":
            raise Conflict(f"the integration of {label} is disabled: enable {same.id} first")
        change = {
            **{name: getattr(integration, name) for name in _GRANT_FIELDS},
            **_due_fields(integration),
            **reset_refresh_state(same),
            "status": "connected",
            "reason": "",
            "user": integration.user or same.user,
            **({"tags": integration.tags} if integration.tags else {}),
            **({"metadata": integration.metadata} if integration.metadata else {}),
            "account": account,
            **identity_fields(same, account, self._accounts.server_of(integration, integration.app)),
            "merged_grant": (integration.id, integration.version),
            # Sealing is bound to the integration's id, so the credential is sealed again.
            "credential": self._integrations.seal(same, self._integrations.open(integration)),
            "version": same.version + 1,
        }
        await self._subscriptions.prepare_automatic(same, app=integration.app)
        changed = await self._integrations.change(
            same,
            publish=CONNECTED_EVENTS[taken_over],
            # The change settles the fence that was read: not that of a refresh that began since.
            condition={"status": same.status, "fence": same.fence},
            **change,
        )
        self._tokens.forget(same.id)
        if changed is not None:
            await self._delete_merged(integration, same)
        return changed

    async def _find_merged(self, integration: Integration, account_id: str) -> Integration | None:
        """Return the integration that already has this integration's grant."""
        candidates = await self._integrations.of_account(
            integration.provider, account_id, integration.workspace
        )
        grant = (integration.id, integration.version)
        return next((other for other in candidates if other.merged_grant == grant), None)

    async def _delete_merged(self, integration: Integration, target: Integration) -> None:
        await self._integrations.delete(integration, credential=None, merged_into=target.id)
        await self._subscriptions.unsubscribe_all(integration.id)


def _due_fields(integration: Integration) -> dict[str, Any]:
    """Return when maintenance of the grant is due once the resource is selected."""
    at = integration.due_after_selection
    return {"needs_maintenance": at is not None, "due_at": at}


def _find_resource(integration: Integration, choice: str) -> tuple[Account, AccountResource]:
    """Return the account, and its resource with this id. Raises `Invalid` if there is none."""
    stored = next((item for item in integration.resources if item.id == choice), None)
    if stored is None or integration.account is None:
        listed = ", ".join(item.id for item in integration.resources[:_MAX_LISTED_CHOICES])
        raise Invalid(
            "no such choice",
            errors=(FieldError("choice", f"one of {listed}" if listed else "there is nothing to choose"),),
        )
    return integration.account, AccountResource(stored.id, stored.label, stored.attributes)


def _with_resource(account: Account, resource: AccountResource) -> Account:
    return account.model_copy(
        update={
            "attributes": {**account.attributes, **resource.attributes},
            "resource": SelectedResource(id=resource.id, label=resource.label),
        }
    )
