"""The gateway's collections: inbound endpoints (a platform's or an incoming webhook's)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from services.gateway.limits import Bucket
from shared.catalog.registry import Provider, providers
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_S, Collection, Document, Index, Mongo, Snapshot
from shared.runtime.secrets import Kept, Vault, keep, opened, rotated, valid_now

ENDPOINTS: Final = "inbound_endpoints"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    ENDPOINTS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_S),
    )
}

REJECTED_PER_MINUTE: Final = 600


@dataclass(slots=True)
class Endpoint:
    """An endpoint as the hot path needs it."""

    id: EndpointId
    workspace: WorkspaceId
    provider: Provider | None
    channel_id: str
    enabled: bool
    keys: tuple[tuple[bytes, datetime | None], ...]
    networks: tuple[IPv4Network | IPv6Network, ...]
    accepted: Bucket
    rejected: Bucket

    def valid_keys(self) -> list[bytes]:
        """The secrets that verify now: the newest, and rotated ones until they end."""
        return valid_now(self.keys)


def token_digest(token: str) -> str:
    """How an incoming webhook's token is stored and found: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


class Endpoints:
    """Every endpoint in memory, by id and by token."""

    def __init__(self, mongo: Mongo, vault: Vault, log: Log) -> None:
        self._vault = vault
        self._log = log
        self._limits: dict[str, tuple[int, Bucket, Bucket]] = {}
        self.collection: Collection = mongo.collection(ENDPOINTS)
        self.by_token: dict[str, Endpoint] = {}
        self.snapshot: Snapshot[tuple[str | None, Endpoint]] = Snapshot(
            self.collection, self._parse, log, on_change=self._reindex
        )

    async def start(self) -> None:
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def get(self, endpoint: str) -> Endpoint | None:
        found = self.snapshot.items.get(endpoint)
        return found[1] if found else None

    def keep(self, endpoint: str, secret: str) -> Kept:
        """A new endpoint's secret as it is stored."""
        return keep(self._vault, endpoint, secret)

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[Kept]:
        """The endpoint's secrets after a rotation."""
        return rotated(self._vault, document["_id"], document["secrets"], secret, overlap)

    def _parse(self, document: Document) -> tuple[str | None, Endpoint]:
        name = document["_id"]
        per_minute = document["rate_limit"]
        limits = self._limits.get(name)
        if limits is None or limits[0] != per_minute:
            limits = (per_minute, Bucket(per_minute), Bucket(REJECTED_PER_MINUTE))
            self._limits[name] = limits
        endpoint = Endpoint(
            id=name,
            workspace=document["workspace"],
            provider=providers().get(document["provider"]),
            channel_id=document["channel_id"] or "",
            enabled=document["enabled"],
            keys=tuple(
                (secret.encode(), ends) for secret, ends in opened(self._vault, name, document["secrets"])
            ),
            networks=tuple(ip_network(text) for text in document["allow_ips"]),
            accepted=limits[1],
            rejected=limits[2],
        )
        return document.get("token_digest"), endpoint

    def _reindex(self) -> None:
        self.by_token = {token: endpoint for token, endpoint in self.snapshot.items.values() if token}
