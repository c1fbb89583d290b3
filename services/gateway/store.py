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
from shared.runtime.mongo import TOMBSTONE_S, Collection, Document, Index, Mongo, Snapshot, utcnow
from shared.runtime.secrets import Sealed, Vault

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
        """The secrets that verify now: the newest, and rotated ones until they expire."""
        if len(self.keys) == 1:
            return [self.keys[0][0]]
        now = utcnow()
        return [key for key, expires_at in self.keys if expires_at is None or expires_at > now]


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

    def seal(self, endpoint: str, secret: str, expires_at: datetime | None = None) -> Document:
        """One secret as it is kept; `expires_at` for one that was rotated out."""
        return {"sealed": self._vault.seal(secret, record=endpoint, field="secret"), "expires_at": expires_at}

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[Document]:
        """The secrets after a rotation: the new one first, those before it valid for `overlap` more."""
        until = utcnow() + overlap
        old = [
            kept | {"expires_at": min(until, kept["expires_at"] or until)}
            for kept in document["secrets"]
            if kept["expires_at"] is None or kept["expires_at"] > utcnow()
        ]
        return [self.seal(document["_id"], secret), *old[:4]]

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
                (self._open(name, kept["sealed"]), kept["expires_at"]) for kept in document["secrets"]
            ),
            networks=tuple(ip_network(text) for text in document["allow_ips"]),
            accepted=limits[1],
            rejected=limits[2],
        )
        return document.get("token_digest"), endpoint

    def _open(self, endpoint: str, sealed: Sealed) -> bytes:
        return self._vault.open(sealed, record=endpoint, field="secret").encode()

    def _reindex(self) -> None:
        self.by_token = {token: endpoint for token, endpoint in self.snapshot.items.values() if token}
