"""Configuration in memory over a real MongoDB: which process sees which change, and from when."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from secrets import token_hex
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from pydantic import SecretStr

from interlink.embedded import EmbeddedPair
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime import configuration, snapshot
from shared.runtime.clock import utcnow
from shared.runtime.configuration import COLLECTION, Configuration
from shared.runtime.metrics import CONFIGURATION_UNCHECKED
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from shared.runtime.shared_check import SharedCheck
from shared.runtime.snapshot import Snapshot
from tests.support.backends import Store, in_database


class Process:
    """A process: a connection and a memory of its own."""

    def __init__(self, uri: str) -> None:
        log = structlog.get_logger()
        self.mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="test")
        self.configuration = Configuration(self.mongo, log)
        self.collection = self.mongo.collection("things")
        self.changes: list[tuple[int | None, int | None]] = []
        self.snapshot: Snapshot[int] = Snapshot(
            self.configuration,
            self.collection,
            lambda document: int(document["value"]),
            log,
            on_change=lambda before, after: self.changes.append((before, after)),
        )

    async def set(self, name: str, value: int | None) -> None:
        """Write a document, or delete it, as an API call does before it responds."""
        now = utcnow()
        deletion = {"deleted_at": now} if value is None else {"deleted_at": None}
        document = {"_id": name, "value": value or 0, "changed_at": now, **deletion}
        await self.collection.replace_one({"_id": name}, document, upsert=True)
        await self.snapshot.announce(name)

    async def get(self, name: str) -> int | None:
        assert await self.configuration.current()
        return self.snapshot.items.get(name)


@asynccontextmanager
async def processes(uri: str, count: int) -> AsyncIterator[list[Process]]:
    group = [Process(uri) for _ in range(count)]
    try:
        for process in group:
            await process.configuration.start()
            await process.snapshot.start()
        yield group
    finally:
        for process in group:
            await process.snapshot.stop()
            await process.configuration.stop()
            process.mongo.close()


async def test_a_change_recorded_in_one_process_is_in_effect_in_all(store: Store) -> None:
    """Several tasks write and read concurrently; each read is at least as new as the last response."""
    answered: dict[str, int] = {}
    async with processes(store.uri(), 3) as group:

        async def work(number: int) -> None:
            for turn in range(60):
                name = f"thing/{number}"
                value = turn + 1 if turn % 5 else None
                await group[(turn + number) % 3].set(name, value)
                answered[name] = value or 0
                for reader in group:
                    assert (await reader.get(name) or 0) == answered[name]

        await asyncio.gather(*(work(number) for number in range(8)))


async def test_a_process_that_has_just_checked_knows_an_acknowledged_change(store: Store) -> None:
    """It checks without a pause, so that at any time its last check is younger than it may be."""
    async with processes(store.uri(), 2) as [first, second]:
        checks = 0

        async def check() -> None:
            nonlocal checks
            while True:
                assert await second.configuration.current()
                checks += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(check())
        for value in range(1, 21):
            await first.set("a", value)
            assert await second.get("a") == value
        task.cancel()
        assert checks > 100  # most of them without reading


async def test_on_change_gets_the_item_before_and_after(store: Store) -> None:
    async with processes(store.uri(), 2) as [first, second]:
        for value in (1, 2, None, None):
            await first.set("a", value)
            await second.get("a")
        assert first.changes == second.changes == [(None, 1), (1, 2), (2, None)]


async def test_callers_share_a_run_that_started_after_their_call() -> None:
    """All calls during a run get the next run, and none gets a run that had begun."""
    started, finished = 0, 0

    async def run() -> bool:
        nonlocal started, finished
        started += 1
        await asyncio.sleep(0.005)
        finished += 1
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None)
    calls = 0

    async def ask(pause: float) -> None:
        nonlocal calls
        await asyncio.sleep(pause)
        before = started
        assert await shared()
        assert finished > before
        calls += 1

    await asyncio.gather(*(ask(number / 5000) for number in range(500)))
    assert calls == 500
    assert started <= 25
    await shared.stop()


async def test_a_run_that_succeeds_counts_for_the_calls_of_a_while() -> None:
    """From its start, because what it reads may be that old. Calls share it, under way or done."""
    starts: list[float] = []

    async def run() -> bool:
        starts.append(monotonic())
        await asyncio.sleep(0.004)
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None, valid_s=0.02)

    async def ask(pause: float) -> None:
        await asyncio.sleep(pause)
        called_at = monotonic()
        assert await shared()
        assert starts[-1] > called_at - 0.02

    await asyncio.gather(*(ask(number / 2000) for number in range(200)))
    assert len(starts) >= 2
    assert min(after - before for before, after in pairwise(starts)) >= 0.02
    await shared.stop()


async def test_a_slow_run_does_not_count_for_the_calls_after_its_time() -> None:
    """They wait for the next run: a write may have been acknowledged before them."""
    starts: list[float] = []

    async def run() -> bool:
        starts.append(monotonic())
        await asyncio.sleep(0.1)
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None, valid_s=0.02)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0.05)
    called_at = monotonic()
    assert await shared()
    assert starts[-1] > called_at - 0.02
    assert await first
    assert len(starts) == 2


async def test_a_run_that_fails_counts_for_its_callers_only() -> None:
    results = [False, True]

    async def run() -> bool:
        return results.pop(0)

    shared = SharedCheck(run, wait_s=5, late=lambda: None, valid_s=60)
    assert [await shared() for _ in range(3)] == [False, True, True]


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    async def run() -> bool:
        await asyncio.sleep(0.02)
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None)
    callers = [asyncio.create_task(shared()) for _ in range(3)]
    await asyncio.sleep(0.01)
    callers[1].cancel()
    stored = await asyncio.gather(*callers, return_exceptions=True)
    assert [stored[0], stored[2]] == [True, True]
    assert isinstance(stored[1], asyncio.CancelledError)


async def test_a_process_that_was_stopped_waits_for_the_answer() -> None:
    """SIGSTOP, or a busy machine: MongoDB has answered, and the answer is not read yet."""

    async def run() -> bool:
        await asyncio.sleep(0.05)
        sleep(0.5)  # noqa: ASYNC251 -- it stands still
        await asyncio.sleep(0.02)
        return True

    shared = SharedCheck(run, wait_s=0.1, late=lambda: pytest.fail("given up"))
    assert await shared()


async def test_connections_that_were_closed_do_not_make_the_configuration_stale(store: Store) -> None:
    """A firewall or a restarted MongoDB closes connections that stood idle."""
    uri = urlsplit(store.uri())
    closing: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_store, to_store = await asyncio.open_connection(uri.hostname, uri.port)
        closing.extend((writer, to_store))
        await asyncio.gather(_copy(reader, to_store), _copy(from_store, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    through = store.uri().replace(f"{uri.hostname}:{uri.port}", f"127.0.0.1:{port}")
    async with processes(through, 1) as [process]:
        for _ in range(3):
            assert await process.configuration.current()
            while closing:
                closing.pop().transport.abort()
            await asyncio.sleep(configuration._CHECK_VALID_S)
            assert await process.configuration.current()
    server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)


async def test_a_process_that_missed_too_many_changes_reloads_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_MAX_RECENT_CHANGES", 5)
    async with processes(store.uri(), 2) as [first, second]:
        for number in range(20):
            await first.set(f"thing-{number}", number)
        await first.set("thing-7", None)
        assert await second.configuration.current()
        assert second.snapshot.items == {f"thing-{number}": number for number in range(20) if number != 7}


async def test_a_restored_database_is_reloaded(store: Store) -> None:
    """After a restore from a backup the version is an older one."""
    uri = store.uri()
    async with processes(uri, 2) as [first, second]:
        for number in range(5):
            await first.set("a", number)
            assert await second.get("a") == number
        version = first.mongo.collection(COLLECTION)
        await version.delete_many({})
        await first.collection.update_one({"_id": "a"}, {"$set": {"value": 77}})
        await asyncio.sleep(configuration._CHECK_VALID_S)
        assert await second.get("a") == 77
        await first.set("a", 78)
        assert await second.get("a") == 78


async def test_a_change_without_a_record_is_found_by_polling(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer died before it could respond."""
    monkeypatch.setattr(snapshot, "_POLL_INTERVAL_S", 0.05)
    async with processes(store.uri(), 1) as [first]:
        await first.collection.insert_one({"_id": "a", "value": 1, "changed_at": utcnow()})
        async with asyncio.timeout(60):
            while first.snapshot.items.get("a") != 1:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.02)


async def test_only_changed_documents_are_read(store: Store) -> None:
    read: list[Collection[str] | None] = []

    async def load(ids: Collection[str] | None) -> None:
        read.append(ids and list(ids))

    async with processes(store.uri(), 2) as [first, second]:
        second.configuration.follow("things", load)
        for number in range(4):
            await first.set(f"thing-{number % 2}", number)
        await asyncio.gather(*(second.configuration.current() for _ in range(50)))
        assert read == [["thing-0", "thing-1"]]
        await second.configuration.current()
        assert len(read) == 1


async def test_callers_do_not_wait_for_an_unavailable_database(pair: EmbeddedPair) -> None:
    """The first callers wait for a second, later ones not at all, until the database answers again."""
    uri = in_database(pair.mongodb_uri, f"test_{token_hex(6)}")
    async with processes(uri, 2) as [first, second]:
        await first.set("a", 1)
        assert await second.get("a") == 1
        database = pair.database.child.pid
        assert database
        os.kill(database, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.2)  # its threads do not stop at once
            started = monotonic()
            results = await asyncio.gather(*(second.configuration.current() for _ in range(50)))
            assert not any(results)
            waited = monotonic() - started
            assert 0.9 < waited < 10
            started = monotonic()
            for _ in range(1000):
                assert not await second.configuration.current()
            assert monotonic() - started < 10, "one that waits takes a second"
            assert CONFIGURATION_UNCHECKED._value.get() == 1
            assert second.snapshot.items == {"a": 1}
        finally:
            os.kill(database, signal.SIGCONT)
        await first.set("a", 2)
        async with asyncio.timeout(60):
            while not await second.configuration.current():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert second.snapshot.items == {"a": 2}
        assert CONFIGURATION_UNCHECKED._value.get() == 0


async def test_who_can_be_asked_to_repeat_waits_for_a_slow_database(
    pair: EmbeddedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than others, so that what was acknowledged counts; and not for ever."""
    uri = in_database(pair.mongodb_uri, f"test_{token_hex(6)}")
    async with processes(uri, 2) as [first, second]:
        await first.set("a", 1)
        database = pair.database.child.pid
        assert database
        os.kill(database, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.2)  # its threads do not stop at once
            waiting = [asyncio.create_task(second.configuration.ensure_current()) for _ in range(50)]
            await asyncio.sleep(2)
            assert second.configuration.is_stale
            assert not any(task.done() for task in waiting)
        finally:
            os.kill(database, signal.SIGCONT)
        await asyncio.gather(*waiting)
        assert second.snapshot.items == {"a": 1}
        monkeypatch.setattr(configuration, "_ENSURE_TIMEOUT_S", 0.5)
        os.kill(database, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.2)
            started = monotonic()
            with pytest.raises(DatabaseUnavailable):
                await second.configuration.ensure_current()
            assert 1.4 < monotonic() - started < 10
        finally:
            os.kill(database, signal.SIGCONT)
        await second.configuration.ensure_current()


async def test_concurrent_first_changes_are_all_counted(store: Store) -> None:
    """In a new database, where the version document does not exist yet."""
    uri = store.uri()
    group = [Process(uri) for _ in range(4)]
    await asyncio.gather(
        *(process.configuration.announce("things", f"{number}") for number, process in enumerate(group))
    )
    stored: Any = await group[0].mongo.collection(COLLECTION).find_one({})
    assert stored["version"] == len(stored["recent"]) == 4
    for process in group:
        process.mongo.close()


async def test_deleted_documents_take_no_memory(store: Store) -> None:
    """A workspace that creates and deletes without end leaves no more than tombstones."""
    async with processes(store.uri(), 1) as [process]:
        await process.collection.delete_many({})
        await process.set("stays", 1)
        for number in range(20):
            await process.set(f"thing{number}", number)
            await process.set(f"thing{number}", None)
        assert len(process.snapshot._seen) == 21
        await process.collection.delete_many(
            {"deleted_at": {"$ne": None}}
        )  # as the index with a lifetime does
        await process.snapshot.load(None)
        assert process.snapshot.items == {"stays": 1}
        assert set(process.snapshot._seen) == {"stays"}


async def test_a_check_that_never_ends_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for, cancelled or not: else the process would not be current any more."""
    monkeypatch.setattr(configuration, "_CATCH_UP_TIMEOUT_S", 0.5)
    async with processes(store.uri(), 2) as [first, second]:
        hung = asyncio.Event()

        async def hang(_: Collection[str] | None) -> None:
            if hung.is_set():
                return
            hung.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(3600)  # as the driver does that closes a connection

        second.configuration.follow("things", hang)
        await first.set("a", 1)
        assert not await second.configuration.current()
        assert hung.is_set()
        await second.configuration.ensure_current()
        assert await second.get("a") == 1


async def test_a_client_that_stays_broken_is_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_CLIENT_TIMEOUT_S", 0.5)
    async with processes(store.uri(), 2) as [first, second]:
        await second.configuration.collection("things").database.client.close()
        assert not await second.configuration.current()
        await first.set("a", 1)
        async with asyncio.timeout(30):
            while not await second.configuration.current():  # noqa: ASYNC110 -- it answers at once
                await asyncio.sleep(0.05)
        assert await second.get("a") == 1
