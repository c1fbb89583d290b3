"""Configuration in memory that is checked on use: what one process was answered counts in every process.

Webhooks, endpoints, API keys, apps, event types, queue states and erasure marks are kept in memory by every
process that needs them. One small document holds a version number and the ids of the latest changes. Whoever
writes configuration calls `record` after the write and before the answer; whoever is about to use it awaits
`current`, which reads the version once for all callers that wait, and loads what has changed. No clocks are
compared, and a change costs one read of what was changed.

A process that dies between its write and `record` has given no answer; such a change, and one that was made
past the hub, is found by a look at `changed_at` every ten seconds, or by the full reload.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from shared.contracts.errors import InterlinkError
from shared.runtime import metrics
from shared.runtime import mongo as store
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, Mongo, translate_errors, utcnow

COLLECTION: Final = "configuration_version"

_MAX_RECENT_CHANGES: Final = 1000
"""Changes that the document lists. A process that missed more reloads everything that it follows."""
_CHECK_TIMEOUT_S: Final = 1.0
"""How long a caller waits for MongoDB before it goes on with what is in memory."""
_STALL_THRESHOLD_S: Final = 0.1
_READ_TIMEOUT_S: Final = 2.0
_IDLE_INTERVAL_S: Final = 2.0
_RETRY_INTERVAL_S: Final = 0.25
_POLL_INTERVAL_S: Final = 10.0
_RELOAD_INTERVAL_S: Final = 600.0
_CLOCK_SKEW: Final = timedelta(seconds=30)
_MAX_IDS_PER_QUERY: Final = 50
"""Ids in a query: many times as many cost the embedded store the square of it."""

LoadChanges = Callable[[Collection[str] | None], Awaitable[None]]
"""Loads the documents with these ids, or all of a collection."""
T = TypeVar("T")


async def record_changes(mongo: Mongo, collection: str, *ids: str) -> None:
    """Note that these documents were written: see `Configuration.record`."""
    entries = [f"{collection}/{each}" for each in ids]
    change = {
        "$inc": {"version": len(entries)},
        "$push": {"recent": {"$each": entries, "$slice": -_MAX_RECENT_CHANGES}},
    }
    version = mongo.collection(COLLECTION)
    with translate_errors():
        try:
            with translate_errors():
                await version.update_one({"_id": COLLECTION}, change, upsert=True)
        except Duplicate:  # two made the document at the same time
            await version.update_one({"_id": COLLECTION}, change, upsert=True)


class SharedCheck:
    """Runs one check for many callers: each gets the result of a run that started after its call.

    At most one run is under way; all who call meanwhile share the next one. Who waits longer than `wait_s`
    gets False, and `late` is called. No task, timer or thread for each caller: this is on every hot path.
    """

    def __init__(
        self, run: Callable[[], Awaitable[bool]], *, wait_s: float, late: Callable[[], None]
    ) -> None:
        """`run` must not raise."""
        self._run = run
        self._wait_s = wait_s
        self._late = late
        self._waiting: list[asyncio.Future[bool]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._give_up_at(loop.time() + self._wait_s, self._waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return await waiter

    async def stop(self) -> None:
        """Cancel what is under way."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                result = await self._run()
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(result)
        finally:
            self._task = None

    def _give_up_at(self, due: float, waiting: Sequence["asyncio.Future[bool]"]) -> None:
        asyncio.get_running_loop().call_at(due, self._give_up, due, waiting)

    def _give_up(self, due: float, waiting: Sequence["asyncio.Future[bool]"]) -> None:
        now = asyncio.get_running_loop().time()
        if now - due > _STALL_THRESHOLD_S:  # this process stood still: the answer may be there, unread
            self._give_up_at(now + self._wait_s, waiting)
            return
        late = [waiter for waiter in waiting if not waiter.done()]
        if late:
            self._late()
        for waiter in late:
            waiter.set_result(False)


class Configuration:
    """The version of all configuration, and who follows which collection in this process."""

    def __init__(self, mongo: Mongo, log: Log) -> None:
        self._mongo = mongo
        self._database: AsyncDatabase[Document] | None = None
        self._log = log
        self._version = 0
        self._followers: dict[str, list[LoadChanges]] = {}
        self._check = SharedCheck(
            self._run_check,
            wait_s=_CHECK_TIMEOUT_S,
            late=lambda: self._mark_stale(f"MongoDB did not answer within {_CHECK_TIMEOUT_S:.0f} s"),
        )
        self._stale = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow. Raises `DatabaseUnavailable`."""
        self._version = await self._read_version()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._check.stop()
        if self._database is not None:
            await self._database.client.close()

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return a collection to read configuration from.

        Its client needs no threads: those of Motor stand still for up to seconds while the loop is busy.
        """
        if self._database is None:
            self._database = self._mongo.async_database()
        return self._database[name]

    def follow(self, collection: str, load: LoadChanges) -> None:
        """Call `load` with the ids of a collection that have changed, before `current` returns."""
        self._followers.setdefault(collection, []).append(load)

    async def record(self, collection: str, *ids: str) -> None:
        """Note that these documents were written: to be called after the write and before the answer.

        Raises `DatabaseUnavailable`; then no success may be answered.
        """
        await record_changes(self._mongo, collection, *ids)

    @property
    def is_stale(self) -> bool:
        """Whether MongoDB did not answer lately: what is in memory may be old."""
        return self._stale

    async def current(self) -> bool:
        """Bring what this process follows up to date with every change answered before this call.

        Returns False when MongoDB did not answer within a second, and at once while it stays away: what is
        in memory may be old then.
        """
        if self._stale:
            return False
        return await self._check()

    async def _run_check(self) -> bool:
        try:
            await self._catch_up()
        except Exception as error:  # noqa: BLE001 -- whatever it is, callers go on with what is in memory
            self._mark_stale(str(error) if isinstance(error, InterlinkError) else type(error).__name__)
            return False
        if self._stale:
            self._stale = False
            metrics.CONFIGURATION_UNCHECKED.set(0)
            self._log.info("configuration.check_recovered")
        return True

    async def _catch_up(self) -> None:
        version = await self._read_version()
        if version == self._version:
            return
        with translate_errors():
            found = await self.collection(COLLECTION).find_one({"_id": COLLECTION})
        version, recent = (found["version"], found["recent"]) if found else (0, [])
        missed = version - self._version
        if 0 < missed <= len(recent):
            changed: dict[str, dict[str, None]] = {}
            for entry in recent[-missed:]:
                collection, _, name = entry.partition("/")
                changed.setdefault(collection, {})[name] = None
            for collection, ids in changed.items():
                await self._load(collection, ids)
        else:  # too many, or the database went back to an earlier state
            for collection in self._followers:
                await self._load(collection, None)
        self._version = version

    async def _load(self, collection: str, ids: Collection[str] | None) -> None:
        for load in self._followers.get(collection, ()):
            await load(ids)

    async def _read_version(self) -> int:
        with translate_errors():
            async with asyncio.timeout(_READ_TIMEOUT_S):
                found = await self.collection(COLLECTION).find_one({"_id": COLLECTION}, {"version": 1})
        return int(found["version"]) if found else 0

    def _mark_stale(self, reason: str) -> None:
        if not self._stale:
            self._stale = True
            metrics.CONFIGURATION_UNCHECKED.set(1)
            self._log.warning("configuration.check_failed", error=reason)

    async def _follow(self) -> None:
        """Check now and then without a caller, so that the list of changes is rarely too short."""
        while True:
            await asyncio.sleep(_RETRY_INTERVAL_S if self._stale else _IDLE_INTERVAL_S)
            await self._check()


class Snapshot(Generic[T]):
    """A collection kept in memory: what a hot path needs without asking MongoDB for it.

    Documents carry `changed_at`, set by every writer, and `deleted_at` once they are gone. Every writer
    awaits `record` after its write. `items` is as of the last `Configuration.current`, or newer.
    """

    def __init__(
        self,
        configuration: Configuration,
        collection: store.Collection,
        parse: Callable[[Document], T],
        log: Log,
        *,
        on_change: Callable[[T | None, T | None], None] | None = None,
    ) -> None:
        """`on_change` gets an item as it was and as it is now; None where there is none."""
        self._configuration = configuration
        self._collection = collection
        self._parse = parse
        self._log = log
        self._on_change = on_change
        self._seen: dict[str, tuple[datetime, int]] = {}
        self._latest = utcnow() - _CLOCK_SKEW
        self._loading = asyncio.Lock()
        self._polling = asyncio.Lock()
        self._loaded: set[str] = set()
        """Loaded by id since the look that is under way began: what that look has read may be older."""
        self._task: asyncio.Task[None] | None = None
        self.items: dict[str, T] = {}

    async def start(self) -> None:
        """Load everything and keep it fresh. Raises `DatabaseUnavailable`."""
        self._configuration.follow(self._collection.name, self.load)
        await self._poll({})
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def record(self, *ids: str) -> None:
        """Tell every process that these documents were written, and take them in here.

        To be awaited after the write and before the answer. Raises `DatabaseUnavailable`.
        """
        await self._configuration.record(self._collection.name, *ids)
        await self.load(ids)

    async def load(self, ids: Collection[str] | None, *, again: bool = False) -> None:
        """Read these documents, or all, and take them in; with `again` also those that have not changed.

        Raises `DatabaseUnavailable`.
        """
        if ids is None:
            await self._poll({})
            return
        wanted = list(ids)
        for start in range(0, len(wanted), _MAX_IDS_PER_QUERY):
            some = wanted[start : start + _MAX_IDS_PER_QUERY]
            async with self._loading:  # what is read later is taken in later
                with translate_errors():
                    documents = await self._documents.find({"_id": {"$in": some}}).to_list(None)
                self._loaded.update(some)
                for document in documents:
                    self._apply(document, again=again)
                for gone in {*some} - {document["_id"] for document in documents}:
                    self._drop(gone)

    @property
    def _documents(self) -> AsyncCollection[Document]:
        return self._configuration.collection(self._collection.name)

    async def _poll(self, query: Mapping[str, Any]) -> None:
        async with self._polling:
            self._loaded.clear()
            alive: set[str] = set()
            with translate_errors():
                async for document in self._documents.find(query):
                    alive.add(document["_id"])
                    if document["_id"] not in self._loaded:
                        self._apply(document)
            if not query:
                for gone in self._seen.keys() - alive - self._loaded:  # all items are among them
                    self._drop(gone)

    def _apply(self, document: Document, *, again: bool = False) -> None:
        key, changed_at = document["_id"], document["changed_at"]
        mark = changed_at, hash(repr(document))  # two changes may bear the same millisecond
        if self._seen.get(key) == mark and not again:
            return
        self._seen[key] = mark
        # A clock that was wrong once must not hide what others write from then on.
        self._latest = max(self._latest, min(changed_at, utcnow()))
        if document.get("deleted_at"):
            self._put(key, None)
            return
        try:
            item = self._parse(document)
        except Exception as error:  # noqa: BLE001 -- one that cannot be read must not blind it to the others
            self._put(key, None)
            self._log.error(
                "document skipped", collection=self._collection.name, id=key, error=_error_text(error)
            )
        else:
            self._put(key, item)

    def _drop(self, key: str) -> None:
        self._seen.pop(key, None)
        self._put(key, None)

    def _put(self, key: str, item: T | None) -> None:
        before = self.items.pop(key, None) if item is None else self.items.get(key)
        if item is not None:
            self.items[key] = item
        if self._on_change and not (before is None and item is None):
            self._on_change(before, item)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        reload_at = loop.time() + _RELOAD_INTERVAL_S
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                if loop.time() >= reload_at:
                    await self._poll({})
                    reload_at = loop.time() + _RELOAD_INTERVAL_S
                else:
                    await self._poll({"changed_at": {"$gte": self._latest - _CLOCK_SKEW}})
            except Exception as error:  # noqa: BLE001 -- one bad look must not be the last
                self._log.warning(
                    "settings in memory may be old",
                    collection=self._collection.name,
                    error=_error_text(error),
                )


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, InterlinkError) else type(error).__name__
