"""Provider subscriptions: what a provider was asked to send for a connected account.

This module adds and removes them; `renewal.py` creates and renews at the provider what is due,
`provider_calls.py` has the requests, and `records.py` what is stored.

A subscription's id is derived from what is subscribed to, and its endpoint is created under an idempotency
key, so a repeated creation finds the existing one. A subscription that was created at the provider, but not
stored because of a crash, expires there.

A subscription of an app is shared by all accounts of a workspace that are connected with this app: each joins
it, and it is cancelled when the last one leaves. If it lacks a setting of the app it stays pending, and is
due when the app is changed.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.provider_calls import ProviderCalls
from services.oauth.subscriptions.records import (
    MAX_SUBSCRIPTIONS,
    NOT_CREATED,
    ProviderSubscription,
    SubscriptionRepository,
)
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import app_ref
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, InterlinkError, NotFound
from shared.contracts.ids import provider_subscription_id_for
from shared.manifests.field_validation import validate_fields
from shared.manifests.subscriptions import SubscriptionSpec
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log

_CLAIM_TIMEOUT_S: Final = 15.0
_CLAIM_POLL_INTERVAL_S: Final = 0.1
_MAX_ATTEMPTS: Final = 5
_MAX_LOGGED_LENGTH: Final = 200


class SubscriptionLifecycle:
    """Adds and removes the provider subscriptions of all integrations."""

    def __init__(
        self,
        subscriptions: SubscriptionRepository,
        types: SubscriptionTypes,
        integrations: IntegrationRepository,
        provider_calls: ProviderCalls,
        tokens: TokenSource,
        endpoints: GatewayEndpoints,
        log: Log,
    ) -> None:
        self._subscriptions = subscriptions
        self._types = types
        self._integrations = integrations
        self._provider_calls = provider_calls
        self._tokens = tokens
        self._endpoints = endpoints
        self._log = log

    async def add(
        self, integration: Integration, kind: str, resource: Mapping[str, str], *, channel: str | None
    ) -> ProviderSubscription:
        """Add a subscription and return it. If there is an equal one, return that, unchanged.

        `kind` is the id of a subscription type of the provider, `resource` what to subscribe to, `channel`
        the chat channel whose messages the webhooks become.

        Raises `Invalid` if type or resource are not acceptable, `Conflict` if the integration has too many,
        `DatabaseUnavailable`.
        """
        definition = self._types.get(integration.provider, kind)
        values = validate_fields(definition.resource, resource, place="resource")
        if await self._subscriptions.is_full(integration.id):
            raise Conflict(f"an integration can have {MAX_SUBSCRIPTIONS} watches at most: delete one first")
        return await self._ensure(integration, definition, values, channel)

    async def prepare_automatic(
        self, integration: Integration, *, app: tuple[str, ...] | None = None
    ) -> None:
        """Add the automatic subscriptions of an integration that is about to be connected.

        `app` is the `app_ref` of the app that it is connected with; None with manual credentials. They are
        created at the provider once it is connected. Raises `DatabaseUnavailable`.
        """
        # The stored app is that of the previous connection.
        connecting = integration.model_copy(update={"app": app})
        for definition in self._types.of(integration.provider):
            if definition.automatic:
                defaults = validate_fields(definition.resource, {}, place="resource")
                await self._ensure(connecting, definition, defaults, None)

    async def resume(self, integration: str) -> None:
        """Make the waiting subscriptions of an integration due, because it was connected (again).

        Raises `DatabaseUnavailable`.
        """
        await self._subscriptions.make_waiting_due(integration)

    async def recreate_for_choice(self, integration: Integration, *, is_other_account: bool = False) -> None:
        """Make the subscriptions of the selected resource due: another one was selected, or connected again.

        With `is_other_account`, make all due: they are of the account before. Raises `DatabaseUnavailable`.
        """
        types = [
            item.id for item in self._types.of(integration.provider) if item.of_choice or is_other_account
        ]
        if types:
            await self._subscriptions.make_active_due(integration.id, types)

    async def unsubscribe(self, subscription: ProviderSubscription, integration: str) -> None:
        """Remove an integration from a subscription. If it was the last one, remove the subscription.

        Removing cancels the subscription at the provider and removes its endpoint; failures of both are
        logged. Raises `DatabaseUnavailable`.
        """
        if await self._subscriptions.leave(subscription, integration):
            return
        claimed = await self._claim_for_removal(subscription)
        if claimed.integrations == (integration,):
            await self.remove(claimed)
            return
        # Another account joined between the two steps: leave, and release the claim.
        await self._subscriptions.leave_and_release(claimed, integration)

    async def unsubscribe_all(self, integration: str) -> None:
        """Remove an integration from all of its subscriptions. Raises `DatabaseUnavailable`."""
        while subscriptions := await self._subscriptions.of_integration(integration):
            for subscription in subscriptions:
                await self.unsubscribe(subscription, integration)

    async def remove(self, claimed: ProviderSubscription) -> None:
        """Cancel a claimed subscription, remove its endpoint and delete it.

        If an account joins meanwhile, it is not deleted, but created again for that account. Failures of
        provider and gateway are logged. Raises `DatabaseUnavailable`.
        """
        account = await self.account_for(claimed, include_other_apps=True)
        if account is not None and await self._is_shared(claimed, account):
            self._log.info("subscription.cancel_skipped", subscription_id=claimed.id)
        elif account is not None:
            await self._provider_calls.cancel(claimed, account)
        elif claimed.made:
            self._log.warning(
                "subscription.cancel_failed", subscription_id=claimed.id, error="it has no account"
            )
        # If this process dies after this write, the subscription is created again. The new `created_at`
        # changes the idempotency key, so it gets another endpoint: this one is about to be removed.
        await self._subscriptions.reset(claimed)
        if claimed.endpoint_id:
            try:
                await self._endpoints.remove(claimed.workspace, claimed.endpoint_id)
            except InterlinkError as error:
                self._log.warning(
                    "subscription.endpoint_removal_failed",
                    subscription_id=claimed.id,
                    error=str(error)[:_MAX_LOGGED_LENGTH],
                )
        # If an account joined meanwhile, `created_at` changes here too, for the same reason.
        await self._subscriptions.delete_or_restart(claimed)

    async def account_for(
        self, subscription: ProviderSubscription, *, include_other_apps: bool = False
    ) -> Integration | None:
        """Return the integration whose token a subscription's requests use; None if it has none left.

        A connected one comes first, then a pending one, then any. A connected one whose app is not the
        subscription's counts only with `include_other_apps`. Raises `DatabaseUnavailable`.
        """
        candidates: list[Integration] = []
        for integration_id in subscription.integrations:
            try:
                account = await self._integrations.find(integration_id)
            except NotFound:
                continue
            is_live = account.status in USABLE
            is_of_app = subscription.app is None or subscription.app == account.app
            if is_live and not is_of_app and not include_other_apps:
                continue
            if is_live:
                return account
            candidates.append(account)
        return next(
            (account for account in candidates if account.status == "pending"),
            candidates[0] if candidates else None,
        )

    async def _is_shared(self, subscription: ProviderSubscription, account: Integration) -> bool:
        """Return whether other integrations use the same subscription at the provider.

        With an idempotent create, the provider has one subscription per account and app, whichever
        integration asked for it. Raises `DatabaseUnavailable`.
        """
        definition = self._types.find(subscription.provider, subscription.type_id)
        if (
            definition is None
            or definition.of_app
            or definition.renew is None
            or definition.renew != definition.create
            or account.account is None
        ):
            return False
        candidates = [
            other.id
            for other in await self._integrations.of_account(subscription.provider, account.account.id)
            if other.id != account.id and other.status in USABLE and other.app == account.app
        ]
        return await self._subscriptions.any_has_type(candidates, definition.id)

    async def _claim_for_removal(self, subscription: ProviderSubscription) -> ProviderSubscription:
        """Claim a subscription and return it as it is now.

        Wait up to 15 s for a process that works on it, then claim it anyway. Return `subscription` if it was
        deleted meanwhile. Raises `DatabaseUnavailable`.
        """
        deadline = monotonic() + _CLAIM_TIMEOUT_S
        by_force = False
        while not by_force:
            by_force = monotonic() >= deadline
            claimed = await self._subscriptions.claim_for_removal(subscription, by_force=by_force)
            if claimed is not None:
                return claimed
            await asyncio.sleep(_CLAIM_POLL_INTERVAL_S)
        return subscription

    async def _ensure(
        self,
        integration: Integration,
        definition: SubscriptionSpec,
        values: Mapping[str, str],
        channel: str | None,
    ) -> ProviderSubscription:
        """Insert a subscription, or add the integration to the existing one. Return it.

        Raises `Conflict` if it was deleted at every attempt, `DatabaseUnavailable`.
        """
        pairs = [f"{name}={value}" for name, value in sorted(values.items())]
        app = self._tokens.app_of(integration) if definition.of_app else None
        owner_id = integration.id
        if app is not None:
            owner_id = " ".join((integration.workspace, *app_ref(app)))
        subscription_id = provider_subscription_id_for(owner_id, definition.id, *pairs)
        now = utcnow()
        subscription = ProviderSubscription(
            id=subscription_id,
            workspace=integration.workspace,
            integrations=(integration.id,),
            app=None if app is None else tuple(app_ref(app)),
            provider=integration.provider,
            type_id=definition.id,
            resource=dict(values),
            channel_id=channel,
            due_at=now,
            fence=0,
            created_at=now,
            **NOT_CREATED,
        )
        for _ in range(_MAX_ATTEMPTS):
            stored = await self._subscriptions.add_or_join(subscription)
            if stored is not None:
                return stored
        raise Conflict("this watch was deleted while it was added: try again")
