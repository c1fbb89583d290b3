"""Provider subscriptions: what a provider was asked to send for a connected account.

This module adds and removes them; `renewal.py` creates and renews at the provider what is due, and
`provider_calls.py` has the requests. The collection and the REST path call a subscription a watch.

A subscription is worked on by the process that holds its lease. The lease is its due time, so it is due again
when that process dies. Its id is derived from what is subscribed to, and its endpoint is created under an
idempotency key, so a repeated creation finds the existing one. A subscription that was created at the
provider, but not stored because of a crash, expires there.

A subscription of an app is shared by all accounts of a workspace that are connected with this app: each joins
it, and it is cancelled when the last one leaves. If it lacks a setting of the app it stays pending, and is
due when the app is changed.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.provider_calls import (
    ProviderSubscriptions,
    subscription_type,
    subscription_types,
)
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import app_ref
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, InterlinkError, NotFound
from shared.contracts.ids import provider_subscription_id_for
from shared.manifests.field_validation import validate_fields
from shared.manifests.subscriptions import SubscriptionSpec
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Vault

COLLECTION: Final = "watches"
OPEN_FILTER: Final = {"open": True}
"""Selects the subscriptions that are due at some time."""
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("integrations", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN_FILTER),
        Index((("provider", 1), ("status", 1)), where=OPEN_FILTER),
    )
}
MAX_SUBSCRIPTIONS: Final = 100
"""Per integration."""
LEASE_TTL: Final = timedelta(seconds=90)
_CLAIM_TIMEOUT_S: Final = 15.0
_CLAIM_POLL_INTERVAL_S: Final = 0.1
_MAX_ATTEMPTS: Final = 5
_MAX_LOGGED_LENGTH: Final = 200
_INITIAL_FIELDS: Final[Mapping[str, Any]] = {
    "status": "pending",
    "endpoint_id": None,
    "endpoint_url": None,
    "endpoint_secret": None,
    "made": None,
    "expires_at": None,
    "open": True,
    "working": False,
    "failures": 0,
    "last_error": None,
    "renewed_at": None,
}
"""The fields of a subscription that does not exist at the provider yet."""


class SubscriptionLifecycle:
    """Adds and removes the provider subscriptions of all integrations."""

    def __init__(
        self,
        mongo: Mongo,
        vault: Vault,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        endpoints: GatewayEndpoints,
        log: Log,
    ) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self.provider_subscriptions = ProviderSubscriptions(self.collection, vault, tokens, endpoints, log)
        self._integrations = integrations
        self._tokens = tokens
        self._endpoints = endpoints
        self._log = log

    async def add(
        self, integration: Integration, kind: str, resource: Mapping[str, str], *, channel: str | None
    ) -> Document:
        """Add a subscription and return it. If there is an equal one, return that, unchanged.

        `kind` is the id of a subscription type of the provider, `resource` what to subscribe to, `channel`
        the chat channel whose messages the webhooks become.

        Raises `Invalid` if type or resource are not acceptable, `Conflict` if the integration has too many,
        `DatabaseUnavailable`.
        """
        definition = subscription_type(integration.provider, kind)
        values = validate_fields(definition.resource, resource, place="resource")
        with translate_errors():
            count = await self.collection.count_documents(
                {"integrations": integration.id}, limit=MAX_SUBSCRIPTIONS
            )
        if count >= MAX_SUBSCRIPTIONS:
            raise Conflict(f"an integration can have {MAX_SUBSCRIPTIONS} watches at most: delete one first")
        return await self._ensure(integration, definition, values, channel)

    async def prepare_automatic(self, integration: Integration) -> None:
        """Add the automatic subscriptions of an integration that is about to be connected.

        They are created at the provider once it is connected. Raises `DatabaseUnavailable`.
        """
        # Without `app`, the app is resolved now: the stored one is that of the previous connection.
        connecting = integration.model_copy(update={"app": None})
        for definition in subscription_types(integration.provider):
            if definition.automatic:
                defaults = validate_fields(definition.resource, {}, place="resource")
                await self._ensure(connecting, definition, defaults, None)

    async def resume(self, integration: str) -> None:
        """Make the waiting subscriptions of an integration due, because it was connected (again).

        Raises `DatabaseUnavailable`.
        """
        waiting = {"integrations": integration, "status": {"$in": ["pending", "stopped", "failing"]}}
        with translate_errors():
            await self.collection.update_many(
                # Not those being worked on: their due time is the lease.
                {**waiting, "working": False},
                {"$set": {"due_at": utcnow(), "failures": 0}},
            )

    async def list_for(self, integration: str) -> list[Document]:
        """Return the subscriptions of an integration, newest first. Raises `DatabaseUnavailable`."""
        with translate_errors():
            return (
                await self.collection.find({"integrations": integration})
                .sort([("created_at", -1), ("_id", -1)])
                .to_list(MAX_SUBSCRIPTIONS)
            )

    async def find(self, integration: str, subscription_id: str) -> Document:
        """Return a subscription of an integration. Raises `NotFound`, `DatabaseUnavailable`."""
        with translate_errors():
            document = await self.collection.find_one({"_id": subscription_id, "integrations": integration})
        if document is None:
            raise NotFound("no such watch")
        return document

    async def unsubscribe(self, document: Document, integration: str) -> None:
        """Remove an integration from a subscription. If it was the last one, remove the subscription.

        Removing cancels the subscription at the provider and removes its endpoint; failures of both are
        logged. Raises `DatabaseUnavailable`.
        """
        leave = {"$pull": {"integrations": integration}}
        others = {"_id": document["_id"], "integrations": {"$ne": [integration]}}
        with translate_errors():
            left = await self.collection.update_one(others, leave)
        if left.matched_count:
            return
        claimed = await self._claim_for_removal(document)
        if claimed["integrations"] == [integration]:
            await self.remove(claimed)
            return
        # Another account joined between the two steps: leave, and release the claim.
        released = {"open": True, "working": False, "due_at": utcnow()}
        with translate_errors():
            await self.collection.update_one({"_id": document["_id"]}, {**leave, "$set": released})

    async def unsubscribe_all(self, integration: str) -> None:
        """Remove an integration from all of its subscriptions. Raises `DatabaseUnavailable`."""
        while documents := await self.list_for(integration):
            for document in documents:
                await self.unsubscribe(document, integration)

    async def remove(self, document: Document) -> None:
        """Cancel a claimed subscription, remove its endpoint and delete it.

        If an account joins meanwhile, it is not deleted, but created again for that account. Failures of
        provider and gateway are logged. Raises `DatabaseUnavailable`.
        """
        account = await self.account_for(document, include_other_apps=True)
        if account is not None and await self._is_shared(document, account):
            self._log.info("subscription.cancel_skipped", subscription_id=document["_id"])
        elif account is not None:
            await self.provider_subscriptions.cancel(document, account)
        elif document["made"]:
            self._log.warning(
                "subscription.cancel_failed", subscription_id=document["_id"], error="it has no account"
            )
        # If this process dies after this write, the subscription is created again. The new `created_at`
        # changes the idempotency key, so it gets another endpoint: this one is about to be removed.
        now = utcnow()
        initial = {**_INITIAL_FIELDS, "working": True, "due_at": now + LEASE_TTL, "created_at": now}
        with translate_errors():
            await self.collection.update_one(
                {"_id": document["_id"], "fence": document["fence"]}, {"$set": initial}
            )
        if document.get("endpoint_id"):
            try:
                await self._endpoints.remove(document["workspace"], document["endpoint_id"])
            except InterlinkError as error:
                self._log.warning(
                    "subscription.endpoint_removal_failed",
                    subscription_id=document["_id"],
                    error=str(error)[:_MAX_LOGGED_LENGTH],
                )
        unjoined = {"_id": document["_id"], "integrations": document["integrations"]}
        with translate_errors():
            deleted = await self.collection.delete_one(unjoined)
            if not deleted.deleted_count:
                # An account joined meanwhile: create the subscription again for that one. `created_at`
                # changes here too, for the same reason.
                now = utcnow()
                await self.collection.update_one(
                    {"_id": document["_id"]},
                    {
                        "$pull": {"integrations": {"$in": document["integrations"]}},
                        "$set": {**_INITIAL_FIELDS, "due_at": now, "created_at": now},
                    },
                )

    async def account_for(
        self, document: Document, *, include_other_apps: bool = False
    ) -> Integration | None:
        """Return the integration whose token a subscription's requests use; None if it has none left.

        A connected one comes first, then a pending one, then any. A connected one whose app is not the
        subscription's counts only with `include_other_apps`. Raises `DatabaseUnavailable`.
        """
        candidates: list[Integration] = []
        for integration_id in document["integrations"]:
            try:
                account = await self._integrations.find(integration_id)
            except NotFound:
                continue
            is_live = account.status in USABLE
            is_of_app = document["app"] is None or tuple(document["app"]) == account.app
            if is_live and not is_of_app and not include_other_apps:
                continue
            if is_live:
                return account
            candidates.append(account)
        return next(
            (account for account in candidates if account.status == "pending"),
            candidates[0] if candidates else None,
        )

    async def _is_shared(self, document: Document, account: Integration) -> bool:
        """Return whether other integrations use the same subscription at the provider.

        With an idempotent create, the provider has one subscription per account and app, whichever
        integration asked for it. Raises `DatabaseUnavailable`.
        """
        definition = next(
            (item for item in subscription_types(document["provider"]) if item.id == document["watch"]), None
        )
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
            for other in await self._integrations.of_account(document["provider"], account.account.id)
            if other.id != account.id and other.status in USABLE and other.app == account.app
        ]
        with translate_errors():
            return any(
                [
                    await self.collection.count_documents(
                        {"integrations": integration_id, "watch": definition.id}, limit=1
                    )
                    for integration_id in candidates
                ]
            )

    async def _claim_for_removal(self, document: Document) -> Document:
        """Claim a subscription and return it as it is now.

        Wait up to 15 s for a process that works on it, then claim it anyway. Return `document` if the
        subscription was deleted meanwhile. Raises `DatabaseUnavailable`.
        """
        deadline = monotonic() + _CLAIM_TIMEOUT_S
        waits = True
        while waits:
            waits = monotonic() < deadline
            claimable: dict[str, Any] = {"_id": document["_id"]}
            if waits:
                claimable["$or"] = [{"working": False}, {"due_at": {"$lte": utcnow()}}]
            with translate_errors():
                claimed: Document | None = await self.collection.find_one_and_update(
                    claimable,
                    # The lease: if this process dies before the removal, the subscription is due again.
                    {
                        "$set": {"open": True, "working": True, "due_at": utcnow() + LEASE_TTL},
                        "$inc": {"fence": 1},
                    },
                    return_document=True,
                )
            if claimed is not None:
                return claimed
            await asyncio.sleep(_CLAIM_POLL_INTERVAL_S)
        return document

    async def _ensure(
        self,
        integration: Integration,
        definition: SubscriptionSpec,
        values: Mapping[str, str],
        channel: str | None,
    ) -> Document:
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
        document: Document = {
            **_INITIAL_FIELDS,
            "_id": subscription_id,
            "workspace": integration.workspace,
            "integrations": [integration.id],
            "app": None if app is None else list(app_ref(app)),
            "provider": integration.provider,
            "watch": definition.id,
            "resource": dict(values),
            "channel_id": channel,
            "due_at": now,
            "fence": 0,
            "created_at": now,
        }
        for _ in range(_MAX_ATTEMPTS):
            try:
                with translate_errors():
                    await self.collection.insert_one(document)
            except Duplicate:
                with translate_errors():
                    joined: Document | None = await self.collection.find_one_and_update(
                        {"_id": subscription_id},
                        {"$addToSet": {"integrations": integration.id}},
                        return_document=True,
                    )
                if joined is not None:
                    return joined
            else:
                return document
        raise Conflict("this watch was deleted while it was added: try again")
