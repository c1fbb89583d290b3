"""The Events API of Slack: which changes of conversations are in a payload."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import (
    Account,
    Change,
    ConversationClosed,
    ConversationMoved,
    ExternalFile,
    MessageDeleted,
    MessageWritten,
    Person,
    Place,
    ReactionChanged,
)
from shared.providers.slack.blocks import marker_of, parse_body
from shared.providers.slack.emoji import reaction_emoji
from shared.providers.slack.rich_text import is_id, objects, text_of
from shared.richtext.build import clean_line
from shared.richtext.runs import paragraphs_of, text_runs
from shared.richtext.tree import Document

_WRITTEN: Final = frozenset({"", "bot_message", "file_share", "thread_broadcast", "me_message"})
_CLOSED: Final[Mapping[str, str]] = {
    "channel_archive": "The channel was archived in Slack: unarchive it there, then resume the mapping.",
    "group_archive": "The channel was archived in Slack: unarchive it there, then resume the mapping.",
    "channel_deleted": "The channel was deleted in Slack: choose another one in the mapping.",
    "group_deleted": "The channel was deleted in Slack: choose another one in the mapping.",
    "channel_left": "The app was removed from the channel: invite it again, then resume the mapping.",
    "group_left": "The app was removed from the channel: invite it again, then resume the mapping.",
}
_HIDDEN_FILES: Final = frozenset({"tombstone", "hidden_by_limit"})
MAX_FILES: Final = 50
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?")
_MAX_CACHED: Final = 500
"""Characters of a person in the cache, beside the name."""


def parse_changes(payload: Mapping[str, Any], account: Account) -> Sequence[Change]:
    """Return the changes in a payload; none for one that is not about a message or a conversation.

    Raises `Malformed` for a message or a reaction without the fields that Slack documents.
    """
    event = payload.get("event")
    if not isinstance(event, dict):
        if payload.get("type") == "event_callback":
            raise Malformed("event: missing: an event_callback of Slack has it")
        return ()
    kind = text_of(event.get("type"))
    if kind == "message":
        return _message_changes(event, account)
    if kind in {"reaction_added", "reaction_removed"}:
        return _reaction_changes(event, kind)
    if kind in _CLOSED:
        return (ConversationClosed(_id(event, "channel"), _CLOSED[kind]),)
    if kind == "channel_id_changed":
        return (ConversationMoved(_id(event, "old_channel_id"), _id(event, "new_channel_id")),)
    return ()


def _message_changes(event: Mapping[str, Any], account: Account) -> Sequence[Change]:
    subtype = text_of(event.get("subtype"))
    conversation = _id(event, "channel")
    if subtype in _WRITTEN:
        return (parse_message(event, conversation, account),)
    if subtype == "message_deleted":
        return (MessageDeleted(_timestamp(event, "deleted_ts"), conversation),)
    if subtype != "message_changed":
        return ()  # joins, topics and the like
    message = event.get("message")
    if not isinstance(message, dict):
        raise Malformed("event.message: missing: a message_changed of Slack has it")
    inner = text_of(message.get("subtype"))
    if inner == "tombstone":  # how a message with replies is deleted
        return (MessageDeleted(_timestamp(message, "ts"), conversation),)
    if inner not in _WRITTEN or not _is_edit(message, event.get("previous_message")):
        return ()
    revision = _microseconds(_timestamp(event, "ts"))
    return (parse_message(message, conversation, account, edited=True, revision=revision),)


def _is_edit(message: Mapping[str, Any], previous: Any) -> bool:
    """Return whether a person or an app edited the message. Slack reports previews and replies alike."""
    if not message.get("edited"):
        return False
    if not isinstance(previous, dict):
        return True
    if message.get("edited") == previous.get("edited"):
        return False
    return any(message.get(name) != previous.get(name) for name in ("text", "blocks", "files"))


def parse_message(
    message: Mapping[str, Any],
    conversation: str,
    account: Account,
    *,
    edited: bool = False,
    revision: int = 0,
) -> MessageWritten:
    """Parse a message of an event, or of a conversation's history. Raises `Malformed`."""
    timestamp = _timestamp(message, "ts")
    thread = _timestamp(message, "thread_ts") if message.get("thread_ts") else None
    thread = None if thread == timestamp else thread
    document = parse_body(message)
    files: Sequence[ExternalFile] = ()
    if message.get("files"):
        files = parse_files(message)
        external = objects(message["files"])[:MAX_FILES]
        links = [paragraph for file in external for paragraph in _external(file)]
        document = Document((*document.blocks, *links)) if links else document
    return MessageWritten(
        external_id=timestamp,
        place=Place(conversation, thread),
        author=parse_author(message),
        body=document,
        files=files,
        edited=edited,
        revision=revision,
        marker=marker_of(message),
        own=is_own(message, account),
        permalink=permalink(conversation, timestamp, thread, account),
        sent_at=float(timestamp),
        answered_at=float(thread) if thread else 0.0,
    )


def parse_author(message: Mapping[str, Any]) -> Person:
    """Return the author: a person by id, whose name is only there for some; a bot by name and id."""
    bot_id, user = text_of(message.get("bot_id")), text_of(message.get("user"))
    if bot_id and (bot := _bot(message, bot_id, user)):
        return bot
    profile = _object(message.get("user_profile"))
    name = text_of(profile.get("display_name")) or text_of(profile.get("real_name"))
    large, small = text_of(profile.get("image_192")), text_of(profile.get("image_72"))
    known = _known_person if len(user) + len(large) + len(small) <= _MAX_CACHED else _person
    return known(user, name[:200], large, small, bool(bot_id))


def _bot(message: Mapping[str, Any], bot_id: str, user: str) -> Person | None:
    """Return the bot that has written a message; None if it is a user of Slack, and has no other name."""
    profile = _object(message.get("bot_profile"))
    if not (text_of(message.get("username")) or profile or not user):
        return None
    icons = _object(message.get("icons")) or _object(profile.get("icons"))
    name = text_of(message.get("username")) or text_of(profile.get("name"))
    return Person(user or bot_id, _name(name), _picture(icons, "image_72", "image_48"), bot=True)


def _person(user: str, name: str, large: str, small: str, bot: bool) -> Person:
    """Return a person with the first of two pictures that is an address. Raises `Malformed`."""
    if not is_id(user):
        raise Malformed("user: missing: a message of Slack has user or bot_id")
    return Person(user, _name(name), next(filter(_is_address, (large, small)), None), bot=bot)


_known_person = lru_cache(maxsize=4_096)(_person)
"""The same: a history has the same people again and again."""


def parse_files(message: Mapping[str, Any]) -> Sequence[ExternalFile]:
    """Return the files that Slack stores. `ref` is empty where the address has to be looked up."""
    return tuple(
        ExternalFile(
            id=text_of(file["id"]),
            ref="" if file.get("file_access") == "check_file_info" else file_address(file),
            filename=_name(text_of(file.get("name")) or text_of(file.get("title"))) or "file",
            content_type=text_of(file.get("mimetype"))[:200] or None,
            size=file["size"] if isinstance(file.get("size"), int) and file["size"] >= 0 else None,
        )
        for file in objects(message.get("files"))[:MAX_FILES]
        if is_id(text_of(file.get("id")))
        and text_of(file.get("mode")) not in _HIDDEN_FILES
        and not _external_url(file)
    )


def file_address(file: Mapping[str, Any]) -> str:
    """Return the address of a file's bytes; empty if it has none."""
    return text_of(file.get("url_private_download")) or text_of(file.get("url_private"))


def is_slack_address(url: str) -> bool:
    """Return whether an address is one of Slack's: only these get the token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == "slack.com" or host.endswith(".slack.com"))


def _external_url(file: Mapping[str, Any]) -> str:
    """Return the address of a file that another service stores, such as a document of Google Drive."""
    return text_of(file.get("url_private")) if file.get("is_external") is True else ""


def _external(file: Mapping[str, Any]) -> Sequence[Any]:
    url = _external_url(file)
    return paragraphs_of(text_runs(_name(text_of(file.get("name"))) or url, url=url)) if url else ()


def permalink(conversation: str, timestamp: str, thread: str | None, account: Account) -> str | None:
    """Return the address of a message, if the address of the workspace is stored."""
    base = account.values.get("url")
    if not base:
        return None
    base = base.rstrip("/")
    address = f"{base}/archives/{conversation}/p{timestamp.replace('.', '')}"
    return f"{address}?thread_ts={thread}&cid={conversation}" if thread else address


def _reaction_changes(event: Mapping[str, Any], kind: str) -> Sequence[Change]:
    item = _object(event.get("item"))
    if item.get("type") != "message":
        return ()
    emoji = reaction_emoji(text_of(event.get("reaction")))
    if emoji is None:
        raise Malformed("event.reaction: not the name of an emoji")
    return (
        ReactionChanged(
            external_id=_timestamp(item, "ts"),
            conversation=_id(item, "channel"),
            person=Person(_id(event, "user")),
            emoji=emoji,
            added=kind == "reaction_added",
            at=float(_timestamp(event, "event_ts")),
        ),
    )


def is_own(message: Mapping[str, Any], account: Account) -> bool:
    """Return whether the account itself has written a message."""
    if not account.values:
        return False
    bot_id, user_id = account.values.get("bot_id"), account.values.get("user_id")
    return bool((bot_id and message.get("bot_id") == bot_id) or (user_id and message.get("user") == user_id))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(text: str) -> str:
    return clean_line(text[:200]).strip()


def _picture(values: Mapping[str, Any], *names: str) -> str | None:
    return next(filter(_is_address, (text_of(values.get(name)) for name in names)), None)


def _is_address(url: str) -> bool:
    return url.startswith("https://")


def _id(values: Mapping[str, Any], name: str) -> str:
    value = text_of(values.get(name))
    if not is_id(value):
        raise Malformed(f"event.{name}: not an id of Slack")
    return value


def _timestamp(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        raise Malformed(f"event.{name}: not a timestamp of Slack")
    return value


def _microseconds(timestamp: str) -> int:
    seconds, _, fraction = timestamp.partition(".")
    return int(seconds) * 1_000_000 + int(fraction.ljust(6, "0") or 0)
