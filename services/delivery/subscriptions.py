"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from services.delivery.store import WEBHOOKS
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, Mongo, Snapshot
from shared.runtime.secrets import Kept, Vault, keep, opened, rotated, valid_now
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
        """The secrets to sign with now, the newest first; a rotated one until it ends."""
        return valid_now(self.keys)


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

    def keep(self, webhook_id: str, secret: str) -> Kept:
        """A new webhook's secret as it is stored."""
        return keep(self._vault, webhook_id, secret)

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[Kept]:
        """The webhook's secrets after a rotation."""
        return rotated(self._vault, document["_id"], document["secrets"], secret, overlap)

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
                (signing_key(document["profile"], secret), ends)
                for secret, ends in opened(self._vault, name, document["secrets"])
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
