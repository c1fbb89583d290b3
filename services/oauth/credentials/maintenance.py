"""Maintain integrations in the background: refresh tokens, expire what was not completed, publish events.

Due integrations are found by one partial index, so the cost does not grow with those that are not due. All
processes do it side by side: the lease of the credential decides which one refreshes.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

from services.oauth.authorization.account_selection import SELECTION_TIMEOUT
from services.oauth.authorization.disconnect import Disconnector
from shared.connections.integrations import OPEN_FILTER, IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, DatabaseUnavailable, NotFound, RetryLater
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, translate_errors, utcnow
from shared.runtime.periodic_task import PeriodicTask

_MAX_CONCURRENT: Final = 20
_BATCH_SIZE: Final = 200
_SHORT_DELAY: Final = timedelta(minutes=1)
_LONG_DELAY: Final = timedelta(hours=1)
_MAX_LOGGED_LENGTH: Final = 200


class Maintenance:
    """Processes due integrations every `interval_s` seconds. A part of the service."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        disconnector: Disconnector,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._disconnector = disconnector
        self._log = log
        self._periodic_task = PeriodicTask(self.run_due, interval_s, log)
        self._stopping = False

    async def start(self) -> None:
        await self._periodic_task.start()

    async def stop(self) -> None:
        """Finish what was started, and start nothing more.

        A process that is killed during a refresh loses the provider's answer, and the new tokens with it.
        """
        self._stopping = True
        await self._periodic_task.stop()

    async def run_due(self) -> None:
        """Publish pending events, then process up to 200 due integrations, the oldest first.

        Failures of one integration are logged. Raises `DatabaseUnavailable`.
        """
        await self._integrations.publish_pending()
        integration_ids = await find_due(self._integrations.collection, _BATCH_SIZE)
        semaphore = asyncio.Semaphore(_MAX_CONCURRENT)

        async def process(integration_id: str) -> None:
            async with semaphore:
                if not self._stopping:
                    await self._process(integration_id)

        await asyncio.gather(*(process(integration_id) for integration_id in integration_ids))

    async def _process(self, integration_id: str) -> None:
        """Do what is due for one integration; postpone it if that fails. Never raise."""
        try:
            document = await self._integrations.find(integration_id)
            if not document.get("open") or document["due_at"] > utcnow():
                return
            if document["status"] == "pending" and document["credential"] is None:
                # The authorization was started and never completed.
                await self._integrations.change(document, {"deleted_at": utcnow(), "open": False})
            elif document["status"] == "pending" and document["connected_at"] <= utcnow() - SELECTION_TIMEOUT:
                await self._expire_selection(document)
            elif document["status"] in ("connected", "error"):
                await self._tokens.refresh(integration_id, than=document["version"])
            elif document["status"] in ("disabled", "pending"):
                # Nothing to do until it is enabled, or its resource is selected.
                await self._postpone(integration_id, _LONG_DELAY)
            else:
                await self._integrations.change(document, {"open": False, "due_at": None})
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

    async def _expire_selection(self, document: Document) -> None:
        """Revoke the grant and delete the integration: no resource was selected in time."""
        # Without choices nobody can select a resource while the grant is being revoked.
        change = {"choices": [], "version": document["version"] + 1}
        changed = await self._integrations.change(document, change, condition={"status": "pending"})
        if changed is not None:
            disconnected = await self._disconnector.disconnect(changed)
            await self._integrations.change(disconnected, {"deleted_at": utcnow(), "open": False})

    async def _postpone(self, integration_id: str, delay: timedelta) -> None:
        """Make a due integration due later, so that it does not block those behind it. Never raise."""
        now = utcnow()
        with suppress(DatabaseUnavailable), translate_errors():
            await self._integrations.collection.update_one(
                {"_id": integration_id, **OPEN_FILTER, "due_at": {"$lte": now}},
                {"$set": {"due_at": now + delay}},
            )


async def find_due(integrations: Collection, limit: int) -> list[str]:
    """Return the ids of up to `limit` due integrations, the oldest first.

    The query is answered from the index alone. Raises `DatabaseUnavailable`.
    """
    query = {**OPEN_FILTER, "due_at": {"$lte": utcnow()}}
    with translate_errors():
        documents = (
            await integrations.find(query, {"_id": 1, "due_at": 1})
            .sort([("due_at", 1), ("_id", 1)])
            .limit(limit)
            .to_list(limit)
        )
    return [document["_id"] for document in documents]
