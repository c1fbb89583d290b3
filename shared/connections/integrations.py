"""Integrations in MongoDB: state, sealed credential and outbox of each connected account.

One document holds all three. New tokens, the state that follows from them and the event about it are one
write, which a crash cannot split. `version` rises with each credential: a write for a version that is not
the stored one does nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import orjson

from shared.contracts.envelope import Event, rfc3339
from shared.contracts.errors import NotFound, Rejected, RetryLater
from shared.contracts.ids import EventId, derive
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime import configuration
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Vault
from shared.wire.tracing import child_traceparent

COLLECTION: Final = "integrations"
OPEN_FILTER: Final = {"open": True}
"""Maintenance has to act at `due_at`: refresh a token, or note its expiry."""
IDENTITY_FILTER: Final = {"holds_identity": True}
"""No other integration of the workspace may have the same `identity` (see account_identity.py of oauth)."""
SOLE_FILTER: Final = {"sole": True}
"""The only integration of its account in the workspace: a second one cannot be stored."""
OUTBOX_PENDING: Final = {"untold": True}
"""Events stay in `events` until Kafka has acknowledged them."""
_USER_INDEX_KEYS: Final = (("workspace", 1), ("user", 1), ("deleted_at", 1))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("provider", 1), ("created_at", -1), ("_id", -1))),
        # For the list of one user, also by provider or status. Each index has every field of the query,
        # because the embedded database reads the whole collection for a field that the index lacks.
        Index((*_USER_INDEX_KEYS, ("created_at", -1), ("_id", -1))),
        Index((*_USER_INDEX_KEYS, ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((*_USER_INDEX_KEYS, ("provider", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("provider", 1), ("account.id", 1), ("workspace", 1))),
        Index(
            (("workspace", 1), ("provider", 1), ("kind", 1), ("account.id", 1)),
            unique=True,
            where=SOLE_FILTER,
        ),
        Index((("workspace", 1), ("identity", 1)), unique=True, where=IDENTITY_FILTER),
        # `open` is a key too, so that the index alone answers the query.
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN_FILTER),
        Index((("changed_at", 1), ("_id", 1)), where=OUTBOX_PENDING),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

IntegrationStatus = Literal["pending", "connected", "reauth_required", "error", "disabled", "disconnected"]
IntegrationEventType = Literal[
    "integration.connected",
    "integration.refreshed",
    "integration.reauth_required",
    "integration.disconnected",
    "integration.error",
    "integration.recovered",
    "integration.taken_over",
]

_ROUTING_FIELDS: Final = ("status", "account", "app", "deleted_at")
"""Fields that decide where an account's webhooks go. Other processes are notified when one changes."""
_MAX_PER_ACCOUNT: Final = 1000
_PUBLISH_TIMEOUT_S: Final = 2.0
_OUTBOX_INTERVAL_S: Final = 1.0
_OUTBOX_BATCH: Final = 200
_MAX_PENDING_EVENTS: Final = 20
_MAX_NAME_LENGTH: Final = 100
_OUTBOX_DELAY: Final = timedelta(seconds=5)
"""The process that stored an event publishes it within this time. After that, any process may."""


class IntegrationRepository:
    """Reads and writes integrations, seals their credentials, and publishes their events."""

    def __init__(self, mongo: Mongo, vault: Vault, producer: Producer, log: Log) -> None:
        self._mongo = mongo
        self.collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._producer = producer
        self._log = log

    async def find(self, integration_id: str, workspace: str | None = None) -> Document:
        """Read an integration. If it was merged into another one of the same account, return that one.

        Raises `NotFound`, also if it belongs to another workspace, and `DatabaseUnavailable`.
        """
        query: dict[str, Any] = {"_id": integration_id}
        if workspace is not None:
            query["workspace"] = workspace
        with translate_errors():
            document = await self.collection.find_one(query)
            if document is not None and document.get("merged_into"):
                document = await self.collection.find_one({**query, "_id": document["merged_into"]})
        if document is None or document["deleted_at"] is not None:
            raise NotFound("there is no such integration")
        return document

    async def of_account(self, provider: str, account: str, workspace: str | None = None) -> list[Document]:
        """Return the integrations of a provider's account, in one workspace or in all, at most 1,000.

        Raises `DatabaseUnavailable`.
        """
        # `deleted_at` is no part of the query: the index lacks it, and the embedded database would read all
        # documents.
        query = {"provider": provider, "account.id": account}
        if workspace is not None:
            query["workspace"] = workspace
        with translate_errors():
            documents = await self.collection.find(query).limit(_MAX_PER_ACCOUNT).to_list(_MAX_PER_ACCOUNT)
        return [document for document in documents if document["deleted_at"] is None]

    def seal(self, document: Mapping[str, Any], secrets: Mapping[str, Any]) -> Any:
        """Encrypt a credential. The result can be opened only for this integration and workspace."""
        return self._vault.seal(
            orjson.dumps(secrets).decode(),
            workspace=document["workspace"],
            record=document["_id"],
            field="credential",
        )

    def open(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Decrypt the credential of an integration. Raises `Misconfigured` if it does not open."""
        text = self._vault.open(
            document["credential"],
            workspace=document["workspace"],
            record=document["_id"],
            field="credential",
        )
        credential: dict[str, Any] = orjson.loads(text)
        return credential

    async def add(self, document: Document, *, publish: IntegrationEventType) -> Document:
        """Store a new integration with an event about it, and publish the event.

        Raises `Duplicate` if the account may have one integration only and has one, and
        `DatabaseUnavailable`.
        """
        moment = utcnow()
        added = {
            **document,
            "changed_at": moment,
            "events": [_build_event(document, publish, moment)],
            "untold": True,
        }
        with translate_errors():
            await self.collection.insert_one(added)
        await configuration.record_changes(self._mongo, COLLECTION, added["_id"])
        await self.publish(added)
        return added

    async def change(
        self,
        document: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        publish: IntegrationEventType | Sequence[IntegrationEventType] | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> Document | None:
        """Change an integration, store events about it in the same write, and publish them.

        Return None if the stored version is not that of `document`, or if `condition` (more fields to match,
        such as a lease's fence) does not hold. A `version` in `change` is the new version. Raises `Duplicate`
        if another integration has the same identity, and `DatabaseUnavailable`.
        """
        moment = utcnow()
        update: dict[str, Any] = {"$set": {**change, "changed_at": moment}}
        if publish:
            kinds = (publish,) if isinstance(publish, str) else publish
            after = {**document, **change}
            # One write for state and events: a crash cannot store a change without its event.
            events = [_build_event(after, kind, moment, before=document) for kind in kinds]
            update["$push"] = {"events": {"$each": events, "$slice": -_MAX_PENDING_EVENTS}}
            update["$set"]["untold"] = True
        query = {
            "_id": document["_id"],
            "version": document["version"],
            "deleted_at": None,
            **(condition or {}),
        }
        with translate_errors():
            changed = await self.collection.find_one_and_update(query, update, return_document=True)
        # Before the events, so that other processes forget the old state before they read of the new one.
        if changed is not None and any(
            name in change and change[name] != document.get(name) for name in _ROUTING_FIELDS
        ):
            await configuration.record_changes(self._mongo, COLLECTION, changed["_id"])
        if changed is not None and publish:
            await self.publish(changed)
        return changed

    async def publish(self, document: Mapping[str, Any]) -> bool:
        """Publish the stored events of an integration in order. Return whether none is left.

        Without Kafka they stay in the outbox. Without MongoDB they may be published again, with the same ids.
        An event that Kafka will never accept is dropped. Nothing is raised: the caller's change is stored by
        now, and must not seem to have failed.
        """
        events: Sequence[Document] = document.get("events") or []
        try:
            for event in events:
                await self._publish_event(document, event)
            with translate_errors():
                await self.collection.update_one(
                    {"_id": document["_id"]},
                    {"$pull": {"events": {"id": {"$in": [event["id"] for event in events]}}}},
                )
                # Only if no other process has stored more events since.
                await self.collection.update_one(
                    {"_id": document["_id"], "events": []}, {"$set": {"untold": False}}
                )
        except RetryLater as error:
            self._log.warning("integration.publish_delayed", integration_id=document["_id"], error=str(error))
            return False
        return True

    async def _publish_event(self, document: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        record = event_record(INTEGRATION_EVENTS, document["_id"], _to_envelope(document, event))
        try:
            await self._producer.publish(record, timeout_s=_PUBLISH_TIMEOUT_S)
        except Rejected as error:
            self._log.error(
                "integration.event_dropped",
                integration_id=document["_id"],
                type=event["type"],
                error=str(error),
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
        with translate_errors():
            await self.collection.update_many(
                query, {"$set": {"retry_at": None, "open": True, "due_at": utcnow()}}
            )

    async def publish_pending(self) -> None:
        """Publish events that other processes stored but did not publish, the oldest first.

        Stop at the first failure. Raises `DatabaseUnavailable`.
        """
        before = utcnow() - _OUTBOX_DELAY
        query = {**OUTBOX_PENDING, "changed_at": {"$lt": before}}
        with translate_errors():
            documents = (
                await self.collection.find(query)
                .sort([("changed_at", 1)])
                .limit(_OUTBOX_BATCH)
                .to_list(_OUTBOX_BATCH)
            )
        for document in documents:
            if not await self.publish(document):
                return


def display_name(document: Mapping[str, Any]) -> str:
    """Return the name to show: the integration's own, else its account's label, else the provider.

    If the account has several resources, the label of the selected one is added.
    """
    if document["name"]:
        return str(document["name"])
    account = document.get("account") or {}
    parts = (account.get("label"), (account.get("choice") or {}).get("label"))
    return ": ".join(filter(None, parts))[:_MAX_NAME_LENGTH] or str(document["provider"])


def _build_event(
    document: Mapping[str, Any],
    kind: IntegrationEventType,
    moment: datetime,
    *,
    before: Mapping[str, Any] | None = None,
) -> Document:
    """Return an outbox entry. Its id is derived, so that publishing it twice is one event."""
    account = document.get("account") or {}
    data = {
        "integrationId": document["_id"],
        "provider": document["provider"],
        "user": document.get("user"),
        "status": document["status"],
        "reason": document.get("reason") or None,
        "account": {"id": account["id"], "label": account["label"]} if account else None,
        "scopes": document.get("scopes", []),
        "expiresAt": rfc3339(document["expires_at"]) if document.get("expires_at") else None,
    }
    if kind == "integration.taken_over" and before is not None:
        data["previousUser"] = before.get("user")
    digest = derive(document["_id"], kind, str(document["version"]), rfc3339(moment))
    return {"id": f"evt_{digest}", "type": kind, "at": moment, "data": data}


def _to_envelope(document: Mapping[str, Any], event: Mapping[str, Any]) -> Event:
    return Event(
        id=EventId(event["id"]),
        type=event["type"],
        source="/integrations",
        workspace=document["workspace"],
        time=rfc3339(event["at"]),
        data=orjson.dumps(event["data"]),
        subject=document["_id"],
        traceparent=child_traceparent(""),
    )
