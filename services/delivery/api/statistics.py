"""The statistics API: the queue now, and an outgoing webhook's attempts by the hour."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import FastAPI, Query

from services.delivery.api.customers import CustomerDeliveries
from services.delivery.api.delivery_schemas import HourStatsOut, QueueStatsOut, WebhookStatsOut
from services.delivery.api.fields import CustomerReader, Reader
from services.delivery.log.search import DeliverySearch
from services.delivery.log.statistics import HourCounts, Statistics, sum_hours
from services.delivery.settings import DeliverySettings
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import NotFound
from shared.runtime.cached_reads import CachedReads
from shared.runtime.clock import utcnow
from shared.runtime.web.routes import Routes
from shared.runtime.web.times import UtcTime

_DAY: Final = timedelta(days=1)
_STATUS_BY_COUNT: Final[Mapping[str, str]] = {
    "pending": "pending",
    "active": "delivering",
    "failed": "dead_letter",
    "delayed": "retrying",
}


class StatisticsApi:
    """The routes and what they need."""

    def __init__(
        self,
        deliveries: DeliverySearch,
        statistics: Statistics,
        webhooks: OutgoingWebhooks,
        customers: CustomerDeliveries,
        settings: DeliverySettings,
    ) -> None:
        self._customers = customers
        self._deliveries = deliveries
        self._statistics = statistics
        self._webhooks = webhooks
        self._counts: CachedReads[QueueStatsOut] = CachedReads()
        self._delivered_retention = timedelta(days=settings.delivered_days)

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        add = Routes(app, "/api").add
        add("/queue/stats", self.queue_stats, methods=["GET"])
        add("/queue/stats/hours", self.queue_hours, methods=["GET"])
        add("/outgoing-webhooks/{webhook_id}/stats", self.webhook_stats, methods=["GET"])

    async def queue_stats(
        self, key: Reader, webhook_id: Annotated[str | None, Query(max_length=100)] = None
    ) -> QueueStatsOut:
        """Count deliveries by state, for the workspace or one webhook.

        Open deliveries and dead letters are counted in the log. `completed` comes from the hourly statistics,
        about a second late (later if hundreds of webhooks are active), over the time for which the log keeps
        successful deliveries. If counting takes more than 0.1 s, counts are cached for ten times as long, and
        `counted_at` says when it began.
        """

        async def count() -> QueueStatsOut:
            return await self._count_queue(key.workspace, webhook_id)

        return await self._counts.get(key.workspace, webhook_id, count)

    async def queue_hours(
        self,
        key: Reader,
        since: Annotated[
            UtcTime | None, Query(description="The default is a day ago; at most 90 days ago.")
        ] = None,
        until: UtcTime | None = None,
    ) -> WebhookStatsOut:
        """Return the attempts of all outgoing webhooks of the workspace for each UTC hour with attempts."""
        begin = since or utcnow() - _DAY
        return _stats(await self._statistics.workspace_hours(key.workspace, begin, until), begin)

    async def webhook_stats(
        self,
        webhook_id: str,
        key: CustomerReader,
        since: Annotated[
            UtcTime | None, Query(description="The default is a day ago; at most 90 days ago.")
        ] = None,
        until: UtcTime | None = None,
    ) -> WebhookStatsOut:
        """Return an outgoing webhook's attempts for each UTC hour with attempts, from that of `since` on."""
        if not await self._belongs_to(webhook_id, key.workspace):
            raise NotFound("no such outgoing webhook")
        await self._customers.check_webhook(key, webhook_id)
        begin = since or utcnow() - _DAY
        return _stats(await self._statistics.webhook_hours(webhook_id, begin, until), begin)

    async def _count_queue(self, workspace: str, webhook_id: str | None) -> QueueStatsOut:
        """Return the counts of the log; see `queue_stats`."""
        counted_at = utcnow()
        count_by_status = await self._deliveries.count_by_status(
            workspace, webhook_id, tuple(_STATUS_BY_COUNT.values())
        )
        counts = {name: count_by_status[status] for name, status in _STATUS_BY_COUNT.items()}
        overdue_s = None
        # Without open deliveries there is nothing overdue.
        if counts["pending"] or counts["active"] or counts["delayed"]:
            overdue_s = await self._overdue_s(workspace, webhook_id)
        counts["completed"] = await self._completed(workspace, webhook_id)
        return QueueStatsOut(
            total=sum(counts.values()),
            oldest_due_s=overdue_s,
            counted_at=rfc3339(counted_at),
            **counts,
        )

    async def _overdue_s(self, workspace: str, webhook_id: str | None) -> float | None:
        """Return for how many seconds the longest overdue delivery has been due; None if none is due.

        With a `webhook_id`, call it only if the workspace has open deliveries of it.
        """
        webhook_ids = self._webhooks.ids(workspace) if webhook_id is None else [webhook_id]
        due_at = await self._deliveries.oldest_due_at(webhook_ids)
        return max(0.0, (utcnow() - due_at).total_seconds()) or None if due_at else None

    async def _completed(self, workspace: str, webhook_id: str | None) -> int:
        if webhook_id is not None and not await self._belongs_to(webhook_id, workspace):
            return 0
        return await self._statistics.delivered(workspace, webhook_id, utcnow() - self._delivered_retention)

    async def _belongs_to(self, webhook_id: str, workspace: str) -> bool:
        webhook = await self._webhooks.find(webhook_id)
        return webhook is not None and webhook.workspace == workspace


def _stats(hours: Sequence[HourCounts], begin: datetime) -> WebhookStatsOut:
    return WebhookStatsOut(
        hours=[HourStatsOut.of(hour) for hour in hours],
        together=HourStatsOut.of(sum_hours(hours, hours[0].hour if hours else begin)),
    )
