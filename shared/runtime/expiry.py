"""Deletes what has expired, where the database does not do it by itself."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from shared.runtime.logs import Log
from shared.runtime.mongo import Index, Mongo

_INTERVAL_S: Final = 60.0
"""As often as MongoDB does it."""


class Expiry:
    """A part of a service that deletes expired documents of the embedded database; MongoDB has TTL indexes.

    Several processes may do it at the same time. It is no `PeriodicTask`, which runs a last time at the stop:
    to delete much would hold the stop up.
    """

    def __init__(self, mongo: Mongo, indexes: Sequence[Mapping[str, Sequence[Index]]], log: Log) -> None:
        """Set the indexes, by collection, that say when a document expires."""
        self._mongo = mongo
        self._indexes = indexes
        self._log = log
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                if await self._mongo.has_ttl_indexes():
                    return
                for by_collection in self._indexes:
                    await self._mongo.delete_expired(by_collection)
            except Exception as error:  # noqa: BLE001 -- one failed run must not be the last
                self._log.warning("expiry.failed", error=repr(error))
            await asyncio.sleep(_INTERVAL_S)
