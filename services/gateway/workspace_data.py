"""The gateway's part of a deletion: keys, members, endpoints, executions, event types, audit log."""

from services.gateway.api.event_type_registry import EventTypes
from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.execution_records import ExecutionRepository
from shared.connections.account_routes import AccountRoutes
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.web.access import Keyring
from shared.runtime.web.api_keys import ApiKeys
from shared.runtime.web.audit_entries import AuditEntries


class GatewayData:
    """Deletes what the gateway stores of a workspace."""

    def __init__(
        self,
        keys: ApiKeys,
        keyring: Keyring,
        repository: EndpointRepository,
        endpoints: InboundEndpoints,
        executions: ExecutionRepository,
        routes: AccountRoutes,
        types: EventTypes,
        audit_entries: AuditEntries,
        counts: HourlyCounts,
        usage: DailyUsage,
    ) -> None:
        self._keys = keys
        self._keyring = keyring
        self._repository = repository
        self._endpoints = endpoints
        self._executions = executions
        self._routes = routes
        self._types = types
        self._audit_entries = audit_entries
        self._counts = counts
        self._usage = usage

    async def delete(self, workspace: str) -> None:
        """Delete everything. Safe to repeat. Raises `DatabaseUnavailable`."""
        # Who has no key any more cannot add anything.
        await self._keys.revoke_all(workspace)
        await self._keyring.remove_members(workspace)
        await self._endpoints.delete_all(workspace)
        for endpoint_id in await self._repository.ids(workspace):
            await self._executions.delete_all(endpoint_id)
        for integration_id in await self._routes.ids(workspace):
            await self._executions.delete_all(integration_id)
        await self._types.delete_all(workspace)
        await self._audit_entries.delete_all(workspace)
        await self._counts.delete_all(workspace)
        await self._usage.delete_all(workspace)
