"""Provider subscriptions as they are stored: their record, their indexes, and every read and write of them.

The collection calls a subscription a watch, as the REST path does. It is due work
(`shared/runtime/due_work.py`): the process whose claim has the current `fence` works on it, and `is_claimed`
stays true meanwhile. Its due time is the end of the lease then, so whoever makes subscriptions due leaves the
claimed ones alone.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import Field

from shared.connections.integration_record import LastError
from shared.contracts.errors import NotFound
from shared.runtime.clock import utcnow
from shared.runtime.due_work import OPEN, DueRecord, DueWork
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import stored_null
from shared.runtime.secrets import StoredSecret, Vault

COLLECTION: Final = "watches"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("integrations", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN),
        Index((("provider", 1), ("status", 1)), where=OPEN),
        # The sync service reads the subscription of an endpoint.
        Index((("endpoint_id", 1),)),
    )
}
MAX_SUBSCRIPTIONS: Final = 100
"""Per integration."""
LEASE: Final = timedelta(seconds=90)

SubscriptionStatus = Literal["pending", "active", "failing", "stopped"]


class ProviderSubscription(DueRecord):
    """A subscription at a provider, for one integration or for all that are connected with an app."""

    workspace: str
    integrations: tuple[str, ...]
    """The integrations that share it."""
    app: tuple[str, ...] | None = stored_null()
    """The `app_ref` of the app whose subscription it is; None if it belongs to one integration."""
    provider: str
    type_id: str = Field(alias="watch")
    resource: Mapping[str, str]
    channel_id: str | None = stored_null()
    created_at: datetime

    # At the provider
    status: SubscriptionStatus
    made: Mapping[str, str] | None = stored_null()
    """Values of the provider's answers, for later requests: `{made:...}`. None: it was not created yet."""
    expires_at: datetime | None = stored_null()
    renewed_at: datetime | None = stored_null()

    # The inbound endpoint for its webhooks
    endpoint_id: str | None = stored_null()
    endpoint_url: str | None = stored_null()
    endpoint_secret: StoredSecret | None = stored_null()

    last_error: LastError | None = stored_null()

    @property
    def is_expired(self) -> bool:
        """True if it does not exist at the provider, or not any more."""
        return self.expires_at is None or self.expires_at <= utcnow()


NOT_CREATED: Final[Mapping[str, Any]] = {
    "status": "pending",
    "made": None,
    "expires_at": None,
    "renewed_at": None,
    "endpoint_id": None,
    "endpoint_url": None,
    "endpoint_secret": None,
    "is_open": True,
    "is_claimed": False,
    "failures": 0,
    "last_error": None,
}
"""The fields of a subscription that does not exist at the provider yet."""


class SubscriptionRepository:
    """Reads and writes of the collection. Every method with `async` raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault
        self.due_work: Final = DueWork(
            self._collection,
            ProviderSubscription.from_document,
            lease=LEASE,
            claim_fields=ProviderSubscription.stored_fields({"is_claimed": True}),
            release_fields=ProviderSubscription.stored_fields({"is_claimed": False}),
        )

    # Reading

    async def find(self, integration: str, subscription_id: str) -> ProviderSubscription:
        """Return a subscription of an integration. Raises `NotFound`."""
        with translate_errors():
            document = await self._collection.find_one({"_id": subscription_id, "integrations": integration})
        if document is None:
            raise NotFound("no such watch")
        return ProviderSubscription.from_document(document)

    async def of_integration(self, integration: str) -> list[ProviderSubscription]:
        """Return the subscriptions of an integration, newest first."""
        with translate_errors():
            documents = (
                await self._collection.find({"integrations": integration})
                .sort([("created_at", -1), ("_id", -1)])
                .to_list(MAX_SUBSCRIPTIONS)
            )
        return [ProviderSubscription.from_document(document) for document in documents]

    async def is_full(self, integration: str) -> bool:
        """Return whether an integration has as many subscriptions as it may have."""
        with translate_errors():
            count = await self._collection.count_documents(
                {"integrations": integration}, limit=MAX_SUBSCRIPTIONS
            )
        return count >= MAX_SUBSCRIPTIONS

    async def any_has_type(self, integrations: Collection[str], type_id: str) -> bool:
        """Return whether one of these integrations has a subscription of this type."""
        for integration in integrations:
            query = ProviderSubscription.stored_query({"integrations": integration, "type_id": type_id})
            with translate_errors():
                if await self._collection.count_documents(query, limit=1):
                    return True
        return False

    def decrypt_endpoint_secret(self, subscription: ProviderSubscription) -> str:
        """Return the endpoint's secret; '' if it has none. Raises `Misconfigured` if it does not open."""
        if not subscription.endpoint_secret:
            return ""
        return self._vault.open(
            subscription.endpoint_secret,
            workspace=subscription.workspace,
            record=subscription.id,
            field="endpoint_secret",
        )

    # Joining

    async def add_or_join(self, subscription: ProviderSubscription) -> ProviderSubscription | None:
        """Insert a subscription of one integration, or add this one to the existing subscription.

        Return the stored subscription; None if it was deleted between the two steps.
        """
        [integration] = subscription.integrations
        try:
            with translate_errors():
                await self._collection.insert_one(subscription.document())
        except Duplicate:
            with translate_errors():
                joined: Document | None = await self._collection.find_one_and_update(
                    {"_id": subscription.id},
                    {"$addToSet": {"integrations": integration}},
                    return_document=True,
                )
            return None if joined is None else ProviderSubscription.from_document(joined)
        return subscription

    async def leave(self, subscription: ProviderSubscription, integration: str) -> bool:
        """Remove an integration from a subscription; return False if it is the only one."""
        others = {"_id": subscription.id, "integrations": {"$ne": [integration]}}
        with translate_errors():
            left = await self._collection.update_one(others, {"$pull": {"integrations": integration}})
        return bool(left.matched_count)

    # Due times

    async def make_waiting_due(self, integration: str) -> None:
        """Make the subscriptions of an integration due that do not exist at the provider or failed last."""
        await self._make_due(
            {"integrations": integration, "status": {"$in": ["pending", "stopped", "failing"]}},
            {"due_at": utcnow(), "failures": 0},
        )

    async def make_active_due(self, integration: str, type_ids: Sequence[str]) -> None:
        """Make the active subscriptions of an integration of these types due."""
        await self._make_due(
            {"integrations": integration, "watch": {"$in": list(type_ids)}, "status": "active"},
            {"is_open": True, "due_at": utcnow()},
        )

    async def make_uncreated_due(self, due_at: datetime) -> None:
        """Make all subscriptions due at this time that are pending or failing."""
        await self._make_due({**OPEN, "status": {"$in": ["pending", "failing"]}}, {"due_at": due_at})

    async def make_types_due(
        self, provider: str, type_ids: Sequence[str], workspace: str | None, due_at: datetime
    ) -> None:
        """Make a provider's subscriptions of these types due at this time, unless they are stopped.

        None for `workspace` means those of all workspaces.
        """
        query: Document = {
            **OPEN,
            "provider": provider,
            "watch": {"$in": list(type_ids)},
            "status": {"$in": ["pending", "failing", "active"]},
        }
        if workspace is not None:
            query["workspace"] = workspace
        await self._make_due(query, {"due_at": due_at})

    async def _make_due(self, query: Document, changes: Mapping[str, Any]) -> None:
        """Change what matches, except those being worked on: their due time is the lease."""
        with translate_errors():
            await self._collection.update_many(
                {**query, "working": False}, {"$set": ProviderSubscription.stored_fields(changes)}
            )

    # Work on a claimed subscription. Nothing is written once another process has claimed it.

    async def finish(self, claimed: ProviderSubscription, **changes: Any) -> None:
        """Write the outcome of the work, and end it. `changes` are fields by their names here."""
        fields = ProviderSubscription.stored_fields({"is_claimed": False, **changes})
        await self.due_work.write(claimed, {"$set": fields})

    async def store_endpoint(
        self, claimed: ProviderSubscription, endpoint_id: str, url: str, secret: str
    ) -> ProviderSubscription:
        """Write the inbound endpoint, its secret sealed; '' for none. Return the changed subscription."""
        sealed = None
        if secret:
            sealed = self._vault.seal(
                secret, workspace=claimed.workspace, record=claimed.id, field="endpoint_secret"
            )
        changes = {"endpoint_id": endpoint_id, "endpoint_url": url, "endpoint_secret": sealed}
        await self.due_work.write(claimed, {"$set": ProviderSubscription.stored_fields(changes)})
        return claimed.model_copy(update=changes)

    # Removing

    async def claim_for_removal(
        self, subscription: ProviderSubscription, *, by_force: bool
    ) -> ProviderSubscription | None:
        """Claim a subscription, due or not, and return it as it is now.

        Return None if it was deleted, or, without `by_force`, if another process works on it. If this process
        dies before the removal, the subscription is due again.
        """
        query: Document = {"_id": subscription.id}
        if not by_force:
            query["$or"] = [{"working": False}, {"due_at": {"$lte": utcnow()}}]
        changes = {"is_open": True, "is_claimed": True, "due_at": utcnow() + LEASE}
        with translate_errors():
            document = await self._collection.find_one_and_update(
                query,
                {"$set": ProviderSubscription.stored_fields(changes), "$inc": {"fence": 1}},
                return_document=True,
            )
        return None if document is None else ProviderSubscription.from_document(document)

    async def leave_and_release(self, claimed: ProviderSubscription, integration: str) -> None:
        """Remove an integration from a claimed subscription that others have joined, and make it due."""
        released = {"is_open": True, "is_claimed": False, "due_at": utcnow()}
        with translate_errors():
            await self._collection.update_one(
                {"_id": claimed.id},
                {
                    "$pull": {"integrations": integration},
                    "$set": ProviderSubscription.stored_fields(released),
                },
            )

    async def reset(self, claimed: ProviderSubscription) -> None:
        """Write that a claimed subscription does not exist at the provider, and has no endpoint.

        It stays claimed for another lease.
        """
        now = utcnow()
        fields = {**NOT_CREATED, "is_claimed": True, "due_at": now + LEASE, "created_at": now}
        with translate_errors():
            await self._collection.update_one(
                {"_id": claimed.id, "fence": claimed.fence},
                {"$set": ProviderSubscription.stored_fields(fields)},
            )

    async def delete_or_restart(self, claimed: ProviderSubscription) -> None:
        """Delete a subscription that was reset. If integrations joined since, make it due for those."""
        unjoined = {"_id": claimed.id, "integrations": list(claimed.integrations)}
        with translate_errors():
            deleted = await self._collection.delete_one(unjoined)
            if deleted.deleted_count:
                return
            now = utcnow()
            fields = {**NOT_CREATED, "due_at": now, "created_at": now}
            await self._collection.update_one(
                {"_id": claimed.id},
                {
                    "$pull": {"integrations": {"$in": list(claimed.integrations)}},
                    "$set": ProviderSubscription.stored_fields(fields),
                },
            )
