"""Exports of Discord by DiscordChatExporter in JSON: a file for each channel, thread, or part of one.

Connected servers are read in `history_pages.py`.

Public threads, and posts of a forum, are threads in their channel's conversation. A private thread is a
conversation of its own, because only some members of its channel see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import Person
from shared.manifests.history_types import (
    NO_ANSWERS,
    Archive,
    Broken,
    Choice,
    Contents,
    ConversationKind,
    HistoryConversation,
    HistoryPerson,
    HistoryRecord,
    Option,
    Skipped,
    Unit,
    Unreadable,
    choice,
)
from shared.providers.discord.dialect import parse
from shared.providers.discord.export_files import (
    UNIT_RECORDS,
    ExportFile,
    RecordReader,
    find_files,
    mark_duplicates,
)
from shared.providers.discord.export_form import ExportContext, api_message, api_user
from shared.providers.discord.history_pages import PageReader
from shared.providers.discord.messages import (
    MAX_REACTIONS,
    MAX_USERS,
    Names,
    Source,
    is_file_address,
    objects,
    parse_message,
    person_of,
    snowflake_time,
    time_of,
)

__all__ = ["ArchiveReader", "PageReader"]

_DIRECT: Final[Mapping[str, ConversationKind]] = {"DirectTextChat": "direct", "DirectGroupTextChat": "group"}
_PUBLIC_THREADS: Final = frozenset({"GuildPublicThread", "GuildNewsThread"})
_PRIVATE_THREAD: Final = "GuildPrivateThread"
_VISIBILITY: Final = "visibility"
_OPTIONS: Final = (
    Option("private", "only its members see a channel, until somebody opens it"),
    Option("channel", "everybody sees every channel"),
)
_MAX_PEOPLE: Final = 100_000
_MAX_MEMBERS: Final = 1_000
_MAX_NAMED: Final = 5
_MAX_EXCERPT: Final = 500


@dataclass(slots=True)
class _Survey:
    """The facts that the records of all files give together."""

    people: dict[str, HistoryPerson] = field(default_factory=dict)
    members: dict[str, dict[str, None]] = field(default_factory=dict)
    """Authors of direct messages, by the channel."""
    attached: set[str] = field(default_factory=set)
    """Entries of the archive that were attached to messages, as far as their names are those of exports."""
    unattributed: int = 0
    """Reactions of which only the number is known."""
    addresses: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def add(self, record: Any, file: ExportFile) -> None:
        """Note a record."""
        if not isinstance(record, dict):
            return
        author = self._person(record.get("author"))
        if author and file.type in _DIRECT:
            members = self.members.setdefault(file.channel, {})
            if len(members) < _MAX_MEMBERS:
                members[author.id] = None
        for user in objects(record.get("mentions"), MAX_REACTIONS):
            self._person(user)
        for reaction in objects(record.get("reactions"), MAX_REACTIONS):
            users = [self._person(user) for user in objects(reaction.get("users"), MAX_USERS)]
            count = reaction.get("count")
            self.unattributed += max(0, count - len(users)) if isinstance(count, int) else 0
        for attachment in objects(record.get("attachments"), MAX_REACTIONS):
            url = attachment.get("url")
            if isinstance(url, str) and is_file_address(url):
                self.addresses += 1
            elif isinstance(url, str) and url.lower().endswith(".json"):
                self.attached.add(_path(url, file.folder))
        if (at := time_of(record.get("timestamp"))) is not None:
            self.first_at = min(self.first_at or at, at)
            self.last_at = max(self.last_at, at)

    def _person(self, user: Any) -> Person | None:
        try:
            person = person_of(api_user(user), {})
        except Malformed:
            return None
        if person.id not in self.people and len(self.people) < _MAX_PEOPLE:
            self.people[person.id] = HistoryPerson(person)
        return person


@dataclass(slots=True)
class _Export:
    """State that reading the units of an export needs."""

    files: Mapping[str, ExportFile]
    names: Names
    channels: Mapping[str, str]
    entries: frozenset[str]
    records: RecordReader


class ArchiveReader:
    """Reads exports of DiscordChatExporter: one file, or a ZIP of several, with or without their media."""

    KIND = "Discord (JSON of DiscordChatExporter, or a ZIP of several)"

    def __init__(self) -> None:
        parse("> - *a*")  # loads the parser of blocks
        self._export: _Export | None = None

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what an export has; None if it is none of DiscordChatExporter."""
        if self._export is not None:
            self._export.records.close()
            self._export = None
        files = list(find_files(archive))
        if not files:
            return None
        records, survey = RecordReader(archive), _Survey()
        for file in files:
            _read_through(records, file, survey)
        # What was attached to a message is no export of a channel, whatever it contains.
        files = [file for file in files if file.name not in survey.attached]
        mark_duplicates(files)
        choices = _choices(files, answers)
        conversations = _conversations(files, survey, choices)
        self._export = _Export(
            {file.name: file for file in files},
            Names(
                {key: item.person.name for key, item in survey.people.items()},
                channels={file.channel: file.text("channel.name") for file in files},
            ),
            _channel_ids(files),
            frozenset(entry.name for entry in archive.entries()),
            records,
        )
        has_direct = any(file.type in _DIRECT for file in files)
        absent = (("direct messages", has_direct), ("files", not survey.addresses))
        return Contents(
            kind="a Discord export",
            provider="discord",
            # Ids of Discord are unique without the server, and a bot's account is in several of them.
            account="",
            people=list(survey.people.values()),
            conversations=conversations,
            units=_units(files),
            missing=[text for text, is_there in absent if not is_there],
            notes=_notes(files, survey),
            choices=choices,
            first_at=survey.first_at,
            last_at=survey.last_at,
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of a range of a file, in the order of time."""
        export = self._export
        if export is None:
            raise RuntimeError("read the contents of an export first")
        name, start, count = unit.id.rsplit("#", 2)
        file = export.files[name]
        context = ExportContext(lambda path: _entry_of(path, file.folder, export.entries), export.channels)
        source = _source(file)
        for number, record in enumerate(_in_order(export.records, file, int(start), int(count)), int(start)):
            if isinstance(record, dict) and file.duplicates and _number(record) in file.duplicates:
                yield Skipped("duplicate_record")
                continue
            try:
                yield parse_message(api_message(record, context), source, export.names)
            except Malformed as error:
                yield Broken(f"{name}, message {number + 1}", str(error), _excerpt(record))
        if file.damage and int(start) + int(count) >= file.records:
            raise Unreadable(file.damage)


def _read_through(records: RecordReader, file: ExportFile, survey: _Survey) -> None:
    try:
        for record in records.records(file):
            file.add(record)
            survey.add(record, file)
    except Unreadable as error:
        file.damage = str(error)


def _choices(files: Sequence[ExportFile], answers: Mapping[str, str]) -> Sequence[Choice]:
    """Return the question of who may see the channels: an export does not have their permissions."""
    if all(file.type in _DIRECT for file in files):
        return ()
    text = "Who sees the imported channels? The export does not say which of them were open to everybody."
    return (choice(_VISIBILITY, text, _OPTIONS, answers, proposed="private"),)


def _conversations(
    files: Sequence[ExportFile], survey: _Survey, choices: Sequence[Choice]
) -> list[HistoryConversation]:
    """Return the channels, and the private threads. Of a channel, its threads may be all there is."""
    open_kind: ConversationKind = (
        "channel" if any(item.answer == "channel" for item in choices) else "private"
    )
    guilds = {file.guild for file in files if file.guild}
    found: dict[str, HistoryConversation] = {}
    for file in sorted(files, key=lambda file: _source(file).thread is not None):
        source = _source(file)
        if source.conversation in found:
            continue
        is_thread = source.thread is not None
        direct = _DIRECT.get(file.type)
        is_private_thread = file.type == _PRIVATE_THREAD
        name = file.text("channel.category" if is_thread else "channel.name")
        category = "" if is_thread or is_private_thread or direct else file.text("channel.category")
        guild = file.text("guild.name") if len(guilds) > 1 and file.guild else ""
        found[source.conversation] = HistoryConversation(
            source.conversation,
            name or source.conversation,
            direct or ("private" if is_private_thread else open_kind),
            created_at=snowflake_time(source.conversation),
            topic="" if is_thread else file.text("channel.topic", 1000),
            members=tuple(survey.members.get(file.channel, ())),
            parent=file.category or None if is_private_thread else None,
            category=": ".join(filter(None, (guild, category))),
        )
    return list(found.values())


def _source(file: ExportFile) -> Source:
    if file.type in _PUBLIC_THREADS and file.category:
        title = file.text("channel.name")
        return Source(file.guild, file.channel, file.category, file.channel, title)
    return Source(file.guild, file.channel, file.channel)


def _units(files: Sequence[ExportFile]) -> list[Unit]:
    """Return the units: ranges of files. A thread is behind the message of its channel that it began with.

    The ranges of one file stay in the file's order, in which it is read fastest.
    """
    ordered: list[tuple[str, float, str, int, Unit]] = []
    for file in files:
        conversation = _source(file).conversation
        known = [at for at in file.firsts if at]
        at = known[0] if known else 0.0
        is_reversed = bool(known) and known[-1] < at
        at = min(known, default=0.0)
        starts = range(0, file.records, UNIT_RECORDS) or ((0,) if file.damage else ())
        for number, start in enumerate(starts):
            count = min(UNIT_RECORDS, file.records - start)
            size = file.size * count // max(file.records, 1)
            if not is_reversed and number < len(file.firsts):
                at = max(at, file.firsts[number])
            unit = Unit(f"{file.name}#{start}#{count}", conversation, size)
            ordered.append((conversation, at, file.name, start, unit))
    return [unit for *_, unit in sorted(ordered, key=lambda item: item[:4])]


def _in_order(records: RecordReader, file: ExportFile, start: int, count: int) -> list[Any]:
    """Return a range of records in the order of time, which an export can have reversed."""
    found = list(records.records(file, start, count))
    return found if _is_ordered(found) else sorted(found, key=_number)


def _is_ordered(records: Sequence[Any]) -> bool:
    last = 0
    for record in records:
        number = _number(record)
        if number and number < last:
            return False
        last = number or last
    return True


def _number(record: Any) -> int:
    id_ = record.get("id") if isinstance(record, dict) else None
    return int(id_) if isinstance(id_, str) and id_.isascii() and id_.isdecimal() and len(id_) <= 20 else 0


def _channel_ids(files: Sequence[ExportFile]) -> Mapping[str, str]:
    """Return channels and threads by their names, without names that two of them have."""
    found: dict[str, str] = {}
    for file in files:
        if file.guild and (name := file.text("channel.name")):
            found[name] = file.channel if found.get(name, file.channel) == file.channel else ""
    return {name: channel for name, channel in found.items() if channel}


def _entry_of(path: str, folder: str, entries: frozenset[str]) -> str | None:
    """Return the entry of a path that is relative to its export; None for an address, and a missing one."""
    if path.startswith(("http://", "https://")):
        return None
    entry = _path(path, folder)
    return entry if entry in entries else None


def _path(path: str, folder: str) -> str:
    path = path.replace("\\", "/")
    return f"{folder}/{path}" if folder else path


def _notes(files: Sequence[ExportFile], survey: _Survey) -> Sequence[str]:
    notes = []
    if survey.unattributed:
        notes.append(
            f"{survey.unattributed:,} reactions are there as numbers only: the export does not say who set "
            "them, and they are not imported"
        )
    if survey.addresses:
        notes.append(
            f"{survey.addresses:,} files are there as addresses, which Discord serves for a day: export with "
            "their media to import them later"
        )
    if limited := [file for file in files if file.head.keys() & {"dateRange.after", "dateRange.before"}]:
        notes.append(f"{len(limited)} files were exported for a limited time only")
    if damaged := [file.name for file in files if file.damage]:
        names = ", ".join(damaged[:_MAX_NAMED])
        notes.append(f"{len(damaged)} files are damaged ({names}): what is before the damage is imported")
    return notes


def _excerpt(record: Any) -> str:
    try:
        return str(record)[:_MAX_EXCERPT]
    except RecursionError:
        return ""
