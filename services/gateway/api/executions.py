"""`/api/inbound-endpoints/{id}/events`: executions of an endpoint, their payloads, and replay."""

import base64
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI

from services.gateway.api.execution_schemas import ExecutionOut, PayloadOut, PayloadsOut
from services.gateway.api.publish_events import AcceptedEventsOut
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.endpoint import INTEGRATION_ID_PREFIX
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.executions import Executions
from shared.contracts.envelope import Event, now, parse_event, rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import derive
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime.kafka.producer import Producer, RecordPosition, event_record
from shared.runtime.kafka.reader import read_record
from shared.runtime.mongo import Document, translate_errors
from shared.runtime.settings import KafkaSettings
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.wire.tracing import child_traceparent

_READ_TIMEOUT_S: Final = 10.0
_ACK_TIMEOUT_S: Final = 1.8
_MAX_READ_EVENTS: Final = 20
"""Events of one execution that are read from Kafka."""

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class ExecutionsApi:
    """The routes of executions."""

    def __init__(
        self,
        endpoints: InboundEndpoints,
        accounts: ConnectedAccounts,
        executions: Executions,
        producer: Producer,
        kafka: KafkaSettings,
    ) -> None:
        self._endpoints = endpoints
        self._accounts = accounts
        self._executions = executions.collection
        self._producer = producer
        self._kafka = kafka

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        router = APIRouter(prefix="/api/inbound-endpoints/{endpoint_id}/events")
        add = router.add_api_route
        add("", self.list_all, methods=["GET"])
        add("/{execution_id}", self.read, methods=["GET"])
        add("/{execution_id}/payload", self.payload, methods=["GET"])
        add("/{execution_id}/replay", self.replay, methods=["POST"], status_code=202)
        app.include_router(router)

    async def list_all(
        self, endpoint_id: str, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ExecutionOut]:
        """List the requests to an endpoint, newest first. A new one appears after about half a second.

        With the id of an integration, list the requests to the app webhook that had events of its account.
        """
        await self._check(endpoint_id, key)
        return await page(
            self._executions, {"endpoint_id": endpoint_id}, _execution_out, limit=limit, cursor=cursor
        )

    async def read(self, endpoint_id: str, execution_id: str, key: Reader) -> ExecutionOut:
        """Return one execution."""
        return _execution_out(await self._find(endpoint_id, execution_id, key))

    async def payload(self, endpoint_id: str, execution_id: str, key: Reader) -> PayloadsOut:
        """Return the events' data as it is on Kafka; of a rejected request, the start of its body."""
        document = await self._find(endpoint_id, execution_id, key)
        if "body" in document:
            body_type = document.get("content_type", "")
            truncated = document["bytes"] > len(document["body"])
            payload = _payload_out(None, "", body_type, bytes(document["body"]), truncated=truncated)
            return PayloadsOut(items=[payload])
        events = await self._read_events(document)
        items = [_payload_out(event.id, event.type, event.content_type, event.data) for event in events]
        return PayloadsOut(items=items)

    async def replay(self, endpoint_id: str, execution_id: str, key: Writer) -> AcceptedEventsOut:
        """Publish the events again, under new ids. Subscribers and channels receive them once more."""
        document = await self._find(endpoint_id, execution_id, key)
        events = await self._read_events(document)
        with translate_errors():
            counted = await self._executions.find_one_and_update(
                {"_id": execution_id}, {"$inc": {"replays": 1}}, return_document=True
            )
        # The number of the replay is in the new ids: each replay has its own.
        number = str((counted or document).get("replays", 1))
        replayed = [_replayed_event(event, execution_id, number) for event in events]
        records = [event_record(WEBHOOKS_RECEIVED, endpoint_id, event) for event in replayed]
        await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        return AcceptedEventsOut(accepted=[event.id for event in replayed])

    async def _check(self, endpoint_id: str, key: ApiKey) -> None:
        """Raise `NotFound` if the endpoint or integration is not of the caller's workspace."""
        if endpoint_id.startswith(INTEGRATION_ID_PREFIX):
            await self._accounts.check(endpoint_id, key.workspace)
        else:
            await self._endpoints.find(endpoint_id, key, any_kind=True)

    async def _find(self, endpoint_id: str, execution_id: str, key: ApiKey) -> Document:
        await self._check(endpoint_id, key)
        with translate_errors():
            document: Document | None = await self._executions.find_one(
                {"_id": execution_id, "endpoint_id": endpoint_id}
            )
        if document is None:
            raise NotFound("no such execution")
        return document

    async def _read_events(self, document: Document) -> list[Event]:
        """Return the events of an execution from Kafka.

        Raises `Conflict` if it has none, or if they are no longer on Kafka.
        """
        positions = await self._positions(document)
        if not positions:
            raise Conflict("this execution has no events on Kafka")
        events: list[Event] = []
        for position in positions[:_MAX_READ_EVENTS]:
            record = await read_record(self._kafka, WEBHOOKS_RECEIVED, position, timeout_s=_READ_TIMEOUT_S)
            event = parse_event(record.headers, record.value) if record else None
            if event is None or event.id not in document["event_ids"]:
                raise Conflict(
                    "the events of this execution are no longer on Kafka: it stores them for 7 days"
                )
            events.append(event)
        return events

    async def _positions(self, document: Document) -> Sequence[RecordPosition]:
        """Return where the events of an execution are on Kafka.

        A repeated request has published nothing: its events are where the first request published them.
        """
        positions = [(item[0], item[1]) for item in document.get("places", ()) if item]
        if positions or not document.get("event_ids"):
            return positions
        query = {
            "endpoint_id": document["endpoint_id"],
            "event_ids": {"$in": document["event_ids"]},
            "places.0.0": {"$exists": True},
        }
        with translate_errors():
            first: Document | None = await self._executions.find_one(query)
        return [(item[0], item[1]) for item in first["places"] if item] if first else []


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
        traceparent=child_traceparent(event.traceparent),
        attributes={**event.attributes, "replay_of": original},
    )


def _payload_out(
    event_id: str | None, event_type: str, content_type: str, data: bytes, *, truncated: bool = False
) -> PayloadOut:
    try:
        text, encoding = data.decode(), "text"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode(), "base64"
    return PayloadOut.model_validate(
        {
            "event_id": event_id,
            "type": event_type,
            "content_type": content_type,
            "encoding": encoding,
            "data": text,
            "truncated": truncated,
        }
    )


def _execution_out(document: Document) -> ExecutionOut:
    return ExecutionOut(
        id=document["_id"],
        endpoint_id=document["endpoint_id"],
        at=rfc3339(document["created_at"]),
        outcome=document["outcome"],
        status=document["status"],
        verdict=document.get("verdict"),
        detail=document.get("detail", ""),
        duration_ms=document["ms"],
        bytes=document["bytes"],
        events=document.get("events", 0),
        types=document.get("types", []),
        triggers=document.get("triggers", []),
        accounts=document.get("accounts", []),
        occurred_at=document.get("occurred_at"),
        event_ids=document.get("event_ids", []),
        delivery_ids=document.get("delivery_ids", []),
        test=document.get("test", False),
        replays=document.get("replays", 0),
    )
