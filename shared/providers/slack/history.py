"""Exports of Slack: a folder for each conversation, in it a file for each day, and lists of all there is.

The standard export has public channels only; a corporate one adds `groups`, `mpims` and `dms`; one of an
Enterprise Grid has a folder for each workspace. slackdump writes the same form,
and adds the files of messages.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import Account, ExternalFile
from shared.manifests.history_json import array_items
from shared.manifests.history_types import (
    ARCHIVE_REF,
    NO_ANSWERS,
    Archive,
    Contents,
    ConversationKind,
    Entry,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryRecord,
    Unit,
    Unreadable,
)
from shared.providers.slack.emoji import reaction_emoji
from shared.providers.slack.history_pages import PageReader
from shared.providers.slack.history_records import (
    broken_record,
    parse_conversation,
    parse_person,
    read_record,
)
from shared.providers.slack.rich_text import is_id, text_of
from shared.richtext.build import clean_line

__all__ = ["ArchiveReader", "PageReader"]

_LISTS: Final[Mapping[str, ConversationKind]] = {
    "channels.json": "channel",
    "groups.json": "private",
    "mpims.json": "group",
    "dms.json": "direct",
}
_PEOPLE: Final = ("users.json", "org_users.json")
_DAY: Final = re.compile(r"(?:.*/)?([^/]+)/(\d{4}-\d{2}-\d{2})\.json", re.DOTALL)
_STORED_FILE: Final = re.compile(
    r"(?:.*/)?(?:__uploads/(F[A-Z0-9]+)/[^/]+|attachments/(F[A-Z0-9]+)-[^/]*)", re.DOTALL
)
"""Where slackdump puts a file, in both of its layouts."""
_MISSING: Final[Mapping[str, str]] = {
    "groups.json": "private channels",
    "mpims.json": "group messages",
    "dms.json": "direct messages",
}
_MAX_LIST: Final = 1_000_000


class ArchiveReader:
    """Reads exports of Slack of every form."""

    KIND = "Slack (ZIP)"

    def __init__(self) -> None:
        reaction_emoji("smile")  # reads the table of emoji
        self._stored: tuple[Archive, Mapping[str, Entry]] | None = None

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
        stored = self._stored_files(archive)
        conversation = unit.conversation
        for number, record in enumerate(array_items(archive, unit.id, unit.size), 1):
            try:
                found = read_record(record, conversation, account)
            except Malformed as error:
                yield broken_record(record, f"{unit.id}, record {number}", error)
            else:
                yield _in_archive(found, stored) if stored else found

    def _stored_files(self, archive: Archive) -> Mapping[str, Entry]:
        """Return the files that slackdump has put into an archive, by Slack's ids."""
        if self._stored is None or self._stored[0] is not archive:
            found = {
                match[1] or match[2]: entry
                for entry in archive.entries()
                if (match := _STORED_FILE.fullmatch(entry.name)) is not None
            }
            self._stored = archive, found
        return self._stored[1]


def _in_archive(record: HistoryRecord, stored: Mapping[str, Entry]) -> HistoryRecord:
    """Return a record in which files have their place in the archive, if they are there."""
    if not isinstance(record, HistoryMessage) or not record.message.files:
        return record
    files = tuple(_archived(file, stored.get(file.id)) for file in record.message.files)
    return replace(record, message=replace(record.message, files=files))


def _archived(file: ExternalFile, entry: Entry | None) -> ExternalFile:
    return file if entry is None else replace(file, ref=f"{ARCHIVE_REF}{entry.name}", size=entry.size)


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
                people[person_id] = parse_person(person_id, item)
                if is_id(text_of(item.get("team_id"))):
                    accounts[text_of(item["team_id"])] += 1
    return list(people.values()), accounts


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
            conversation = parse_conversation(conversation_id, item, _LISTS[file])
            conversations.setdefault(conversation_id, conversation)
            # A direct message has its id as the folder's name, and the others their name.
            for folder in (text_of(item.get("name")), conversation_id):
                if folder:
                    folders[f"{root}/{folder}" if root else folder] = conversation_id
    return conversations, folders


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
