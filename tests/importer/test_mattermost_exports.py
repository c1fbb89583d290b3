"""Bulk exports of Mattermost: lines of JSON, alone or zipped with files, and broken ones."""

import json
from contextlib import suppress
from io import BytesIO
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from shared.manifests import history_order
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
from shared.providers.mattermost.history import ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import zipped

AT: Final = 1_704_153_600_000
DAY: Final = 86_400_000
VERSION: Final = {"type": "version", "version": 1}
CHANNELS: Final = [("general", "General", "O"), ("secret", "Secret", "P")]
LISTED: Final = [
    {"type": "team", "team": {"name": "work", "display_name": "Work"}},
    *(
        {"type": "channel", "channel": {"team": "work", "name": name, "display_name": shown, "type": kind}}
        for name, shown, kind in CHANNELS
    ),
    {
        "type": "user",
        "user": {
            "username": "ada",
            "email": "ada@example.com",
            "auth_service": "saml",
            "nickname": "Ada",
            "teams": [{"name": "work", "channels": [{"name": "general"}]}],
        },
    },
    {"type": "user", "user": {"username": "grace", "email": "g@example.com", "delete_at": AT}},
]


def post(at: Any = AT, text: str = "hello", channel: Any = "general", **fields: Any) -> dict[str, Any]:
    base = {"team": "work", "channel": channel, "user": "ada", "message": text, "create_at": at}
    return {"type": "post", "post": base | fields}


def reply(at: Any, text: str, **fields: Any) -> dict[str, Any]:
    return {"user": "grace", "message": text, "create_at": at, **fields}


def export(*items: Any) -> bytes:
    written = (
        item if isinstance(item, bytes) else json.dumps(item).encode() for item in (VERSION, *LISTED, *items)
    )
    return b"\n".join(written) + b"\n"


def single(data: bytes) -> FileArchive:
    return FileArchive(BytesIO(data), "upload")


def read(archive: Archive) -> tuple[Contents, list[HistoryRecord]]:
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def messages(*items: Any) -> list[HistoryMessage]:
    _, records = read(single(export(*items)))
    return [record for record in records if isinstance(record, HistoryMessage)]


def text_of(message: HistoryMessage) -> str:
    return render_plain(message.message.body).text


def test_people_and_channels_are_those_of_the_export() -> None:
    direct = {"type": "direct_channel", "direct_channel": {"members": ["grace", "ada"], "header": "us"}}
    contents, _ = read(single(export(direct, post(), post(channel="gone"))))
    shown = [
        (item.id, item.name, item.kind, item.listed, list(item.members)) for item in contents.conversations
    ]
    assert shown == [
        ("work/general", "General", "channel", True, ["ada"]),
        ("work/secret", "Secret", "private", True, []),
        ("direct:ada,grace", "ada, grace", "direct", True, ["ada", "grace"]),
        ("work/gone", "gone", "channel", False, []),
    ]
    people = [(item.person.id, item.person.name, item.person.email, item.active) for item in contents.people]
    assert people == [("ada", "Ada", "ada@example.com", True), ("grace", "grace", None, False)]
    assert (contents.missing, len(contents.notes)) == (["files"], 1)
    assert (contents.first_at, contents.last_at) == (AT / 1000, AT / 1000)


def test_posts_are_in_the_order_of_time_with_their_replies_behind_them() -> None:
    replies = [reply(AT + 9, "third"), reply(AT + 5, "second")]
    found = messages(
        post(AT + DAY, "fourth"), post(AT, "first", replies=replies), post(AT + 3 * DAY, "fifth")
    )
    assert [text_of(item) for item in found] == ["first", "second", "third", "fourth", "fifth"]
    parent = found[0].message.external_id
    assert [item.message.place.thread for item in found] == [None, parent, parent, None, None]
    assert found[1].message.author.name == "grace"


def test_a_longer_export_gives_the_same_ids() -> None:
    same = [post(text="one"), post(text="two", replies=[reply(AT + 1, "a"), reply(AT + 1, "b")])]
    before = {(text_of(item), item.message.external_id) for item in messages(*same)}
    after = messages(post(AT - DAY, "older"), *same, post(AT + 1, "newer"), post(channel="secret", text="x"))
    assert len(before) == 4
    assert before <= {(text_of(item), item.message.external_id) for item in after}
    assert len({item.message.external_id for item in after}) == len(after)


def test_a_line_that_is_there_twice_is_one_message() -> None:
    _, records = read(single(export(post(), post(), post(text="other"))))
    assert [type(item) for item in records] == [HistoryMessage, Skipped, HistoryMessage]


def test_mentions_emoji_reactions_pins_and_edits_are_read() -> None:
    reactions = [
        {"user": "grace", "emoji_name": "+1", "create_at": AT},
        {"user": "ada", "emoji_name": "wave_dark_skin_tone", "create_at": AT},
        {"user": "ada", "emoji_name": "our_logo", "create_at": AT},
    ]
    text = "**hi** @Grace. see ~secret, @nobody :tada: `@grace`"
    [found] = messages(post(text=text, reactions=reactions, is_pinned=True, edit_at=AT + 1))
    line = line_of(found, Names(users={"grace": "user_2"}))
    assert line["m"]["text"] == "**hi** [@Grace](mention://user/user_2). see #secret, \\@nobody 🎉 `@grace`"
    expected = (("👍", ("grace",)), ("👋🏿", ("ada",)), (":our_logo:", ("ada",)))
    assert found.reactions == tuple(HistoryReaction(emoji, people) for emoji, people in expected)
    assert (found.pinned, found.edited_at) == (True, (AT + 1) / 1000)


def test_bots_and_what_mattermost_wrote_are_marked() -> None:
    props = {
        "from_webhook": "true",
        "override_username": "CI",
        "attachments": [{"title": "Build", "text": "*ok*"}, {"fallback": "plain"}],
    }
    system, bot = messages(post(type="system_join_channel"), post(AT + 1, "", props=props))
    assert (system.kind, bot.kind, bot.message.author.name, bot.message.author.bot) == (
        "system",
        "bot",
        "CI",
        True,
    )
    assert text_of(bot) == "Build\n\nok\n\nplain"


def test_files_are_in_the_archive_or_named_with_the_reason() -> None:
    attachments = [{"path": "2024/a.png"}, {"path": "2024/gone.pdf"}, {"path": "import.jsonl"}]
    files = {"import.jsonl": export(post(attachments=attachments)), "data/2024/a.png": b"png"}
    contents, [record] = read(ZipArchive(zipped(files)))
    assert contents.missing == ["direct messages"]
    assert isinstance(record, HistoryMessage)
    [found] = record.message.files
    assert (found.ref, found.filename, found.size) == ("archive:data/2024/a.png", "a.png", 3)
    assert tuple(record.lost_files) == (
        LostFile("gone.pdf", "file_not_found"),
        LostFile("import.jsonl", "file_not_found"),
    )


def test_direct_messages_of_the_same_people_are_one_conversation() -> None:
    fields = {"user": "ada", "message": "x", "create_at": AT}
    pairs = [["ada", "grace"], ["grace", "ada"]]
    items = [{"type": "direct_post", "direct_post": {"channel_members": pair, **fields}} for pair in pairs]
    contents, records = read(single(export(*items)))
    assert {unit.conversation for unit in contents.units} == {"direct:ada,grace"}
    assert [type(item) for item in records] == [HistoryMessage, HistoryMessage]


@pytest.mark.parametrize(
    "broken",
    [
        b"no JSON",
        b"[" * 100_000,
        b'{"type":"post","post":' + b'{"a":' * 100_000,
        b"7",
        b'{"type": "post"}',
        *(post(at) for at in (None, "x", -1, 0, float("inf"), float("nan"), 10**400, 1_832_000_000_000_000)),
        post(user=None),
        post(user=7),
        post(channel=None),
        post(team=None, channel="\ud800", user=[]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_line_fails_alone(broken: Any) -> None:
    _, records = read(single(export(broken, post(text="after"), post(AT + 1, "\ud800 lone"))))
    assert sorted(type(item).__name__ for item in records) == ["Broken", "HistoryMessage", "HistoryMessage"]
    for record in records:
        line_of(record, Names())


def test_a_broken_reply_fails_alone() -> None:
    replies = [
        7,
        reply(None, "no time"),
        reply(AT + 1, "read"),
        {"user": "ada", "create_at": AT, "message": [[]]},
    ]
    _, records = read(single(export(post(replies=replies))))
    places = [item.place for item in records if isinstance(item, Broken)]
    assert [place.rpartition(", ")[2] for place in places] == ["reply 1", "reply 2"]
    assert sum(isinstance(item, HistoryMessage) for item in records) == 3


def test_a_line_that_is_too_long_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    long = b'{"type": "post", "post": {"message": "' + b"x" * (9 * 1024 * 1024) + b'"}}'
    _, records = read(single(export(post(), long)))
    assert [type(item) for item in records] == [HistoryMessage, Broken]


def test_an_export_beyond_the_memory_for_it_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    posts = [
        post(AT + (day * 7 % 40) * DAY + day, f"{day}", ("general", "secret")[day % 2]) for day in range(200)
    ]
    expected = list(read(single(export(*posts)))[1])
    monkeypatch.setattr(history_order, "UNIT_BYTES", 2_000)
    monkeypatch.setattr(history_order, "BUFFER_BYTES", 9_000)
    contents, found = read(single(export(*posts)))
    assert len(contents.units) > 20
    assert found == expected
    assert len(found) == 200


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"type": "version"}', b'{"type": "post", "post": {}}', b"time,text\n1,2\n"]
)
def test_what_is_no_export_of_mattermost_is_not_taken_for_one(data: bytes) -> None:
    assert ArchiveReader().contents(single(data)) is None


@given(st.data())
def test_whatever_is_changed_in_an_export_it_is_read_counted_or_refused(data: st.DataObject) -> None:
    changed = bytearray(export(post(replies=[reply(AT, "*b* @ada")]), post(AT + DAY)))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(40, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = len(changed) if data.draw(st.booleans()) else data.draw(st.integers(0, len(changed)))
    archive = single(bytes(changed[:cut]))
    reader = ArchiveReader()
    with suppress(Unreadable):  # any other exception fails the test
        contents = reader.contents(archive)
        for unit in contents.units if contents else ():
            for record in reader.read(archive, contents, unit) if contents else ():
                json.dumps(line_of(record, Names())).encode()
