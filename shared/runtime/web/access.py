"""API keys of a workspace: prefix and 256 bits, stored hashed, with scopes, expiry and last use.

Every service checks keys the same way, from a snapshot of the `api_keys` collection. Services call one
another with service keys, which are in no store: sealed by the installation's own encryption key, for one
workspace and a minute.
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
"""A minute, and the 30 s that clocks may differ."""
_SERVICE_RECORD: Final = "service key"
_LAST_USED_FLUSH_INTERVAL_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who calls: a key of a workspace and what it may do."""

    id: ApiKeyId
    workspace: WorkspaceId
    scopes: frozenset[str]
    expires_at: datetime | None

    def allows(self, scope: Scope) -> bool:
        """`admin` allows everything in its workspace; `x:write` allows `x:read`."""
        if scope in self.scopes or "admin" in self.scopes:
            return True
        return scope.endswith(":read") and scope.replace(":read", ":write") in self.scopes


def digest(key: str) -> str:
    """How a key is stored and found: SHA-256, enough for 256 random bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key(
    workspace: str, name: str, scopes: Iterable[Scope], expires_at: datetime | None = None
) -> tuple[str, Document]:
    """A fresh key, to be shown once, and the document that is kept of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, key_document(key, workspace, name, scopes, expires_at)


def key_document(
    key: str, workspace: str, name: str, scopes: Iterable[Scope], expires_at: datetime | None = None
) -> Document:
    """What is kept of a key: its digest and its first characters, never the key."""
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
    """A key with which a service calls another one on behalf of a workspace, for the next minute."""
    until = (utcnow() + _SERVICE_KEY_TTL).isoformat()
    text = orjson.dumps([service, workspace, sorted(scopes), until]).decode()
    sealed = vault.seal(text, workspace="", record=_SERVICE_RECORD, field="key")
    parts = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in sealed.items()
    }
    return SERVICE_KEY_PREFIX + base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def _open_service_key(vault: Vault, key: str) -> ApiKey:
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(key.removeprefix(SERVICE_KEY_PREFIX)))
        sealed: Any = {
            name: base64.b64decode(value, validate=True) if name != "k" else value
            for name, value in parts.items()
        }
        wanted: Any = {"k": sealed["k"], "w": sealed["w"], "n": sealed["n"], "c": sealed["c"]}
        text = vault.open(wanted, workspace="", record=_SERVICE_RECORD, field="key")
        service, workspace, scopes, until = orjson.loads(text)
        ends = datetime.fromisoformat(until)
    except (InterlinkError, ValueError, TypeError, KeyError, AttributeError):
        raise Unauthenticated("the API key is unknown, expired or revoked") from None
    if ends <= utcnow():
        raise Unauthenticated("the API key is unknown, expired or revoked")
    return ApiKey(ApiKeyId(f"service:{service}"), WorkspaceId(workspace), frozenset(scopes), ends)


class Keyring:
    """The API keys in memory, and when each was last used."""

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
        """Return the key behind an `Authorization` header, as it is now. Raises `Unauthenticated`.

        Everything else that this process has in memory is up to date then, too.
        """
        await self._configuration.current()
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise Unauthenticated("send an API key: 'Authorization: Bearer <key>'")
        if presented.startswith(SERVICE_KEY_PREFIX):
            return _open_service_key(self._vault, presented.strip())
        key = self._by_digest.get(digest(presented.strip()))
        if key is None or (key.expires_at and key.expires_at <= utcnow()):
            raise Unauthenticated("the API key is unknown, expired or revoked")
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
        used, self._used = self._used, {}
        if not used:
            return
        writes = [UpdateOne({"_id": key}, {"$max": {"last_used_at": at}}) for key, at in used.items()]
        try:
            with translate_errors():
                await self._collection.bulk_write(writes, ordered=False)
        except InterlinkError as error:
            self._log.warning("last use of API keys not noted", error=str(error))


def _parse(document: Document) -> tuple[str, ApiKey]:
    key = ApiKey(
        id=document["_id"],
        workspace=document["workspace"],
        scopes=frozenset(document["scopes"]),
        expires_at=document["expires_at"],
    )
    return document["digest"], key


_BEARER: Final = HTTPBearer(scheme_name="ApiKey", description="An API key of a workspace.", auto_error=False)
"""For the OpenAPI document; the keyring reads the header itself."""


def requires(scope: Scope) -> Callable[..., Awaitable[ApiKey]]:
    """A FastAPI dependency: the caller's key, which must have this scope.

    Then the call may have no query parameters that its route does not know. The app keeps its `Keyring` in
    `app.state.keyring`. Raises `Unauthenticated`, `Forbidden` or `Invalid`.
    """

    async def check(request: Request, _: Annotated[object, Security(_BEARER, scopes=[scope])]) -> ApiKey:
        keyring: Keyring = request.app.state.keyring
        key = await keyring.authenticate(request.headers.get("authorization"))
        if not key.allows(scope):
            raise Forbidden(f"this API key lacks the scope {scope}")
        reject_unknown_parameters(request)
        return key

    return check
