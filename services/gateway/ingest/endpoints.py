"""The gateway's collections: inbound endpoints (a platform's or an incoming webhook's)."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal

from pydantic import BaseModel

from services.gateway.ingest.rate_limit import TokenBucket
from shared.contracts.errors import Invalid, Misconfigured, NotFound
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.registry import Provider, providers
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Collection, Document, Index, Mongo, translate_errors, utcnow
from shared.runtime.record_secrets import (
    StoredSecret,
    decrypt_all,
    rotate_secret,
    store_secret,
    unexpired_keys,
)
from shared.runtime.secrets import Vault
from shared.runtime.snapshot import Snapshot
from shared.runtime.web.access import ApiKey
from shared.verification.request import SECRET_SETTING
from shared.webhooks.incoming import INCOMING_PROVIDER

ENDPOINTS: Final = "inbound_endpoints"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    ENDPOINTS: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}

INTEGRATION_ID_PREFIX: Final = "int_"
"""What an endpoint's id begins with that stands for a connected account: it is in no collection of ours."""

_MAX_FAULT_LENGTH: Final = 400
REJECTED_PER_MINUTE: Final = 600
"""Requests of one caller at one address that are rejected, until that caller has to wait."""
RECORDED_REJECTIONS_PER_MINUTE: Final = 60
"""Refused requests that are kept to be looked at; the others are only counted."""


@dataclass(slots=True)
class InboundEndpoint:
    """An endpoint as the hot path needs it.

    `provider` and `door` are None of an incoming webhook, which has no platform. `address` is the one that
    the platform knows; `settings` what its owner entered beside the secret, and
    the newest secret under its own name. `shown` says which events become messages of the channel.
    A connected account that gets events from the address of an app is one too, under its integration's id.
    """

    id: EndpointId
    workspace: WorkspaceId
    provider: Provider | None
    definition: WebhookDefinition | None
    address: str
    channel_id: str
    enabled: bool
    keys: tuple[tuple[bytes, datetime | None], ...]
    settings: Mapping[str, str]
    require_signature: bool
    networks: tuple[IPv4Network | IPv6Network, ...]
    body_limit: int | None
    dedupe_window_s: float | None
    shown: "EventSelection"
    accepted: TokenBucket
    recorded_rejections: TokenBucket
    fault: str = ""
    """Why its owner's description of the sender cannot be used; then there is no door."""
    mass_mentions: bool = False
    """Whether messages of an incoming webhook may call everybody."""

    def valid_keys(self) -> list[bytes]:
        """The secrets that verify now: the newest, and rotated ones until they end."""
        return unexpired_keys(self.keys)


class EventSelection:
    """Which events of an endpoint become messages: names, or patterns that end in `*`."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._names = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def __contains__(self, event: str) -> bool:
        return event in self._names or event.startswith(self._prefixes)


def token_digest(token: str) -> str:
    """How an incoming webhook's token is stored and found: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_document(
    endpoint: str,
    key: ApiKey,
    provider: str,
    name: str,
    channel: str | None,
    rate_limit: int,
    *,
    enabled: bool,
) -> Document:
    """What every endpoint has, whatever its kind."""
    now = utcnow()
    return {
        "_id": endpoint,
        "workspace": key.workspace,
        "provider": provider,
        "name": name,
        "channel_id": channel,
        "rate_limit": rate_limit,
        "enabled": enabled,
        "created_at": now,
        "changed_at": now,
    }


def sent_fields(body: BaseModel, nullable: Container[str] = ()) -> dict[str, Any]:
    """The fields that a caller sent; null only where it means something."""
    sent = body.model_dump(exclude_unset=True)
    return {name: value for name, value in sent.items() if value is not None or name in nullable}


class InboundEndpoints:
    """Every endpoint in memory, by id and by token."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log, *, public_base: str
    ) -> None:
        self._vault = vault
        self._log = log
        self._base = public_base
        self._limits: dict[str, tuple[int, TokenBucket, TokenBucket]] = {}
        self.collection: Collection = mongo.collection(ENDPOINTS)
        self.by_token: dict[str, InboundEndpoint] = {}
        self.snapshot: Snapshot[tuple[str | None, InboundEndpoint]] = Snapshot(
            configuration, self.collection, self._parse, log, on_change=self._index
        )

    async def start(self) -> None:
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def get(self, endpoint: str) -> InboundEndpoint | None:
        found = self.snapshot.items.get(endpoint)
        return found[1] if found else None

    def fault(self, endpoint: str) -> str:
        """Return why the endpoint's description of its sender cannot be used; '' if it can."""
        known = self.get(endpoint)
        return known.fault if known else ""

    def address(self, document: Document) -> str:
        """What the platform calls."""
        base = document.get("public_url") or self._base
        return f"{base}/api/webhooks/{document['provider']}/{document['_id']}"

    def keep(self, workspace: str, endpoint: str, secret: str) -> StoredSecret:
        """A new endpoint's secret as it is stored."""
        return store_secret(self._vault, workspace, endpoint, secret)

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """The endpoint's secrets after a rotation."""
        return rotate_secret(self._vault, document, secret, overlap)

    def newest_secret(self, document: Document) -> str | None:
        """The secret in clear; for its owner, and only where the platform handed it over."""
        kept = decrypt_all(self._vault, document)
        return kept[0][0] if kept else None

    def sealed(
        self, workspace: str, endpoint: str, settings: Mapping[str, str], secret: Container[str]
    ) -> Document:
        """Settings as they are stored: those whose names are in `secret` sealed."""
        return {
            name: self._vault.seal(value, workspace=workspace, record=endpoint, field=f"settings.{name}")
            if name in secret
            else value
            for name, value in settings.items()
        }

    async def insert(self, document: Document) -> None:
        """Add one; every process knows it when this returns."""
        with translate_errors():
            await self.collection.insert_one(document)
        await self.snapshot.record(document["_id"])

    async def find(
        self, endpoint: str, key: ApiKey, *, incoming: bool = False, any_kind: bool = False
    ) -> Document:
        """The caller's endpoint: a provider's, an incoming webhook, or either. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self.collection.find_one(
                {"_id": endpoint, "workspace": key.workspace, "deleted_at": None}
            )
        if document is None or not (any_kind or (document["provider"] == INCOMING_PROVIDER) is incoming):
            raise NotFound("no such endpoint")
        return document

    async def change(self, endpoint: str, change: Mapping[str, Any]) -> Document:
        """Set fields; every process knows it when this returns. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self.collection.find_one_and_update(
                {"_id": endpoint, "deleted_at": None},
                {"$set": {**change, "changed_at": utcnow()}},
                return_document=True,
            )
        if document is None:
            raise NotFound("no such endpoint")
        await self.snapshot.record(endpoint)
        return document

    async def delete(self, endpoint: str) -> None:
        """Delete one. Raises `NotFound`."""
        await self.change(endpoint, {"deleted_at": utcnow()})

    async def store_handshake_secret(self, endpoint: str, secret: str) -> bool:
        """Keep what a handshake handed over, if the endpoint still waits for it; False if it does not."""
        known = self.get(endpoint)
        if known is None:
            return False
        kept = {
            "secrets": [self.keep(known.workspace, endpoint, secret)],
            "handed_over": True,
            "changed_at": utcnow(),
        }
        with translate_errors():
            document: Document | None = await self.collection.find_one_and_update(
                {"_id": endpoint, "deleted_at": None, "secrets": []}, {"$set": kept}, return_document=True
            )
        if document is None:
            return False
        await self.snapshot.record(endpoint)
        return True

    def _parse(self, document: Document) -> tuple[str | None, InboundEndpoint]:
        name, workspace = document["_id"], document["workspace"]
        provider = providers().get(document["provider"])
        keys, settings = self._secrets(document)
        accepted, noted = self._buckets(name, document["rate_limit"])
        door, fault = _compile_webhook(provider, document)
        if fault:
            self._log.error("endpoint.source_refused", endpoint_id=name, error=fault)
        endpoint = InboundEndpoint(
            id=name,
            workspace=workspace,
            provider=provider,
            definition=door,
            address=self.address(document),
            channel_id=document["channel_id"] or "",
            enabled=document["enabled"],
            keys=keys,
            settings={**settings, **({SECRET_SETTING: keys[0][0].decode()} if keys else {})},
            require_signature=document.get("require_signature", True),
            networks=tuple(ip_network(text) for text in document["allow_ips"]),
            body_limit=document.get("body_limit"),
            dedupe_window_s=document.get("dedupe_window_s"),
            shown=EventSelection(document.get("events", ["*"])),
            accepted=accepted,
            recorded_rejections=noted,
            fault=fault,
            mass_mentions=document.get("allow_mass_mentions", False),
        )
        return document.get("token_digest"), endpoint

    def _secrets(
        self, document: Document
    ) -> tuple[tuple[tuple[bytes, datetime | None], ...], dict[str, str]]:
        """Keys and settings. None where they cannot be opened: the platform is asked to send it again."""
        name, workspace = document["_id"], document["workspace"]
        try:
            keys = tuple((secret.encode(), ends) for secret, ends in decrypt_all(self._vault, document))
            return keys, {
                field: value
                if isinstance(value, str)
                else self._vault.open(value, workspace=workspace, record=name, field=f"settings.{field}")
                for field, value in document.get("settings", {}).items()
            }
        except Misconfigured as error:
            self._log.error("an endpoint's secrets do not open", endpoint_id=name, error=str(error))
            return (), {}

    def _buckets(self, name: str, per_minute: int) -> tuple[TokenBucket, TokenBucket]:
        """They outlive a change of the endpoint, unless the limit itself was changed."""
        limits = self._limits.get(name)
        if limits is None or limits[0] != per_minute:
            limits = (per_minute, TokenBucket(per_minute), TokenBucket(RECORDED_REJECTIONS_PER_MINUTE))
            self._limits[name] = limits
        return limits[1:]

    def _index(
        self,
        before: tuple[str | None, InboundEndpoint] | None,
        after: tuple[str | None, InboundEndpoint] | None,
    ) -> None:
        if before and before[0]:
            self.by_token.pop(before[0], None)
        if before and not after:  # deleted: whoever makes and deletes endpoints must not fill the memory
            self._limits.pop(before[1].id, None)
        if after and after[0]:
            self.by_token[after[0]] = after[1]


def _compile_webhook(provider: Provider | None, document: Document) -> tuple[WebhookDefinition | None, str]:
    """Return the provider's door, or the endpoint's own if its owner describes the sender.

    A description that was stored before it was bounded, and is over the bounds, is not compiled: there is no
    door then, but a text that says what is wrong with it and what to do.
    """
    if provider is None or provider.manifest.webhook is None:
        return None, ""
    source = document.get("source")
    if not source:
        return provider.definition, ""
    try:
        return WebhookDefinition(apply_description(provider.manifest.webhook, source)), ""
    except Invalid as error:
        faults = "; ".join(f"{each.field}: {each.message}" for each in error.errors)
        return None, f"{faults[:_MAX_FAULT_LENGTH]}: change the endpoint's source (PATCH)"


ERROR_STREAK: Final = 5
"""Requests refused in a row, with none accepted since, that make an endpoint's status `error`.

Only requests of the sender himself count: those with his signature, or with an incoming webhook's token.
Anybody may send others, and must not change the status.
"""


def status_of(document: Document, fault: str = "") -> Literal["active", "inactive", "error"]:
    """An endpoint's status as it is shown; `fault` is what keeps it from being loaded."""
    if not document["enabled"]:
        return "inactive"
    if fault:
        return "error"
    return "error" if document.get("error_streak", 0) >= ERROR_STREAK else "active"
