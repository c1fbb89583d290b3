"""The sync service: webhook events become messages of the chat, in the order of their conversation."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.sync.api.message_preview import MessagePreviewApi
from services.sync.endpoint_messages import EndpointMessages
from services.sync.relay import Relay
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.manifests.registry import registry
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service

INDEXES: Final[Mapping[str, Sequence[Index]]] = {}


async def build(runtime: Runtime) -> Service:
    """Build the sync service of this process: one consumer, and the preview of messages."""
    providers = registry().providers
    endpoints = EndpointMessages(runtime.mongo, runtime.configuration, providers, runtime.log)
    relay = Relay(providers, endpoints, runtime.producer, runtime.log)
    management = runtime.management_app(
        "Interlink sync",
        [MessagePreviewApi(providers)],
        unaudited=["/api/messages/preview"],  # it changes nothing
    )
    return Service(
        app=management,
        parts=[endpoints],
        indexes=INDEXES,
        consumers=[runtime.consumer(group="relay", topics=[WEBHOOKS_RECEIVED], handler=relay.handle)],
    )
