"""Create and renew provider subscriptions that are due, in the background.

A subscription is due when it is new, shortly before it expires, after a failure, and when the app that it
depends on was changed.
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from services.oauth.subscriptions.lifecycle import (
    LEASE_TTL,
    OPEN_FILTER,
    SubscriptionLifecycle,
)
from services.oauth.subscriptions.provider_calls import MissingSetting, subscription_types
from shared.connections.apps import COLLECTION as APPS
from shared.connections.integration_record import USABLE
from shared.connections.refresh_outcome import NotConnected
from shared.contracts.errors import Invalid, RetryLater
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.metrics import WATCHES
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors, utcnow
from shared.runtime.periodic_task import PeriodicTask
from shared.wire.request_template import MissingValue

_BATCH_SIZE: Final = 100
_MAX_CONCURRENT: Final = 10
_INITIAL_BACKOFF_S: Final = 30.0
_MAX_BACKOFF_S: Final = 6 * 3600.0
_MAX_BACKOFF_DOUBLINGS: Final = 20
_PENDING_RECHECK_INTERVAL: Final = timedelta(seconds=30)
_IDLE_RECHECK_INTERVAL: Final = timedelta(hours=1)
_MAX_CLOCK_SKEW: Final = timedelta(minutes=1)
_APP_CHANGE_DELAY: Final = timedelta(seconds=2)
"""After this time every process has the changed app in memory."""
_MAX_DETAIL_LENGTH: Final = 300
_MAX_LOGGED_LENGTH: Final = 200


class SubscriptionRenewal:
    """Processes due subscriptions every `interval_s` seconds. A part of the service."""

    def __init__(
        self, mongo: Mongo, lifecycle: SubscriptionLifecycle, log: Log, *, interval_s: float
    ) -> None:
        self._apps: Collection = mongo.collection(APPS)
        self._app_revisions: dict[str, str] = {}
        """The revision of each app, by its id, as read at `_apps_checked_at`."""
        self._apps_checked_at: datetime | None = None
        self._lifecycle = lifecycle
        self._collection = lifecycle.collection
        self._provider_subscriptions = lifecycle.provider_subscriptions
        self._log = log
        self._periodic_task = PeriodicTask(self.run_due, interval_s, log)

    async def start(self) -> None:
        await self._periodic_task.start()

    async def stop(self) -> None:
        await self._periodic_task.stop()

    async def run_due(self) -> None:
        """Create and renew up to 100 subscriptions that are due, the oldest first.

        Failures of one subscription are stored or logged. Raises `DatabaseUnavailable`.
        """
        await self._detect_app_changes()
        with translate_errors():
            due = (
                await self._collection.find(
                    {**OPEN_FILTER, "due_at": {"$lte": utcnow()}}, {"_id": 1, "due_at": 1}
                )
                .sort([("due_at", 1), ("_id", 1)])
                .limit(_BATCH_SIZE)
                .to_list(_BATCH_SIZE)
            )
        semaphore = asyncio.Semaphore(_MAX_CONCURRENT)

        async def process(subscription_id: str) -> None:
            async with semaphore:
                try:
                    claimed = await self._claim(subscription_id)
                    if claimed is not None:
                        await self._process(claimed)
                except Exception as error:  # noqa: BLE001 -- it is due again when its lease ends; others go on
                    self._log.error(
                        "subscription.processing_failed",
                        subscription_id=subscription_id,
                        error=repr(error)[:_MAX_LOGGED_LENGTH],
                    )

        await asyncio.gather(*(process(document["_id"]) for document in due))

    async def _detect_app_changes(self) -> None:
        """Make the subscriptions due that depend on an app that was changed since the last check.

        The first check of a process makes all pending and failing ones due: an app from the environment or
        from files may be another one than before the start, without a change in the database.
        """
        since = self._apps_checked_at and {"changed_at": {"$gte": self._apps_checked_at - _MAX_CLOCK_SKEW}}
        checked_at = utcnow()
        with translate_errors():
            apps = await self._apps.find(since or {}, {"provider": 1, "workspace": 1, "revision": 1}).to_list(
                None
            )
        changed = [app for app in apps if self._app_revisions.get(app["_id"]) != app["revision"]]
        if self._apps_checked_at is None:
            await self._make_due({"status": {"$in": ["pending", "failing"]}})
        else:
            for app in changed:
                for provider, type_ids in app_dependent_types(app["provider"]).items():
                    # An app without a workspace is the installation's, which serves every workspace.
                    workspace_filter = {"workspace": app["workspace"]} if app["workspace"] else {}
                    status = {"$in": ["pending", "failing", "active"]}
                    await self._make_due(
                        {
                            "provider": provider,
                            "status": status,
                            "watch": {"$in": type_ids},
                            **workspace_filter,
                        }
                    )
        self._app_revisions |= {app["_id"]: app["revision"] for app in changed}
        self._apps_checked_at = checked_at

    async def _make_due(self, query: Mapping[str, Any]) -> None:
        """Make the matching subscriptions due in 2 s, except those being worked on."""
        with translate_errors():
            await self._collection.update_many(
                {**query, **OPEN_FILTER, "working": False},
                {"$set": {"due_at": utcnow() + _APP_CHANGE_DELAY}},
            )

    async def _claim(self, subscription_id: str) -> Document | None:
        """Claim a due subscription by a lease. Return None if it is not due any more."""
        now = utcnow()
        with translate_errors():
            return await self._collection.find_one_and_update(
                {"_id": subscription_id, **OPEN_FILTER, "due_at": {"$lte": now}},
                {"$set": {"due_at": now + LEASE_TTL, "working": True}, "$inc": {"fence": 1}},
                return_document=True,
            )

    async def _process(self, document: Document) -> None:
        """Create or renew a claimed subscription and store the result.

        Remove it if it has no account left; wait if its account is not connected.
        """
        account = await self._lifecycle.account_for(document)
        if account is None:
            await self._lifecycle.remove(document)
            return
        if account.status == "pending":
            await self._provider_subscriptions.write(
                document, {"due_at": utcnow() + _PENDING_RECHECK_INTERVAL}
            )
            return
        if account.status not in USABLE:
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
            await self._record_failure(document, error.code, error.detail or "the provider rejected it")
        except (MissingValue, Invalid) as error:
            await self._record_failure(document, "not_made", str(error))
        else:
            WATCHES.labels(document["provider"], "renewed").inc()
            await self._provider_subscriptions.write(document, change)

    async def _record_missing_setting(self, document: Document, detail: str) -> None:
        """Store that a setting is missing. Check again in an hour, or when the app is changed."""
        change: dict[str, Any] = {
            "failures": 0,
            "due_at": utcnow() + _IDLE_RECHECK_INTERVAL,
            "last_error": {
                "at": utcnow(),
                "code": "missing_setting",
                "detail": detail[:_MAX_DETAIL_LENGTH],
            },
        }
        if _is_expired(document):
            change["status"] = "pending"
        await self._provider_subscriptions.write(document, change)

    async def _record_failure(self, document: Document, code: str, detail: str) -> None:
        """Store a failure and the time of the next attempt: exponential backoff of 30 s to 6 h, jittered."""
        failures = document["failures"] + 1
        doublings = min(failures - 1, _MAX_BACKOFF_DOUBLINGS)
        base_s = min(_INITIAL_BACKOFF_S * 2**doublings, _MAX_BACKOFF_S)
        pause = timedelta(seconds=base_s * random.uniform(0.8, 1.2))  # noqa: S311 -- only to spread
        WATCHES.labels(document["provider"], "failed").inc()
        change: dict[str, Any] = {
            "failures": failures,
            "due_at": utcnow() + pause,
            "last_error": {"at": utcnow(), "code": code, "detail": detail[:_MAX_DETAIL_LENGTH]},
        }
        if _is_expired(document):
            change["status"] = "failing"
        await self._provider_subscriptions.write(document, change)


def app_dependent_types(app: str) -> dict[str, list[str]]:
    """Return the ids of the subscription types that use settings or secrets of an app, by provider.

    `app` is the provider id that the app is registered under; several providers can use it.
    """
    type_ids = {
        provider: [
            definition.id
            for definition in subscription_types(provider)
            if definition.needs or definition.endpoint_secret
        ]
        for provider, connector in connectors().items()
        if connector.app == app
    }
    return {provider: ids for provider, ids in type_ids.items() if ids}


def _is_expired(document: Document) -> bool:
    """Return whether the subscription does not exist at the provider (any more)."""
    expires_at = document["expires_at"]
    return expires_at is None or expires_at <= utcnow()
