"""Delivery's part of a deletion: webhooks, the log, jobs and counts of a workspace."""

from services.delivery.log.deliveries import Deliveries
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.log.recovery_jobs import RecoveryJobs
from services.delivery.log.search import DeliverySearch
from services.delivery.log.statistics import Statistics
from services.delivery.log.unmatched import UnmatchedEventLog
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from services.delivery.webhooks.queues import DeliveryQueues


class DeliveryData:
    """Deletes what delivery stores of a workspace."""

    def __init__(
        self,
        webhooks: OutgoingWebhooks,
        queues: DeliveryQueues,
        deliveries: Deliveries,
        search: DeliverySearch,
        endpoint_health: EndpointHealthRecords,
        jobs: RecoveryJobs,
        statistics: Statistics,
        unmatched: UnmatchedEventLog,
    ) -> None:
        self._webhooks = webhooks
        self._queues = queues
        self._deliveries = deliveries
        self._search = search
        self._endpoint_health = endpoint_health
        self._jobs = jobs
        self._statistics = statistics
        self._unmatched = unmatched

    async def delete(self, workspace: str) -> None:
        """Delete everything. Safe to repeat. Raises `DatabaseUnavailable`."""
        await self._jobs.jobs.delete_all(workspace)
        for webhook_id in await self._webhooks.delete_all(workspace):
            await self._deliveries.cancel_all(webhook_id)
            await self._endpoint_health.delete(webhook_id)
        await self._search.delete_all(workspace)
        if await self._queues.read_paused(workspace):
            await self._queues.set_paused(workspace, paused=False)
        await self._unmatched.delete_all(workspace)
        await self._statistics.delete_all(workspace)
