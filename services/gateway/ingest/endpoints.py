"""Inbound endpoints in the memory of a gateway: decrypted, compiled, and up to date."""

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, Final

from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint, token_digest
from services.gateway.ingest.endpoint_records import (
    EndpointRecord,
    EndpointRepository,
    IncomingWebhook,
    ProviderEndpoint,
    R,
)
from services.gateway.ingest.rate_limit import RateLimits, TokenBucket
from shared.contracts.errors import Invalid, Misconfigured
from shared.manifests.registry import Provider
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.record_secrets import StoredSecret, decrypt_all, rotate_secret, store_secret
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.snapshot import Snapshot
from shared.verification.request import SECRET_SETTING

RECORDED_REJECTIONS_PER_MINUTE: Final = 60
"""Rejected requests of one endpoint that are stored per minute; the others are only counted."""
_MAX_SOURCE_ERROR_LENGTH: Final = 400

_SnapshotItem = tuple[str | None, InboundEndpoint]
"""The digest of an incoming webhook's token (None for other endpoints), and the endpoint."""


class InboundEndpoints:
    """All inbound endpoints in memory, by id and by token digest, and the writes that change them."""

    def __init__(
        self,
        repository: EndpointRepository,
        providers: Mapping[str, Provider],
        configuration: Configuration,
        vault: Vault,
        log: Log,
        *,
        public_base: str,
        operator: str = "",
        limits: RateLimits | None = None,
    ) -> None:
        """Set the providers, by id, the public URL of the hub as `public_base`, and where buckets are.

        Only endpoints of the workspace `operator` may be the installation's defaults.
        """
        self._operator = operator
        self._repository = repository
        self._providers = providers
        self._vault = vault
        self._log = log
        self._base = public_base
        self._rate_limits = limits or RateLimits()
        self._limits: dict[str, tuple[int, TokenBucket, TokenBucket]] = {}
        self.by_token: dict[str, InboundEndpoint] = {}
        self._by_workspace: dict[str, dict[str, InboundEndpoint]] = {}
        self._defaults: dict[str, InboundEndpoint] = {}
        self._snapshot: Snapshot[_SnapshotItem] = repository.snapshot(
            configuration, self._parse, log, on_change=self._index
        )

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    def get(self, endpoint_id: str) -> InboundEndpoint | None:
        """Return the endpoint from memory; None if there is no such endpoint."""
        item = self._snapshot.items.get(endpoint_id)
        return item[1] if item else None

    def of_workspace(self, workspace: str) -> Collection[InboundEndpoint]:
        """Return the endpoints of a workspace, of both kinds."""
        return self._by_workspace.get(workspace, {}).values()

    def default(self, provider: str) -> InboundEndpoint | None:
        """Return the installation's default endpoint for a provider; None if there is none."""
        return self._defaults.get(provider)

    def find_by_token(self, token: str) -> InboundEndpoint | None:
        """Return the incoming webhook of a token; None if there is none, or the token has expired."""
        token_hash = token_digest(token)
        endpoint = self.by_token.get(token_hash)
        if endpoint and endpoint.old_token:
            old_digest, expires_at = endpoint.old_token
            if token_hash == old_digest and expires_at <= utcnow():
                return None
        return endpoint

    def source_error(self, endpoint_id: str) -> str:
        """Return why the endpoint's description of its sender cannot be used; '' if it can."""
        endpoint = self.get(endpoint_id)
        return endpoint.source_error if endpoint else ""

    def address(self, record: EndpointRecord) -> str:
        """Return the URL that the provider calls; '' for an endpoint of a polling trigger."""
        if isinstance(record, ProviderEndpoint) and record.polled:
            return ""
        base = (isinstance(record, ProviderEndpoint) and record.public_url) or self._base
        return f"{base}/api/webhooks/{record.provider}/{record.id}"

    # Secrets

    def seal_secret(self, workspace: str, endpoint_id: str, secret: str) -> StoredSecret:
        """Return the secret of a new endpoint in its stored form."""
        return store_secret(self._vault, workspace, endpoint_id, secret)

    def rotate_secret(self, record: ProviderEndpoint, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """Return the endpoint's stored secrets after a rotation; earlier ones expire after `overlap`."""
        return rotate_secret(self._vault, _with_secrets(record), secret, overlap)

    def newest_secret(self, record: ProviderEndpoint) -> str | None:
        """Return the newest secret in clear text, or None.

        Only for the endpoint's owner, and only if the provider handed the secret over in a handshake.
        """
        secrets = decrypt_all(self._vault, _with_secrets(record))
        return secrets[0][0] if secrets else None

    def seal_settings(
        self, workspace: str, endpoint_id: str, settings: Mapping[str, str], secret: Container[str]
    ) -> dict[str, str | Sealed]:
        """Return settings in their stored form; those whose names are in `secret` are sealed."""
        return {
            name: self._vault.seal(value, workspace=workspace, record=endpoint_id, field=f"settings.{name}")
            if name in secret
            else value
            for name, value in settings.items()
        }

    # Writes. When one returns, the next request at any process sees the change.

    async def insert(self, record: EndpointRecord) -> None:
        """Insert an endpoint. Raises `Conflict` if the workspace has the maximum."""
        async with self._repository.reserve(record, undo=lambda: self.delete(record)):
            await self._repository.insert(record)
            await self._snapshot.announce(record.id)

    async def change(
        self, record: R, *, based_on: int | None = None, unchanged: bool = False, **changes: Any
    ) -> R:
        """Set fields, given by their names in Python, and return the changed record.

        With `based_on`, only that version is changed; with `unchanged`, only what `record` was read as: for
        changes that are computed from it. Raises `NotFound`, `Outdated`, `Conflict`.
        """
        changed = await self._repository.change(record, changes, based_on, unchanged=unchanged)
        await self._snapshot.announce(record.id)
        return changed

    async def delete(self, record: EndpointRecord) -> None:
        """Delete an endpoint. Raises `NotFound`."""
        unmarked = {"is_default": False} if isinstance(record, ProviderEndpoint) else {}
        await self.change(record, deleted_at=utcnow(), **unmarked)

    async def delete_all(self, workspace: str) -> None:
        """Delete every endpoint and incoming webhook of a workspace, with secrets and settings."""
        await self._snapshot.delete_all(
            {"workspace": workspace},
            {"name": "", "secrets": [], "settings": {}, "token_digest": None, "is_default": False},
        )

    async def store_handshake_secret(self, endpoint_id: str, secret: str) -> bool:
        """Store the secret that a handshake handed over; return False if the endpoint has one already."""
        endpoint = self.get(endpoint_id)
        if endpoint is None:
            return False
        sealed = self.seal_secret(endpoint.workspace, endpoint_id, secret)
        is_stored = await self._repository.store_first_secret(endpoint_id, sealed)
        if is_stored:
            await self._snapshot.announce(endpoint_id)
        return is_stored

    # The snapshot

    def _parse(self, record: ProviderEndpoint | IncomingWebhook) -> _SnapshotItem:
        provider = self._providers.get(record.provider)
        accepted, recorded_rejections = self._buckets(record.id, record.rate_limit)
        endpoint = InboundEndpoint(
            id=record.id,
            workspace=record.workspace,
            provider=provider,
            definition=None,
            address=self.address(record),
            channel_id=record.channel_id or "",
            enabled=record.enabled,
            keys=(),
            settings={},
            require_signature=True,
            networks=tuple(ip_network(text) for text in record.allow_ips),
            body_limit=None,
            dedupe_window_s=None,
            message_events=_ALL_EVENTS,
            accepted=accepted,
            recorded_rejections=recorded_rejections,
            name=record.name,
            created_at=record.created_at,
        )
        if isinstance(record, IncomingWebhook):
            old, expires_at = record.old_token_digest, record.old_token_expires_at
            return record.token_digest, replace(
                endpoint,
                mass_mentions=record.allow_mass_mentions,
                old_token=(old, expires_at) if old and expires_at else None,
            )
        if record.polled:
            return None, replace(endpoint, message_events=EventSelection(record.events), polled=True)
        keys, settings = self._decrypt(record)
        definition, source_error = _compile_webhook(provider, record.source)
        if source_error:
            self._log.error("endpoint.source_refused", endpoint_id=record.id, error=source_error)
        return None, replace(
            endpoint,
            definition=definition,
            keys=keys,
            settings={**settings, **({SECRET_SETTING: keys[0][0].decode()} if keys else {})},
            require_signature=record.require_signature,
            body_limit=record.body_limit,
            dedupe_window_s=record.dedupe_window_s,
            message_events=EventSelection(record.events, provider.quiet if provider else frozenset()),
            source_error=source_error,
            is_default=bool(record.is_default) and record.workspace == self._operator,
        )

    def _decrypt(
        self, record: ProviderEndpoint
    ) -> tuple[tuple[tuple[bytes, datetime | None], ...], dict[str, str]]:
        """Return secrets and settings in clear text.

        Both are empty if they cannot be decrypted: the endpoint then answers 503, and the provider sends the
        webhook again.
        """
        try:
            secrets = decrypt_all(self._vault, _with_secrets(record))
            keys = tuple((secret.encode(), ends) for secret, ends in secrets)
            return keys, {
                name: value
                if isinstance(value, str)
                else self._vault.open(
                    value, workspace=record.workspace, record=record.id, field=f"settings.{name}"
                )
                for name, value in record.settings.items()
            }
        except Misconfigured as error:
            self._log.error("endpoint.secrets_unreadable", endpoint_id=record.id, error=str(error))
            return (), {}

    def _buckets(self, endpoint_id: str, per_minute: int) -> tuple[TokenBucket, TokenBucket]:
        """Return the endpoint's buckets; new ones only if the limit itself was changed.

        Otherwise each change of an endpoint would refill them.
        """
        limits = self._limits.get(endpoint_id)
        if limits is None or limits[0] != per_minute:
            limits = (
                per_minute,
                self._rate_limits.bucket("accepted", endpoint_id, per_minute),
                self._rate_limits.bucket("recorded", endpoint_id, RECORDED_REJECTIONS_PER_MINUTE),
            )
            self._limits[endpoint_id] = limits
        return limits[1:]

    def _index(self, before: _SnapshotItem | None, after: _SnapshotItem | None) -> None:
        """Update what is held beside the snapshot when one of its items changes."""
        if before:
            for token_hash in _token_digests(before):
                self.by_token.pop(token_hash, None)
            if before[1].is_default:
                self._defaults.pop(before[1].provider_id, None)
        if before and not after:  # otherwise creating and deleting endpoints would fill the memory
            self._limits.pop(before[1].id, None)
        if before:
            own = self._by_workspace[before[1].workspace]
            del own[before[1].id]
            if not own:
                del self._by_workspace[before[1].workspace]
        if after:
            self._by_workspace.setdefault(after[1].workspace, {})[after[1].id] = after[1]
            for token_hash in _token_digests(after):
                self.by_token[token_hash] = after[1]
            if after[1].is_default:
                self._defaults[after[1].provider_id] = after[1]


def _token_digests(item: _SnapshotItem) -> Iterator[str]:
    """Yield the digests of an incoming webhook's tokens, the present one and the one before."""
    if item[0]:
        yield item[0]
    if item[1].old_token:
        yield item[1].old_token[0]


_ALL_EVENTS: Final = EventSelection(("*",))


def _with_secrets(record: EndpointRecord) -> dict[str, Any]:
    """Return what `record_secrets` reads of a record."""
    return {"_id": record.id, "workspace": record.workspace, "secrets": record.secrets}


def _compile_webhook(
    provider: Provider | None, source: Mapping[str, Any] | None
) -> tuple[WebhookDefinition | None, str]:
    """Return the webhook definition of an endpoint, and '' or why it has none.

    The definition is the provider's, or the endpoint's own if its owner describes the sender (`source`). A
    description that was stored before there were bounds, and is over them, is not compiled.
    """
    if provider is None or provider.manifest.webhook is None:
        return None, ""
    if not source:
        return provider.definition, ""
    try:
        return WebhookDefinition(apply_description(provider.manifest.webhook, source)), ""
    except Invalid as error:
        errors = "; ".join(f"{item.field}: {item.message}" for item in error.errors)
        return None, f"{errors[:_MAX_SOURCE_ERROR_LENGTH]}: change the endpoint's source (PATCH)"
