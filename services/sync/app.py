"""Sync: what comes in from platforms goes to the chat, in the order of its conversation."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.sync.relay import Relay
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.web.problems import problem_response

INDEXES: Final[Mapping[str, Sequence[Index]]] = {}


async def build(here: Runtime) -> Service:
    """The service: one consumer, and no API of its own."""
    relay = Relay(here.producer, here.log)
    return Service(
        app=problem_response(404, "sync has no API: it works from topic to topic"),
        consumers=(here.consumer(group="relay", topics=(WEBHOOKS_RECEIVED,), handler=relay.handle),),
    )
