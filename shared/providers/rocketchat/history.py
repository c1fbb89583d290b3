"""Dumps of Rocket.Chat's database: the collections of people, rooms and messages that mongodump writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from bson import CodecOptions, decode
from bson.codec_options import DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.objectid import ObjectId

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import MessageWritten, Person, Place
from shared.manifests.history_order import UNKNOWN, OrderedRecords, Raw, Survey, plausible_time
from shared.manifests.history_types import (
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
    MessageKind,
    Skipped,
    Unit,
)

# Rocket.Chat names emoji as Slack does.
from shared.providers.slack.emoji import reaction_emoji
from shared.richtext.build import clean_line
from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.name_mentions import WordNames, with_word_mentions
from shared.richtext.tree import Document

_MESSAGES: Final = "rocketchat_message.bson"
_ROOMS: Final = "rocketchat_room.bson"
_PEOPLE: Final = "users.bson"
_KINDS: Final[Mapping[str, ConversationKind]] = {"c": "channel", "p": "private", "d": "direct", "l": "group"}
_MAX_DOCUMENT: Final = 16 * 1024 * 1024
"""The longest document of MongoDB, in bytes."""
_SHORTEST: Final = 5
_PAIR: Final = 2
_MAX_LISTED: Final = 200_000
_MAX_ITEMS: Final = 1_000
_MAX_EXCERPT: Final = 500
_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)


@dataclass(slots=True)
class _Dump:
    """State for reading the units of a dump: its records, and names in texts."""

    name: str
    records: OrderedRecords
    users: Mapping[str, str]
    words: WordNames


class ArchiveReader:
    """Reads dumps of Rocket.Chat's database."""

    KIND = "Rocket.Chat (ZIP of a mongodump)"

    def __init__(self) -> None:
        reaction_emoji("smile")  # reads the table of emoji
        parse_flavored_markdown("> - *a*")  # loads the parser of blocks
        self._dump: _Dump | None = None

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what a dump has; None if it is not one of Rocket.Chat."""
        names = {entry.name.rsplit("/", 1)[-1]: entry.name for entry in archive.entries()}
        name = names.get(_MESSAGES)
        if name is None or not _is_dump(archive, name):
            return None
        survey = Survey()
        for record in _scan(archive, name):
            survey.add(record)
        units = list(survey.units())
        people = [_person(item) for item in _listed(archive, names.get(_PEOPLE))]
        rooms = {item.id: item for room in _listed(archive, names.get(_ROOMS)) if (item := _room(room)).id}
        for conversation in survey.conversations:
            unlisted = HistoryConversation(conversation, conversation, listed=False)
            rooms.setdefault(conversation, UNKNOWN if conversation == UNKNOWN.id else unlisted)
        users = {item.username.lower(): item.person.person.id for item in people if item.username}
        channels = {
            item.name.lower(): item.id for item in rooms.values() if item.kind in {"channel", "private"}
        }
        words = WordNames(users, channels, "#", _character)
        self._dump = _Dump(name, OrderedRecords(lambda: _scan(archive, name), units), users, words)
        lists = (("people", _PEOPLE), ("rooms", _ROOMS))
        return Contents(
            kind="a Rocket.Chat export",
            provider="rocketchat",
            account="",
            people=[item.person for item in people if item.person.person.id],
            conversations=list(rooms.values()),
            units=units,
            missing=[*(text for text, file in lists if file not in names), "files"],
            first_at=survey.first_at,
            last_at=survey.last_at,
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of some days of a room."""
        dump = self._dump
        if dump is None:
            raise RuntimeError("read the contents of a dump first")
        seen: set[str] = set()
        for record in dump.records.records(unit):
            try:
                found = _read(record, dump)
            except Malformed as error:
                excerpt = record.value[:_MAX_EXCERPT].decode("utf-8", "replace")
                yield Broken(f"{dump.name}, document {record.number}", str(error), excerpt)
                continue
            if isinstance(found, HistoryMessage):
                if found.message.external_id in seen:
                    found = Skipped("duplicate_record")
                else:
                    seen.add(found.message.external_id)
            yield found


@dataclass(frozen=True, slots=True)
class _Named:
    username: str
    person: HistoryPerson


def _is_dump(archive: Archive, name: str) -> bool:
    """Return whether a file begins with a message of Rocket.Chat."""
    with archive.open(name) as file:
        first = next(_documents(file), None)
    try:
        return first is not None and "rid" in _decoded(first)
    except Malformed:
        return False


def _documents(file: BinaryIO) -> Iterator[bytes]:
    """Yield the documents of a collection. What cannot be one, such as the rest after damage, is the last."""
    while head := file.read(4):
        length = int.from_bytes(head, "little")
        if len(head) < len(b"size") or not _SHORTEST <= length <= _MAX_DOCUMENT:
            yield head
            return
        document = head + file.read(length - len(head))
        yield document
        if len(document) < length:
            return


def _decoded(document: bytes) -> dict[str, Any]:
    """Return a document. Raises `Malformed`, also for one that is nested too deeply."""
    try:
        return decode(document, _OPTIONS)
    except (BSONError, ValueError, OverflowError, RecursionError) as error:
        raise Malformed(f"no document of MongoDB: {clean_line(str(error))[:200]}") from None


def _scan(archive: Archive, name: str) -> Iterator[Raw]:
    with archive.open(name) as file:
        for number, document in enumerate(_documents(file), 1):
            try:
                item = _decoded(document)
                conversation, at = _id(item.get("rid")), _time(item.get("ts"))
            except Malformed:
                conversation, at = "", None
            yield Raw(
                number, conversation or UNKNOWN.id, at if conversation else None, len(document), document
            )


def _listed(archive: Archive, name: str | None) -> Iterator[dict[str, Any]]:
    """Yield the documents of a list, in bounded number. One that cannot be read is left out."""
    if name is None:
        return
    with archive.open(name) as file:
        for number, document in enumerate(_documents(file)):
            if number == _MAX_LISTED:
                return
            try:
                yield _decoded(document)
            except Malformed:
                continue


def _read(record: Raw, dump: _Dump) -> HistoryRecord:
    """Read a message. Raises `Malformed`."""
    item = _decoded(record.value)
    kind = _text(item.get("t"))
    if record.conversation == UNKNOWN.id:
        raise Malformed("rid: missing: a message of Rocket.Chat has it")
    if kind == "rm" or item.get("_hidden") is True:
        return Skipped("deleted")
    message_id, author = _id(item.get("_id")), _author(item)
    if not message_id:
        raise Malformed("_id: missing: a message of Rocket.Chat has it")
    if record.at is None:
        raise Malformed("ts: missing, or not a time of this century")
    text = item.get("msg")
    return HistoryMessage(
        MessageWritten(
            external_id=message_id,
            place=Place(record.conversation, _id(item.get("tmid")) or None),
            author=author,
            body=_body(text if isinstance(text, str) else "", dump),
            sent_at=record.at,
        ),
        _kind(kind, item),
        _reactions(item.get("reactions"), dump),
        edited_at=_time(item.get("editedAt")),
        pinned=item.get("pinned") is True,
        lost_files=_files(item),
    )


def _author(item: Mapping[str, Any]) -> Person:
    """Return who wrote a message. Raises `Malformed`."""
    user = item.get("u")
    person = _id(user.get("_id")) if isinstance(user, dict) else ""
    if not person or not isinstance(user, dict):
        raise Malformed("u._id: missing: a message of Rocket.Chat has it")
    name = _text(item.get("alias")) or _text(user.get("name")) or _text(user.get("username"))
    return Person(person, name, bot=bool(item.get("bot")))


def _kind(kind: str, item: Mapping[str, Any]) -> MessageKind:
    if kind:
        return "system"
    return "bot" if item.get("bot") else "message"


def _body(text: str, dump: _Dump) -> Document:
    return with_word_mentions(parse_flavored_markdown(text, html=False, mass_mentions=True), dump.words)


def _reactions(value: Any, dump: _Dump) -> Sequence[HistoryReaction]:
    found: list[HistoryReaction] = []
    for name, item in list(value.items())[:_MAX_ITEMS] if isinstance(value, dict) else ():
        emoji = reaction_emoji(name.strip(":"))
        usernames = item.get("usernames") if isinstance(item, dict) else None
        people = [_text(one) for one in usernames] if isinstance(usernames, list) else []
        if emoji and any(people):
            found.append(
                HistoryReaction(emoji, tuple(dump.users.get(one.lower(), one) for one in people if one))
            )
    return tuple(found)


def _files(item: Mapping[str, Any]) -> Sequence[LostFile]:
    files = item.get("files")
    files = files if isinstance(files, list) else [item.get("file")]
    named = (file for file in files[:_MAX_ITEMS] if isinstance(file, dict))
    return tuple(LostFile(_text(file.get("name")) or "file", "file_not_found") for file in named)


def _person(item: Mapping[str, Any]) -> _Named:
    username = _text(item.get("username"))
    emails = item.get("emails")
    verified = (
        _text(one.get("address"))
        for one in (emails if isinstance(emails, list) else ())
        if isinstance(one, dict) and one.get("verified") is True
    )
    person = Person(
        _id(item.get("_id")),
        _text(item.get("name")) or username,
        email=next((address for address in verified if "@" in address), None),
        bot=item.get("type") == "bot",
    )
    return _Named(username, HistoryPerson(person, active=item.get("active") is not False))


def _room(item: Mapping[str, Any]) -> HistoryConversation:
    room, usernames = _id(item.get("_id")), item.get("usernames")
    names = [_text(one) for one in usernames[:_MAX_ITEMS]] if isinstance(usernames, list) else []
    kind = _KINDS.get(_text(item.get("t")), "group")
    return HistoryConversation(
        room,
        _text(item.get("fname")) or _text(item.get("name")) or ", ".join(names)[:200] or room,
        "group" if kind == "direct" and len(names) > _PAIR else kind,
        archived=item.get("archived") is True,
        created_at=_time(item.get("ts")) or 0.0,
        topic=_text(item.get("topic")),
        parent=_id(item.get("prid")) or None,
    )


def _character(name: str) -> str | None:
    found = reaction_emoji(name)
    return found if found and not found.startswith(":") else None


def _time(value: Any) -> float | None:
    return plausible_time(int(value) / 1000) if isinstance(value, DatetimeMS) else None


def _id(value: Any) -> str:
    return str(value) if isinstance(value, ObjectId) else _text(value)


def _text(value: Any) -> str:
    return clean_line(value[:200]).strip() if isinstance(value, str) else ""
