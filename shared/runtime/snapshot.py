"""A collection in the memory of a process, for what a hot path needs without asking MongoDB."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from pymongo.asynchronous.collection import AsyncCollection

from shared.contracts.errors import InterlinkError
from shared.runtime import mongo
from shared.runtime.bounded_call import bounded_call
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, translate_errors

_POLL_TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 10.0
_RELOAD_INTERVAL_S: Final = 600.0
_CLOCK_SKEW: Final = timedelta(seconds=30)
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""
_BATCH_SIZE: Final = 200
"""Documents that are in memory at a time while all are read. By default, MongoDB sends 16 MB of them."""

T = TypeVar("T")


class Snapshot(Generic[T]):
    """The parsed documents of a collection in memory, by id.

    Every writer sets `changed_at`, sets `deleted_at` instead of deleting, and awaits `announce` after its
    write. `items` is as of the last `Configuration.current`, or newer.
    """

    def __init__(
        self,
        configuration: Configuration,
        collection: mongo.Collection,
        parse: Callable[[Document], T],
        log: Log,
        *,
        on_change: Callable[[T | None, T | None], None] | None = None,
    ) -> None:
        """Set the collection and how to parse its documents.

        A document that `parse` raises for is logged and has no item. `on_change` is called with the item
        before and after each change; None if there is none.
        """
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
        """Ids loaded since the current poll began. What that poll has read of them may be older."""
        self._task: asyncio.Task[None] | None = None
        self.items: dict[str, T] = {}

    async def start(self) -> None:
        """Load the collection and start to follow its changes. Raises `DatabaseUnavailable`."""
        self._configuration.follow(self._collection.name, self.load)
        await self._poll({})
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def announce(self, *ids: str) -> None:
        """Announce to every process that these documents were written, and load them here.

        Await it after the write and before the response. Raises `DatabaseUnavailable`.
        """
        await self._configuration.announce(self._collection.name, *ids)
        await self.load(ids)

    async def delete_all(self, query: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
        """Mark all documents that match a query as deleted, set `fields` in them, and announce it.

        Return their ids. Raises `DatabaseUnavailable`.
        """
        active = {**query, "deleted_at": None}
        with translate_errors():
            ids = [document["_id"] async for document in self._collection.find(active, {"_id": 1})]
        for start in range(0, len(ids), _MAX_IDS_PER_QUERY):
            batch, now = ids[start : start + _MAX_IDS_PER_QUERY], utcnow()
            with translate_errors():
                await self._collection.update_many(
                    {"_id": {"$in": batch}}, {"$set": {**fields, "deleted_at": now, "changed_at": now}}
                )
            await self.announce(*batch)
        return ids

    async def load(self, ids: Collection[str] | None, *, reparse: bool = False) -> None:
        """Load the documents with these ids, or all for None.

        With `reparse`, documents that have not changed are parsed again too. Raises `DatabaseUnavailable`.
        """
        if ids is None:
            await self._poll({})
            return
        remaining = list(ids)
        for start in range(0, len(remaining), _MAX_IDS_PER_QUERY):
            batch = remaining[start : start + _MAX_IDS_PER_QUERY]
            async with self._loading:  # so that results are applied in the order of their reads
                with translate_errors():
                    documents = await self._documents.find({"_id": {"$in": batch}}).to_list(None)
                self._loaded.update(batch)
                for document in documents:
                    self._apply(document, reparse=reparse)
                for missing_id in {*batch} - {document["_id"] for document in documents}:
                    self._drop(missing_id)

    @property
    def _documents(self) -> AsyncCollection[Document]:
        return self._configuration.collection(self._collection.name)

    async def _poll(self, query: Mapping[str, Any]) -> None:
        """Load the documents that match. An empty query also drops items whose documents are gone."""
        async with self._polling:
            self._loaded.clear()
            present: set[str] = set()
            with translate_errors():
                async for document in self._documents.find(query).batch_size(_BATCH_SIZE):
                    present.add(document["_id"])
                    if document["_id"] not in self._loaded:
                        self._apply(document)
            if not query:
                for missing_id in self._seen.keys() - present - self._loaded:  # `_seen` has every item's id
                    self._drop(missing_id)

    def _apply(self, document: Document, *, reparse: bool = False) -> None:
        key, changed_at = document["_id"], document["changed_at"]
        mark = changed_at, hash(repr(document))  # two changes can have the same millisecond
        if self._seen.get(key) == mark and not reparse:
            return
        self._seen[key] = mark
        # Not later than now: the wrong clock of one writer must not hide the later changes of others.
        self._latest = max(self._latest, min(changed_at, utcnow()))
        if document.get("deleted_at"):
            self._put(key, None)
            return
        try:
            item = self._parse(document)
        except Exception as error:  # noqa: BLE001 -- one unreadable document must not hide the others
            self._put(key, None)
            self._log.error(
                "snapshot.document_skipped",
                collection=self._collection.name,
                id=key,
                error=_error_text(error),
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
        """Find changes that were not announced: by `changed_at` every 10 s, all every 10 minutes."""
        loop = asyncio.get_running_loop()
        reload_at = loop.time() + _RELOAD_INTERVAL_S
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                if loop.time() >= reload_at:
                    await bounded_call(self._poll({}), _POLL_TIMEOUT_S)
                    reload_at = loop.time() + _RELOAD_INTERVAL_S
                else:
                    changed = {"changed_at": {"$gte": self._latest - _CLOCK_SKEW}}
                    await bounded_call(self._poll(changed), _POLL_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 -- one failed poll must not be the last
                self._log.warning(
                    "snapshot.poll_failed",
                    collection=self._collection.name,
                    error=_error_text(error),
                )


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, InterlinkError) else type(error).__name__
