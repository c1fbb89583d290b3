"""Messages of any program as lines of JSON or as a table (CSV): a person says which column is what.

The reader proposes it by names and contents. A message without an id gets one of what stays the same in a
later export: time, author and text, and a number where all of these are equal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import MessageWritten, Person, Place
from shared.manifests.history_order import UNKNOWN, OrderedRecords, Raw, Survey
from shared.manifests.history_times import DateOrder, Zones
from shared.manifests.history_types import (
    NO_ANSWERS,
    Archive,
    Broken,
    Choice,
    Contents,
    HistoryConversation,
    HistoryMessage,
    HistoryPerson,
    HistoryRecord,
    Skipped,
    Unit,
    Unreadable,
)
from shared.providers.generic.columns import (
    FIRST_YEAR,
    TimeReader,
    add_date,
    column_choices,
    format_choice,
    is_name,
    needs_zone,
)
from shared.providers.generic.tables import Row, Table, find_table, rows
from shared.richtext.build import clean, clean_line
from shared.richtext.plain import parse_plain

_SAMPLE: Final = 500
_MAX_PEOPLE: Final = 100_000
_MAX_CONVERSATIONS: Final = 100_000
_MAX_ID: Final = 100
_MAX_NAME: Final = 200
_NOBODY: Final = Person("unknown", "Unknown author")


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of a record that are imported, as they are in the file."""

    time: str
    text: str
    author: str
    thread: str
    id: str


@dataclass(frozen=True, slots=True)
class _Mapping:
    """Which columns are read, and how the times are."""

    columns: Mapping[str, str]
    times: TimeReader
    name: str


class ArchiveReader:
    """Reads lines of JSON and tables."""

    KIND = "any table of messages (CSV or JSONL)"

    def __init__(self) -> None:
        self._zones = Zones()
        self._table: Table | None = None
        self._records = OrderedRecords(tuple, ())

    def contents(self, archive: Archive, answers: Mapping[str, str] = NO_ANSWERS) -> Contents | None:
        """Return what a table has; None if it has no column of times."""
        table = find_table(archive, is_name)
        if table is None:
            return None
        sample = [_beginnings(row) for row in islice(rows(archive, table), _SAMPLE) if not row.error]
        chosen = column_choices(table.columns, sample, answers)
        if chosen["time"].answer is None:
            return None
        choices = list(chosen.values())
        mapping = self._mapping(archive, table, sample, chosen, choices, answers)
        self._table = table
        survey, people, conversations = Survey(), dict[str, None](), set[str]()
        units: Sequence[Unit] = ()

        def scan() -> Iterator[Raw]:
            return _scan(archive, table, mapping) if mapping else iter(())

        for record in scan():
            survey.add(record)
            if isinstance(record.value, _Cells) and record.value.author and len(people) < _MAX_PEOPLE:
                people[record.value.author] = None
            conversations.add(record.conversation)
            if len(conversations) > _MAX_CONVERSATIONS:
                raise Unreadable(f"it has more than {_MAX_CONVERSATIONS:,} channels: choose another column")
        units = list(survey.units())
        self._records = OrderedRecords(scan, units)
        others = len(archive.entries()) - 1
        return Contents(
            kind=f"a {table.kind} export",
            provider="generic",
            account="",
            people=[HistoryPerson(Person(_bounded(name), _shown(name))) for name in people],
            conversations=[_conversation(name) for name in survey.conversations],
            units=units,
            notes=(f"{others} other files of the archive are not read",) if others else (),
            choices=choices,
            first_at=survey.first_at,
            last_at=survey.last_at,
        )

    def read(self, archive: Archive, contents: Contents, unit: Unit) -> Iterator[HistoryRecord]:
        """Yield the messages of some days of a channel."""
        table = self._table
        if table is None:
            raise RuntimeError("read the contents of a table first")
        counts: dict[str, int] = {}
        for record in self._records.records(unit):
            try:
                yield _read(record, unit.conversation, counts)
            except Malformed as error:
                value = record.value
                text = value.text if isinstance(value, Row) else f"{value.time} {value.author} {value.text}"
                yield Broken(f"{table.entry}, line {record.number}", str(error), text[:500])

    def _mapping(
        self,
        archive: Archive,
        table: Table,
        sample: Sequence[Mapping[str, str]],
        chosen: Mapping[str, Choice],
        choices: list[Choice],
        answers: Mapping[str, str],
    ) -> _Mapping | None:
        """Return how a table is read; None if it is not answered. Questions on times go to `choices`."""
        columns = {role: item.answer or "" for role, item in chosen.items()}
        values = [row.get(columns["time"], "") for row in sample]
        form = format_choice(values, answers)
        choices.append(form)
        order: str | None = "ymd"
        if form.answer == "date":
            dates = DateOrder(FIRST_YEAR)
            for row in rows(archive, table):
                add_date(dates, row.values.get(columns["time"], ""))
            order, asked = dates.resolve(answers)
            choices += asked
        zone = ""
        if needs_zone(values, form.answer):
            choices.append(self._zones.choice(answers))
            zone = choices[-1].answer or ""
        if order is None or form.answer is None or not columns["text"]:
            return None
        name = clean_line(table.entry.rpartition("/")[2].rpartition(".")[0])[:_MAX_NAME] or "messages"
        return _Mapping(columns, TimeReader(form.answer, order, zone or "UTC", self._zones), name)


def _beginnings(row: Row) -> Mapping[str, str]:
    return {column: value[:_MAX_NAME] for column, value in row.values.items()}


def _scan(archive: Archive, table: Table, mapping: _Mapping) -> Iterator[Raw]:
    columns = mapping.columns
    for row in rows(archive, table):
        if row.error:
            yield Raw(row.number, UNKNOWN.id, None, row.size, row)
            continue
        get = row.values.get
        conversation = get(columns["conversation"], "").strip() if columns["conversation"] else mapping.name
        cells = _Cells(
            *(get(columns[role], "") if columns[role] else "" for role in ("time", "text", "author")),
            *(get(columns[role], "").strip() if columns[role] else "" for role in ("thread", "id")),
        )
        at = mapping.times.unix(cells.time) if conversation else None
        yield Raw(row.number, _bounded(conversation) or UNKNOWN.id, at, row.size, cells)


def _read(record: Raw, conversation: str, counts: dict[str, int]) -> HistoryRecord:
    """Read a record. `counts` has how often each id was there in the unit. Raises `Malformed`."""
    cells = record.value
    if isinstance(cells, Row):
        raise Malformed(cells.error)
    if conversation == UNKNOWN.id:
        raise Malformed("its channel is empty")
    if record.at is None:
        raise Malformed(f"{cells.time[:80]!r} is no time of this format, or of no plausible year")
    external_id = _bounded(cells.id)
    if not external_id:
        key = "\0".join((cells.time.strip(), cells.author, cells.text)).encode("utf-8", "replace")
        external_id = blake2b(key, digest_size=12).hexdigest()
    counts[external_id] = counts.get(external_id, 0) + 1
    if counts[external_id] > 1:
        if cells.id:
            return Skipped("duplicate_record")
        external_id = f"{external_id}-{counts[external_id]}"
    thread = _bounded(cells.thread)
    return HistoryMessage(
        MessageWritten(
            external_id=external_id,
            place=Place(conversation, thread if thread and thread != external_id else None),
            author=Person(_bounded(cells.author), _shown(cells.author)) if cells.author.strip() else _NOBODY,
            body=parse_plain(cells.text),
            sent_at=record.at,
        )
    )


def _conversation(conversation: str) -> HistoryConversation:
    return UNKNOWN if conversation == UNKNOWN.id else HistoryConversation(conversation, conversation)


def _bounded(text: str) -> str:
    """Return a text as an id: a long one ends with its digest."""
    if text.isascii() and len(text) <= _MAX_ID and text.isprintable():
        return text.strip()
    line = clean_line(text).strip()
    if len(line) <= _MAX_ID:
        return line
    return f"{line[:60]}-{blake2b(clean(text).encode(), digest_size=12).hexdigest()}"


def _shown(name: str) -> str:
    return clean_line(name)[:_MAX_NAME].strip()
