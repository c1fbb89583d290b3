"""`interlink init`: create topics, indexes and a first admin key. It is safe to repeat."""

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from interlink.private_files import write_private
from shared.contracts.errors import DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.contracts.ids import derive
from shared.runtime.kafka.admin import ensure_topics
from shared.runtime.mongo import Index, Mongo
from shared.runtime.settings import KafkaSettings, MongoSettings, load, read_secret_file
from shared.runtime.web.api_keys import ApiKeyRecord, ApiKeys, generate_key
from shared.runtime.web.shared_indexes import SHARED_INDEXES
from shared.runtime.workspaces import Workspaces

BOOTSTRAP_VARIABLE: Final = "INTERLINK_BOOTSTRAP_ADMIN_KEY"
BOOTSTRAP_FILE_VARIABLE: Final = f"{BOOTSTRAP_VARIABLE}_FILE"
"""A file that contains the key instead: a mounted secret."""
_MIN_KEY_LENGTH: Final = 24


@dataclass(frozen=True, slots=True)
class Prepared:
    """The result: topics that were created, a key to show once, and notes for a person."""

    topics: Sequence[str]
    new_key: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


async def prepare(
    services: Iterable[str], workspace: str, key_file: Path | None, *, keep_retired: bool = False
) -> Prepared:
    """Create what is missing for these services, and an admin key of the workspace.

    With `key_file`, the key is stored in that file. With `keep_retired`, indexes that only an earlier release
    uses stay. Raises `Misconfigured`, `BrokerUnavailable` or
    `DatabaseUnavailable`.
    """
    kafka_settings, mongo_settings = load(KafkaSettings), load(MongoSettings)
    required = indexes(services)
    mongo = Mongo(mongo_settings, app="interlink-init")
    try:
        await _check_connection(mongo, mongo_settings)
        topics = await ensure_topics(kafka_settings)
        for by_collection in required:
            await mongo.ensure_indexes(by_collection, keep_retired=keep_retired)
        workspaces = Workspaces(mongo)
        if await workspaces.is_deleted(workspace):
            raise Misconfigured(
                f"the workspace {workspace!r} was deleted: its id can be used again after 30 days"
            )
        # Those of earlier releases have keys, and no record.
        await workspaces.register([workspace, *await ApiKeys(mongo).workspaces()])
        keys = AdminKeys(ApiKeys(mongo), workspace)
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
    return [*SHARED_INDEXES, *(app.INDEXES for app in apps)]


class AdminKeys:
    """Creates and checks the API keys with scope `admin` of one workspace."""

    def __init__(self, keys: ApiKeys, workspace: str) -> None:
        self._keys = keys
        self._workspace = workspace
        # The same in every process, so that of two that start at once, only one creates the first key.
        self._first = f"key_{derive('first admin key', workspace)[:16]}"

    async def ensure(self) -> tuple[str | None, Sequence[str]]:
        """Create the first key if the workspace has none. Return it if a person has to see it, and notes."""
        if await self._keys.has_admin(self._workspace):
            return None, ()
        bootstrap_key = _bootstrap_key()
        if bootstrap_key is None:
            key = generate_key()
            return (key if await self._insert_first(key) else None), ()
        if await self._keys.contains(self._workspace, bootstrap_key):
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
        empty = not await self._keys.has_any(self._workspace)
        if file_key and empty:  # a new database, not a key that was revoked
            await self._insert(file_key)
            return (f"the database is new: the admin key in {file} was added to it",)
        key = _bootstrap_key()
        if key is None or (await self._keys.contains(self._workspace, key) and not await self._is_valid(key)):
            key = generate_key()
        # The file first: a key that nobody knows would stay in the database for ever.
        write_private(file, key)
        if not await self._is_valid(key):
            await self._insert(key)
        if empty:
            return ()
        problem = "is no longer valid in this database" if file_key else "was missing"
        return (f"the admin key in {file} {problem}: the file has a new one now",)

    async def _is_valid(self, key: str) -> bool:
        return await self._keys.is_admin(self._workspace, key)

    async def _insert_first(self, key: str) -> bool:
        """Insert the workspace's first key. Return False if another process was first."""
        return await self._keys.insert_or_replace_revoked(self._record(key, self._first))

    async def _insert(self, key: str) -> None:
        await self._keys.insert_recorded(self._record(key))

    def _record(self, key: str, key_id: str | None = None) -> ApiKeyRecord:
        return ApiKeyRecord.of_key(key, self._workspace, "first admin key", ["admin"], id=key_id)


def _read_key_file(file: Path) -> str | None:
    return file.read_text("utf-8").strip() if file.exists() else None


def _bootstrap_key() -> str | None:
    """Return the key that the environment sets.

    Raises `Misconfigured` if it is too short or has blanks, or if its file cannot be read.
    """
    key = os.environ.get(BOOTSTRAP_VARIABLE, "").strip()
    file = os.environ.get(BOOTSTRAP_FILE_VARIABLE, "")
    if key and file:
        raise Misconfigured(
            f"{BOOTSTRAP_VARIABLE} and {BOOTSTRAP_FILE_VARIABLE} are both set: leave one of them out"
        )
    if file:
        key = read_secret_file(Path(file), BOOTSTRAP_FILE_VARIABLE).strip()
    if not key:
        return None
    if len(key) < _MIN_KEY_LENGTH or not key.isprintable() or " " in key:
        raise Misconfigured(
            f"{BOOTSTRAP_VARIABLE}: a key needs at least {_MIN_KEY_LENGTH} characters and no blanks"
        )
    return key
