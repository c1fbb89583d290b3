"""Watches: subscriptions at the platforms of connected accounts, made, renewed before they end, cancelled.

A watch is worked on by whoever takes its lease, which is its due time: a process that dies leaves it due. Its
id is derived from what is watched, and the endpoint is made under an idempotency key, so a repeat finds what
was there. What the platform made in a turn that was not written down ends by itself.

A watch that belongs to an app is one for all accounts of a workspace that are connected with this app: each
joins it, and it is cancelled when the last one leaves. One that lacks a setting of the app is pending, and it
is due when the app is changed. What is asked of the platform is in `watch_making.py`.
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final

from services.oauth.endpoints import Endpoints
from services.oauth.watch_making import Lacking, Making, kind_of, kinds
from shared.catalog.connector import Refused
from shared.catalog.entering import entered
from shared.catalog.registry import connectors
from shared.catalog.watches import Watch
from shared.contracts.errors import Conflict, InterlinkError, Invalid, NotFound, RetryLater
from shared.contracts.ids import watch_id_for
from shared.runtime.apps import COLLECTION as APPS
from shared.runtime.apps import registered_as
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.metrics import WATCHES
from shared.runtime.mongo import Collection, Document, Duplicate, Index, Mongo, translated, utcnow
from shared.runtime.periodic import Periodic
from shared.runtime.secrets import Vault
from shared.runtime.tokens import NotConnected, TokenSource
from shared.wire.fills import Unfillable

COLLECTION: Final = "watches"
_OPEN: Final = {"open": True}
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("integrations", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=_OPEN),
        Index((("provider", 1), ("status", 1)), where=_OPEN),
    )
}
MOST: Final = 100
"""Of one integration."""
_LEASE: Final = timedelta(seconds=90)
_PATIENCE_S: Final = 15.0
_LOOK_S: Final = 0.1
_PAGE: Final = 100
_AT_ONCE: Final = 10
_FIRST_PAUSE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 6 * 3600.0
_WAITS: Final = timedelta(seconds=30)
_ASLEEP: Final = timedelta(hours=1)
_SKEW: Final = timedelta(minutes=1)
"""How far clocks may differ."""
_TOLD: Final = timedelta(seconds=2)
"""After so long every process knows an app as it is now."""
_TRIES: Final = 5
_LIVE: Final = ("connected", "error")
_NEW: Final[Mapping[str, Any]] = {
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
"""What a watch is before it is made."""


class Watching:
    """The watches of all integrations. A part of the service."""

    def __init__(
        self,
        mongo: Mongo,
        vault: Vault,
        integrations: Integrations,
        tokens: TokenSource,
        endpoints: Endpoints,
        log: Log,
        *,
        every_s: float,
    ) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self._apps: Collection = mongo.collection(APPS)
        self._revisions: dict[str, str] = {}
        """Of the apps as they were when it was looked last, at `_looked`."""
        self._looked: datetime | None = None
        self._integrations = integrations
        self._tokens = tokens
        self._endpoints = endpoints
        self._making = Making(self.collection, vault, tokens, endpoints, log)
        self._log = log
        self._turn = Periodic(self.turn, every_s, log)

    async def start(self) -> None:
        await self._turn.start()

    async def stop(self) -> None:
        await self._turn.stop()

    # For the API and the dance

    async def add(
        self, integration: Document, kind: str, resource: Mapping[str, str], *, channel: str | None
    ) -> Document:
        """Watch something more; what is watched already stays as it is.

        Raises `Invalid`, `Conflict`, `StoreUnavailable`.
        """
        watch = kind_of(integration["provider"], kind)
        values = entered(watch.resource, resource, place="resource")
        with translated():
            there = await self.collection.count_documents({"integrations": integration["_id"]}, limit=MOST)
        if there >= MOST:
            raise Conflict(f"an integration has {MOST} watches at most")
        return await self._ensure(integration, watch, values, channel)

    async def expect(self, integration: Document) -> None:
        """An account is about to be connected: note its automatic watches, to be made once it is."""
        connecting = {**integration, "app": None}  # with the app of now, whatever the one before was
        for watch in kinds(integration["provider"]):
            if watch.automatic:
                defaults = entered(watch.resource, {}, place="resource")
                await self._ensure(connecting, watch, defaults, None)

    async def wake(self, integration: str) -> None:
        """An account is connected (again): what waits for it is due now."""
        waiting = {"integrations": integration, "status": {"$in": ["pending", "stopped", "failing"]}}
        with translated():  # whoever works on one keeps its lease
            await self.collection.update_many(
                {**waiting, "working": False}, {"$set": {"due_at": utcnow(), "failures": 0}}
            )

    async def of(self, integration: str) -> list[Document]:
        """The watches of an integration, newest first."""
        with translated():
            return (
                await self.collection.find({"integrations": integration})
                .sort([("created_at", -1), ("_id", -1)])
                .to_list(MOST)
            )

    async def find(self, integration: str, name: str) -> Document:
        """One of an integration's. Raises `NotFound`."""
        with translated():
            found = await self.collection.find_one({"_id": name, "integrations": integration})
        if found is None:
            raise NotFound("no such watch")
        return found

    async def end(self, document: Document, integration: str) -> None:
        """An account has no use for it any more. Where others share it, it goes on for them.

        Else it is cancelled at the platform and its endpoint removed, as far as they let us; then it is gone.
        """
        leave = {"$pull": {"integrations": integration}}
        others = {"_id": document["_id"], "integrations": {"$ne": [integration]}}
        with translated():
            left = await self.collection.update_one(others, leave)
        if left.matched_count:
            return
        taken = await self._taken(document)
        if taken["integrations"] == [integration]:
            await self._remove(taken)
            return
        free = {"open": True, "working": False, "due_at": utcnow()}
        with translated():  # an account has joined it just now
            await self.collection.update_one({"_id": document["_id"]}, {**leave, "$set": free})

    async def _remove(self, document: Document) -> None:
        account = await self._account(document, every=True)
        if account is not None and await self._lives_on(document, account):
            self._log.info("watch not cancelled: others need it", watch_id=document["_id"])
        elif account is not None:
            await self._making.cancel(document, account)
        elif document["made"]:
            self._log.warning("watch not cancelled", watch_id=document["_id"], why="it has no account")
        now = utcnow()  # should this process die from here on, it is made anew, with another endpoint
        forgotten = {**_NEW, "working": True, "due_at": now + _LEASE, "created_at": now}
        with translated():
            await self.collection.update_one(
                {"_id": document["_id"], "fence": document["fence"]}, {"$set": forgotten}
            )
        if document.get("endpoint_id"):
            try:
                await self._endpoints.remove(document["workspace"], document["endpoint_id"])
            except InterlinkError as error:
                self._log.warning("endpoint not removed", watch_id=document["_id"], why=str(error)[:200])
        alone = {"_id": document["_id"], "integrations": document["integrations"]}
        with translated():
            gone = await self.collection.delete_one(alone)
            if not gone.deleted_count:  # an account has joined it meanwhile: it is made anew for that one
                now = utcnow()  # also when it was created: another endpoint is another request
                await self.collection.update_one(
                    {"_id": document["_id"]},
                    {
                        "$pull": {"integrations": {"$in": document["integrations"]}},
                        "$set": {**_NEW, "due_at": now, "created_at": now},
                    },
                )

    async def _lives_on(self, document: Document, account: Document) -> bool:
        """Whether the platform has one for an account and an app, which other integrations watch by."""
        watch = next((each for each in kinds(document["provider"]) if each.id == document["watch"]), None)
        whose = account.get("account")
        if watch is None or watch.of_app or watch.renew is None or watch.renew != watch.create or not whose:
            return False
        alike = [
            other["_id"]
            for other in await self._integrations.of_account(document["provider"], whose["id"])
            if other["_id"] != account["_id"]
            and other["status"] in _LIVE
            and other.get("app") == account.get("app")
        ]
        with translated():
            return any(
                [
                    await self.collection.count_documents({"integrations": name, "watch": watch.id}, limit=1)
                    for name in alike
                ]
            )

    async def _taken(self, document: Document) -> Document:
        """The watch, out of the hands of whoever is working on it: he is waited for, a while."""
        deadline = monotonic() + _PATIENCE_S
        waits = True
        while waits:
            waits = monotonic() < deadline
            free: dict[str, Any] = {"_id": document["_id"]}
            if waits:
                free["$or"] = [{"working": False}, {"due_at": {"$lte": utcnow()}}]
            with translated():
                taken: Document | None = await self.collection.find_one_and_update(
                    free,
                    # Its lease: should this process die here, the watch is looked after again.
                    {
                        "$set": {"open": True, "working": True, "due_at": utcnow() + _LEASE},
                        "$inc": {"fence": 1},
                    },
                    return_document=True,
                )
            if taken is not None:
                return taken
            await asyncio.sleep(_LOOK_S)
        return document  # somebody else has ended it

    async def end_all(self, integration: str) -> None:
        """The integration ends."""
        while found := await self.of(integration):
            for document in found:
                await self.end(document, integration)

    async def _ensure(
        self, integration: Document, watch: Watch, values: Mapping[str, str], channel: str | None
    ) -> Document:
        pairs = [f"{name}={value}" for name, value in sorted(values.items())]
        app = self._tokens.app_of(integration) if watch.of_app else None
        whose = integration["_id"]
        if app is not None:
            whose = " ".join((integration["workspace"], *registered_as(app)))
        name, now = watch_id_for(whose, watch.id, *pairs), utcnow()
        document: Document = {
            **_NEW,
            "_id": name,
            "workspace": integration["workspace"],
            "integrations": [integration["_id"]],
            "app": None if app is None else list(registered_as(app)),
            "provider": integration["provider"],
            "watch": watch.id,
            "resource": dict(values),
            "channel_id": channel,
            "due_at": now,
            "fence": 0,
            "created_at": now,
        }
        for _ in range(_TRIES):
            try:
                with translated():
                    await self.collection.insert_one(document)
            except Duplicate:
                with translated():
                    joined: Document | None = await self.collection.find_one_and_update(
                        {"_id": name},
                        {"$addToSet": {"integrations": integration["_id"]}},
                        return_document=True,
                    )
                if joined is not None:
                    return joined
            else:
                return document
        raise Conflict("the watch is made and ended all the time: try again")

    # By itself

    async def turn(self) -> None:
        """Make and renew what is due."""
        await self._notice()
        with translated():
            due = (
                await self.collection.find({**_OPEN, "due_at": {"$lte": utcnow()}}, {"_id": 1, "due_at": 1})
                .sort([("due_at", 1), ("_id", 1)])
                .limit(_PAGE)
                .to_list(_PAGE)
            )
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                try:
                    claimed = await self._claim(name)
                    if claimed is not None:
                        await self._work(claimed)
                except Exception as error:  # noqa: BLE001 -- it is due again when its lease ends; others go on
                    self._log.error("watch not looked after", watch_id=name, error=repr(error)[:200])

        await asyncio.gather(*(one(document["_id"]) for document in due))

    async def _notice(self) -> None:
        """What depends on an app that was changed is due, once this process knows the app as it is now.

        At the start also what waits, or failed: an app of the environment or of files may be another one.
        """
        since = self._looked and {"changed_at": {"$gte": self._looked - _SKEW}}
        looked = utcnow()
        with translated():
            found = await self._apps.find(
                since or {}, {"provider": 1, "workspace": 1, "revision": 1}
            ).to_list(None)
        changed = [app for app in found if self._revisions.get(app["_id"]) != app["revision"]]
        if self._looked is None:
            await self._due({"status": {"$in": ["pending", "failing"]}})
        else:
            for app in changed:
                for provider, names in dependent(app["provider"]).items():
                    whose = {"workspace": app["workspace"]} if app["workspace"] else {}
                    status = {"$in": ["pending", "failing", "active"]}
                    await self._due(
                        {"provider": provider, "status": status, "watch": {"$in": names}, **whose}
                    )
        self._revisions |= {app["_id"]: app["revision"] for app in changed}
        self._looked = looked

    async def _due(self, which: Mapping[str, Any]) -> None:
        """Soon, but for what is being worked on."""
        with translated():
            await self.collection.update_many(
                {**which, **_OPEN, "working": False}, {"$set": {"due_at": utcnow() + _TOLD}}
            )

    async def _claim(self, name: str) -> Document | None:
        now = utcnow()
        with translated():
            return await self.collection.find_one_and_update(
                {"_id": name, **_OPEN, "due_at": {"$lte": now}},
                {"$set": {"due_at": now + _LEASE, "working": True}, "$inc": {"fence": 1}},
                return_document=True,
            )

    async def _work(self, document: Document) -> None:
        account = await self._account(document)
        if account is None:
            await self._remove(document)
            return
        if account["status"] == "pending":
            await self._making.write(document, {"due_at": utcnow() + _WAITS})
            return
        if account["status"] not in _LIVE:
            await self._making.write(document, {"status": "stopped", "due_at": utcnow() + _ASLEEP})
            return
        try:
            change = await self._making.renewed(document, account)
        except Lacking as error:
            await self._waits(document, str(error))
        except (RetryLater, NotConnected) as error:
            await self._failed(document, "unavailable", str(error))
        except Refused as error:
            await self._failed(document, error.code, error.detail or "the platform refuses")
        except (Unfillable, Invalid) as error:
            await self._failed(document, "not_made", str(error))
        else:
            WATCHES.labels(document["provider"], "renewed").inc()
            await self._making.write(document, change)

    async def _account(self, document: Document, *, every: bool = False) -> Document | None:
        """The account that its requests are made for: a connected one, else one that may come to be.

        An account that is connected with another app by now does not count, but for `every`.
        """
        found: list[Document] = []
        for name in document["integrations"]:
            try:
                account = await self._integrations.find(name)
            except NotFound:
                continue
            live = account["status"] in _LIVE
            if live and document["app"] not in (None, account.get("app")) and not every:
                continue
            if live:
                return account
            found.append(account)
        return next((each for each in found if each["status"] == "pending"), found[0] if found else None)

    async def _waits(self, document: Document, detail: str) -> None:
        """For what it lacks: due again when an app is changed, and now and then."""
        change: dict[str, Any] = {
            "failures": 0,
            "due_at": utcnow() + _ASLEEP,
            "last_error": {"at": utcnow(), "code": "missing_setting", "detail": detail[:300]},
        }
        if _over(document):
            change["status"] = "pending"
        await self._making.write(document, change)

    async def _failed(self, document: Document, code: str, detail: str) -> None:
        failures = document["failures"] + 1
        base = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 20), _LONGEST_PAUSE_S)
        pause = timedelta(seconds=base * random.uniform(0.8, 1.2))  # noqa: S311 -- only to spread
        WATCHES.labels(document["provider"], "failed").inc()
        change: dict[str, Any] = {
            "failures": failures,
            "due_at": utcnow() + pause,
            "last_error": {"at": utcnow(), "code": code, "detail": detail[:300]},
        }
        if _over(document):
            change["status"] = "failing"
        await self._making.write(document, change)


def dependent(app: str) -> dict[str, list[str]]:
    """What is watched with the help of an app's settings or secrets, by provider; `app` is the app's own."""
    found = {
        provider: [watch.id for watch in kinds(provider) if watch.needs or watch.endpoint_secret]
        for provider, connector in connectors().items()
        if connector.app == app
    }
    return {provider: names for provider, names in found.items() if names}


def _over(document: Document) -> bool:
    """Whether nothing of it is at the platform (any more)."""
    ends = document["expires_at"]
    return ends is None or ends <= utcnow()
