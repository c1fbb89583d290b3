"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import orjson

from services.delivery.auth import Auth, auth_of
from services.delivery.pacing import RateLimit
from services.delivery.retry import Policy
from services.delivery.store import QUEUES, WEBHOOKS
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Mongo, Snapshot
from shared.runtime.secrets import Kept, Sealed, Vault, keep, opened, rotated, valid_now
from shared.wire.backoff import SCHEDULES
from shared.wire.expressions import Expression
from shared.wire.filters import Filter
from shared.wire.formats import Format
from shared.wire.patterns import matches
from shared.wire.signatures import Profile, signing_key

Ordering = Literal["none", "strict"]

_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """An outgoing webhook as fan-out and attempts need it."""

    id: WebhookId
    workspace: WorkspaceId
    name: str
    url: str
    patterns: tuple[str, ...]
    filter: Filter | None
    integration_id: str
    enabled: bool
    enabled_at: datetime
    paused: bool
    format: Format
    transform: Expression | None
    profile: Profile
    keys: tuple[tuple[bytes, datetime | None], ...]
    headers: Mapping[str, str]
    auth: Auth
    policy: Policy
    rate_limit: RateLimit | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after: timedelta | None

    @property
    def strict(self) -> bool:
        return self.ordering == "strict"

    def valid_keys(self) -> list[bytes]:
        """The secrets to sign with now, the newest first; a rotated one until it ends."""
        return valid_now(self.keys)


class Subscriptions:
    """Every outgoing webhook in memory, by workspace and by id, and the workspaces that are paused."""

    def __init__(self, mongo: Mongo, vault: Vault, log: Log) -> None:
        self._vault = vault
        self._by_workspace: dict[str, list[Webhook]] = {}
        self._matched: dict[tuple[str, str], Sequence[Webhook]] = {}
        self.collection: Collection = mongo.collection(WEBHOOKS)
        self.snapshot: Snapshot[Webhook] = Snapshot(
            self.collection, self._parse, log, on_change=self._reindex
        )
        self.queues: Snapshot[bool] = Snapshot(mongo.collection(QUEUES), _is_paused, log)

    async def start(self) -> None:
        await self.snapshot.start()
        await self.queues.start()

    async def stop(self) -> None:
        await self.queues.stop()
        await self.snapshot.stop()

    def wanting(self, workspace: str, event_type: str) -> Sequence[Webhook]:
        """The enabled webhooks of a workspace whose patterns cover this type; filters come later."""
        found = self._matched.get((workspace, event_type))
        if found is None:
            found = [
                webhook
                for webhook in self._by_workspace.get(workspace, ())
                if webhook.enabled and matches(webhook.patterns, event_type)
            ]
            if len(self._matched) >= _MOST_REMEMBERED:
                self._matched.clear()
            self._matched[workspace, event_type] = found
        return found

    def sends(self, webhook: Webhook) -> bool:
        """Whether attempts may be made now: enabled, and neither it nor its workspace is paused."""
        return webhook.enabled and not webhook.paused and not self.queues.items.get(webhook.workspace, False)

    async def find(self, webhook_id: str) -> Webhook | None:
        """A webhook by id; looks at the store once for one that another process has just made."""
        webhook = self.snapshot.items.get(webhook_id)
        if webhook is None:
            await self.snapshot.refresh()
            webhook = self.snapshot.items.get(webhook_id)
        return webhook

    def keep(self, workspace: str, webhook_id: str, secret: str) -> Kept:
        """A new webhook's secret as it is stored."""
        return keep(self._vault, workspace, webhook_id, secret)

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[Kept]:
        """The webhook's secrets after a rotation."""
        return rotated(self._vault, document, secret, overlap)

    def secrets(self, document: Document) -> tuple[tuple[str, datetime | None], ...]:
        """The webhook's secrets in clear, with their ends."""
        return opened(self._vault, document)

    def sealed(self, workspace: str, webhook_id: str, field: str, value: Mapping[str, Any]) -> Sealed:
        """Headers or auth as they are stored."""
        text = orjson.dumps(value).decode()
        return self._vault.seal(text, workspace=workspace, record=webhook_id, field=field)

    def parse(self, document: Document) -> Webhook:
        """The webhook that a document means. Raises `Malformed`, `Misconfigured`."""
        return self._parse(document)

    def _parse(self, document: Document) -> Webhook:
        schedule, limit = document["schedule"], document.get("rate_limit")
        after_days = document.get("disable_after_days", 5)
        transform = document.get("transform")
        return Webhook(
            id=document["_id"],
            workspace=document["workspace"],
            name=document["name"],
            url=document["url"],
            patterns=tuple(document["events"]),
            filter=Filter.of(document.get("filter") or {}),
            integration_id=document.get("integration_id") or "",
            enabled=document["enabled"],
            enabled_at=document.get("enabled_at") or document["created_at"],
            paused=document.get("paused", False),
            format=document.get("format", "envelope"),
            transform=Expression(transform, "transform") if transform else None,
            profile=document["profile"],
            keys=tuple(
                (signing_key(document["profile"], secret), ends) for secret, ends in self.secrets(document)
            ),
            headers=self._open(document, "headers"),
            auth=auth_of(self._open(document, "auth")),
            policy=Policy(
                SCHEDULES[schedule] if isinstance(schedule, str) else tuple(schedule),
                document.get("jitter", 0.0),
                document.get("client_errors", "final"),
            ),
            rate_limit=RateLimit(limit["requests"], limit["period_s"]) if limit else None,
            ordering=document["ordering"],
            max_in_flight=document["max_in_flight"],
            timeout_s=document["timeout_s"],
            disable_after=timedelta(days=after_days) if after_days else None,
        )

    def _open(self, document: Document, field: str) -> dict[str, Any]:
        sealed: Sealed | None = document.get(field)
        if sealed is None:
            return {}
        text = self._vault.open(sealed, workspace=document["workspace"], record=document["_id"], field=field)
        value: dict[str, Any] = orjson.loads(text)
        return value

    def _reindex(self) -> None:
        self._matched.clear()
        by_workspace: dict[str, list[Webhook]] = {}
        for webhook in self.snapshot.items.values():
            by_workspace.setdefault(webhook.workspace, []).append(webhook)
        self._by_workspace = by_workspace


def _is_paused(document: Document) -> bool:
    return bool(document["paused"])
