"""What a process remembers of endpoints that are gone."""

from typing import Any, cast

import structlog
from pydantic import SecretStr

from services.gateway.ingest.endpoint_records import EndpointRepository, IncomingWebhook
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.settings import GatewaySettings
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from shared.webhooks.incoming import INCOMING_PROVIDER
from tests.support.backends import Store


async def test_endpoints_that_come_and_go_take_no_memory(store: Store) -> None:
    log = structlog.get_logger()
    mongo = Mongo(MongoSettings(uri=SecretStr(store.uri())), app="test")
    configuration = Configuration(mongo, log)
    endpoints = InboundEndpoints(
        EndpointRepository(mongo, GatewaySettings()),
        {},
        configuration,
        cast("Any", None),
        log,
        public_base="https://hub.example",
    )
    try:
        for number in range(10):
            name = EndpointId(f"ep_{number}")
            record = IncomingWebhook(
                id=name,
                workspace=WorkspaceId("w"),
                provider=INCOMING_PROVIDER,
                name="n",
                channel_id="c",
                rate_limit=60,
                enabled=True,
                created_at=utcnow(),
                changed_at=utcnow(),
                secrets=[],
                allow_ips=(),
                token_digest=name,
            )
            await endpoints.insert(record)
            assert endpoints.get(name) is not None
            if number:
                await endpoints.delete(record)
        assert set(endpoints._limits) == {"ep_0"}
        assert set(endpoints.by_token) == {"ep_0"}
    finally:
        await configuration.stop()
        mongo.close()
