"""`/api/workspaces`: the workspaces of the installation, for admin keys of the operator's workspace."""

import secrets
from typing import Annotated, Any, Final, Self

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from services.gateway.api.fields import Name, StrictModel, sent_fields
from services.gateway.settings import MAX_QUOTA
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Forbidden
from shared.contracts.ids import WorkspaceId
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.access import ApiKey, Keyring, requires
from shared.runtime.web.api_keys import ApiKeyRecord, ApiKeys, generate_key
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.workspaces import WorkspaceRecord, Workspaces, WorkspaceStatus

_FIRST_KEY: Final = "first admin key"

Admin = Annotated[ApiKey, Depends(requires("admin"))]
NewId = Annotated[
    str,
    Field(
        pattern="^[a-z0-9][a-z0-9_-]{1,62}$",
        description="The workspace's id, as its events carry it. Without one, the hub makes one.",
    ),
]


class WorkspaceCreate(StrictModel):
    """`POST /api/workspaces`."""

    id: NewId | None = None
    name: Name


_Quota = Annotated[int, Field(ge=0, le=MAX_QUOTA)] | None


class OwnQuotas(StrictModel):
    """The quotas that a workspace has of its own. Null: that of the installation; 0 refuses all."""

    requests: _Quota = Field(default=None, description="Requests with events in a UTC day.")
    events: _Quota = Field(default=None, description="Events in a UTC day.")
    deliveries: _Quota = Field(default=None, description="Delivery attempts in a UTC day.")
    stored_bytes: _Quota = Field(
        default=None,
        description="Bytes of events and bodies of deliveries, within seven UTC days with the current one.",
    )


class WorkspaceUpdate(StrictModel):
    """`PATCH /api/workspaces/{workspace_id}`: only the fields that are sent change.

    `quotas` replaces all quotas of the workspace: those without a number are the installation's.
    """

    name: Name | None = None
    quotas: OwnQuotas | None = None


class WorkspaceKeyCreate(StrictModel):
    """`POST /api/workspaces/{workspace_id}/api-keys`."""

    name: Name = _FIRST_KEY


class WorkspaceOut(BaseModel):
    """A workspace. `key`, its first admin key, is only in the response that created it.

    While `status` is `deleting`, its data is being deleted; then it is gone.
    """

    id: str
    name: str
    status: WorkspaceStatus
    created_at: str
    deleted_at: str | None
    quotas: OwnQuotas
    key: str | None = None

    @classmethod
    def of(cls, record: WorkspaceRecord) -> Self:
        """Return a workspace as the API shows it."""
        return cls(
            id=record.id,
            name=record.name,
            status=record.status,
            created_at=rfc3339(record.created_at),
            deleted_at=rfc3339(record.deleted_at) if record.deleted_at else None,
            quotas=OwnQuotas.model_validate(record.quotas),
        )


class WorkspaceKeyOut(BaseModel):
    """A new admin key of a workspace, shown only this once."""

    id: str
    name: str
    key: str


class WorkspacesApi:
    """The routes of workspaces."""

    def __init__(
        self,
        workspaces: Workspaces,
        keys: ApiKeys,
        keyring: Keyring,
        quotas: Snapshot[Any],
        *,
        operator: str,
        keys_per_workspace: int,
    ) -> None:
        """Set the repositories, and the quotas that processes have in memory.

        Only admin keys of the workspace `operator` may use these routes.
        """
        self._workspaces = workspaces
        self._keys = keys
        self._keyring = keyring
        self._quotas = quotas
        self._operator = operator
        self._keys_per_workspace = keys_per_workspace

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        item = "/workspaces/{workspace_id}"
        add("/workspaces", self.create_workspace, methods=["POST"], status_code=201)
        add("/workspaces", self.list_workspaces, methods=["GET"])
        add(item, self.read_workspace, methods=["GET"])
        add(item, self.change_workspace, methods=["PATCH"])
        add(
            item,
            self.delete_workspace,
            methods=["DELETE"],
            status_code=202,
            response_model=WorkspaceOut,
        )
        add(f"{item}/api-keys", self.create_workspace_key, methods=["POST"], status_code=201)

    async def create_workspace(self, body: WorkspaceCreate, key: Admin) -> WorkspaceOut:
        """Create a workspace with its first admin key, which is shown only this once."""
        self._check_operator(key)
        workspace = body.id or f"ws_{secrets.token_hex(8)}"
        if await self._keys.has_any(workspace):
            raise Conflict("this workspace has API keys already: choose another id")
        record = await self._workspaces.create(workspace, body.name)
        _, secret = await self._new_key(record.id, _FIRST_KEY)
        return WorkspaceOut.of(record).model_copy(update={"key": secret})

    async def list_workspaces(self, key: Admin, paging: PagingQuery) -> Page[WorkspaceOut]:
        """List the workspaces, newest first."""
        self._check_operator(key)
        return await self._workspaces.page(WorkspaceOut.of, paging)

    async def read_workspace(self, workspace_id: str, key: Admin) -> WorkspaceOut:
        """Return one workspace."""
        self._check_operator(key)
        return WorkspaceOut.of(await self._workspaces.find(workspace_id))

    async def change_workspace(self, workspace_id: str, body: WorkspaceUpdate, key: Admin) -> WorkspaceOut:
        """Change the name or the quotas of a workspace."""
        self._check_operator(key)
        changes = sent_fields(body)
        if body.quotas:
            changes["quotas"] = body.quotas.model_dump(exclude_none=True)
        record = await self._workspaces.change(workspace_id, changes)
        await self._quotas.announce(workspace_id)
        return WorkspaceOut.of(record)

    async def delete_workspace(self, workspace_id: str, key: Admin) -> JSONResponse:
        """Delete a workspace with its data. Its API keys and members are refused when this responds.

        The data is deleted afterwards; `GET` answers with 404 when it is gone. What is on Kafka stays until
        its retention ends. The id cannot be used again for 30 days.
        """
        self._check_operator(key)
        if workspace_id == self._operator:
            raise Conflict(
                "this is the operator's workspace: set INTERLINK_OPERATOR_WORKSPACE to another one"
            )
        record = await self._workspaces.delete(workspace_id)
        await self._keys.revoke_all(workspace_id)
        await self._keyring.remove_members(workspace_id)
        return JSONResponse(WorkspaceOut.of(record).model_dump(), status_code=202)

    async def create_workspace_key(
        self, workspace_id: str, body: WorkspaceKeyCreate, key: Admin
    ) -> WorkspaceKeyOut:
        """Create another admin key of a workspace, for example if its own are lost."""
        self._check_operator(key)
        record = await self._workspaces.find(workspace_id)
        if record.deleted_at:
            raise Conflict("this workspace is being deleted")
        stored, secret = await self._new_key(record.id, body.name)
        return WorkspaceKeyOut(id=stored.id, name=stored.name, key=secret)

    def _check_operator(self, key: ApiKey) -> None:
        if key.workspace != self._operator:
            raise Forbidden("workspaces are managed with an admin key of the operator's workspace")

    async def _new_key(self, workspace: WorkspaceId, name: str) -> tuple[ApiKeyRecord, str]:
        secret = generate_key()
        record = ApiKeyRecord.of_key(secret, workspace, name, ["admin"])
        async with self._keys.reserve(
            workspace, self._keys_per_workspace, undo=lambda: self._keys.revoke(workspace, record.id)
        ):
            await self._keys.insert(record)
        await self._keyring.snapshot.announce(record.id)
        return record, secret
