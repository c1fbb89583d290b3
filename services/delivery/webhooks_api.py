"""The management API of outgoing webhooks."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI
from pydantic import AfterValidator, AwareDatetime
from starlette.responses import Response

from services.delivery.fanout import body_of
from services.delivery.request import request_event
from services.delivery.store import Deliveries
from services.delivery.subscriptions import Subscriptions
from services.delivery.webhook_schemas import (
    NewWebhook,
    Retry,
    Rotation,
    ShownWebhook,
    TestDelivery,
    WebhookChange,
)
from shared.contracts.envelope import Event, now, rfc3339
from shared.contracts.errors import FieldError, Invalid, Malformed, NotFound
from shared.contracts.ids import WebhookId, delivery_id_for, new_event_id, new_webhook_id
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.access import ApiKey, requires
from shared.runtime.guarded import GuardedClient
from shared.runtime.kafka.produce import Producer, record_of
from shared.runtime.mongo import Document, translated, utcnow
from shared.runtime.paging import Cursor, Limit, Page, page
from shared.runtime.problems import in_utc
from shared.wire.signatures import Profile, new_standard_secret, signing_key
from shared.wire.tracing import child_of

_TEST_WITHIN_S: Final = 1.8

Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
Moment = Annotated[AwareDatetime, AfterValidator(in_utc)]


class WebhooksApi:
    """The routes and what they need."""

    def __init__(
        self, subscriptions: Subscriptions, deliveries: Deliveries, producer: Producer, client: GuardedClient
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._producer = producer
        self._client = client

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        add("/outgoing-webhooks", self.create, methods=["POST"], status_code=201)
        add("/outgoing-webhooks", self.list_webhooks, methods=["GET"])
        add("/outgoing-webhooks/{webhook_id}", self.read, methods=["GET"])
        add("/outgoing-webhooks/{webhook_id}", self.change, methods=["PATCH"])
        add("/outgoing-webhooks/{webhook_id}", self.delete, methods=["DELETE"], status_code=204)
        add("/outgoing-webhooks/{webhook_id}/test", self.test, methods=["POST"], status_code=202)
        add("/outgoing-webhooks/{webhook_id}/rotate-secret", self.rotate_secret, methods=["POST"])
        add("/outgoing-webhooks/{webhook_id}/enable", self.enable, methods=["POST"])
        add("/outgoing-webhooks/{webhook_id}/disable", self.disable, methods=["POST"])
        app.include_router(router)

    # Outgoing webhooks

    async def create(self, body: NewWebhook, key: Writer) -> ShownWebhook:
        """Subscribe a URL to events. The secret is shown this once."""
        self._check_url(body.url)
        webhook_id = new_webhook_id()
        secret = body.secret or _new_secret(body.profile)
        _check_secret(body.profile, secret)
        moment = utcnow()
        document: Document = {
            "_id": webhook_id,
            "workspace": key.workspace,
            "schedule": body.retry.schedule,
            **body.model_dump(exclude={"secret", "retry"}),
            "secrets": [self._subscriptions.keep(webhook_id, secret)],
            "created_at": moment,
            "changed_at": moment,
        }
        with translated():
            await self._subscriptions.collection.insert_one(document)
        self._subscriptions.snapshot.put(document)
        return _show(document, secret)

    async def list_webhooks(
        self, key: Reader, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ShownWebhook]:
        """The workspace's outgoing webhooks, newest first."""
        query = {"workspace": key.workspace, "deleted_at": None}
        return await page(self._subscriptions.collection, query, _show, limit=limit, cursor=cursor)

    async def read(self, webhook_id: str, key: Reader) -> ShownWebhook:
        """One outgoing webhook."""
        return _show(await self._find(webhook_id, key))

    async def change(self, webhook_id: str, body: WebhookChange, key: Writer) -> ShownWebhook:
        """Change what is given."""
        await self._find(webhook_id, key)
        if body.url:
            self._check_url(body.url)
        change = {
            name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None
        }
        retry = change.pop("retry", {})
        if "schedule" in retry:
            change["schedule"] = retry["schedule"]
        return _show(await self._change(webhook_id, change))

    async def delete(self, webhook_id: str, key: Writer) -> Response:
        """Remove a webhook: what waits for it is cancelled, its log stays until it expires."""
        await self._find(webhook_id, key)
        await self._change(webhook_id, {"deleted_at": utcnow(), "secrets": []})
        await self._deliveries.drop(webhook_id)
        return Response(status_code=204)

    async def test(self, webhook_id: str, key: Writer) -> TestDelivery:
        """Send a `webhook.test` event through the same path as any other."""
        await self._find(webhook_id, key)
        event = Event(
            id=new_event_id(),
            type="webhook.test",
            source="/delivery/test",
            workspace=key.workspace,
            time=now(),
            data=b'{"message":"This is a test."}',
            traceparent=child_of(""),
        )
        name = WebhookId(webhook_id)
        delivery_id = delivery_id_for(event.workspace, event.source, event.id, name)
        request = request_event(
            delivery_id, name, event, body_of(event, from_provider=False), event.traceparent
        )
        await self._producer.publish(record_of(DELIVERY_REQUESTED, name, request), within_s=_TEST_WITHIN_S)
        return TestDelivery(delivery_id=delivery_id)

    async def rotate_secret(self, webhook_id: str, body: Rotation, key: Writer) -> ShownWebhook:
        """Make or take a new secret; deliveries are signed with both for `overlap_hours`."""
        document = await self._find(webhook_id, key)
        secret = body.secret or _new_secret(document["profile"])
        _check_secret(document["profile"], secret)
        rotated = self._subscriptions.rotated(document, secret, timedelta(hours=body.overlap_hours))
        return _show(await self._change(webhook_id, {"secrets": rotated}), secret)

    async def enable(self, webhook_id: str, key: Writer) -> ShownWebhook:
        """Send again. What happened while it was disabled is not sent."""
        await self._find(webhook_id, key)
        return _show(await self._change(webhook_id, {"enabled": True}))

    async def disable(self, webhook_id: str, key: Writer) -> ShownWebhook:
        """Send nothing until it is enabled; what waits keeps waiting."""
        await self._find(webhook_id, key)
        return _show(await self._change(webhook_id, {"enabled": False}))

    # The store

    def _check_url(self, url: str) -> None:
        host = urlsplit(url).hostname or ""
        if not self._client.permits(host):
            fault = FieldError("url", "this address is internal: deliveries go to public addresses only")
            raise Invalid("some fields are not acceptable", errors=(fault,))

    async def _find(self, webhook_id: str, key: ApiKey) -> Document:
        with translated():
            document = await self._subscriptions.collection.find_one(
                {"_id": webhook_id, "workspace": key.workspace, "deleted_at": None}
            )
        if document is None:
            raise NotFound("no such outgoing webhook")
        return document

    async def _change(self, webhook_id: str, change: Mapping[str, Any]) -> Document:
        with translated():
            document = await self._subscriptions.collection.find_one_and_update(
                {"_id": webhook_id, "deleted_at": None},
                {"$set": {**change, "changed_at": utcnow()}},
                return_document=True,
            )
        if document is None:
            raise NotFound("no such outgoing webhook")
        self._subscriptions.snapshot.put(document)
        return document


def _new_secret(profile: Profile) -> str:
    return new_standard_secret() if profile == "standard" else secrets.token_hex(32)


def _check_secret(profile: Profile, secret: str) -> None:
    try:
        signing_key(profile, secret)
    except Malformed as error:
        raise Invalid(
            "some fields are not acceptable", errors=(FieldError("secret", error.detail),)
        ) from None


def _show(document: Document, secret: str | None = None) -> ShownWebhook:
    return ShownWebhook(
        id=document["_id"],
        retry=Retry(schedule=document["schedule"]),
        created_at=rfc3339(document["created_at"]),
        updated_at=rfc3339(document["changed_at"]),
        secret=secret,
        **{
            name: document[name]
            for name in (
                "name",
                "url",
                "events",
                "description",
                "enabled",
                "profile",
                "ordering",
                "max_in_flight",
                "timeout_s",
            )
        },
    )
