"""Account routes in process, over the real database: what stays in memory, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

import pytest
from pydantic import SecretStr

from shared.connections import account_routes
from shared.connections.account_routes import AccountRoutes
from shared.connections.integration_record import INDEXES
from shared.connections.integrations import COLLECTION
from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.configuration import Configuration
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store

NOW = datetime(2026, 5, 4, tzinfo=UTC)
APP = ("", "app")


class World:
    """Routes of a process that has checked its configuration, and a writer of integrations."""

    def __init__(self, store: Store) -> None:
        self.mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
        self.log = configure("test", "error")
        self.configuration = Configuration(self.mongo, self.log)
        self.routes = AccountRoutes(self.configuration, self.log)
        self.account = f"T{token_hex(6)}"

    async def write(self, integration: str = "", *, record: bool = True, **changed: Any) -> str:
        """Insert an integration of the account, or change one; record it as a writer does."""
        collection = self.mongo.collection(COLLECTION)
        if integration:
            await collection.update_one({"_id": integration}, {"$set": changed})
        else:
            integration = f"int_{token_hex(8)}"
            document: dict[str, Any] = {
                "_id": integration,
                "provider": "slack",
                "workspace": "w",
                "status": "connected",
                "account": {"id": self.account},
                "app": list(APP),
                "created_at": NOW,
                "deleted_at": None,
            }
            await collection.insert_one(document | changed)
        if record:
            await self.configuration.announce(COLLECTION, integration)
        return integration

    async def found(self, *accounts: str, resources: bool = False) -> list[str]:
        """Return the ids of the integrations, as a request that begins now finds them."""
        await self.configuration.current()
        field: account_routes.AccountField = "account.choice.id" if resources else "account.id"
        results = await self.routes.find("slack", field, accounts or (self.account,))
        return [route.id for routes in results.values() for route in routes]


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    world = World(store)
    await world.configuration.start()
    await world.mongo.ensure_indexes(INDEXES)
    await world.routes.start()
    yield world
    await world.routes.stop()
    await world.configuration.stop()
    world.mongo.close()


async def test_routes_stay_in_memory_until_a_change_is_recorded(world: World) -> None:
    first = await world.write()
    assert await world.found() == [first]
    await world.write(first, record=False, status="disconnected")
    assert await world.found() == [first], "from memory: nothing was recorded"
    await world.configuration.announce(COLLECTION, first)
    assert await world.found() == []
    second = await world.write()
    assert await world.found() == [second], "it was not among the routes in memory"


async def test_a_change_of_the_account_or_the_resource_counts_for_both(world: World) -> None:
    moved = await world.write()
    before, after, page = world.account, f"T{token_hex(6)}", f"P{token_hex(6)}"
    assert await world.found(before, after) == [moved]
    assert await world.found(page, resources=True) == []
    await world.write(moved, account={"id": after, "choice": {"id": page}})
    assert await world.found(before) == []
    assert await world.found(after) == [moved]
    assert await world.found(page, resources=True) == [moved]
    await world.mongo.collection(COLLECTION).delete_one({"_id": moved})
    await world.configuration.announce(COLLECTION, moved)
    assert await world.found(after) == await world.found(page, resources=True) == []


async def test_of_many_persons_of_a_workspace_the_oldest_has_the_route_until_it_ends(world: World) -> None:
    people = [await world.write(created_at=NOW + timedelta(seconds=number)) for number in range(5)]
    other = await world.write(workspace="other", created_at=NOW + timedelta(days=1))
    own = await world.write(app=["w", "own"], created_at=NOW + timedelta(days=2))
    assert await world.found() == [people[0], other, own]
    await world.write(people[3], status="disconnected")
    assert await world.found() == [people[0], other, own]
    await world.write(people[0], deleted_at=NOW)
    assert await world.found() == [people[1], other, own]


async def test_a_change_whose_writer_died_before_it_was_recorded_is_found_by_age(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.write()
    assert await world.found() == [first]
    await world.write(first, record=False, status="disabled")
    monkeypatch.setattr(account_routes, "_REFRESH_AFTER_S", -1.0)
    assert await world.found() == [first], "the request does not wait"
    async with asyncio.timeout(60):
        while await world.found() != []:  # noqa: ASYNC110 -- read beside the requests
            await asyncio.sleep(0.05)
    await world.write(first, record=False, status="connected")
    monkeypatch.setattr(account_routes, "_MAX_AGE_S", -1.0)
    assert await world.found() == [first], "too old: the request waits"


async def test_what_was_read_before_a_change_is_not_stored_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await world.write()
    read = world.configuration.collection
    changes = world.routes._drop_changed

    def changing(name: str) -> Any:
        """The change arrives while its routes are read."""
        world.routes._changes += 1
        return read(name)

    with monkeypatch.context() as patch:
        patch.setattr(world.configuration, "collection", changing)
        assert [
            route.id
            for route in (await world.routes.find("slack", "account.id", [world.account]))[world.account]
        ]
    assert not world.routes._entries
    await changes([first])
    assert await world.found() == [first]
    assert world.routes._entries


async def test_memory_is_bounded_and_nothing_of_what_was_dropped_stays(world: World, store: Store) -> None:
    routes = AccountRoutes(world.configuration, world.log, max_routes=10)
    integrations = [
        await world.write(record=False, account={"id": f"{world.account}-{n}"}) for n in range(20)
    ]
    for number in range(40):  # half of them have none
        await routes.find("slack", "account.id", [f"{world.account}-{number}"])
    assert len(routes._entries) == 10
    assert not routes._keys_by_integration
    found = await routes.find("slack", "account.id", [f"{world.account}-{number}" for number in range(20)])
    assert [route.id for item in found.values() for route in item] == integrations
    assert len(routes._entries) == len(routes._keys_by_integration) == routes._size == 10
    await routes._drop_changed(integrations)
    assert (len(routes._entries), len(routes._keys_by_integration), routes._size) == (0, 0, 0)


async def test_without_the_database_known_accounts_have_their_routes_and_others_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that had no routes may have been connected meanwhile: its events must not be lost."""
    first = await world.write()
    unconnected = f"T{token_hex(6)}"
    assert await world.found(world.account, unconnected) == [first]
    world.configuration._mark_stale("a test")
    monkeypatch.setattr(account_routes, "_MAX_AGE_S", -1.0)
    found = await world.routes.find("slack", "account.id", [world.account])
    assert [route.id for route in found[world.account]] == [first]
    for account in (unconnected, f"T{token_hex(6)}"):
        with pytest.raises(DatabaseUnavailable):
            await world.routes.find("slack", "account.id", [account])


async def test_a_flood_of_changes_drops_everything(world: World) -> None:
    first = await world.write()
    assert await world.found() == [first]
    await world.write(first, record=False, status="disabled")
    await world.routes._drop_changed([f"int_{number}" for number in range(201)])
    assert await world.found() == []
    await world.write(first, record=False, status="connected")
    await world.routes._drop_changed(None)
    assert await world.found() == [first]
