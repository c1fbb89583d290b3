"""Permissions of a server's channels, which Discord gives as numbers. Pure.

https://discord.com/developers/docs/topics/permissions
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.providers.discord.messages import objects, snowflake

ADMINISTRATOR: Final = 1 << 3
VIEW_CHANNEL: Final = 1 << 10
READ_MESSAGE_HISTORY: Final = 1 << 16
CONNECT: Final = 1 << 20
MANAGE_THREADS: Final = 1 << 34
_ALL: Final = (1 << 64) - 1
_MAX_ITEMS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody whose permissions are computed: a member with roles, or with an empty id everybody.

    `base` are the permissions in the server, `roles` the ids of the roles without that of everybody.
    """

    guild: str
    base: int
    id: str = ""
    roles: frozenset[str] = frozenset()

    def permissions(self, channel: Mapping[str, Any]) -> int:
        """Return the permissions in a channel."""
        if self.base & ADMINISTRATOR:
            return _ALL
        overwrites = {
            snowflake(item.get("id")): (_number(item.get("deny")), _number(item.get("allow")))
            for item in objects(channel.get("permission_overwrites"), _MAX_ITEMS)
        }
        found = _applied(self.base, [overwrites[self.guild]] if self.guild in overwrites else [])
        found = _applied(found, [overwrites[role] for role in self.roles & overwrites.keys()])
        return _applied(found, [overwrites[self.id]] if self.id in overwrites else [])

    def sees(self, channel: Mapping[str, Any]) -> bool:
        """Return whether the channel is visible."""
        return bool(self.permissions(channel) & VIEW_CHANNEL)


def everybody(guild: Mapping[str, Any]) -> Viewer:
    """Return the viewer who has no role in a server."""
    guild_id = snowflake(guild.get("id"))
    return Viewer(guild_id, _roles(guild).get(guild_id, 0))


def member(guild: Mapping[str, Any], member_id: str, item: Any) -> Viewer:
    """Return the viewer for a member of a server."""
    guild_id, permissions = snowflake(guild.get("id")), _roles(guild)
    listed = item.get("roles") if isinstance(item, dict) else None
    roles = frozenset(filter(None, map(snowflake, listed if isinstance(listed, list) else ())))
    base = permissions.get(guild_id, 0)
    for role in roles:
        base |= permissions.get(role, 0)
    if guild.get("owner_id") == member_id:
        base |= ADMINISTRATOR
    return Viewer(guild_id, base, member_id, roles)


def _roles(guild: Mapping[str, Any]) -> Mapping[str, int]:
    return {
        snowflake(item.get("id")): _number(item.get("permissions"))
        for item in objects(guild.get("roles"), _MAX_ITEMS)
    }


def _applied(permissions: int, overwrites: Iterable[tuple[int, int]]) -> int:
    """Return permissions without what any of these overwrites denies, and with what any allows."""
    denied = allowed = 0
    for deny, allow in overwrites:
        denied |= deny
        allowed |= allow
    return permissions & ~denied | allowed


def _number(value: Any) -> int:
    text = value if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0
