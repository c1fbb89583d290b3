"""`interlink init`: create topics, indexes and a first admin key. It is safe to repeat."""

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.contracts.errors import DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.contracts.ids import derive
from shared.runtime import configuration
from shared.runtime.encryption_keys import write_private
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.settings import KafkaSettings, MongoSettings, load
from shared.runtime.web import access, idempotency

BOOTSTRAP_VARIABLE: Final = "INTERLINK_BOOTSTRAP_ADMIN_KEY"
_MIN_KEY_LENGTH: Final = 24


@dataclass(frozen=True, slots=True)
class Prepared:
    """The result: topics that were created, a key to show once, and notes for a person."""

    topics: Sequence[str]
    new_key: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


async def prepare(services: Iterable[str], workspace: str, key_file: Path | None) -> Prepared:
    """Create what is missing for these services, and an admin key of the workspace.

    With `key_file`, the key is stored in that file. Raises `Misconfigured`, `BrokerUnavailable` or
    `DatabaseUnavailable`.
    """
    kafka_settings, mongo_settings = load(KafkaSettings), load(MongoSettings)
    required = indexes(services)
    mongo = Mongo(mongo_settings, app="interlink-init")
    try:
        await _check_connection(mongo, mongo_settings)
        topics = await ensure_topics(kafka_settings)
        for by_collection in required:
            await mongo.ensure(by_collection)
        keys = AdminKeys(mongo, workspace)
        if key_file:
            return Prepared(topics, notes=await keys.ensure_in_file(key_file))
        key, notes = await keys.ensure()
        return Prepared(topics, key, notes)
    finally:
        mongo.close()


async def _check_connection(mongo: Mongo, settings: MongoSettings) -> None:
    try:
        await mongo.ping()
    except DatabaseRefused:
        raise
    except DatabaseUnavailable as error:
        # Host and port only: the URI holds a password.
        address = settings.uri.get_secret_value().rpartition("@")[2].rpartition("//")[2].partition("/")[0]
        raise Misconfigured(f"no MongoDB at {address} (MONGODB_URI): {error}") from None


def indexes(services: Iterable[str]) -> list[Mapping[str, Sequence[Index]]]:
    """Return the indexes of these services and of what they share, each by collection."""
    apps = [importlib.import_module(f"services.{name}.app") for name in services]
    return [access.INDEXES, idempotency.INDEXES, *(app.INDEXES for app in apps)]


class AdminKeys:
    """Creates and checks the API keys with scope `admin` of one workspace."""

    def __init__(self, mongo: Mongo, workspace: str) -> None:
        self._mongo = mongo
        self._collection = mongo.collection(access.COLLECTION)
        self._workspace = workspace
        # The same in every process, so that of two that start at once, only one creates the first key.
        self._first = f"key_{derive('first admin key', workspace)[:16]}"

    async def ensure(self) -> tuple[str | None, Sequence[str]]:
        """Create the first key if the workspace has none. Return it if a person has to see it, and notes."""
        if await self._find_one({"scopes": "admin", **_active_filter()}):
            return None, ()
        bootstrap_key = _bootstrap_key()
        if bootstrap_key is None:
            key, _ = access.new_key(self._workspace, "", ["admin"])
            return (key if await self._insert_first(key) else None), ()
        if await self._find_one({"digest": access.digest(bootstrap_key)}):
            raise Misconfigured(
                f"the key in {BOOTSTRAP_VARIABLE} was revoked or has expired: set another one"
            )
        if not await self._insert_first(bootstrap_key):
            return None, ()
        return None, (f"the admin key of workspace {self._workspace!r} is the one in {BOOTSTRAP_VARIABLE}",)

    async def ensure_in_file(self, file: Path) -> Sequence[str]:
        """Ensure that the file holds a valid admin key. Return notes about what was changed."""
        file_key = _read_key_file(file)
        if file_key and await self._is_valid(file_key):
            return ()
        empty = not await self._find_one({})
        if file_key and empty:  # a new database, not a key that was revoked
            await self._insert(file_key)
            return (f"the database is new: the admin key in {file} was added to it",)
        key = _bootstrap_key()
        if key is None or (
            await self._find_one({"digest": access.digest(key)}) and not await self._is_valid(key)
        ):
            key, _ = access.new_key(self._workspace, "", ["admin"])
        # The file first: a key that nobody knows would stay in the database for ever.
        write_private(file, key)
        if not await self._is_valid(key):
            await self._insert(key)
        if empty:
            return ()
        problem = "is no longer valid in this database" if file_key else "was missing"
        return (f"the admin key in {file} {problem}: the file has a new one now",)

    async def _is_valid(self, key: str) -> bool:
        return (
            await self._find_one({"digest": access.digest(key), "scopes": "admin", **_active_filter()})
            is not None
        )

    async def _find_one(self, query: Mapping[str, Any]) -> Document | None:
        with translate_errors():
            return await self._collection.find_one({"workspace": self._workspace, **query})

    async def _insert_first(self, key: str) -> bool:
        """Insert the workspace's first key. Return False if another process was first."""
        document = self._document(key) | {"_id": self._first}
        revoked = {"_id": self._first, "deleted_at": {"$ne": None}}
        try:
            with translate_errors():
                if not (await self._collection.replace_one(revoked, document)).modified_count:
                    await self._collection.insert_one(document)
        except Duplicate:
            return False
        await configuration.record_changes(self._mongo, access.COLLECTION, self._first)
        return True

    async def _insert(self, key: str) -> None:
        document = self._document(key)
        with translate_errors():
            await self._collection.insert_one(document)
        await configuration.record_changes(self._mongo, access.COLLECTION, document["_id"])

    def _document(self, key: str) -> Document:
        return access.key_document(key, self._workspace, "first admin key", ["admin"])


def _active_filter() -> dict[str, Any]:
    return {
        "deleted_at": None,
        "$or": [{"expires_at": None}, {"expires_at": {"$gt": utcnow()}}],
    }


def _read_key_file(file: Path) -> str | None:
    return file.read_text("utf-8").strip() if file.exists() else None


def _bootstrap_key() -> str | None:
    """Return the key that the environment sets. Raises `Misconfigured` if it is too short or has blanks."""
    key = os.environ.get(BOOTSTRAP_VARIABLE, "").strip()
    if not key:
        return None
    if len(key) < _MIN_KEY_LENGTH or not key.isprintable() or " " in key:
        raise Misconfigured(
            f"{BOOTSTRAP_VARIABLE}: a key needs at least {_MIN_KEY_LENGTH} characters and no blanks"
        )
    return key
