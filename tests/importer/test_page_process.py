"""The confined process that reads a connected account, against responses that a provider should not send."""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from services.importer.reading.confined_process import ProcessEnded
from services.importer.reading.page_process import PageProcess
from services.importer.reading.protocol import Overview
from services.importer.reading.reader_process import ReaderLimits
from shared.connections.channel_calls import StepResponse
from shared.manifests.channel_types import Account, ChannelFailure, Step
from shared.manifests.history_types import LATEST, HistoryConversation, Unreadable
from shared.manifests.registry import registry

SPEC: Final = registry().providers["slack"].manifest.history
ACCOUNT: Final = Account("T00000001", {"bot_id": "B00000001", "user_id": "U00000009"})
CHANNEL: Final = HistoryConversation("C00000001", "general")
SCOPES: Final = "channels:read,channels:history,users:read"
NOW: Final = 1_700_000_000.0
LIMITS: Final = ReaderLimits(memory_bytes=256 * 1024 * 1024, cpu_s=5.0)

Answer = Callable[[Step], Any]


def reader(answer: Answer, asked: list[Step] | None = None) -> PageProcess:
    """Return a process whose steps are answered by a function: a body, or JSON of one that is a success."""

    async def send(step: Step) -> StepResponse:
        if asked is not None:
            asked.append(step)
        if step.method == "auth.test":
            return StepResponse(200, {"x-oauth-scopes": SCOPES}, b'{"ok":true,"bot_id":"B00000001"}')
        found = answer(step)
        if isinstance(found, StepResponse):
            return found
        body = found if isinstance(found, bytes) else json.dumps({"ok": True, **found}).encode()
        return StepResponse(200, {}, body)

    assert SPEC is not None
    return PageProcess("slack", SPEC, send, LIMITS)


async def opened(process: PageProcess) -> Overview:
    return await process.contents(ACCOUNT, {})


def always(found: Any) -> Answer:
    return lambda _: found


def page_of(*messages: dict[str, Any], cursor: str = "", more: bool = False) -> dict[str, Any]:
    listed = [{"type": "message", "user": "U00000001", "text": "hello", **message} for message in messages]
    return {"messages": listed, "has_more": more, "response_metadata": {"next_cursor": cursor}}


async def test_scopes_decide_what_is_listed_and_what_is_named_as_missing() -> None:
    asked: list[Step] = []
    async with reader(lambda _: {"channels": []}, asked) as process:
        contents = await opened(process)
        await process.conversations(None)
    assert contents.account == "T00000001"
    assert list(contents.missing) == ["private channels", "group messages", "direct messages"]
    assert "groups:history" in contents.notes[0]
    assert "purpose import" in contents.notes[0]
    assert asked[-1].call.query["types"] == "public_channel"


async def test_threads_are_pages_behind_their_parents_and_no_message_comes_twice() -> None:
    def answer(step: Step) -> dict[str, Any]:
        if step.method == "conversations.replies":
            parent = step.call.query["ts"]
            replies = [{"ts": parent}, {"ts": "1700000030.000100", "thread_ts": parent}]
            shown = {"ts": "1700000050.000100", "thread_ts": parent, "subtype": "thread_broadcast"}
            return page_of(*replies, shown)
        if step.call.query.get("cursor") == "older":
            return page_of({"ts": "1600000000.000100"})
        ts = "1700000000.000100"
        root = {"ts": ts, "thread_ts": ts, "reply_count": 2}
        shown = {"ts": "1700000050.000100", "thread_ts": ts, "subtype": "thread_broadcast"}
        return page_of(shown, root, cursor="older", more=True)

    async with reader(answer) as process:
        await opened(process)
        found, cursor, reached = [], None, []
        while True:
            page = await process.page(CHANNEL, cursor, since=0.0, until=LATEST)
            found += [(line["m"]["id"], line["m"].get("thread")) for line in page.lines]
            reached.append(page.reached)
            cursor = page.next_cursor
            if cursor is None:
                break
    assert found == [
        ("1700000000.000100", None),
        ("1700000050.000100", "1700000000.000100"),
        ("1700000030.000100", "1700000000.000100"),
        ("1600000000.000100", None),
    ]
    assert reached == [1700000000.0001, 1700000000.0001, 1600000000.0001]


DAY: Final = 86_400.0


def written(days: float, **fields: Any) -> dict[str, Any]:
    """Return a message of so many days before NOW."""
    return {"ts": f"{NOW - days * DAY:.6f}", **fields}


def thread(days: float, latest: float) -> dict[str, Any]:
    """Return the parent of a thread, with the day of its latest reply."""
    found = written(days, reply_count=3, latest_reply=written(latest)["ts"])
    return found | {"thread_ts": found["ts"]}


async def read_since(since: float, pages: list[dict[str, Any]]) -> tuple[list[str], list[Step]]:
    """Read a conversation with these pages from a time on, and return the ids of messages, and the calls."""
    asked: list[Step] = []

    def answer(step: Step) -> dict[str, Any]:
        if step.method == "conversations.replies":
            parent, reply = step.call.query["ts"], written(1)
            return page_of({"ts": parent}, reply | {"thread_ts": parent})
        return pages[int(step.call.query.get("cursor") or 0)]

    found: list[str] = []
    cursor = None
    async with reader(answer, asked) as process:
        await opened(process)
        while True:
            page = await process.page(CHANNEL, cursor, since=since, until=LATEST)
            found += [line["m"]["id"] for line in page.lines]
            cursor = page.next_cursor
            if cursor is None:
                return found, asked[1:]


async def test_late_replies_to_older_threads_are_looked_for() -> None:
    since = NOW - 7 * DAY
    pages = [
        page_of(written(2), thread(5, 4), written(9), thread(20, 1), thread(25, 8), cursor="1", more=True),
        page_of(thread(36, 6), written(36.5)),
    ]
    pages[0]["messages"] += [written(30 + number / 100) for number in range(200)]
    found, asked = await read_since(since, pages)
    histories = [step.call.query for step in asked if step.method == "conversations.history"]
    assert [query["oldest"] for query in histories] == [f"{since - 30 * DAY:.6f}"] * 2
    replies = [step.call.query for step in asked if step.method == "conversations.replies"]
    assert [query["ts"] for query in replies] == [written(days)["ts"] for days in (20, 5, 36)]
    assert {query["oldest"] for query in replies} == {f"{since:.6f}"}
    # Messages before the time are known: only those of the week, and the replies, are read.
    assert sorted(found) == sorted([written(2)["ts"], written(5)["ts"], *[written(1)["ts"]] * 3])


async def test_the_look_back_ends_after_20_pages_and_at_once_for_a_limited_app() -> None:
    for size, pages in ((200, 21), (15, 1)):
        older = [
            page_of(*[written(8 + number / 10)] * size, cursor=str(number + 1), more=True)
            for number in range(100)
        ]
        found, asked = await read_since(NOW - 7 * DAY, older)
        assert (found, len(asked)) == ([], pages)


async def test_a_whole_history_is_read_to_its_beginning() -> None:
    pages = [page_of(*[written(number)] * 15, cursor=str(number + 1), more=True) for number in range(40)]
    pages.append(page_of(written(41)))
    found, asked = await read_since(0.0, pages)
    assert (len(found), len(asked)) == (40 * 15 + 1, 41)
    assert all("oldest" not in step.call.query for step in asked)


async def test_a_page_of_15_messages_shows_the_limit_of_apps_outside_the_marketplace() -> None:
    few = [{"ts": f"17000000{number}.000100"} for number in range(10, 25)]
    many = [{"ts": f"1700000{number}.000100"} for number in range(100, 300)]
    for messages, calls in ((few, 1), (many, 50)):
        page_data = page_of(*messages, cursor="next", more=True)
        async with reader(always(page_data)) as process:
            await opened(process)
            page = await process.page(CHANNEL, None, since=0.0, until=LATEST)
        assert page.rate is not None
        assert (page.rate.method, page.rate.amount, page.rate.per_s) == ("conversations.history", calls, 60.0)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"ok":false,"error":"missing_scope","needed":"groups:history"}', "missing_scope"),
        (b'{"ok":false,"error":"not_in_channel"}', "not_in_channel"),
        (b"<html>", "unreadable_response"),
        (b"[" * 200_000, "unreadable_response"),
        (b'{"ok":true,"messages":"' + b"x" * 100, "unreadable_response"),
    ],
)
async def test_a_refusal_or_no_json_is_a_failure_and_the_process_goes_on(body: bytes, code: str) -> None:
    answers = iter([body])
    async with reader(lambda _: next(answers, page_of({"ts": "1700000000.000100"}))) as process:
        await opened(process)
        with pytest.raises(ChannelFailure) as caught:
            await process.page(CHANNEL, None, since=0.0, until=LATEST)
        assert caught.value.code == code
        assert (caught.value.needed == ["groups:history"]) == (code == "missing_scope")
        page = await process.page(CHANNEL, None, since=0.0, until=LATEST)
        assert len(page.lines) == 1


async def test_records_of_any_shape_cost_themselves_only() -> None:
    broken: list[Any] = [
        {"ts": "x"}, {"ts": None}, {"ts": "99999999999999.1"}, {"text": 5, "user": []},
        {"ts": "1700000001.0", "thread_ts": {}, "reactions": "x", "files": 3, "edited": []},
    ]  # fmt: skip
    found = page_of({"ts": "1700000000.000100"}, *broken)
    found["messages"] += [None, 7, "text", [[]]]
    async with reader(lambda _: found) as process:
        await opened(process)
        page = await process.page(CHANNEL, None, since=0.0, until=LATEST)
    kinds = [next(iter(line)) for line in page.lines]
    assert kinds.count("m") >= 1
    assert kinds.count("b") >= 3


async def test_the_same_cursor_again_ends_the_conversation() -> None:
    async with reader(lambda _: {"members": [], "response_metadata": {"next_cursor": "same"}}) as process:
        await opened(process)
        _, cursor = await process.people(None)
        with pytest.raises(Unreadable, match="same page again"):
            await process.people(cursor)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"ok":true,"messages":[' + b"[]," * 5_600_000 + b"[]]}", "memory|ended"),
        # As bad JSON, it would be read again and again.
        (b'{"ok":true,"messages":["' + b"x" * 40_000_000 + b'"]}', "more than 256 MB to be read: import a"),
    ],
    ids=["values", "text"],
)
async def test_a_response_that_needs_too_much_memory_ends_only_the_process(body: bytes, reason: str) -> None:
    async with reader(lambda _: body) as process:
        await opened(process)
        with pytest.raises(Unreadable, match=reason):
            await process.page(CHANNEL, None, since=0.0, until=LATEST)
        with pytest.raises(ProcessEnded):
            await process.page(CHANNEL, None, since=0.0, until=LATEST)


@pytest.mark.parametrize(
    "asked",
    [
        {"http": "POST", "path": "chat.postMessage", "query": {}, "name": "conversations.list"},
        {"http": "GET", "path": "https://evil.example/x", "query": {}, "name": "conversations.list"},
        {"http": "GET", "path": "//evil.example/x", "query": {}, "name": "conversations.list"},
        {"http": "GET", "path": "a/../../admin", "query": {}, "name": "conversations.list"},
        {"http": "GET", "path": "conversations.list?x=1", "query": {}, "name": "conversations.list"},
        *(
            {"http": "GET", "path": path, "query": {}, "name": "conversations.list"}
            for path in ("a/%2E%2E/b", "a/%2e%2e/b", "a%2Fb", "a%5Cb", "a%00", "a%252E", "a%F", "a%0D%0Ab")
        ),
        {"http": "GET", "path": "auth.revoke", "query": {}, "name": "auth.revoke"},
        {"http": "GET", "path": "auth.test", "query": {"a": "b" * 9000}, "name": "auth.test"},
    ],
)
def test_a_process_that_was_taken_over_can_ask_for_nothing_else(asked: dict[str, Any]) -> None:
    process = reader(lambda _: {})
    with pytest.raises(Unreadable, match="does not name"):
        process._step(asked)
