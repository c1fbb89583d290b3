"""Events as changes of conversations: of the providers, and of the chat in the same form."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson

from services.sync.model.mapping import CHAT
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import (
    ChatAuthor,
    ChatChannel,
    ChatMessage,
    ChatMessageDeleted,
    ChatOrigin,
    ChatReaction,
)
from shared.contracts.chat_shapes import CHAT_CHANGES, normalise
from shared.contracts.envelope import Event
from shared.contracts.errors import Malformed
from shared.contracts.event_types import canonical
from shared.contracts.messages import Embed
from shared.manifests.channel_types import (
    Change,
    ConversationClosed,
    ExternalFile,
    MessageDeleted,
    MessageWritten,
    Person,
    Place,
    ReactionChanged,
)
from shared.richtext.markdown import parse_markdown
from shared.richtext.runs import paragraphs_of, text_runs
from shared.richtext.tree import Document, Paragraph

_CLOSED = {
    "channel.deleted": "The channel was deleted in the chat: choose another one in the mapping.",
    "channel.archived": "The channel was archived in the chat: unarchive it there, then resume the mapping.",
}
_MAX_TIME: Final = float(1 << 36)
"""Unix times below it fit dates, and in microseconds the database."""
_MAX_SIZE: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class StoredByChat:
    """The chat has stored a message of `chat.inbound`, whose id is `origin_id`, under an id of its own."""

    external_id: str
    conversation: str
    origin_id: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A change, the account that it came from (of the chat: the workspace), and the event that brought it.

    `repeats` says of a change of the chat that it may repeat what the hub has published.
    """

    event: Event
    ref: AccountRef
    change: Change | StoredByChat
    received_at: datetime
    repeats: bool = False


def chat_changes(event: Event) -> Sequence[Incoming]:
    """Return the changes in an event of the chat; none for one that sync does not forward.

    Raises `Malformed` or `Invalid` if its data fits no shape.
    """
    if canonical(event.type) not in CHAT_CHANGES:
        return ()
    try:
        data = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        raise Malformed("the data is not JSON: publish the event's data as a JSON object") from None
    read = normalise(event.type, data, channel_id=event.subject)
    ref = AccountRef(event.workspace, CHAT, event.workspace)
    at = unix_time(event.time)
    received_at = datetime.fromisoformat(event.time)
    change: Change | StoredByChat
    repeats = False
    match read:
        case ChatMessage():
            if read.private:
                return ()
            origin = read.origin
            is_new = canonical(event.type) == "message.created"
            if origin is not None and origin.message_id and is_new:
                change = StoredByChat(read.message_id, read.channel_id, origin.message_id)
            elif is_new and _is_of_hub(origin):
                return ()
            else:
                change = _written(read, at, edited=not is_new)
                repeats = True
        case ChatMessageDeleted():
            change = MessageDeleted(read.message_id, read.channel_id)
        case ChatReaction():
            if read.author.id == "unknown":
                return ()
            change = ReactionChanged(
                read.message_id,
                read.channel_id,
                _person(read.author),
                read.emoji,
                canonical(event.type) == "message.reaction.added",
                unix_time(read.reacted_at) if read.reacted_at else at,
            )
            repeats = _is_of_hub(read.origin)
        case ChatChannel():
            change = ConversationClosed(read.channel_id, _CLOSED[canonical(event.type)])
        case _:  # users are known by their messages; a reference tells nothing to forward
            return ()
    check_numbers(change)
    return (Incoming(event, ref, change, received_at, repeats),)


def check_numbers(change: Change | StoredByChat) -> None:
    """Raise `Malformed` for a time or a size that no message has, and no date or database can take."""
    times: tuple[float, ...] = ()
    sizes: list[int] = []
    match change:
        case MessageWritten():
            times = change.sent_at, change.revision / 1_000_000
            sizes = [file.size for file in change.files if file.size is not None]
        case ReactionChanged():
            times = (change.at,)
    if not all(0 <= moment < _MAX_TIME for moment in times):
        raise Malformed("a time of the message is out of range: send seconds since 1970, or RFC 3339")
    if not all(0 <= size < _MAX_SIZE for size in sizes):
        raise Malformed("the size of a file is out of range: send its bytes, or leave it out")


def _is_of_hub(origin: ChatOrigin | None) -> bool:
    """Return whether the hub has published what the chat reports."""
    return origin is not None and bool(origin.message_id or origin.mapping_id or origin.endpoint_id)


def _written(message: ChatMessage, at: float, *, edited: bool) -> MessageWritten:
    edited_at = unix_time(message.edited_at) if message.edited_at else at
    if edited_at <= at < edited_at + 1:
        edited_at = at  # many chats send whole seconds, which two edits may share
    body = parse_markdown(message.text)
    if message.embeds:
        body = Document((*body.blocks, *(part for card in message.embeds for part in _card(card))))
    return MessageWritten(
        external_id=message.message_id,
        place=Place(message.channel_id, message.thread_id, message.reply_to_id),
        author=_person(message.author),
        body=body,
        files=tuple(
            ExternalFile(file.id, file.url, file.filename, file.content_type, file.size)
            for file in message.attachments
        ),
        edited=edited,
        revision=int(edited_at * 1_000_000) if edited else 0,
        sent_at=unix_time(message.created_at) if message.created_at else at,
    )


def _card(embed: Embed) -> Sequence[Paragraph]:
    """Return a card as paragraphs: its title, with its address, and its text."""
    parts: list[Paragraph] = []
    url = str(embed.url) if embed.url else ""
    if embed.title or url:
        parts += paragraphs_of(text_runs(embed.title or url, url=url))
    if embed.description:
        parts += [block for block in parse_markdown(embed.description).blocks if isinstance(block, Paragraph)]
    return parts


def _person(author: ChatAuthor) -> Person:
    return Person(author.user_id or author.id, author.name, author.avatar_url, bot=author.bot)


def unix_time(text: str) -> float:
    """Return the Unix time of a text in RFC 3339; 0.0 for another text."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
