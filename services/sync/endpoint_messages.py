"""Read how endpoints of described senders make messages: from their configuration, compiled on use."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from shared.contracts.errors import Invalid
from shared.manifests.registry import Provider
from shared.manifests.sender_message import SenderMessages
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Mongo
from shared.runtime.snapshot import Snapshot

COLLECTION: Final = "inbound_endpoints"
_MAX_COMPILED: Final = 64
"""Descriptions that a process keeps compiled. Each may take some hundred kilobytes."""


class DescribedEndpoint(NamedTuple):
    """Name of an endpoint, and its owner's description of the sender."""

    name: str
    source: bytes
    """JSON; empty for an endpoint without a description."""


UNDESCRIBED: Final = DescribedEndpoint("", b"")
"""Every endpoint of another provider: nothing of it is needed."""


class EndpointMessages:
    """The endpoints of providers that take a description, in memory."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, providers: Mapping[str, Provider], log: Log
    ) -> None:
        """Follow the endpoints of the providers that are `configurable`."""
        self._configuration = configuration
        self._providers = providers
        self._snapshot: Snapshot[DescribedEndpoint] = Snapshot(
            configuration, mongo.collection(COLLECTION), self._parse, log
        )

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    async def current(self) -> None:
        """Load what was changed before this call, if MongoDB answers."""
        await self._configuration.current()

    def get(self, endpoint_id: str) -> DescribedEndpoint:
        """Return the endpoint; one without name and description if it was deleted."""
        return self._snapshot.items.get(endpoint_id, UNDESCRIBED)

    def _parse(self, document: Document) -> DescribedEndpoint:
        provider = self._providers.get(document["provider"])
        if provider is None or not provider.takes_description:
            return UNDESCRIBED
        source = document.get("source")
        return DescribedEndpoint(document["name"], orjson.dumps(source) if source else b"")


@lru_cache(maxsize=_MAX_COMPILED)
def sender_messages(provider: Provider, source: bytes) -> SenderMessages:
    """Return the compiled description of a sender. One that is not valid any more counts as none."""
    description: dict[str, Any] | None = orjson.loads(source) if source else None
    try:
        return SenderMessages(provider.manifest.webhook, description)
    except Invalid:
        return SenderMessages(provider.manifest.webhook, None)
