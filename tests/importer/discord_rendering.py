"""Render the state of a server of Discord as DiscordChatExporter exports it: a file for each channel."""

import re
from typing import Any, Final

from tests.support.fakes.discord_state import (
    CATEGORY,
    FORUM,
    NEWS_THREAD,
    PRIVATE_THREAD,
    PUBLIC_THREAD,
    TEXT,
    THREADS,
    VOICE,
    Channel,
    Guild,
    Json,
    Message,
    User,
    emoji_of,
    iso,
    unix_of,
)

_CHANNELS: Final = {
    TEXT: "GuildTextChat",
    VOICE: "GuildVoiceChat",
    NEWS_THREAD: "GuildNewsThread",
    PUBLIC_THREAD: "GuildPublicThread",
    PRIVATE_THREAD: "GuildPrivateThread",
}
_MESSAGES: Final = {0: "Default", 7: "GuildMemberJoin", 18: "ThreadCreated", 19: "Reply"}
_NOTICES: Final = {7: "Joined the server.", 18: "Started a thread."}
_REFERENCE: Final = re.compile(r"<(@|#|:(\w+):)(\d+)>")


def exported(guild: Guild, *channels: Channel) -> dict[str, Json]:
    """Return the files of an export of these channels by their names."""
    return {
        f"{guild.name} - {channel.name} [{channel.id}].json": _file(guild, channel)
        for channel in channels
        if channel.type not in (CATEGORY, FORUM)
    }


def _file(guild: Guild, channel: Channel) -> Json:
    parent = guild.channels.get(channel.parent or "")
    return {
        "guild": {"id": guild.id, "name": guild.name, "iconUrl": ""},
        "channel": {
            "id": channel.id,
            "type": _CHANNELS[channel.type],
            "categoryId": parent.id if parent else None,
            "category": parent.name if parent else None,
            "name": channel.name,
            "topic": None if channel.type in THREADS else channel.topic,
        },
        "dateRange": {"after": None, "before": None},
        "exportedAt": "2026-01-01T00:00:00.0000000+00:00",
        "messages": [_message(guild, message) for message in channel.messages],
        "messageCount": len(channel.messages),
    }


def _message(guild: Guild, message: Message) -> Json:
    fields = message.fields
    found: Json = {
        "id": message.id,
        "type": _MESSAGES.get(message.type, str(message.type)),
        "timestamp": iso(unix_of(message.id)),
        "timestampEdited": fields.get("edited_timestamp"),
        "callEndedTimestamp": None,
        "isPinned": fields.get("pinned", False),
        "content": _NOTICES.get(message.type) or _text(guild, message.content),
        "author": _webhook(message) if message.webhook else _user(guild, message.author),
        "attachments": [
            {"id": one["id"], "url": one["url"], "fileName": one["filename"], "fileSizeBytes": one["size"]}
            for one in fields.get("attachments", [])
        ],
        "embeds": [_embed(embed) for embed in fields.get("embeds", [])],
        "stickers": [],
        "reactions": [
            {
                "emoji": _emoji(emoji),
                "count": len(people),
                "users": [_user(guild, one) for one in sorted(people, key=lambda one: int(one.id))],
            }
            for emoji, people in message.reactions.items()
        ],
        "mentions": [_user(guild, _named(guild, one["id"])) for one in fields.get("mentions", [])],
        "inlineEmojis": [
            {"id": match[3], "name": match[2], "code": match[2], "isAnimated": False, "imageUrl": ""}
            for match in _REFERENCE.finditer(message.content)
            if match[2]
        ],
    }
    if reference := fields.get("message_reference"):
        found["reference"] = {
            "type": "Default",
            "messageId": reference.get("message_id"),
            "channelId": reference["channel_id"],
            "guildId": reference["guild_id"],
        }
    return found


def _named(guild: Guild, id_: str) -> User:
    return guild.members[id_][0]


def _text(guild: Guild, content: str) -> str:
    """Return a text with names in place of references, as the exporter writes it."""

    def name(match: re.Match[str]) -> str:
        if match[1] == "@":
            return f"@{_shown(guild, _named(guild, match[3]))}"
        return f"#{guild.channels[match[3]].name}" if match[1] == "#" else f":{match[2]}:"

    return _REFERENCE.sub(name, content)


def _shown(guild: Guild, user: User) -> str:
    return user.nicks.get(guild.id) or user.global_name or user.username


def _user(guild: Guild, user: User) -> Json:
    return {
        "id": user.id,
        "name": user.username,
        "discriminator": "1234" if user.bot else "0000",
        "nickname": _shown(guild, user),
        "color": None,
        "isBot": user.bot,
        "roles": [],
        "avatarUrl": "https://cdn.discordapp.com/embed/avatars/0.png",
    }


def _webhook(message: Message) -> Json:
    return {
        "id": message.author.id,
        "name": message.webhook,
        "discriminator": "0000",
        "nickname": message.webhook,
        "color": None,
        "isBot": True,
        "roles": [],
        "avatarUrl": "https://cdn.discordapp.com/embed/avatars/0.png",
    }


def _emoji(emoji: str) -> Json:
    found = emoji_of(emoji)
    code = found["name"]
    return {"id": found["id"] or "", "name": code, "code": code, "isAnimated": False, "imageUrl": ""}


def _embed(embed: Any) -> Json:
    fields = [
        {"name": one["name"], "value": one["value"], "isInline": one["inline"]} for one in embed["fields"]
    ]
    texts = {name: embed[name] for name in ("title", "url", "description", "footer")}
    return {"timestamp": None, "images": [], "inlineEmojis": [], "fields": fields, **texts}
