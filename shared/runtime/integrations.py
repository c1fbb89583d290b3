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
from shared.runtime.kafka.produce import Producer, record_of
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_S, Document, Index, Mongo, translated, utcnow
from shared.runtime.secrets import Vault
from shared.wire.tracing import child_of

COLLECTION: Final = "integrations"
OPEN: Final = {"open": True}
"""Something is to be done at `due_at`: a token to be made anew, or an end to be noted."""
HOLDS_IDENTITY: Final = {"holds_identity": True}
"""No other integration of the workspace may have its `identity` (services/oauth/identity.py)."""
SOLE: Final = {"sole": True}
"""It is the only integration of its account in the workspace: nobody can save the account a second time."""
UNTOLD: Final = {"untold": True}
"""Events are kept in `events` until they are on Kafka."""
_OF_USER: Final = (("workspace", 1), ("user", 1), ("deleted_at", 1))
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("provider", 1), ("created_at", -1), ("_id", -1))),
        # A user's, all or of a provider or status: with everything that the list asks for, because the
        # embedded store reads the whole collection for a field that the index lacks.
        Index((*_OF_USER, ("created_at", -1), ("_id", -1))),
        Index((*_OF_USER, ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((*_OF_USER, ("provider", 1), ("status", 1), ("created_at", -1), ("_id", -1))),
        Index((("provider", 1), ("account.id", 1), ("workspace", 1))),
        Index((("workspace", 1), ("provider", 1), ("kind", 1), ("account.id", 1)), unique=True, where=SOLE),
        Index((("workspace", 1), ("identity", 1)), unique=True, where=HOLDS_IDENTITY),
        # `open` is a key, too: a query that asks for it is answered from the index alone.
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=OPEN),
        Index((("changed_at", 1), ("_id", 1)), where=UNTOLD),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_S),
    )
}

Status = Literal["pending", "connected", "reauth_required", "error", "disabled", "disconnected"]
Told = Literal[
    "integration.connected",
    "integration.refreshed",
    "integration.reauth_required",
    "integration.disconnected",
    "integration.error",
    "integration.recovered",
    "integration.taken_over",
]

_JUDGED_BY: Final = ("status", "account", "app", "deleted_at")
"""What decides whose the events of an account are: other processes are told when it changes."""
_MOST_ALIKE: Final = 1000
_WITHIN_S: Final = 2.0
_LOOK_S: Final = 1.0
_PAGE: Final = 200
_MOST_UNTOLD: Final = 20
_LONGEST_NAME: Final = 100
_PATIENCE: Final = timedelta(seconds=5)
"""Who wrote an event tells it himself within this time; after that, anybody does."""


class Integrations:
    """The collection, its credentials, and the telling of its events. A part of every service that has it."""

    def __init__(self, mongo: Mongo, vault: Vault, producer: Producer, log: Log) -> None:
        self._mongo = mongo
        self.collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._producer = producer
        self._log = log

    async def find(self, name: str, workspace: str | None = None) -> Document:
        """One that is there. Raises `NotFound`, also for another workspace's; `StoreUnavailable`.

        For a connection that turned out to be of an account that was connected already, it is that account's.
        """
        query: dict[str, Any] = {"_id": name}
        if workspace is not None:
            query["workspace"] = workspace
        with translated():
            document = await self.collection.find_one(query)
            if document is not None and document.get("merged_into"):
                document = await self.collection.find_one({**query, "_id": document["merged_into"]})
        if document is None or document["deleted_at"] is not None:
            raise NotFound("no such integration")
        return document

    async def of_account(self, provider: str, account: str, workspace: str | None = None) -> list[Document]:
        """Those of an account of a provider, of one workspace or of all, at most 1,000.

        Asked for is only what the index has: for more, the embedded store would read all documents. Raises
        `StoreUnavailable`.
        """
        query = {"provider": provider, "account.id": account}
        if workspace is not None:
            query["workspace"] = workspace
        with translated():
            found = await self.collection.find(query).limit(_MOST_ALIKE).to_list(_MOST_ALIKE)
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

    async def add(self, document: Document, *, tell: Told) -> Document:
        """Write a new one, with the event that tells of it.

        Raises `Duplicate`: the account has one already, where it may have one only; `StoreUnavailable`.
        """
        moment = utcnow()
        added = {**document, "changed_at": moment, "events": [_event(document, tell, moment)], "untold": True}
        with translated():
            await self.collection.insert_one(added)
        await configuration.record(self._mongo, COLLECTION, added["_id"])
        await self.tell(added)
        return added

    async def change(
        self,
        document: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        tell: Told | Sequence[Told] | None = None,
        only: Mapping[str, Any] | None = None,
    ) -> Document | None:
        """Write a change, with the events that tell of it; None when the document is not what was read.

        `only` is what has to hold beside it (a lease's fence). `version` in `change` is the new one. Raises
        `Duplicate`: another integration has the identity; `StoreUnavailable`.
        """
        moment = utcnow()
        update: dict[str, Any] = {"$set": {**change, "changed_at": moment}}
        if tell:
            kinds = (tell,) if isinstance(tell, str) else tell
            after = {**document, **change}
            events = [_event(after, kind, moment, before=document) for kind in kinds]
            update["$push"] = {"events": {"$each": events, "$slice": -_MOST_UNTOLD}}
            update["$set"]["untold"] = True
        query = {"_id": document["_id"], "version": document["version"], "deleted_at": None, **(only or {})}
        with translated():
            changed = await self.collection.find_one_and_update(query, update, return_document=True)
        if changed is not None and any(
            name in change and change[name] != document.get(name) for name in _JUDGED_BY
        ):
            await configuration.record(self._mongo, COLLECTION, changed["_id"])
        if changed is not None and tell:
            await self.tell(changed)
        return changed

    async def tell(self, document: Mapping[str, Any]) -> bool:
        """Publish what is untold, in order: whether that is done.

        Without the bus it stays untold, and is told later. Without the store it may be told again, as the
        same event. One that Kafka never takes is left out. None of this is the business of whoever has made
        the change, which is written by now.
        """
        events: Sequence[Document] = document.get("events") or []
        try:
            for event in events:
                await self._told(document, event)
            with translated():
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

    async def _told(self, document: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        record = record_of(INTEGRATION_EVENTS, document["_id"], _published(document, event))
        try:
            await self._producer.publish(record, within_s=_WITHIN_S)
        except Rejected as error:
            self._log.error(
                "event dropped: it cannot be told",
                integration_id=document["_id"],
                type=event["type"],
                error=str(error),
            )

    async def end_pauses(self, providers: Sequence[str], app: Sequence[str], revision: str) -> None:
        """Let integrations that wait because the platform refused their app ask again, now.

        `app` is `registered_as` the app that was repaired, and `revision` what it is now. Raises
        `StoreUnavailable`.
        """
        query = {
            "provider": {"$in": list(providers)},
            "app": list(app),
            "refused_app": {"$nin": [None, revision]},
            "deleted_at": None,
        }
        with translated():
            await self.collection.update_many(
                query, {"$set": {"retry_at": None, "open": True, "due_at": utcnow()}}
            )

    async def tell_all(self) -> None:
        """What others left untold, the oldest first, as long as bus and store take it."""
        before = utcnow() - _PATIENCE
        query = {**UNTOLD, "changed_at": {"$lt": before}}
        with translated():
            found = await self.collection.find(query).sort([("changed_at", 1)]).limit(_PAGE).to_list(_PAGE)
        for document in found:
            if not await self.tell(document):
                return


def name_of(document: Mapping[str, Any]) -> str:
    """What people call an integration: its own name, else the label of its account, else the provider.

    Where the account has several places, the place is said too: each has an integration of its own.
    """
    if document["name"]:
        return str(document["name"])
    account = document.get("account") or {}
    parts = (account.get("label"), (account.get("choice") or {}).get("label"))
    return ": ".join(filter(None, parts))[:_LONGEST_NAME] or str(document["provider"])


def _event(
    document: Mapping[str, Any], kind: Told, moment: datetime, *, before: Mapping[str, Any] | None = None
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


def _published(document: Mapping[str, Any], event: Mapping[str, Any]) -> Event:
    return Event(
        id=EventId(event["id"]),
        type=event["type"],
        source="/integrations",
        workspace=document["workspace"],
        time=rfc3339(event["at"]),
        data=orjson.dumps(event["data"]),
        subject=document["_id"],
        traceparent=child_of(""),
    )
