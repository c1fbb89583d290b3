"""Records of Slack's histories: messages, people and conversations, as exports and the Web API have them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import Account, MessageWritten, Person, Place
from shared.manifests.history_types import (
    LATEST,
    Broken,
    ConversationKind,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    MessageKind,
    Skipped,
)
from shared.providers.slack.emoji import reaction_emoji
from shared.providers.slack.events import MAX_FILES, parse_message
from shared.providers.slack.mrkdwn import parse_mrkdwn
from shared.providers.slack.rich_text import Budget, is_id, objects, text_of
from shared.richtext.build import canonical, clean_line
from shared.richtext.tree import Document

_MESSAGES: Final = frozenset({"", "file_share", "thread_broadcast", "me_message", "reply_broadcast"})
_CHANGES: Final = frozenset({"message_changed", "message_deleted", "message_replied", "tombstone"})
"""Reports of a change, which old exports have beside the message as it is now; and what was deleted."""
MAX_MEMBERS: Final = 100_000
_MAX_REACTIONS: Final = 200
_MAX_EXCERPT: Final = 500
_EXPORT_TOKEN: Final = re.compile(r"xoxe-[A-Za-z0-9-]+")
"""A token of an export, which addresses of files have."""


def parse_record(record: Any, conversation: str, account: Account, place: str) -> HistoryRecord:
    """Parse a record of a history. `place` names it for people, should it be `Broken`."""
    try:
        return read_record(record, conversation, account)
    except Malformed as error:
        return broken_record(record, place, error)


def broken_record(record: Any, place: str, error: Malformed) -> Broken:
    """Return what is said of a record that `read_record` refuses."""
    return Broken(place, str(error), _EXPORT_TOKEN.sub("xoxe-...", str(record))[:_MAX_EXCERPT])


def read_record(record: Any, conversation: str, account: Account) -> HistoryRecord:
    """Read a record of a history. Raises `Malformed`."""
    if not isinstance(record, dict):
        raise Malformed("not an object: a record of Slack is one")
    subtype = text_of(record.get("subtype"))
    if record.get("hidden") is True or subtype in _CHANGES:
        return Skipped("deleted" if subtype == "tombstone" else "not_a_message")
    if record.get("type", "message") != "message":
        return Skipped("not_a_message")
    message = _message(record, subtype, conversation, account)
    if message.own and message.marker:
        return Skipped("written_by_hub")
    if not 0 < message.sent_at < LATEST:
        raise Malformed(f"ts: {record.get('ts')!r} is not a time of this century")
    lost = _lost_files(record) if "files" in record else {}
    if lost and message.files:
        message = replace(message, files=tuple(file for file in message.files if file.id not in lost))
    edited = record.get("edited")
    return HistoryMessage(
        message,
        _kind(record, subtype),
        _reactions(record) if "reactions" in record else (),
        parse_time(edited.get("ts")) if isinstance(edited, dict) else None,
        bool(record.get("pinned_to")),
        tuple(lost.values()),
    )


def _kind(record: Mapping[str, Any], subtype: str) -> MessageKind:
    if subtype == "bot_message" or record.get("bot_id"):
        return "bot"
    return "message" if subtype in _MESSAGES else "system"


def _message(record: Mapping[str, Any], subtype: str, conversation: str, account: Account) -> MessageWritten:
    """Read a message that somebody wrote, or one that Slack wrote about what somebody did."""
    if subtype in _MESSAGES or subtype == "bot_message" or is_id(text_of(record.get("user"))):
        return parse_message(record, conversation, account)
    # Such as a file comment: it has no author of its own.
    timestamp = text_of(record.get("ts"))
    body = canonical(Document(tuple(parse_mrkdwn(text_of(record.get("text")), Budget()))))
    return MessageWritten(
        external_id=timestamp,
        place=Place(conversation),
        author=Person("slack", "Slack", bot=True),
        body=body,
        sent_at=parse_time(timestamp) or 0.0,
    )


def _reactions(record: Mapping[str, Any]) -> Sequence[HistoryReaction]:
    """Read who has set what. A name that is no emoji is left out."""
    return tuple(
        HistoryReaction(emoji, tuple(person for person in people[:MAX_MEMBERS] if is_id(text_of(person))))
        for item in objects(record.get("reactions"))[:_MAX_REACTIONS]
        if (emoji := reaction_emoji(text_of(item.get("name")))) is not None
        and isinstance(people := item.get("users"), list)
    )


def _lost_files(record: Mapping[str, Any]) -> Mapping[str, LostFile]:
    """Return the files that cannot be got from Slack, by their ids."""
    lost: dict[str, LostFile] = {}
    for number, file in enumerate(objects(record.get("files"))[:MAX_FILES]):
        file_id = text_of(file.get("id")) or f"file {number}"
        name = clean_line(text_of(file.get("name")) or text_of(file.get("title")))[:200] or "file"
        mode = text_of(file.get("mode"))
        if mode == "tombstone":
            lost[file_id] = LostFile(name, "tombstone")
        elif mode == "hidden_by_limit":
            lost[file_id] = LostFile(name, "hidden_by_limit")
        elif text_of(file.get("file_access")) in {"access_denied", "file_not_found"}:
            denied = text_of(file.get("file_access")) == "access_denied"
            lost[file_id] = LostFile(name, "access_denied" if denied else "file_not_found")
    return lost


def parse_person(person_id: str, item: Mapping[str, Any]) -> HistoryPerson:
    """Parse a person of a list of people."""
    profile = item.get("profile")
    profile = profile if isinstance(profile, dict) else {}
    names = (profile.get("display_name"), profile.get("real_name"), item.get("real_name"), item.get("name"))
    name = next((clean_line(text)[:200] for value in names if (text := text_of(value).strip())), "")
    email, picture = text_of(profile.get("email")), text_of(profile.get("image_192"))
    person = Person(
        person_id,
        name,
        picture if picture.startswith("https://") else None,
        email[:320] if "@" in email else None,
        bot=item.get("is_bot") is True or person_id == "USLACKBOT",
    )
    return HistoryPerson(person, active=item.get("deleted") is not True)


def parse_conversation(
    conversation_id: str, item: Mapping[str, Any], kind: ConversationKind
) -> HistoryConversation:
    """Parse a conversation of a list of conversations."""
    topic = item.get("topic")
    members = item.get("members")
    return HistoryConversation(
        id=conversation_id,
        name=clean_line(text_of(item.get("name")))[:200] or conversation_id,
        kind=kind,
        archived=item.get("is_archived") is True,
        created_at=parse_time(item.get("created")) or 0.0,
        topic=clean_line(text_of(topic.get("value")))[:1000] if isinstance(topic, dict) else "",
        members=tuple(one for one in members[:MAX_MEMBERS] if is_id(text_of(one)))
        if isinstance(members, list)
        else (),
    )


def parse_time(value: Any) -> float | None:
    """Return a time as Slack writes it, in Unix seconds; None if it is none of this century."""
    try:
        at = float(value)
    except (TypeError, ValueError):
        return None
    return at if 0 < at < LATEST else None
