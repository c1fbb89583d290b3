"""What is done by itself: tokens that would die unused, ends that have come, events that are not told yet.

Due integrations are found by one partial index, so it costs the same with a million that are not due. Every
process does its share: who refreshes is settled by the lease of the credential, as everywhere.
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


class Maintenance:
    """A part of the service."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        disconnecting: Disconnector,
        log: Log,
        *,
        interval_s: float,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._disconnector = disconnecting
        self._log = log
        self._periodic_task = PeriodicTask(self.run_due, interval_s, log)
        self._stopping = False

    async def start(self) -> None:
        await self._periodic_task.start()

    async def stop(self) -> None:
        """Begin nothing more: a process that is killed while a platform answers loses the answer."""
        self._stopping = True
        await self._periodic_task.stop()

    async def run_due(self) -> None:
        """Do what is due now."""
        await self._integrations.publish_pending()
        names = await find_due(self._integrations.collection, _BATCH_SIZE)
        gate = asyncio.Semaphore(_MAX_CONCURRENT)

        async def one(name: str) -> None:
            async with gate:
                if not self._stopping:
                    await self._process(name)

        await asyncio.gather(*(one(name) for name in names))

    async def _process(self, name: str) -> None:
        try:
            document = await self._integrations.find(name)
            if not document.get("open") or document["due_at"] > utcnow():
                return
            if document["status"] == "pending" and document["credential"] is None:
                await self._integrations.change(document, {"deleted_at": utcnow(), "open": False})
            elif document["status"] == "pending" and document["connected_at"] <= utcnow() - SELECTION_TIMEOUT:
                await self._expire_selection(document)
            elif document["status"] in ("connected", "error"):
                await self._tokens.refresh(name, than=document["version"])
            elif document["status"] in ("disabled", "pending"):  # due again once it is enabled, or chosen
                await self._postpone(name, _LONG_DELAY)
            else:
                await self._integrations.change(document, {"open": False, "due_at": None})
        except (Conflict, NotFound):  # noted where it was found out; if not, it does not stand in the way
            await self._postpone(name, _LONG_DELAY)
        except RetryLater as error:
            self._log.info("put off", integration_id=name, why=str(error)[:200])
            await self._postpone(name, _SHORT_DELAY)
        except Exception as error:  # noqa: BLE001 -- one that cannot be done must not stop the others
            self._log.error("not done, and put off", integration_id=name, error=repr(error)[:200])
            await self._postpone(name, _LONG_DELAY)

    async def _expire_selection(self, document: Document) -> None:
        """Nobody has said what the grant is of: it is given back."""
        nothing = {"choices": [], "version": document["version"] + 1}
        taken = await self._integrations.change(document, nothing, condition={"status": "pending"})
        if taken is not None:
            ended = await self._disconnector.disconnect(taken)
            await self._integrations.change(ended, {"deleted_at": utcnow(), "open": False})

    async def _postpone(self, name: str, pause: timedelta) -> None:
        """Later, so that one that cannot be done now does not stand before the others."""
        now = utcnow()
        with suppress(DatabaseUnavailable), translate_errors():
            await self._integrations.collection.update_one(
                {"_id": name, **OPEN_FILTER, "due_at": {"$lte": now}}, {"$set": {"due_at": now + pause}}
            )


async def find_due(integrations: Collection, most: int) -> list[str]:
    """The ids of integrations that something is due for, the oldest first; read from the index alone."""
    query = {**OPEN_FILTER, "due_at": {"$lte": utcnow()}}
    with translate_errors():
        found = (
            await integrations.find(query, {"_id": 1, "due_at": 1})
            .sort([("due_at", 1), ("_id", 1)])
            .limit(most)
            .to_list(most)
        )
    return [document["_id"] for document in found]
