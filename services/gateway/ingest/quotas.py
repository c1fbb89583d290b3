"""Quotas of workspaces: their limits, and whether one is used up.

They are checked and counted after verification only: a stranger must not use up a workspace's quota.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, get_args

from services.gateway.settings import GatewaySettings
from shared.contracts.errors import OverQuota, TooLarge, Unacknowledged
from shared.runtime import metrics, workspaces
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.daily_usage import DailyUsage, QuotaName
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Mongo
from shared.runtime.snapshot import Snapshot
from shared.runtime.workspaces import WorkspaceRecord

QUOTAS: Final[tuple[QuotaName, ...]] = get_args(QuotaName)
_MAX_RETRY_AFTER_S: Final = 3600.0
"""An operator may raise a quota before the day ends."""
_DESCRIPTIONS: Final[Mapping[QuotaName, str]] = {
    "requests": "requests with events a day",
    "events": "events a day",
    "deliveries": "delivery attempts a day",
    "stored_bytes": "stored bytes in seven days",
}


class WorkspaceQuotas:
    """The quotas of all workspaces, and what this process knows of their use."""

    def __init__(
        self,
        settings: GatewaySettings,
        usage: DailyUsage,
        mongo: Mongo,
        configuration: Configuration,
        log: Log,
    ) -> None:
        """Set the quotas of workspaces without their own, as `settings`."""
        self._usage = usage
        self._log = log
        self._defaults = {
            name: limit for name in QUOTAS if (limit := getattr(settings, f"quota_{name}")) is not None
        }
        self.snapshot: Snapshot[Mapping[QuotaName, int]] = Snapshot(
            configuration, mongo.collection(workspaces.COLLECTION), self._parse, log
        )

    async def start(self) -> None:
        await self.snapshot.start()

    async def stop(self) -> None:
        await self.snapshot.stop()

    def limits(self, workspace: str) -> Mapping[QuotaName, int]:
        """Return the quotas of a workspace. One that is not in it has no limit."""
        return self.snapshot.items.get(workspace, self._defaults)

    def check(self, workspace: str) -> None:
        """Raise `OverQuota`, and count it, if a quota of the workspace is used up. For hot paths: no I/O."""
        if error := self.refuse(workspace):
            raise error

    def refuse(self, workspace: str) -> OverQuota | None:
        """Return the error if a quota is used up, and count the refusal; None if there is room."""
        limits = self.limits(workspace)
        if not limits:
            return None
        used = self._usage.totals(workspace)
        exceeded = next((name for name, limit in limits.items() if used[name] >= limit), None)
        if exceeded is None:
            return None
        if self._usage.start_day():
            return self.refuse(workspace)
        self._usage.add(workspace, {"refused": 1})
        metrics.QUOTA_REFUSALS.labels(exceeded).inc()
        return OverQuota(
            f"the workspace has used its quota of {limits[exceeded]:,} {_DESCRIPTIONS[exceeded]}: wait for "
            f"the next UTC day, or have the operator raise `{exceeded}` in the workspace's quotas",
            min(_MAX_RETRY_AFTER_S, (self._usage.ends_at - utcnow()).total_seconds()),
        )

    def count(self, workspace: str, published: Sequence[bytes]) -> None:
        """Count a request, and the data of its events that were published. For hot paths: no I/O."""
        stored_bytes = sum(map(len, published))
        self._usage.add(workspace, {"requests": 1, "events": len(published), "stored_bytes": stored_bytes})

    @contextmanager
    def counted(self, workspace: str, events: Sequence[bytes]) -> Iterator[None]:
        """Count a request, and the data of its events, once the context has published them.

        They count also if it fails after they were sent: some may be on Kafka, and nobody may publish
        uncounted.
        """
        try:
            yield
        except (Unacknowledged, TooLarge):
            self.count(workspace, events)
            raise
        self.count(workspace, events)

    def _parse(self, document: Document) -> Mapping[QuotaName, int]:
        own = WorkspaceRecord.from_document(document).quotas
        return {**self._defaults, **own} if own else self._defaults
