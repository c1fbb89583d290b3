"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent.

Signing secrets, header values and authentication are stored encrypted, and may not decrypt if a key is
missing. Such a webhook still matches events, so that they wait in the log. Nothing is sent until every part
decrypts.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from services.delivery.model.outgoing_webhook import EncryptedPart, OutgoingWebhook
from services.delivery.model.rate_limiter import RateLimit
from services.delivery.model.retry_policy import RetryPolicy
from services.delivery.webhooks.encryption import DecryptedParts, WebhookEncryption
from services.delivery.webhooks.queues import DeliveryQueues
from services.delivery.webhooks.repository import DISABLED_BY_HAND, WebhookRecord, WebhookRepository
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.metrics import UNREADABLE_WEBHOOKS
from shared.runtime.snapshot import Snapshot
from shared.webhooks.backoff import SCHEDULES
from shared.webhooks.filters import EventFilter
from shared.webhooks.patterns import matches
from shared.wire.expressions import MAX_TRANSFORM_STEPS, Expression

_MAX_CACHED_MATCHES: Final = 10_000
_DECRYPT_RETRY_INTERVAL_S: Final = 10.0
_DECRYPT_BATCH: Final = 100


class OutgoingWebhooks:
    """Every outgoing webhook by workspace and by id, and the workspaces whose queue is paused."""

    def __init__(
        self,
        repository: WebhookRepository,
        queues: DeliveryQueues,
        encryption: WebhookEncryption,
        configuration: Configuration,
        log: Log,
    ) -> None:
        self._repository = repository
        self._queues = queues
        self._encryption = encryption
        self._configuration = configuration
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._by_workspace: dict[str, dict[str, OutgoingWebhook]] = {}
        self._matches: dict[str, dict[tuple[str, tuple[str, ...]], Sequence[OutgoingWebhook]]] = {}
        """Results of `matching` by workspace, then by event type and triggers."""
        self._cached_matches = 0
        self._unreadable: set[str] = set()
        self._snapshot: Snapshot[OutgoingWebhook] = repository.snapshot(
            configuration, self._parse_for_snapshot, log, on_change=self._index
        )

    async def start(self) -> None:
        """Load every webhook and queue, and follow their changes. Raises `DatabaseUnavailable`."""
        await self._snapshot.start()
        await self._queues.start()
        self._task = asyncio.create_task(self._run_decryption_retries())

    async def stop(self) -> None:
        """Stop following changes."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._queues.stop()
        await self._snapshot.stop()

    # In memory, as of the last `ensure_current`

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
            and not self._queues.is_paused(webhook.workspace)
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
        if webhook_id not in self._snapshot.items:
            await self._snapshot.load((webhook_id,))
        return self._snapshot.items.get(webhook_id)

    def loaded(self, webhook_id: str) -> OutgoingWebhook | None:
        """Return a webhook by id, as of the last `ensure_current`, without reading MongoDB."""
        return self._snapshot.items.get(webhook_id)

    def of_workspace(self, workspace: str) -> Collection[OutgoingWebhook]:
        """Return a workspace's webhooks, as of the last `ensure_current`."""
        return self._by_workspace.get(workspace, {}).values()

    def ids(self, workspace: str) -> Sequence[str]:
        """Return the ids of a workspace's webhooks, as of the last `ensure_current`."""
        return list(self._by_workspace.get(workspace, ()))

    async def is_deleted(self, webhook_id: str) -> bool:
        """Return whether the webhook is deleted, as opposed to unreadable. Raises `DatabaseUnavailable`."""
        return not await self._repository.exists(webhook_id)

    def unreadable_parts(self, webhook_id: str) -> Mapping[EncryptedPart, str]:
        """Return the parts that do not decrypt with the keys of this process, with the reasons."""
        webhook = self._snapshot.items.get(webhook_id)
        return webhook.unreadable if webhook else {}

    # Writes: each is in effect in every process when its caller responds

    async def create(self, record: WebhookRecord) -> None:
        """Store a new webhook.

        Raises `Conflict` if the workspace or the customer has the maximum, or another webhook claims the URL;
        `DatabaseUnavailable`.
        """
        async with self._repository.reserve(
            record.workspace, record.customer, undo=lambda: self.delete(record.id)
        ):
            await self._repository.insert(record)
        await self._snapshot.announce(record.id)

    async def update(
        self,
        webhook_id: str,
        changes: Mapping[str, Any],
        *,
        reset: bool = False,
        version: int | None = None,
        read_at: datetime | None = None,
    ) -> WebhookRecord:
        """Change a webhook as `WebhookRepository.update` does, and announce it. Raises what that raises."""
        record = await self._repository.update(
            webhook_id, changes, reset=reset, version=version, read_at=read_at
        )
        await self._snapshot.announce(webhook_id)
        return record

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook. Raises `NotFound`, `DatabaseUnavailable`."""
        await self._repository.delete(webhook_id)
        await self._snapshot.announce(webhook_id)

    async def delete_all(self, workspace: str) -> list[str]:
        """Delete every webhook of a workspace, with its secrets; return the ids of those that there were."""
        return await self._snapshot.delete_all(
            {"workspace": workspace},
            {"name": "", "url": "", "claims_url": False, "secrets": [], "headers": None, "auth": None},
        )

    async def disable(self, webhook_id: str, reason: str) -> bool:
        """Disable a webhook that is enabled; return False if it is not. Raises `DatabaseUnavailable`."""
        disabled = await self._repository.disable(webhook_id, reason)
        if disabled:
            await self._snapshot.announce(webhook_id)
        return disabled

    # Loading

    def _parse_for_snapshot(self, record: WebhookRecord) -> OutgoingWebhook:
        """Return the webhook for the snapshot; log when it starts or stops being unreadable."""
        webhook = compile_webhook(record, self._encryption.decrypt(record))
        before = self._snapshot.items.get(webhook.id)
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
                for webhook_id, webhook in self._snapshot.items.items()
                if webhook.unreadable
            ]
        )
        while webhooks := dict(islice(remaining, _DECRYPT_BATCH)):
            for record in await self._repository.by_ids(webhooks):
                # A version that was loaded meanwhile is newer than this one.
                if (
                    self._snapshot.items.get(record.id) is webhooks[record.id]
                    and not self._encryption.decrypt(record).errors
                ):
                    await self._snapshot.load((record.id,), reparse=True)
                # Decryption is CPU work: let other tasks run in between.
                await asyncio.sleep(0)

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


def compile_webhook(record: WebhookRecord, parts: DecryptedParts) -> OutgoingWebhook:
    """Return the webhook of a record, with its filter and transform compiled.

    Raises `ExpressionError` if one of them is invalid.
    """
    schedule, limit, breaker = record.schedule, record.rate_limit, record.circuit_breaker
    return OutgoingWebhook(
        id=record.id,
        workspace=record.workspace,
        name=record.name,
        url=record.url,
        patterns=record.events,
        filter=EventFilter.from_stored(record.filter or {}),
        integration_id=record.integration_id or "",
        enabled=record.enabled,
        enabled_at=record.enabled_at or record.created_at,
        paused=record.paused,
        format=record.format,
        transform=Expression(record.transform, "transform", max_steps=MAX_TRANSFORM_STEPS)
        if record.transform
        else None,
        profile=record.profile,
        keys=parts.keys,
        headers=parts.headers,
        auth=parts.auth,
        unreadable=parts.reasons(),
        policy=RetryPolicy(
            SCHEDULES[schedule] if isinstance(schedule, str) else schedule,
            record.jitter,
            record.client_errors,
            record.max_retry_after_s,
        ),
        rate_limit=RateLimit(limit.requests, limit.period_s) if limit else None,
        ordering=record.ordering,
        max_in_flight=record.max_in_flight,
        timeout_s=record.timeout_s,
        disable_after=timedelta(days=record.disable_after_days) if record.disable_after_days else None,
        breaker=breaker.overrides() if breaker else None,
        metadata=record.metadata or {},
        resets=record.resets,
        created_at=record.created_at,
        is_disabled_by_hub=not record.enabled and record.disabled_reason not in (None, DISABLED_BY_HAND),
    )


def compile_readable(record: WebhookRecord, encryption: WebhookEncryption) -> OutgoingWebhook:
    """Return the webhook of a record.

    Raises `Malformed` if the record is invalid, `Misconfigured` if a part does not decrypt.
    """
    parts = encryption.decrypt(record)
    for error in parts.errors.values():
        raise error
    return compile_webhook(record, parts)


def validate_webhook(record: WebhookRecord, encryption: WebhookEncryption) -> None:
    """Check that a webhook is usable, apart from parts that do not decrypt.

    Raises `Malformed` if, for example, its certificate is invalid.
    """
    parts = encryption.decrypt(record)
    for error in parts.errors.values():
        if not isinstance(error, Misconfigured):
            raise error
    compile_webhook(record, parts)
