"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from services.delivery.store import WEBHOOKS
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Mongo, Snapshot, utcnow
from shared.runtime.secrets import Vault
from shared.wire.backoff import SCHEDULES
from shared.wire.patterns import matches
from shared.wire.signatures import Profile, signing_key

Ordering = Literal["none", "strict"]

_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """An outgoing webhook as fan-out and attempts need it."""

    id: WebhookId
    workspace: WorkspaceId
    url: str
    patterns: tuple[str, ...]
    enabled: bool
    profile: Profile
    keys: tuple[tuple[bytes, datetime | None], ...]
    schedule: tuple[float, ...]
    ordering: Ordering
    max_in_flight: int
    timeout_s: float

    @property
    def strict(self) -> bool:
        return self.ordering == "strict"

    def valid_keys(self) -> list[bytes]:
        """The secrets to sign with now, the newest first; a rotated one until it expires."""
        if len(self.keys) == 1:
            return [self.keys[0][0]]
        now = utcnow()
        return [key for key, expires_at in self.keys if expires_at is None or expires_at > now]


class Subscriptions:
    """Every outgoing webhook in memory, by workspace and by id."""

    def __init__(self, mongo: Mongo, vault: Vault, log: Log) -> None:
        self._vault = vault
        self._by_workspace: dict[str, list[Webhook]] = {}
        self._matched: dict[tuple[str, str], Sequence[Webhook]] = {}
        self.collection: Collection = mongo.collection(WEBHOOKS)
        self.snapshot: Snapshot[Webhook] = Snapshot(
            self.collection, self._parse, log, on_change=self._reindex
        )

    async def start(self) -> None:
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def wanting(self, workspace: str, event_type: str) -> Sequence[Webhook]:
        """The enabled webhooks of a workspace whose patterns cover this type."""
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

    async def find(self, webhook_id: str) -> Webhook | None:
        """A webhook by id; looks at the store once for one that another process has just made."""
        webhook = self.snapshot.items.get(webhook_id)
        if webhook is None:
            await self.snapshot.refresh()
            webhook = self.snapshot.items.get(webhook_id)
        return webhook

    def seal(self, webhook_id: str, secret: str, expires_at: datetime | None = None) -> Document:
        """One secret as it is kept; `expires_at` for one that was rotated out."""
        return {
            "sealed": self._vault.seal(secret, record=webhook_id, field="secret"),
            "expires_at": expires_at,
        }

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[Document]:
        """The secrets after a rotation: the new one first, those before it for `overlap` more."""
        until = utcnow() + overlap
        old = [
            kept | {"expires_at": min(until, kept["expires_at"] or until)}
            for kept in document["secrets"]
            if kept["expires_at"] is None or kept["expires_at"] > utcnow()
        ]
        return [self.seal(document["_id"], secret), *old[:4]]

    def _parse(self, document: Document) -> Webhook:
        name = document["_id"]
        schedule = document["schedule"]
        return Webhook(
            id=name,
            workspace=document["workspace"],
            url=document["url"],
            patterns=tuple(document["events"]),
            enabled=document["enabled"],
            profile=document["profile"],
            keys=tuple(
                (
                    signing_key(
                        document["profile"], self._vault.open(kept["sealed"], record=name, field="secret")
                    ),
                    kept["expires_at"],
                )
                for kept in document["secrets"]
            ),
            schedule=SCHEDULES[schedule] if isinstance(schedule, str) else tuple(schedule),
            ordering=document["ordering"],
            max_in_flight=document["max_in_flight"],
            timeout_s=document["timeout_s"],
        )

    def _reindex(self) -> None:
        self._matched.clear()
        by_workspace: dict[str, list[Webhook]] = {}
        for webhook in self.snapshot.items.values():
            by_workspace.setdefault(webhook.workspace, []).append(webhook)
        self._by_workspace = by_workspace
