"""The only code that opens MongoDB connections: the client, what its errors mean, and indexes."""

import linecache
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import (
    AsyncMongoClient,
    DeleteMany,
    InsertOne,
    ReplaceOne,
    UpdateMany,
    UpdateOne,
    timeout,
)
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from shared.contracts.errors import DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.settings import MongoSettings, read_secret_file

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]
Write = InsertOne[Document] | ReplaceOne[Document] | UpdateOne | UpdateMany | DeleteMany
_Key = TypeVar("_Key")

__all__ = [
    "Collection",
    "DeleteMany",
    "Document",
    "Duplicate",
    "ExecutionTimeout",
    "Index",
    "InsertOne",
    "Mongo",
    "ReplaceOne",
    "UpdateMany",
    "UpdateOne",
    "Write",
]

_REFUSED_WRITES: Final = frozenset({2, 9, 14, 28, 52, 57, 121, 10334, 17280, 17419})
"""Codes of writes with a wrong value, type or name of a field, and of documents that would be too large."""
_PERMANENT_ERRORS: Final[Mapping[int, str]] = {
    13: "its user lacks the rights that the hub needs: readWrite on the database",
    18: "it does not accept the user and the password",
    85: "an index exists with other options: remove that",
    86: "an index exists with other options: remove that",
}
"""Errors by MongoDB's code that last until a person acts."""
_OPTIONS: Final[Mapping[str, Any]] = {"retryWrites": True, "w": "majority", "readPreference": "primary"}
"""Options that a connection string cannot change."""
_INDEX_NOT_FOUND: Final = 27
_DELETE_BATCH: Final = 100
_INDEX_TIMEOUT_S: Final = 3600.0
_DEFAULT_DATABASE: Final = "interlink"
TOMBSTONE_TTL_S: Final = 24 * 3600


class Duplicate(Exception):
    """A unique index refused the document: an equal one exists."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that `interlink init` creates.

    With `ttl_s`, MongoDB deletes a document that many seconds after the time in the index's only key. In the
    embedded database, `Expiry` does. `where` makes it a partial index. A `retired` index is one of an earlier
    release: `interlink init` drops it.
    """

    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    ttl_s: int | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    retired: bool = False


class Mongo:
    """The connection to MongoDB, over one pooled client.

    Writes are acknowledged by a majority of the replica set, and what a primary acknowledges alone could be
    taken back when it steps down. Reads are from the primary, because secondaries may lack what was just
    acknowledged: claims, fences and tokens rely on it. Raises `Misconfigured` if the connection string is
    malformed or says otherwise, or if one of its files cannot be used.
    """

    def __init__(self, settings: MongoSettings, *, app: str) -> None:
        self._settings = settings
        self._app = app
        uri = settings.uri.get_secret_value()
        if not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise Misconfigured("MONGODB_URI must start with mongodb:// or mongodb+srv://")
        _check_options(uri)
        try:
            self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(uri, **self._options())
            self._database: AsyncIOMotorDatabase[Document] = self._client.get_default_database(
                _DEFAULT_DATABASE
            ).with_options(CodecOptions(tz_aware=True, tzinfo=UTC))
        except (ConfigurationError, ValueError) as error:
            raise Misconfigured(f"MONGODB_URI: {error}") from None
        except OSError as error:  # `ssl.SSLError` is one
            raise Misconfigured(
                f"MONGODB_URI: {error}: give PEM files that the service can read in tlsCAFile and "
                "tlsCertificateKeyFile"
            ) from None
        _forget_source()

    def collection(self, name: str) -> Collection:
        return self._database[name]

    def async_database(self) -> AsyncDatabase[Document]:
        """Return the database over a new client for this event loop, without Motor's threads.

        The caller closes the client.
        """
        # While the loop is busy, a thread waits for the interpreter's lock again and again. A read of 0.4 ms
        # was measured at more than a second.
        client: AsyncMongoClient[Document] = AsyncMongoClient(
            self._settings.uri.get_secret_value(), **self._options()
        )
        _forget_source()
        return client.get_default_database(_DEFAULT_DATABASE).with_options(
            CodecOptions(tz_aware=True, tzinfo=UTC)
        )

    def _options(self) -> dict[str, Any]:
        timeout_ms, file = self._settings.timeout_ms, self._settings.password_file
        login = {} if file is None else {"password": read_secret_file(file, "MONGODB_PASSWORD_FILE")}
        return {
            **login,
            "appname": self._app,
            "serverSelectionTimeoutMS": timeout_ms,
            "connectTimeoutMS": timeout_ms,
            "socketTimeoutMS": max(20_000, timeout_ms),
            **_OPTIONS,
            "tz_aware": True,
        }

    async def ping(self) -> None:
        """Check the connection. Raises `DatabaseRefused`, or `DatabaseUnavailable` with the reason."""
        try:
            with translate_errors():
                await self._database.command("ping")
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, ServerSelectionTimeoutError):
                raise DatabaseUnavailable(_connection_problem(error.__cause__)) from error
            raise

    async def time(self) -> datetime | None:
        """Return the database's time of day, or None if it does not say. Raises as `ping`."""
        with translate_errors():
            answer = await self._database.command("hello")
        theirs: datetime | None = answer.get("localTime")
        return theirs.replace(tzinfo=UTC) if theirs and theirs.tzinfo is None else theirs

    async def has_ttl_indexes(self) -> bool:
        """Return whether the database deletes expired documents by TTL indexes: all but the embedded one.

        Raises `DatabaseRefused` or `DatabaseUnavailable`.
        """
        # Once a minute it reads all of each collection with a TTL index, and then holds on to what it has
        # read last until the next time. It can stand still for ever from that (ADR 0091).
        with translate_errors():
            return "secantusVersion" not in await self._database.command("buildInfo")

    async def ensure_indexes(
        self, indexes: Mapping[str, Sequence[Index]], *, keep_retired: bool = False
    ) -> None:
        """Create the indexes that are missing, by collection, and drop retired ones. It is safe to repeat.

        With `keep_retired`, those stay for processes of an earlier release.

        The embedded database gets no TTL indexes: an earlier one is replaced by an index without TTL. Raises
        `DatabaseRefused` or `DatabaseUnavailable`.
        """
        has_ttl = await self.has_ttl_indexes()
        with translate_errors():
            for name, collection_indexes in indexes.items():
                await self._drop_outdated(
                    name, collection_indexes, has_ttl=has_ttl, keep_retired=keep_retired
                )
                for index in collection_indexes:
                    if index.retired:
                        continue
                    options: dict[str, Any] = {}
                    if index.unique:
                        options["unique"] = True
                    if index.ttl_s is not None and has_ttl:
                        options["expireAfterSeconds"] = index.ttl_s
                    if index.where:
                        options["partialFilterExpression"] = dict(index.where)
                    # The embedded database takes more than the timeout of other calls for a large collection.
                    with timeout(_INDEX_TIMEOUT_S):
                        await self.collection(name).create_index(list(index.keys), **options)

    async def missing_indexes(self, indexes: Mapping[str, Sequence[Index]]) -> list[str]:
        """Return what `ensure_indexes` would create, as `collection(key, key)`.

        Raises `DatabaseRefused` or `DatabaseUnavailable`.
        """
        missing: list[str] = []
        for name, collection_indexes in indexes.items():
            with translate_errors():
                existing = await self.collection(name).index_information()
            present = {tuple((key, int(order)) for key, order in found["key"]) for found in existing.values()}
            missing += [
                f"{name}({', '.join(key for key, _ in index.keys)})"
                for index in collection_indexes
                if not index.retired and index.keys not in present
            ]
        return missing

    async def _drop_outdated(
        self, collection: str, indexes: Sequence[Index], *, has_ttl: bool, keep_retired: bool
    ) -> None:
        """Drop the retired indexes, and those with a TTL if the database is to have none."""
        retired = {index.keys for index in indexes if index.retired and not keep_retired}
        if not retired and (has_ttl or all(index.ttl_s is None for index in indexes)):
            return
        for name, found in (await self.collection(collection).index_information()).items():
            keys = tuple((key, int(order)) for key, order in found["key"])
            if keys not in retired and (has_ttl or "expireAfterSeconds" not in found):
                continue
            try:
                # The embedded database deletes the entries one by one: about 15 s for a million.
                with timeout(_INDEX_TIMEOUT_S):
                    await self.collection(collection).drop_index(name)
            except OperationFailure as error:
                if error.code != _INDEX_NOT_FOUND:  # another `interlink init` was first
                    raise

    async def delete_expired(self, indexes: Mapping[str, Sequence[Index]]) -> int:
        """Delete the documents that have expired by the `ttl_s` of an index, and return their number.

        Raises `DatabaseRefused` or `DatabaseUnavailable`.
        """
        with translate_errors():
            return sum(
                [
                    await self._delete_expired_by(self.collection(name), index)
                    for name, collection_indexes in indexes.items()
                    for index in collection_indexes
                    if index.ttl_s is not None and not index.retired
                ]
            )

    async def _delete_expired_by(self, collection: Collection, index: Index) -> int:
        (key, _), ttl = index.keys[0], timedelta(seconds=index.ttl_s or 0)
        expired = {**index.where, key: {"$lt": utcnow() - ttl}}
        deleted = 0
        while True:
            # The embedded database writes nothing else to the collection during a delete: a few at a time.
            found = await collection.find(expired, {"_id": 1}).limit(_DELETE_BATCH).to_list(None)
            if found:
                ids = [document["_id"] for document in found]
                deleted += (await collection.delete_many({"_id": {"$in": ids}, **expired})).deleted_count
            if len(found) < _DELETE_BATCH:
                return deleted

    def close(self) -> None:
        self._client.close()


def _check_options(uri: str) -> None:
    """Raise `Misconfigured` if a connection string wants weaker writes or reads than the hub's."""
    for name, value in parse_qsl(uri.partition("?")[2].replace(";", "&"), keep_blank_values=True):
        for option, needed in _OPTIONS.items():
            if name.lower() == option.lower() and value.lower() != str(needed).lower():
                raise Misconfigured(
                    f"MONGODB_URI: {name}={value} is not possible, because the hub needs {option}="
                    f"{str(needed).lower() if needed is True else needed}: remove it"
                )


def _connection_problem(error: ServerSelectionTimeoutError) -> str:
    """Return why no server could be selected, and what to do."""
    reason = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        fix = "set tlsCAFile to the authority that signed it, and name the servers as their certificates do"
        return f"MongoDB's certificate is not accepted ({reason}): {fix}"
    if "WRONG_VERSION_NUMBER" in reason or "UNEXPECTED_EOF" in reason:
        return f"MongoDB has no TLS on this port ({reason}): remove tls=true, or name another port"
    if "SSL" in reason:
        return f"the TLS handshake with MongoDB failed ({reason}): check whether it asks for a certificate"
    if "replica set" in reason:
        return f"MongoDB did not answer: {reason}: wait for its primary, or check replicaSet"
    if "reset by peer" in reason or "connection closed" in reason:
        return f"MongoDB closed the connection ({reason}): check whether it requires tls=true"
    return f"MongoDB did not answer: {reason or type(error).__name__}"


def _forget_source() -> None:
    """Free 1 MB of source text, which Python caches when a new client formats a traceback."""
    linecache.clearcache()


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise the driver's errors inside the context as the hub's.

    `Duplicate` for a unique index, `DatabaseRefused` for an error that lasts until a person acts, and
    `DatabaseUnavailable` for any other.
    """
    try:
        yield
    except DuplicateKeyError:
        raise Duplicate from None
    except BulkWriteError as error:
        write_errors = error.details.get("writeErrors", [])
        if write_errors and all(write_error.get("code") == 11000 for write_error in write_errors):
            raise Duplicate from None
        raise DatabaseUnavailable(f"MongoDB refused a bulk write: {write_errors[:1]}") from error
    except OperationFailure as error:
        if reason := _PERMANENT_ERRORS.get(error.code or 0):
            raise DatabaseRefused(f"MONGODB_URI: MongoDB refuses: {reason}") from error
        raise DatabaseUnavailable(f"MongoDB refused: {type(error).__name__} {error.code}") from error
    except PyMongoError as error:
        raise DatabaseUnavailable(f"MongoDB did not answer: {type(error).__name__}") from error


def is_refused(error: DatabaseUnavailable) -> bool:
    """Return whether MongoDB refused a write of a bulk for what it is, and would refuse it again."""
    cause = error.__cause__
    return isinstance(cause, BulkWriteError) and any(
        write_error.get("code") in _REFUSED_WRITES for write_error in cause.details.get("writeErrors", ())
    )


async def write_increments(
    collection: Collection, writes: Mapping[_Key, UpdateOne], log: Log
) -> Sequence[_Key]:
    """Write increments; return the keys of those that were certainly not written, for a later call.

    Repeating an increment that was written would count twice: one that may have been written is not returned,
    and lost if it was not. Errors are logged, not raised.
    """
    keys, reason = list(writes), ""
    # Twice: of two processes that insert the same document at the same time, one is refused.
    for _ in range(2):
        if not keys:
            break
        try:
            await collection.bulk_write([writes[key] for key in keys], ordered=False)
        except BulkWriteError as error:
            refused = error.details.get("writeErrors", [])
            keys = [keys[write["index"]] for write in refused]
            reason = str([write.get("errmsg") for write in refused[:1]] or error)
        except PyMongoError as error:
            is_sent = not isinstance(error, ServerSelectionTimeoutError)
            if is_sent and not error.has_error_label("NoWritesPerformed"):
                keys = []
            reason = type(error).__name__
            break
        else:
            return ()
    log.warning(
        "mongo.increments_failed", collection=collection.name, kept=len(keys), of=len(writes), error=reason
    )
    return keys
