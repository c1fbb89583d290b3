"""Exports of DiscordChatExporter: channels, threads and forums, alone and in a ZIP, and broken ones."""

import json
from contextlib import suppress
from io import BytesIO
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.file_archive import FileArchive
from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import encoded
from services.importer.reading.readers import archive_readers, recognized
from shared.manifests import history_json
from shared.manifests.channel_types import Person
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
from shared.providers.discord import export_files, history
from shared.providers.discord.history import ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import zipped
from tests.importer.discord_exports import (
    ADA,
    AT,
    FORUM,
    GENERAL,
    GRACE,
    GUILD,
    at_ms,
    channel,
    id_at,
    message,
    thread,
    user,
)


def single(content: Any) -> FileArchive:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return FileArchive(BytesIO(data), "upload.bin")


def several(**files: Any) -> ZipArchive:
    return ZipArchive(zipped({f"export/{name}.json": content for name, content in files.items()}))


def read(archive: Archive, **answers: str) -> tuple[Contents, list[HistoryRecord]]:
    reader = ArchiveReader()
    contents = reader.contents(archive, answers)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def messages(records: list[HistoryRecord]) -> list[HistoryMessage]:
    return [record for record in records if isinstance(record, HistoryMessage)]


def one(content: str = "hello", **fields: Any) -> HistoryMessage:
    _, [record] = read(single(channel(message(1, content, **fields))))
    assert isinstance(record, HistoryMessage), record
    return record


def text_of(record: HistoryMessage) -> str:
    return render_plain(record.message.body).text


def test_a_channel_is_read_with_its_people_and_its_category() -> None:
    contents, [record] = read(single(channel(message(1, timestampEdited=AT, isPinned=True))))
    [found] = contents.conversations
    assert (found.id, found.name, found.category, found.topic) == (GENERAL, "general", "Text channels", "all")
    assert (contents.provider, contents.account, contents.missing) == ("discord", "", ["direct messages"])
    assert [(item.person.id, item.person.name) for item in contents.people] == [(ADA, "Ada")]
    assert isinstance(record, HistoryMessage)
    assert (record.kind, record.pinned, record.edited_at) == ("message", True, 1704153600.123)
    assert record.message.sent_at == 1704153600.123
    link = f"https://discord.com/channels/{GUILD['id']}/{GENERAL}/{record.message.external_id}"
    assert record.message.permalink == link


def test_a_person_says_who_sees_the_channels() -> None:
    archive = single(channel(message(1)))
    contents, _ = read(archive)
    assert [item.id for item in contents.choices] == ["visibility"]
    assert [item.kind for item in contents.conversations] == ["private"]
    contents, _ = read(archive, visibility="channel")
    assert [item.kind for item in contents.conversations] == ["channel"]
    with pytest.raises(Unreadable, match="visibility"):
        read(archive, visibility="everyone")


@pytest.mark.parametrize(("kind", "shown"), [("DirectTextChat", "direct"), ("DirectGroupTextChat", "group")])
def test_direct_messages_have_their_authors_as_members(kind: str, shown: str) -> None:
    dm = channel(message(1), message(2, author=user(GRACE, "Grace")), kind=kind, name="Ada, Grace")
    dm["guild"] = {"id": "0", "name": "Direct Messages", "iconUrl": ""}
    contents, records = read(single(dm))
    [found] = contents.conversations
    assert (found.kind, found.name, found.category) == (shown, "Ada, Grace", "")
    assert (tuple(found.members), contents.choices, contents.missing) == ((ADA, GRACE), (), [])
    links = [record.message.permalink for record in messages(records)]
    assert all(link and link.startswith("https://discord.com/channels/@me/") for link in links)


def test_public_threads_are_threads_of_their_channel() -> None:
    starter = message(1, "who has plans?")
    own = thread(
        starter["id"],
        message(2, "", type="21", reference={"messageId": starter["id"], "channelId": GENERAL}),
        message(3, "I have"),
    )
    contents, records = read(several(a_thread=own, general=channel(starter, message(9, "later"))))
    assert [item.id for item in contents.conversations] == [GENERAL]
    found = [(text_of(item), item.message.place.thread) for item in messages(records)]
    assert found == [("who has plans?", None), ("later", None), ("I have", starter["id"])]
    assert [item for item in records if not isinstance(item, HistoryMessage)] == [Skipped("not_a_message")]


def test_a_forum_is_a_conversation_of_its_posts() -> None:
    forum = {"categoryId": FORUM, "category": "help"}
    first, second = message(1, "it is broken"), message(5, "thanks")
    posts = {
        "one": thread(first["id"], first, message(2, "restart it"), name="Broken *again*", **forum),
        "two": thread(second["id"], second, name="A praise", **forum),
    }
    contents, records = read(several(**posts))
    assert [(item.id, item.name) for item in contents.conversations] == [(FORUM, "help")]
    found = [(text_of(item), item.message.place.thread) for item in messages(records)]
    assert found == [
        ("Broken *again*\n\nit is broken", None),
        ("restart it", first["id"]),
        ("A praise\n\nthanks", None),
    ]


def test_a_private_thread_is_a_conversation_of_its_own() -> None:
    own = thread("300000000000000005", message(2, "a secret"), kind="GuildPrivateThread", name="heads")
    contents, records = read(several(general=channel(message(1)), heads=own), visibility="channel")
    found = {item.id: (item.name, item.kind, item.parent) for item in contents.conversations}
    assert found == {
        GENERAL: ("general", "channel", None),
        "300000000000000005": ("heads", "private", GENERAL),
    }
    assert [item.message.place.thread for item in messages(records)] == [None, None]


def test_parts_are_read_in_the_order_of_time_and_messages_in_two_files_once() -> None:
    newer = channel(message(3), message(2, "as edited")) | {"exportedAt": "2024-12-01T00:00:00+00:00"}
    parts = {"a": channel(message(4), message(5)), "b": channel(message(1), message(2, "before")), "c": newer}
    contents, records = read(several(**parts))
    assert len(contents.conversations) == 1
    assert [text_of(item) for item in messages(records)] == ["hello", "as edited", "hello", "hello", "hello"]
    assert [at_ms(int(item.message.external_id)) // 60_000 % 60 for item in messages(records)] == [
        *(1, 2, 3, 4, 5),
    ]
    assert [item for item in records if isinstance(item, Skipped)] == [Skipped("duplicate_record")]


def test_units_of_a_large_file_are_read_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (export_files, history):
        monkeypatch.setattr(module, "UNIT_RECORDS", 50)
    many = [message(number, f"m{number}") for number in range(103)]
    archives = single(channel(*many)), several(general=channel(*many))
    for limit in (history_json.MAX_AT_ONCE, 1000):  # parsed at once, and as a stream
        monkeypatch.setattr(export_files, "MAX_AT_ONCE", limit)
        for archive in archives:
            reader = ArchiveReader()
            contents = reader.contents(archive)
            assert contents is not None
            assert [unit.id.rsplit("#", 2)[1:] for unit in contents.units] == [
                *(["0", "50"], ["50", "50"], ["100", "3"]),
            ]
            for unit in (*contents.units, contents.units[1], contents.units[0]):
                found = messages(list(islice(reader.read(archive, contents, unit), 2)))
                start = int(unit.id.split("#")[1])
                assert [text_of(item) for item in found] == [f"m{start}", f"m{start + 1}"]
            assert len(list(reader.read(archive, contents, contents.units[-1]))) == 3


def test_names_become_mentions_where_the_list_says_of_whom() -> None:
    people = [user(ADA, "Ada"), user(GRACE, "Grace Hopper *")]
    content = "@Grace Hopper *, @Ada: not @Adam, `@Ada`, a@Ada.org, https://x.org/@Ada **@Ada**"
    line = line_of(one(content, mentions=people), Names(users={ADA: "u1", GRACE: "u2"}))
    ada, grace = "[@Ada](mention://user/u1)", "[@Grace Hopper \\*](mention://user/u2)"
    rest = f"not \\@Adam, `@Ada`, a@Ada.org, <https://x.org/@Ada> **{ada}**"
    assert line["m"]["text"] == f"{grace}, {ada}: {rest}"


def test_a_name_of_two_people_stays_text() -> None:
    content, people = "@Ada and #general", [user(ADA, "Ada"), user(GRACE, "Ada")]
    line = line_of(one(content, mentions=people), Names(users={ADA: "u1"}, channels={GENERAL: "c1"}))
    assert line["m"]["text"] == "\\@Ada and [#general](mention://channel/c1)"


def test_raw_markup_of_an_export_without_formatting_is_read_too() -> None:
    content = f"<@{GRACE}> in <#{GENERAL}> <:party:123456> <t:1704153600:D> <@&123456> @everyone"
    line = line_of(one(content), Names(users={GRACE: "u2"}, people={GRACE: Person(GRACE, "Grace")}))
    assert line["m"]["text"] == (
        "[@Grace](mention://user/u2) in #general ![:party:](emoji:) 2024-01-02 00:00 UTC "
        "\\@123456 @\u200beveryone"
    )


def test_reactions_have_their_people_or_are_counted() -> None:
    emoji = {"id": "", "name": "👍", "code": "thumbsup"}
    custom = {"id": "123456789012345678", "name": "party", "code": "party"}
    reactions = [
        {"emoji": emoji, "count": 2, "users": [user(GRACE, "Grace"), user()]},
        {"emoji": custom, "count": 3, "users": [user()]},
        {"emoji": emoji, "count": 4},
    ]
    contents, [record] = read(single(channel(message(1, reactions=reactions))))
    assert isinstance(record, HistoryMessage)
    assert record.reactions == (HistoryReaction("👍", (GRACE, ADA)), HistoryReaction(":party:", (ADA,)))
    assert {item.person.name for item in contents.people} == {"Ada", "Grace"}
    assert any(note.startswith("6 reactions are there as numbers only") for note in contents.notes)


def test_replies_and_forwarded_messages_are_read() -> None:
    reference = {"type": "Default", "messageId": "5", "channelId": GENERAL, "guildId": GUILD["id"]}
    assert one(type="Reply", reference=reference).message.place.reply_to == "5"
    assert one(type="Reply", reference=reference | {"channelId": FORUM}).message.place.reply_to is None
    snapshot = {"timestamp": AT, "content": "**news**", "attachments": [], "embeds": [], "stickers": []}
    forwarded = one("", reference=reference | {"type": "Forward"}, forwardedMessage=snapshot)
    assert line_of(forwarded, Names())["m"]["text"] == "> **news**"
    assert forwarded.message.place.reply_to is None


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("GuildMemberJoin", "Joined the server.", "Joined the server"),
        ("ChannelPinnedMessage", "Pinned a message.", "Pinned a message"),
        ("ChannelNameChange", "Changed the channel name: team", "Changed the name to team"),
        ("RecipientAdd", "Added Grace to the group.", "Added Grace to the group"),
        ("ThreadCreated", "Started a thread.", "Started the thread general"),
        ("8", "", "Boosted the server"),
        ("99", "news", "news"),
    ],
)
def test_what_discord_wrote_is_marked(kind: str, content: str, text: str) -> None:
    reference = {"messageId": None, "channelId": GENERAL}
    found = one(content, type=kind, mentions=[user(GRACE, "Grace")], reference=reference)
    assert (found.kind, text_of(found)) == ("system", text)


def test_bots_and_webhooks_have_embeds_and_people_have_previews() -> None:
    embed = {
        "title": "Build 7",
        "url": "https://ci.example.com/7",
        "description": "is **green**",
        "fields": [{"name": "branch", "value": "main", "isInline": True}],
        "footer": {"text": "CI"},
        "images": [],
    }
    bot = one("", author=user(GRACE, "CI", bot=True), embeds=[embed])
    assert (bot.kind, bot.message.author.bot) == ("bot", True)
    assert line_of(bot, Names())["m"]["text"].split("\n>\n") == [
        "> **[Build 7](https://ci.example.com/7)**",
        "> is **green**",
        "> **branch**\n> main",
        "> _CI_",
    ]
    assert text_of(one("see https://ci.example.com/7", embeds=[embed])) == "see https://ci.example.com/7"


def test_a_webhook_has_the_name_of_each_of_its_messages() -> None:
    hook = user(GRACE, "Builds", bot=True), user(GRACE, "Alerts", bot=True)
    _, records = read(single(channel(message(1, author=hook[0]), message(2, author=hook[1]))))
    assert [item.message.author.name for item in messages(records)] == ["Builds", "Alerts"]


def test_stickers_are_named() -> None:
    sticker = {"id": "1", "name": "Wave", "format": "Lottie", "sourceUrl": "https://discord.com/stickers/1"}
    assert text_of(one("", stickers=[sticker])) == "Sticker: Wave"


def test_files_are_in_the_archive_or_at_discord() -> None:
    def attached(url: str) -> Any:
        return {"id": "400000000000000001", "url": url, "fileName": "plan.pdf", "fileSizeBytes": 9}

    cdn = "https://cdn.discordapp.com/attachments/1/2/plan.pdf?ex=66"
    urls = ["general.json_Files\\plan.pdf", cdn, "https://example.com/plan.pdf", "gone/plan.pdf", "../a.pdf"]
    export = channel(*(message(number, attachments=[attached(url)]) for number, url in enumerate(urls)))
    files = {"export/general.json": export, "export/general.json_Files/plan.pdf": b"pdf"}
    contents, records = read(ZipArchive(zipped(files)))
    found = messages(records)
    assert [file.ref for item in found for file in item.message.files] == [
        *("archive:export/general.json_Files/plan.pdf", cdn),
    ]
    assert [file.size for file in found[0].message.files] == [9]
    assert [item.lost_files for item in found] == [(), (), *3 * [(LostFile("plan.pdf", "file_not_found"),)]]
    assert any("1 files are there as addresses" in note for note in contents.notes)


def test_an_export_that_was_attached_to_a_message_is_a_file() -> None:
    path = "general.json_Files/other.json"
    attachment = {"id": "4", "url": path, "fileName": "other.json", "fileSizeBytes": 9}
    files = {
        "general.json": channel(message(1, attachments=[attachment])),
        path: channel(message(2, "not said here"), id="300000000000000007", name="other"),
    }
    contents, records = read(ZipArchive(zipped(files)))
    assert [item.id for item in contents.conversations] == [GENERAL]
    assert [text_of(item) for item in messages(records)] == ["hello"]


@pytest.mark.parametrize(
    "broken",
    [
        *(7, None, {"id": 5}, {"id": "x"}, {"timestamp": "60000-01-01T00:00:00Z"}, {"timestamp": None}),
        *({"type": "Unknown"}, {"author": {}}, {"author": None}, {"timestamp": "1969-01-01T00:00:00Z"}),
    ],
)
def test_a_broken_message_fails_alone(broken: Any) -> None:
    record = message(1) | broken if isinstance(broken, dict) else broken
    _, records = read(single(channel(record, message(2))))
    assert [type(item) for item in records] == [Broken, HistoryMessage]


def test_what_is_before_the_damage_is_read() -> None:
    whole = json.dumps(channel(*(message(number) for number in range(50)))).encode()
    archive = several(a=whole[: len(whole) // 2], b=channel(message(60), id=FORUM, name="other"))
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None
    damaged, whole_unit = contents.units
    found: list[HistoryRecord] = []
    with pytest.raises(Unreadable, match=r"export/a\.json is damaged"):
        found.extend(reader.read(archive, contents, damaged))
    assert len(messages(list(reader.read(archive, contents, whole_unit)))) == 1
    assert any("1 files are damaged" in note for note in contents.notes)
    assert int(damaged.id.rsplit("#", 1)[1]) > 10


@pytest.mark.parametrize("content", [b"", b"[]", b'{"guild": 1}', b"no JSON", {"type": "x"}, {"guild": {}}])
def test_what_is_no_export_of_discord_is_not_taken_for_one(content: Any) -> None:
    assert ArchiveReader().contents(single(content)) is None


def test_an_export_is_recognized_among_all_kinds() -> None:
    for archive in (single(channel(message(1))), several(a=channel(message(1)))):
        reader, contents = recognized(archive, archive_readers())
        assert isinstance(reader, ArchiveReader)
        assert contents.kind == "a Discord export"


def test_counts_and_texts_are_those_of_an_independent_reading() -> None:
    """A server of random channels and threads: each text is what its JSON says, in the place of its file."""
    random = Random(16)  # noqa: S311 -- no secret
    files: dict[str, Any] = {}
    expected: dict[str, tuple[str, str, str, str | None, str]] = {}
    for number in range(12):
        channel_id = f"3000000000000001{number:02d}"
        own = [message(random.randrange(10**6), f"line {random.random()} @Ada") for _ in range(40)]
        own.sort(key=lambda item: int(item["id"]))
        for item in own:
            item["mentions"] = [user()]
            item["author"] = random.choice([user(), user(GRACE, "Grace")])
        starter = own[5]
        answers = [message(10**6 + number * 50 + n, f"answer {n}") for n in range(random.randrange(4))]
        files[f"c{number}"] = channel(*own, id=channel_id, name=f"channel-{number}")
        files[f"t{number}"] = thread(starter["id"], *answers, categoryId=channel_id)
        for item, root in [(item, None) for item in own] + [(item, starter["id"]) for item in answers]:
            expected[item["id"]] = item["content"], item["author"]["id"], channel_id, root, item["timestamp"]
    contents, records = read(several(**files))
    found = {
        item.message.external_id: (
            text_of(item),
            item.message.author.id,
            item.message.place.conversation,
            item.message.place.thread,
            AT,
        )
        for item in messages(records)
    }
    assert found == expected
    assert len(records) == len(expected)
    assert len(contents.conversations) == 12


def test_deep_and_strange_json_is_counted_or_refused() -> None:
    export = json.dumps(channel(message(1), "HERE", message(2))).encode()
    for strange in (b'"\\ud800"', b"1e999", b'{"id": "\\ud800"}', b"[" * 500 + b"]" * 500):
        _, records = read(single(export.replace(b'"HERE"', strange)))
        assert [type(item) for item in records] == [HistoryMessage, Broken, HistoryMessage]
        assert [encoded(line_of(record, Names())) for record in records]
    with pytest.raises(Unreadable, match="nested too deeply"):
        read(single(export.replace(b'"HERE"', b"[" * 100_000 + b"]" * 100_000)))


@given(st.data())
def test_whatever_is_changed_in_an_export_it_is_read_counted_or_refused(data: st.DataObject) -> None:
    reactions = [{"emoji": {"id": "", "name": "👍"}, "count": 1, "users": [user()]}]
    export = bytearray(json.dumps(channel(message(1), message(2, "*b*", reactions=reactions))).encode())
    start = data.draw(st.sampled_from([0, 400]))
    for _ in range(data.draw(st.integers(1, 6))):
        export[data.draw(st.integers(start, len(export) - 1))] = data.draw(st.integers(0, 255))
    cut = len(export) if data.draw(st.booleans()) else data.draw(st.integers(0, len(export)))
    archive = single(bytes(export[:cut]))
    reader = ArchiveReader()
    with suppress(Unreadable):  # any other exception fails the test
        contents = reader.contents(archive)
        for unit in contents.units if contents else ():
            for record in reader.read(archive, contents, unit) if contents else ():
                line_of(record, Names())


def test_ids_of_the_tests_are_those_of_their_times() -> None:
    assert at_ms(int(id_at(1_704_153_600))) == 1_704_153_600_000
