"""Integrations in MongoDB: reads and writes records, seals their credentials, and publishes their events.

`integration_record.py` has the record and the collection's indexes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from shared.connections.integration_record import (
    COLLECTION,
    INDEXES,
    OPEN_FILTER,
    USABLE,
    Integration,
    IntegrationEventType,
    IntegrationStatus,
    build_events,
    search_terms,
)
from shared.contracts.errors import NotFound
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime import configuration
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.leases import HEARTBEAT_INTERVAL_S, Leases
from shared.runtime.logs import Log
from shared.runtime.metrics import ACCOUNTS_FAILED
from shared.runtime.mongo import Document, Mongo, translate_errors
from shared.runtime.outbox import Outbox
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.web.paging import Page, Paging, page

__all__ = [
    "COLLECTION",
    "INDEXES",
    "OPEN_FILTER",
    "USABLE",
    "Integration",
    "IntegrationEventType",
    "IntegrationRepository",
    "IntegrationStatus",
]

T = TypeVar("T")

_ROUTING_FIELDS: Final = ("status", "account", "app", "deleted_at")
"""Fields that decide where an account's webhooks go. Other processes are notified when one changes."""
_FAILED: Final = frozenset({"error", "reauth_required"})
_MAX_PER_ACCOUNT: Final = 1000
_LIST_PROJECTION: Final = {"credential": 0, "events": 0}


class IntegrationRepository:
    """Reads and writes integrations, seals their credentials, and publishes their events."""

    def __init__(self, mongo: Mongo, vault: Vault, producer: Producer, log: Log) -> None:
        self._mongo = mongo
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._outbox = Outbox(
            self._collection, Integration, producer, log, topic=INTEGRATION_EVENTS, source="/integrations"
        )

    # Reading

    async def find(self, integration_id: str, workspace: str | None = None) -> Integration:
        """Read an integration. If it was merged into another one of the same account, return that one.

        Raises `NotFound`, also if it belongs to another workspace, and `DatabaseUnavailable`.
        """
        query: dict[str, Any] = {"_id": integration_id}
        if workspace is not None:
            query["workspace"] = workspace
        with translate_errors():
            document = await self._collection.find_one(query)
            if document is not None and document.get("merged_into"):
                document = await self._collection.find_one({**query, "_id": document["merged_into"]})
        if document is None or document["deleted_at"] is not None:
            raise NotFound("there is no such integration")
        return Integration.from_document(document)

    async def of_account(
        self, provider: str, account: str, workspace: str | None = None
    ) -> list[Integration]:
        """Return the integrations of a provider's account, in one workspace or in all, at most 1,000.

        Raises `DatabaseUnavailable`.
        """
        query = {"provider": provider, "account.id": account}
        if workspace is not None:
            query["workspace"] = workspace
        return [item for item in await self._find(query, _MAX_PER_ACCOUNT) if item.deleted_at is None]

    async def of_identity(self, workspace: str, identity: str) -> list[Integration]:
        """Return the integration that is the only one with an identity; [] if there is none.

        Raises `DatabaseUnavailable`.
        """
        query = {"workspace": workspace, "identity": identity, "holds_identity": True}
        return [item for item in await self._find(query, 1) if item.deleted_at is None]

    async def with_account_id(self, workspace: str, account_id: str, *, limit: int) -> list[Integration]:
        """Return the integrations of an account, a resource or a person, by its id at whatever provider.

        The newest come first, without credentials and pending events. Raises `DatabaseUnavailable`.
        """
        found: dict[str, Integration] = {}
        for field in ("account.id", "account.choice.id", "account.person"):
            query = {"workspace": workspace, field: account_id}
            found |= {item.id: item for item in await self._find(query, _MAX_PER_ACCOUNT, _LIST_PROJECTION)}
        existing = (item for item in found.values() if item.deleted_at is None)
        return sorted(existing, key=lambda item: item.created_at, reverse=True)[:limit]

    async def of_providers(
        self, providers: Collection[str], workspace: str, *, limit: int
    ) -> list[Integration] | None:
        """Return the integrations of a workspace with some providers; None if there may be more than `limit`.

        Raises `DatabaseUnavailable`.
        """
        found = await self._find({"workspace": workspace, "provider": {"$in": list(providers)}}, limit)
        return None if len(found) == limit else [item for item in found if item.deleted_at is None]

    async def _find(
        self, query: Mapping[str, Any], limit: int, fields: Mapping[str, int] | None = None
    ) -> list[Integration]:
        # `deleted_at` is no part of the query: the indexes lack it, and the embedded database would read all
        # documents.
        with translate_errors():
            documents = await self._collection.find(query, fields).limit(limit).to_list(limit)
        return [Integration.from_document(document) for document in documents]

    async def page_of(
        self,
        workspace: str,
        show: Callable[[Integration], T],
        paging: Paging,
        *,
        status: IntegrationStatus | None,
        provider: str | None,
        user: str | None,
        terms: Sequence[str] = (),
    ) -> Page[T]:
        """Return a page of a workspace's integrations; `show` makes an item of each.

        Status, provider, user and terms (all of them) select some. `show` gets neither credential nor pending
        events. With terms, a page may have fewer than `limit` items: see `paging.page`. Raises `Malformed` if
        the cursor is invalid, and `DatabaseUnavailable`.
        """
        selected = {"status": status, "provider": provider, "user": user}
        selected = {name: value for name, value in selected.items() if value}
        query: dict[str, Any] = {"workspace": workspace, "deleted_at": None}
        matches: Callable[[Document], bool] | None = None
        if not terms:
            query |= selected
        else:
            # The index for terms has one of them, and nothing else that can be selected by.
            query["terms"] = terms[0]
            if selected or len(terms) > 1:

                def matches(document: Document) -> bool:
                    return set(terms) <= set(document["terms"]) and all(
                        document.get(name) == value for name, value in selected.items()
                    )

        return await page(
            self._collection,
            query,
            lambda document: show(Integration.from_document(document)),
            paging,
            fields=_LIST_PROJECTION,
            matches=matches,
        )

    # Credentials

    def seal(self, integration: Integration, secrets: Mapping[str, Any]) -> Sealed:
        """Encrypt a credential. The result can be opened only for this integration and workspace."""
        return self._vault.seal(
            orjson.dumps(secrets).decode(),
            workspace=integration.workspace,
            record=integration.id,
            field="credential",
        )

    def open(self, integration: Integration) -> dict[str, Any]:
        """Decrypt the credential of an integration; `{}` if it has none.

        Raises `Misconfigured` if it does not open.
        """
        if integration.credential is None:
            return {}
        text = self._vault.open(
            integration.credential,
            workspace=integration.workspace,
            record=integration.id,
            field="credential",
        )
        credential: dict[str, Any] = orjson.loads(text)
        return credential

    # Writing

    async def add(
        self, integration: Integration, *, publish: IntegrationEventType | None = None
    ) -> Integration:
        """Store a new integration, with an event about it if there is one to publish, and publish that.

        Raises `Duplicate` if the account may have one integration only and has one, and
        `DatabaseUnavailable`.
        """
        moment = utcnow()
        if integration.tags or integration.metadata:
            terms = search_terms(integration.tags, integration.metadata)
            integration = integration.model_copy(update={"terms": terms})
        if publish:
            events = build_events(integration, (publish,), moment)
            integration = integration.model_copy(
                update={"changed_at": moment, "pending_events": tuple(events), "has_pending_events": True}
            )
        with translate_errors():
            await self._collection.insert_one(_new_document(integration))
        if publish:
            await configuration.announce_changes(self._mongo, COLLECTION, integration.id)
            await self._outbox.publish(integration)
        return integration

    async def change(
        self,
        integration: Integration,
        *,
        publish: IntegrationEventType | Sequence[IntegrationEventType] = (),
        condition: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Integration | None:
        """Change an integration, store events about it in the same write, and publish them.

        `changes` are fields of the record. Return None if the stored version is not that of `integration`, or
        if `condition` (more fields that must have these values, such as a lease's fence) does not hold. A
        `version` among the changes is the new version. Raises `Duplicate` if another integration has the same
        identity, `KeyError` for an unknown field, and `DatabaseUnavailable`.
        """
        moment = utcnow()
        condition = dict(condition or {})
        if "tags" in changes or "metadata" in changes:
            changes["terms"] = search_terms(
                changes.get("tags", integration.tags), changes.get("metadata", integration.metadata)
            )
            condition["changed_at"] = (
                integration.changed_at
            )  # The terms are of both fields as they were read.
        changes["changed_at"] = moment
        types = (publish,) if isinstance(publish, str) else publish
        events = build_events(integration.model_copy(update=changes), types, moment, before=integration)
        # One write for state and events: a crash cannot store a change without its event.
        update = self._outbox.with_events({"$set": Integration.stored_fields(changes)}, events)
        query = Integration.stored_query(
            {"id": integration.id, "version": integration.version, "deleted_at": None, **condition}
        )
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                query, update, return_document=True
            )
        if document is None:
            return None
        # Before the events, so that other processes forget the old state before they read of the new one.
        if any(name in changes and changes[name] != getattr(integration, name) for name in _ROUTING_FIELDS):
            await configuration.announce_changes(self._mongo, COLLECTION, integration.id)
        changed = Integration.from_document(document)
        if changed.status in _FAILED and changed.status != integration.status:
            ACCOUNTS_FAILED.labels(changed.provider, changed.status).inc()
        if events:
            await self._outbox.publish(changed)
        return changed

    async def delete(self, integration: Integration, **changes: Any) -> Integration | None:
        """Mark an integration as deleted. Parameters and result are those of `change`.

        Its record loses the account: whoever looks for the integrations of an account reads a limited number
        of records, and any number can be connected and deleted.
        """
        return await self.change(
            integration, deleted_at=utcnow(), needs_maintenance=False, account=None, **changes
        )

    async def record_use(self, integration_id: str) -> None:
        """Store that an integration is used now. Raises `DatabaseUnavailable`."""
        with translate_errors():
            await self._collection.update_one(
                Integration.stored_query({"id": integration_id, "deleted_at": None}),
                {"$set": Integration.stored_fields({"last_used_at": utcnow()})},
            )

    async def clear_app_pauses(self, providers: Sequence[str], app: Sequence[str], revision: str) -> None:
        """End the pauses of integrations that wait because the provider rejected their app.

        `app` is the `app_ref` of the app that was corrected, and `revision` its new one. Raises
        `DatabaseUnavailable`.
        """
        query = {
            "provider": {"$in": list(providers)},
            "app": list(app),
            "refused_app": {"$nin": [None, revision]},
            "deleted_at": None,
        }
        change = {"retry_at": None, "needs_maintenance": True, "due_at": utcnow()}
        with translate_errors():
            await self._collection.update_many(query, {"$set": Integration.stored_fields(change)})

    # Background work

    def leases(self, *, heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S) -> Leases[Integration]:
        """Return the leases for refreshing integrations."""
        return Leases(self._collection, Integration, heartbeat_interval_s=heartbeat_interval_s)

    async def publish_pending(self) -> None:
        """Publish events that other processes stored but did not publish: see `Outbox.publish_pending`."""
        await self._outbox.publish_pending()

    async def due_ids(self, limit: int) -> list[str]:
        """Return the ids of up to `limit` integrations that are due, the oldest first.

        The query is answered from the index alone. Raises `DatabaseUnavailable`.
        """
        with translate_errors():
            documents = (
                await self._collection.find(_due_query(utcnow()), {"_id": 1, "due_at": 1})
                .sort([("due_at", 1), ("_id", 1)])
                .limit(limit)
                .to_list(limit)
            )
        return [document["_id"] for document in documents]

    async def postpone(self, integration_id: str, delay: timedelta) -> None:
        """Make an integration due later, if it is due. Raises `DatabaseUnavailable`."""
        now = utcnow()
        with translate_errors():
            await self._collection.update_one(
                {"_id": integration_id, **_due_query(now)},
                {"$set": Integration.stored_fields({"due_at": now + delay})},
            )


def _due_query(at: datetime) -> Document:
    return {**OPEN_FILTER, "due_at": {"$lte": at}}


def _new_document(integration: Integration) -> Document:
    """Return the document to insert: the fields that were given, and no others."""
    given = integration.model_fields_set
    return Integration.stored_fields(
        {name: getattr(integration, name) for name in Integration.model_fields if name in given}
    )
