"""The sync service: webhook events become messages of the chat, in the order of their conversation."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.sync.relay import Relay
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.manifests.registry import registry
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.web.problems import problem_response

INDEXES: Final[Mapping[str, Sequence[Index]]] = {}


async def build(runtime: Runtime) -> Service:
    """Build the service: one consumer, and no API of its own."""
    relay = Relay(registry().providers, runtime.producer, runtime.log)
    return Service(
        app=problem_response(404, "the sync service has no API: it reads and writes Kafka topics only"),
        consumers=(runtime.consumer(group="relay", topics=(WEBHOOKS_RECEIVED,), handler=relay.handle),),
    )
