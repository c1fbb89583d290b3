"""What has to be there before the services start: topics, indexes and a first admin key. Safe to repeat."""

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
    """What was done: topics that were missing, a key to show once, and what a person should know."""

    topics: Sequence[str]
    new_key: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


async def prepare(services: Iterable[str], workspace: str, key_file: Path | None) -> Prepared:
    """Create what is missing. Raises `Misconfigured`, `BrokerUnavailable` or `DatabaseUnavailable`."""
    kafka, store = load(KafkaSettings), load(MongoSettings)
    wanted = indexes(services)
    mongo = Mongo(store, app="interlink-init")
    try:
        await _check_connection(mongo, store)
        topics = await ensure_topics(kafka)
        for each in wanted:
            await mongo.ensure(each)
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
        where = settings.uri.get_secret_value().rpartition("@")[2].rpartition("//")[2].partition("/")[0]
        raise Misconfigured(f"no store at {where} (MONGODB_URI): {error}") from None


def indexes(services: Iterable[str]) -> list[Mapping[str, Sequence[Index]]]:
    """The indexes of every service and of what they share."""
    apps = [importlib.import_module(f"services.{name}.app") for name in services]
    return [access.INDEXES, idempotency.INDEXES, *(app.INDEXES for app in apps)]


class AdminKeys:
    """The keys with scope `admin` of one workspace."""

    def __init__(self, mongo: Mongo, workspace: str) -> None:
        self._mongo = mongo
        self._collection = mongo.collection(access.COLLECTION)
        self._workspace = workspace
        # The same for everybody, so that of two that start at once, one makes the first key.
        self._first = f"key_{derive('first admin key', workspace)[:16]}"

    async def ensure(self) -> tuple[str | None, Sequence[str]]:
        """Make the first key when the workspace has none; return it when it is to be shown."""
        if await self._one({"scopes": "admin", **_active_filter()}):
            return None, ()
        given = _bootstrap_key()
        if given is None:
            key, _ = access.new_key(self._workspace, "", ["admin"])
            return (key if await self._insert_first(key) else None), ()
        if await self._one({"digest": access.digest(given)}):
            raise Misconfigured(
                f"the key in {BOOTSTRAP_VARIABLE} was revoked or has expired: set another one"
            )
        if not await self._insert_first(given):
            return None, ()
        return None, (f"the admin key of workspace {self._workspace!r} is the one in {BOOTSTRAP_VARIABLE}",)

    async def ensure_in_file(self, file: Path) -> Sequence[str]:
        """Make sure that the key in this file is a valid admin key, and say what was not as before."""
        known = _read_key_file(file)
        if known and await self._valid(known):
            return ()
        empty = not await self._one({})
        if known and empty:  # a new store, not a key that was revoked
            await self._insert(known)
            return (f"the store is new: the admin key in {file} was put into it",)
        key = _bootstrap_key()
        if key is None or (await self._one({"digest": access.digest(key)}) and not await self._valid(key)):
            key, _ = access.new_key(self._workspace, "", ["admin"])
        write_private(file, key)  # first: a key that nobody knows would stay in the store for ever
        if not await self._valid(key):
            await self._insert(key)
        if empty:
            return ()
        why = "is not valid in this store any more" if known else "was gone"
        return (f"the admin key in {file} {why}: there is another one in it now",)

    async def _valid(self, key: str) -> bool:
        return (
            await self._one({"digest": access.digest(key), "scopes": "admin", **_active_filter()}) is not None
        )

    async def _one(self, query: Mapping[str, Any]) -> Document | None:
        with translate_errors():
            return await self._collection.find_one({"workspace": self._workspace, **query})

    async def _insert_first(self, key: str) -> bool:
        """Insert the workspace's first key; False when somebody else was first."""
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
    given = os.environ.get(BOOTSTRAP_VARIABLE, "").strip()
    if not given:
        return None
    if len(given) < _MIN_KEY_LENGTH or not given.isprintable() or " " in given:
        raise Misconfigured(
            f"{BOOTSTRAP_VARIABLE}: a key has at least {_MIN_KEY_LENGTH} characters and no blanks"
        )
    return given
