"""Integrations in the store: who is connected, with which sealed credential, and what is to be told of it.

One document holds the state, the credential and the events that are still to be published, so new tokens,
the state that they mean and the event that tells of it are one write, which a crash cannot cut in two.
`version` grows with each credential: a write that is not of the version it has read does nothing.
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
"""Something is to be done at `due_at`: a token to be made anew, or an end to be noted."""
IDENTITY_FILTER: Final = {"holds_identity": True}
"""No other integration of the workspace may have its `identity`
(services/oauth/authorization/account_identity.py).
"""
SOLE_FILTER: Final = {"sole": True}
"""It is the only integration of its account in the workspace: nobody can save the account a second time."""
OUTBOX_PENDING: Final = {"untold": True}
"""Events are kept in `events` until they are on Kafka."""
_USER_INDEX_KEYS: Final = (("workspace", 1), ("user", 1), ("deleted_at", 1))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("provider", 1), ("created_at", -1), ("_id", -1))),
        # A user's, all or of a provider or status: with everything that the list asks for, because the
        # embedded store reads the whole collection for a field that the index lacks.
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
        # `open` is a key, too: a query that asks for it is answered from the index alone.
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
"""What decides whose the events of an account are: other processes are told when it changes."""
_MAX_PER_ACCOUNT: Final = 1000
_PUBLISH_TIMEOUT_S: Final = 2.0
_OUTBOX_INTERVAL_S: Final = 1.0
_OUTBOX_BATCH: Final = 200
_MAX_PENDING_EVENTS: Final = 20
_MAX_NAME_LENGTH: Final = 100
_OUTBOX_DELAY: Final = timedelta(seconds=5)
"""Who wrote an event tells it himself within this time; after that, anybody does."""


class IntegrationRepository:
    """The collection, its credentials, and the telling of its events. A part of every service that has it."""

    def __init__(self, mongo: Mongo, vault: Vault, producer: Producer, log: Log) -> None:
        self._mongo = mongo
        self.collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._producer = producer
        self._log = log

    async def find(self, name: str, workspace: str | None = None) -> Document:
        """One that is there. Raises `NotFound`, also for another workspace's; `DatabaseUnavailable`.

        For a connection that turned out to be of an account that was connected already, it is that account's.
        """
        query: dict[str, Any] = {"_id": name}
        if workspace is not None:
            query["workspace"] = workspace
        with translate_errors():
            document = await self.collection.find_one(query)
            if document is not None and document.get("merged_into"):
                document = await self.collection.find_one({**query, "_id": document["merged_into"]})
        if document is None or document["deleted_at"] is not None:
            raise NotFound("no such integration")
        return document

    async def of_account(self, provider: str, account: str, workspace: str | None = None) -> list[Document]:
        """Those of an account of a provider, of one workspace or of all, at most 1,000.

        Asked for is only what the index has: for more, the embedded store would read all documents. Raises
        `DatabaseUnavailable`.
        """
        query = {"provider": provider, "account.id": account}
        if workspace is not None:
            query["workspace"] = workspace
        with translate_errors():
            found = await self.collection.find(query).limit(_MAX_PER_ACCOUNT).to_list(_MAX_PER_ACCOUNT)
        return [document for document in found if document["deleted_at"] is None]

    def seal(self, document: Mapping[str, Any], secrets: Mapping[str, Any]) -> Any:
        """A credential as it is stored, bound to its integration and workspace."""
        return self._vault.seal(
            orjson.dumps(secrets).decode(),
            workspace=document["workspace"],
            record=document["_id"],
            field="credential",
        )

    def open(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The credential in clear. Raises `Misconfigured`: it cannot be opened."""
        text = self._vault.open(
            document["credential"],
            workspace=document["workspace"],
            record=document["_id"],
            field="credential",
        )
        found: dict[str, Any] = orjson.loads(text)
        return found

    async def add(self, document: Document, *, publish: IntegrationEventType) -> Document:
        """Write a new one, with the event that tells of it.

        Raises `Duplicate`: the account has one already, where it may have one only; `DatabaseUnavailable`.
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
        """Write a change, with the events that tell of it; None when the document is not what was read.

        `only` is what has to hold beside it (a lease's fence). `version` in `change` is the new one. Raises
        `Duplicate`: another integration has the identity; `DatabaseUnavailable`.
        """
        moment = utcnow()
        update: dict[str, Any] = {"$set": {**change, "changed_at": moment}}
        if publish:
            kinds = (publish,) if isinstance(publish, str) else publish
            after = {**document, **change}
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
        if changed is not None and any(
            name in change and change[name] != document.get(name) for name in _ROUTING_FIELDS
        ):
            await configuration.record_changes(self._mongo, COLLECTION, changed["_id"])
        if changed is not None and publish:
            await self.publish(changed)
        return changed

    async def publish(self, document: Mapping[str, Any]) -> bool:
        """Publish what is untold, in order: whether that is done.

        Without the bus it stays untold, and is told later. Without the store it may be told again, as the
        same event. One that Kafka never takes is left out. None of this is the business of whoever has made
        the change, which is written by now.
        """
        events: Sequence[Document] = document.get("events") or []
        try:
            for event in events:
                await self._publish_event(document, event)
            with translate_errors():
                await self.collection.update_one(
                    {"_id": document["_id"]},
                    {"$pull": {"events": {"id": {"$in": [each["id"] for each in events]}}}},
                )
                await self.collection.update_one(
                    {"_id": document["_id"], "events": []}, {"$set": {"untold": False}}
                )
        except RetryLater as error:
            self._log.warning("event not told yet", integration_id=document["_id"], error=str(error))
            return False
        return True

    async def _publish_event(self, document: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        record = event_record(INTEGRATION_EVENTS, document["_id"], _to_envelope(document, event))
        try:
            await self._producer.publish(record, timeout_s=_PUBLISH_TIMEOUT_S)
        except Rejected as error:
            self._log.error(
                "event dropped: it cannot be told",
                integration_id=document["_id"],
                type=event["type"],
                error=str(error),
            )

    async def clear_app_pauses(self, providers: Sequence[str], app: Sequence[str], revision: str) -> None:
        """Let integrations that wait because the platform refused their app ask again, now.

        `app` is `app_ref` the app that was repaired, and `revision` what it is now. Raises
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
        """What others left untold, the oldest first, as long as bus and store take it."""
        before = utcnow() - _OUTBOX_DELAY
        query = {**OUTBOX_PENDING, "changed_at": {"$lt": before}}
        with translate_errors():
            found = (
                await self.collection.find(query)
                .sort([("changed_at", 1)])
                .limit(_OUTBOX_BATCH)
                .to_list(_OUTBOX_BATCH)
            )
        for document in found:
            if not await self.publish(document):
                return


def display_name(document: Mapping[str, Any]) -> str:
    """What people call an integration: its own name, else the label of its account, else the provider.

    Where the account has several places, the place is said too: each has an integration of its own.
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
    """What is told; its id depends on integration, kind and moment: told twice, it is one event."""
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
    name = derive(document["_id"], kind, str(document["version"]), rfc3339(moment))
    return {"id": f"evt_{name}", "type": kind, "at": moment, "data": data}


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
