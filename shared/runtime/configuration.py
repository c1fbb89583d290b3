"""The version of all configuration: a change that one process has acknowledged is in effect in every process.

Webhooks, endpoints, API keys, apps, event types, queue states and erasure marks are in the memory of every
process that needs them (`snapshot`). One small document holds a version number and the ids of the latest
changes. A writer of configuration calls `announce` after the write and before it responds. A reader awaits
`current` before it uses configuration: `current` reads the version and loads what has changed, unless it did
so within the last 50 ms. `announce` returns 60 ms after its write, so that no process uses an older read
when the writer responds. Processes measure these times alone: no clocks are compared.

A process that dies between its write and `announce` has not responded. Such a change, and one that was made
without the hub, is found by a poll of `changed_at` every ten seconds, or by the full reload (`snapshot`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from time import monotonic
from typing import Final

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import AutoReconnect, PyMongoError

from shared.contracts.errors import DatabaseUnavailable, InterlinkError
from shared.runtime import metrics
from shared.runtime.bounded_call import bounded_call
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, Mongo, translate_errors
from shared.runtime.shared_check import SharedCheck

COLLECTION: Final = "configuration_version"

_MAX_RECENT_CHANGES: Final = 1000
"""Changes that the document lists. A process that has missed more reloads all that it follows."""
_CHECK_TIMEOUT_S: Final = 1.0
"""For a caller of `current`, before it goes on with what is in memory."""
_ENSURE_TIMEOUT_S: Final = 5.0
"""For a caller of `ensure_current`, beyond that time: a busy database has answered by then."""
_CHECK_VALID_S: Final = 0.05
"""From the start of a check: calls in this time share it. Each check costs CPU here and in the database."""
_ANNOUNCE_S: Final = 0.06
"""From a write until all processes have read it before they use configuration: longer than `_CHECK_VALID_S`,
because the clocks of two machines do not run at exactly the same rate."""
_READ_TIMEOUT_S: Final = 2.0
_CATCH_UP_TIMEOUT_S: Final = 60.0
"""For a check with all that it loads."""
_CLIENT_TIMEOUT_S: Final = 10.0
"""Checks that fail for so long get a new client."""
_IDLE_INTERVAL_S: Final = 5.0
_RETRY_INTERVAL_S: Final = 0.25

LoadChanges = Callable[[Collection[str] | None], Awaitable[None]]
"""Loads the documents with these ids; None for the whole collection."""


async def announce_changes(mongo: Mongo, collection: str, *ids: str) -> None:
    """Announce that these documents were written, for a process without a `Configuration`.

    Return when no process uses what it read before: 60 ms after the write. Raises `DatabaseUnavailable`; see
    `Configuration.announce`.
    """
    entries = [f"{collection}/{document_id}" for document_id in ids]
    change = {
        "$inc": {"version": len(entries)},
        "$push": {"recent": {"$each": entries, "$slice": -_MAX_RECENT_CHANGES}},
    }
    version = mongo.collection(COLLECTION)
    with translate_errors():
        try:
            with translate_errors():
                await version.update_one({"_id": COLLECTION}, change, upsert=True)
        except Duplicate:  # two processes inserted the document at the same time: now it is there
            await version.update_one({"_id": COLLECTION}, change, upsert=True)
    in_effect_at = monotonic() + _ANNOUNCE_S
    while (remaining := in_effect_at - monotonic()) > 0:  # noqa: ASYNC110 -- a timer of the loop may be early
        await asyncio.sleep(remaining)


async def _close(client: AsyncMongoClient[Document]) -> None:
    with suppress(TimeoutError, PyMongoError):
        await bounded_call(client.close(), _READ_TIMEOUT_S)


class Configuration:
    """The version of all configuration, and the followers of each collection in this process."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._mongo = mongo
        self._database: AsyncDatabase[Document] | None = None
        self._log = log
        self._version = 0
        self._followers: dict[str, list[LoadChanges]] = {}
        self._check = SharedCheck(
            self._run_check,
            wait_s=_CHECK_TIMEOUT_S,
            valid_s=_CHECK_VALID_S,
            late=lambda: self._mark_stale(f"MongoDB did not answer within {_CHECK_TIMEOUT_S:.0f} s"),
        )
        self._stale = False
        self._client_until = 0.0
        """By the clock `monotonic`: while checks fail, when the client is replaced."""
        self._closing: asyncio.Task[None] | None = None
        """The end of the client that was replaced last."""
        self._confirmed = asyncio.Event()
        """Set while `is_stale` is False."""
        self._confirmed.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the version and start to follow it. Raises `DatabaseUnavailable`."""
        self._version = await self._read_version()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._check.stop()
        if self._closing:
            await self._closing
        if self._database is not None:
            await _close(self._database.client)

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return a collection to read configuration from, over a client without threads.

        Motor's threads can be delayed for seconds while the event loop is busy.
        """
        if self._database is None:
            self._database = self._mongo.async_database()
        return self._database[name]

    def follow(self, collection: str, load: LoadChanges) -> None:
        """Call `load` with the changed ids of a collection before `current` returns."""
        self._followers.setdefault(collection, []).append(load)

    async def announce(self, collection: str, *ids: str) -> None:
        """Announce that these documents were written. Call it after the write and before the response.

        Return when the change is in effect in every process, 60 ms after it was announced. Raises
        `DatabaseUnavailable`; then the caller must not respond with success.
        """
        await announce_changes(self._mongo, collection, *ids)

    @property
    def is_stale(self) -> bool:
        """True if the last check failed. Then the memory may be out of date."""
        return self._stale

    async def current(self) -> bool:
        """Load every change that was acknowledged before this call, and return True.

        Return False if MongoDB does not answer within a second, and at once while it remains unavailable.
        What is in memory may be out of date then.
        """
        if self._stale:
            return False
        return await self._check()

    async def ensure_current(self) -> None:
        """Load every change that was acknowledged before this call, for a caller that can be asked to repeat.

        Wait for MongoDB up to 6 s. Raises `DatabaseUnavailable` if it does not answer.
        """
        if await self.current():
            return
        try:
            async with asyncio.timeout(_ENSURE_TIMEOUT_S):
                while not await self.current():
                    await self._confirmed.wait()
        except TimeoutError:
            raise DatabaseUnavailable("MongoDB does not say whether the configuration has changed") from None

    async def _run_check(self) -> bool:
        try:
            await bounded_call(self._catch_up(), _CATCH_UP_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 -- after any error, callers go on with what is in memory
            self._mark_stale(str(error) if isinstance(error, InterlinkError) else type(error).__name__)
            if monotonic() >= self._client_until:
                self._replace_client()
            return False
        if self._stale:
            self._stale = False
            self._confirmed.set()
            metrics.CONFIGURATION_UNCHECKED.set(0)
            self._log.info("configuration.check_recovered")
        return True

    def _replace_client(self) -> None:
        """Let the next check open a new client: one may answer nothing after its connections were reset."""
        self._client_until = monotonic() + _CLIENT_TIMEOUT_S
        old, self._database = self._database, None
        if old is not None:
            self._closing = asyncio.create_task(_close(old.client))
            self._log.warning("configuration.client_replaced")

    async def _catch_up(self) -> None:
        version = await self._read_version()
        if version == self._version:
            return
        with translate_errors():
            document = await self.collection(COLLECTION).find_one({"_id": COLLECTION})
        version, recent = (document["version"], document["recent"]) if document else (0, [])
        missed = version - self._version
        if 0 < missed <= len(recent):
            changed: dict[str, dict[str, None]] = {}  # ids by collection, in order and without repeats
            for entry in recent[-missed:]:
                collection, _, document_id = entry.partition("/")
                changed.setdefault(collection, {})[document_id] = None
            for collection, ids in changed.items():
                await self._load(collection, ids)
        else:  # the list does not reach back so far, or the database was restored to an earlier version
            for collection in self._followers:
                await self._load(collection, None)
        self._version = version

    async def _load(self, collection: str, ids: Collection[str] | None) -> None:
        for load in self._followers.get(collection, ()):
            await load(ids)

    async def _read_version(self) -> int:
        with translate_errors():
            async with asyncio.timeout(_READ_TIMEOUT_S):
                try:
                    documents = await self._find_version()
                except AutoReconnect:  # a command is not repeated by the driver: the connection may be old
                    documents = await self._find_version()
        return int(documents[0]["version"]) if documents else 0

    async def _find_version(self) -> list[Document]:
        """Return the document with the version, or nothing. A command costs less than the driver's query."""
        found = await self.collection(COLLECTION).database.command(
            "find", COLLECTION, filter={"_id": COLLECTION}, projection={"version": 1}, singleBatch=True
        )
        documents: list[Document] = found["cursor"]["firstBatch"]
        return documents

    def _mark_stale(self, reason: str) -> None:
        if not self._stale:
            self._stale = True
            self._client_until = monotonic() + _CLIENT_TIMEOUT_S
            self._confirmed.clear()
            metrics.CONFIGURATION_UNCHECKED.set(1)
            self._log.warning("configuration.check_failed", error=reason)

    async def _follow(self) -> None:
        """Check regularly without a caller, so that the list of changes rarely becomes too short."""
        while True:
            await asyncio.sleep(_RETRY_INTERVAL_S if self._stale else _IDLE_INTERVAL_S)
            await self._check()
