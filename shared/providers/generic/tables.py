"""Records of any program: lines of JSON objects, or a table (CSV) with any delimiter, quotes and encoding.

Reading is a stream: a line, a cell or a record that is too long is one broken record.
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import islice
from typing import Any, BinaryIO, Final, cast

from shared.contracts.errors import Malformed
from shared.manifests.history_lines import MAX_LINE, json_line, lines
from shared.manifests.history_types import Archive, beginning_of

MAX_COLUMNS: Final = 100
_MAX_NAME: Final = 200
_MAX_PATH: Final = 3
"""Levels of objects in a record whose values can be columns: `user.profile.name`."""
_MAX_RECORD: Final = 1024 * 1024
"""The longest record of a table in characters."""
_BEGINNING: Final = 64 * 1024
_MAX_CANDIDATES: Final = 50
_MAX_DEPTH: Final = 1
_SAMPLE: Final = 300
_MIN_EQUAL: Final = 0.8
"""The share of records of a table that have the same number of cells."""
_DELIMITERS: Final = ",;\t|"
_ESCAPED_QUOTE: Final = re.compile(r'\\"(?![,;\t|\r\n]|\Z)')
"""A quote behind a backslash that does not end a cell: the table does not double quotes."""
_BOMS: Final = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a table. `has_header` says that its first record names the columns."""

    delimiter: str
    quote: str
    has_escapes: bool
    has_header: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The records of a file. `form` is None for lines of JSON. `columns` are their names, all different."""

    entry: str
    encoding: str
    columns: Sequence[str]
    form: Form | None = None

    @property
    def kind(self) -> str:
        """The name of the file's format."""
        return "JSONL" if self.form is None else "CSV"


@dataclass(frozen=True, slots=True)
class Row:
    """A record: the number of its line, its size in bytes, and its values by column; else what is wrong."""

    number: int
    size: int
    values: Mapping[str, str]
    error: str = ""
    text: str = ""


def find_table(archive: Archive, is_header_cell: Any) -> Table | None:
    """Return the first file of an archive that has records; None without one.

    `is_header_cell` tells whether a cell of the first record can be the name of a column.
    """
    near = (entry.name for entry in archive.entries() if entry.name.count("/") <= _MAX_DEPTH)
    for name in islice(near, _MAX_CANDIDATES):
        beginning = beginning_of(archive, name, _BEGINNING)
        encoding = _encoding(beginning)
        if encoding is None or not beginning.strip():
            continue
        text = _text_of(beginning, encoding).lstrip("\ufeff")
        if text.lstrip()[:1] in {"{", "["}:
            table = _json_table(archive, name, encoding)
        else:
            table = _csv_table(name, encoding, text, is_header_cell, is_whole=len(beginning) < _BEGINNING)
        if table is not None:
            return table
    return None


def rows(archive: Archive, table: Table) -> Iterator[Row]:
    """Yield the records of a table in their order."""
    with archive.open(table.entry) as file:
        source = cast("BinaryIO", _Utf16(file, table.encoding)) if table.encoding != "utf-8" else file
        yield from _json_rows(source, table) if table.form is None else _csv_rows(source, table, table.form)


class _Utf16:
    """A file in UTF-16 as one in UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int) -> bytes:
        while data := self._file.read(size):
            if text := self._decoder.decode(data):
                return text.encode("utf-8", "replace")
        return self._decoder.decode(b"", final=True).encode("utf-8", "replace")


def _encoding(beginning: bytes) -> str | None:
    """Return the encoding of a text; None for what is no text. `utf-8` may have lines in Windows-1252."""
    for bom, encoding in _BOMS:
        if beginning.startswith(bom):
            return encoding
    zeros = beginning[:1000].count(0)
    if not zeros:
        return "utf-8"
    sample = beginning[:1000]
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if sample[offset::2].count(0) * 4 > len(sample) and not sample[1 - offset :: 2].count(0):
            return encoding
    return None


def _text_of(beginning: bytes, encoding: str) -> str:
    if encoding != "utf-8":
        return beginning.decode(encoding, "replace")
    return "\n".join(map(_decoded, beginning.split(b"\n")))


def _decoded(line: bytes) -> str:
    """Decode a line. What is no UTF-8 is Windows-1252, as older programs of Windows write it."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


# Lines of JSON


def _json_table(archive: Archive, name: str, encoding: str) -> Table | None:
    columns: dict[str, None] = {}
    with archive.open(name) as file:
        beginning = BytesIO(file.read(MAX_LINE))
        source = cast("BinaryIO", _Utf16(beginning, encoding)) if encoding != "utf-8" else beginning
        for number, value in enumerate(islice(_json_values(source), _SAMPLE)):
            if isinstance(value[2], dict):
                columns |= dict.fromkeys(islice(_paths(value[2]), MAX_COLUMNS))
            elif not number:
                return None
    return Table(name, encoding, list(columns)[:MAX_COLUMNS]) if columns else None


def _json_values(file: BinaryIO) -> Iterator[tuple[int, bytes | None, Any]]:
    """Yield the number, the bytes and the value of each line; a `Malformed` as the value of a broken one."""
    for number, line in enumerate(lines(file), 1):
        if line is not None and not line.strip():
            continue
        try:
            value = json_line(line.removeprefix(codecs.BOM_UTF8) if line and number == 1 else line)
        except Malformed as error:
            value = error
        yield number, line, value


def _json_rows(file: BinaryIO, table: Table) -> Iterator[Row]:
    for number, line, value in _json_values(file):
        size = len(line or b"")
        if isinstance(value, dict):
            yield Row(number, size, {column: _value_at(value, column) for column in table.columns})
        else:
            error = str(value) if isinstance(value, Malformed) else "not an object: a record is one"
            yield Row(number, size, {}, error, (line or b"")[:500].decode("utf-8", "replace"))


def _paths(value: Mapping[str, Any], prefix: str = "", level: int = 1) -> Iterator[str]:
    """Yield the columns of a record: its keys, and those of objects in it."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if len(path) > _MAX_NAME:
            continue
        if isinstance(item, dict) and level < _MAX_PATH:
            yield from _paths(item, f"{path}.", level + 1)
        elif isinstance(item, str | int | float) and not isinstance(item, bool):
            yield path


def _value_at(value: Mapping[str, Any], path: str) -> str:
    """Return the text of a column's value; '' without one."""
    item: Any = value.get(path)
    if item is None and "." in path:
        item = value
        for key in path.split("."):
            item = item.get(key) if isinstance(item, dict) else None
    return str(item) if isinstance(item, str | int | float) and not isinstance(item, bool) else ""


# Tables


def _csv_table(name: str, encoding: str, text: str, is_header_cell: Any, *, is_whole: bool) -> Table | None:
    """Return the table that a file begins with; None if its lines have no equal number of cells."""
    sample = text if is_whole else text[: text.rfind("\n") + 1]
    best: tuple[float, int, str, str, Sequence[Sequence[str]]] = (0.0, 0, "", "", ())
    has_escapes = '""' not in sample and _ESCAPED_QUOTE.search(sample) is not None
    for delimiter in _DELIMITERS:
        for quote in "\"'":
            found = _sample_rows(sample, Form(delimiter, quote, has_escapes, has_header=True))
            width, count = Counter(map(len, found)).most_common(1)[0] if found else (0, 0)
            score = (count / len(found) if found else 0.0, width, delimiter, quote, found)
            if width > 1 and score[:2] > best[:2]:
                best = score
    share, width, delimiter, quote, found = best
    if share < _MIN_EQUAL or not 1 < width <= MAX_COLUMNS:
        return None
    first = [cell.strip()[:_MAX_NAME] for cell in found[0]]
    has_header = len(first) == width and len(set(first)) == width and all(map(is_header_cell, first))
    columns = first if has_header else [f"column {number}" for number in range(1, width + 1)]
    return Table(name, encoding, columns, Form(delimiter, quote, has_escapes, has_header))


def _sample_rows(text: str, form: Form) -> Sequence[Sequence[str]]:
    try:
        return [row for row in islice(_csv_reader(StringIO(text, newline=""), form), _SAMPLE) if row]
    except csv.Error:
        return ()


def _csv_reader(source: Any, form: Form) -> Any:
    return csv.reader(
        source,
        delimiter=form.delimiter,
        quotechar=form.quote,
        escapechar="\\" if form.has_escapes else None,
        doublequote=not form.has_escapes,
    )


class _TooLong(Exception):
    """A record of a table, or a line of it, is too long."""


class _Feed:
    """Gives the lines of a table to the parser, as long as its record is not too long."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = lines(file, _MAX_RECORD)
        self.number = 0
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if line is not None:
            self.size += len(line) + 1
        if line is None or self.size > _MAX_RECORD:
            raise _TooLong
        text = _decoded(line)
        return f"{text.removeprefix(chr(0xFEFF)) if self.number == 1 else text}\n"


def _csv_rows(file: BinaryIO, table: Table, form: Form) -> Iterator[Row]:
    csv.field_size_limit(2 * _MAX_RECORD)
    feed = _Feed(file)
    parser = _csv_reader(feed, form)
    is_first = form.has_header
    while True:
        start, feed.size = feed.number + 1, 0
        try:
            cells = next(parser)
        except StopIteration:
            return
        except (_TooLong, csv.Error) as error:
            reason = "it is too long" if isinstance(error, _TooLong) else str(error)
            yield Row(start, feed.size, {}, f"no record of a table: {reason}")
            parser = _csv_reader(feed, form)
            continue
        if not any(cells):
            continue
        if is_first:
            is_first = False
        elif len(cells) > len(table.columns):
            error_text = f"it has {len(cells)} cells, and the table has {len(table.columns)} columns"
            yield Row(start, feed.size, {}, error_text, form.delimiter.join(cells[:20])[:500])
        else:
            yield Row(start, feed.size, dict(zip(table.columns, cells, strict=False)))
