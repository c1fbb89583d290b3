"""The parts of live updates on their own: what many viewers cost, what a viewer is shown, and bounds."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from services.console import app as console
from services.console.hub_api import HubApi, Member
from services.console.live import event_feed
from services.console.live import streams as streams_module
from services.console.live.event_feed import EventFeed
from services.console.live.events import RING, EventFilter, EventRing, LiveEvent, parse_record
from services.console.live.streams import Streams
from services.console.sessions.sign_in import SignIn
from services.console.web import live
from services.console.web.event_stream import message
from services.console.web.frame import Frame
from services.console.web.live import Live
from services.console.web.overview import Overview
from services.console.web.static_files import StaticFiles
from services.console.web.visits import Visit
from shared.contracts.envelope import Event
from shared.contracts.errors import DatabaseUnavailable, OverLimit
from shared.contracts.ids import ApiKeyId, WorkspaceId
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime.draining import Draining
from shared.runtime.kafka.tail import TailBatch, TailedRecord
from shared.runtime.logs import configure
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.settings import KafkaSettings
from shared.runtime.web.access import ApiKey
from tests.console.hostile import ELEMENTS, short_ones
from tests.console.person import _Page
from tests.support.eventually import until

KEY: Final = ApiKey(ApiKeyId("key_1"), WorkspaceId("default"), frozenset({"admin"}), None)
VIEWERS: Final = 100


@pytest.fixture
def frame() -> Frame:
    return Frame(StaticFiles(Path(console.__file__).parent / "static"))


@pytest.fixture
async def services() -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server in place of all services: its address, and the calls that it got by path."""
    calls: Counter[str] = Counter()
    answers: dict[str, Any] = {
        "/api/queue/stats": {
            **dict.fromkeys(("pending", "active", "failed", "delayed", "completed"), 3),
            "oldest_due_s": 4.0,
        },
        "/api/sync/queue/stats": {"waiting": 0, "failed": 0},
        "/api/statistics": {
            name: {"total": 0, "by_name": [], "hours": []} for name in ("events", "rate_limited")
        },
        "/api/queue/stats/hours": {"hours": [], "together": {"delivered": 0, "failed_attempts": 0}},
    }

    async def answer(request: web.Request) -> web.Response:
        calls[request.path_qs] += 1
        return web.json_response(answers.get(request.path, {"items": [], "next_cursor": None}))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", calls
    await runner.cleanup()


async def test_a_hundred_viewers_cost_the_services_the_calls_of_one(
    frame: Frame, services: tuple[str, Counter[str]]
) -> None:
    address, calls = services
    hub = HubApi(Vault(LocalKeyProvider([b"k" * 32])), address, {})
    feed = EventFeed(KafkaSettings(bootstrap_servers="127.0.0.1:1"), configure("test", "error"), instance="x")
    overview = Overview(hub, frame, feed)
    visits = [Visit(f"session-{n}", f"record-{n}", Member(KEY, "")) for n in range(VIEWERS)]
    seen = await asyncio.gather(*map(overview.figures, visits))
    assert len(calls) > 8
    assert set(calls.values()) == {1}, "each part was read once"
    assert all(html is seen[0] for html in seen), "the figures were rendered once"
    await hub.stop()


def event(number: int, **fields: str) -> LiveEvent:
    values = {"id": f"evt_{number}", "type": "a.b", "provider": "p", "endpoint_id": "", **fields}
    return LiveEvent(at="2026-01-01T00:00:00Z", scope="webhooks:read", **values)


def test_a_viewer_learns_how_much_was_left_out() -> None:
    ring, all_of_it = EventRing(), EventFilter()
    position = ring.newest(all_of_it, KEY, 10).position
    for number in range(30):
        ring.add(event(number))
    passed = ring.since(position, all_of_it, KEY, 10)
    assert [item.id for item in passed.events] == [f"evt_{n}" for n in range(20, 30)]
    assert (passed.left_out, passed.is_incomplete) == (20, False)
    assert ring.since(passed.position, all_of_it, KEY, 10).events == []
    after = ring.after("evt_27", all_of_it, KEY, 10)
    assert [item.id for item in after.events] == ["evt_28", "evt_29"]
    assert ring.after("evt_unknown", all_of_it, KEY, 10).is_incomplete
    for number in range(RING + 1):
        ring.add(event(100 + number))
    assert ring.since(passed.position, all_of_it, KEY, 10).is_incomplete


def test_a_position_of_an_earlier_ring_is_incomplete() -> None:
    ring = EventRing()
    ring.add(event(1))
    page = ring.since(7, EventFilter(), KEY, 10)
    assert ([item.id for item in page.events], page.position, page.is_incomplete) == (["evt_1"], 1, True)


async def test_the_first_viewer_after_a_time_without_viewers_sees_the_newest_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def tail(*_: Any, **__: Any) -> AsyncIterator[TailBatch]:
        reads.append(1)
        record = TailedRecord(WEBHOOKS_RECEIVED.name, published.headers())
        while True:
            yield TailBatch([record], is_incomplete=False)  # a reconnect reads records again
            await asyncio.sleep(0)

    reads: list[int] = []
    published = Event(
        id="evt_1", type="a.b", source="p", workspace="default", time="2026-01-01T00:00:00Z", data=b"{}"
    )
    monkeypatch.setattr(event_feed, "tail", tail)
    monkeypatch.setattr(event_feed, "_RETRY_S", 0)
    monkeypatch.setattr(event_feed, "_WATCHED_S", 0)
    feed = EventFeed(KafkaSettings(bootstrap_servers="127.0.0.1:1"), configure("test", "error"), instance="x")
    await feed.start()
    for viewer in (1, 2):
        ring = feed.ring("default")
        await until(lambda: not feed._rings, every_s=0)
        assert len(ring.newest(EventFilter(), KEY, 10).events) == 1
        assert len(reads) == viewer
    await feed.stop()


async def test_nothing_is_sent_while_the_key_of_a_stream_cannot_be_read(
    frame: Frame, services: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[ApiKey | DatabaseUnavailable | None] = [*[DatabaseUnavailable("away")] * 3, None]
    feed = EventFeed(KafkaSettings(bootstrap_servers="127.0.0.1:1"), configure("test", "error"), instance="x")

    class Sessions(Streams):
        async def key_of(self, session: str) -> ApiKey | None:
            del session
            outcome = outcomes.pop(0)
            if isinstance(outcome, DatabaseUnavailable):
                feed.ring("default").add(event(len(outcomes)))
                raise outcome
            return outcome

    monkeypatch.setattr(live, "_TICK_S", 0)
    hub = HubApi(Vault(LocalKeyProvider([b"k" * 32])), services[0], {})
    streams = Sessions(SignIn.__new__(SignIn), Draining())
    visit = Visit("session", "record", Member(KEY, ""))
    pages = Live(Overview(hub, frame, feed), feed, streams, frame)
    sent = [chunk async for chunk in pages._messages(visit, EventFilter(), "")]
    assert sent == [b"retry: 1000\n\n", message("ended")]
    await hub.stop()


def test_a_filter_takes_provider_part_of_a_type_and_endpoint() -> None:
    one = event(1, type="github.push", provider="github", endpoint_id="ep_1")
    for wanted in ({}, {"provider": "GitHub"}, {"type": "PUSH"}, {"endpoint": "ep_1"}):
        assert EventFilter(**wanted).matches(one)
    for unwanted in ({"provider": "git"}, {"type": "pull"}, {"endpoint": "ep_"}):
        assert not EventFilter(**unwanted).matches(one)


@pytest.mark.parametrize("text", short_ones())
def test_hostile_names_of_events_are_text(frame: Frame, text: str) -> None:
    hostile = Event(
        id=text,
        type=text,
        source=text,
        workspace="default",
        time="2026-01-01T00:00:00Z",
        data=b"{}",
        attributes={"provider": text, "endpoint_id": text},
    )
    found = parse_record(TailedRecord(WEBHOOKS_RECEIVED.name, hostile.headers()))
    assert found
    html = frame.fragment("event_rows.html", events=[found[1]])
    page = _Page(html)
    assert [tag for tag, _ in page.elements if tag in ELEMENTS] == []
    assert {tag for tag, _ in page.elements} <= {"li", "time", "a", "span", "code"}
    assert all(link.startswith("/console/") for link in page.links)


def test_a_record_without_an_envelope_is_passed_over() -> None:
    assert parse_record(TailedRecord(WEBHOOKS_RECEIVED.name, [("ce_id", None)])) is None


def test_streams_are_bounded_for_a_member_a_workspace_and_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = ((4, "this console has"), (3, "your workspace has"), (2, "you have"), (1, "this session has"))
    monkeypatch.setattr(streams_module, "_LIMITS", limits)
    streams = Streams(SignIn.__new__(SignIn), Draining())

    def key(name: str, workspace: str) -> ApiKey:
        return ApiKey(ApiKeyId(name), WorkspaceId(workspace), frozenset({"admin"}), None)

    first = streams.open("s1", key("a", "w"))
    for session, member, workspace, refusal in (
        ("s1", "a", "w", "this session has 1"),
        ("s2", "a", "w", ""),
        ("s3", "a", "w", "you have 2"),
        ("s4", "b", "w", ""),
        ("s5", "c", "w", "your workspace has 3"),
        ("s6", "d", "v", ""),
        ("s7", "e", "u", "this console has 4"),
    ):
        if refusal:
            with pytest.raises(OverLimit, match=refusal):
                streams.open(session, key(member, workspace))
        else:
            streams.open(session, key(member, workspace))
    first.close()
    first.close()
    streams.open("s1", key("a", "w"))
    with pytest.raises(OverLimit):
        streams.open("s8", key("f", "u"))
