"""kill -9 of importer and reader at random, with restarts of broker and database: it changes nothing.

The chat has what it has without them, byte for byte, and the report says the same. An undo takes back exactly
what the import added, although live messages come in meanwhile.
`INTERLINK_TEST_KILLS` is how often they are killed in one import, `INTERLINK_TEST_SEED` where and when.
"""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from secrets import token_hex
from time import monotonic
from typing import Any, Final, Protocol

import pytest

from interlink.embedded import EmbeddedServer
from tests.importer.archives import slack_message
from tests.importer.history_chat import HistoryChat
from tests.importer.reader_pids import readers_of
from tests.importer.test_imports import export, reached, ready
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub

KILLS: Final = int(os.environ.get("INTERLINK_TEST_KILLS", "2"))
SEED: Final = int(os.environ.get("INTERLINK_TEST_SEED", "0")) or random.SystemRandom().randrange(10**6)
TAKEOVER_S: Final = 30.0
"""In which another process goes on with the import of one that was killed."""
_BATCHES: Final = 8
"""Batches that the chat stores at most while something is killed."""
_AHEAD: Final = 150
"""Batches that are read ahead at most: 64 unconfirmed, 16 to be published, and what fits into the pipe."""
_DAYS: Final = 2 * (_AHEAD + 30 * (KILLS + 3))
"""Files of the export: both of a channel are a batch. Up to 30 batches get done for a kill."""
_MESSAGES: Final = 10
"""Of each day: with 2 kills, 6,000 in all."""
_WORDS: Final = 400
"""Of each message: the pipe takes few batches."""
_UNDONE_DAYS: Final = 200
_LONG_DAYS: Final = 4 * _AHEAD
"""The reader is at work until it is killed for the second time."""
_LIVE: Final = 20
"""Messages that come in during the undo."""


class Server(Protocol):
    """The broker or the database."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture(scope="module")
def bus(durable_bus: Bus) -> Bus:
    return durable_bus


@pytest.fixture(scope="module")
def store(own_database: EmbeddedServer) -> Store:
    return Store("an embedded database of its own", own_database.uri)


@dataclass
class Rig:
    """Two importers on one folder of uploads, the chat, and what was measured."""

    hubs: tuple[Hub, Hub]
    chat: HistoryChat
    servers: dict[str, Server]
    takeovers_s: list[float] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)

    def readers(self) -> list[tuple[Hub, int]]:
        """One of the importers has a reader: return both, the reader as its process id."""
        running = [hub for hub in self.hubs if hub.ended("importer") is None]
        return [(hub, pid) for hub in running for pid in readers_of(hub.pid("importer"))]

    def holder(self) -> tuple[Hub, int]:
        """The importer that works on the import, and the process id of its reader."""
        return eventually(self.readers, every_s=0.02)[0]

    def store_batches(self, count: int) -> None:
        """Let the chat store so many batches, and wait until it has."""
        self.chat.permits = count

        def stored() -> bool:
            """The chat gets batches."""
            return self.chat.permits < 1

        eventually(stored, every_s=0.02)

    def make_progress(self, import_id: str) -> None:
        """Let the chat store batches, one by one, until parts of the export are done that were not before.

        After a reader was killed, until there is another: it is missed when what is in its pipe was read.
        """

        def done() -> int:
            return int(self.hubs[0].call("GET", f"/api/imports/{import_id}")["items_processed"])

        def advanced() -> bool:
            """Parts of the export get done, and there is a reader."""
            self.chat.permits = max(self.chat.permits, 1)
            return done() > before and bool(self.readers())

        before = done()
        eventually(advanced, every_s=0.02)

    def kill_holder(self) -> None:
        """The other one goes on."""
        hub, _ = self.holder()
        hub.kill("importer")
        started = monotonic()
        assert self.holder()[0] is not hub
        self.takeovers_s.append(monotonic() - started)
        self.start(hub)

    def kill_both(self) -> None:
        """The whole service, which is started again."""
        for hub in self.hubs:
            hub.kill("importer")
        for hub in self.hubs:
            self.start(hub)

    def kill_reader(self, number: int = signal.SIGKILL) -> None:
        """Return when it has ended."""
        hub, reader = self.holder()
        os.kill(reader, number)
        eventually(lambda: reader not in readers_of(hub.pid("importer")), every_s=0.02)

    def restart(self, name: str) -> None:
        """Kill the broker or the database, and start it again."""
        self.servers[name].kill()
        self.servers[name].start()

    def start(self, hub: Hub) -> None:
        hub.start_service("importer")
        hub.wait_ready("importer")


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, own_database: EmbeddedServer
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("kills")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads")}
    workspace = f"w-{token_hex(4)}"
    assert bus.broker
    with ExitStack() as stack:
        first = Hub(folder / "a", bus, store, services=("importer",), env=env, workspace=workspace)
        stack.enter_context(first)
        second = Hub(folder / "b", bus, store, services=("importer",), env=first.env, workspace=workspace)
        second.admin_key = first.admin_key
        stack.callback(second.stop)
        second.start_service("importer")
        second.wait_ready("importer")
        chat = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], workspace))
        yield Rig((first, second), chat, {"broker": bus.broker, "database": own_database})
        assert not chat.errors


@pytest.fixture(autouse=True)
def quiet(rig: Rig) -> Iterator[None]:
    """The chat stores everything again, whatever a test did."""
    yield
    rig.chat.permits = inf


def days(count: int) -> dict[str, Any]:
    """Messages of many channels, with threads, reactions and what cannot be imported."""
    channels = [{"id": f"C{number:08d}", "name": f"c{number}"} for number in range((count + 1) // 2)]
    found: dict[str, Any] = {"channels": channels}
    for day in range(count):
        start = 1_600_041_600 + 86_400 * day
        messages: list[dict[str, Any]] = [
            slack_message(f"{start + 60 * number}.000100", f"*{day}* <@U00000002> {number}{' word' * _WORDS}")
            for number in range(_MESSAGES)
        ]
        messages[1]["thread_ts"] = messages[0]["ts"]
        messages[2]["reactions"] = [{"name": "tada", "users": ["U00000001"], "count": 1}]
        messages[3]["text"] = "unacceptable"
        messages[4] = {"type": "message", "ts": "never"}
        date = datetime.fromtimestamp(start, UTC).date().isoformat()
        found[f"c{day // 2}/{date}"] = messages
    return found


def state_of(chat: HistoryChat) -> bytes:
    """All that the chat has but the id of the import: the messages of a channel in the order they came."""
    channels: dict[str, list[Any]] = {}
    for message in chat.messages.values():
        known = {name: value for name, value in message.items() if name != "import_id"}
        channels.setdefault(message["channel_id"], []).append(known)
    state = {"users": chat.users, "channels": chat.channels, "messages": channels}
    return json.dumps(state, sort_keys=True).encode()


def result_of(hub: Hub, import_id: str) -> bytes:
    """What the hub says of the import."""
    path = f"/api/imports/{import_id}"
    shown = hub.call("GET", path)
    report = hub.call("GET", f"{path}/report")
    issues: list[Any] = []
    query: dict[str, str] | None = {"limit": "100"}
    while query is not None:
        page = hub.call("GET", f"{path}/issues", params=query)
        issues += page["items"]
        query = query | {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    selected = {name: shown[name] for name in ("status", "counts", "confirmed", "added", "issues")}
    return json.dumps([selected, report["days"], issues], sort_keys=True).encode()


def undone(hub: Hub, done: dict[str, Any]) -> None:
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": done["added"]})
    assert reached(hub, done["id"], "undone", within_s=300)["added"] == 0


def test_kills_and_restarts_change_nothing(rig: Rig, note: Callable[[str], None]) -> None:
    rng = random.Random(SEED)  # noqa: S311 -- to be repeated
    note(f"kills of an import: seed {SEED}")
    hub, content = rig.hubs[0], export(days(_DAYS))
    found = ready(hub, content)
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    done = reached(hub, found["id"], "completed", "failed", within_s=300)
    assert done["added"] == _DAYS * (_MESSAGES - 2)
    undisturbed = state_of(rig.chat), result_of(hub, found["id"])
    undone(hub, done)
    assert (rig.chat.messages, rig.chat.channels, rig.chat.users) == ({}, {}, {})

    found = ready(hub, content)
    rig.chat.permits = 0
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    acts: dict[str, Callable[[], None]] = {
        "importer": rig.kill_holder,
        "reader": rig.kill_reader,
        "both importers": rig.kill_both,
        "broker": lambda: rig.restart("broker"),
        "database": lambda: rig.restart("database"),
    }
    order = [rng.choices(("importer", "reader", "both importers"), (5, 5, 1))[0] for _ in range(KILLS - 1)]
    for name in ("importer", "broker", "database"):  # at least once
        order.insert(rng.randint(1, len(order)), name)
    for name in order:
        rig.make_progress(found["id"])
        rig.chat.permits = rng.randint(0, _BATCHES)
        acts[name]()
        rig.killed[name] = rig.killed.get(name, 0) + 1
    shown = hub.call("GET", f"/api/imports/{found['id']}")
    assert shown["status"] == "running", "it was over before it was killed for the last time"
    assert shown["items_processed"] < _DAYS * _MESSAGES, "all of it was done by then"
    rig.chat.permits = inf
    done = reached(hub, found["id"], "completed", "failed", within_s=300)
    assert done["status"] == "completed", done
    assert (state_of(rig.chat), result_of(hub, found["id"])) == undisturbed
    assert rig.takeovers_s
    assert max(rig.takeovers_s) < TAKEOVER_S, rig.takeovers_s
    note(
        f"killed in one import of {done['added']} messages: {rig.killed}; another process went on within "
        f"{max(rig.takeovers_s):.1f} s; {len(rig.chat.batches)} batches, "
        f"{len(rig.chat.batches) - len({batch['batch_id'] for batch in rig.chat.batches})} of them again"
    )


def test_an_undo_leaves_what_comes_in_meanwhile(rig: Rig) -> None:
    """Also when the importers are killed. Messages that are answered before it gets to them stay."""
    rng = random.Random(SEED)  # noqa: S311 -- to be repeated
    hub, chat = rig.hubs[0], rig.chat
    before = {**chat.messages}
    found = ready(hub, export(days(_UNDONE_DAYS), team="T00000009"))
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    done = reached(hub, found["id"], "completed", "failed", within_s=300)
    assert done["added"] == _UNDONE_DAYS * (_MESSAGES - 2)

    chat.permits = 0
    undo = {"messages": done["added"], "keep_answered": True}
    own = [item for item in chat.messages.values() if item["import_id"] == found["id"]]
    hub.call("POST", f"/api/imports/{found['id']}/undo", undo)
    live: dict[str, str | None] = {}
    for number in range(_LIVE):
        rig.store_batches(1)
        parent = rng.choice(own)
        message_id, thread = f"msg_{token_hex(16)}", parent["message_id"] if number % 2 else None
        live[message_id] = thread
        chat.add(message_id, parent["channel_id"], f"live {number}", thread)
        if number == _LIVE // 2:
            rig.kill_both()
    chat.permits = inf
    after = reached(hub, found["id"], "undone", within_s=120)
    now = {name: item for name, item in chat.messages.items() if name not in before}
    assert now.keys() >= live.keys()
    assert {now[name]["text"] for name in live} == {f"live {number}" for number in range(_LIVE)}
    answered = now.keys() - live.keys()
    assert answered
    assert answered <= set(live.values())
    assert after["added"] == len(answered)
    assert {name: item for name, item in chat.messages.items() if name in before} == before


def test_a_unit_that_takes_too_long_costs_only_itself(rig: Rig) -> None:
    """The kernel ends a reader after its CPU time. The next one reads each unit alone, to know which."""
    hub, content = rig.hubs[0], export(days(_LONG_DAYS), team="T00000011")
    found = ready(hub, content)
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    for batches in (_BATCHES, _AHEAD):  # the later ones are of a reader that was started again
        rig.store_batches(batches)
        rig.kill_reader(signal.SIGPROF)
    rig.chat.permits = inf
    done = reached(hub, found["id"], "completed", "failed", within_s=300)
    assert done["status"] == "completed", done["error"]
    issues: list[dict[str, Any]] = []
    query = {"limit": "500"}
    while True:
        page = hub.call("GET", f"/api/imports/{found['id']}/issues", params=query)
        issues += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    lost = sum(issue["reason"].startswith("it takes too long") for issue in issues)
    assert lost == 1
    whole = _LONG_DAYS * (_MESSAGES - 2)
    assert whole - lost * _MESSAGES <= done["added"] <= whole, "a message is missing without an issue"


def test_a_reader_that_is_killed_again_and_again_ends_its_import(rig: Rig) -> None:
    """A system that lacks memory for an export kills each reader of it."""
    hub, found = rig.hubs[0], ready(rig.hubs[0], export(days(3), team="T00000010"))
    rig.chat.permits = 0
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    for _ in range(10):
        rig.kill_reader()
    failed = reached(hub, found["id"], "failed")
    assert failed["error"].startswith("its reader process was killed again and again")
