"""What a process remembers of endpoints that are gone."""

from typing import Any, cast

import structlog
from pydantic import SecretStr

from services.gateway.api.endpoint_documents import new_document
from services.gateway.ingest.endpoints import InboundEndpoints
from shared.contracts.ids import ApiKeyId, WorkspaceId
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from shared.runtime.web.access import ApiKey
from shared.webhooks.incoming import INCOMING_PROVIDER
from tests.support.backends import Store


async def test_endpoints_that_come_and_go_take_no_memory(store: Store) -> None:
    log = structlog.get_logger()
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    configuration = Configuration(mongo, log)
    endpoints = InboundEndpoints(
        mongo, configuration, cast("Any", None), log, public_base="https://hub.example"
    )
    key = ApiKey(ApiKeyId("key_1"), WorkspaceId("w"), frozenset({"admin"}), None)
    try:
        for number in range(10):
            name = f"ep_{number}"
            document = new_document(name, key, INCOMING_PROVIDER, "n", "c", 60, enabled=True)
            await endpoints.insert(
                document | {"secrets": [], "allow_ips": [], "token_digest": name, "deleted_at": None}
            )
            assert endpoints.get(name) is not None
            if number:
                await endpoints.delete(name)
        assert set(endpoints._limits) == {"ep_0"}
        assert set(endpoints.by_token) == {"ep_0"}
    finally:
        await configuration.stop()
        mongo.close()
