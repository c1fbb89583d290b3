"""Exports of Telegram Desktop in JSON: one chat, or all chats of a person.

Ids are those of the Bot API, so that a message has the id under which a bot gets it: a supergroup or channel
123 of an export is -100123 there, a basic group -123. Files are beside `result.json`, if they were exported.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Final

import ijson

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import ExternalFile, MessageWritten, Person, Place
from shared.manifests.history_json import ShallowFile
from shared.manifests.history_types import (
    ARCHIVE_REF,
    LATEST,
    NO_ANSWERS,
    Archive,
    Broken,
    Contents,
    ConversationKind,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    Unit,
    Unreadable,
)
from shared.providers.telegram.entities import parse_entities
from shared.providers.telegram.render import utf16_length
from shared.richtext.build import clean_line
from shared.richtext.tree import Document

UNIT_RECORDS: Final = 5_000
_NAME: Final = "result.json"
_KINDS: Final[Mapping[str, ConversationKind]] = {
    "personal_chat": "direct",
    "bot_chat": "direct",
    "saved_messages": "direct",
    "private_group": "group",
    "private_supergroup": "private",
    "public_supergroup": "channel",
    "private_channel": "private",
    "public_channel": "channel",
}
_LONG_IDS: Final = frozenset({"private_supergroup", "public_supergroup", "private_channel", "public_channel"})
_ENTITIES: Final[Mapping[str, str]] = {"link": "url", "mention_name": "text_mention"}
"""Entities whose names differ from those of the Bot API."""
_ONE_CHAT: Final = ""
_LISTS: Final = ("chats.list.item.", "left_chats.list.item.")
_CHATS: Final = frozenset({"", *(prefix.removesuffix(".") for prefix in _LISTS)})
_INSIDE: Final = frozenset({"end_map", "end_array", "map_key"})
"""Events of the parser that do not begin a value."""
_BEGINNING: Final = 4096
_MAX_PEOPLE: Final = 100_000
_MAX_REACTIONS: Final = 200
_MAX_EXCERPT: Final = 500


@dataclass(slots=True)
class _Chat:
    """A chat as it was surveyed: the fields before its messages, and how many it has."""

    prefix: str
    fields: dict[str, Any] = field(default_factory=dict)
    messages: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    sender: str = ""
    """The author of the message that is being read."""

    @property
    def is_complete(self) -> bool:
        """True if it has what every chat has."""
        return "type" in self.fields and "id" in self.fields


@dataclass(slots=True)
class _Reading:
    """The records of a list that are being read: the next one is number `next`, counted from 0."""

    place: tuple[str, str]
    records: Iterator[Any]
    next: int
    files: ExitStack


class ArchiveReader:
    """Reads `result.json`, alone or with the files of its messages beside it."""

    KIND = "Telegram Desktop (JSON, or a ZIP of its folder)"

    def __init__(self) -> None:
        self._reading: _Reading | None = None

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an export has; None if it is not one of Telegram."""
        name = _result_name(archive)
        if name is None:
            return None
        with archive.open(name) as file:
            people: dict[str, Person] = {}
            chats = list(_survey(file, name, people))
        units: list[Unit] = []
        starts = dict.fromkeys((_ONE_CHAT, *_LISTS), 0)
        for chat in chats:
            first = starts[chat.prefix]
            starts[chat.prefix] += chat.messages
            for start in range(0, chat.messages, UNIT_RECORDS):
                count = min(UNIT_RECORDS, chat.messages - start)
                unit_id = f"{name}#{chat.prefix}#{first + start}#{count}"
                units.append(Unit(unit_id, _conversation_id(chat.fields), count))
        return Contents(
            kind="a Telegram export",
            provider="telegram",
            account="",
            people=[HistoryPerson(person) for person in people.values()],
            conversations=list(
                {_conversation_id(chat.fields): _conversation(chat.fields) for chat in chats}.values()
            ),
            units=units,
            missing=() if len(archive.entries()) > 1 else ("files",),
            first_at=min((chat.first_at for chat in chats if chat.first_at), default=0.0),
            last_at=max((chat.last_at for chat in chats), default=0.0),
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of a range of a chat. The next range goes on where this one ended."""
        del contents
        name, prefix, start, count = unit.id.rsplit("#", 3)
        reading = self._at(archive, (name, prefix), int(start))
        folder, files = name.rpartition("/")[0], {entry.name: entry.size for entry in archive.entries()}
        try:
            for record in islice(reading.records, int(count)):
                reading.next += 1
                try:
                    yield _read(record, unit.conversation, folder, files)
                except Malformed as error:
                    yield Broken(f"{name}, message {reading.next}", str(error), str(record)[:_MAX_EXCERPT])
        except (ijson.JSONError, ValueError) as error:
            raise _damaged(name, error) from None

    def _at(self, archive: Archive, place: tuple[str, str], number: int) -> _Reading:
        """Return the records of a list from this number on."""
        reading = self._reading
        if reading is None or reading.place != place or reading.next != number:
            if reading is not None:
                reading.files.close()
            files = ExitStack()
            file = files.enter_context(archive.open(place[0]))
            records = ijson.items(ShallowFile(file), f"{place[1]}messages.item", use_float=True)
            try:
                for _ in islice(records, number):
                    pass
            except (ijson.JSONError, ValueError) as error:
                raise _damaged(place[0], error) from None
            reading = self._reading = _Reading(place, records, number, files)
        return reading


def _result_name(archive: Archive) -> str | None:
    """Return the file with the messages: the one that begins as Telegram writes it."""
    entries = archive.entries()
    names = [entry.name for entry in entries if entry.name.rsplit("/", 1)[-1] == _NAME]
    for name in names or [entry.name for entry in entries[:1]]:
        with archive.open(name) as file:
            beginning = file.read(_BEGINNING)
        if not beginning.lstrip().startswith(b"{"):
            continue
        is_chat = b'"type"' in beginning and b'"messages"' in beginning and b'"id"' in beginning
        is_account = b'"about"' in beginning and b"Telegram" in beginning
        if is_chat or is_account:
            return name
    return None


def _survey(file: BinaryIO, name: str, people: dict[str, Person]) -> Iterator[_Chat]:
    """Yield the chats of a file, and add those who wrote to `people`. Raises `Unreadable`."""
    chat: _Chat | None = None
    try:
        for prefix, event, value in ijson.parse(ShallowFile(file), use_float=True):
            if event == "start_map" and prefix in _CHATS:
                chat = _Chat(f"{prefix}." if prefix else _ONE_CHAT)
            elif chat is None or not prefix.startswith(chat.prefix):
                if chat is not None and event == "end_map" and chat.is_complete:
                    yield chat
                chat = None if event == "end_map" else chat
            elif chat.prefix == _ONE_CHAT and not prefix and event == "end_map":
                if chat.is_complete:
                    yield chat
            else:
                _note(chat, prefix.removeprefix(chat.prefix), event, value, people)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise _damaged(name, error) from None


def _note(chat: _Chat, path: str, event: str, value: Any, people: dict[str, Person]) -> None:
    """Note what an event of the parser says of a chat."""
    if path == "messages.item":
        chat.messages += event not in _INSIDE
    elif event not in {"string", "number"}:
        return
    elif path == "messages.item.date_unixtime":
        if (at := _unix(value)) is not None:
            chat.first_at = min(chat.first_at or at, at)
            chat.last_at = max(chat.last_at, at)
    elif path == "messages.item.from":
        chat.sender = _text(value)
    elif path == "messages.item.from_id":
        if len(people) < _MAX_PEOPLE and isinstance(value, str):
            people.setdefault(_person_id(value), Person(_person_id(value), chat.sender))
    elif path in {"id", "name", "type"}:
        chat.fields[path] = value


def _damaged(name: str, error: Exception) -> Unreadable:
    return Unreadable(f"{name} is not valid JSON ({str(error)[:200]}): export it again")


def _conversation(fields: Mapping[str, Any]) -> HistoryConversation:
    kind = _KINDS.get(str(fields["type"]), "group")
    conversation_id = _conversation_id(fields)
    return HistoryConversation(conversation_id, _text(fields.get("name")) or conversation_id, kind)


def _conversation_id(fields: Mapping[str, Any]) -> str:
    """Return the id of a chat in the Bot API."""
    number = abs(int(fields["id"])) if isinstance(fields["id"], int | float) else 0
    kind = fields["type"]
    if kind in _LONG_IDS:
        return f"-100{number}"
    return f"-{number}" if kind == "private_group" else str(number)


def _read(record: Any, conversation: str, folder: str, files: Mapping[str, int]) -> HistoryRecord:
    """Read a message, or what Telegram wrote about what somebody did. Raises `Malformed`."""
    if not isinstance(record, dict):
        raise Malformed("not an object: a message of Telegram is one")
    number = record.get("id")
    if not isinstance(number, int):
        raise Malformed("id: missing: a message of Telegram has it")
    at = _time(record, "date_unixtime")
    if at is None:
        raise Malformed(f"date_unixtime: {record.get('date_unixtime')!r} is not a time of this century")
    is_service = record.get("type") == "service"
    person = record.get("actor_id" if is_service else "from_id")
    name = _text(record.get("actor" if is_service else "from"))
    if not isinstance(person, str):
        raise Malformed("from_id: missing: a message of Telegram has it")
    kept, lost = _files(record, folder, files)
    reply, topic = record.get("reply_to_message_id"), record.get("topic_id")
    return HistoryMessage(
        MessageWritten(
            external_id=str(number),
            place=Place(
                conversation,
                str(topic) if isinstance(topic, int) else None,
                str(reply) if isinstance(reply, int) else None,
            ),
            author=Person(_person_id(person), name),
            body=_service_body(record, name) if is_service else _body(record),
            files=kept,
            sent_at=at,
        ),
        "system" if is_service else "message",
        _reactions(record),
        edited_at=_time(record, "edited_unixtime"),
        lost_files=lost,
    )


def _body(record: Mapping[str, Any]) -> Document:
    """Read a text with its entities, which an export has in pieces."""
    pieces = record.get("text_entities")
    text = ""
    entities: list[dict[str, Any]] = []
    offset = 0
    for piece in pieces if isinstance(pieces, list) else ():
        if not isinstance(piece, dict) or not isinstance(piece.get("text"), str):
            continue
        kind, part = str(piece.get("type")), piece["text"]
        length = utf16_length(part)
        if kind != "plain":
            entity = {"type": _ENTITIES.get(kind, kind), "offset": offset, "length": length}
            entity |= {name: piece[name] for name in ("language",) if name in piece}
            if isinstance(piece.get("href"), str):
                entity["url"] = piece["href"]
            if kind == "mention_name" and isinstance(piece.get("user_id"), int):
                entity["user"] = {"id": piece["user_id"]}
            if kind == "custom_emoji":
                entity["custom_emoji_id"] = str(piece.get("document_id", ""))
            entities.append(entity)
        text += part
        offset += length
    if not text and isinstance(record.get("text"), str):
        text = record["text"]  # an export from before there were entities
    return parse_entities(text, entities)


def _service_body(record: Mapping[str, Any], name: str) -> Document:
    action = _text(record.get("action")).replace("_", " ")
    title = _text(record.get("title"))
    return parse_entities(" ".join(filter(None, (name, action, title))), [])


def _files(
    record: Mapping[str, Any], folder: str, files: Mapping[str, int]
) -> tuple[Sequence[ExternalFile], Sequence[LostFile]]:
    """Return the file of a message if it is in the archive, else its name with the reason."""
    for field_name, default, content_type in (("photo", "photo.jpg", "image/jpeg"), ("file", "file", None)):
        path = record.get(field_name)
        if not isinstance(path, str) or not path:
            continue
        filename = _text(record.get("file_name")) or path.rsplit("/", 1)[-1][:200]
        entry = f"{folder}/{path}" if folder else path
        if path.startswith("(") or entry not in files:
            return (), (LostFile(default if path.startswith("(") else filename, "file_not_found"),)
        mime = record.get("mime_type")
        return (
            ExternalFile(
                id=f"{record['id']}:{field_name}",
                ref=f"{ARCHIVE_REF}{entry}",
                filename=filename or default,
                content_type=mime[:200] if isinstance(mime, str) else content_type,
                size=files[entry],
            ),
        ), ()
    return (), ()


def _reactions(record: Mapping[str, Any]) -> Sequence[HistoryReaction]:
    """Read who has set what, as far as the export tells: it has the last people only."""
    reactions = record.get("reactions")
    found: list[HistoryReaction] = []
    for item in reactions[:_MAX_REACTIONS] if isinstance(reactions, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("emoji"), str) or not item["emoji"]:
            continue
        recent = item.get("recent")
        people = [
            _person_id(one["from_id"])
            for one in (recent[:_MAX_REACTIONS] if isinstance(recent, list) else ())
            if isinstance(one, dict) and isinstance(one.get("from_id"), str)
        ]
        if people:
            found.append(HistoryReaction(item["emoji"][:64], tuple(people)))
    return tuple(found)


def _person_id(text: str) -> str:
    """Return the id in the Bot API of `user123` or `channel123`."""
    number = text.lstrip("abcdefghijklmnopqrstuvwxyz_")[:20]
    return f"-100{number}" if text.startswith("channel") else number or text[:64]


def _time(record: Mapping[str, Any], name: str) -> float | None:
    return _unix(record.get(name))


def _unix(value: Any) -> float | None:
    if not isinstance(value, str) or not (value.isascii() and value.isdecimal()) or len(value) > 12:
        return None
    at = float(value)
    return at if 0 < at < LATEST else None


def _text(value: Any) -> str:
    return clean_line(value[:200]).strip() if isinstance(value, str) else ""
