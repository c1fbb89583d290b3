"""The gateway's management API: incoming webhooks, published events, API keys, and the documents."""

import secrets
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import Response

from services.gateway.api.event_type_registry import EventTypes
from services.gateway.api.proxy import MergedOpenApi, ServiceProxy
from services.gateway.api.publish_events import MAX_EVENTS, CloudEvent, read_events
from services.gateway.api.schemas import (
    AcceptedEventsOut,
    ApiKeyCreate,
    ApiKeyOut,
    IncomingWebhookCreate,
    IncomingWebhookOut,
    IncomingWebhookUpdate,
)
from services.gateway.api.webhook_openapi import PATHS, SCHEMAS
from services.gateway.ingest.endpoints import InboundEndpoints, new_document, sent_fields, token_digest
from services.gateway.settings import GatewaySettings
from shared.contracts.asyncapi import asyncapi
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError, Invalid, NotFound, UnsupportedMedia
from shared.contracts.ids import new_endpoint_id
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.mongo import Collection, Document, translate_errors, utcnow
from shared.runtime.quotas import Quota
from shared.runtime.version import VERSION
from shared.runtime.web import access
from shared.runtime.web.access import ApiKey, Keyring, requires
from shared.runtime.web.openapi import clean_schema
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.runtime.web.problems import openapi_response
from shared.webhooks.incoming import INCOMING_PROVIDER
from shared.wire.bodies import inflate, media_type

_PUBLISH_TIMEOUT_S: Final = 1.8
MAX_BODY_BYTES: Final = 5 * 1024 * 1024
"""Of a management call; a batch of 500 events is the largest."""
_JSON: Final = "application/json"
_EVENT_MEDIA_TYPES: Final = frozenset(
    {"application/json", "application/cloudevents+json", "application/cloudevents-batch+json"}
)

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]
Publisher = Annotated[ApiKey, Depends(requires("events:write"))]
Admin = Annotated[ApiKey, Depends(requires("admin"))]


class ManagementApi:
    """The routes and what they need."""

    def __init__(
        self,
        endpoints: InboundEndpoints,
        types: EventTypes,
        keyring: Keyring,
        keys: Collection,
        producer: Producer,
        *,
        public_base: str,
        forwarder: ServiceProxy,
        settings: GatewaySettings,
    ) -> None:
        self._endpoints = endpoints
        self._types = types
        self._keyring = keyring
        self._keys = keys
        self._producer = producer
        self._base = public_base
        self._incoming = Quota(
            endpoints.collection,
            settings.incoming_webhooks_per_workspace,
            "incoming webhooks",
            "INTERLINK_INCOMING_WEBHOOKS_PER_WORKSPACE",
        )
        self._api_keys = Quota(
            keys, settings.api_keys_per_workspace, "API keys", "INTERLINK_API_KEYS_PER_WORKSPACE"
        )
        webhooks = {"paths": PATHS, "components": {"schemas": SCHEMAS}}
        self._merged = MergedOpenApi(forwarder, webhooks)

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/incoming-webhooks", self.create_incoming, methods=["POST"], status_code=201)
        add("/incoming-webhooks", self.list_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.read_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.change_incoming, methods=["PATCH"])
        add("/incoming-webhooks/{endpoint_id}", self.delete_incoming, methods=["DELETE"], status_code=204)
        add(
            "/events",
            self.publish_events,
            methods=["POST"],
            status_code=202,
            responses={415: openapi_response("The body is of another type.")},
            openapi_extra=_EVENTS_BODY,
        )
        add("/api-keys", self.create_key, methods=["POST"], status_code=201)
        add("/api-keys", self.list_keys, methods=["GET"])
        add("/api-keys/{key_id}", self.revoke_key, methods=["DELETE"], status_code=204)
        add("/asyncapi.json", self.asyncapi, methods=["GET"], include_in_schema=False)
        add("/openapi.json", self.openapi, methods=["GET"], include_in_schema=False)
        app.include_router(router)

    # Incoming webhooks

    async def create_incoming(self, body: IncomingWebhookCreate, key: Writer) -> IncomingWebhookOut:
        """Make an address that posts into a channel. Token and URL are shown this once."""
        endpoint, token = new_endpoint_id(), secrets.token_urlsafe(32)
        document = new_document(
            endpoint,
            key,
            INCOMING_PROVIDER,
            body.name,
            body.target_channel_id,
            body.rate_limit,
            enabled=body.enabled,
        )
        document |= {
            "secrets": [],
            "allow_ips": [],
            "token_digest": token_digest(token),
            "allow_mass_mentions": body.allow_mass_mentions,
        }
        alive = {"workspace": key.workspace, "deleted_at": None, "provider": INCOMING_PROVIDER}
        async with self._incoming.reserve(alive, undo=lambda: self._endpoints.delete(endpoint)):
            await self._endpoints.insert(document)
        shown = _incoming_webhook_out(document)
        return shown.model_copy(update={"token": token, "url": f"{self._base}/api/webhooks/incoming/{token}"})

    async def list_incoming(
        self, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[IncomingWebhookOut]:
        """The workspace's incoming webhooks, newest first."""
        query = {"workspace": key.workspace, "deleted_at": None, "provider": INCOMING_PROVIDER}
        return await page(
            self._endpoints.collection, query, _incoming_webhook_out, limit=limit, cursor=cursor
        )

    async def read_incoming(self, endpoint_id: str, key: Reader) -> IncomingWebhookOut:
        """One incoming webhook."""
        return _incoming_webhook_out(await self._endpoints.find(endpoint_id, key, incoming=True))

    async def change_incoming(
        self, endpoint_id: str, body: IncomingWebhookUpdate, key: Writer
    ) -> IncomingWebhookOut:
        """Change what is given."""
        await self._endpoints.find(endpoint_id, key, incoming=True)
        change = sent_fields(body)
        if "target_channel_id" in change:
            change["channel_id"] = change.pop("target_channel_id")
        return _incoming_webhook_out(await self._endpoints.change(endpoint_id, change))

    async def delete_incoming(self, endpoint_id: str, key: Writer) -> Response:
        """Remove an incoming webhook: its token is unknown from now on."""
        await self._endpoints.find(endpoint_id, key, incoming=True)
        await self._endpoints.change(endpoint_id, {"deleted_at": utcnow()})
        return Response(status_code=204)

    # Events

    async def publish_events(self, request: Request, key: Publisher) -> AcceptedEventsOut:
        """Publish CloudEvents (structured mode) on `chat.events`; 202 once all are on Kafka, in order.

        The data of a type that has a schema must fit it: see `/api/event-types`.
        """
        if media_type(request.headers.get("content-type", "application/json")) not in _EVENT_MEDIA_TYPES:
            raise UnsupportedMedia(f"send {', '.join(sorted(_EVENT_MEDIA_TYPES))}")
        encoding = request.headers.get("content-encoding", "").lower()
        body = inflate(await request.body(), encoding, MAX_BODY_BYTES)
        events = read_events(body, key, self._types.checks(key.workspace))
        records = [event_record(CHAT_EVENTS, event.subject or event.source, event) for event in events]
        await self._producer.publish_all(records, timeout_s=_PUBLISH_TIMEOUT_S)
        return AcceptedEventsOut(accepted=[event.id for event in events])

    # API keys

    async def create_key(self, body: ApiKeyCreate, key: Admin) -> ApiKeyOut:
        """Make an API key of this workspace. The key is shown this once."""
        if body.expires_at and body.expires_at <= utcnow():
            fault = FieldError("expires_at", "must be in the future")
            raise Invalid("some fields are not acceptable", errors=(fault,))
        secret, document = access.new_key(key.workspace, body.name, body.scopes, body.expires_at)
        alive = {"workspace": key.workspace, "deleted_at": None}
        async with self._api_keys.reserve(alive, undo=lambda: self._revoke(document["_id"], key)):
            with translate_errors():
                await self._keys.insert_one(document)
        await self._keyring.snapshot.record(document["_id"])
        return _api_key_out(document).model_copy(update={"key": secret})

    async def list_keys(self, key: Admin, limit: Limit = 50, cursor: Cursor = None) -> Page[ApiKeyOut]:
        """The workspace's keys, newest first, without the keys themselves."""
        query = {"workspace": key.workspace, "deleted_at": None}
        return await page(self._keys, query, _api_key_out, limit=limit, cursor=cursor)

    async def revoke_key(self, key_id: str, key: Admin) -> Response:
        """Revoke a key: from now on no service accepts it."""
        await self._revoke(key_id, key)
        return Response(status_code=204)

    async def _revoke(self, key_id: str, key: ApiKey) -> None:
        now = utcnow()
        with translate_errors():
            document = await self._keys.find_one_and_update(
                {"_id": key_id, "workspace": key.workspace, "deleted_at": None},
                {"$set": {"deleted_at": now, "changed_at": now}},
                return_document=True,
            )
        if document is None:
            raise NotFound("no such API key")
        await self._keyring.snapshot.record(document["_id"])

    # Documents

    async def asyncapi(self) -> Response:
        """The topics as AsyncAPI 3."""
        return Response(_asyncapi_text(), media_type=_JSON)

    async def openapi(self, request: Request) -> Response:
        """Every service's routes as one OpenAPI document, and the addresses that strangers call."""
        return Response(await self._merged.text(request.app.openapi), media_type=_JSON)


@cache
def _asyncapi_text() -> bytes:
    return orjson.dumps(asyncapi(VERSION))


def _incoming_webhook_out(document: Document) -> IncomingWebhookOut:
    return IncomingWebhookOut(
        id=document["_id"],
        name=document["name"],
        target_channel_id=document["channel_id"],
        enabled=document["enabled"],
        rate_limit=document["rate_limit"],
        allow_mass_mentions=document.get("allow_mass_mentions", False),
        created_at=rfc3339(document["created_at"]),
        updated_at=rfc3339(document["changed_at"]),
    )


def _api_key_out(document: Document) -> ApiKeyOut:
    def shown(moment: datetime | None) -> str | None:
        return rfc3339(moment) if moment else None

    return ApiKeyOut(
        id=document["_id"],
        name=document["name"],
        prefix=document["prefix"],
        scopes=document["scopes"],
        created_at=rfc3339(document["created_at"]),
        expires_at=shown(document["expires_at"]),
        last_used_at=shown(document["last_used_at"]),
    )


_EVENT_SCHEMA: Final = clean_schema(CloudEvent.model_json_schema())
_EVENTS_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One CloudEvent in structured mode, or a list of up to 500.",
        "content": {
            "application/cloudevents+json": {"schema": _EVENT_SCHEMA},
            "application/cloudevents-batch+json": {
                "schema": {"type": "array", "items": _EVENT_SCHEMA, "minItems": 1, "maxItems": MAX_EVENTS}
            },
        },
    }
}
