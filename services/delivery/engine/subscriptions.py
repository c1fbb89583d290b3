"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent.

Signing secrets, header values and authentication are stored encrypted, and may not decrypt if a key is
missing. Such a webhook still matches events, so that they wait in the log. Nothing is sent until every part
decrypts.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, TypeVar

import orjson

from services.delivery.log.webhooks import QUEUES, WEBHOOKS
from services.delivery.model.outgoing_webhook import (
    MAX_RETRY_AFTER_S,
    EncryptedPart,
    OutgoingWebhook,
    SigningKeys,
)
from services.delivery.model.rate_limiter import RateLimit
from services.delivery.model.retry_policy import RetryPolicy
from services.delivery.model.webhook_auth import WebhookAuth, webhook_auth
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.metrics import UNREADABLE_WEBHOOKS
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors, utcnow
from shared.runtime.record_secrets import (
    StoredSecret,
    decrypt_all,
    rotate_secret,
    store_secret,
)
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.snapshot import Snapshot
from shared.webhooks.backoff import SCHEDULES
from shared.webhooks.filters import EventFilter
from shared.webhooks.patterns import matches
from shared.webhooks.signatures import signing_key
from shared.wire.expressions import MAX_TRANSFORM_STEPS, Expression

P = TypeVar("P")

_MAX_CACHED_MATCHES: Final = 10_000
_DECRYPT_RETRY_INTERVAL_S: Final = 10.0
_DECRYPT_BATCH: Final = 100
_NO_AUTH: Final = {"type": "none"}


@dataclass(frozen=True, slots=True)
class _DecryptedParts:
    """The encrypted parts of a webhook in plain text; a part with an error is empty."""

    keys: SigningKeys
    headers: Mapping[str, str]
    auth: WebhookAuth
    errors: Mapping[EncryptedPart, Exception]

    def reasons(self) -> dict[EncryptedPart, str]:
        """Return why each part does not decrypt, without secrets."""
        return {
            part: str(error) if isinstance(error, InterlinkError) else type(error).__name__
            for part, error in self.errors.items()
        }


class OutgoingWebhooks:
    """Every outgoing webhook by workspace and by id, and the workspaces whose queue is paused."""

    def __init__(self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log) -> None:
        self._configuration = configuration
        self._vault = vault
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._by_workspace: dict[str, dict[str, OutgoingWebhook]] = {}
        self._matches: dict[str, dict[tuple[str, tuple[str, ...]], Sequence[OutgoingWebhook]]] = {}
        """Results of `matching` by workspace, then by event type and triggers."""
        self._cached_matches = 0
        self._unreadable: set[str] = set()
        self.collection: Collection = mongo.collection(WEBHOOKS)
        self.snapshot: Snapshot[OutgoingWebhook] = Snapshot(
            configuration, self.collection, self._parse_for_snapshot, log, on_change=self._index
        )
        self.queues: Snapshot[bool] = Snapshot(configuration, mongo.collection(QUEUES), _is_paused, log)

    async def start(self) -> None:
        await self.snapshot.start()
        await self.queues.start()
        self._task = asyncio.create_task(self._run_decryption_retries())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.queues.stop()
        await self.snapshot.stop()

    def matching(
        self, workspace: str, event_type: str, triggers: tuple[str, ...] = ()
    ) -> Sequence[OutgoingWebhook]:
        """Return the enabled webhooks with a pattern for the type or a trigger, each once.

        Filters are not evaluated.
        """
        webhooks = self._by_workspace.get(workspace)
        if not webhooks:
            return ()
        matching = self._matches.get(workspace, {}).get((event_type, triggers))
        if matching is None:
            matching = [
                webhook
                for webhook in webhooks.values()
                if webhook.enabled and matches(webhook.patterns, event_type, *triggers)
            ]
            # Types are chosen by workspaces: limit the cache, and start again when it is full.
            if self._cached_matches >= _MAX_CACHED_MATCHES:
                self._matches.clear()
                self._cached_matches = 0
            self._matches.setdefault(workspace, {})[event_type, triggers] = matching
            self._cached_matches += 1
        return matching

    def unmatched_reason(
        self, workspace: str, event_type: str, triggers: tuple[str, ...] = ()
    ) -> Literal["no_webhook", "no_pattern", "disabled"]:
        """Return why `matching` returns no webhook for this type and these triggers."""
        webhooks = self._by_workspace.get(workspace)
        if not webhooks:
            return "no_webhook"
        covered = any(matches(webhook.patterns, event_type, *triggers) for webhook in webhooks.values())
        return "disabled" if covered else "no_pattern"

    def may_send(self, webhook: OutgoingWebhook) -> bool:
        """Return whether attempts may start: enabled, readable, and neither webhook nor queue is paused."""
        return (
            webhook.enabled
            and not webhook.unreadable
            and not webhook.paused
            and not self.queues.items.get(webhook.workspace, False)
        )

    async def ensure_current(self) -> None:
        """Bring webhooks, paused queues and erasure marks up to date. Raises `DatabaseUnavailable`.

        Deliveries wait until MongoDB answers: a decision by outdated settings cannot be undone.
        """
        if not await self._configuration.current():
            raise DatabaseUnavailable("MongoDB does not say whether the webhooks in memory are up to date")

    async def find(self, webhook_id: str) -> OutgoingWebhook | None:
        """Return a webhook by id, as of the last `ensure_current`. Raises `DatabaseUnavailable`.

        An unknown webhook is read from MongoDB: the process that stored it may have died before it announced
        it.
        """
        # Not in the snapshot: deleted, or stored a moment ago.
        if webhook_id not in self.snapshot.items:
            await self.snapshot.load((webhook_id,))
        return self.snapshot.items.get(webhook_id)

    async def disable(self, webhook_id: str, reason: str) -> bool:
        """Disable a webhook; return whether this call did. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document: Document | None = await self.collection.find_one_and_update(
                {"_id": webhook_id, "deleted_at": None, "enabled": True},
                {"$set": {"enabled": False, "disabled_reason": reason, "changed_at": utcnow()}},
                return_document=True,
            )
        if document is None:
            return False
        await self.snapshot.record(webhook_id)
        return True

    def sealed_secret(self, workspace: str, webhook_id: str, secret: str) -> StoredSecret:
        """Return the secret of a new webhook as it is stored."""
        return store_secret(self._vault, workspace, webhook_id, secret)

    def rotated_secrets(self, document: Document, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """Return the stored secrets after a rotation; old ones stay valid for `overlap`."""
        return rotate_secret(self._vault, document, secret, overlap)

    async def is_deleted(self, webhook_id: str) -> bool:
        """Return whether the webhook is deleted, as opposed to unreadable. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document = await self.collection.find_one({"_id": webhook_id, "deleted_at": None}, {"_id": 1})
        return document is None

    def secrets(self, document: Document) -> tuple[tuple[str, datetime | None], ...]:
        """Return the unexpired secrets in plain text, with the times at which they expire.

        Raises `Misconfigured` if one does not decrypt.
        """
        now = utcnow()
        valid = [
            item for item in document["secrets"] if item["expires_at"] is None or item["expires_at"] > now
        ]
        return decrypt_all(self._vault, {**document, "secrets": valid})

    def sealed_value(self, workspace: str, webhook_id: str, field: str, value: Mapping[str, Any]) -> Sealed:
        """Return headers or authentication as they are stored."""
        text = orjson.dumps(value).decode()
        return self._vault.seal(text, workspace=workspace, record=webhook_id, field=field)

    def parse(self, document: Document) -> OutgoingWebhook:
        """Return the webhook of a document.

        Raises `Malformed` if the document is invalid, `Misconfigured` if a part does not decrypt.
        """
        parts = self._decrypt(document)
        for error in parts.errors.values():
            raise error
        return self._build(document, parts)

    def validate(self, document: Document) -> None:
        """Check that the webhook is usable, apart from parts that do not decrypt.

        Raises `Malformed` if, for example, its certificate is invalid.
        """
        parts = self._decrypt(document)
        for error in parts.errors.values():
            if not isinstance(error, Misconfigured):
                raise error
        self._build(document, parts)

    def unreadable_parts(self, webhook_id: str) -> Mapping[EncryptedPart, str]:
        """Return the parts that do not decrypt with the keys of this process, with the reasons."""
        webhook = self.snapshot.items.get(webhook_id)
        return webhook.unreadable if webhook else {}

    def _parse_for_snapshot(self, document: Document) -> OutgoingWebhook:
        """Return the webhook for the snapshot; log when it starts or stops being unreadable."""
        parts = self._decrypt(document)
        webhook = self._build(document, parts)
        before = self.snapshot.items.get(webhook.id)
        was_unreadable = before is not None and before.unreadable
        if webhook.unreadable and not was_unreadable:
            self._log.error(
                "webhook.decryption_failed",
                webhook_id=webhook.id,
                parts=list(webhook.unreadable),
                error="; ".join(dict.fromkeys(webhook.unreadable.values())),
            )
        elif was_unreadable and not webhook.unreadable:
            self._log.info("webhook.decryption_recovered", webhook_id=webhook.id)
        return webhook

    async def _run_decryption_retries(self) -> None:
        while True:
            await asyncio.sleep(_DECRYPT_RETRY_INTERVAL_S)
            try:
                await self._retry_decryption()
            except Exception as error:  # noqa: BLE001 -- a failed pass must not end the retries
                detail = str(error) if isinstance(error, InterlinkError) else type(error).__name__
                self._log.warning("webhook.decryption_retry_failed", error=detail)

    async def _retry_decryption(self) -> None:
        """Load unreadable webhooks that decrypt by now. Raises `DatabaseUnavailable`.

        Their `changed_at` need not change when that happens: the missing key was added, `interlink keys`
        encrypted the values with another key, or a backup was restored.
        """
        remaining = iter(
            [
                (webhook_id, webhook)
                for webhook_id, webhook in self.snapshot.items.items()
                if webhook.unreadable
            ]
        )
        while webhooks := dict(islice(remaining, _DECRYPT_BATCH)):
            query = {"_id": {"$in": list(webhooks)}, "deleted_at": None}
            with translate_errors():
                documents = await self.collection.find(query).to_list(len(webhooks))
            for document in documents:
                webhook_id = document["_id"]
                # A version that was loaded meanwhile is newer than this one.
                if (
                    self.snapshot.items.get(webhook_id) is webhooks[webhook_id]
                    and not self._decrypt(document).errors
                ):
                    await self.snapshot.load((webhook_id,), again=True)
                # Decryption is CPU work: let other tasks run in between.
                await asyncio.sleep(0)

    def _build(self, document: Document, parts: _DecryptedParts) -> OutgoingWebhook:
        schedule, limit = document["schedule"], document.get("rate_limit")
        after_days = document.get("disable_after_days", 5)
        transform = document.get("transform")
        return OutgoingWebhook(
            id=document["_id"],
            workspace=document["workspace"],
            name=document["name"],
            url=document["url"],
            patterns=tuple(document["events"]),
            filter=EventFilter.of(document.get("filter") or {}),
            integration_id=document.get("integration_id") or "",
            enabled=document["enabled"],
            enabled_at=document.get("enabled_at") or document["created_at"],
            paused=document.get("paused", False),
            format=document.get("format", "envelope"),
            transform=Expression(transform, "transform", max_steps=MAX_TRANSFORM_STEPS)
            if transform
            else None,
            profile=document["profile"],
            keys=parts.keys,
            headers=parts.headers,
            auth=parts.auth,
            unreadable=parts.reasons(),
            policy=RetryPolicy(
                SCHEDULES[schedule] if isinstance(schedule, str) else tuple(schedule),
                document.get("jitter", 0.0),
                document.get("client_errors", "final"),
                document.get("max_retry_after_s", MAX_RETRY_AFTER_S),
            ),
            rate_limit=RateLimit(limit["requests"], limit["period_s"]) if limit else None,
            ordering=document["ordering"],
            max_in_flight=document["max_in_flight"],
            timeout_s=document["timeout_s"],
            disable_after=timedelta(days=after_days) if after_days else None,
            breaker=document.get("circuit_breaker"),
            lifts=document.get("lifts", 0),
        )

    def _decrypt(self, document: Document) -> _DecryptedParts:
        """Decrypt the parts of a webhook, each on its own. An absent part needs no key."""
        errors: dict[EncryptedPart, Exception] = {}

        def decrypt_part(part: EncryptedPart, decrypt: Callable[[Document], P], default: P) -> P:
            try:
                return decrypt(document)
            except Exception as error:  # noqa: BLE001 -- whatever is wrong with a part, no event may be lost
                errors[part] = error
                return default

        return _DecryptedParts(
            keys=decrypt_part("secret", self._signing_keys, ()),
            headers=decrypt_part("headers", self._headers, {}),
            auth=decrypt_part("auth", self._auth, WebhookAuth()),
            errors=errors,
        )

    def _signing_keys(self, document: Document) -> SigningKeys:
        profile = document["profile"]
        return tuple((signing_key(profile, secret), ends) for secret, ends in self.secrets(document))

    def _headers(self, document: Document) -> Mapping[str, str]:
        # No headers, nothing to decrypt: the webhook works without the key.
        return {} if document.get("header_names") == [] else self._decrypt_field(document, "headers")

    def _auth(self, document: Document) -> WebhookAuth:
        return (
            WebhookAuth()
            if document.get("auth_shown") == _NO_AUTH
            else webhook_auth(self._decrypt_field(document, "auth"))
        )

    def _decrypt_field(self, document: Document, field: str) -> dict[str, Any]:
        sealed: Sealed | None = document.get(field)
        if sealed is None:
            return {}
        text = self._vault.open(sealed, workspace=document["workspace"], record=document["_id"], field=field)
        value: dict[str, Any] = orjson.loads(text)
        return value

    def _index(self, before: OutgoingWebhook | None, after: OutgoingWebhook | None) -> None:
        """Apply one change. The cost must not grow with the webhooks of other workspaces."""
        # A change of one webhook may change every match of its workspace.
        for webhook in (before, after):
            if webhook:
                self._cached_matches -= len(self._matches.pop(webhook.workspace, ()))
        if before:
            workspace_webhooks = self._by_workspace[before.workspace]
            del workspace_webhooks[before.id]
            if not workspace_webhooks:
                del self._by_workspace[before.workspace]
            self._unreadable.discard(before.id)
        if after:
            self._by_workspace.setdefault(after.workspace, {})[after.id] = after
            if after.unreadable:
                self._unreadable.add(after.id)
        UNREADABLE_WEBHOOKS.set(len(self._unreadable))


def _is_paused(document: Document) -> bool:
    return bool(document["paused"])
