"""Create and renew provider subscriptions that are due, in the background.

A subscription is due when it is new, shortly before it expires, after a failure, and when the app that it
depends on was changed.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from services.oauth.subscriptions.provider_calls import MissingSetting, ProviderCalls
from services.oauth.subscriptions.records import LEASE, ProviderSubscription, SubscriptionRepository
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from shared.connections.app_records import AppRepository
from shared.connections.integration_record import USABLE, LastError
from shared.connections.refresh_outcome import NotConnected
from shared.contracts.errors import Invalid, RetryLater
from shared.manifests.provider_response import ProviderRejected
from shared.runtime.clock import utcnow
from shared.runtime.due_work import DueWorker
from shared.runtime.logs import Log
from shared.runtime.metrics import PROVIDER_SUBSCRIPTIONS
from shared.runtime.retry import Backoff
from shared.wire.request_template import MissingValue

_MAX_CONCURRENT: Final = 10
_PAUSES: Final = Backoff(first_s=30.0, max_s=6 * 3600.0, spread=0.2)
_UNSTORED_FAILURE_PAUSES: Final = Backoff(first_s=LEASE.total_seconds(), max_s=LEASE.total_seconds())
"""After a failure that the subscription does not show."""
_PENDING_RECHECK_INTERVAL: Final = timedelta(seconds=30)
_IDLE_RECHECK_INTERVAL: Final = timedelta(hours=1)
_MAX_CLOCK_SKEW: Final = timedelta(minutes=1)
_APP_CHANGE_DELAY: Final = timedelta(seconds=2)
"""After this time every process has the changed app in memory."""
_MAX_DETAIL_LENGTH: Final = 300


class SubscriptionRenewal:
    """Creates and renews due subscriptions, up to 10 at a time."""

    def __init__(
        self,
        subscriptions: SubscriptionRepository,
        types: SubscriptionTypes,
        apps: AppRepository,
        lifecycle: SubscriptionLifecycle,
        provider_calls: ProviderCalls,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        """Set the work. Due subscriptions and changed apps are searched every `interval_s` seconds."""
        self._subscriptions = subscriptions
        self._types = types
        self._apps = apps
        self._app_revisions: dict[str, str] = {}
        """The revision of each app, by its id, as read at `_apps_checked_at`."""
        self._apps_checked_at: datetime | None = None
        self._lifecycle = lifecycle
        self._provider_calls = provider_calls
        self.worker = DueWorker(
            subscriptions.due_work,
            self._process,
            log,
            name="subscription",
            poll_interval_s=interval_s,
            backoff=_UNSTORED_FAILURE_PAUSES,
            max_concurrent=_MAX_CONCURRENT,
            workspace_of=lambda claimed: claimed.workspace,
            before_search=self._detect_app_changes,
            # What a provider has created, and nobody has stored, cannot be cancelled any more.
            stop_timeout_s=LEASE.total_seconds(),
        )
        """The part of the service that creates and renews."""

    async def _detect_app_changes(self) -> None:
        """Make the subscriptions due that depend on an app that was changed since the last check.

        The first check of a process makes all pending and failing ones due: an app from the environment or
        from files may be another one than before the start, without a change in the database.
        """
        checked_at, last = utcnow(), self._apps_checked_at
        apps = await self._apps.changed_since(None if last is None else last - _MAX_CLOCK_SKEW)
        changed = [app for app in apps if self._app_revisions.get(app.id) != app.revision]
        due_at = utcnow() + _APP_CHANGE_DELAY
        if last is None:
            await self._subscriptions.make_uncreated_due(due_at)
        else:
            for app in changed:
                for provider, type_ids in self._types.dependent_on_app(app.provider).items():
                    # An app without a workspace is the installation's, which serves every workspace.
                    await self._subscriptions.make_types_due(
                        provider, type_ids, app.workspace or None, due_at
                    )
        self._app_revisions |= {app.id: app.revision for app in changed}
        self._apps_checked_at = checked_at

    async def _process(self, claimed: ProviderSubscription) -> None:
        """Create or renew a claimed subscription and store the result.

        Remove it if it has no account left; wait if its account is not connected.
        """
        account = await self._lifecycle.account_for(claimed)
        if account is None:
            await self._lifecycle.remove(claimed)
            return
        if account.status == "pending":
            await self._subscriptions.finish(claimed, due_at=utcnow() + _PENDING_RECHECK_INTERVAL)
            return
        if account.status not in USABLE:
            await self._subscriptions.finish(
                claimed, status="stopped", due_at=utcnow() + _IDLE_RECHECK_INTERVAL
            )
            return
        try:
            changes = await self._provider_calls.create_or_renew(claimed, account)
        except MissingSetting as error:
            await self._record_missing_setting(claimed, str(error))
        except (RetryLater, NotConnected) as error:
            await self._record_failure(claimed, "unavailable", str(error))
        except ProviderRejected as error:
            await self._record_failure(claimed, error.code, error.detail or "the provider rejected it")
        except (MissingValue, Invalid) as error:
            await self._record_failure(claimed, "not_made", str(error))
        else:
            PROVIDER_SUBSCRIPTIONS.labels(claimed.provider, "renewed").inc()
            await self._subscriptions.finish(claimed, **changes)

    async def _record_missing_setting(self, claimed: ProviderSubscription, detail: str) -> None:
        """Store that a setting is missing. Check again in an hour, or when the app is changed."""
        changes: dict[str, Any] = {
            "failures": 0,
            "due_at": utcnow() + _IDLE_RECHECK_INTERVAL,
            "last_error": _last_error("missing_setting", detail),
        }
        if claimed.is_expired:
            changes["status"] = "pending"
        await self._subscriptions.finish(claimed, **changes)

    async def _record_failure(self, claimed: ProviderSubscription, code: str, detail: str) -> None:
        """Store a failure, and the time of the next attempt: after 30 s at first, after 6 h at most."""
        failures = claimed.failures + 1
        PROVIDER_SUBSCRIPTIONS.labels(claimed.provider, "failed").inc()
        changes: dict[str, Any] = {
            "failures": failures,
            "due_at": utcnow() + timedelta(seconds=_PAUSES.pause_s(failures)),
            "last_error": _last_error(code, detail),
        }
        if claimed.is_expired:
            changes["status"] = "failing"
        await self._subscriptions.finish(claimed, **changes)


def _last_error(code: str, detail: str) -> LastError:
    return LastError(at=utcnow(), code=code, detail=detail[:_MAX_DETAIL_LENGTH])
