"""A connected account with as many people as an import may have takes bounded memory in both processes."""

import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, cast

import orjson

from services.importer.accounts.account_reader import MAX_PEOPLE, AccountReader
from services.importer.accounts.walk import Walk
from services.importer.reading.page_process import PageProcess
from services.importer.reading.reader_process import ReaderLimits
from shared.connections.channel_calls import StepResponse
from shared.manifests.channel_types import Account, Person, Step
from shared.manifests.history_types import LATEST, HistoryConversation, HistoryPerson
from shared.manifests.registry import registry

_MIB: Final = 1024 * 1024
_PAGE: Final = 1_000
_CHANNEL: Final = HistoryConversation("C00000001", "general")


def person(number: int) -> dict[str, Any]:
    """Return a person as `users.list` has one."""
    profile = {
        "display_name": f"A person with a name {number}",
        "email": f"person.{number}@example.com",
        "image_192": f"https://avatars.slack-edge.com/2024-01-01/{number:012d}_0123456789abcdef_192.png",
    }
    return {"id": f"U{number:08d}", "team_id": "T00000001", "is_email_confirmed": True, "profile": profile}


async def send(step: Step) -> StepResponse:
    """Answer as Slack does in a workspace with as many people as an import takes."""
    if step.method == "auth.test":
        scopes = "channels:read,channels:history,users:read"
        return StepResponse(200, {"x-oauth-scopes": scopes}, b'{"ok":true,"bot_id":"B00000001"}')
    found: dict[str, Any] = {"ok": True}
    if step.method == "users.list":
        start = int(step.call.query.get("cursor") or 0)
        found["members"] = [person(number) for number in range(start, start + _PAGE)]
        is_last = start + _PAGE == MAX_PEOPLE
        found["response_metadata"] = {"next_cursor": "" if is_last else str(start + _PAGE)}
    else:
        text = f"<@U{MAX_PEOPLE - 1:08d}>"
        found["messages"] = [
            {"type": "message", "user": "U00000000", "text": text, "ts": "1700000000.000100"}
        ]
    return StepResponse(200, {}, orjson.dumps(found))


class Stored:
    """The lists of an import, made when they are read."""

    async def people(self) -> AsyncIterator[HistoryPerson]:
        for number in range(MAX_PEOPLE):
            avatar = f"https://avatars.slack-edge.com/2024-01-01/{number:012d}_0123456789abcdef_192.png"
            yield HistoryPerson(
                Person(
                    f"U{number:08d}", f"A person with a name {number}", avatar, f"person.{number}@example.com"
                )
            )

    async def conversations(self) -> AsyncIterator[HistoryConversation]:
        yield _CHANNEL


def reader(known: Stored | None) -> AccountReader:
    spec = registry().providers["slack"].manifest.history
    assert spec is not None
    process = PageProcess("slack", spec, send, ReaderLimits())
    account = Account("T00000001", {"bot_id": "B00000001"})
    no_calls = cast("Any", None)  # `send` answers every step
    return AccountReader(
        process, no_calls, account, Walk(), known=known, span=(0.0, LATEST), since={}, samples=False
    )


def peak_of_child(source: AccountReader) -> int:
    """Return the most memory that the reader process had, in bytes."""
    pid = source._process._running().pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def test_listing_and_naming_many_people_takes_bounded_memory(note: Callable[[str], None]) -> None:
    tracemalloc.start()
    try:
        async with reader(None) as source:
            await source.contents({})
            tracemalloc.reset_peak()
            listed = 0
            async for _ in source.people():
                listed += 1
            listing = tracemalloc.get_traced_memory()[1]
        assert listed == source.listed.people == MAX_PEOPLE
        async with reader(Stored()) as source:
            await source.contents({})
            tracemalloc.reset_peak()
            await source.use_names({}, {"C00000001": "chn_1"})
            page = await source._process.page(_CHANNEL, None, since=0.0, until=LATEST)
            naming, child = tracemalloc.get_traced_memory()[1], peak_of_child(source)
    finally:
        tracemalloc.stop()
    [line] = page.lines
    assert line["m"]["text"] == f"\\@A person with a name {MAX_PEOPLE - 1}"
    note(
        f"{MAX_PEOPLE:,} people of an account: {listing // _MIB} MiB in the importer to list them, "
        f"{naming // _MIB} MiB to name them, {child // _MIB} MiB in the reader process"
    )
    assert listing < 16 * _MIB
    assert naming < 16 * _MIB
    assert child < 256 * _MIB
