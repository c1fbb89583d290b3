"""Exports of Discord as DiscordChatExporter writes them: a head, its messages, and their number."""

from typing import Any, Final

AT: Final = "2024-01-02T00:00:00.123+00:00"
GUILD: Final = {"id": "100000000000000001", "name": "Work", "iconUrl": ""}
ADA: Final = "200000000000000001"
GRACE: Final = "200000000000000002"
GENERAL: Final = "300000000000000001"
FORUM: Final = "300000000000000009"


def user(id_: str = ADA, name: str = "Ada", *, bot: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a person."""
    base = {"id": id_, "name": name.lower(), "discriminator": "0000", "nickname": name, "color": None}
    return base | {"isBot": bot, "roles": [], "avatarUrl": _avatar(id_)} | fields


def _avatar(id_: str) -> str:
    return f"https://cdn.discordapp.com/avatars/{id_}/0123456789abcdef.png?size=512"


def at_ms(id_: int) -> int:
    """Return the Unix time of an id, in milliseconds."""
    return (id_ >> 22) + 1_420_070_400_000


def id_at(unix: float, number: int = 0) -> str:
    """Return an id that was made at a Unix time."""
    return str((int(unix * 1000) - 1_420_070_400_000 << 22) + number)


def message(number: int, content: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return a message: the one with this number, as if one was written each minute of 2024."""
    base = {"id": id_at(1_704_153_600 + 60 * number), "type": "Default", "timestamp": AT, "isPinned": False}
    lists: dict[str, Any] = {"attachments": [], "embeds": [], "stickers": [], "reactions": [], "mentions": []}
    more = {"timestampEdited": None, "callEndedTimestamp": None, "content": content, "author": user()}
    return base | more | lists | fields


def channel(*messages: Any, kind: str = "GuildTextChat", **fields: Any) -> dict[str, Any]:
    """Return the file of a channel."""
    base = {"id": GENERAL, "type": kind, "categoryId": "310000000000000001", "category": "Text channels"}
    return {
        "guild": GUILD,
        "channel": base | {"name": "general", "topic": "all"} | fields,
        "dateRange": {"after": None, "before": None},
        "exportedAt": "2024-11-05T10:00:00.0000000+00:00",
        "messages": list(messages),
        "messageCount": len(messages),
    }


def thread(id_: str, *messages: Any, name: str = "plans", **fields: Any) -> dict[str, Any]:
    """Return the file of a thread of the channel `general`."""
    parent = {"categoryId": GENERAL, "category": "general", "topic": None}
    return channel(*messages, **{"kind": "GuildPublicThread", "id": id_, "name": name, **parent, **fields})
