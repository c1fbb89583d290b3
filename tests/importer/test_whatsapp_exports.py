# ruff: noqa: RUF001 -- digits and letters of other alphabets are meant
"""Chats that WhatsApp exported as text: forms of many languages and phones, media, and what is not told."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
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
    LostFile,
    Skipped,
    Unreadable,
)
from shared.providers.whatsapp.history import ArchiveReader
from tests.importer.archives import zipped

EVENING: Final = datetime(2024, 12, 31, 23, 59, tzinfo=UTC).timestamp()
NAME: Final = "WhatsApp Chat with Ada.txt"


def single(text: str | bytes) -> FileArchive:
    return FileArchive(BytesIO(text.encode() if isinstance(text, str) else text), NAME)


def read(
    archive: Archive | str, answers: Mapping[str, str] = NO_ANSWERS
) -> tuple[Contents, list[HistoryRecord]]:
    archive = single(archive) if isinstance(archive, str) else archive
    reader = ArchiveReader()
    contents = reader.contents(archive, answers)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def messages(text: Archive | str, answers: Mapping[str, str] = NO_ANSWERS) -> list[HistoryMessage]:
    return [record for record in read(text, answers)[1] if isinstance(record, HistoryMessage)]


def shown(record: HistoryRecord, names: Names | None = None) -> str:
    return str(line_of(record, names or Names())["m"]["text"])


@pytest.mark.parametrize(
    "head",
    [
        "12/31/24, 11:59 PM - ",
        "12/31/24, 11:59\u202fPM - ",
        "31/12/2024, 11:59 pm - ",
        "31/12/24, 23:59 - ",
        "31.12.24, 23:59 - ",
        "31/12/2024 23:59 - ",
        "31/12/2024 à 23:59 - ",
        "31-12-2024 23:59 - ",
        "2024-12-31, 11:59 p.m. - ",
        "31/12/24 11:59 p. m. - ",
        "31.12.2024 klo 23.59 - ",
        "31.12.2024 г., 23:59 ч. - ",
        "2024. 12. 31. 23:59 - ",
        "2024/12/31 23:59 - ",
        "2024/12/31 下午11:59 - ",
        "31/12/2567 23:59 - ",
        "\u200f٣١\u200f/١٢\u200f/٢٠٢٤، ١١:٥٩ م - ",
        "2024년 12월 31일 오후 11:59, ",
        "[31/12/2024, 23:59:00] ",
        "\u200e[12/31/24, 11:59:00\u202fPM] ",
        "[31.12.24, 23:59:00] ",
        "[2024-12-31 23:59:00] ",
        "[2024/12/31 下午11:59:00] ",
        "[2024. 12. 31. 오후 11:59:00] ",
        "[31/12/2024 23:59:00] ",
    ],
)
def test_dates_and_clocks_of_many_languages_are_read(head: str) -> None:
    contents, [first, second] = read(f"{head}Ada: first\n{head}Grace: second\nline\n\n  and more\n")
    assert isinstance(first, HistoryMessage)
    assert isinstance(second, HistoryMessage)
    assert (first.message.sent_at, second.message.sent_at) == (EVENING, EVENING)
    assert (first.message.author.name, second.message.author.name) == ("Ada", "Grace")
    assert [shown(first), shown(second)] == ["first", "second\nline\n\n&#32; and more"]
    assert [choice.id for choice in contents.choices] == ["time_zone"]
    assert (contents.first_at, contents.last_at) == (EVENING, EVENING)


@pytest.mark.parametrize(
    ("clock", "hour"),
    [("12:30 AM", 0), ("12:30 PM", 12), ("1:30 pm", 13), ("中午12:30", 12), ("中午1:30", 13), ("凌晨1:30", 1),
     ("0:30", 0), ("24:30", None)],
)  # fmt: skip
def test_the_clock_of_twelve_hours(clock: str, hour: int | None) -> None:
    _, [found] = read(f"2024/12/31 {clock} - Ada: x\n")
    expected = None if hour is None else datetime(2024, 12, 31, hour, 30, tzinfo=UTC).timestamp()
    assert (found.message.sent_at if isinstance(found, HistoryMessage) else None) == expected


def test_an_order_that_the_dates_do_not_determine_is_asked() -> None:
    text = "3/4/24, 10:00 - Ada: a\n3/4/24, 10:01 - Ada: b\n"
    contents, records = read(text)
    order, zone = contents.choices
    assert ([option.value for option in order.options], order.answer, order.required) == (
        ["dmy", "mdy"],
        None,
        True,
    )
    assert (contents.units, records, zone.answer) == ((), [], "UTC")
    for answer, month, day in (("dmy", 4, 3), ("mdy", 3, 4)):
        first = messages(text, {"date_order": answer})[0]
        assert first.message.sent_at == datetime(2024, month, day, 10, tzinfo=UTC).timestamp()
    with pytest.raises(Unreadable, match="no answer"):
        read(text, {"date_order": "ymd"})


def test_the_only_order_in_which_time_goes_on_is_proposed() -> None:
    contents, records = read("1/2/24, 10:00 - Ada: a\n2/3/24, 10:00 - Ada: b\n3/2/24, 10:00 - Ada: c\n")
    assert [(item.id, item.answer) for item in contents.choices] == [
        ("date_order", "mdy"),
        ("time_zone", "UTC"),
    ]
    assert len(records) == 3


def test_dates_with_dots_begin_with_the_day() -> None:
    contents, _ = read("03.04.24, 10:00 - Ada: a\n")
    assert [item.id for item in contents.choices] == ["time_zone"]
    assert contents.first_at == datetime(2024, 4, 3, 10, tzinfo=UTC).timestamp()


def test_a_time_zone_can_be_chosen_and_ids_stay() -> None:
    text = "12/31/24, 11:59 PM - Ada: a\n"
    [utc], [berlin] = messages(text), messages(text, {"time_zone": "Europe/Berlin"})
    assert utc.message.sent_at - berlin.message.sent_at == 3600
    assert utc.message.external_id == berlin.message.external_id


def chat(*texts: str, start: int = 0) -> str:
    """Return a chat with a message every minute, all by Ada but for those of the form `Name: text`."""
    lines = []
    for number, text in enumerate(texts, start):
        line = text if re.match(r"[A-Z+][\w ]*: ", text) else f"Ada: {text}"
        lines.append(f"[31/12/2024, {number // 60:02}:{number % 60:02}:00] {line}\r\n")
    return "".join(lines)


def test_a_longer_export_has_the_same_ids_and_equal_messages_differ() -> None:
    line = "[31/12/2024, 10:00:00] Ada: "
    text = "".join(f"{line}{word}\n" for word in ("ok", "ok", "hm", "ok"))
    ids = [item.message.external_id for item in messages(text)]
    longer_contents, longer = read(f"{text}{line}ok\n[31/12/2024, 10:01:00] Ada: ok\n")
    longer_ids = [item.message.external_id for item in longer if isinstance(item, HistoryMessage)]
    assert longer_ids[:4] == ids
    assert len(set(longer_ids)) == 6
    assert longer_contents.conversations[0].id == read(text)[0].conversations[0].id
    assert read(text.replace("ok", "no"))[0].conversations[0].id != longer_contents.conversations[0].id


def test_what_whatsapp_wrote_is_marked() -> None:
    found = messages(
        "31/12/24, 10:00 - Messages and calls are end-to-end encrypted.\n"
        '31/12/24, 10:00 - Ada created group "A: B"\n'
        "31/12/24, 10:00 - Ada: hello: you\n"
    )
    assert [(item.kind, item.message.author.name) for item in found] == [
        ("system", "WhatsApp"),
        ("system", "WhatsApp"),
        ("message", "Ada"),
    ]
    assert shown(found[2]) == "hello: you"


def test_ios_marks_what_whatsapp_wrote() -> None:
    text = chat("Club: \u200eYou created this group", "a", "Grace: b", "Ada: \u200eAda added Alan", "Alan: c")
    contents, records = read(text)
    found = [item for item in records if isinstance(item, HistoryMessage)]
    assert [item.kind for item in found] == ["system", "message", "message", "system", "message"]
    assert [item.message.author.name for item in found] == ["WhatsApp", "Ada", "Grace", "Ada", "Alan"]
    [conversation] = contents.conversations
    assert (conversation.name, conversation.kind) == ("Ada", "group")
    assert [item.person.id for item in contents.people] == ["Ada", "Grace", "Alan"]


@pytest.mark.parametrize(
    ("text", "name", "rest"),
    [
        ("<Media omitted>", "media", ""),
        ("<Medien ausgeschlossen>", "media", ""),
        ("<Multimedia omitido>", "media", ""),
        ("<Без медиафайлов>", "media", ""),
        ("\u200eimage omitted", "image", ""),
        ("\u200eBild weggelassen", "Bild", ""),
        ("\u200e<attached: 00000042-PHOTO-2024.jpg>", "00000042-PHOTO-2024.jpg", ""),
        ("a caption \u200e<Anhang: 1.pdf>", "1.pdf", "a caption"),
        ("IMG-1.jpg (file attached)\nits caption", "IMG-1.jpg", "its caption"),
        ("\u200eIMG-1.jpg (Datei angehängt)", "IMG-1.jpg", ""),
    ],
)
def test_files_that_are_not_there_are_named(text: str, name: str, rest: str) -> None:
    [found] = messages(chat(text))
    assert (found.lost_files, shown(found)) == ((LostFile(name, "file_not_found"),), rest)


@pytest.mark.parametrize("text", ["image omitted", "<b>", "see (file attached)", "a<attached>"])
def test_what_people_write_is_no_mark_of_whatsapp(text: str) -> None:
    [found] = messages(chat(text))
    assert (found.lost_files, found.kind) == ((), "message")


def test_files_of_an_archive_follow_their_messages() -> None:
    text = chat("\u200e<attached: 1-PHOTO.jpg>", "\u200e<attached: ../../etc/passwd>")
    files = {"_chat.txt": text, "1-PHOTO.jpg": b"jpeg", "note.txt": chat("another chat, sent as a file")}
    contents, [first, second] = read(ZipArchive(zipped(files)))
    assert isinstance(first, HistoryMessage)
    assert isinstance(second, HistoryMessage)
    assert [(file.ref, file.size) for file in first.message.files] == [("archive:1-PHOTO.jpg", 4)]
    assert second.lost_files == (LostFile("passwd", "file_not_found"),)
    assert (len(contents.conversations), contents.missing) == (1, ())


def test_several_chats_of_an_archive_are_conversations() -> None:
    files = {f"WhatsApp Chat with {name}.txt": chat(f"to {name}") for name in ("Grace", "Alan")}
    contents, records = read(ZipArchive(zipped(files)))
    assert sorted(item.name for item in contents.conversations) == ["Alan", "Grace"]
    assert sorted(map(shown, records)) == ["to Alan", "to Grace"]


@pytest.mark.parametrize(
    "text", ["This message was deleted", "\u200eYou deleted this message.", "Diese Nachricht wurde gelöscht."]
)
def test_deleted_messages_are_skipped(text: str) -> None:
    assert read(chat(text))[1] == [Skipped("deleted")]


def test_an_edited_message_loses_its_mark() -> None:
    [found] = messages(chat("right \u200e<This message was edited>"))
    assert (shown(found), found.edited_at) == ("right", found.message.sent_at)


def test_marks_links_and_mentions_become_the_text_of_the_chat() -> None:
    names = Names(users={"Grace": "user_2"})
    [found, _, _] = messages(
        chat(
            "*b* _i_ ~s~ `c` a*b <i> :smile: https://example.com @\u2068Grace\u2069 @\u2068Eve\u2069 "
            "@4915112345678",
            "Grace: x",
            "+49 151 12345678: y",
        )
    )
    assert shown(found, names) == (
        "**b** _i_ ~~s~~ `c` a\\*b \\<i> :smile: <https://example.com> "
        "[@Grace](mention://user/user_2) \\@Eve @+49 151 12345678"
    )
    [found] = messages(chat("> quoted *b*\nbelow\n```x = 1\n> y```"))
    assert shown(found) == "> quoted **b**\n\nbelow\n\n```\nx = 1\n> y\n```"


def test_a_quoted_chat_stays_in_its_message() -> None:
    [found] = messages(chat("look:\n31/12/24, 10:00 - Eve: I said so"))
    assert "Eve: I said so" in shown(found)


@pytest.mark.parametrize("date", ["31/13/2024", "30/02/2024", "31/12/6000", "31/12/1999"])
def test_a_wrong_time_fails_alone(date: str) -> None:
    text = f"[30/12/2024, 10:00:00] Ada: a\n[{date}, 10:00:00] Ada: b\n[31/12/2024, 10:00:00] Ada: c\n"
    _, records = read(text)
    assert sorted(type(record).__name__ for record in records) == [
        "Broken",
        "HistoryMessage",
        "HistoryMessage",
    ]
    [broken] = [record for record in records if isinstance(record, Broken)]
    assert (broken.place, broken.record) == (f"{NAME}, line 2", "b")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"[1, 2]", b"{}", b"a,b\n1,2\n", b"\xff\xfe\x00", b"2024-01-01"]
)
def test_what_is_no_chat_is_not_taken_for_one(content: bytes) -> None:
    assert ArchiveReader().contents(single(content)) is None


_WORDS: Final = st.text(st.sampled_from("ab *_~`<>@:\n\u200e[]é"), max_size=30)


@given(
    st.lists(st.tuples(st.sampled_from(["Ada", "Grace H.", "+49 151 1"]), _WORDS), min_size=1, max_size=15)
)
def test_counts_and_authors_are_those_of_a_reading_of_the_tests_own(parts: list[tuple[str, str]]) -> None:
    text = "".join(
        f"[31/12/2024, {number:02}:00:00] {author}: {words}\n" for number, (author, words) in enumerate(parts)
    )
    own = re.findall(r"(?m)^\[31/12/2024, (\d\d):00:00\] ([^:\n]+): ", text)
    expected = [(datetime(2024, 12, 31, int(hour), tzinfo=UTC).timestamp(), author) for hour, author in own]
    _, records = read(text)
    found: list[Any] = [
        (record.message.sent_at, record.message.author.id)
        for record in records
        if isinstance(record, HistoryMessage) and record.kind == "message"
    ]
    systems = [item for item in records if isinstance(item, HistoryMessage) and item.kind == "system"]
    assert len(found) + len(systems) == len(expected) == len(parts)
    assert [pair for pair in expected if pair in found] == found
