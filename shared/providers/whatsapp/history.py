"""Chats that WhatsApp exported as text: `_chat.txt` or `WhatsApp Chat with Ada.txt`, alone or with its files.

An export has no ids. They are made of what stays the same in a later export of the chat: the time as it is
written, the author and the text, and a number where all of these are equal. The chat is known by its first
message. The dates are in the order of the phone's language, and the times in its time zone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import ExternalFile, MessageWritten, Person, Place
from shared.manifests.history_order import OrderedRecords, Raw, Survey
from shared.manifests.history_times import DateOrder, Zones, date_of
from shared.manifests.history_types import (
    ARCHIVE_REF,
    NO_ANSWERS,
    Archive,
    Broken,
    Contents,
    ConversationKind,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryRecord,
    LostFile,
    Skipped,
    Unit,
    beginning_of,
)
from shared.providers.whatsapp.chat_lines import ChatMessage, chat_messages, parse_head
from shared.providers.whatsapp.markup import parse_markup
from shared.providers.whatsapp.phrases import (
    attached_file,
    is_deleted,
    omitted_media,
    without_edited_mark,
)
from shared.richtext.build import clean_line

FIRST_YEAR: Final = 2009
"""The year in which WhatsApp began."""
_BEGINNING: Final = 16 * 1024
_IOS_NAME: Final = "_chat.txt"
_MAX_CHATS: Final = 200
_MAX_PEOPLE: Final = 100_000
_MAX_EXCERPT: Final = 500
_PAIR: Final = 2
_WHATSAPP: Final = Person("whatsapp", "WhatsApp", bot=True)
_TITLE: Final = re.compile(r".*whatsapp.*? (?:with|mit|con|avec|com|met|di|ile|z|-) (.+)", re.IGNORECASE)
_NO_DIGIT: Final = re.compile(r"[^\d]")
_MARK: Final = "\u200e"


@dataclass(frozen=True, slots=True)
class _Line:
    """A message of a chat as it is read later: `local` is its time as it is written, for its id."""

    message: ChatMessage
    local: str


@dataclass(slots=True)
class _Chat:
    """A chat as it was surveyed: its file, and who wrote in it."""

    id: str
    entry: str
    order: DateOrder
    people: dict[str, None]
    separator: str = ""
    title: str = ""


@dataclass(slots=True)
class _Export:
    """State for reading the units: files by name, people by phone number and name, the records."""

    entries: Mapping[str, str]
    sizes: Mapping[str, int]
    known: Mapping[str, str]
    records: OrderedRecords


class ArchiveReader:
    """Reads chats of WhatsApp."""

    KIND = "WhatsApp (text, or its ZIP)"

    def __init__(self) -> None:
        self._zones = Zones()
        self._export: _Export | None = None

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an export has; None if it is not one of WhatsApp."""
        chats = [_surveyed(archive, name) for name in _chat_names(archive)]
        if not chats:
            return None
        order, choices = _order_of(chats, answers)
        zone = self._zones.choice(answers)
        survey = Survey()
        units: Sequence[Unit] = ()

        def scan() -> Iterator[Raw]:
            for chat in chats:
                yield from _scan(archive, chat, order, zone.answer or "", self._zones)

        if order is not None:
            for record in scan():
                survey.add(record)
            units = list(survey.units())
        people = list(dict.fromkeys(name for chat in chats for name in chat.people))[:_MAX_PEOPLE]
        self._export = _Export(
            entries={chat.id: chat.entry for chat in chats},
            sizes={entry.name: entry.size for entry in archive.entries()},
            known=_known(people),
            records=OrderedRecords(scan, units),
        )
        has_files = len(archive.entries()) > len(chats)
        return Contents(
            kind="a WhatsApp export",
            provider="whatsapp",
            account="",
            people=[HistoryPerson(Person(name, _shown(name))) for name in people],
            conversations=[_conversation(chat) for chat in chats],
            units=units,
            missing=() if has_files else ("files",),
            choices=(*choices, zone),
            first_at=survey.first_at,
            last_at=survey.last_at,
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of some days of a chat."""
        export = self._export
        if export is None:
            raise RuntimeError("read the contents of an export first")
        entry = export.entries[unit.conversation]
        counts: dict[str, int] = {}
        for record in export.records.records(unit):
            place = f"{entry}, line {record.number}"
            try:
                yield _read(record, unit.conversation, entry, export, counts)
            except Malformed as error:
                line = record.value.message.text[:_MAX_EXCERPT] if isinstance(record.value, _Line) else ""
                yield Broken(place, str(error), line)


def _chat_names(archive: Archive) -> Sequence[str]:
    """Return the files that begin like a chat: of each folder `_chat.txt`, or else every such text."""
    entries = archive.entries()
    names = [entry.name for entry in entries if len(entries) == 1 or entry.name.lower().endswith(".txt")]
    folders = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == _IOS_NAME}
    near = (
        name
        for name in names
        if name.rpartition("/")[0] not in folders or name.rpartition("/")[2] == _IOS_NAME
    )
    return [name for name in islice(near, _MAX_CHATS) if _is_chat(archive, name)]


def _is_chat(archive: Archive, name: str) -> bool:
    beginning = beginning_of(archive, name, _BEGINNING).decode("utf-8", "replace")
    first = next((line for line in beginning.lstrip("\ufeff").split("\n") if line.strip()), "")
    return parse_head(first) is not None


def _surveyed(archive: Archive, name: str) -> _Chat:
    """Return who wrote in a chat, and what its dates are."""
    chat = _Chat("", name, DateOrder(FIRST_YEAR), {})
    with archive.open(name) as file:
        for message in chat_messages(file):
            if isinstance(message, int):
                continue
            chat.order.add(message.head.date)
            if not chat.id:
                chat.separator = message.head.separator
                key = (
                    *sorted(message.head.date),
                    *map(str, message.head.clock),
                    message.author,
                    message.text,
                )
                chat.id = blake2b("\0".join(key).encode("utf-8", "replace"), digest_size=12).hexdigest()
            if message.author and not _is_of_whatsapp(message):
                if len(chat.people) < _MAX_PEOPLE:
                    chat.people[message.author] = None
            elif not chat.title:
                chat.title = message.author  # iOS has the name of a group there
    return chat


def _order_of(chats: Sequence[_Chat], answers: Mapping[str, str]) -> tuple[str | None, Sequence[Any]]:
    """Return the order of the dates in effect, and the question for it, by all chats of an export."""
    order = DateOrder(FIRST_YEAR)
    for chat in chats:
        order.merge(chat.order)
    # No language has the month first and dots.
    refuses = ("mdy",) if all(chat.separator.startswith(".") for chat in chats) else ()
    return order.resolve(answers, refuses=refuses)


def _scan(archive: Archive, chat: _Chat, order: str | None, zone: str, zones: Zones) -> Iterator[Raw]:
    with archive.open(chat.entry) as file:
        for message in chat_messages(file):
            if isinstance(message, int):
                yield Raw(message, chat.id, None, 0, None)
                continue
            head = message.head
            day = date_of(order, head.date, FIRST_YEAR) if order else None
            at = zones.unix(day, head.clock, zone) if day else None
            hour, minute, second = head.clock
            local = f"{day:%Y%m%d}{hour:02}{minute:02}{second:02.0f}" if day else ""
            yield Raw(message.number, chat.id, at, message.size, _Line(message, local))


def _read(
    record: Raw, conversation: str, entry: str, export: _Export, counts: dict[str, int]
) -> HistoryRecord:
    """Read a message. `counts` has how often each id was there in the unit. Raises `Malformed`."""
    line = record.value
    if not isinstance(line, _Line):
        raise Malformed("the line has more than 8 MB: no message is so long")
    if record.at is None:
        date = "/".join(line.message.head.date)
        raise Malformed(f"{date} {line.message.head.clock} is not a time of WhatsApp, which began in 2009")
    message = line.message
    digest = blake2b(f"{message.author}\0{message.text}".encode("utf-8", "replace"), digest_size=9)
    base = f"{line.local}-{digest.hexdigest()}"
    counts[base] = counts.get(base, 0) + 1
    external_id = base if counts[base] == 1 else f"{base}-{counts[base]}"
    if is_deleted(message.text):
        return Skipped("deleted")
    is_system = not message.author or _is_of_whatsapp(message)
    text, is_edited = without_edited_mark(message.text)
    files, lost, text = ((), (), text) if is_system else _files(text, external_id, entry, export)
    is_unknown = is_system and message.author not in export.known.values()
    author = _WHATSAPP if is_unknown else Person(message.author, _shown(message.author))
    return HistoryMessage(
        MessageWritten(
            external_id=external_id,
            place=Place(conversation),
            author=author,
            body=parse_markup(text.replace(_MARK, ""), lambda name: export.known.get(_key(name))),
            files=files,
            sent_at=record.at,
        ),
        "system" if is_system else "message",
        edited_at=record.at if is_edited else None,
        lost_files=lost,
    )


def _is_of_whatsapp(message: ChatMessage) -> bool:
    """Return whether WhatsApp wrote a text that has an author, as iOS marks it.

    Texts about files, deleted messages, places and polls are marked alike, and are of their authors.
    """
    text = message.text
    if not text.startswith(_MARK) or "\n" in text or "://" in text:
        return False
    return omitted_media(text) is None and attached_file(text)[0] is None and not is_deleted(text)


def _files(
    text: str, message: str, entry: str, export: _Export
) -> tuple[Sequence[ExternalFile], Sequence[LostFile], str]:
    """Return the file of a message if it is in the archive, else its name, and the text without it."""
    if (kind := omitted_media(text)) is not None:
        return (), (LostFile(kind, "file_not_found"),), ""
    name, rest = attached_file(text)
    if name is None:
        return (), (), text
    folder = entry.rpartition("/")[0]
    path = f"{folder}/{name}" if folder else name
    filename = clean_line(name.rpartition("/")[2])[:200].strip() or "file"
    if path not in export.sizes or path == entry:
        return (), (LostFile(filename, "file_not_found"),), rest
    file = ExternalFile(f"{message}:0", f"{ARCHIVE_REF}{path}", filename, size=export.sizes[path])
    return (file,), (), rest


def _conversation(chat: _Chat) -> HistoryConversation:
    names = list(chat.people)
    file = chat.entry.rpartition("/")[2].rpartition(".")[0]
    folder = chat.entry.rpartition("/")[0].rpartition("/")[2]
    title = next((found[1] for text in (file, folder) if (found := _TITLE.fullmatch(text))), chat.title)
    shown = clean_line(title or ", ".join(map(_shown, names[:5])) or "WhatsApp chat")[:200].strip()
    kind: ConversationKind = "direct" if len(names) <= _PAIR else "group"
    return HistoryConversation(chat.id, shown, kind, members=tuple(names))


def _shown(name: str) -> str:
    """Return a name as people see it: WhatsApp writes `~` before one that is in nobody's contacts."""
    return clean_line(name.removeprefix("~").strip() or name)[:200]


def _known(people: Sequence[str]) -> Mapping[str, str]:
    """Return people by the keys of mentions: their name, and their phone number if that is their name."""
    return {_key(name): name for name in people} | {
        digits: name for name in people if name.startswith("+") and (digits := _NO_DIGIT.sub("", name))
    }


def _key(name: str) -> str:
    return _shown(name).casefold()
