"""Exports of Slack: a folder for each conversation, in it a file for each day, and lists of all there is.

The standard export has public channels only; a corporate one adds `groups`, `mpims` and `dms`; one of an
Enterprise Grid has a folder for each workspace. slackdump writes the same form.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import Account, MessageWritten, Person, Place
from shared.manifests.history_json import array_items
from shared.manifests.history_types import (
    LATEST,
    NO_ANSWERS,
    Archive,
    Broken,
    Contents,
    ConversationKind,
    Entry,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    MessageKind,
    Skipped,
    Unit,
    Unreadable,
)
from shared.providers.slack.emoji import reaction_emoji
from shared.providers.slack.events import MAX_FILES, parse_message
from shared.providers.slack.mrkdwn import parse_mrkdwn
from shared.providers.slack.rich_text import Budget, is_id, objects, text_of
from shared.richtext.build import canonical, clean_line
from shared.richtext.tree import Document

_LISTS: Final[Mapping[str, ConversationKind]] = {
    "channels.json": "channel",
    "groups.json": "private",
    "mpims.json": "group",
    "dms.json": "direct",
}
_PEOPLE: Final = ("users.json", "org_users.json")
_DAY: Final = re.compile(r"(?:.*/)?([^/]+)/(\d{4}-\d{2}-\d{2})\.json", re.DOTALL)
_MISSING: Final[Mapping[str, str]] = {
    "groups.json": "private channels",
    "mpims.json": "group messages",
    "dms.json": "direct messages",
}
_MESSAGES: Final = frozenset({"", "file_share", "thread_broadcast", "me_message", "reply_broadcast"})
_CHANGES: Final = frozenset({"message_changed", "message_deleted", "message_replied", "tombstone"})
"""Reports of a change, which old exports have beside the message as it is now; and what was deleted."""
_MAX_LIST: Final = 1_000_000
_MAX_MEMBERS: Final = 100_000
_MAX_REACTIONS: Final = 200
_MAX_EXCERPT: Final = 500


class ArchiveReader:
    """Reads exports of Slack of every form."""

    KIND = "Slack (ZIP)"

    def __init__(self) -> None:
        reaction_emoji("smile")  # reads the table of emoji

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an export has; None if it is not one of Slack."""
        entries = archive.entries()
        sizes = {entry.name: entry.size for entry in entries}
        lists = [name for name in sizes if name.rsplit("/", 1)[-1] in _LISTS]
        days = [entry for entry in entries if _DAY.fullmatch(entry.name)]
        if not lists or not (days or any(name.rsplit("/", 1)[-1] in _PEOPLE for name in sizes)):
            return None
        people, accounts = _people(archive, sizes)
        conversations, folders = _conversations(archive, sizes, lists)
        units = sorted(_units(days, conversations, folders), key=lambda unit: (unit.conversation, unit.id))
        known = {name.rsplit("/", 1)[-1] for name in lists}
        return Contents(
            kind="a Slack export",
            provider="slack",
            account=accounts.most_common(1)[0][0] if accounts else "",
            people=people,
            conversations=list(conversations.values()),
            units=units,
            missing=[text for name, text in _MISSING.items() if name not in known],
            notes=_notes(conversations),
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of one day of a conversation."""
        account = Account(contents.account, contents.values)
        for number, record in enumerate(array_items(archive, unit.id, unit.size), 1):
            try:
                yield _read(record, unit.conversation, account)
            except Malformed as error:
                yield Broken(f"{unit.id}, record {number}", str(error), str(record)[:_MAX_EXCERPT])


def _read(record: Any, conversation: str, account: Account) -> HistoryRecord:
    """Read a record. Raises `Malformed`."""
    if not isinstance(record, dict):
        raise Malformed("not an object: a record of Slack is one")
    subtype = text_of(record.get("subtype"))
    if record.get("hidden") is True or subtype in _CHANGES:
        return Skipped("deleted" if subtype == "tombstone" else "not_a_message")
    if record.get("type", "message") != "message":
        return Skipped("not_a_message")
    message = _message(record, subtype, conversation, account)
    if not 0 < message.sent_at < LATEST:
        raise Malformed(f"ts: {record.get('ts')!r} is not a time of this century")
    edited = record.get("edited")
    return HistoryMessage(
        message,
        _kind(record, subtype),
        _reactions(record),
        edited_at=_time(edited.get("ts")) if isinstance(edited, dict) else None,
        pinned=bool(record.get("pinned_to")),
        lost_files=_lost_files(record),
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
        sent_at=_time(timestamp) or 0.0,
    )


def _reactions(record: Mapping[str, Any]) -> Sequence[HistoryReaction]:
    """Read who has set what. A name that is no emoji is left out."""
    return tuple(
        HistoryReaction(emoji, tuple(person for person in people[:_MAX_MEMBERS] if is_id(text_of(person))))
        for item in objects(record.get("reactions"))[:_MAX_REACTIONS]
        if (emoji := reaction_emoji(text_of(item.get("name")))) is not None
        and isinstance(people := item.get("users"), list)
    )


def _lost_files(record: Mapping[str, Any]) -> Sequence[LostFile]:
    lost: list[LostFile] = []
    for file in objects(record.get("files"))[:MAX_FILES]:
        name = clean_line(text_of(file.get("name")) or text_of(file.get("title")))[:200] or "file"
        mode = text_of(file.get("mode"))
        if mode == "tombstone":
            lost.append(LostFile(name, "tombstone"))
        elif mode == "hidden_by_limit":
            lost.append(LostFile(name, "hidden_by_limit"))
        elif text_of(file.get("file_access")) in {"access_denied", "file_not_found"}:
            denied = text_of(file.get("file_access")) == "access_denied"
            lost.append(LostFile(name, "access_denied" if denied else "file_not_found"))
    return tuple(lost)


def _people(archive: Archive, sizes: Mapping[str, int]) -> tuple[list[HistoryPerson], Counter[str]]:
    """Return the people by the lists of an export, and how many of them each workspace of Slack has."""
    people: dict[str, HistoryPerson] = {}
    accounts: Counter[str] = Counter()
    for name, size in sizes.items():
        if name.rsplit("/", 1)[-1] not in _PEOPLE:
            continue
        for item in _objects(archive, name, size):
            person_id = text_of(item.get("id"))
            if is_id(person_id):
                people[person_id] = _person(person_id, item)
                if is_id(text_of(item.get("team_id"))):
                    accounts[text_of(item["team_id"])] += 1
    return list(people.values()), accounts


def _person(person_id: str, item: Mapping[str, Any]) -> HistoryPerson:
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


def _conversations(
    archive: Archive, sizes: Mapping[str, int], lists: Sequence[str]
) -> tuple[dict[str, HistoryConversation], dict[str, str]]:
    """Return the conversations of all lists by id, and their ids by folder."""
    conversations: dict[str, HistoryConversation] = {}
    folders: dict[str, str] = {}
    for name in lists:
        root, _, file = name.rpartition("/")
        for item in _objects(archive, name, sizes[name]):
            conversation_id = text_of(item.get("id"))
            if not is_id(conversation_id):
                continue
            conversation = _conversation(conversation_id, item, _LISTS[file])
            conversations.setdefault(conversation_id, conversation)
            # A direct message has its id as the folder's name, and the others their name.
            for folder in (text_of(item.get("name")), conversation_id):
                if folder:
                    folders[f"{root}/{folder}" if root else folder] = conversation_id
    return conversations, folders


def _conversation(
    conversation_id: str, item: Mapping[str, Any], kind: ConversationKind
) -> HistoryConversation:
    topic = item.get("topic")
    members = item.get("members")
    return HistoryConversation(
        id=conversation_id,
        name=clean_line(text_of(item.get("name")))[:200] or conversation_id,
        kind=kind,
        archived=item.get("is_archived") is True,
        created_at=_time(item.get("created")) or 0.0,
        topic=clean_line(text_of(topic.get("value")))[:1000] if isinstance(topic, dict) else "",
        members=tuple(one for one in members[:_MAX_MEMBERS] if is_id(text_of(one)))
        if isinstance(members, list)
        else (),
    )


def _units(
    days: Sequence[Entry], conversations: dict[str, HistoryConversation], folders: Mapping[str, str]
) -> Iterator[Unit]:
    """Yield the days. A folder that no list names gets a conversation of its own, which is not listed."""
    for entry in days:
        folder, _, file = entry.name.rpartition("/")
        conversation = folders.get(folder)
        if conversation is None:
            conversation = f"folder:{folder}"[:200]
            name = clean_line(folder.rsplit("/", 1)[-1])[:200]
            conversations.setdefault(conversation, HistoryConversation(conversation, name, listed=False))
        yield Unit(entry.name, conversation, entry.size, file.removesuffix(".json"))


def _notes(conversations: Mapping[str, HistoryConversation]) -> Sequence[str]:
    unlisted = sorted(item.name for item in conversations.values() if not item.listed)
    if not unlisted:
        return ()
    names = ", ".join(unlisted[:10])
    note = f"{len(unlisted)} folders are of no listed channel ({names}): they may be of renamed channels"
    return (note,)


def _objects(archive: Archive, name: str, size: int) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list. Raises `Unreadable`, also for more than a million."""
    for number, item in enumerate(array_items(archive, name, size)):
        if number == _MAX_LIST:
            raise Unreadable(f"{name} has more than {_MAX_LIST:,} items: it is no list of Slack")
        if isinstance(item, dict):
            yield item


def _time(value: Any) -> float | None:
    """Return a time as Slack writes it, in Unix seconds; None if it is none of this century."""
    try:
        at = float(value)
    except (TypeError, ValueError):
        return None
    return at if 0 < at < LATEST else None
