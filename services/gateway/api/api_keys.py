"""`/api/api-keys`: the API keys of a workspace."""

from collections.abc import Container
from datetime import datetime
from typing import Annotated, Self

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.gateway.api.admins import LAST_ADMIN_KEY, Admins
from services.gateway.api.fields import Name, StrictModel, invalid_field
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.runtime.clock import utcnow
from shared.runtime.web.access import ApiKey, Keyring, requires
from shared.runtime.web.api_keys import (
    AccountLimits,
    ApiKeyRecord,
    ApiKeys,
    CallMethod,
    KeyScope,
    generate_key,
)
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.web.times import UtcTime

Admin = Annotated[ApiKey, Depends(requires("admin"))]


Ids = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=100)
]


class AccountLimitsIn(StrictModel):
    """Limits of the accounts that a key may use. A limit that is left out allows all of the workspace."""

    integrations: Ids | None = Field(default=None, description="Ids of integrations.")
    providers: Ids | None = Field(default=None, description="Provider ids.")
    user: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Only accounts of this user."
    )
    methods: Annotated[list[CallMethod], Field(min_length=1)] | None = Field(
        default=None, description="Methods of calls with an account."
    )


class ApiKeyCreate(StrictModel):
    """`POST /api/api-keys`. `accounts` limits the scopes `accounts:call` and `tokens:read`."""

    name: Name
    scopes: Annotated[list[KeyScope], Field(min_length=1)]
    accounts: AccountLimitsIn | None = None
    expires_at: UtcTime | None = None


class AccountLimitsOut(BaseModel):
    """Limits of the connected accounts that a key may use; null allows all of the workspace."""

    integrations: list[str] | None
    providers: list[str] | None
    user: str | None
    methods: list[str] | None


class ApiKeyOut(BaseModel):
    """An API key. The key itself is only in the response that created it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    accounts: AccountLimitsOut | None = None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    key: str | None = None

    @classmethod
    def of(cls, record: ApiKeyRecord) -> Self:
        """Return a key as the API shows it."""
        return cls(
            id=record.id,
            name=record.name,
            prefix=record.prefix,
            scopes=list(record.scopes),
            accounts=AccountLimitsOut(**record.accounts.model_dump()) if record.accounts else None,
            created_at=rfc3339(record.created_at),
            expires_at=_optional_rfc3339(record.expires_at),
            last_used_at=_optional_rfc3339(record.last_used_at),
        )


class ApiKeysApi:
    """The routes of API keys."""

    def __init__(
        self,
        keyring: Keyring,
        keys: ApiKeys,
        admins: Admins,
        providers: Container[str],
        *,
        per_workspace: int,
    ) -> None:
        """Serve the keys of all workspaces, each of which may have `per_workspace` keys.

        `providers` are those with accounts.
        """
        self._providers = providers
        self._keyring = keyring
        self._keys = keys
        self._admins = admins
        self._per_workspace = per_workspace

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        add("/api-keys", self.create_key, methods=["POST"], status_code=201)
        add("/api-keys", self.list_keys, methods=["GET"])
        add("/api-keys/{key_id}", self.revoke_key, methods=["DELETE"], status_code=204)

    async def create_key(self, body: ApiKeyCreate, key: Admin) -> ApiKeyOut:
        """Create an API key of this workspace. The key is shown only this once."""
        if body.expires_at and body.expires_at <= utcnow():
            raise invalid_field("expires_at", "must be in the future")
        accounts = self._limits(body)
        secret = generate_key()
        record = ApiKeyRecord.of_key(
            secret, key.workspace, body.name, body.scopes, body.expires_at, accounts=accounts
        )

        async def undo() -> None:
            await self._keys.revoke(key.workspace, record.id)
            await self._keyring.snapshot.announce(record.id)

        async with self._keys.reserve(key.workspace, self._per_workspace, undo):
            await self._keys.insert(record)
        await self._keyring.snapshot.announce(record.id)
        return ApiKeyOut.of(record).model_copy(update={"key": secret})

    async def list_keys(self, key: Admin, paging: PagingQuery) -> Page[ApiKeyOut]:
        """List the workspace's keys, newest first, without the keys themselves."""
        return await self._keys.page(key.workspace, ApiKeyOut.of, paging)

    async def revoke_key(self, key_id: str, key: Admin) -> Response:
        """Revoke a key. From now on no service accepts it.

        The last admin key stays while no member is an admin who can sign in.
        """
        revoked = await self._keys.revoke(key.workspace, key_id)
        if revoked is None:
            raise NotFound("no such API key")
        is_last = "admin" in revoked.scopes and not await self._admins.exist(key.workspace)
        if is_last:
            await self._keys.undo_revoke(revoked)
        await self._keyring.snapshot.announce(key_id)
        if is_last:
            raise Conflict(LAST_ADMIN_KEY)
        return Response(status_code=204)

    def _limits(self, body: ApiKeyCreate) -> AccountLimits | None:
        """Return the limits of a new key. Raises `Invalid` for those that would not hold."""
        if body.accounts is None:
            return None
        if "admin" in body.scopes:
            raise invalid_field("accounts", "a key with admin cannot be limited: it can create other keys")
        if not {"accounts:call", "tokens:read"} & set(body.scopes):
            raise invalid_field("accounts", "limits only accounts:call and tokens:read, which the key lacks")
        if body.accounts.methods is not None and "tokens:read" in body.scopes:
            raise invalid_field("accounts.methods", "a token serves any method: leave tokens:read out")
        unknown = [name for name in body.accounts.providers or () if name not in self._providers]
        if unknown:
            raise invalid_field("accounts.providers", f"no provider with accounts: {', '.join(unknown)}")
        return AccountLimits(**body.accounts.model_dump())


def _optional_rfc3339(time: datetime | None) -> str | None:
    return rfc3339(time) if time else None
