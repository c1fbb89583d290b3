"""Messages of any program as JSONL and CSV: columns, times, dialects, encodings, broken records."""

import csv
import json
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO, StringIO
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from shared.manifests.history_types import (
    NO_ANSWERS,
    Archive,
    Broken,
    Contents,
    HistoryMessage,
    HistoryRecord,
    Skipped,
    Unreadable,
)
from shared.providers.generic.history import ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import zipped
from tests.importer.test_history_lines import GIGABYTE, LongLine

EVENING: Final = datetime(2024, 12, 31, 23, 59, tzinfo=UTC).timestamp()
NAME: Final = "support.csv"
HEADER: Final = "time,channel,user,text,id\n"


def single(content: str | bytes) -> FileArchive:
    return FileArchive(BytesIO(content.encode() if isinstance(content, str) else content), NAME)


def read(
    content: Archive | str | bytes, answers: Mapping[str, str] = NO_ANSWERS
) -> tuple[Contents, list[HistoryRecord]]:
    archive = single(content) if isinstance(content, str | bytes) else content
    reader = ArchiveReader()
    contents = reader.contents(archive, answers)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def messages(content: Archive | str | bytes, answers: Mapping[str, str] = NO_ANSWERS) -> list[HistoryMessage]:
    return [record for record in read(content, answers)[1] if isinstance(record, HistoryMessage)]


def text(record: HistoryMessage) -> str:
    return render_plain(record.message.body).text


def answers_of(contents: Contents) -> dict[str, str | None]:
    return {choice.id.removesuffix("_column"): choice.answer for choice in contents.choices}


def jsonl(*records: Any) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (
            ("id", "created_at", "author", "channel", "body", "parent_id"),
            ("id", "created_at", "author", "channel", "body", "parent_id"),
        ),
        (("Text", "Timestamp", "From"), (None, "Timestamp", "From", None, "Text", None)),
        (("note", "when", "hue"), (None, "when", None, None, "note", None)),
    ],
)
def test_columns_are_proposed_by_their_names(columns: tuple[str, ...], roles: tuple[str | None, ...]) -> None:
    times = {"created_at", "Timestamp", "when"}
    cells = ["2024-12-31T23:59:00Z" if name in times else f"a long {name}" for name in columns]
    contents, _ = read(f"{','.join(columns)}\n{','.join(cells)}\n")
    found = answers_of(contents)
    names = ("id", "time", "author", "conversation", "text", "thread")
    assert tuple(found[name] or None for name in names) == roles


def test_a_person_changes_the_columns() -> None:
    content = "date,message,subject,who\n2024-12-31T23:59:00Z,the message,the subject,Ada\n"
    [found] = messages(content)
    assert (text(found), found.message.author.id) == ("the message", "unknown")
    answers = {"text_column": "subject", "author_column": "who", "conversation_column": "message"}
    [found] = messages(content, answers)
    assert (text(found), found.message.author.id) == ("the subject", "Ada")
    assert found.message.place.conversation == "the message"
    with pytest.raises(Unreadable, match="text_column: 'nothing' is no answer"):
        read(content, {"text_column": "nothing"})


@pytest.mark.parametrize(
    ("time", "form"),
    [
        ("2024-12-31T23:59:00Z", "iso"),
        ("2024-12-31T23:59:00+00:00", "iso"),
        ("2025-01-01T01:59:00.000+0200", "iso"),
        ("2024-12-31 23:59:00 UTC", "iso"),
        ("2024-12-31 23:59:00", "iso"),
        ("1735689540", "seconds"),
        ("1735689540.000", "seconds"),
        ("1735689540000", "milliseconds"),
        ("31/12/2024 23:59", "date"),
        ("12/31/2024 11:59 PM", "date"),
        ("31.12.24 23:59:00", "date"),
    ],
)
def test_formats_of_times_are_recognized(time: str, form: str) -> None:
    for content in (f"{HEADER}{time},c,Ada,hi,1\n", jsonl({"time": time, "text": "hi"})):
        contents, [record] = read(content)
        assert isinstance(record, HistoryMessage)
        assert record.message.sent_at == EVENING
        assert answers_of(contents)["time_format"] == form
        is_local = form == "date" or time == "2024-12-31 23:59:00"
        assert ("time_zone" in answers_of(contents)) == is_local
        assert contents.first_at == contents.last_at == EVENING


def test_times_are_numbers_in_json_too() -> None:
    assert [item.message.sent_at for item in messages(jsonl({"ts": 1735689540, "text": "a"}))] == [EVENING]
    assert [item.message.sent_at for item in messages(jsonl({"ts": 1735689540000, "text": "a"}))] == [EVENING]


def test_an_order_that_the_dates_do_not_determine_is_asked() -> None:
    content = f"{HEADER}03/04/2024 10:00,c,Ada,hi,1\n"
    contents, records = read(content)
    assert (answers_of(contents)["date_order"], len(contents.units), records) == (None, 0, [])
    [found] = messages(content, {"date_order": "mdy", "time_zone": "Europe/Berlin"})
    assert found.message.sent_at == datetime(2024, 3, 4, 9, tzinfo=UTC).timestamp()


_CELL: Final = st.text(st.sampled_from("ab ,;\t|\"'\n\\é€"), max_size=12)


@given(
    st.lists(st.tuples(_CELL, _CELL), min_size=2, max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_tables_of_every_dialect_are_read_as_their_writer_wrote_them(
    parts: list[tuple[str, str]], delimiter: str, encoding: str, line_end: str
) -> None:
    out = StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerow(("time", "user", "text"))
    for number, (author, body) in enumerate(parts):
        writer.writerow((str(1735689540 + number), f"x{author}", f"y{body}"))
    found = messages(out.getvalue().encode(encoding))
    assert [item.message.sent_at for item in found] == [EVENING + number for number in range(len(parts))]
    # An author is a line, and a text has no blanks at its end; what is written within a cell is the same.
    assert [item.message.author.id for item in found] == [
        " ".join(f"x{author}".split("\n")).strip() for author, _ in parts
    ]
    visible = [text(item).replace("\n", "").replace(" ", "").replace("\t", "") for item in found]
    assert visible == [f"y{body}".replace("\n", "").replace(" ", "").replace("\t", "") for _, body in parts]


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "user", "id", "x"]), st.text(max_size=9)), max_size=9)
)
def test_lines_of_json_are_counted_as_a_reading_of_the_tests_own(parts: list[dict[str, str]]) -> None:
    records = [{"ts": 1735689540 + number, "text": "", **part} for number, part in enumerate(parts)]
    content = jsonl({"ts": 1735689500, "text": "first", "id": "first", "user": "x"}, *records)
    ids = [record["id"].strip() for record in map(json.loads, content.splitlines()) if "id" in record]
    _, found = read(content)
    skipped = sum(isinstance(record, Skipped) for record in found)
    assert len(found) == len(records) + 1
    assert skipped <= len(ids) - len(set(ids))
    times = {item.message.sent_at for item in found if isinstance(item, HistoryMessage)}
    assert len(times) == len(records) + 1 - skipped


def test_values_in_objects_are_columns_too() -> None:
    record = {"at": "2024-12-31T23:59:00Z", "user": {"name": "Ada", "id": 7}, "message": {"text": "hi"}}
    contents, [found] = read(jsonl(record, record | {"user": None}))[0], messages(jsonl(record))
    assert (found.message.author.id, text(found)) == ("Ada", "hi")
    options = {option.value for option in contents.choices[0].options}
    assert options == {"at", "user.name", "user.id", "message.text"}


def test_a_longer_export_has_the_same_ids_and_equal_messages_differ() -> None:
    rows = "time,user,text\n" + "1735689540,Ada,ok\n" * 3
    ids = [item.message.external_id for item in messages(rows)]
    longer = [item.message.external_id for item in messages(f"{rows}1735689540,Ada,ok\n1735689541,Ada,ok\n")]
    assert (longer[:3], len(set(longer))) == (ids, 5)


def test_threads_and_ids_are_those_of_the_export() -> None:
    content = "id,ts,text,thread_id\n1,1735689540,a,\n2,1735689541,b,1\n3,1735689542,c,3\n4,1735689543,d,99\n"
    found = [(item.message.external_id, item.message.place.thread) for item in messages(content)]
    assert found == [("1", None), ("2", "1"), ("3", None), ("4", "99")]
    assert read(content.replace("\n2,", "\n1,"))[1][1] == Skipped("duplicate_record")


def test_each_channel_is_a_conversation_in_the_order_of_time() -> None:
    content = f"{HEADER}1735689541,b,Ada,second,2\n1735689540,b,Ada,first,1\n1735689540,a,Ada,other,3\n"
    contents, records = read(content)
    assert [item.id for item in contents.conversations] == ["b", "a"]
    assert [text(item) for item in records if isinstance(item, HistoryMessage)] == [
        "first",
        "second",
        "other",
    ]
    assert [item.person.id for item in contents.people] == ["Ada"]


@pytest.mark.parametrize(
    "line",
    [
        "not a time,c,Ada,x,9",
        "1735689540,c",
        "1735689540,,Ada,x,9",
        "1735689540,c,Ada,x,9,more",
        "-5,c,A,x,9",
    ],
)
def test_a_broken_record_of_a_table_fails_alone(line: str) -> None:
    good = "1735689540,c,Ada,hi,1\n1735689541,c,Ada,ho,2\n1735689542,c,Ada,ha,3\n1735689543,c,Ada,he,4\n"
    _, records = read(f"{HEADER}{good}{line}\n")
    if line == "1735689540,c":  # what is not there is empty
        assert all(isinstance(record, HistoryMessage) for record in records)
        return
    [broken] = [record for record in records if isinstance(record, Broken)]
    assert broken.place == f"{NAME}, line 6"
    assert sum(isinstance(record, HistoryMessage) for record in records) == 4


@pytest.mark.parametrize(
    "line", ["7", "{", '{"ts": "x", "text": 1}', '{"ts": 1e400, "text": "x"}', '{"text": "x"}', '"\\ud800"']
)
def test_a_broken_line_of_json_fails_alone(line: str) -> None:
    good = jsonl({"ts": 1735689540, "text": "a"}, {"ts": 1735689541, "text": "b"})
    _, records = read(f"{good}{line}\n{good}")
    assert sum(isinstance(record, Broken) for record in records) == 1
    assert sum(isinstance(record, HistoryMessage) for record in records) == 4


def test_an_open_quote_breaks_records_up_to_the_limit_only() -> None:
    row = f"1735689540,c,Ada,{'x' * 200},\n"
    _, records = read(f'{HEADER}{row * 500}1735689540,c,Ada,"open,1\n{row * 7_000}')
    [broken] = [record for record in records if isinstance(record, Broken)]
    assert (broken.place, broken.reason) == (f"{NAME}, line 502", "no record of a table: it is too long")
    assert sum(isinstance(record, HistoryMessage) for record in records) > 2_000


@pytest.mark.parametrize("beginning", [HEADER.encode(), b'{"ts": 1735689540, "text": "a"}\n'])
def test_a_line_of_a_gigabyte_is_one_broken_record_in_bounded_memory(beginning: bytes) -> None:
    class File(LongLine):
        """A table whose second record is that line."""

        def __init__(self) -> None:
            super().__init__(GIGABYTE)
            self.seek(0)

        def seek(self, *_: int) -> int:
            self._start = beginning + (b"1735689540,c,A,hi,\n" * 300 if beginning == HEADER.encode() else b"")
            self._left = GIGABYTE
            return 0

        def read(self, size: int = -1) -> bytes:
            if self._start:
                found, self._start = self._start[:size], self._start[size:]
                return found
            return super().read(size)

    archive = FileArchive(File(), NAME)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        _, records = read(archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    broken = [record.reason for record in records if isinstance(record, Broken)]
    assert any("long" in reason or "8 MB" in reason for reason in broken)
    assert peak < 64 * 1024 * 1024


def test_a_table_in_an_archive_is_read_and_others_are_noted() -> None:
    files = {"readme.md": "# words", "messages.jsonl": jsonl({"ts": 1735689540, "text": "a"})}
    contents, records = read(ZipArchive(zipped(files)))
    assert (len(records), contents.notes) == (1, ("1 other files of the archive are not read",))


@pytest.mark.parametrize(
    "content",
    [b"", b"words", b"a list,\nof words,\n", b"a,b\nc,d\n", b"1,2\n3,4\n", b"[1, 2]",
     b'{"a": 1}\n', b"{\n", b"\x00\x01\x02", b"\xff\xfe",
     b"<html>,\n2024-01-01,x\n"],
)  # fmt: skip
def test_what_is_no_table_of_messages_is_not_taken_for_one(content: bytes) -> None:
    assert ArchiveReader().contents(single(content)) is None


def test_half_a_character_spoils_no_other_record() -> None:
    _, records = read(
        jsonl({"ts": 1735689540, "text": "\ud800 a", "user": "\udfff"}, {"ts": 1735689541, "text": "b"})
    )
    lines = [line_of(record, Names())["m"] for record in records]
    assert [(line["text"], line["author"]) for line in lines] == [("\ufffd a", "\ufffd"), ("b", "unknown")]
