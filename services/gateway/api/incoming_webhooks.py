"""`/api/incoming-webhooks`: addresses with a token that post a message into a channel."""

import secrets
from datetime import timedelta
from typing import Annotated, Final, Self

from fastapi import Depends, FastAPI
from pydantic import AliasChoices, BaseModel, Field
from starlette.responses import Response

from services.gateway.api.fields import Channel, Name, Networks, RateLimit, StrictModel, sent_fields
from services.gateway.api.rotation_events import publish_rotation
from services.gateway.ingest.endpoint import token_digest
from services.gateway.ingest.endpoint_records import EndpointRepository, IncomingWebhook
from services.gateway.ingest.endpoints import InboundEndpoints
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import new_endpoint_id
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.webhooks.incoming import INCOMING_PROVIDER

_DEFAULT_PER_MINUTE: Final = 60
_ROTATION_OVERLAP_H: Final = 24

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]
AllowedIps = Annotated[
    Networks,
    Field(description="Addresses and networks that may post with the token; an empty list allows all."),
]
_TARGET_CHANNEL: Final = Field(
    validation_alias=AliasChoices("target_channel_id", "targetChannelId"),
    description="The channel that messages are posted into. `targetChannelId` is accepted too.",
)
MassMentions = Annotated[
    bool,
    Field(description="Whether `@everyone`, `<!here>` and the like notify people. Otherwise they are text."),
]


class IncomingWebhookCreate(StrictModel):
    """`POST /api/incoming-webhooks`."""

    name: Name
    target_channel_id: Annotated[Channel, _TARGET_CHANNEL]
    enabled: bool = True
    allow_ips: AllowedIps = Field(default=[])
    rate_limit: RateLimit = _DEFAULT_PER_MINUTE
    allow_mass_mentions: MassMentions = False


class IncomingWebhookUpdate(StrictModel):
    """`PATCH /api/incoming-webhooks/{id}`: an absent field stays as it is."""

    name: Name | None = None
    target_channel_id: Annotated[Channel | None, _TARGET_CHANNEL] = None
    enabled: bool | None = None
    allow_ips: AllowedIps | None = None
    rate_limit: RateLimit | None = None
    allow_mass_mentions: MassMentions | None = None


class TokenRotate(StrictModel):
    """`POST /api/incoming-webhooks/{id}/rotate-token`: the old token is accepted for `overlap_hours` more."""

    overlap_hours: Annotated[int, Field(ge=0, le=168)] = _ROTATION_OVERLAP_H


class IncomingWebhookOut(BaseModel):
    """An incoming webhook. `token` and `url` are only in the response that created or rotated the token."""

    id: str
    name: str
    target_channel_id: str
    enabled: bool
    allow_ips: list[str]
    rate_limit: int
    allow_mass_mentions: bool
    created_at: str
    updated_at: str
    token: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, record: IncomingWebhook, *, token: str | None = None, url: str | None = None) -> Self:
        """Return an incoming webhook as the API shows it."""
        return cls(
            id=record.id,
            name=record.name,
            target_channel_id=record.channel_id or "",
            enabled=record.enabled,
            allow_ips=list(record.allow_ips),
            rate_limit=record.rate_limit,
            allow_mass_mentions=record.allow_mass_mentions,
            created_at=rfc3339(record.created_at),
            updated_at=rfc3339(record.changed_at),
            token=token,
            url=url,
        )


class IncomingWebhooksApi:
    """The routes of incoming webhooks."""

    def __init__(
        self,
        repository: EndpointRepository,
        endpoints: InboundEndpoints,
        producer: Producer,
        *,
        public_base: str,
    ) -> None:
        """Read from `repository`; write through `endpoints`, which announces each change."""
        self._producer = producer
        self._repository = repository
        self._endpoints = endpoints
        self._base = public_base

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        add("/incoming-webhooks", self.create_incoming, methods=["POST"], status_code=201)
        add("/incoming-webhooks", self.list_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.read_incoming, methods=["GET"])
        add("/incoming-webhooks/{endpoint_id}", self.change_incoming, methods=["PATCH"])
        add("/incoming-webhooks/{endpoint_id}", self.delete_incoming, methods=["DELETE"], status_code=204)
        add("/incoming-webhooks/{endpoint_id}/rotate-token", self.rotate_token, methods=["POST"])

    async def create_incoming(self, body: IncomingWebhookCreate, key: Writer) -> IncomingWebhookOut:
        """Create an address that posts into a channel. Token and URL are shown only this once."""
        endpoint_id, token = new_endpoint_id(), secrets.token_urlsafe(32)
        now = utcnow()
        record = IncomingWebhook(
            id=endpoint_id,
            workspace=key.workspace,
            provider=INCOMING_PROVIDER,
            name=body.name,
            channel_id=body.target_channel_id,
            rate_limit=body.rate_limit,
            enabled=body.enabled,
            created_at=now,
            changed_at=now,
            secrets=[],
            allow_ips=tuple(body.allow_ips),
            token_digest=token_digest(token),
            allow_mass_mentions=body.allow_mass_mentions,
        )
        await self._endpoints.insert(record)
        return IncomingWebhookOut.of(record, token=token, url=self._url(token))

    async def list_incoming(self, key: Reader, paging: PagingQuery) -> Page[IncomingWebhookOut]:
        """List the workspace's incoming webhooks, newest first."""
        records = await self._repository.list_incoming_page(key.workspace, paging)
        return Page(
            items=[IncomingWebhookOut.of(record) for record in records.items],
            next_cursor=records.next_cursor,
        )

    async def read_incoming(self, endpoint_id: str, key: Reader) -> IncomingWebhookOut:
        """Return one incoming webhook."""
        return IncomingWebhookOut.of(await self._repository.find_incoming(endpoint_id, key.workspace))

    async def change_incoming(
        self, endpoint_id: str, body: IncomingWebhookUpdate, key: Writer
    ) -> IncomingWebhookOut:
        """Change the given fields."""
        record = await self._repository.find_incoming(endpoint_id, key.workspace)
        changes = sent_fields(body)
        if "target_channel_id" in changes:
            changes["channel_id"] = changes.pop("target_channel_id")
        return IncomingWebhookOut.of(await self._endpoints.change(record, **changes))

    async def rotate_token(self, endpoint_id: str, body: TokenRotate, key: Writer) -> IncomingWebhookOut:
        """Set a new token, and with it a new URL, shown only this once.

        The old token is accepted for `overlap_hours` more; one from before it is not.
        """
        record = await self._repository.find_incoming(endpoint_id, key.workspace)
        token, overlap = secrets.token_urlsafe(32), timedelta(hours=body.overlap_hours)
        await publish_rotation(self._producer, record, overlap)
        changed = await self._endpoints.change(
            record,
            unchanged=True,
            token_digest=token_digest(token),
            old_token_digest=record.token_digest if overlap else None,
            old_token_expires_at=utcnow() + overlap if overlap else None,
        )
        return IncomingWebhookOut.of(changed, token=token, url=self._url(token))

    def _url(self, token: str) -> str:
        return f"{self._base}/api/webhooks/incoming/{token}"

    async def delete_incoming(self, endpoint_id: str, key: Writer) -> Response:
        """Delete an incoming webhook. Its token is unknown from now on."""
        await self._endpoints.delete(await self._repository.find_incoming(endpoint_id, key.workspace))
        return Response(status_code=204)
