"""Exports of Telegram Desktop: one chat or all, with and without files, and broken ones."""

import json
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from shared.manifests.history_types import (
    Archive,
    Broken,
    Contents,
    HistoryMessage,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    Unreadable,
)
from shared.providers.telegram.history import UNIT_RECORDS, ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import zipped

AT: Final = "1704153600"


def message(number: int, text: str = "hello", **fields: Any) -> dict[str, Any]:
    entities = [{"type": "plain", "text": text}]
    base = {"id": number, "type": "message", "date": "2024-01-02T00:00:00", "date_unixtime": AT}
    return base | {"from": "Ada", "from_id": "user101", "text": text, "text_entities": entities} | fields


def chat(*messages: Any, kind: str = "private_supergroup", number: int = 123, name: str = "Work") -> Any:
    return {"name": name, "type": kind, "id": number, "messages": list(messages)}


def account(*chats: Any, left: tuple[Any, ...] = ()) -> Any:
    about = "Here is the data you requested. Remember: Telegram is ad free and supported by its users."
    return {"about": about, "chats": {"about": "", "list": list(chats)}, "left_chats": {"list": list(left)}}


def single(content: Any) -> FileArchive:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return FileArchive(BytesIO(data), "upload.json")


def read(archive: Archive) -> tuple[Contents, list[HistoryRecord]]:
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def one(**fields: Any) -> HistoryMessage:
    _, [record] = read(single(chat(message(1, **fields))))
    assert isinstance(record, HistoryMessage), record
    return record


@pytest.mark.parametrize(
    ("kind", "conversation", "shown"),
    [
        ("private_supergroup", "-100123", "private"),
        ("public_channel", "-100123", "channel"),
        ("private_group", "-123", "group"),
        ("personal_chat", "123", "direct"),
    ],
)
def test_ids_are_those_of_the_bot_api(kind: str, conversation: str, shown: str) -> None:
    contents, [record] = read(single(chat(message(7), kind=kind)))
    [found] = contents.conversations
    assert (found.id, found.name, found.kind) == (conversation, "Work", shown)
    assert isinstance(record, HistoryMessage)
    assert (record.message.place.conversation, record.message.external_id) == (conversation, "7")
    assert (record.message.author.id, record.message.author.name) == ("101", "Ada")
    assert [item.person.name for item in contents.people] == ["Ada"]


def test_all_chats_of_a_person_are_read() -> None:
    many = [message(number, f"m{number}") for number in range(UNIT_RECORDS + 2)]
    chats = chat(*many), chat(message(1, "second"), number=7, name="Home"), chat(number=9, name="Empty")
    contents, records = read(single(account(*chats, left=(chat(message(2, "left"), number=8),))))
    assert [item.id for item in contents.conversations] == ["-100123", "-1007", "-1009", "-1008"]
    assert [unit.size for unit in contents.units] == [UNIT_RECORDS, 2, 1, 1]
    texts = [
        (item.message.place.conversation, render_plain(item.message.body).text)
        for item in records
        if isinstance(item, HistoryMessage)
    ]
    assert texts[:2] == [("-100123", "m0"), ("-100123", "m1")]
    assert texts[UNIT_RECORDS + 1 :] == [
        ("-100123", f"m{UNIT_RECORDS + 1}"),
        ("-1007", "second"),
        ("-1008", "left"),
    ]


def test_units_are_read_in_any_order() -> None:
    archive = single(chat(*(message(number) for number in range(2 * UNIT_RECORDS))))
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None
    for unit in reversed(contents.units):
        first = next(reader.read(archive, contents, unit))
        assert isinstance(first, HistoryMessage)
        assert first.message.external_id == unit.id.split("#")[2]


def test_entities_become_the_text_of_the_chat() -> None:
    pieces = [
        {"type": "plain", "text": "😀 "},
        {"type": "bold", "text": "now"},
        {"type": "plain", "text": " see "},
        {"type": "text_link", "text": "this", "href": "https://example.com"},
        {"type": "plain", "text": " "},
        {"type": "mention_name", "text": "Grace", "user_id": 102},
    ]
    found = one(text="", text_entities=pieces)
    line = line_of(found, Names(users={"102": "user_2"}))
    assert line["m"]["text"] == "😀 **now** see [this](https://example.com) [@Grace](mention://user/user_2)"


def test_replies_topics_edits_and_reactions_are_read() -> None:
    people = [{"from": "Grace", "from_id": "user102", "date": "2024-01-02T00:00:01"}]
    reactions = [{"type": "emoji", "count": 3, "emoji": "👍", "recent": people}, {"type": "paid", "count": 1}]
    found = one(reply_to_message_id=5, topic_id=2, edited_unixtime="1704153700", reactions=reactions)
    assert (found.message.place.thread, found.message.place.reply_to) == ("2", "5")
    assert found.edited_at == 1704153700.0
    assert found.reactions == (HistoryReaction("👍", ("102",)),)


def test_what_telegram_wrote_is_marked() -> None:
    service = {
        "type": "service",
        "actor": "Ada",
        "actor_id": "user101",
        "action": "create_group",
        "title": "Work",
    }
    found = one(from_id=None, text="", text_entities=[], **service)
    assert (found.kind, render_plain(found.message.body).text) == ("system", "Ada create group Work")


def test_files_are_in_the_archive_or_named_with_the_reason() -> None:
    export = chat(
        message(1, photo="photos/photo_1.jpg"),
        message(2, file="files/gone.pdf", file_name="gone.pdf", mime_type="application/pdf"),
        message(3, photo="(File not included. Change data exporting settings to download.)"),
    )
    files: Mapping[str, Any] = {"export/result.json": export, "export/photos/photo_1.jpg": b"jpeg"}
    contents, records = read(ZipArchive(zipped(files)))
    assert contents.missing == ()
    first, second, third = [record for record in records if isinstance(record, HistoryMessage)]
    assert [file.ref for file in first.message.files] == ["archive:export/photos/photo_1.jpg"]
    assert second.lost_files == (LostFile("gone.pdf", "file_not_found"),)
    assert third.lost_files == (LostFile("photo.jpg", "file_not_found"),)


@pytest.mark.parametrize("broken", [7, {}, {"date_unixtime": "99999999999"}, {"id": "1"}, {"from_id": 3}])
def test_a_broken_message_fails_alone(broken: Any) -> None:
    record = message(1) | broken if isinstance(broken, dict) and broken else broken
    _, records = read(single(chat(record, message(2))))
    assert [type(item) for item in records] == [Broken, HistoryMessage]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"id": 1}', b"no JSON", {"type": "x"}])
def test_what_is_no_export_of_telegram_is_not_taken_for_one(content: Any) -> None:
    assert ArchiveReader().contents(single(content)) is None


@given(st.data())
def test_whatever_is_changed_in_an_export_it_is_read_counted_or_refused(data: st.DataObject) -> None:
    export = bytearray(json.dumps(chat(message(1), message(2, "*b*"))).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        export[data.draw(st.integers(40, len(export) - 1))] = data.draw(st.integers(0, 255))
    cut = len(export) if data.draw(st.booleans()) else data.draw(st.integers(0, len(export)))
    archive = single(bytes(export[:cut]))
    reader = ArchiveReader()
    with suppress(Unreadable):  # any other exception fails the test
        contents = reader.contents(archive)
        for unit in contents.units if contents else ():
            for record in reader.read(archive, contents, unit) if contents else ():
                line_of(record, Names())
