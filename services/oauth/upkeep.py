"""What is done by itself: tokens that would die unused, ends that have come, events that are not told yet.

Due integrations are found by one partial index, so it costs the same with a million that are not due. Every
process does its share: who refreshes is settled by the lease of the credential, as everywhere.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

from services.oauth.choose import CHOICE
from services.oauth.disconnect import Disconnecting
from shared.contracts.errors import Conflict, NotFound, RetryLater, StoreUnavailable
from shared.runtime.integrations import OPEN, Integrations
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, translated, utcnow
from shared.runtime.periodic import Periodic
from shared.runtime.tokens import TokenSource

_AT_ONCE: Final = 20
_PAGE: Final = 200
_LATER: Final = timedelta(minutes=1)
_MUCH_LATER: Final = timedelta(hours=1)


class Upkeep:
    """A part of the service."""

    def __init__(
        self,
        integrations: Integrations,
        tokens: TokenSource,
        disconnecting: Disconnecting,
        log: Log,
        *,
        every_s: float,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._disconnecting = disconnecting
        self._log = log
        self._turn = Periodic(self.turn, every_s, log)
        self._stopping = False

    async def start(self) -> None:
        await self._turn.start()

    async def stop(self) -> None:
        """Begin nothing more: a process that is killed while a platform answers loses the answer."""
        self._stopping = True
        await self._turn.stop()

    async def turn(self) -> None:
        """Do what is due now."""
        await self._integrations.tell_all()
        names = await due(self._integrations.collection, _PAGE)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                if not self._stopping:
                    await self._one(name)

        await asyncio.gather(*(one(name) for name in names))

    async def _one(self, name: str) -> None:
        try:
            document = await self._integrations.find(name)
            if not document.get("open") or document["due_at"] > utcnow():
                return
            if document["status"] == "pending" and document["credential"] is None:
                await self._integrations.change(document, {"deleted_at": utcnow(), "open": False})
            elif document["status"] == "pending" and document["connected_at"] <= utcnow() - CHOICE:
                await self._not_chosen(document)
            elif document["status"] in ("connected", "error"):
                await self._tokens.renew(name, than=document["version"])
            elif document["status"] in ("disabled", "pending"):  # due again once it is enabled, or chosen
                await self._put_off(name, _MUCH_LATER)
            else:
                await self._integrations.change(document, {"open": False, "due_at": None})
        except (Conflict, NotFound):  # noted where it was found out; if not, it does not stand in the way
            await self._put_off(name, _MUCH_LATER)
        except RetryLater as error:
            self._log.info("put off", integration_id=name, why=str(error)[:200])
            await self._put_off(name, _LATER)
        except Exception as error:  # noqa: BLE001 -- one that cannot be done must not stop the others
            self._log.error("not done, and put off", integration_id=name, error=repr(error)[:200])
            await self._put_off(name, _MUCH_LATER)

    async def _not_chosen(self, document: Document) -> None:
        """Nobody has said what the grant is of: it is given back."""
        nothing = {"choices": [], "version": document["version"] + 1}
        taken = await self._integrations.change(document, nothing, only={"status": "pending"})
        if taken is not None:
            ended = await self._disconnecting.end(taken)
            await self._integrations.change(ended, {"deleted_at": utcnow(), "open": False})

    async def _put_off(self, name: str, pause: timedelta) -> None:
        """Later, so that one that cannot be done now does not stand before the others."""
        now = utcnow()
        with suppress(StoreUnavailable), translated():
            await self._integrations.collection.update_one(
                {"_id": name, **OPEN, "due_at": {"$lte": now}}, {"$set": {"due_at": now + pause}}
            )


async def due(integrations: Collection, most: int) -> list[str]:
    """The ids of integrations that something is due for, the oldest first; read from the index alone."""
    query = {**OPEN, "due_at": {"$lte": utcnow()}}
    with translated():
        found = (
            await integrations.find(query, {"_id": 1, "due_at": 1})
            .sort([("due_at", 1), ("_id", 1)])
            .limit(most)
            .to_list(most)
        )
    return [document["_id"] for document in found]
