"""The repository of inbound endpoints: the collection, and a snapshot of it in memory."""

from collections.abc import Container, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, Final

from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint
from services.gateway.ingest.rate_limit import TokenBucket
from shared.contracts.errors import Invalid, Misconfigured, NotFound
from shared.manifests.registry import Provider, providers
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Collection, Document, Index, Mongo, translate_errors, utcnow
from shared.runtime.record_secrets import StoredSecret, decrypt_all, rotate_secret, store_secret
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

RECORDED_REJECTIONS_PER_MINUTE: Final = 60
"""Rejected requests of one endpoint that are stored per minute; the others are only counted."""
_MAX_SOURCE_ERROR_LENGTH: Final = 400

_SnapshotItem = tuple[str | None, InboundEndpoint]
"""The digest of an incoming webhook's token (None for other endpoints), and the endpoint."""


class InboundEndpoints:
    """All inbound endpoints, in MongoDB and in memory, by id and by token digest."""

    def __init__(
        self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log, *, public_base: str
    ) -> None:
        self._vault = vault
        self._log = log
        self._base = public_base
        self._limits: dict[str, tuple[int, TokenBucket, TokenBucket]] = {}
        self.collection: Collection = mongo.collection(ENDPOINTS)
        self.by_token: dict[str, InboundEndpoint] = {}
        self.snapshot: Snapshot[_SnapshotItem] = Snapshot(
            configuration, self.collection, self._parse, log, on_change=self._index
        )

    async def start(self) -> None:
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def get(self, endpoint_id: str) -> InboundEndpoint | None:
        """Return the endpoint from memory; None if there is no such endpoint."""
        item = self.snapshot.items.get(endpoint_id)
        return item[1] if item else None

    def source_error(self, endpoint_id: str) -> str:
        """Return why the endpoint's description of its sender cannot be used; '' if it can."""
        endpoint = self.get(endpoint_id)
        return endpoint.source_error if endpoint else ""

    def address(self, document: Document) -> str:
        """Return the URL that the provider calls."""
        base = document.get("public_url") or self._base
        return f"{base}/api/webhooks/{document['provider']}/{document['_id']}"

    # Secrets

    def seal_secret(self, workspace: str, endpoint_id: str, secret: str) -> StoredSecret:
        """Return the secret of a new endpoint in its stored form."""
        return store_secret(self._vault, workspace, endpoint_id, secret)

    def rotate_secret(self, document: Document, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """Return the endpoint's stored secrets after a rotation; earlier ones expire after `overlap`."""
        return rotate_secret(self._vault, document, secret, overlap)

    def newest_secret(self, document: Document) -> str | None:
        """Return the newest secret in clear text, or None.

        Only for the endpoint's owner, and only if the provider handed the secret over in a handshake.
        """
        secrets = decrypt_all(self._vault, document)
        return secrets[0][0] if secrets else None

    def seal_settings(
        self, workspace: str, endpoint_id: str, settings: Mapping[str, str], secret: Container[str]
    ) -> Document:
        """Return settings in their stored form; those whose names are in `secret` are sealed."""
        return {
            name: self._vault.seal(value, workspace=workspace, record=endpoint_id, field=f"settings.{name}")
            if name in secret
            else value
            for name, value in settings.items()
        }

    # Reads and writes. When a write returns, the next request at any process sees the change.

    async def insert(self, document: Document) -> None:
        """Insert an endpoint."""
        with translate_errors():
            await self.collection.insert_one(document)
        await self.snapshot.record(document["_id"])

    async def find(
        self, endpoint_id: str, key: ApiKey, *, incoming: bool = False, any_kind: bool = False
    ) -> Document:
        """Return the document of an endpoint of the caller's workspace.

        By default it is a provider's endpoint, with `incoming` an incoming webhook, with `any_kind` either.
        Raises `NotFound`.
        """
        with translate_errors():
            document: Document | None = await self.collection.find_one(
                {"_id": endpoint_id, "workspace": key.workspace, "deleted_at": None}
            )
        if document is None or not (any_kind or (document["provider"] == INCOMING_PROVIDER) is incoming):
            raise NotFound("no such endpoint")
        return document

    async def update(self, endpoint_id: str, changes: Mapping[str, Any]) -> Document:
        """Set fields and return the changed document. Raises `NotFound`."""
        with translate_errors():
            document: Document | None = await self.collection.find_one_and_update(
                {"_id": endpoint_id, "deleted_at": None},
                {"$set": {**changes, "changed_at": utcnow()}},
                return_document=True,
            )
        if document is None:
            raise NotFound("no such endpoint")
        await self.snapshot.record(endpoint_id)
        return document

    async def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint. Raises `NotFound`."""
        await self.update(endpoint_id, {"deleted_at": utcnow()})

    async def store_handshake_secret(self, endpoint_id: str, secret: str) -> bool:
        """Store the secret that a handshake handed over; return False if the endpoint has one already."""
        endpoint = self.get(endpoint_id)
        if endpoint is None:
            return False
        changes = {
            "secrets": [self.seal_secret(endpoint.workspace, endpoint_id, secret)],
            "handed_over": True,
            "changed_at": utcnow(),
        }
        # The condition on `secrets` lets only one of several concurrent handshakes store its secret.
        with translate_errors():
            document: Document | None = await self.collection.find_one_and_update(
                {"_id": endpoint_id, "deleted_at": None, "secrets": []},
                {"$set": changes},
                return_document=True,
            )
        if document is None:
            return False
        await self.snapshot.record(endpoint_id)
        return True

    # The snapshot

    def _parse(self, document: Document) -> _SnapshotItem:
        endpoint_id, workspace = document["_id"], document["workspace"]
        provider = providers().get(document["provider"])
        keys, settings = self._decrypt(document)
        accepted, recorded_rejections = self._buckets(endpoint_id, document["rate_limit"])
        definition, source_error = _compile_webhook(provider, document)
        if source_error:
            self._log.error("endpoint.source_refused", endpoint_id=endpoint_id, error=source_error)
        endpoint = InboundEndpoint(
            id=endpoint_id,
            workspace=workspace,
            provider=provider,
            definition=definition,
            address=self.address(document),
            channel_id=document["channel_id"] or "",
            enabled=document["enabled"],
            keys=keys,
            settings={**settings, **({SECRET_SETTING: keys[0][0].decode()} if keys else {})},
            require_signature=document.get("require_signature", True),
            networks=tuple(ip_network(text) for text in document["allow_ips"]),
            body_limit=document.get("body_limit"),
            dedupe_window_s=document.get("dedupe_window_s"),
            message_events=EventSelection(document.get("events", ["*"])),
            accepted=accepted,
            recorded_rejections=recorded_rejections,
            source_error=source_error,
            mass_mentions=document.get("allow_mass_mentions", False),
        )
        return document.get("token_digest"), endpoint

    def _decrypt(
        self, document: Document
    ) -> tuple[tuple[tuple[bytes, datetime | None], ...], dict[str, str]]:
        """Return secrets and settings in clear text.

        Both are empty if they cannot be decrypted: the endpoint then answers 503, and the provider sends the
        webhook again.
        """
        endpoint_id, workspace = document["_id"], document["workspace"]
        try:
            keys = tuple((secret.encode(), ends) for secret, ends in decrypt_all(self._vault, document))
            return keys, {
                name: value
                if isinstance(value, str)
                else self._vault.open(
                    value, workspace=workspace, record=endpoint_id, field=f"settings.{name}"
                )
                for name, value in document.get("settings", {}).items()
            }
        except Misconfigured as error:
            self._log.error("endpoint.secrets_unreadable", endpoint_id=endpoint_id, error=str(error))
            return (), {}

    def _buckets(self, endpoint_id: str, per_minute: int) -> tuple[TokenBucket, TokenBucket]:
        """Return the endpoint's buckets; new ones only if the limit itself was changed.

        Otherwise each change of an endpoint would refill them.
        """
        limits = self._limits.get(endpoint_id)
        if limits is None or limits[0] != per_minute:
            limits = (per_minute, TokenBucket(per_minute), TokenBucket(RECORDED_REJECTIONS_PER_MINUTE))
            self._limits[endpoint_id] = limits
        return limits[1:]

    def _index(self, before: _SnapshotItem | None, after: _SnapshotItem | None) -> None:
        """Update what is held beside the snapshot when one of its items changes."""
        if before and before[0]:
            self.by_token.pop(before[0], None)
        if before and not after:  # otherwise creating and deleting endpoints would fill the memory
            self._limits.pop(before[1].id, None)
        if after and after[0]:
            self.by_token[after[0]] = after[1]


def _compile_webhook(provider: Provider | None, document: Document) -> tuple[WebhookDefinition | None, str]:
    """Return the webhook definition of an endpoint, and '' or why it has none.

    The definition is the provider's, or the endpoint's own if its owner describes the sender. A description
    that was stored before there were bounds, and is over them, is not compiled.
    """
    if provider is None or provider.manifest.webhook is None:
        return None, ""
    source = document.get("source")
    if not source:
        return provider.definition, ""
    try:
        return WebhookDefinition(apply_description(provider.manifest.webhook, source)), ""
    except Invalid as error:
        errors = "; ".join(f"{item.field}: {item.message}" for item in error.errors)
        return None, f"{errors[:_MAX_SOURCE_ERROR_LENGTH]}: change the endpoint's source (PATCH)"
