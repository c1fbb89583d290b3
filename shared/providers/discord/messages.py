"""Read messages of Discord in the form of its API, which exports are brought into, too. Pure.

https://discord.com/developers/docs/resources/message
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import ExternalFile, MessageWritten, Person, Place
from shared.manifests.history_order import plausible_time
from shared.manifests.history_types import (
    ARCHIVE_REF,
    HistoryMessage,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    MessageKind,
    Skipped,
)
from shared.providers.discord.dialect import parse_with_mentions
from shared.providers.discord.system_messages import COMMANDS, FROM_PEOPLE, THREAD_STARTER, system_text
from shared.richtext.build import canonical, clean_line, text_nodes
from shared.richtext.tree import (
    Block,
    Bold,
    Document,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Paragraph,
    Quote,
    Text,
)
from shared.wire.timestamps import parse_timestamp

MAX_REACTIONS: Final = 100
MAX_USERS: Final = 10_000
"""People of one reaction that are read."""
_MAX_FILES: Final = 20
_MAX_EMBEDS: Final = 10
_MAX_FIELDS: Final = 25
_FORWARD: Final = 1
_REPLY: Final = 19
_EPOCH_MS: Final = 1_420_070_400_000
_ID: Final = re.compile(r"[0-9]{1,20}")
_HOSTS: Final = frozenset({"cdn.discordapp.com", "media.discordapp.net", "cdn.discordapp.net"})
"""Hosts that Discord serves files of messages from."""
_EMOJI_NAME: Final = re.compile(r"\w{1,60}")


@dataclass(frozen=True, slots=True)
class Source:
    """The source of messages: a channel or thread, and the conversation that they become part of.

    `guild` is the server's id, empty for direct messages. `thread` is the id of the thread if it is part of
    its channel's conversation; `title` is the title of a forum's post.
    """

    guild: str
    channel: str
    conversation: str
    thread: str | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """Names by id, of people, roles, and channels or threads."""

    people: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)


def snowflake(value: Any) -> str:
    """Return an id of Discord; '' for anything else."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def snowflake_time(id_: str) -> float:
    """Return the Unix time at which an id was made, in seconds; 0 without an id."""
    return ((int(id_) >> 22) + _EPOCH_MS) / 1000 if id_ else 0.0


def text_of(value: Any, limit: int = 200) -> str:
    """Return a value as one line of clean text; '' for anything else."""
    return clean_line(value[:limit]).strip() if isinstance(value, str) else ""


def objects(value: Any, limit: int) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list, at most so many."""
    return (item for item in (value[:limit] if isinstance(value, list) else ()) if isinstance(item, dict))


def person_of(user: Any, names: Mapping[str, str]) -> Person:
    """Return the person of a user object. Raises `Malformed`."""
    person_id = snowflake(user.get("id")) if isinstance(user, dict) else ""
    if not person_id:
        raise Malformed("author.id: missing: a message of Discord has it")
    return Person(
        person_id, names.get(person_id) or _own_name(user), _avatar(user), bot=user.get("bot") is True
    )


def parse_message(item: Any, source: Source, names: Names) -> HistoryRecord:
    """Read a message of Discord's API, with the `users` of its reactions where they are known.

    Raises `Malformed`.
    """
    if not isinstance(item, dict):
        raise Malformed("not an object: a message of Discord is one")
    message_id, kind = snowflake(item.get("id")), item.get("type")
    if not message_id:
        raise Malformed("id: missing: a message of Discord has it")
    if not isinstance(kind, int) or isinstance(kind, bool):
        raise Malformed(f"type: {str(kind)[:80]!r} is no type of a message")
    if kind == THREAD_STARTER:
        return Skipped("not_a_message")  # it shows the message that the thread began with once more
    sent_at = time_of(item.get("timestamp"))
    if sent_at is None:
        raise Malformed(f"timestamp: {str(item.get('timestamp'))[:80]!r} is not a time of this century")
    # A webhook writes each message with a name of its own.
    is_webhook = bool(item.get("webhook_id"))
    author = person_of(item.get("author"), {} if is_webhook else names.people)
    files, lost = _files(item)
    is_first = source.thread == message_id
    return HistoryMessage(
        MessageWritten(
            external_id=message_id,
            place=Place(source.conversation, None if is_first else source.thread, _reply_to(item, source)),
            author=author,
            body=_body(item, kind, author, names, source.title if is_first else ""),
            files=files,
            permalink=f"https://discord.com/channels/{source.guild or '@me'}/{source.channel}/{message_id}",
            sent_at=sent_at,
        ),
        _kind(kind, author),
        _reactions(item.get("reactions")),
        edited_at=time_of(item.get("edited_timestamp")),
        pinned=item.get("pinned") is True,
        lost_files=lost,
    )


def time_of(value: Any) -> float | None:
    """Return a time in Unix seconds; None if it is none of this century."""
    moment = parse_timestamp(value[:64]) if isinstance(value, str) else None
    return plausible_time(moment.timestamp()) if moment else None


def reaction_emoji(value: Any) -> str:
    """Return the emoji of a reaction: a character, or `:name:` for one of a server; '' for anything else."""
    if not isinstance(value, dict):
        return ""
    name = text_of(value.get("name"))
    if not value.get("id"):
        return name[:64]
    return f":{name}:" if _EMOJI_NAME.fullmatch(name) else ""


def _kind(kind: int, author: Person) -> MessageKind:
    if kind not in FROM_PEOPLE and kind not in COMMANDS:
        return "system"
    return "bot" if author.bot or kind in COMMANDS else "message"


def _reply_to(item: Mapping[str, Any], source: Source) -> str | None:
    reference = item.get("message_reference")
    if item.get("type") != _REPLY or not isinstance(reference, dict):
        return None
    is_here = reference.get("channel_id") in (None, "", source.channel)
    return snowflake(reference.get("message_id")) or None if is_here else None


def _body(item: Mapping[str, Any], kind: int, author: Person, names: Names, title: str) -> Document:
    if kind not in FROM_PEOPLE and kind not in COMMANDS:
        return canonical(Document((Paragraph(text_nodes(system_text(item, kind, author, names.channels))),)))
    label = _Labels(item, names)
    text = _parsed(item.get("content"), label)
    before = [Paragraph((Bold((Text(title),)),))] if title else []
    behind: list[Block] = []
    for snapshot in objects(item.get("message_snapshots"), 1):
        if isinstance(forwarded := snapshot.get("message"), dict):
            quoted = _parsed(forwarded.get("content"), label).blocks
            behind.append(Quote((*quoted, *_shown(forwarded, label, embeds=True))))
    # Embeds in messages of people are previews of the links in their text.
    behind += _shown(item, label, embeds=author.bot)
    behind += _poll(item.get("poll"))
    return canonical(Document((*before, *text.blocks, *behind))) if before or behind else text


class _Labels:
    """Names for the ids in a message: those that the server has, or the message itself."""

    def __init__(self, item: Mapping[str, Any], names: Names) -> None:
        self._item = item
        self._names = names

    def __call__(self, id_: str) -> str:
        names = self._names
        return (
            names.people.get(id_)
            or names.channels.get(id_)
            or names.roles.get(id_)
            or next((_own_name(user) for user in self._mentioned(id_)), "")
        )

    def _mentioned(self, id_: str) -> Iterator[Mapping[str, Any]]:
        return (user for user in objects(self._item.get("mentions"), 100) if user.get("id") == id_)


def _own_name(user: Mapping[str, Any]) -> str:
    return text_of(user.get("global_name")) or text_of(user.get("username"))


def _parsed(text: Any, label: "_Labels") -> Document:
    if not isinstance(text, str) or not text:
        return Document((), is_canonical=True)
    return parse_with_mentions(text, label)


def _shown(item: Mapping[str, Any], label: _Labels, *, embeds: bool) -> Iterator[Block]:
    """Yield the embeds of a message as quotes, and the names of its stickers."""
    for embed in objects(item.get("embeds"), _MAX_EMBEDS) if embeds else ():
        if blocks := tuple(_embed(embed, label)):
            yield Quote(blocks)
    for sticker in objects(item.get("sticker_items"), 3):
        yield Paragraph((Italic((Text(f"Sticker: {text_of(sticker.get('name')) or 'without a name'}"),)),))


def _embed(embed: Mapping[str, Any], label: _Labels) -> Iterator[Block]:
    author, footer, image = (embed.get(name) for name in ("author", "footer", "image"))
    if isinstance(author, dict) and (name := text_of(author.get("name"))):
        yield Paragraph((Text(name),))
    title, url = _inlines(embed.get("title"), label), text_of(embed.get("url"), 2000)
    if title or url:
        shown = title or (Text(url),)
        yield Paragraph((Bold((Link(url, shown),) if url else shown),))
    yield from _parsed(embed.get("description"), label).blocks
    for item in objects(embed.get("fields"), _MAX_FIELDS):
        yield Paragraph(
            (Bold(_inlines(item.get("name"), label)), LineBreak(), *_inlines(item.get("value"), label))
        )
    if isinstance(image, dict) and (url := text_of(image.get("url"), 2000)).startswith("https://"):
        yield Paragraph((Link(url, (Text("image"),)),))
    if isinstance(footer, dict) and (text := text_of(footer.get("text"), 2048)):
        yield Paragraph((Italic((Text(text),)),))


def _poll(poll: Any) -> Iterator[Block]:
    """Yield the question of a poll and its answers."""
    if not isinstance(poll, dict):
        return
    question = poll.get("question")
    if isinstance(question, dict) and (text := text_of(question.get("text"), 300)):
        yield Paragraph((Bold((Text(text),)),))
    media = (answer.get("poll_media") for answer in objects(poll.get("answers"), 10))
    texts = [text for item in media if isinstance(item, dict) and (text := text_of(item.get("text")))]
    if texts:
        yield ListBlock(tuple((Paragraph((Text(text),)),) for text in texts))


def _inlines(text: Any, label: _Labels) -> tuple[Inline, ...]:
    """Return a short text as the content of one paragraph."""
    blocks = _parsed(text, label).blocks
    if len(blocks) == 1 and isinstance(blocks[0], Paragraph):
        return blocks[0].children
    return text_nodes(text[:1024]) if isinstance(text, str) else ()


def _files(item: Mapping[str, Any]) -> tuple[Sequence[ExternalFile], Sequence[LostFile]]:
    """Return the files of a message, and those with an address that is not Discord's."""
    attachments = list(objects(item.get("attachments"), _MAX_FILES))
    for snapshot in objects(item.get("message_snapshots"), 1):
        if isinstance(forwarded := snapshot.get("message"), dict):
            attachments += objects(forwarded.get("attachments"), _MAX_FILES)
    files: list[ExternalFile] = []
    lost: list[LostFile] = []
    for attachment in attachments:
        filename = text_of(attachment.get("filename")) or "file"
        url, size = attachment.get("url"), attachment.get("size")
        content_type = attachment.get("content_type")
        if isinstance(url, str) and (url.startswith(ARCHIVE_REF) or is_file_address(url)):
            files.append(
                ExternalFile(
                    snowflake(attachment.get("id")) or f"{item['id']}:{len(files)}",
                    url,
                    filename,
                    content_type[:200] if isinstance(content_type, str) else None,
                    size if isinstance(size, int) and size >= 0 else None,
                )
            )
        else:
            lost.append(LostFile(filename, "file_not_found"))
    return tuple(files), tuple(lost)


def is_file_address(url: str) -> bool:
    """Return whether a URL is one of Discord's for files. Others are not fetched."""
    try:
        parts = urlsplit(url[:4000])
        port = parts.port
    except ValueError:
        return False
    return parts.scheme == "https" and parts.hostname in _HOSTS and port in (None, 443)


def _reactions(value: Any) -> Sequence[HistoryReaction]:
    """Read who has set what. A reaction without its people, which older exports have, is left out."""
    found: list[HistoryReaction] = []
    for item in objects(value, MAX_REACTIONS):
        emoji = reaction_emoji(item.get("emoji"))
        names = {
            person: _own_name(user)
            for user in objects(item.get("users"), MAX_USERS)
            if (person := snowflake(user.get("id")))
        }
        if emoji and names:
            found.append(HistoryReaction(emoji, tuple(names), names))
    return tuple(found)


def _avatar(user: Mapping[str, Any]) -> str | None:
    """Return the address of a picture: of an export as it is, of the API by its hash."""
    url, picture = user.get("avatar_url"), user.get("avatar")
    if isinstance(url, str) and is_file_address(url):
        return None if "/embed/avatars/" in url else url[:2000]  # one for all who have no picture
    if isinstance(picture, str) and re.fullmatch(r"[A-Za-z0-9_]{1,64}", picture):
        extension = "gif" if picture.startswith("a_") else "png"
        return f"https://cdn.discordapp.com/avatars/{user['id']}/{picture}.{extension}?size=512"
    return None
