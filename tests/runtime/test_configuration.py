"""Configuration in memory that is checked on use, over the real store: who sees what, and from when on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from secrets import token_hex
from time import monotonic, sleep
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from pymongo import ReadPreference

from interlink.embedded import EmbeddedPair
from shared.runtime import configuration, snapshot
from shared.runtime.configuration import COLLECTION, Configuration
from shared.runtime.metrics import CONFIGURATION_UNCHECKED
from shared.runtime.mongo import Mongo, utcnow
from shared.runtime.settings import MongoSettings
from shared.runtime.shared_check import SharedCheck
from shared.runtime.snapshot import Snapshot
from tests.support.backends import Store, in_database


class Process:
    """What a process has: its own connection and its own memory."""

    def __init__(self, uri: str) -> None:
        log = structlog.get_logger()
        self.mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="test")
        self.configuration = Configuration(self.mongo, log)
        self.collection = self.mongo.collection("things")
        self.changes: list[tuple[int | None, int | None]] = []
        self.known: Snapshot[int] = Snapshot(
            self.configuration,
            self.collection,
            lambda document: int(document["value"]),
            log,
            on_change=lambda before, after: self.changes.append((before, after)),
        )

    async def set(self, name: str, value: int | None) -> None:
        """Write a thing, or remove it, as an API call does before it answers."""
        now = utcnow()
        gone = {"deleted_at": now} if value is None else {"deleted_at": None}
        document = {"_id": name, "value": value or 0, "changed_at": now, **gone}
        await self.collection.replace_one({"_id": name}, document, upsert=True)
        await self.known.record(name)

    async def get(self, name: str) -> int | None:
        assert await self.configuration.current()
        return self.known.items.get(name)


@asynccontextmanager
async def processes(uri: str, count: int) -> AsyncIterator[list[Process]]:
    made = [Process(uri) for _ in range(count)]
    try:
        for each in made:
            await each.configuration.start()
            await each.known.start()
        yield made
    finally:
        for each in made:
            await each.known.stop()
            await each.configuration.stop()
            each.mongo.close()


async def test_what_one_process_recorded_every_process_knows(store: Store) -> None:
    """Several write and read side by side; each read is at least as new as the last answer."""
    answered: dict[str, int] = {}
    async with processes(store.uri(), 3) as made:

        async def work(number: int) -> None:
            for turn in range(60):
                name = f"thing/{number}"
                value = turn + 1 if turn % 5 else None
                await made[(turn + number) % 3].set(name, value)
                answered[name] = value or 0
                for reader in made:
                    assert (await reader.get(name) or 0) == answered[name]

        await asyncio.gather(*(work(number) for number in range(8)))


async def test_a_change_is_told_with_what_was_before(store: Store) -> None:
    async with processes(store.uri(), 2) as [one, other]:
        for value in (1, 2, None, None):
            await one.set("a", value)
            await other.get("a")
        assert one.changes == other.changes == [(None, 1), (1, 2), (2, None)]


async def test_readers_share_a_read_that_started_after_they_asked() -> None:
    """As many as ask meanwhile get one run; nobody gets one that had begun."""
    began, ended = 0, 0

    async def run() -> bool:
        nonlocal began, ended
        began += 1
        await asyncio.sleep(0.005)
        ended += 1
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None)
    calls = 0

    async def ask(pause: float) -> None:
        nonlocal calls
        await asyncio.sleep(pause)
        before = began
        assert await shared()
        assert ended > before
        calls += 1

    await asyncio.gather(*(ask(number / 5000) for number in range(500)))
    assert calls == 500
    assert began <= 25
    await shared.stop()


async def test_a_caller_that_goes_away_leaves_the_others_their_answer() -> None:
    async def run() -> bool:
        await asyncio.sleep(0.02)
        return True

    shared = SharedCheck(run, wait_s=5, late=lambda: None)
    callers = [asyncio.create_task(shared()) for _ in range(3)]
    await asyncio.sleep(0.01)
    callers[1].cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [found[0], found[2]] == [True, True]
    assert isinstance(found[1], asyncio.CancelledError)


async def test_a_process_that_stood_still_waits_for_the_answer() -> None:
    """SIGSTOP, or a machine that is busy: the database has answered, and nobody has read it."""

    async def run() -> bool:
        await asyncio.sleep(0.05)
        sleep(0.5)  # noqa: ASYNC251 -- it stands still
        await asyncio.sleep(0.02)
        return True

    shared = SharedCheck(run, wait_s=0.1, late=lambda: pytest.fail("given up"))
    assert await shared()


async def test_configuration_is_read_from_the_primary(store: Store) -> None:
    uri = store.uri()
    uri += f"{'&' if '?' in uri else '?'}readPreference=secondaryPreferred"
    database = Mongo(MongoSettings(uri=SecretStr(uri)), app="test").async_database()
    assert database["x"].read_preference == ReadPreference.PRIMARY
    await database.client.close()


async def test_a_process_that_missed_too_much_reads_everything(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_MAX_RECENT_CHANGES", 5)
    async with processes(store.uri(), 2) as [one, other]:
        for number in range(20):
            await one.set(f"thing-{number}", number)
        await one.set("thing-7", None)
        assert await other.configuration.current()
        assert other.known.items == {f"thing-{number}": number for number in range(20) if number != 7}


async def test_a_database_that_went_back_is_read_anew(store: Store) -> None:
    """As when a backup is played in: the version is an older one, and there is nothing to wait for."""
    uri = store.uri()
    async with processes(uri, 2) as [one, other]:
        for number in range(5):
            await one.set("a", number)
            assert await other.get("a") == number
        version = one.mongo.collection(COLLECTION)
        await version.delete_many({})
        await one.collection.update_one({"_id": "a"}, {"$set": {"value": 77}})
        assert await other.get("a") == 77
        await one.set("a", 78)
        assert await other.get("a") == 78


async def test_a_change_without_its_record_is_found_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer died before it could answer."""
    monkeypatch.setattr(snapshot, "_POLL_INTERVAL_S", 0.05)
    async with processes(store.uri(), 1) as [one]:
        await one.collection.insert_one({"_id": "a", "value": 1, "changed_at": utcnow()})
        async with asyncio.timeout(5):
            while one.known.items.get("a") != 1:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.02)


async def test_only_what_has_changed_is_read(store: Store) -> None:
    read: list[Collection[str] | None] = []

    async def load(ids: Collection[str] | None) -> None:
        read.append(ids and list(ids))

    async with processes(store.uri(), 2) as [one, other]:
        other.configuration.follow("things", load)
        for number in range(4):
            await one.set(f"thing-{number % 2}", number)
        await asyncio.gather(*(other.configuration.current() for _ in range(50)))
        assert read == [["thing-0", "thing-1"]]
        await other.configuration.current()
        assert len(read) == 1


async def test_nobody_waits_for_a_database_that_is_away(pair: EmbeddedPair) -> None:
    """The first wait for a second; then nobody, until it is found again."""
    uri = in_database(pair.mongodb_uri, f"test_{token_hex(6)}")
    async with processes(uri, 2) as [one, other]:
        await one.set("a", 1)
        assert await other.get("a") == 1
        database = pair.store.child.pid
        assert database
        os.kill(database, signal.SIGSTOP)
        try:
            began = monotonic()
            first = await asyncio.gather(*(other.configuration.current() for _ in range(50)))
            assert not any(first)
            waited = monotonic() - began
            assert 0.9 < waited < 1.9
            began = monotonic()
            for _ in range(1000):
                assert not await other.configuration.current()
            assert monotonic() - began < 0.5
            assert CONFIGURATION_UNCHECKED._value.get() == 1
            assert other.known.items == {"a": 1}
        finally:
            os.kill(database, signal.SIGCONT)
        await one.set("a", 2)
        async with asyncio.timeout(10):
            while not await other.configuration.current():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert other.known.items == {"a": 2}
        assert CONFIGURATION_UNCHECKED._value.get() == 0


async def test_two_that_begin_at_the_same_time_count_every_change(store: Store) -> None:
    """Of a new database: nobody has made the document yet."""
    uri = store.uri()
    made = [Process(uri) for _ in range(4)]
    await asyncio.gather(
        *(each.configuration.record("things", f"{number}") for number, each in enumerate(made))
    )
    found: Any = await made[0].mongo.collection(COLLECTION).find_one({})
    assert found["version"] == len(found["recent"]) == 4
    for each in made:
        each.mongo.close()


async def test_what_is_gone_from_the_store_takes_no_memory(store: Store) -> None:
    """Who makes and deletes things without end leaves no more than their documents."""
    async with processes(store.uri(), 1) as [process]:
        await process.collection.delete_many({})
        await process.set("stays", 1)
        for number in range(20):
            await process.set(f"thing{number}", number)
            await process.set(f"thing{number}", None)
        assert len(process.known._seen) == 21
        await process.collection.delete_many(
            {"deleted_at": {"$ne": None}}
        )  # as the index with a lifetime does
        await process.known.load(None)
        assert process.known.items == {"stays": 1}
        assert set(process.known._seen) == {"stays"}
