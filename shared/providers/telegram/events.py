"""Telegram's updates: which changes of conversations are in one."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import (
    Account,
    Change,
    ConversationClosed,
    ConversationMoved,
    ExternalFile,
    MessageWritten,
    Person,
    Place,
    ReactionChanged,
)
from shared.providers.telegram.entities import parse_entities
from shared.richtext.build import clean_line
from shared.richtext.runs import paragraphs_of, text_runs
from shared.richtext.tree import Document

_MESSAGES: Final = ("message", "channel_post", "edited_message", "edited_channel_post")
_FILES: Final[Mapping[str, tuple[str, str | None]]] = {
    "animation": ("animation.mp4", "video/mp4"),
    "document": ("file", None),
    "video": ("video.mp4", "video/mp4"),
    "audio": ("audio.mp3", "audio/mpeg"),
    "voice": ("voice.ogg", "audio/ogg"),
    "video_note": ("video.mp4", "video/mp4"),
}
"""Fields with a file, and its name and type if it has none. An animation has the field `document` too."""
_LEFT: Final = "The bot was removed from the chat: add it again, then resume the mapping."
_BLOCKED: Final = "The person blocked the bot: they have to unblock it, then resume the mapping."
_MUTED: Final = "The bot may not write in the chat: allow it to send messages, then resume the mapping."
_REVISIONS_PER_SECOND: Final = 1_000_000


def parse_changes(update: Mapping[str, Any], account: Account) -> Sequence[Change]:
    """Return the changes in an update; none for one that is not about a message or the bot itself.

    Raises `Malformed` for an update without the fields that Telegram documents.
    """
    for kind in _MESSAGES:
        if kind in update:
            message = _object(update, kind)
            edited = kind.startswith("edited_")
            return _message_changes(message, account, edited=edited, update_id=update.get("update_id"))
    if "message_reaction" in update:
        return _reaction_changes(_object(update, "message_reaction"))
    if "my_chat_member" in update:
        return _membership_changes(_object(update, "my_chat_member"))
    return ()


def _message_changes(
    message: Mapping[str, Any], account: Account, *, edited: bool, update_id: Any
) -> Sequence[Change]:
    conversation = _chat_id(message)
    if isinstance(message.get("migrate_to_chat_id"), int):
        return (ConversationMoved(conversation, str(message["migrate_to_chat_id"])),)
    if isinstance(message.get("migrate_from_chat_id"), int):
        return (ConversationMoved(str(message["migrate_from_chat_id"]), conversation),)
    body, files = parse_body(message), parse_files(message)
    if not body.blocks and not files:
        return ()  # service messages: somebody joined, a topic was closed, and the like
    revision = 0
    if edited:
        edit_date = message.get("edit_date")
        if not isinstance(edit_date, int) or edit_date <= 0:
            return ()  # Telegram changed something that people do not see
        order = update_id if isinstance(update_id, int) else 0
        revision = edit_date * _REVISIONS_PER_SECOND + order % _REVISIONS_PER_SECOND
    author = parse_author(message)
    return (
        MessageWritten(
            external_id=_message_id(message, "message_id"),
            place=parse_place(message, conversation),
            author=author,
            body=body,
            files=files,
            edited=edited,
            revision=revision,
            own=author.id == account.id,
            permalink=permalink(message.get("chat"), _message_id(message, "message_id")),
            sent_at=float(_date(message)),
            answered_at=_answered_at(message),
        ),
    )


def parse_body(message: Mapping[str, Any]) -> Document:
    """Return the text or caption; for what has neither, a line that says what it is."""
    for text, entities in (("text", "entities"), ("caption", "caption_entities")):
        if isinstance(message.get(text), str):
            return parse_entities(message[text], message.get(entities))
    return Document(tuple(paragraphs_of(text_runs(_description(message)))))


def _description(message: Mapping[str, Any]) -> str:
    match message:
        case {"sticker": {"is_animated": True, "emoji": str(emoji)}}:
            return emoji[:20]
        case {"venue": {"title": str(title), "address": str(address)}}:
            return f"{title[:200]}, {address[:200]}"
        case {"location": {"latitude": float() | int() as north, "longitude": float() | int() as east}}:
            return f"{north}, {east}"
        case {"contact": {"first_name": str(name), "phone_number": str(number)}}:
            return f"{name[:100]}, {number[:40]}"
        case {"poll": {"question": str(question)}}:
            return question[:400]
        case {"dice": {"emoji": str(emoji), "value": int(value)}}:
            return f"{emoji[:20]} {value}"
    return ""


def parse_place(message: Mapping[str, Any], conversation: str) -> Place:
    """Return the place: a topic is a thread. In a topic, its first message is not what was answered."""
    thread = message.get("message_thread_id") if message.get("is_topic_message") is True else None
    reply = message.get("reply_to_message")
    answered = reply.get("message_id") if isinstance(reply, dict) else None
    return Place(
        conversation,
        str(thread) if isinstance(thread, int) else None,
        str(answered) if isinstance(answered, int) and answered != thread else None,
    )


def _answered_at(message: Mapping[str, Any]) -> float:
    """Return when the message was written that this one answers; in a topic, when that was opened."""
    reply = message.get("reply_to_message")
    date = _number(reply.get("date")) if isinstance(reply, dict) else None
    return float(date or 0)


def parse_author(message: Mapping[str, Any]) -> Person:
    """Return who wrote: a person or bot, or the chat in whose name it was written."""
    sender = message.get("sender_chat")
    if not isinstance(sender, dict) and not isinstance(message.get("from"), dict):
        sender = message.get("chat")
    if isinstance(sender, dict) and isinstance(sender.get("id"), int):
        signature = message.get("author_signature")
        title = _name(sender.get("title")) or _name(sender.get("username"))
        signed = f"{title} ({_name(signature)})" if isinstance(signature, str) and signature else title
        return Person(str(sender["id"]), signed)
    return parse_person(message.get("from"))


def parse_person(user: Any) -> Person:
    """Return a user. Raises `Malformed` without an id."""
    if not isinstance(user, dict) or not isinstance(user.get("id"), int):
        raise Malformed("from.id: missing: a user of Telegram has it")
    name = f"{_name(user.get('first_name'))} {_name(user.get('last_name'))}".strip()
    return Person(str(user["id"]), name or _name(user.get("username")), bot=user.get("is_bot") is True)


def parse_files(message: Mapping[str, Any]) -> Sequence[ExternalFile]:
    """Return the file of a message; of a photo, its largest size."""
    photos = message.get("photo")
    if isinstance(photos, list):
        sizes = [photo for photo in photos[:20] if isinstance(photo, dict)]
        largest = max(sizes, key=lambda photo: _number(photo.get("width")) or 0, default=None)
        return _file(largest, "photo.jpg", "image/jpeg")
    sticker = message.get("sticker")
    if isinstance(sticker, dict) and sticker.get("is_animated") is not True:
        video = sticker.get("is_video") is True
        return _file(sticker, *(("sticker.webm", "video/webm") if video else ("sticker.webp", "image/webp")))
    for name, (filename, content_type) in _FILES.items():
        if name in message:
            return _file(message[name], filename, content_type)
    return ()


def _file(file: Any, filename: str, content_type: str | None) -> Sequence[ExternalFile]:
    match file:
        case {"file_id": str(file_id), "file_unique_id": str(unique_id)} if file_id and unique_id:
            mime = file.get("mime_type")
            return (
                ExternalFile(
                    id=unique_id[:200],
                    ref=file_id[:400],
                    filename=_name(file.get("file_name")) or filename,
                    content_type=mime[:200] if isinstance(mime, str) and mime else content_type,
                    size=_number(file.get("file_size")),
                ),
            )
    return ()


def _reaction_changes(reaction: Mapping[str, Any]) -> Sequence[Change]:
    """Return what was removed, then what was added; Telegram tells all of a person's reactions."""
    conversation, external_id = _chat_id(reaction), _message_id(reaction, "message_id")
    actor = reaction.get("actor_chat")
    if isinstance(actor, dict) and isinstance(actor.get("id"), int):
        person = Person(str(actor["id"]), _name(actor.get("title")))
    else:
        person = parse_person(reaction.get("user"))
    old, new = _emoji(reaction.get("old_reaction")), _emoji(reaction.get("new_reaction"))
    changed = [(emoji, False) for emoji in old if emoji not in new]
    changed += [(emoji, True) for emoji in new if emoji not in old]
    at = float(_date(reaction))
    return tuple(
        ReactionChanged(external_id, conversation, person, emoji, added, at) for emoji, added in changed
    )


def _emoji(reactions: Any) -> list[str]:
    if not isinstance(reactions, list):
        raise Malformed("message_reaction: without old_reaction or new_reaction")
    emoji: list[str] = []
    for reaction in reactions[:50]:
        match reaction:
            case {"type": "emoji", "emoji": str(character)} if character:
                emoji.append(character[:40])
            case {"type": "custom_emoji", "custom_emoji_id": str(custom)} if custom:
                emoji.append(f":{custom[:40]}:")
            case {"type": "paid"}:
                emoji.append("\u2b50")
    return list(dict.fromkeys(emoji))


def _membership_changes(update: Mapping[str, Any]) -> Sequence[Change]:
    conversation, member = _chat_id(update), update.get("new_chat_member")
    if not isinstance(member, dict):
        raise Malformed("my_chat_member.new_chat_member: missing: Telegram has it in every such update")
    status = member.get("status")
    chat = update.get("chat")
    if status in ("left", "kicked"):
        private = isinstance(chat, dict) and chat.get("type") == "private"
        return (ConversationClosed(conversation, _BLOCKED if private else _LEFT),)
    if status == "restricted" and member.get("can_send_messages") is False:
        return (ConversationClosed(conversation, _MUTED),)
    return ()


def permalink(chat: Any, message_id: str) -> str | None:
    """Return the address of a message in a public chat or a supergroup; others have none."""
    if not isinstance(chat, dict):
        return None
    username = chat.get("username")
    if isinstance(username, str) and username and chat.get("type") != "private":
        return f"https://t.me/{username[:64]}/{message_id}"
    chat_id = str(chat.get("id"))
    return (
        f"https://t.me/c/{chat_id.removeprefix('-100')}/{message_id}" if chat_id.startswith("-100") else None
    )


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values[name]
    if not isinstance(value, dict):
        raise Malformed(f"{name}: not an object, as Telegram documents it")
    return value


def _chat_id(values: Mapping[str, Any]) -> str:
    chat = values.get("chat")
    if not isinstance(chat, dict) or not isinstance(chat.get("id"), int):
        raise Malformed("chat.id: missing: an update of Telegram has it")
    return str(chat["id"])


def _message_id(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, int) or value < 0:
        raise Malformed(f"{name}: missing: a message of Telegram has it")
    return str(value)


def _date(values: Mapping[str, Any]) -> int:
    value = values.get("date")
    if not isinstance(value, int) or not 0 <= value < 1 << 40:
        raise Malformed("date: missing: an update of Telegram has it")
    return value


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _name(value: Any) -> str:
    return clean_line(value[:200]).strip() if isinstance(value, str) else ""
