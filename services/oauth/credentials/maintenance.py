"""Maintain integrations in the background: refresh tokens, expire what was not completed, publish events.

Due integrations are found by one partial index, so the cost does not grow with those that are not due. All
processes do it side by side: the lease of the credential decides which one refreshes. Integrations of one
workspace have at most half of the slots of a process, because their provider's server may hang.

This is no due work in the sense of `shared/runtime/due_work.py`. A claim there raises the record's `fence`,
which here belongs to the lease of the refresh: a fence that rises without a refresh looks like a refresh that
was interrupted, after which nobody knows which tokens are valid. A second claim would protect nothing either:
whatever is not a refresh is a write under a condition, and may be repeated.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from services.oauth.authorization.account_selection import SELECTION_TIMEOUT
from services.oauth.authorization.disconnect import Disconnector
from shared.connections.grant_end import must_warn
from shared.connections.integration_record import USABLE, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, DatabaseUnavailable, NotFound, RetryLater
from shared.manifests.connector import Connector
from shared.runtime.clock import utcnow
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.logs import Log
from shared.runtime.periodic_task import PeriodicTask

_MAX_CONCURRENT: Final = 20
_MAX_CONCURRENT_PER_WORKSPACE: Final = 10
_MAX_OPEN_PER_WORKSPACE: Final = 100
"""These, and those that wait for their turn. Further ones are postponed."""
_BATCH_SIZE: Final = 200
_BUSY_DELAY: Final = timedelta(seconds=10)
_SHORT_DELAY: Final = timedelta(minutes=1)
_LONG_DELAY: Final = timedelta(hours=1)
_MAX_LOGGED_LENGTH: Final = 200


class Maintenance:
    """Processes due integrations every `interval_s` seconds. A part of the service."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        disconnector: Disconnector,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens
        self._disconnector = disconnector
        self._log = log
        self._interval_s = interval_s
        self._periodic_task = PeriodicTask(self.run_due, interval_s, log)
        self._limits = WorkspaceLimits(_MAX_CONCURRENT_PER_WORKSPACE)
        self._semaphore = asyncio.Semaphore(_MAX_CONCURRENT)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def start(self) -> None:
        await self._periodic_task.start()

    async def stop(self) -> None:
        """Finish what was started, and start nothing more.

        A process that is killed during a refresh loses the provider's answer, and the new tokens with it.
        """
        self._stopping = True
        await self._periodic_task.stop()
        await asyncio.gather(*self._running.values())

    async def run_due(self) -> None:
        """Publish pending events, then process up to 200 more due integrations, the oldest first.

        Wait until they are done, but no longer than an interval: what hangs goes on beside the next ones.
        Failures of one integration are logged. Raises `DatabaseUnavailable`.
        """
        await self._integrations.publish_pending()
        for integration_id in await self._integrations.due_ids(_BATCH_SIZE + len(self._running)):
            if integration_id not in self._running and not self._stopping:
                self._running[integration_id] = asyncio.create_task(self._take_turn(integration_id))
        if self._running:
            await asyncio.wait(set(self._running.values()), timeout=self._interval_s)

    async def _take_turn(self, integration_id: str) -> None:
        """Process one integration when there is a slot for its workspace. Never raise."""
        try:
            workspace = (await self._integrations.find(integration_id)).workspace
            if self._limits.users(workspace) >= _MAX_OPEN_PER_WORKSPACE:
                await self._postpone(integration_id, _BUSY_DELAY)
                return
            async with self._limits.hold(workspace), self._semaphore:
                if not self._stopping:
                    await self._process(integration_id)
        except (NotFound, DatabaseUnavailable):
            pass  # it was deleted, or is due at the next search
        except Exception as error:  # noqa: BLE001 -- an unreadable document must not stay at the head
            self._log.error(
                "maintenance.failed", integration_id=integration_id, error=repr(error)[:_MAX_LOGGED_LENGTH]
            )
            await self._postpone(integration_id, _LONG_DELAY)
        finally:
            del self._running[integration_id]

    async def _process(self, integration_id: str) -> None:
        """Do what is due for one integration; postpone it if that fails. Never raise."""
        try:
            integration = await self._integrations.find(integration_id)
            if not integration.needs_maintenance or not _is_past(integration.due_at):
                return
            if integration.is_unfinished:  # The authorization was started and never completed.
                await self._integrations.delete(integration)
            elif integration.status == "pending" and _is_past(integration.connected_at, SELECTION_TIMEOUT):
                await self._expire_selection(integration)
            elif integration.status in USABLE and must_warn(integration, utcnow()):
                await self._warn_of_end(integration)
            elif integration.status in USABLE:
                await self._tokens.refresh(integration_id, than=integration.version)
            elif integration.status in ("disabled", "pending"):
                # Nothing to do until it is enabled, or its resource is selected.
                await self._postpone(integration_id, _LONG_DELAY)
            else:
                await self._integrations.change(integration, needs_maintenance=False, due_at=None)
        except (Conflict, NotFound):
            # Whoever raised it has stored the reason, usually with a later due time. If not, wait long.
            await self._postpone(integration_id, _LONG_DELAY)
        except RetryLater as error:
            self._log.info(
                "maintenance.postponed",
                integration_id=integration_id,
                error=str(error)[:_MAX_LOGGED_LENGTH],
            )
            await self._postpone(integration_id, _SHORT_DELAY)
        except Exception as error:  # noqa: BLE001 -- one failure must not stop the others
            self._log.error(
                "maintenance.failed",
                integration_id=integration_id,
                error=repr(error)[:_MAX_LOGGED_LENGTH],
            )
            await self._postpone(integration_id, _LONG_DELAY)

    async def _warn_of_end(self, integration: Integration) -> None:
        """Publish that the grant ends soon, once for all processes.

        What can be refreshed until then is refreshed at the next turn, which sets the next due time.
        """
        connector = self._connectors.get(integration.provider)
        can_refresh = integration.refreshable and connector is not None and not connector.refresh.fixed
        changed = await self._integrations.change(
            integration,
            publish="integration.expiring",
            condition={"status": integration.status, "warned_at": integration.warned_at},
            warned_at=utcnow(),
            due_at=utcnow() if can_refresh else integration.grant_ends_at,
        )
        if changed is not None:
            self._log.info(
                "integration.expiring", integration_id=integration.id, provider=integration.provider
            )
            self._tokens.forget(integration.id)

    async def _expire_selection(self, integration: Integration) -> None:
        """Revoke the grant and delete the integration: no resource was selected in time."""
        # Without resources nobody can select one while the grant is being revoked.
        changed = await self._integrations.change(
            integration, condition={"status": "pending"}, resources=(), version=integration.version + 1
        )
        if changed is not None:
            await self._integrations.delete(await self._disconnector.disconnect(changed))

    async def _postpone(self, integration_id: str, delay: timedelta) -> None:
        """Make a due integration due later, so that it does not block those behind it. Never raise."""
        with suppress(DatabaseUnavailable):
            await self._integrations.postpone(integration_id, delay)


def _is_past(at: datetime | None, delay: timedelta = timedelta(0)) -> bool:
    """Return whether a time was at least `delay` ago; False for None."""
    return at is not None and at <= utcnow() - delay
