"""`/api/incoming-webhooks`: addresses with a token that post a message into a channel."""

import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

from services.gateway.api.endpoint_documents import new_document, sent_fields
from services.gateway.api.fields import Channel, Name, RateLimit, StrictModel
from services.gateway.ingest.endpoint import token_digest
from services.gateway.ingest.endpoints import InboundEndpoints
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import new_endpoint_id
from shared.runtime.mongo import Document
from shared.runtime.quotas import Quota
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.webhooks.incoming import INCOMING_PROVIDER

_DEFAULT_PER_MINUTE: Final = 60

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]
MassMentions = Annotated[
    bool,
    Field(description="Whether `@everyone`, `<!here>` and the like notify people. Otherwise they are text."),
]


class IncomingWebhookCreate(StrictModel):
    """`POST /api/incoming-webhooks`."""

    name: Name
    target_channel_id: Channel
    enabled: bool = True
    rate_limit: RateLimit = _DEFAULT_PER_MINUTE
    allow_mass_mentions: MassMentions = False


class IncomingWebhookUpdate(StrictModel):
    """`PATCH /api/incoming-webhooks/{id}`: an absent field stays as it is."""

    name: Name | None = None
    target_channel_id: Channel | None = None
    enabled: bool | None = None
    rate_limit: RateLimit | None = None
    allow_mass_mentions: MassMentions | None = None


class IncomingWebhookOut(BaseModel):
    """An incoming webhook. `token` and `url` are only in the response that created it."""

    id: str
    name: str
    target_channel_id: str
    enabled: bool
    rate_limit: int
    allow_mass_mentions: bool
    created_at: str
    updated_at: str
    token: str | None = None
    url: str | None = None


class IncomingWebhooksApi:
    """The routes of incoming webhooks."""

    def __init__(self, endpoints: InboundEndpoints, *, public_base: str, per_workspace: int) -> None:
        """`per_workspace` is the maximum number of incoming webhooks of one workspace."""
        self._endpoints = endpoints
        self._base = public_base
        self._quota = Quota(
            endpoints.collection,
            per_workspace,
            "incoming webhooks",
            "INTERLINK_INCOMING_WEBHOOKS_PER_WORKSPACE",
        )

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/incoming-webhooks", self.create_incoming, methods=["POST"], status_code=201)
        add("/incoming-webhooks", self.list_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.read_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.change_incoming, methods=["PATCH"])
        add("/incoming-webhooks/{endpoint_id}", self.delete_incoming, methods=["DELETE"], status_code=204)
        app.include_router(router)

    async def create_incoming(self, body: IncomingWebhookCreate, key: Writer) -> IncomingWebhookOut:
        """Create an address that posts into a channel. Token and URL are shown only this once."""
        endpoint_id, token = new_endpoint_id(), secrets.token_urlsafe(32)
        document = new_document(
            endpoint_id,
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
        existing = {"workspace": key.workspace, "deleted_at": None, "provider": INCOMING_PROVIDER}
        async with self._quota.reserve(existing, undo=lambda: self._endpoints.delete(endpoint_id)):
            await self._endpoints.insert(document)
        created = _incoming_webhook_out(document)
        return created.model_copy(
            update={"token": token, "url": f"{self._base}/api/webhooks/incoming/{token}"}
        )

    async def list_incoming(
        self, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[IncomingWebhookOut]:
        """List the workspace's incoming webhooks, newest first."""
        query = {"workspace": key.workspace, "deleted_at": None, "provider": INCOMING_PROVIDER}
        return await page(
            self._endpoints.collection, query, _incoming_webhook_out, limit=limit, cursor=cursor
        )

    async def read_incoming(self, endpoint_id: str, key: Reader) -> IncomingWebhookOut:
        """Return one incoming webhook."""
        return _incoming_webhook_out(await self._endpoints.find(endpoint_id, key, incoming=True))

    async def change_incoming(
        self, endpoint_id: str, body: IncomingWebhookUpdate, key: Writer
    ) -> IncomingWebhookOut:
        """Change the given fields."""
        await self._endpoints.find(endpoint_id, key, incoming=True)
        changes = sent_fields(body)
        if "target_channel_id" in changes:
            changes["channel_id"] = changes.pop("target_channel_id")
        return _incoming_webhook_out(await self._endpoints.update(endpoint_id, changes))

    async def delete_incoming(self, endpoint_id: str, key: Writer) -> Response:
        """Delete an incoming webhook. Its token is unknown from now on."""
        await self._endpoints.find(endpoint_id, key, incoming=True)
        await self._endpoints.delete(endpoint_id)
        return Response(status_code=204)


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
