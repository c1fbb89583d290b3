"""Dumps of Rocket.Chat's database: BSON as mongodump writes it, and broken ones."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from bson import encode
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

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
    Skipped,
    Unreadable,
)
from shared.providers.rocketchat.history import ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import zipped

AT: Final = datetime(2024, 1, 2, tzinfo=UTC)
USERS: Final = [
    {
        "_id": "u1",
        "username": "ada",
        "name": "Ada",
        "emails": [{"address": "no@example.com", "verified": False}, {"address": "a@b.c", "verified": True}],
    },
    {"_id": "u2", "username": "grace", "active": False, "type": "bot"},
]
ROOMS: Final = [
    {"_id": "GENERAL", "t": "c", "name": "general", "topic": "all", "ts": AT},
    {"_id": "p1", "t": "p", "name": "secret", "fname": "Secret", "prid": "GENERAL"},
    {"_id": "d1", "t": "d", "usernames": ["ada", "grace"]},
]


def message(number: int, text: str = "hello", **fields: Any) -> dict[str, Any]:
    author = {"_id": "u1", "username": "ada", "name": "Ada"}
    return {"_id": f"m{number}", "rid": "GENERAL", "msg": text, "ts": AT, "u": author} | fields


def bson(*items: Any) -> bytes:
    return b"".join(item if isinstance(item, bytes) else encode(item) for item in items)


def dump(*messages: Any) -> ZipArchive:
    files = {"users": bson(*USERS), "rocketchat_room": bson(*ROOMS), "rocketchat_message": bson(*messages)}
    return ZipArchive(zipped({f"dump/rocketchat/{name}.bson": data for name, data in files.items()}))


def read(archive: Archive) -> tuple[Contents, list[HistoryRecord]]:
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def deep(levels: int) -> bytes:
    """Return a message with documents in documents."""
    body = b"\x05\x00\x00\x00\x00"
    for _ in range(levels):
        body = (len(body) + 8).to_bytes(4, "little") + b"\x03a\x00" + body + b"\x00"
    return body


def test_people_and_rooms_are_those_of_the_dump() -> None:
    contents, _ = read(dump(message(1), message(2, rid="gone")))
    rooms = [(item.id, item.name, item.kind, item.parent, item.listed) for item in contents.conversations]
    assert rooms == [
        ("GENERAL", "general", "channel", None, True),
        ("p1", "Secret", "private", "GENERAL", True),
        ("d1", "ada, grace", "direct", None, True),
        ("gone", "gone", "channel", None, False),
    ]
    people = [(item.person.id, item.person.email, item.person.bot, item.active) for item in contents.people]
    assert people == [("u1", "a@b.c", False, True), ("u2", None, True, False)]
    assert (contents.first_at, contents.missing) == (AT.timestamp(), ["files"])


def test_messages_are_in_the_order_of_time_with_their_ids() -> None:
    later = AT.replace(day=5)
    _, records = read(dump(message(3, "last", ts=later), message(1, "first"), message(2, "reply", tmid="m1")))
    found = [item for item in records if isinstance(item, HistoryMessage)]
    shown = [
        (one.external_id, one.place.thread, render_plain(one.body).text)
        for one in (item.message for item in found)
    ]
    assert shown == [("m1", None, "first"), ("m2", "m1", "reply"), ("m3", None, "last")]


def test_mentions_reactions_edits_and_files_are_read() -> None:
    fields = {
        "reactions": {":+1:": {"usernames": ["grace", "left"]}},
        "editedAt": AT,
        "pinned": True,
        "file": {"_id": "f1", "name": "a.png"},
    }
    _, [record] = read(dump(message(1, "*hi* @ada #general", **fields)))
    assert isinstance(record, HistoryMessage)
    line = line_of(record, Names(users={"u1": "user_1"}, channels={"GENERAL": "chn_1"}))
    assert line["m"]["text"].endswith("[@ada](mention://user/user_1) [#general](mention://channel/chn_1)")
    assert record.reactions == (HistoryReaction("👍", ("u2", "left")),)
    assert (record.edited_at, record.pinned) == (AT.timestamp(), True)
    assert record.lost_files == (LostFile("a.png", "file_not_found"),)


def test_removed_hidden_and_repeated_messages_are_counted() -> None:
    _, records = read(
        dump(message(1), message(1), message(2, t="rm"), message(3, _hidden=True), message(4, t="uj"))
    )
    reasons = [item.reason if isinstance(item, Skipped) else "" for item in records]
    assert reasons == ["", "duplicate_record", "deleted", "deleted", ""]
    assert isinstance(records[-1], HistoryMessage)
    assert records[-1].kind == "system"


@pytest.mark.parametrize(
    "broken",
    [
        message(1, ts=None),
        message(1, ts=1e300),
        *(message(1, ts=DatetimeMS(at)) for at in (-1, 0, 2**62, 1_832_000_000_000_000)),
        message(1, u=7),
        message(1, rid=[]),
        message(1, _id=None),
        deep(20_000),
        b"\x08\x00\x00\x00\x02a\x00\x00",
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_document_fails_alone(broken: Any) -> None:
    _, records = read(dump(message(8), broken, message(9)))
    assert sorted(type(item).__name__ for item in records) == ["Broken", "HistoryMessage", "HistoryMessage"]
    for record in records:
        json.dumps(line_of(record, Names())).encode()


@pytest.mark.parametrize(
    "tail", [b"\xff\xff\xff\x7f", b"\x01", b"\x04\x00\x00\x00", (2**25).to_bytes(4, "little")]
)
def test_what_follows_a_damaged_length_is_one_broken_record(tail: bytes) -> None:
    _, records = read(dump(message(1), tail, b"\x00" * 100))
    assert sorted(type(item).__name__ for item in records) == ["Broken", "HistoryMessage"]


@pytest.mark.parametrize(
    "files", [{"a.bson": b"x"}, {"rocketchat_message.bson": b"x"}, {"users.bson": bson(*USERS)}]
)
def test_what_is_no_dump_of_rocket_chat_is_not_taken_for_one(files: dict[str, bytes]) -> None:
    assert ArchiveReader().contents(ZipArchive(zipped(files))) is None


@given(st.data())
def test_whatever_is_changed_in_a_dump_it_is_read_counted_or_refused(data: st.DataObject) -> None:
    changed = bytearray(bson(message(1, "*b* @ada"), message(2, reactions={":+1:": {"usernames": ["ada"]}})))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    archive = dump(bytes(changed))
    reader = ArchiveReader()
    with suppress(Unreadable):  # any other exception fails the test
        contents = reader.contents(archive)
        for unit in contents.units if contents else ():
            for record in reader.read(archive, contents, unit) if contents else ():
                json.dumps(line_of(record, Names())).encode()
                assert isinstance(record, HistoryMessage | Broken | Skipped)
