"""Exports of Slack: every form of them, compared with a reading of the test's own, and broken ones."""

import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import encoded
from shared.manifests.history_types import (
    Broken,
    Contents,
    HistoryMessage,
    HistoryReaction,
    HistoryRecord,
    LostFile,
    Skipped,
    Unreadable,
)
from shared.providers.slack.history import ArchiveReader
from shared.richtext.plain import render_plain
from tests.importer.archives import USERS, slack_export, slack_message, zipped
from tests.importer.real_exports import real_export

DAY: Final = "general/2024-01-02"
AT: Final = "1704153600.000100"


def read(files: Mapping[str, Any] | BytesIO) -> tuple[Contents, list[HistoryRecord]]:
    """Return what an export has, and all of its records."""
    archive = ZipArchive(files if isinstance(files, BytesIO) else zipped(files))
    reader = ArchiveReader()
    contents = reader.contents(archive)
    assert contents is not None, "not recognized"
    return contents, [record for unit in contents.units for record in reader.read(archive, contents, unit)]


def one(**fields: Any) -> HistoryMessage:
    """Return how a message is read; `fields` are those of its record."""
    _, [record] = read(slack_export({DAY: [slack_message(AT, **fields)]}))
    assert isinstance(record, HistoryMessage), record
    return record


def text(record: HistoryMessage) -> str:
    return render_plain(record.message.body).text


def test_a_standard_export_has_people_channels_and_days() -> None:
    days = {DAY: [slack_message(AT)], "old/2019-03-04": [slack_message("1551657600.1")]}
    contents, records = read(slack_export(days))
    assert (contents.account, len(records)) == ("T00000001", 2)
    assert [(item.person.name, item.active) for item in contents.people] == [("Ada", True), ("Grace", False)]
    assert [(item.id, item.name, item.archived, item.topic) for item in contents.conversations] == [
        ("C00000001", "general", False, "all"),
        ("C00000002", "old", True, ""),
    ]
    assert [(unit.conversation, unit.day) for unit in contents.units] == [
        ("C00000001", "2024-01-02"),
        ("C00000002", "2019-03-04"),
    ]
    assert contents.missing == ["private channels", "group messages", "direct messages"]


def test_a_corporate_export_has_private_conversations_too() -> None:
    days = {f"{name}/2024-01-02": [slack_message(AT)] for name in ("general", "secret", "mpdm-a--b-1", "D1")}
    lists = {
        "groups": [{"id": "G1", "name": "secret"}],
        "mpims": [{"id": "G2", "name": "mpdm-a--b-1", "members": ["U00000001", "U00000002"]}],
        "dms": [{"id": "D1", "members": ["U00000001", "U00000002"]}],
    }
    contents, _ = read(slack_export(days, **lists))
    kinds = {item.id: item.kind for item in contents.conversations if item.id != "C00000002"}
    assert kinds == {"C00000001": "channel", "G1": "private", "G2": "group", "D1": "direct"}
    assert sorted(unit.conversation for unit in contents.units) == ["C00000001", "D1", "G1", "G2"]
    assert contents.missing == []


def test_a_grid_has_channels_of_several_workspaces_with_equal_names() -> None:
    files: dict[str, Any] = {"org_users.json": USERS}
    for team, channel in (("one", "C1"), ("two", "C2")):
        files[f"teams/{team}/channels.json"] = [{"id": channel, "name": "general"}]
        files[f"teams/{team}/general/2024-01-02.json"] = [slack_message(AT, f"in {team}")]
    contents, records = read(files)
    assert [unit.conversation for unit in contents.units] == ["C1", "C2"]
    assert [text(record) for record in records if isinstance(record, HistoryMessage)] == ["in one", "in two"]


def test_an_export_that_was_packed_with_its_folder_is_read() -> None:
    files = {f"acme/{name}": content for name, content in slack_export({DAY: [slack_message(AT)]}).items()}
    contents, records = read(files)
    assert ([unit.conversation for unit in contents.units], len(records)) == (["C00000001"], 1)


def test_a_folder_that_no_list_names_becomes_a_conversation_of_its_own() -> None:
    contents, _ = read(slack_export({"renamed-since/2024-01-02": [slack_message(AT)]}))
    [unlisted] = [item for item in contents.conversations if not item.listed]
    assert (unlisted.name, contents.units[0].conversation) == ("renamed-since", unlisted.id)
    assert contents.notes[0].startswith("1 folders are of no listed channel (renamed-since)")


@pytest.mark.parametrize("files", [{"a.json": "[]"}, {"channels.json": "[]"}, {"x/2024-01-01.json": "[]"}])
def test_what_is_no_export_of_slack_is_not_taken_for_one(files: Mapping[str, Any]) -> None:
    assert ArchiveReader().contents(ZipArchive(zipped(files))) is None


def test_a_message_has_its_thread_edit_pin_and_reactions() -> None:
    found = one(
        thread_ts="1704150000.000200",
        edited={"user": "U00000001", "ts": "1704153700.0"},
        pinned_to=["C00000001"],
        reactions=[
            {"name": "+1", "users": ["U00000001", "U00000002"], "count": 2},
            {"name": "no", "users": 3},
        ],
    )
    assert found.message.place.thread == "1704150000.000200"
    assert (found.edited_at, found.pinned) == (1704153700.0, True)
    assert found.reactions == (HistoryReaction("👍", ("U00000001", "U00000002")),)


def test_messages_of_bots_and_of_slack_have_other_kinds() -> None:
    assert one().kind == "message"
    bot = one(user=None, bot_id="B1", subtype="bot_message", username="Deploys")
    assert (bot.kind, bot.message.author.name, bot.message.author.bot) == ("bot", "Deploys", True)
    joined = one(subtype="channel_join", text="<@U00000001> has joined the channel")
    assert (joined.kind, text(joined)) == ("system", "@U00000001 has joined the channel")
    assert one(user=None, subtype="file_comment", text="a comment").message.author.name == "Slack"


def test_files_that_are_gone_are_named_with_the_reason() -> None:
    found = one(
        files=[
            {"id": "F1", "name": "kept.txt", "url_private": "https://files.slack.com/a", "size": 3},
            {"id": "F2", "mode": "tombstone"},
            {"id": "F3", "mode": "hidden_by_limit", "name": "old.txt"},
            {"id": "F4", "file_access": "access_denied", "name": "secret.txt"},
        ]
    )
    assert [file.filename for file in found.message.files if file.ref] == ["kept.txt"]
    assert found.lost_files == (
        LostFile("file", "tombstone"),
        LostFile("old.txt", "hidden_by_limit"),
        LostFile("secret.txt", "access_denied"),
    )


@pytest.mark.parametrize(
    "ts", ["", None, "-1", "Infinity", "NaN", "0", "0.0", "1830000000000", "99999999999.1", 7, {}, "1e9"]
)
def test_a_record_with_a_wrong_time_fails_alone(ts: Any) -> None:
    _, records = read(slack_export({DAY: [{**slack_message(AT), "ts": ts}, slack_message(AT)]}))
    assert [type(record) for record in records] == [Broken, HistoryMessage]
    broken = records[0]
    assert isinstance(broken, Broken)
    assert broken.place == f"{DAY}.json, record 1"
    assert "ts" in broken.reason


def test_reports_of_changes_are_no_messages() -> None:
    changes: list[dict[str, Any]] = [
        {"subtype": "message_changed", "hidden": True},
        {"subtype": "tombstone"},
        {"subtype": "message_deleted"},
    ]
    _, records = read(slack_export({DAY: [slack_message(AT, **fields) for fields in changes]}))
    assert [record.reason for record in records if isinstance(record, Skipped)] == [
        "not_a_message",
        "deleted",
        "not_a_message",
    ]


@pytest.mark.parametrize(("name", "messages"), [("slack-export.zip", 158), ("slack-unicode-export.zip", 5)])
def test_real_exports_are_read_completely(name: str, messages: int) -> None:
    data = real_export(name)
    contents, records = read(BytesIO(data))
    own: Counter[str] = Counter()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for entry in archive.namelist():
            if "/" in entry and entry.endswith(".json"):
                own.update(record["ts"] for record in json.loads(archive.read(entry)))
    read_times = Counter(
        record.message.external_id for record in records if isinstance(record, HistoryMessage)
    )
    assert (own.total(), read_times) == (messages, own)
    assert all(item.listed for item in contents.conversations)


@given(st.data())
def test_whatever_is_changed_in_a_day_it_is_read_counted_or_refused(data: st.DataObject) -> None:
    records = [slack_message(AT, "<@U00000001> *a*", thread_ts=AT), slack_message("1704153601.1", files=[{}])]
    day = bytearray(json.dumps(records).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        day[data.draw(st.integers(0, len(day) - 1))] = data.draw(st.integers(0, 255))
    cut = len(day) if data.draw(st.booleans()) else data.draw(st.integers(0, len(day)))
    with suppress(Unreadable):  # any other exception fails the test
        read(slack_export({DAY: bytes(day[:cut])}))


_FIELDS: Final = st.sampled_from(["ts", "text", "user", "files", "reactions", "blocks", "edited", "type"])
_VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_FIELDS, inner, max_size=6),
    max_leaves=12,
)


@given(_VALUES)
def test_a_record_of_any_form_is_read_or_counted(record: Any) -> None:
    _, [found] = read(slack_export({DAY: [record]}))
    encoded(line_of(found, Names()))


def test_half_a_character_spoils_no_other_record() -> None:
    day = json.dumps([slack_message(AT, "half \ud800."), {"ts": "\ud800"}, slack_message(AT, "whole")])
    _, records = read(slack_export({DAY: day}))
    lines = [line_of(record, Names()) for record in records]
    assert [encoded(line)[:4] for line in lines] == [b'{"m"', b'{"b"', b'{"m"']
    assert [line["m"]["text"] for line in lines if "m" in line] == ["half \ufffd.", "whole"]
