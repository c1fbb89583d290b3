"""The MongoDB seam: one client, its errors as ours, indexes, and collections kept in memory."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, Final, Generic, TypeVar

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import DeleteMany, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

from shared.contracts.errors import InterlinkError, Misconfigured, StoreRefuses, StoreUnavailable
from shared.runtime.logs import Log
from shared.runtime.settings import MongoSettings, read_secret

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]
Write = InsertOne[Document] | ReplaceOne[Document] | UpdateOne | UpdateMany | DeleteMany

__all__ = [
    "Collection",
    "DeleteMany",
    "Document",
    "Duplicate",
    "Index",
    "InsertOne",
    "Mongo",
    "ReplaceOne",
    "Snapshot",
    "UpdateMany",
    "UpdateOne",
    "Write",
]

_REFUSALS: Final[Mapping[int, str]] = {
    13: "its user has not the rights that the hub needs: readWrite on the database",
    18: "it does not take the user and the password",
    85: "an index is there with other options: remove that",
    86: "an index is there with other options: remove that",
}
"""What no retry helps against, and a person does."""
_DEFAULT_DATABASE: Final = "interlink"
_POLL_S: Final = 1.0
_FULL_RELOAD_S: Final = 600.0
_SKEW: Final = timedelta(seconds=30)
TOMBSTONE_S: Final = 24 * 3600


class Duplicate(Exception):
    """A unique index refused the document: somebody was first."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that `init` creates; `ttl_s` counts from the time in its one key."""

    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    ttl_s: int | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


def utcnow() -> datetime:
    """Now, with the millisecond precision that BSON keeps."""
    return datetime.fromtimestamp(time_ns() // 1_000_000 / 1000, UTC)


class Mongo:
    """The store. Every call that fails for the store's sake raises `StoreUnavailable`."""

    def __init__(self, settings: MongoSettings, *, app: str) -> None:
        uri, file = settings.uri.get_secret_value(), settings.password_file
        login: dict[str, Any] = {}
        if file is not None:
            login["password"] = read_secret(file, "MONGODB_PASSWORD_FILE")
        if not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise Misconfigured("MONGODB_URI must start with mongodb:// or mongodb+srv://")
        try:
            self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
                uri,
                appname=app,
                serverSelectionTimeoutMS=settings.timeout_ms,
                connectTimeoutMS=settings.timeout_ms,
                socketTimeoutMS=max(20_000, settings.timeout_ms),
                retryWrites=True,
                tz_aware=True,
                **login,
            )
            self._database: AsyncIOMotorDatabase[Document] = self._client.get_default_database(
                _DEFAULT_DATABASE
            ).with_options(CodecOptions(tz_aware=True, tzinfo=UTC))
        except (ConfigurationError, ValueError) as error:
            raise Misconfigured(f"MONGODB_URI: {error}") from None

    def collection(self, name: str) -> Collection:
        return self._database[name]

    async def ping(self) -> None:
        """Raises `StoreUnavailable` when the store does not answer."""
        with translated():
            await self._database.command("ping")

    async def ensure(self, indexes: Mapping[str, Sequence[Index]]) -> None:
        """Create what is missing of these indexes, by collection. Safe to repeat."""
        with translated():
            for name, wanted in indexes.items():
                for index in wanted:
                    options: dict[str, Any] = {}
                    if index.unique:
                        options["unique"] = True
                    if index.ttl_s is not None:
                        options["expireAfterSeconds"] = index.ttl_s
                    if index.where:
                        options["partialFilterExpression"] = dict(index.where)
                    await self.collection(name).create_index(list(index.keys), **options)

    def close(self) -> None:
        self._client.close()


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours: `Duplicate` (a unique index), `StoreRefuses`, else `StoreUnavailable`."""
    try:
        yield
    except DuplicateKeyError:
        raise Duplicate from None
    except BulkWriteError as error:
        faults = error.details.get("writeErrors", [])
        if faults and all(fault.get("code") == 11000 for fault in faults):
            raise Duplicate from None
        raise StoreUnavailable(f"the store refused a bulk write: {faults[:1]}") from error
    except OperationFailure as error:
        if refusal := _REFUSALS.get(error.code or 0):
            raise StoreRefuses(f"MONGODB_URI: the store refuses: {refusal}") from error
        raise StoreUnavailable(f"the store refused: {type(error).__name__} {error.code}") from error
    except PyMongoError as error:
        raise StoreUnavailable(f"the store did not answer: {type(error).__name__}") from error


T = TypeVar("T")


class Snapshot(Generic[T]):
    """A small collection kept in memory: what a hot path needs without asking the store.

    Documents carry `changed_at`, set by every writer, and `deleted_at` once they are gone. The
    snapshot reads what changed every second (with overlap, so that clocks may differ by 30 s) and
    everything every ten minutes. The writing process puts its own change in at once.
    """

    def __init__(
        self,
        collection: Collection,
        parse: Callable[[Document], T],
        log: Log,
        *,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._collection = collection
        self._parse = parse
        self._log = log
        self._on_change = on_change
        self._seen: dict[str, tuple[datetime, int]] = {}
        self._latest = datetime.fromtimestamp(0, UTC)
        self._task: asyncio.Task[None] | None = None
        self._put: dict[str, int] = {}
        self._puts = 0
        self.items: dict[str, T] = {}

    async def start(self) -> None:
        """Load everything and keep it fresh. Raises `StoreUnavailable`."""
        await self._load({})
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, document: Document) -> None:
        """Take in one document now, changed or not: what this process wrote, or can read by now."""
        self._puts += 1
        self._seen.pop(document["_id"], None)
        self._put[document["_id"]] = self._puts
        self._take(document)
        self._changed()

    async def refresh(self) -> None:
        """Take in what others wrote, without waiting for the next look."""
        await self._load({"changed_at": {"$gte": self._latest - _SKEW}})

    async def _load(self, query: Mapping[str, Any]) -> None:
        changed = False
        alive: set[str] = set()
        before = self._puts
        try:
            with translated():
                async for document in self._collection.find(query):
                    alive.add(document["_id"])
                    # What was put meanwhile is newer than what is read here.
                    if self._put.get(document["_id"], 0) <= before:
                        changed |= self._take(document)
            if not query:
                for gone in self.items.keys() - alive:
                    if self._put.get(gone, 0) <= before:
                        del self.items[gone]
                        changed = True
        finally:  # also when the store went away in the middle
            if changed:
                self._changed()

    def _take(self, document: Document) -> bool:
        key, stamp = document["_id"], document["changed_at"]
        mark = stamp, hash(repr(document))  # two changes may bear the same millisecond
        if self._seen.get(key) == mark:
            return False
        self._seen[key] = mark
        # A clock that was wrong once must not hide what others write from then on.
        self._latest = max(self._latest, min(stamp, utcnow()))
        if document.get("deleted_at"):
            self.items.pop(key, None)
        else:
            try:
                self.items[key] = self._parse(document)
            except Exception as error:  # noqa: BLE001 -- one that cannot be read must not blind it to the others
                self.items.pop(key, None)
                told = str(error) if isinstance(error, InterlinkError) else type(error).__name__
                self._log.error("document skipped", collection=self._collection.name, id=key, error=told)
        return True

    def _changed(self) -> None:
        if self._on_change:
            self._on_change()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        full_at = loop.time() + _FULL_RELOAD_S
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                if loop.time() >= full_at:
                    await self._load({})
                    full_at = loop.time() + _FULL_RELOAD_S
                else:
                    await self.refresh()
            except Exception as error:  # noqa: BLE001 -- one bad look must not be the last
                told = str(error) if isinstance(error, InterlinkError) else type(error).__name__
                self._log.warning(
                    "settings in memory may be old", collection=self._collection.name, error=told
                )
