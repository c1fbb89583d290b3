"""What a process remembers of integrations, while another process changes them."""

import asyncio
from typing import Any, cast

import pytest
import structlog
from pydantic import SecretStr

from shared.connections.integrations import COLLECTION, IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.runtime.configuration import Configuration, record_changes
from shared.runtime.mongo import Document, Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Store


async def test_a_read_that_a_disconnect_overtakes_is_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the account would be used for two seconds after the answer to its disconnecting."""
    log, nothing = structlog.get_logger(), cast("Any", None)
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    configuration = Configuration(mongo, log)
    integrations = IntegrationRepository(mongo, nothing, nothing, log)
    tokens = TokenSource(integrations, nothing, configuration, nothing, log, redirect_uri="")
    integration = {"_id": "int_1", "version": 1, "status": "connected", "deleted_at": None}
    was_read, goes_on = asyncio.Event(), asyncio.Event()
    find = integrations.find

    async def slow_find(name: str, workspace: str | None = None) -> Document:
        document = await find(name, workspace)
        was_read.set()
        await goes_on.wait()
        return document

    try:
        await configuration.start()
        await integrations.collection.insert_one(integration)
        monkeypatch.setattr(integrations, "find", slow_find)
        reading = asyncio.create_task(tokens._find_cached("int_1"))
        await was_read.wait()
        await integrations.collection.update_one({"_id": "int_1"}, {"$set": {"status": "disconnected"}})
        await record_changes(mongo, COLLECTION, "int_1")  # as another process does before it answers
        assert await configuration.current()
        goes_on.set()
        assert (await reading)["status"] == "connected"
        assert (await tokens._find_cached("int_1"))["status"] == "disconnected"
    finally:
        await configuration.stop()
        mongo.close()
