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

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoints
from services.oauth.subscriptions.provider_calls import (
    MissingSetting,
    ProviderSubscriptions,
    subscription_type,
    subscription_types,
)
from shared.connections.apps import COLLECTION as APPS
from shared.connections.apps import app_ref
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import NotConnected, TokenSource
from shared.contracts.errors import Conflict, InterlinkError, Invalid, NotFound, RetryLater
from shared.contracts.ids import provider_subscription_id_for
from shared.manifests.field_validation import validate_fields
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import connectors
from shared.manifests.subscriptions import SubscriptionSpec
from shared.runtime.logs import Log
from shared.runtime.metrics import WATCHES
from shared.runtime.mongo import Collection, Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.secrets import Vault
from shared.wire.request_template import MissingValue

COLLECTION: Final = "watches"
_OPEN: Final = {"open": True}
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("integrations", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=_OPEN),
        Index((("provider", 1), ("status", 1)), where=_OPEN),
    )
}
MAX_SUBSCRIPTIONS: Final = 100
"""Of one integration."""
_LEASE: Final = timedelta(seconds=90)
_CLAIM_TIMEOUT_S: Final = 15.0
_CLAIM_POLL_INTERVAL_S: Final = 0.1
_BATCH_SIZE: Final = 100
_MAX_CONCURRENT: Final = 10
_INITIAL_BACKOFF_S: Final = 30.0
_MAX_BACKOFF_S: Final = 6 * 3600.0
_PENDING_RECHECK_INTERVAL: Final = timedelta(seconds=30)
_IDLE_RECHECK_INTERVAL: Final = timedelta(hours=1)
_MAX_CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far clocks may differ."""
_APP_CHANGE_DELAY: Final = timedelta(seconds=2)
"""After so long every process knows an app as it is now."""
_TRIES: Final = 5
_LIVE_STATUSES: Final = ("connected", "error")
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
"""What a watch is before it is made."""


class SubscriptionLifecycle:
    """The watches of all integrations. A part of the service."""

    def __init__(
        self,
        mongo: Mongo,
        vault: Vault,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        endpoints: GatewayEndpoints,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self._apps: Collection = mongo.collection(APPS)
        self._app_revisions: dict[str, str] = {}
        """Of the apps as they were when it was looked last, at `_looked`."""
        self._apps_checked_at: datetime | None = None
        self._integrations = integrations
        self._tokens = tokens
        self._endpoints = endpoints
        self._provider_subscriptions = ProviderSubscriptions(self.collection, vault, tokens, endpoints, log)
        self._log = log
        self._periodic_task = PeriodicTask(self.run_due, interval_s, log)

    async def start(self) -> None:
        await self._periodic_task.start()

    async def stop(self) -> None:
        await self._periodic_task.stop()

    # For the API and the dance

    async def add(
        self, integration: Document, kind: str, resource: Mapping[str, str], *, channel: str | None
    ) -> Document:
        """Watch something more; what is watched already stays as it is.

        Raises `Invalid`, `Conflict`, `DatabaseUnavailable`.
        """
        watch = subscription_type(integration["provider"], kind)
        values = validate_fields(watch.resource, resource, place="resource")
        with translate_errors():
            there = await self.collection.count_documents(
                {"integrations": integration["_id"]}, limit=MAX_SUBSCRIPTIONS
            )
        if there >= MAX_SUBSCRIPTIONS:
            raise Conflict(f"an integration has {MAX_SUBSCRIPTIONS} watches at most")
        return await self._ensure(integration, watch, values, channel)

    async def prepare_automatic(self, integration: Document) -> None:
        """An account is about to be connected: note its automatic watches, to be made once it is."""
        connecting = {**integration, "app": None}  # with the app of now, whatever the one before was
        for watch in subscription_types(integration["provider"]):
            if watch.automatic:
                defaults = validate_fields(watch.resource, {}, place="resource")
                await self._ensure(connecting, watch, defaults, None)

    async def resume(self, integration: str) -> None:
        """An account is connected (again): what waits for it is due now."""
        waiting = {"integrations": integration, "status": {"$in": ["pending", "stopped", "failing"]}}
        with translate_errors():  # whoever works on one keeps its lease
            await self.collection.update_many(
                {**waiting, "working": False}, {"$set": {"due_at": utcnow(), "failures": 0}}
            )

    async def list_for(self, integration: str) -> list[Document]:
        """The watches of an integration, newest first."""
        with translate_errors():
            return (
                await self.collection.find({"integrations": integration})
                .sort([("created_at", -1), ("_id", -1)])
                .to_list(MAX_SUBSCRIPTIONS)
            )

    async def find(self, integration: str, name: str) -> Document:
        """One of an integration's. Raises `NotFound`."""
        with translate_errors():
            found = await self.collection.find_one({"_id": name, "integrations": integration})
        if found is None:
            raise NotFound("no such watch")
        return found

    async def unsubscribe(self, document: Document, integration: str) -> None:
        """An account has no use for it any more. Where others share it, it goes on for them.

        Else it is cancelled at the platform and its endpoint removed, as far as they let us; then it is gone.
        """
        leave = {"$pull": {"integrations": integration}}
        others = {"_id": document["_id"], "integrations": {"$ne": [integration]}}
        with translate_errors():
            left = await self.collection.update_one(others, leave)
        if left.matched_count:
            return
        taken = await self._claim_for_removal(document)
        if taken["integrations"] == [integration]:
            await self._remove(taken)
            return
        free = {"open": True, "working": False, "due_at": utcnow()}
        with translate_errors():  # an account has joined it just now
            await self.collection.update_one({"_id": document["_id"]}, {**leave, "$set": free})

    async def _remove(self, document: Document) -> None:
        account = await self._account(document, include_other_apps=True)
        if account is not None and await self._is_shared(document, account):
            self._log.info("watch not cancelled: others need it", watch_id=document["_id"])
        elif account is not None:
            await self._provider_subscriptions.cancel(document, account)
        elif document["made"]:
            self._log.warning("watch not cancelled", watch_id=document["_id"], why="it has no account")
        now = utcnow()  # should this process die from here on, it is made anew, with another endpoint
        forgotten = {**_INITIAL_FIELDS, "working": True, "due_at": now + _LEASE, "created_at": now}
        with translate_errors():
            await self.collection.update_one(
                {"_id": document["_id"], "fence": document["fence"]}, {"$set": forgotten}
            )
        if document.get("endpoint_id"):
            try:
                await self._endpoints.remove(document["workspace"], document["endpoint_id"])
            except InterlinkError as error:
                self._log.warning("endpoint not removed", watch_id=document["_id"], why=str(error)[:200])
        alone = {"_id": document["_id"], "integrations": document["integrations"]}
        with translate_errors():
            gone = await self.collection.delete_one(alone)
            if not gone.deleted_count:  # an account has joined it meanwhile: it is made anew for that one
                now = utcnow()  # also when it was created: another endpoint is another request
                await self.collection.update_one(
                    {"_id": document["_id"]},
                    {
                        "$pull": {"integrations": {"$in": document["integrations"]}},
                        "$set": {**_INITIAL_FIELDS, "due_at": now, "created_at": now},
                    },
                )

    async def _is_shared(self, document: Document, account: Document) -> bool:
        """Whether the platform has one for an account and an app, which other integrations watch by."""
        watch = next(
            (each for each in subscription_types(document["provider"]) if each.id == document["watch"]), None
        )
        whose = account.get("account")
        if watch is None or watch.of_app or watch.renew is None or watch.renew != watch.create or not whose:
            return False
        alike = [
            other["_id"]
            for other in await self._integrations.of_account(document["provider"], whose["id"])
            if other["_id"] != account["_id"]
            and other["status"] in _LIVE_STATUSES
            and other.get("app") == account.get("app")
        ]
        with translate_errors():
            return any(
                [
                    await self.collection.count_documents({"integrations": name, "watch": watch.id}, limit=1)
                    for name in alike
                ]
            )

    async def _claim_for_removal(self, document: Document) -> Document:
        """The watch, out of the hands of whoever is working on it: he is waited for, a while."""
        deadline = monotonic() + _CLAIM_TIMEOUT_S
        waits = True
        while waits:
            waits = monotonic() < deadline
            free: dict[str, Any] = {"_id": document["_id"]}
            if waits:
                free["$or"] = [{"working": False}, {"due_at": {"$lte": utcnow()}}]
            with translate_errors():
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
            await asyncio.sleep(_CLAIM_POLL_INTERVAL_S)
        return document  # somebody else has ended it

    async def unsubscribe_all(self, integration: str) -> None:
        """The integration ends."""
        while found := await self.list_for(integration):
            for document in found:
                await self.unsubscribe(document, integration)

    async def _ensure(
        self, integration: Document, watch: SubscriptionSpec, values: Mapping[str, str], channel: str | None
    ) -> Document:
        pairs = [f"{name}={value}" for name, value in sorted(values.items())]
        app = self._tokens.app_of(integration) if watch.of_app else None
        whose = integration["_id"]
        if app is not None:
            whose = " ".join((integration["workspace"], *app_ref(app)))
        name, now = provider_subscription_id_for(whose, watch.id, *pairs), utcnow()
        document: Document = {
            **_INITIAL_FIELDS,
            "_id": name,
            "workspace": integration["workspace"],
            "integrations": [integration["_id"]],
            "app": None if app is None else list(app_ref(app)),
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
                with translate_errors():
                    await self.collection.insert_one(document)
            except Duplicate:
                with translate_errors():
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

    async def run_due(self) -> None:
        """Make and renew what is due."""
        await self._detect_app_changes()
        with translate_errors():
            due = (
                await self.collection.find({**_OPEN, "due_at": {"$lte": utcnow()}}, {"_id": 1, "due_at": 1})
                .sort([("due_at", 1), ("_id", 1)])
                .limit(_BATCH_SIZE)
                .to_list(_BATCH_SIZE)
            )
        gate = asyncio.Semaphore(_MAX_CONCURRENT)

        async def one(name: str) -> None:
            async with gate:
                try:
                    claimed = await self._claim(name)
                    if claimed is not None:
                        await self._process(claimed)
                except Exception as error:  # noqa: BLE001 -- it is due again when its lease ends; others go on
                    self._log.error("watch not looked after", watch_id=name, error=repr(error)[:200])

        await asyncio.gather(*(one(document["_id"]) for document in due))

    async def _detect_app_changes(self) -> None:
        """What depends on an app that was changed is due, once this process knows the app as it is now.

        At the start also what waits, or failed: an app of the environment or of files may be another one.
        """
        since = self._apps_checked_at and {"changed_at": {"$gte": self._apps_checked_at - _MAX_CLOCK_SKEW}}
        looked = utcnow()
        with translate_errors():
            found = await self._apps.find(
                since or {}, {"provider": 1, "workspace": 1, "revision": 1}
            ).to_list(None)
        changed = [app for app in found if self._app_revisions.get(app["_id"]) != app["revision"]]
        if self._apps_checked_at is None:
            await self._make_due({"status": {"$in": ["pending", "failing"]}})
        else:
            for app in changed:
                for provider, names in app_dependent_types(app["provider"]).items():
                    whose = {"workspace": app["workspace"]} if app["workspace"] else {}
                    status = {"$in": ["pending", "failing", "active"]}
                    await self._make_due(
                        {"provider": provider, "status": status, "watch": {"$in": names}, **whose}
                    )
        self._app_revisions |= {app["_id"]: app["revision"] for app in changed}
        self._apps_checked_at = looked

    async def _make_due(self, which: Mapping[str, Any]) -> None:
        """Soon, but for what is being worked on."""
        with translate_errors():
            await self.collection.update_many(
                {**which, **_OPEN, "working": False}, {"$set": {"due_at": utcnow() + _APP_CHANGE_DELAY}}
            )

    async def _claim(self, name: str) -> Document | None:
        now = utcnow()
        with translate_errors():
            return await self.collection.find_one_and_update(
                {"_id": name, **_OPEN, "due_at": {"$lte": now}},
                {"$set": {"due_at": now + _LEASE, "working": True}, "$inc": {"fence": 1}},
                return_document=True,
            )

    async def _process(self, document: Document) -> None:
        account = await self._account(document)
        if account is None:
            await self._remove(document)
            return
        if account["status"] == "pending":
            await self._provider_subscriptions.write(
                document, {"due_at": utcnow() + _PENDING_RECHECK_INTERVAL}
            )
            return
        if account["status"] not in _LIVE_STATUSES:
            await self._provider_subscriptions.write(
                document, {"status": "stopped", "due_at": utcnow() + _IDLE_RECHECK_INTERVAL}
            )
            return
        try:
            change = await self._provider_subscriptions.create_or_renew(document, account)
        except MissingSetting as error:
            await self._record_missing_setting(document, str(error))
        except (RetryLater, NotConnected) as error:
            await self._record_failure(document, "unavailable", str(error))
        except ProviderRejected as error:
            await self._record_failure(document, error.code, error.detail or "the platform refuses")
        except (MissingValue, Invalid) as error:
            await self._record_failure(document, "not_made", str(error))
        else:
            WATCHES.labels(document["provider"], "renewed").inc()
            await self._provider_subscriptions.write(document, change)

    async def _account(self, document: Document, *, include_other_apps: bool = False) -> Document | None:
        """The account that its requests are made for: a connected one, else one that may come to be.

        An account that is connected with another app by now does not count, but for `every`.
        """
        found: list[Document] = []
        for name in document["integrations"]:
            try:
                account = await self._integrations.find(name)
            except NotFound:
                continue
            live = account["status"] in _LIVE_STATUSES
            if live and document["app"] not in (None, account.get("app")) and not include_other_apps:
                continue
            if live:
                return account
            found.append(account)
        return next((each for each in found if each["status"] == "pending"), found[0] if found else None)

    async def _record_missing_setting(self, document: Document, detail: str) -> None:
        """For what it lacks: due again when an app is changed, and now and then."""
        change: dict[str, Any] = {
            "failures": 0,
            "due_at": utcnow() + _IDLE_RECHECK_INTERVAL,
            "last_error": {"at": utcnow(), "code": "missing_setting", "detail": detail[:300]},
        }
        if _is_expired(document):
            change["status"] = "pending"
        await self._provider_subscriptions.write(document, change)

    async def _record_failure(self, document: Document, code: str, detail: str) -> None:
        failures = document["failures"] + 1
        base = min(_INITIAL_BACKOFF_S * 2 ** min(failures - 1, 20), _MAX_BACKOFF_S)
        pause = timedelta(seconds=base * random.uniform(0.8, 1.2))  # noqa: S311 -- only to spread
        WATCHES.labels(document["provider"], "failed").inc()
        change: dict[str, Any] = {
            "failures": failures,
            "due_at": utcnow() + pause,
            "last_error": {"at": utcnow(), "code": code, "detail": detail[:300]},
        }
        if _is_expired(document):
            change["status"] = "failing"
        await self._provider_subscriptions.write(document, change)


def app_dependent_types(app: str) -> dict[str, list[str]]:
    """What is watched with the help of an app's settings or secrets, by provider; `app` is the app's own."""
    found = {
        provider: [watch.id for watch in subscription_types(provider) if watch.needs or watch.endpoint_secret]
        for provider, connector in connectors().items()
        if connector.app == app
    }
    return {provider: names for provider, names in found.items() if names}


def _is_expired(document: Document) -> bool:
    """Whether nothing of it is at the platform (any more)."""
    ends = document["expires_at"]
    return ends is None or ends <= utcnow()
