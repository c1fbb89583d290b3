"""What a process remembers of integrations, while another process changes them."""

import asyncio
from typing import Any, cast

import pytest
import structlog
from pydantic import SecretStr

from shared.connections.integration_record import COLLECTION, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration, announce_changes
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store


async def test_a_read_overtaken_by_a_disconnect_is_not_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the account would be used for two seconds after the answer to its disconnecting."""
    log, nothing = structlog.get_logger(), cast("Any", None)
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    configuration = Configuration(mongo, log)
    integrations = IntegrationRepository(mongo, nothing, nothing, log)
    tokens = TokenSource(integrations, nothing, {}, configuration, nothing, log, redirect_uri="")
    now, numbers = utcnow(), dict.fromkeys(("version", "fence", "settled_fence"), 1)
    integration = numbers | {
        "_id": "int_1",
        "workspace": "ws_1",
        "provider": "oidc",
        "kind": "oauth2",
        "name": "",
        "status": "connected",
        "created_at": now,
        "changed_at": now,
        "deleted_at": None,
    }
    collection = mongo.collection(COLLECTION)
    was_read, goes_on = asyncio.Event(), asyncio.Event()
    find = integrations.find

    async def slow_find(name: str, workspace: str | None = None) -> Integration:
        found = await find(name, workspace)
        was_read.set()
        await goes_on.wait()
        return found

    try:
        await configuration.start()
        await collection.insert_one(integration)
        monkeypatch.setattr(integrations, "find", slow_find)
        reading = asyncio.create_task(tokens._find_cached("int_1"))
        await was_read.wait()
        await collection.update_one({"_id": "int_1"}, {"$set": {"status": "disconnected"}})
        await announce_changes(mongo, COLLECTION, "int_1")  # as another process does before it answers
        assert await configuration.current()
        goes_on.set()
        assert (await reading).status == "connected"
        assert (await tokens._find_cached("int_1")).status == "disconnected"
    finally:
        await configuration.stop()
        mongo.close()
