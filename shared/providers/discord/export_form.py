"""Bring records of DiscordChatExporter's JSON into the form of Discord's API. Pure.

The exporter names types by words, and writes names in place of mentions: `@Ada` is a mention again where the
message's list of mentioned people determines who that is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.history_types import ARCHIVE_REF
from shared.providers.discord.messages import objects, snowflake, text_of

_TYPES: Final[Mapping[str, int]] = {
    "Default": 0,
    "RecipientAdd": 1,
    "RecipientRemove": 2,
    "Call": 3,
    "ChannelNameChange": 4,
    "ChannelIconChange": 5,
    "ChannelPinnedMessage": 6,
    "GuildMemberJoin": 7,
    "ThreadCreated": 18,
    "Reply": 19,
}
"""Types of messages that the exporter has a word for. It writes the numbers of the others."""
_RENAMED: Final = 4
_THREAD: Final = 18
_WEBHOOK: Final = "0000"
"""The discriminator of webhooks, and of people without one. Bots have one of other digits."""
_CODE: Final = re.compile(r"(```.*?```|``.+?``|`[^`\n]+`|https?://[^\s<>]+)", re.DOTALL)
"""Parts of a text in which nothing is a mention."""
_MAX_NAMES: Final = 100
_MAX_TYPE: Final = 4


@dataclass(frozen=True, slots=True)
class ExportContext:
    """Context of one file's records: `entry_of` returns the archive's entry for a path, None without one.

    `channels` has the ids of channels by their names, as far as a name is of one only.
    """

    entry_of: Callable[[str], str | None]
    channels: Mapping[str, str]


def api_message(record: Any, context: ExportContext) -> Mapping[str, Any]:
    """Return a record of an export in the form of Discord's API. Raises `Malformed`."""
    if not isinstance(record, dict):
        raise Malformed("not an object: a message of Discord is one")
    author = api_user(record.get("author"))
    kind = _type(record.get("type"))
    mentions = [api_user(user) for user in objects(record.get("mentions"), _MAX_NAMES)]
    reference = record.get("reference")
    item: dict[str, Any] = {
        "id": record.get("id"),
        "type": kind,
        "timestamp": record.get("timestamp"),
        "edited_timestamp": record.get("timestampEdited"),
        "pinned": record.get("isPinned"),
        "author": author,
        "mentions": mentions,
        "content": _content(record, kind, mentions, context),
        "embeds": [_embed(item, mentions, context) for item in objects(record.get("embeds"), _MAX_NAMES)],
        "sticker_items": record.get("stickers"),
        "reactions": record.get("reactions"),
    }
    item["attachments"] = _attachments(record, context)
    if isinstance(author, dict) and author["is_webhook"]:
        item["webhook_id"] = author["id"]
    if isinstance(reference, dict):
        item["message_reference"] = {
            "message_id": reference.get("messageId"),
            "channel_id": reference.get("channelId"),
        }
    if isinstance(forwarded := record.get("forwardedMessage"), dict):
        message = {
            "content": _restored(forwarded.get("content"), mentions, context),
            "embeds": [_embed(item, (), context) for item in objects(forwarded.get("embeds"), _MAX_NAMES)],
            "sticker_items": forwarded.get("stickers"),
            "attachments": _attachments(forwarded, context),
        }
        item["message_snapshots"] = [{"message": message}]
    return item


def api_user(user: Any) -> dict[str, Any] | None:
    """Return a person of an export as the API has it, with the name in the server; None for anything else."""
    if not isinstance(user, dict):
        return None
    return {
        "id": user.get("id"),
        "username": user.get("name"),
        "global_name": user.get("nickname") or user.get("name"),
        "bot": user.get("isBot") is True,
        "avatar_url": user.get("avatarUrl"),
        "is_webhook": user.get("isBot") is True and user.get("discriminator") == _WEBHOOK,
    }


def _type(value: Any) -> Any:
    """Return the number of a type; what is none stays, and is refused where the message is read."""
    if isinstance(value, str):
        if value in _TYPES:
            return _TYPES[value]
        if value.isascii() and value.isdecimal() and len(value) < _MAX_TYPE:
            return int(value)
    return value


def _content(record: Mapping[str, Any], kind: Any, mentions: Any, context: ExportContext) -> Any:
    content = record.get("content")
    if kind == _RENAMED and isinstance(content, str):
        return content.partition(": ")[2]  # behind the exporter's own words
    if kind == _THREAD or not isinstance(content, str):
        return ""
    return _restored(_with_emoji(content, record.get("inlineEmojis")), mentions, context)


def _with_emoji(content: str, emojis: Any) -> str:
    """Return a text with the server's emoji by id, where an export lists those that it wrote by name."""
    for emoji in objects(emojis, _MAX_NAMES):
        emoji_id, name = snowflake(emoji.get("id")), text_of(emoji.get("name"), 32)
        if emoji_id and re.fullmatch(r"\w{2,32}", name):
            content = re.sub(rf"(?<![<\w]):{name}:(?!\d)", f"<:{name}:{emoji_id}>", content)
    return content


def _attachments(record: Mapping[str, Any], context: ExportContext) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for item in objects(record.get("attachments"), _MAX_NAMES):
        url = item.get("url")
        entry = context.entry_of(url) if isinstance(url, str) else None
        found.append(
            {
                "id": item.get("id"),
                "url": f"{ARCHIVE_REF}{entry}" if entry else url,
                "filename": item.get("fileName"),
                "size": item.get("fileSizeBytes"),
            }
        )
    return found


def _embed(embed: Mapping[str, Any], mentions: Any, context: ExportContext) -> Mapping[str, Any]:
    """Return an embed as the API has it: the addresses of its pictures are those of their origin."""
    image = embed.get("image")
    if not isinstance(image, dict):
        image = next(objects(embed.get("images"), 1), None)
    fields = [
        {name: _restored(item.get(name), mentions, context) for name in ("name", "value")}
        for item in objects(embed.get("fields"), _MAX_NAMES)
    ]
    return {
        "title": _restored(embed.get("title"), mentions, context),
        "url": embed.get("url"),
        "description": _restored(embed.get("description"), mentions, context),
        "author": embed.get("author"),
        "footer": embed.get("footer"),
        "image": {"url": image.get("canonicalUrl") or image.get("url")} if image else None,
        "fields": fields,
    }


def _restored(content: Any, mentions: Any, context: ExportContext) -> Any:
    """Return a text with mentions by id where its names determine them, outside of code and addresses."""
    if not isinstance(content, str) or not ("@" in content or "#" in content):
        return content
    people = _by_name(mentions) if "@" in content else {}
    named = _pattern(people)
    parts = _CODE.split(content)
    for position in range(0, len(parts), 2):  # the others are code and addresses
        if named is not None:
            parts[position] = named.sub(lambda match: f"<@{people[match[1]]}>", parts[position])
        parts[position] = _CHANNEL.sub(lambda match: _channel(match, context), parts[position])
    return "".join(parts)


_CHANNEL: Final = re.compile(r"(?<![\w/#&<])#([\w-]{1,100})(?: \[voice\])?(?![\w-])")


def _channel(match: re.Match[str], context: ExportContext) -> str:
    channel_id = context.channels.get(match[1])
    return f"<#{channel_id}>" if channel_id else match[0]


def _by_name(mentions: Any) -> Mapping[str, str]:
    """Return the ids of mentioned people by their names, without names that two of them have."""
    found: dict[str, str] = {}
    for user in mentions:
        person_id, name = snowflake(user.get("id")), text_of(user.get("global_name"))
        if person_id and name:
            found[name] = "" if found.get(name, person_id) != person_id else person_id
    return {name: person_id for name, person_id in found.items() if person_id}


def _pattern(people: Mapping[str, str]) -> re.Pattern[str] | None:
    """Return the pattern of the mentions of people, the longer names first."""
    if not people:
        return None
    names = "|".join(re.escape(name) for name in sorted(people, key=len, reverse=True))
    return re.compile(rf"(?<![\w/@.<])@({names})(?!\w)")
