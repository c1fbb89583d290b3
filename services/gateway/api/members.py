"""`/api/members`: the people of a workspace and their roles."""

from typing import Annotated, Any, Final, Literal, Self

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.gateway.api.admins import LAST_ADMIN, Admins
from services.gateway.api.fields import Name, StrictModel, invalid_field, sent_fields
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, Forbidden
from shared.contracts.ids import WorkspaceId, member_id_for, new_member_id
from shared.contracts.routes import CONSOLE
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate
from shared.runtime.web.access import ApiKey, Keyring, requires
from shared.runtime.web.api_keys import ApiKeys, digest, generate_key, shown_prefix
from shared.runtime.web.members import MemberRecord, Members, Role
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.workspaces import Workspaces

Admin = Annotated[ApiKey, Depends(requires("admin"))]
Own = Annotated[ApiKey, Depends(requires("admin", own_member=True))]
_IDENTITY_ROLE: Final = "the identity provider decides the role of this member: change it there"


class MemberCreate(StrictModel):
    """`POST /api/members`."""

    name: Name
    role: Role


class MemberUpdate(StrictModel):
    """`PATCH /api/members/{member_id}`."""

    name: Name | None = None
    role: Role | None = None


class MemberSignIn(StrictModel):
    """`POST /api/members/sign-in`: the authenticated identity and its role."""

    issuer: Annotated[str, Field(min_length=1, max_length=500)]
    subject: Annotated[str, Field(min_length=1, max_length=255)]
    name: Annotated[str, Field(max_length=200)]
    email: Annotated[str, Field(max_length=320)] = ""
    role: Role


class MemberOut(BaseModel):
    """A member. `key` is only in the response that created the member or rotated the key.

    `sign_in` is `key` for a member with a key, and `openid` for one of the identity provider `issuer`, which
    identifies them by `subject`. A member with `removed_at` cannot sign in.
    """

    id: str
    name: str
    role: Role
    email: str
    sign_in: Literal["key", "openid"]
    prefix: str
    issuer: str
    subject: str
    status: Literal["active", "removed"]
    created_at: str
    last_used_at: str | None
    removed_at: str | None
    key: str | None = None

    @classmethod
    def of(cls, record: MemberRecord) -> Self:
        """Return a member as the API shows it."""
        return cls(
            id=record.id,
            name=record.name,
            role=record.role,
            email=record.email,
            sign_in="openid" if record.has_identity else "key",
            prefix=record.prefix,
            issuer=record.issuer,
            subject=record.subject,
            status="removed" if record.removed_at else "active",
            created_at=rfc3339(record.created_at),
            last_used_at=rfc3339(record.last_used_at) if record.last_used_at else None,
            removed_at=rfc3339(record.removed_at) if record.removed_at else None,
        )


class MembersApi:
    """The routes of members."""

    def __init__(
        self,
        members: Members,
        keys: ApiKeys,
        admins: Admins,
        workspaces: Workspaces,
        keyring: Keyring,
        *,
        per_workspace: int,
    ) -> None:
        """Serve the members of all workspaces, each of which may have `per_workspace`."""
        self._admins = admins
        self._members = members
        self._keys = keys
        self._workspaces = workspaces
        self._keyring = keyring
        self._per_workspace = per_workspace

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        add("/members", self.create_member, methods=["POST"], status_code=201)
        add("/members", self.list_members, methods=["GET"])
        add("/members/sign-in", self.sign_in, methods=["POST"], include_in_schema=False)
        add("/members/{member_id}", self.read_member, methods=["GET"])
        add("/members/{member_id}", self.change_member, methods=["PATCH"])
        add("/members/{member_id}", self.remove_member, methods=["DELETE"], status_code=204)
        add("/members/{member_id}/rotate-key", self.rotate_key, methods=["POST"])
        add("/members/{member_id}/restore", self.restore_member, methods=["POST"])

    async def create_member(self, body: MemberCreate, key: Admin) -> MemberOut:
        """Create a member with a key of their own, which is shown only this once.

        With it they sign in to the console; as an API key it allows what their role allows.
        """
        secret, now = generate_key(), utcnow()
        record = MemberRecord(
            id=new_member_id(),
            workspace=key.workspace,
            name=body.name,
            role=body.role,
            digest=digest(secret),
            prefix=shown_prefix(secret),
            created_at=now,
            changed_at=now,
        )
        await self._insert(record)
        return MemberOut.of(record).model_copy(update={"key": secret})

    async def list_members(self, key: Admin, paging: PagingQuery) -> Page[MemberOut]:
        """List the workspace's members, newest first."""
        return await self._members.page(key.workspace, MemberOut.of, paging)

    async def read_member(self, member_id: str, key: Admin) -> MemberOut:
        """Return one member."""
        return MemberOut.of(await self._members.find(key.workspace, member_id))

    async def change_member(self, member_id: str, body: MemberUpdate, key: Admin) -> MemberOut:
        """Change the name or the role of a member. A role takes effect at once, also in open sessions."""
        before = await self._members.find(key.workspace, member_id)
        fields = sent_fields(body)
        if fields.get("role", before.role) != before.role and before.has_identity:
            raise invalid_field("role", _IDENTITY_ROLE)
        after = await self._members.change(key.workspace, member_id, **fields)
        if before.role == "admin" != after.role and not await self._admins.exist(key.workspace):
            await self._members.change(key.workspace, member_id, role="admin")
            await self._keyring.members.announce(member_id)
            raise Conflict(LAST_ADMIN)
        await self._keyring.members.announce(member_id)
        return MemberOut.of(after)

    async def remove_member(self, member_id: str, key: Admin) -> Response:
        """Remove a member. Their key and their sessions end at once.

        A member of the identity provider stays in the list as removed, and is refused until `restore`.
        """
        before, now = await self._members.find(key.workspace, member_id), utcnow()
        if not before.removed_at:
            fields: dict[str, Any] = {"removed_at": now} if before.has_identity else {"deleted_at": now}
            await self._members.change(key.workspace, member_id, **fields)
            if before.role == "admin" and not await self._admins.exist(key.workspace):
                await self._members.undo_removal(key.workspace, member_id)
                await self._keyring.members.announce(member_id)
                raise Conflict(LAST_ADMIN)
        await self._keyring.members.announce(member_id)
        return Response(status_code=204)

    async def rotate_key(self, member_id: str, key: Own) -> MemberOut:
        """Replace the key of a member. The new one is shown only this once; the old one ends at once.

        So do all console sessions that were started with the old key. Members may do this for themselves,
        whatever their role. There is no overlap: a key that others may know has to end.
        """
        before = await self._members.find(key.workspace, member_id)
        if before.has_identity:
            raise Conflict("this member signs in at the identity provider, and has no key here")
        secret = generate_key()
        after = await self._members.replace_key(before, secret)
        await self._keyring.members.announce(member_id)
        return MemberOut.of(after).model_copy(update={"key": secret})

    async def restore_member(self, member_id: str, key: Admin) -> MemberOut:
        """Let a removed member sign in at the identity provider again. Earlier sessions stay ended."""
        record = await self._members.find(key.workspace, member_id)
        if record.removed_at:
            fields = {"removed_at": None, "restored_at": utcnow()}
            record = await self._members.change(key.workspace, member_id, **fields)
        await self._keyring.members.announce(member_id)
        return MemberOut.of(record)

    async def sign_in(self, body: MemberSignIn, key: Admin) -> MemberOut:
        """Return the member with an identity; create it at the first sign-in. Only the console may call this.

        The console has verified the identity, and taken workspace and role from the settings.
        Raises `Forbidden` for a member who was removed, and in a deleted or unknown workspace.
        """
        if key.service != CONSOLE:
            raise Forbidden("only the console signs members in")
        if await self._workspaces.is_deleted(key.workspace):
            raise Forbidden("this workspace was deleted")
        member_id = member_id_for(key.workspace, body.issuer, body.subject)
        record = await self._members.find_or_none(key.workspace, member_id)
        if record is None:
            return MemberOut.of(await self._first_sign_in(member_id, key.workspace, body))
        if record.removed_at:
            raise Forbidden("an admin of the workspace removed this member: ask one to restore you")
        known = body.model_dump(include={"name", "email", "role"})
        if known != record.model_dump(include={"name", "email", "role"}):
            record = await self._members.change(key.workspace, member_id, **known)
            await self._keyring.members.announce(member_id)
        return MemberOut.of(record)

    async def _first_sign_in(
        self, member_id: str, workspace: WorkspaceId, body: MemberSignIn
    ) -> MemberRecord:
        # Every workspace begins with a key. Later it may have members of the identity provider only.
        if not await self._keys.has_any(workspace) and not await self._members.has_any(workspace):
            raise Forbidden(
                f"INTERLINK_OIDC_ROLES names the workspace {workspace}, which does not exist: correct it "
                "there, or create it with interlink init"
            )
        now = utcnow()
        record = MemberRecord(
            id=member_id, workspace=workspace, **body.model_dump(), created_at=now, changed_at=now
        )
        try:
            await self._insert(record)
        except Duplicate:
            raise Conflict("this member is signing in elsewhere at this moment: try again") from None
        return record

    async def _insert(self, record: MemberRecord) -> None:
        """Insert a member within the quota. Raises `Conflict` beyond it, `Duplicate` if the id exists."""

        async def undo() -> None:
            await self._members.undo_insert(record.id)
            await self._keyring.members.announce(record.id)

        async with self._members.reserve(record.workspace, self._per_workspace, undo):
            await self._members.insert(record)
        await self._keyring.members.announce(record.id)
