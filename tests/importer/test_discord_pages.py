"""Histories of Discord by its API: the same as an export of the same server, with its limits and refusals."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import httpx
import pytest

from services.importer.archive.zip_archive import ZipArchive
from services.importer.reading.message_lines import Names, line_of
from shared.manifests.channel_types import (
    Account,
    CallResponse,
    ChannelFailure,
    ExternalFile,
    Operation,
    Page,
)
from shared.manifests.history_types import (
    Contents,
    HistoryConversation,
    HistoryMessage,
    HistoryPage,
    HistoryPerson,
    HistoryRecord,
    Unreadable,
)
from shared.manifests.registry import registry
from shared.providers.discord.files import refreshed_addresses
from shared.providers.discord.history import ArchiveReader, PageReader
from tests.importer.archives import zipped
from tests.importer.discord_rendering import exported
from tests.support.discord_setting import START, Setting, served, setting
from tests.support.fakes.discord_state import CONNECT, GUILD_MEMBERS, MANAGE_THREADS, MESSAGE_CONTENT, unix_of

_MAX_PAGES: Final = 2_000
T = TypeVar("T")


class Carrier:
    """Carries operations out at the server. A limited one is repeated as a whole, as by the importer."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v10/", headers={"Authorization": f"Bot {token}"})
        self.steps = 0
        self.greatest = 0
        """The steps of the longest operation."""

    def run(self, make: Callable[[], Operation[T]]) -> T:
        """Carry an operation out."""
        while True:
            try:
                return self._once(make())
            except ChannelFailure as failure:
                if failure.kind != "later" or failure.retry_after is None:
                    raise
                time.sleep(min(failure.retry_after, 1.1))

    def _once(self, operation: Operation[T]) -> T:
        steps = 0
        try:
            step = next(operation)
            while True:
                assert (step.call.method, step.call.token) == ("GET", True)
                assert step.method
                answer = self._client.get(step.call.path, params=dict(step.call.query))
                steps += 1
                step = operation.send(CallResponse(answer.status_code, answer.headers, answer.json()))
        except StopIteration as done:
            self.steps += steps
            self.greatest = max(self.greatest, steps)
            result: T = done.value
            return result


@pytest.fixture
def at() -> Setting:
    return setting()


@pytest.fixture
def carrier(at: Setting) -> Iterator[Carrier]:
    at.discord.limits.overall.limit = 1_000_000
    at.discord.limits.routes["channels/{channel}/messages/{message}/reactions/{emoji}"] = (1_000_000, 1.0)
    with served(at.discord) as url:
        yield Carrier(url, at.bot.token)
    assert at.discord.complaints == []


def page_reader() -> PageReader:
    provider = registry().providers.get("discord")
    spec = provider.manifest.history if provider else None
    assert spec is not None
    return PageReader(spec)


def contents_of(at: Setting, carrier: Carrier, **answers: str) -> Contents:
    return carrier.run(lambda: page_reader().contents(Account(at.bot.user.id), answers))


def pages(make: Callable[[str | None], Operation[Page]], carrier: Carrier) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = carrier.run(lambda cursor=cursor: make(cursor))  # type: ignore[misc]
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items
    raise AssertionError("the pages do not end")


def conversations_of(contents: Contents, carrier: Carrier) -> list[HistoryConversation]:
    return pages(lambda cursor: page_reader().conversations(contents, cursor), carrier)


def history(
    contents: Contents,
    conversation: HistoryConversation,
    carrier: Carrier,
    *,
    since: float = 0.0,
    until: float = float("inf"),
) -> Iterator[HistoryPage]:
    """Yield the pages of a conversation, each by a reader of its own: the cursor has all that is needed."""
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = carrier.run(
            lambda cursor=cursor: page_reader().page(  # type: ignore[misc]
                contents, conversation, cursor, since=since, until=until
            )
        )
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return
    raise AssertionError("the pages do not end")


def records_of(
    contents: Contents, conversation: HistoryConversation, carrier: Carrier
) -> list[HistoryRecord]:
    return [record for page in history(contents, conversation, carrier) for record in page.records]


def messages(records: list[HistoryRecord]) -> list[HistoryMessage]:
    return [record for record in records if isinstance(record, HistoryMessage)]


def compared(records: list[HistoryRecord], names: Names) -> dict[tuple[str, str], Any]:
    """Return what two histories have to have in common, by conversation and id."""
    found = {}
    for record in messages(records):
        line = line_of(record, names)["m"]
        key = (record.message.place.conversation, line["id"])
        assert key not in found, "a message is there twice"
        compared_fields = ("text", "author", "bot", "at", "thread", "reply_to", "kind", "edited_at", "pinned")
        found[key] = {name: line.get(name) for name in (*compared_fields, "permalink")}
        found[key]["reactions"] = [
            (emoji, people, count) for emoji, people, count in line.get("reactions", ())
        ]
        found[key]["files"] = [file[:3] for file in line.get("files", ())]
    return found


def names_for(
    people: Iterable[HistoryPerson], conversations: list[HistoryConversation], at: Setting
) -> Names:
    return Names(
        users={at.ada.id: "user_1"},
        people={item.person.id: item.person for item in people},
        channels={item.id: f"chn_{item.id}" for item in conversations},
        conversations={item.id: item.name for item in conversations},
    )


def test_an_import_by_api_equals_an_import_of_an_export(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    conversations = conversations_of(contents, carrier)
    readable = [item for item in conversations if not item.problem]
    by_api = [record for item in readable for record in records_of(contents, item, carrier)]

    # What the exporter sees with the bot's token: neither closed channels, nor messages that come and go.
    unseen = {at.channels[name].id for name in ("hidden", "now", "others")}
    channels = [one for one in at.guild.channels.values() if one.id not in unseen]
    archive = ZipArchive(zipped(exported(at.guild, *channels)))
    reader = ArchiveReader()
    export = reader.contents(archive)
    assert export is not None
    by_export = [record for unit in export.units for record in reader.read(archive, export, unit)]

    people = pages(lambda cursor: page_reader().people(contents, cursor), carrier)
    first = compared(by_api, names_for(people, conversations, at))
    second = compared(by_export, names_for(export.people, list(export.conversations), at))
    assert first == second
    expected = sum(
        message.type != 21
        for channel in channels
        for message in channel.messages  # its starter's repetition
    )
    assert len(first) == expected > 600
    assert contents.account == export.account
    texts = [line["text"] for line in first.values()]
    hello = f"Hello [@Ada](mention://user/user_1), see [#general](mention://channel/chn_{at.channels['general'].id})"
    assert any(text.startswith(hello) for text in texts)
    assert max(len(line["reactions"][0][1]) for line in first.values() if line["reactions"]) == 120
    assert carrier.greatest <= 60


def test_channels_and_threads_are_listed_as_the_bot_sees_them(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    found = {item.name: item for item in conversations_of(contents, carrier)}
    assert list(found) == [
        *("staff", "hidden", "now", "voice", "help"),
        *("quiet", "general"),  # in a category, which is below the channels without one
        *("heads", "old heads"),
    ]
    kinds = {name: item.kind for name, item in found.items() if item.kind != "channel"}
    assert kinds == dict.fromkeys(("staff", "hidden", "heads", "old heads"), "private")
    assert found["general"].category == "Texts"
    assert found["hidden"].problem == (
        "The bot may not read this channel: give it View Channel there, then import again."
    )
    assert "give it Read Message History there" in found["now"].problem
    assert [name for name, item in found.items() if item.problem] == ["hidden", "now"]
    at.channels["voice"].overwrites = {at.guild.id: (0, CONNECT)}
    [voice] = [item for item in conversations_of(contents, carrier) if item.name == "voice"]
    assert "give it Connect there" in voice.problem
    with pytest.raises(ChannelFailure, match="lacks a permission"):
        records_of(contents, voice, carrier)
    general = at.channels["general"].id
    assert (found["heads"].parent, found["heads"].archived) == (general, False)
    assert (found["old heads"].parent, found["old heads"].archived) == (general, True)


def test_a_bot_that_manages_threads_sees_those_of_others(at: Setting, carrier: Carrier) -> None:
    at.guild.roles[at.guild.id] = ("@everyone", at.guild.roles[at.guild.id][1] | MANAGE_THREADS)
    at.channels["others"].archived_at = START + 700
    names = [item.name for item in conversations_of(contents_of(at, carrier), carrier)]
    assert {"others", "old heads", "heads"} <= set(names)
    assert len(names) == len(set(names))


def test_people_are_the_members_by_their_names_in_the_server(at: Setting, carrier: Carrier) -> None:
    for number in range(1_100):
        at.guild.join(at.discord.add_user(f"Member {number}"))
    contents = contents_of(at, carrier)
    people = pages(lambda cursor: page_reader().people(contents, cursor), carrier)
    names = [item.person.name for item in people]
    assert len(names) == 1_104
    assert {"Ada", "Grace", "Alan T", "Member 1099", "importer"} <= set(names)


def test_without_the_intent_for_members_authors_are_known(at: Setting, carrier: Carrier) -> None:
    at.bot.flags &= ~GUILD_MEMBERS
    contents = contents_of(at, carrier)
    assert pages(lambda cursor: page_reader().people(contents, cursor), carrier) == []
    assert any("Server Members Intent" in note for note in contents.notes)
    [staff] = [item for item in conversations_of(contents, carrier) if item.name == "staff"]
    [record] = messages(records_of(contents, staff, carrier))
    assert (record.message.author.id, record.message.author.name) == (at.ada.id, "Ada")


def test_without_the_texts_nothing_is_imported(at: Setting, carrier: Carrier) -> None:
    at.bot.flags &= ~MESSAGE_CONTENT
    with pytest.raises(ChannelFailure, match="Message Content Intent") as caught:
        contents_of(at, carrier)
    assert caught.value.kind == "account"


def test_a_person_says_which_of_several_servers_is_imported(at: Setting, carrier: Carrier) -> None:
    other = at.discord.add_guild("Other", at.grace, at.bot)
    contents = contents_of(at, carrier)
    [server] = contents.choices
    assert ([option.text for option in server.options], server.answer) == (["Example", "Other"], None)
    assert contents_of(at, carrier, server=other.id).values["guild"] == other.id
    with pytest.raises(Unreadable, match="server"):
        contents_of(at, carrier, server="1")


def test_a_time_range_asks_for_its_messages_only(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    found = {item.name: item for item in conversations_of(contents, carrier)}
    since, until = START + 60 * 100, START + 60 * 110
    at.discord.calls.clear()
    read = [
        record.message
        for page in history(contents, found["general"], carrier, since=since, until=until)
        for record in messages(list(page.records))
    ]
    assert [round((message.sent_at - START) / 60) for message in read] == list(range(100, 110))
    paths = [path for path, _ in at.discord.calls if path.endswith("/messages")]
    assert len(paths) == 1  # the threads have nothing of that time
    forum = found["help"]
    pages_of_forum = history(contents, forum, carrier, since=START + 10_000, until=START + 10_020)
    texts = [record for page in pages_of_forum for record in messages(list(page.records))]
    assert [message.message.place.thread for message in texts] == [None]


def test_pages_are_in_the_order_of_time_and_say_how_far_they_are(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    [general] = [item for item in conversations_of(contents, carrier) if item.name == "general"]
    found = list(history(contents, general, carrier))
    for page in found:
        times = [record.message.sent_at for record in messages(list(page.records))]
        assert times == sorted(times)
        assert not times or page.reached == times[-1]
    parents = [record.message.external_id for page in found for record in messages(list(page.records))]
    for page in found:
        for record in messages(list(page.records)):
            if (thread := record.message.place.thread) in parents:
                assert parents.index(thread) < parents.index(record.message.external_id)


def test_the_limits_of_discord_are_waited_for(at: Setting) -> None:
    limits = at.discord.limits
    limits.routes |= {
        "channels/{channel}/messages": (2, 0.4),
        "channels/{channel}/messages/{message}/reactions/{emoji}": (60, 0.2),
    }
    limits.overall.limit = 1_000_000
    with served(at.discord) as url:
        carrier = Carrier(url, at.bot.token)
        contents = contents_of(at, carrier)
        [general] = [item for item in conversations_of(contents, carrier) if item.name == "general"]
        found = list(history(contents, general, carrier))
    assert limits.refused > 0
    ids = [record.message.external_id for page in found for record in messages(list(page.records))]
    assert len(ids) == len(set(ids)) > 350
    rates = {page.rate.method: page.rate for page in found if page.rate}
    assert rates.keys() == {"channels.messages", "channels.reactions"}
    of_messages, of_reactions = rates["channels.messages"], rates["channels.reactions"]
    assert (of_messages.amount, of_reactions.amount) == (2, 60)
    assert 0.3 < of_messages.per_s <= 0.4
    assert 0.1 < of_reactions.per_s <= 0.2


def test_a_narrow_limit_of_reactions_only_makes_pages_shorter() -> None:
    at = setting(posts=0, liked=6)
    at.discord.limits.routes["channels/{channel}/messages/{message}/reactions/{emoji}"] = (3, 0.2)
    with served(at.discord) as url:
        carrier = Carrier(url, at.bot.token)
        contents = contents_of(at, carrier)
        [general] = [item for item in conversations_of(contents, carrier) if item.name == "general"]
        found = messages(records_of(contents, general, carrier))
    liked = [one for one in found if line_of(one, Names())["m"]["text"].startswith("liked")]
    assert [[reaction.emoji for reaction in one.reactions] for one in liked] == [["👍", "🎉"]] * 6
    assert at.discord.limits.refused > 2
    assert len(found) == len({one.message.external_id for one in found})


def test_what_is_deleted_during_an_import_ends_only_itself(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    found = {item.name: item for item in conversations_of(contents, carrier)}
    forum, deleted = at.channels["help"], at.channels["post 1"]
    asked = f"channels/{deleted.id}/messages"
    at.discord.before = lambda path: _delete(at, deleted.id) if path == asked else None
    threads = {
        record.message.external_id for record in messages(records_of(contents, found["help"], carrier))
    }
    assert deleted.id not in threads
    assert len(threads) == 2 * 129
    popular = next(one for one in at.channels["general"].messages if one.content == "who likes this?")
    at.discord.before = lambda path: popular.reactions.clear() if popular.id in path else None
    general = messages(records_of(contents, found["general"], carrier))
    [same] = [record for record in general if record.message.external_id == popular.id]
    assert same.reactions == ()
    at.discord.before = None
    del at.guild.channels[forum.id]
    with pytest.raises(ChannelFailure) as caught:
        records_of(contents, found["help"], carrier)
    assert (caught.value.kind, caught.value.code) == ("gone", "unknown_channel")


def _delete(at: Setting, channel: str) -> None:
    at.guild.channels.pop(channel, None)


def test_a_token_that_was_reset_and_a_bot_that_was_removed_name_the_next_step(
    at: Setting, carrier: Carrier
) -> None:
    contents = contents_of(at, carrier)
    found = conversations_of(contents, carrier)
    del at.guild.members[at.bot.user.id]
    with pytest.raises(ChannelFailure, match="add it to yours") as caught:
        contents_of(at, carrier)
    assert caught.value.kind == "account"
    with pytest.raises(ChannelFailure) as caught:
        records_of(contents, found[0], carrier)
    assert (caught.value.kind, caught.value.code) == ("conversation", "missing_access")
    del at.discord.bots[at.bot.token]
    with pytest.raises(ChannelFailure, match="connect the account again") as caught:
        contents_of(at, carrier)
    assert caught.value.kind == "account"


def test_responses_that_are_none_of_discord_are_asked_for_again() -> None:
    operation = page_reader().contents(Account("1"), {})
    next(operation)
    with pytest.raises(ChannelFailure) as caught:
        operation.send(CallResponse(200, {}, ["not", "an", "object"]))
    assert caught.value.kind == "later"


def test_late_replies_are_found_without_reading_all_archived_threads(at: Setting, carrier: Carrier) -> None:
    contents = contents_of(at, carrier)
    [forum] = [item for item in conversations_of(contents, carrier) if item.name == "help"]
    since = START + 1_000_000
    at.channels["post 5"].archived_at = None
    reply = at.channels["post 5"].say(at.grace, "a late reply", since + 60)
    asked = len(at.discord.calls)
    found = [
        record.message.external_id
        for page in history(contents, forum, carrier, since=since)
        for record in messages(list(page.records))
    ]
    assert found == [reply.id]
    paths = [path for path, _ in at.discord.calls[asked:]]
    assert sum(path.endswith("threads/archived/public") for path in paths) == 1


def test_new_addresses_of_files_are_only_those_of_the_same_files() -> None:
    base = "https://cdn.discordapp.com/attachments/1"
    files = [
        ExternalFile(str(number), f"{base}/{number}/a.txt?ex=1&is=0&hm=x", "a.txt") for number in range(8)
    ]
    files.append(ExternalFile("8", f"{base}/8/a.txt?ex=ffffffff&is=0&hm=x", "a.txt"))
    spec = registry().providers["discord"].manifest.history
    assert spec is not None
    operation = refreshed_addresses(spec, files, 1_700_000_000.0)
    step = next(operation)
    assert (step.call.method, step.call.json) == (
        "POST",
        {"attachment_urls": [file.ref for file in files[:8]]},
    )
    new = [
        f"{base}/0/a.txt?ex=2&is=1&hm=y",
        "https://evil.example/attachments/1/1/a.txt",
        f"{base}/0/a.txt?ex=2&is=1&hm=y",
        "http://cdn.discordapp.com/attachments/1/3/a.txt",
        f"{base}/4/a.txt?ex={'2' * 2000}",
        7,
        None,
    ]
    pairs: list[Any] = [
        {"original": file.ref, "refreshed": url} for file, url in zip(files, new, strict=False)
    ]
    answer = {"refreshed_urls": [*pairs, {"original": "another", "refreshed": new[0]}, "x", {}]}
    with pytest.raises(StopIteration) as done:
        operation.send(CallResponse(200, {}, answer))
    assert done.value.value == {files[0].ref: new[0]}


def test_hostile_pages_end() -> None:
    """A server that repeats itself forever, or answers nonsense, is not asked forever."""
    contents = Contents("", "discord", "", values={"guild": "1", "bot": "2", "members": "", "roles": ""})
    conversation = HistoryConversation("3", "x")
    same = [{"id": "7", "type": 0, "content": 5, "author": {"id": "8"}, "timestamp": 9}] * 100
    threads = [{"id": "9", "parent_id": "3", "type": 11, "thread_metadata": {"archive_timestamp": "2024"}}]
    cursor, steps = None, 0
    for _ in range(20):
        operation = page_reader().page(contents, conversation, cursor, since=0.0, until=float("inf"))
        answer: Any = None
        try:
            while True:
                step = operation.send(answer) if answer else next(operation)
                steps += 1
                body: Any = (
                    same if step.call.path.endswith("messages") else {"type": 0, "threads": threads * 50}
                )
                body = body | {"has_more": True} if isinstance(body, dict) else body
                answer = CallResponse(200, {}, body)
        except StopIteration as done:
            cursor = done.value.next_cursor
        if cursor is None:
            break
    assert steps < 2_000
    assert unix_of("0") > 0
