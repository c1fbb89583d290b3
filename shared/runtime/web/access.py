"""Authenticate and authorize callers of the management APIs.

Every service checks keys in the same way, from snapshots of the collections `api_keys` and `members`.
Services call one another with service keys (`service_keys`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from starlette.types import Scope as AsgiScope

from shared.contracts.errors import Forbidden, InterlinkError, Unauthenticated
from shared.contracts.ids import WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Mongo
from shared.runtime.secrets import Vault
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.api_keys import (
    EXPLICIT_SCOPES,
    AccountLimits,
    ApiKeyRecord,
    ApiKeys,
    Scope,
    digest,
)
from shared.runtime.web.members import ROLE_SCOPES, MemberRecord, Members
from shared.runtime.web.query_parameters import reject_unknown_parameters
from shared.runtime.web.service_keys import (
    INVALID_KEY,
    SERVICE_KEY_PREFIX,
    Actor,
    Customer,
    open_service_key,
)

_LAST_USED_FLUSH_INTERVAL_S: Final = 30.0
_CALLER: Final = "interlink.caller"
"""The entry of an ASGI scope with the key of the call, once it was checked."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The caller of a management API: a workspace's key and its scopes.

    The key of a service has an id of the form `service:<name>` and, if the service acts for a member,
    `acting`. A member's key has the member's id, and a `role`.
    """

    id: str
    workspace: WorkspaceId
    scopes: frozenset[str]
    expires_at: datetime | None
    name: str = ""
    role: str = ""
    service: str = ""
    acting: Actor | None = None
    accounts: AccountLimits | None = None
    """Limits on the connected accounts that it may use; None for all of the workspace."""
    sessions_from: datetime | None = None
    """Sessions of the member from before this time have ended."""
    customer: Customer | None = None
    """The customer that the key is limited to, which has no scopes; None for keys of workspaces."""

    @property
    def member_id(self) -> str:
        """The id of the member who calls, with their key or in the console; empty for API keys."""
        if self.acting is not None:
            return self.acting.key_id if self.acting.role else ""
        return self.id if self.role else ""

    def allows(self, scope: Scope) -> bool:
        """Return whether the key has a scope.

        `admin` includes all scopes but those of `EXPLICIT_SCOPES`, `x:write` includes `x:read` and
        `x:operate`.
        """
        if scope in self.scopes:
            return True
        if scope in EXPLICIT_SCOPES:
            return False
        if "admin" in self.scopes:
            return True
        subject, _, action = scope.partition(":")
        return action in ("read", "operate") and f"{subject}:write" in self.scopes


class Keyring:
    """All API keys and members in memory, and the times of their last use."""

    def __init__(self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log) -> None:
        self._keys = ApiKeys(mongo)
        self._members = Members(mongo)
        self._configuration = configuration
        self._vault = vault
        self._log = log
        self._by_digest: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}
        self._used: dict[str, datetime] = {}
        self._task: asyncio.Task[None] | None = None
        self.snapshot: Snapshot[tuple[str, ApiKey]] = self._keys.snapshot(
            configuration, log, _digest_and_key, self._index
        )
        self.members: Snapshot[tuple[str, ApiKey]] = self._members.snapshot(
            configuration, log, _digest_and_member, self._index
        )

    async def start(self) -> None:
        await self.snapshot.start()
        await self.members.start()
        self._task = asyncio.create_task(self._flush_loop())

    async def stop(self) -> None:
        await self.snapshot.stop()
        await self.members.stop()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._flush_use()

    async def authenticate(self, authorization: str | None) -> ApiKey:
        """Return the key of an `Authorization` header, after a check for changes of the configuration.

        So all other snapshots of this process are up to date too when it returns. Raises `Unauthenticated`,
        or `DatabaseUnavailable`: the caller can try again, but a revoked key must not count.
        """
        await self._configuration.ensure_current()
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise Unauthenticated("send an API key: 'Authorization: Bearer <key>'")
        if presented.startswith(SERVICE_KEY_PREFIX):
            opened = open_service_key(self._vault, presented.strip())
            return ApiKey(
                f"service:{opened.service}",
                opened.workspace,
                opened.scopes,
                opened.expires_at,
                service=opened.service,
                acting=opened.acting,
                customer=opened.customer,
            )
        key = self._valid(digest(presented.strip()), is_use=True)
        if key is None:
            raise Unauthenticated(INVALID_KEY)
        return key

    async def find(self, key_digest: str, *, is_use: bool = True) -> ApiKey | None:
        """Return the key with a digest; None if it is unknown, expired or revoked.

        Otherwise as `authenticate`. The time of last use changes only if `is_use`.
        """
        await self._configuration.ensure_current()
        return self._valid(key_digest, is_use=is_use)

    async def find_member(self, member_id: str, *, is_use: bool = True) -> ApiKey | None:
        """Return the key of a member; None for a removed one. Otherwise as `find`."""
        await self._configuration.ensure_current()
        _, member = self.members.items.get(member_id, ("", None))
        return self._checked(member, is_use=is_use)

    async def remove_members(self, workspace: str) -> None:
        """Delete every member of a workspace, removed ones too."""
        await self.members.delete_all({"workspace": workspace}, {"digest": None})

    async def allows_session(self, key_id: str, scope: Scope, started: datetime) -> bool:
        """Return whether a session that the key, or the member, with this id started can go on.

        It ends with the key, with the member's key of that time, and with the scope. Otherwise as
        `authenticate`. It is no use of the key.
        """
        await self._configuration.ensure_current()
        key = self._checked(self._by_id.get(key_id), is_use=False)
        if key is None or (key.sessions_from and started < key.sessions_from):
            return False
        return key.allows(scope)

    def _valid(self, key_digest: str, *, is_use: bool) -> ApiKey | None:
        return self._checked(self._by_digest.get(key_digest), is_use=is_use)

    def _checked(self, key: ApiKey | None, *, is_use: bool) -> ApiKey | None:
        if key is None or (key.expires_at and key.expires_at <= utcnow()):
            return None
        if is_use:
            self._used[key.id] = utcnow()
        return key

    def _index(self, before: tuple[str, ApiKey] | None, after: tuple[str, ApiKey] | None) -> None:
        if before:
            self._by_digest.pop(before[0], None)
            self._by_id.pop(before[1].id, None)
        if after:
            self._by_id[after[1].id] = after[1]
            if after[0]:
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
        members = {key: at for key, at in used.items() if key in self.members.items}
        keys = {key: at for key, at in used.items() if key not in members}
        try:
            if keys:
                await self._keys.store_last_use(keys)
            if members:
                await self._members.store_last_use(members)
        except InterlinkError as error:
            self._log.warning("api_key.last_used_not_stored", error=str(error))


def _digest_and_key(record: ApiKeyRecord) -> tuple[str, ApiKey]:
    scopes = frozenset((*record.scopes, "payloads:read"))
    return record.digest, ApiKey(
        record.id, record.workspace, scopes, record.expires_at, record.name, accounts=record.accounts
    )


def _digest_and_member(record: MemberRecord) -> tuple[str, ApiKey]:
    """Return the digest of a member's key ('' without one) and the member as a caller."""
    member = ApiKey(
        record.id,
        record.workspace,
        frozenset(ROLE_SCOPES[record.role]),
        record.removed_at,  # so a removed member is like an expired key
        record.name,
        record.role,
        sessions_from=max(filter(None, (record.restored_at, record.key_from)), default=None),
    )
    return record.digest or "", member


async def caller_of(scope: AsgiScope, keyring: Keyring) -> ApiKey:
    """Return the key of a call, checked once for each call. Raises `Unauthenticated`.

    All snapshots of this process are as up to date as after `Keyring.authenticate`.
    """
    key: ApiKey | None = scope.get(_CALLER)
    if key is None:
        presented = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = scope[_CALLER] = await keyring.authenticate(presented.decode("latin-1"))
    return key


async def authorize(scope: AsgiScope, keyring: Keyring, required: Scope) -> ApiKey:
    """Return the key of a call as `caller_of` does. Raises `Forbidden` if it lacks the scope `required`."""
    key = await caller_of(scope, keyring)
    if not key.allows(required):
        raise Forbidden(f"this API key lacks the scope {required}")
    return key


_BEARER: Final = HTTPBearer(scheme_name="ApiKey", description="An API key of a workspace.", auto_error=False)
"""For the OpenAPI document only: the keyring reads the header itself."""


def requires(
    scope: Scope, *, customers: bool = False, own_member: bool = False
) -> Callable[..., Awaitable[ApiKey]]:
    """Return a FastAPI dependency that checks the caller's key and the call's query parameters.

    With `customers`, it also accepts keys of customers, which have no scopes: the route has to limit them.
    With `own_member`, a member needs no scope where the path has their own id as `member_id`.

    The dependency returns the key. It raises `Unauthenticated` without a valid key, `Forbidden` if the key
    lacks the scope, and `Invalid` for query parameters that the route does not have. The app has its
    `Keyring` in `app.state.keyring`.
    """

    async def check(request: Request, _: Annotated[object, Security(_BEARER, scopes=[scope])]) -> ApiKey:
        keyring: Keyring = request.app.state.keyring
        key = await caller_of(request.scope, keyring)
        is_own = own_member and key.member_id == request.path_params["member_id"]
        if not is_own and not (customers and key.customer is not None):
            key = await authorize(request.scope, keyring, scope)
        reject_unknown_parameters(request)
        return key

    return check
