"""Executions over the API: what arrived at an endpoint, its payload on request, and replay."""

import base64
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI

from services.gateway.connected import Accounts
from services.gateway.endpoint_schemas import ShownExecution, ShownPayload, ShownPayloads
from services.gateway.executions import Executions
from services.gateway.schemas import AcceptedEvents
from services.gateway.store import INTEGRATION, Endpoints
from shared.contracts.envelope import Event, event_of, now, rfc3339
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import derive
from shared.contracts.topics import WEBHOOKS_RECEIVED
from shared.runtime.access import ApiKey, requires
from shared.runtime.kafka.produce import Place, Producer, record_of
from shared.runtime.kafka.read import read_record
from shared.runtime.mongo import Document, translated
from shared.runtime.paging import Cursor, Limit, Page, page
from shared.runtime.settings import KafkaSettings
from shared.wire.tracing import child_of

_READ_WITHIN_S: Final = 10.0
_ACK_WITHIN_S: Final = 1.8
_MOST_READ: Final = 20
"""Events of one execution whose payloads are read at a time."""

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class ExecutionsApi:
    """The routes and what they need."""

    def __init__(
        self,
        endpoints: Endpoints,
        accounts: Accounts,
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
    ) -> Page[ShownExecution]:
        """What arrived at the endpoint, newest first; it takes about half a second to appear.

        With an integration's id: what came for its account to the address of its app.
        """
        await self._check(endpoint_id, key)
        return await page(self._executions, {"endpoint_id": endpoint_id}, _show, limit=limit, cursor=cursor)

    async def read(self, endpoint_id: str, execution_id: str, key: Reader) -> ShownExecution:
        """One execution."""
        return _show(await self._find(endpoint_id, execution_id, key))

    async def payload(self, endpoint_id: str, execution_id: str, key: Reader) -> ShownPayloads:
        """The data of its events, as they stand on Kafka; of a refused request, the start of its body."""
        document = await self._find(endpoint_id, execution_id, key)
        if "body" in document:
            kind = document.get("content_type", "")
            cut = document["bytes"] > len(document["body"])
            return ShownPayloads(items=[_payload(None, "", kind, bytes(document["body"]), truncated=cut)])
        found = await self._events(document)
        items = [_payload(each.id, each.type, each.content_type, each.data) for each in found]
        return ShownPayloads(items=items)

    async def replay(self, endpoint_id: str, execution_id: str, key: Writer) -> AcceptedEvents:
        """Put its events on their way again, under new ids: subscribers and channels get them once more."""
        document = await self._find(endpoint_id, execution_id, key)
        found = await self._events(document)
        with translated():
            counted = await self._executions.find_one_and_update(
                {"_id": execution_id}, {"$inc": {"replays": 1}}, return_document=True
            )
        number = str((counted or document).get("replays", 1))
        again = [_again(each, execution_id, number) for each in found]
        records = [record_of(WEBHOOKS_RECEIVED, endpoint_id, each) for each in again]
        await self._producer.publish_all(records, within_s=_ACK_WITHIN_S)
        return AcceptedEvents(accepted=[each.id for each in again])

    async def _check(self, endpoint_id: str, key: ApiKey) -> None:
        """Raises `NotFound`: it is not the caller's."""
        if endpoint_id.startswith(INTEGRATION):
            await self._accounts.check(endpoint_id, key.workspace)
        else:
            await self._endpoints.find(endpoint_id, key, any_kind=True)

    async def _find(self, endpoint_id: str, execution_id: str, key: ApiKey) -> Document:
        await self._check(endpoint_id, key)
        with translated():
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
        for place in places[:_MOST_READ]:
            kept = await read_record(self._kafka, WEBHOOKS_RECEIVED, place, within_s=_READ_WITHIN_S)
            event = event_of(kept.headers, kept.value) if kept else None
            if event is None or event.id not in document["event_ids"]:
                raise Conflict("its events are no longer on Kafka: they are kept for seven days there")
            found.append(event)
        return found

    async def _places(self, document: Document) -> Sequence[Place]:
        places = [(each[0], each[1]) for each in document.get("places", ()) if each]
        if places or not document.get("event_ids"):
            return places
        query = {
            "endpoint_id": document["endpoint_id"],
            "event_ids": {"$in": document["event_ids"]},
            "places.0.0": {"$exists": True},
        }
        with translated():
            first: Document | None = await self._executions.find_one(query)
        return [(each[0], each[1]) for each in first["places"] if each] if first else []


def _again(event: Event, execution_id: str, number: str) -> Event:
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
        traceparent=child_of(event.traceparent),
        attributes={**event.attributes, "replay_of": original},
    )


def _payload(
    event_id: str | None, kind: str, content_type: str, data: bytes, *, truncated: bool = False
) -> ShownPayload:
    try:
        text, encoding = data.decode(), "text"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode(), "base64"
    return ShownPayload.model_validate(
        {
            "event_id": event_id,
            "type": kind,
            "content_type": content_type,
            "encoding": encoding,
            "data": text,
            "truncated": truncated,
        }
    )


def _show(document: Document) -> ShownExecution:
    return ShownExecution(
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
