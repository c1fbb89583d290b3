"""`/api/inbound-endpoints/{id}/events`: executions, their payloads, and replay. `/api/executions`: search."""

from typing import Annotated, Final

from fastapi import Depends, FastAPI, Query

from services.gateway.api.execution_events import ExecutionEvents
from services.gateway.api.execution_schemas import ExecutionOut, PayloadOut, PayloadsOut
from services.gateway.api.publish_events import AcceptedEventsOut
from services.gateway.ingest.endpoint import INTEGRATION_ID_PREFIX
from services.gateway.ingest.endpoint_records import EndpointRepository
from services.gateway.ingest.execution_records import ExecutionRecord, ExecutionRepository
from services.gateway.ingest.quotas import WorkspaceQuotas
from shared.connections.account_routes import AccountRoutes
from shared.contracts.envelope import Event, now
from shared.contracts.errors import Forbidden
from shared.contracts.ids import derive
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.limits import WorkspaceLimits
from shared.runtime.settings import KafkaSettings
from shared.runtime.tracing import continue_trace
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes

_ACK_TIMEOUT_S: Final = 1.8
_MAX_SHOWN_EVENTS: Final = 20
_MAX_READERS: Final = 2
"""Reads of one workspace at a time: each holds the events of an execution, and up to 8 MiB more of Kafka."""

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Operator = Annotated[ApiKey, Depends(requires("integrations:operate"))]


class ExecutionsApi:
    """The routes of executions."""

    def __init__(
        self,
        endpoints: EndpointRepository,
        accounts: AccountRoutes,
        executions: ExecutionRepository,
        producer: Producer,
        quotas: WorkspaceQuotas,
        kafka: KafkaSettings,
    ) -> None:
        self._endpoints = endpoints
        self._accounts = accounts
        self._executions = executions
        self._producer = producer
        self._quotas = quotas
        self._events = ExecutionEvents(executions, kafka)
        self._readers = WorkspaceLimits(_MAX_READERS)

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        Routes(app, "/api").add("/executions", self.list_related, methods=["GET"])
        add = Routes(app, "/api/inbound-endpoints/{endpoint_id}/events").add
        add("", self.list_all, methods=["GET"])
        add("/{execution_id}", self.read, methods=["GET"])
        add("/{execution_id}/payload", self.payload, methods=["GET"])
        add("/{execution_id}/replay", self.replay, methods=["POST"], status_code=202)

    async def list_related(
        self,
        key: Reader,
        paging: PagingQuery,
        related_id: Annotated[
            str,
            Query(
                min_length=1,
                max_length=1000,
                description="Of an event, a trace or an execution, or the provider's own id of an event.",
            ),
        ],
    ) -> Page[ExecutionOut]:
        """List the executions of all endpoints that have an id. Those of a flood are not all stored."""
        records = await self._executions.list_related(key.workspace, related_id, paging)
        return Page(
            items=[ExecutionOut.of(record) for record in records.items], next_cursor=records.next_cursor
        )

    async def list_all(self, endpoint_id: str, key: Reader, paging: PagingQuery) -> Page[ExecutionOut]:
        """List the requests to an endpoint, newest first. A new one appears after about half a second.

        With the id of an integration, list the requests to the app webhook that had events of its account.
        """
        await self._check(endpoint_id, key)
        records = await self._executions.list_page(endpoint_id, paging)
        return Page(
            items=[ExecutionOut.of(record) for record in records.items], next_cursor=records.next_cursor
        )

    async def read(self, endpoint_id: str, execution_id: str, key: Reader) -> ExecutionOut:
        """Return one execution."""
        return ExecutionOut.of(await self._find(endpoint_id, execution_id, key))

    async def payload(self, endpoint_id: str, execution_id: str, key: Reader) -> PayloadsOut:
        """Return the data of the first 20 events that is still on Kafka; the start of a rejected body.

        Raises `Forbidden` if the caller lacks the scope `payloads:read`.
        """
        if not key.allows("payloads:read"):
            raise Forbidden("payloads are masked for this role")
        record = await self._find(endpoint_id, execution_id, key)
        if record.body is not None:
            truncated = record.size > len(record.body)
            payload = PayloadOut.of(None, "", record.content_type or "", record.body, truncated=truncated)
            return PayloadsOut(items=[payload])
        async with self._readers.hold(key.workspace):
            events = await self._events.read_first(record, _MAX_SHOWN_EVENTS)
            items = [PayloadOut.of(event.id, event.type, event.content_type, event.data) for event in events]
            return PayloadsOut(items=items)

    async def replay(self, endpoint_id: str, execution_id: str, key: Operator) -> AcceptedEventsOut:
        """Publish all events again, under new ids. Subscribers and channels receive them once more.

        If some can no longer be read, none is published: 409 says how many, and why.
        """
        record = await self._find(endpoint_id, execution_id, key)
        async with self._readers.hold(key.workspace):
            self._quotas.check(key.workspace)
            events = await self._events.read_all(record)
            # The number of the replay is in the new ids: each replay has its own.
            number = str(await self._executions.count_replay(record))
            replayed = [_replayed_event(event, execution_id, number) for event in events]
            records = [event_record(WEBHOOKS_RECEIVED, endpoint_id, event) for event in replayed]
            with self._quotas.counted(key.workspace, [event.data for event in replayed]):
                await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
            return AcceptedEventsOut(accepted=[event.id for event in replayed])

    async def _check(self, endpoint_id: str, key: ApiKey) -> None:
        """Raise `NotFound` if the endpoint or integration is not of the caller's workspace."""
        if endpoint_id.startswith(INTEGRATION_ID_PREFIX):
            await self._accounts.check(endpoint_id, key.workspace)
        else:
            await self._endpoints.check(endpoint_id, key.workspace)

    async def _find(self, endpoint_id: str, execution_id: str, key: ApiKey) -> ExecutionRecord:
        await self._check(endpoint_id, key)
        return await self._executions.find(endpoint_id, execution_id)


def _replayed_event(event: Event, execution_id: str, number: str) -> Event:
    original = event.attributes.get("replay_of", event.id)
    return Event(
        id=f"evt_{derive(original, 'replay', execution_id, number)}",
        type=event.type,
        source=event.source,
        workspace=event.workspace,
        time=now(),
        data=event.data,
        subject=event.subject,
        content_type=event.content_type,
        traceparent=continue_trace(event.traceparent),
        attributes={**event.attributes, "replay_of": original},
    )
