"""Executions over the API: what arrived at an endpoint, its payload on request, and replay."""

import base64
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI

from services.gateway.api.endpoint_schemas import ExecutionOut, PayloadOut, PayloadsOut
from services.gateway.api.schemas import AcceptedEventsOut
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.endpoints import INTEGRATION_ID_PREFIX, InboundEndpoints
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
"""Events of one execution whose payloads are read at a time."""

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class ExecutionsApi:
    """The routes and what they need."""

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
        """Put every route on the app."""
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
        """What arrived at the endpoint, newest first; it takes about half a second to appear.

        With an integration's id: what came for its account to the address of its app.
        """
        await self._check(endpoint_id, key)
        return await page(
            self._executions, {"endpoint_id": endpoint_id}, _execution_out, limit=limit, cursor=cursor
        )

    async def read(self, endpoint_id: str, execution_id: str, key: Reader) -> ExecutionOut:
        """One execution."""
        return _execution_out(await self._find(endpoint_id, execution_id, key))

    async def payload(self, endpoint_id: str, execution_id: str, key: Reader) -> PayloadsOut:
        """The data of its events, as they stand on Kafka; of a refused request, the start of its body."""
        document = await self._find(endpoint_id, execution_id, key)
        if "body" in document:
            kind = document.get("content_type", "")
            cut = document["bytes"] > len(document["body"])
            return PayloadsOut(items=[_payload_out(None, "", kind, bytes(document["body"]), truncated=cut)])
        found = await self._events(document)
        items = [_payload_out(each.id, each.type, each.content_type, each.data) for each in found]
        return PayloadsOut(items=items)

    async def replay(self, endpoint_id: str, execution_id: str, key: Writer) -> AcceptedEventsOut:
        """Put its events on their way again, under new ids: subscribers and channels get them once more."""
        document = await self._find(endpoint_id, execution_id, key)
        found = await self._events(document)
        with translate_errors():
            counted = await self._executions.find_one_and_update(
                {"_id": execution_id}, {"$inc": {"replays": 1}}, return_document=True
            )
        number = str((counted or document).get("replays", 1))
        again = [_replayed_event(each, execution_id, number) for each in found]
        records = [event_record(WEBHOOKS_RECEIVED, endpoint_id, each) for each in again]
        await self._producer.publish_all(records, timeout_s=_ACK_TIMEOUT_S)
        return AcceptedEventsOut(accepted=[each.id for each in again])

    async def _check(self, endpoint_id: str, key: ApiKey) -> None:
        """Raises `NotFound`: it is not the caller's."""
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

    async def _events(self, document: Document) -> list[Event]:
        """The events of an execution from Kafka; those of a repeat are where the first one put them."""
        places = await self._places(document)
        if not places:
            raise Conflict("it became no event that could be read again")
        found: list[Event] = []
        for place in places[:_MAX_READ_EVENTS]:
            kept = await read_record(self._kafka, WEBHOOKS_RECEIVED, place, timeout_s=_READ_TIMEOUT_S)
            event = parse_event(kept.headers, kept.value) if kept else None
            if event is None or event.id not in document["event_ids"]:
                raise Conflict("its events are no longer on Kafka: they are kept for seven days there")
            found.append(event)
        return found

    async def _places(self, document: Document) -> Sequence[RecordPosition]:
        places = [(each[0], each[1]) for each in document.get("places", ()) if each]
        if places or not document.get("event_ids"):
            return places
        query = {
            "endpoint_id": document["endpoint_id"],
            "event_ids": {"$in": document["event_ids"]},
            "places.0.0": {"$exists": True},
        }
        with translate_errors():
            first: Document | None = await self._executions.find_one(query)
        return [(each[0], each[1]) for each in first["places"] if each] if first else []


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
    event_id: str | None, kind: str, content_type: str, data: bytes, *, truncated: bool = False
) -> PayloadOut:
    try:
        text, encoding = data.decode(), "text"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode(), "base64"
    return PayloadOut.model_validate(
        {
            "event_id": event_id,
            "type": kind,
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
