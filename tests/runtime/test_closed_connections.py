"""Connections to Kafka that were reset, on uvloop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from shared.runtime.kafka.connection import connection
from shared.runtime.settings import KafkaSettings
from tests.support.backends import Bus


@pytest.fixture
def settings(bus: Bus) -> KafkaSettings:
    given = {name.removeprefix("KAFKA_").lower(): value for name, value in bus.env.items()}
    return KafkaSettings.model_validate(given)


@asynccontextmanager
async def connected(settings: KafkaSettings) -> AsyncIterator[tuple[AIOKafkaClient, AIOKafkaConnection]]:
    """A client of a broker, and its connection."""
    client = AIOKafkaClient(**connection(settings))
    await client.bootstrap()
    try:
        [node] = [broker.nodeId for broker in client.cluster.brokers()]
        yield client, await client._get_conn(node)
    finally:
        await client.close()


def test_a_client_survives_what_is_sent_after_uvloop_closed_its_connection(settings: KafkaSettings) -> None:
    async def run() -> None:
        async with connected(settings) as (client, closed):
            closed._writer.transport.abort()
            await asyncio.sleep(0)  # now uvloop has closed it, and aiokafka does not know
            with pytest.raises(KafkaConnectionError, match="closed the connection") as raised:
                closed.send(MetadataRequest([]))
            assert isinstance(raised.value.__cause__, RuntimeError)
            async with asyncio.timeout(10):
                assert await client.force_metadata_update()

    uvloop.run(run())


def test_an_error_of_an_open_connection_is_not_hidden(settings: KafkaSettings) -> None:
    class Faulty:
        def prepare(self, _: object) -> object:
            raise RuntimeError("a defect")

    async def run() -> None:
        async with connected(settings) as (_, open_one):
            with pytest.raises(RuntimeError, match="a defect"):
                open_one.send(Faulty())

    uvloop.run(run())
