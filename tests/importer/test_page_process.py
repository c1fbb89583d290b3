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
            found += [(line["m"]["id"], line["m"]["thread"]) for line in page.lines]
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


async def test_a_response_that_needs_too_much_memory_ends_only_the_process() -> None:
    bomb = b'{"ok":true,"messages":[' + b"[]," * 5_000_000 + b"[]]}"
    async with reader(lambda _: bomb) as process:
        await opened(process)
        with pytest.raises(Unreadable, match=r"memory|ended"):
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
