"""API keys: a prefix and 256 random bits, stored as a hash, with scopes, expiry and last use.

Every service checks keys in the same way, from a snapshot of the `api_keys` collection. Services call one
another with service keys, which are not stored: each is sealed with the installation's encryption key, for
one workspace, and valid for a minute.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import Request, Security
from fastapi.security import HTTPBearer

from shared.contracts.errors import Forbidden, InterlinkError, Unauthenticated
from shared.contracts.ids import ApiKeyId, WorkspaceId, new_api_key_id
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Index, Mongo, UpdateOne, translate_errors, utcnow
from shared.runtime.secrets import Vault
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.query_parameters import reject_unknown_parameters

Scope = Literal[
    "events:write",
    "webhooks:read",
    "webhooks:write",
    "integrations:read",
    "integrations:write",
    "imports:write",
    "admin",
]

KEY_PREFIX: Final = "ilk_"
COLLECTION: Final = "api_keys"
INDEXES: Final = {
    COLLECTION: (
        Index((("digest", 1),), unique=True),
        Index((("workspace", 1), ("created_at", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}
SERVICE_KEY_PREFIX: Final = "ils_"
_SERVICE_KEY_TTL: Final = timedelta(seconds=90)
"""A minute, and 30 s for the difference of two clocks."""
_SERVICE_RECORD: Final = "service key"
_LAST_USED_FLUSH_INTERVAL_S: Final = 30.0
_INVALID_KEY: Final = "the API key is unknown, expired or revoked"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The caller of a management API: a workspace's key and its scopes."""

    id: ApiKeyId
    workspace: WorkspaceId
    scopes: frozenset[str]
    expires_at: datetime | None

    def allows(self, scope: Scope) -> bool:
        """Return whether the key has a scope. `admin` includes all scopes, `x:write` includes `x:read`."""
        if scope in self.scopes or "admin" in self.scopes:
            return True
        return scope.endswith(":read") and scope.replace(":read", ":write") in self.scopes


def digest(key: str) -> str:
    """Return the SHA-256 hash that a key is stored under, in hex. 256 random bits need no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(
    workspace: str, name: str, scopes: Iterable[Scope], expires_at: datetime | None = None
) -> tuple[str, Document]:
    """Return a new key, to be shown once, and the document to store."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, key_document(key, workspace, name, scopes, expires_at)


def key_document(
    key: str, workspace: str, name: str, scopes: Iterable[Scope], expires_at: datetime | None = None
) -> Document:
    """Return the document to store for a key. It has the key's hash and first characters, never the key."""
    now = utcnow()
    return {
        "_id": new_api_key_id(),
        "digest": digest(key),
        "prefix": key[: len(KEY_PREFIX) + 6],
        "workspace": workspace,
        "name": name,
        "scopes": sorted(set(scopes)),
        "expires_at": expires_at,
        "created_at": now,
        "changed_at": now,
        "last_used_at": None,
    }


def service_key(vault: Vault, service: str, workspace: str, scopes: Iterable[Scope]) -> str:
    """Return a key with which `service` can call another service for a workspace, within the next minute."""
    expires_at = (utcnow() + _SERVICE_KEY_TTL).isoformat()
    text = orjson.dumps([service, workspace, sorted(scopes), expires_at]).decode()
    sealed = vault.seal(text, workspace="", record=_SERVICE_RECORD, field="key")
    parts = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in sealed.items()
    }
    return SERVICE_KEY_PREFIX + base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def _open_service_key(vault: Vault, key: str) -> ApiKey:
    """Return the rights of a service key. Raises `Unauthenticated` if it is malformed, forged or expired."""
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(key.removeprefix(SERVICE_KEY_PREFIX)))
        sealed: Any = {
            name: base64.b64decode(value, validate=True) if name != "k" else value
            for name, value in parts.items()
        }
        # All four parts are required: without `w` it would open as a value of version 0.3.0.
        complete: Any = {"k": sealed["k"], "w": sealed["w"], "n": sealed["n"], "c": sealed["c"]}
        text = vault.open(complete, workspace="", record=_SERVICE_RECORD, field="key")
        service, workspace, scopes, expires_at_text = orjson.loads(text)
        expires_at = datetime.fromisoformat(expires_at_text)
    except (InterlinkError, ValueError, TypeError, KeyError, AttributeError):
        raise Unauthenticated(_INVALID_KEY) from None
    if expires_at <= utcnow():
        raise Unauthenticated(_INVALID_KEY)
    return ApiKey(ApiKeyId(f"service:{service}"), WorkspaceId(workspace), frozenset(scopes), expires_at)


class Keyring:
    """All API keys in memory, and the times of their last use."""

    def __init__(self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log) -> None:
        self._collection = mongo.collection(COLLECTION)
        self._configuration = configuration
        self._vault = vault
        self._log = log
        self._by_digest: dict[str, ApiKey] = {}
        self._used: dict[str, datetime] = {}
        self._task: asyncio.Task[None] | None = None
        self.snapshot: Snapshot[tuple[str, ApiKey]] = Snapshot(
            configuration, self._collection, _parse, log, on_change=self._index
        )

    async def start(self) -> None:
        await self.snapshot.start()
        self._task = asyncio.create_task(self._flush_loop())

    async def stop(self) -> None:
        await self.snapshot.stop()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._flush_use()

    async def authenticate(self, authorization: str | None) -> ApiKey:
        """Return the key of an `Authorization` header, after a check for changes of the configuration.

        So all other snapshots of this process are up to date too when it returns. Raises `Unauthenticated`.
        """
        await self._configuration.current()
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise Unauthenticated("send an API key: 'Authorization: Bearer <key>'")
        if presented.startswith(SERVICE_KEY_PREFIX):
            return _open_service_key(self._vault, presented.strip())
        key = self._by_digest.get(digest(presented.strip()))
        if key is None or (key.expires_at and key.expires_at <= utcnow()):
            raise Unauthenticated(_INVALID_KEY)
        self._used[key.id] = utcnow()
        return key

    def _index(self, before: tuple[str, ApiKey] | None, after: tuple[str, ApiKey] | None) -> None:
        if before:
            self._by_digest.pop(before[0], None)
        if after:
            self._by_digest[after[0]] = after[1]

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(_LAST_USED_FLUSH_INTERVAL_S)
            await self._flush_use()

    async def _flush_use(self) -> None:
        """Store the times of last use. If that fails, they are lost: they are for information only."""
        used, self._used = self._used, {}
        if not used:
            return
        writes = [UpdateOne({"_id": key}, {"$max": {"last_used_at": at}}) for key, at in used.items()]
        try:
            with translate_errors():
                await self._collection.bulk_write(writes, ordered=False)
        except InterlinkError as error:
            self._log.warning("api_key.last_used_not_stored", error=str(error))


def _parse(document: Document) -> tuple[str, ApiKey]:
    key = ApiKey(
        id=document["_id"],
        workspace=document["workspace"],
        scopes=frozenset(document["scopes"]),
        expires_at=document["expires_at"],
    )
    return document["digest"], key


_BEARER: Final = HTTPBearer(scheme_name="ApiKey", description="An API key of a workspace.", auto_error=False)
"""For the OpenAPI document only: the keyring reads the header itself."""


def requires(scope: Scope) -> Callable[..., Awaitable[ApiKey]]:
    """Return a FastAPI dependency that checks the caller's key and the call's query parameters.

    The dependency returns the key. It raises `Unauthenticated` without a valid key, `Forbidden` if the key
    lacks the scope, and `Invalid` for query parameters that the route does not have. The app has its
    `Keyring` in `app.state.keyring`.
    """

    async def check(request: Request, _: Annotated[object, Security(_BEARER, scopes=[scope])]) -> ApiKey:
        keyring: Keyring = request.app.state.keyring
        key = await keyring.authenticate(request.headers.get("authorization"))
        if not key.allows(scope):
            raise Forbidden(f"this API key lacks the scope {scope}")
        reject_unknown_parameters(request)
        return key

    return check
