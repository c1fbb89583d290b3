"""Protect the last admin of a workspace: removing them or revoking their key is refused."""

from typing import Final

from shared.runtime.web.api_keys import ApiKeys
from shared.runtime.web.members import Members

LAST_ADMIN: Final = (
    "this is the last admin, and the workspace has no admin key: nobody could manage it. Make another "
    "member an admin first, or create an admin key"
)
LAST_ADMIN_KEY: Final = (
    "this is the last admin key, and no member who can sign in is an admin: nobody could manage the "
    "workspace. Create another admin key first, or make a member an admin"
)


class Admins:
    """Finds out whether a workspace has an admin."""

    def __init__(self, keys: ApiKeys, members: Members, *, issuer: str) -> None:
        """Count members of the identity provider `issuer`; empty without one."""
        self._keys = keys
        self._members = members
        self._issuer = issuer

    async def exist(self, workspace: str) -> bool:
        """Return whether the workspace has a valid admin key, or a member with the role who can sign in.

        Raises `DatabaseUnavailable`.
        """
        return await self._keys.has_admin(workspace) or await self._members.has_admin(workspace, self._issuer)
