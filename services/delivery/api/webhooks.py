"""The management API of outgoing webhooks."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Query
from starlette.responses import Response

from services.delivery.api.fields import Reader, Writer, identity
from services.delivery.api.webhook_documents import (
    WebhookDocuments,
    deleted_fields,
    enabled_fields,
    stored_fields,
)
from services.delivery.api.webhook_schemas import (
    CLEARABLE,
    WebhookCreate,
    WebhookOut,
    WebhookSecretRotate,
    WebhookTestOut,
    WebhookUpdate,
)
from services.delivery.engine.fanout import event_fields_of
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.endpoint_health import EndpointHealthRecord, EndpointHealthRecords
from services.delivery.model.delivery import TEST_TYPE, request_event
from services.delivery.settings import DeliverySettings
from shared.contracts.envelope import Event, now
from shared.contracts.errors import Conflict, FieldError, Invalid, Malformed, NotFound
from shared.contracts.ids import delivery_id_for, new_event_id, new_webhook_id
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.manifests.event_names import event_names
from shared.runtime.egress.client import EgressClient
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.mongo import Document, Duplicate, translate_errors, utcnow
from shared.runtime.web.access import ApiKey
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.webhooks.formats import render_body
from shared.webhooks.signatures import new_secret, signing_key
from shared.wire.tracing import child_traceparent

_TEST_PUBLISH_TIMEOUT_S: Final = 1.8

_RESETTING_FIELDS: Final = frozenset({"url", "circuit_breaker", "max_retry_after_s"})
"""Changes that end hold and open circuit: earlier responses of the endpoint do not count any more."""

Force = Annotated[
    bool,
    Query(description="Accept a URL that another webhook of the workspace has, and unknown event names."),
]


class WebhooksApi:
    """The routes and what they need."""

    def __init__(
        self,
        subscriptions: OutgoingWebhooks,
        deliveries: Deliveries,
        endpoint_health: EndpointHealthRecords,
        producer: Producer,
        client: EgressClient,
        settings: DeliverySettings,
    ) -> None:
        self._subscriptions = subscriptions
        self._deliveries = deliveries
        self._endpoint_health = endpoint_health
        self._producer = producer
        self._client = client
        self._settings = settings
        self._documents = WebhookDocuments(subscriptions)

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        item = "/outgoing-webhooks/{webhook_id}"
        add("/outgoing-webhooks", self.create, methods=["POST"], status_code=201)
        add("/outgoing-webhooks", self.list_webhooks, methods=["GET"])
        add(item, self.read, methods=["GET"])
        add(item, self.change, methods=["PATCH"])
        add(item, self.delete, methods=["DELETE"], status_code=204)
        add(f"{item}/test", self.test, methods=["POST"], status_code=202)
        add(f"{item}/rotate-secret", self.rotate_secret, methods=["POST"])
        add(f"{item}/enable", self.enable, methods=["POST"])
        add(f"{item}/disable", self.disable, methods=["POST"])
        add(f"{item}/pause", self.pause, methods=["POST"])
        add(f"{item}/resume", self.resume, methods=["POST"])
        app.include_router(router)

    async def create(self, body: WebhookCreate, key: Writer, *, force: Force = False) -> WebhookOut:
        """Subscribe a URL to events. Only this response shows the secret."""
        self._check_url(body.url)
        warnings = _check_event_names(body.events, force=force)
        if await self._is_full(key.workspace, self._settings.webhooks_per_workspace):
            raise self._limit_reached()
        if not force:
            await self._check_url_is_free(key.workspace, body.url)
        webhook_id = new_webhook_id()
        secret = body.secret or new_secret(body.profile)
        created_at = utcnow()
        document: Document = {
            "_id": webhook_id,
            "workspace": key.workspace,
            **stored_fields(body.model_dump(exclude={"secret", "headers", "auth"}, exclude_none=True)),
            **self._documents.sealed_fields(
                key.workspace, webhook_id, {"headers": body.headers, "auth": body.auth.model_dump()}
            ),
            "secrets": [self._subscriptions.sealed_secret(key.workspace, webhook_id, secret)]
            if secret
            else [],
            "claims_url": not force,
            "paused": False,
            "created_at": created_at,
            "changed_at": created_at,
            **enabled_fields(on=body.enabled),
        }
        # Generated secrets are valid; given ones must fit the profile.
        if body.secret is not None:
            self._check_secret(body.profile, body.secret)
        self._validate(document)
        try:
            with translate_errors():
                await self._subscriptions.collection.insert_one(document)
        except Duplicate:
            raise _url_taken() from None
        # Concurrent calls may each have found space for one more: check again with the webhook stored.
        if await self._is_full(key.workspace, self._settings.webhooks_per_workspace + 1):
            await self._change(webhook_id, deleted_fields())
            raise self._limit_reached()
        await self._subscriptions.snapshot.record(document["_id"])
        health = EndpointHealthRecord(id=webhook_id)
        return self._documents.webhook_out(document, health, secret).model_copy(update={"warnings": warnings})

    async def list_webhooks(self, key: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[WebhookOut]:
        """List the workspace's outgoing webhooks, newest first."""
        query = {"workspace": key.workspace, "deleted_at": None}
        results = await page(self._subscriptions.collection, query, identity, limit=limit, cursor=cursor)
        health = await self._endpoint_health.by_webhook([document["_id"] for document in results.items])
        return Page[WebhookOut](
            items=[
                self._documents.webhook_out(document, health[document["_id"]]) for document in results.items
            ],
            next_cursor=results.next_cursor,
        )

    async def read(self, webhook_id: str, key: Reader) -> WebhookOut:
        """Return one outgoing webhook."""
        return await self._webhook_out(await self._find(webhook_id, key))

    async def change(
        self, webhook_id: str, body: WebhookUpdate, key: Writer, *, force: Force = False
    ) -> WebhookOut:
        """Change the given fields. Waiting deliveries keep their bodies, and go out with the new settings."""
        document = await self._find(webhook_id, key)
        fields = body.model_dump(exclude_unset=True)
        change = {
            name: value
            for name, value in stored_fields(fields).items()
            if value is not None or name in CLEARABLE
        }
        secret_fields: Document = {name: change.pop(name) for name in ("headers", "auth") if name in change}
        change |= self._documents.sealed_fields(key.workspace, webhook_id, secret_fields)
        if body.url:
            self._check_url(body.url)
            # A webhook that shares its URL by `force` keeps doing so while its URL stays.
            keeps_shared_url = body.url == document["url"] and not document.get("claims_url", False)
            change["claims_url"] = not (force or keeps_shared_url)
            if change["claims_url"] and body.url != document["url"]:
                await self._check_url_is_free(key.workspace, body.url)
        if "enabled" in change:
            change |= enabled_fields(on=change["enabled"])
        warnings = _check_event_names(body.events or (), document["events"], force=force)
        self._validate(document | change)
        # Changes that invalidate earlier responses end hold and open circuit.
        lifts = bool(change.get("enabled")) or bool(_RESETTING_FIELDS & change.keys())
        webhook = await self._webhook_out(await self._change(webhook_id, change, lifts=lifts))
        return webhook.model_copy(update={"warnings": warnings})

    async def delete(self, webhook_id: str, key: Writer) -> Response:
        """Delete a webhook. Its waiting deliveries are cancelled; its log stays until it expires."""
        await self._find(webhook_id, key)
        await self._change(webhook_id, deleted_fields())
        await self._deliveries.cancel_all(webhook_id)
        await self._endpoint_health.delete(webhook_id)
        return Response(status_code=204)

    async def test(self, webhook_id: str, key: Writer) -> WebhookTestOut:
        """Send a `webhook.test` event the way other events go, whatever event types the webhook has.

        It goes past the endpoint's hold and open circuit, and its result decides about them.
        """
        webhook = self._subscriptions.parse(await self._find(webhook_id, key))
        # Only this webhook gets the event: it is a delivery request, not an event on `chat.events`.
        event = Event(
            id=new_event_id(),
            type=TEST_TYPE,
            source="/delivery/test",
            workspace=key.workspace,
            time=now(),
            data=b'{"message":"This is a test."}',
            traceparent=child_traceparent(""),
        )
        body = render_body(webhook.format, event_fields_of(event, event.type, "0"))
        delivery_id = delivery_id_for(event.workspace, event.source, event.id, webhook.id)
        request = request_event(
            delivery_id, webhook.id, event, event.type, body, event.traceparent, manual=True
        )
        await self._producer.publish(
            event_record(DELIVERY_REQUESTED, webhook.id, request), timeout_s=_TEST_PUBLISH_TIMEOUT_S
        )
        return WebhookTestOut(delivery_id=delivery_id)

    async def rotate_secret(self, webhook_id: str, body: WebhookSecretRotate, key: Writer) -> WebhookOut:
        """Set a new secret, given or generated; the old one stays valid for `overlap_hours`.

        `standard` and `standard_v1a` send one signature for each valid secret. `nchat` and `chatwoot` sign
        with the old secret until it expires, and with the new one in a second header, `...-Signature-Next`.
        At most five secrets are valid at a time.
        """
        document = await self._find(webhook_id, key)
        profile = document["profile"]
        secret = body.secret or new_secret(profile)
        if not secret:
            raise Conflict("this webhook does not sign: there is no secret to rotate")
        self._check_secret(profile, secret)
        rotated = self._subscriptions.rotated_secrets(document, secret, timedelta(hours=body.overlap_hours))
        return await self._webhook_out(await self._change(webhook_id, {"secrets": rotated}), secret)

    async def enable(self, webhook_id: str, key: Writer) -> WebhookOut:
        """Enable the webhook, end a hold and close the circuit; waiting deliveries are sent.

        Events from while it was disabled are not sent.
        """
        await self._find(webhook_id, key)
        return await self._webhook_out(await self._change(webhook_id, enabled_fields(on=True), lifts=True))

    async def disable(self, webhook_id: str, key: Writer) -> WebhookOut:
        """Disable the webhook: it gets no new events, and its deliveries wait until it is enabled."""
        await self._find(webhook_id, key)
        return await self._webhook_out(await self._change(webhook_id, enabled_fields(on=False)))

    async def pause(self, webhook_id: str, key: Writer) -> WebhookOut:
        """Pause the webhook: events are stored, and nothing is sent until it is resumed."""
        await self._find(webhook_id, key)
        return await self._webhook_out(await self._change(webhook_id, {"paused": True}))

    async def resume(self, webhook_id: str, key: Writer) -> WebhookOut:
        """Resume the webhook, end a hold and close the circuit; waiting deliveries are sent."""
        await self._find(webhook_id, key)
        return await self._webhook_out(await self._change(webhook_id, {"paused": False}, lifts=True))

    # Checks and storage

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        problem = ""
        if parts.scheme == "http" and not self._settings.allow_http:
            problem = "must start with https://: without TLS, others can read and change requests"
        elif not self._client.port_allowed(port):
            problem = f"port {port} is not allowed: ports are {self._settings.egress_ports}"
        elif not self._client.host_allowed(parts.hostname or ""):
            problem = "this address is internal: deliveries go to public addresses only"
        if problem:
            raise _invalid("url", problem)

    async def _is_full(self, workspace: str, limit: int) -> bool:
        """Return whether the workspace has at least `limit` webhooks."""
        with translate_errors():
            count = await self._subscriptions.collection.count_documents(
                {"workspace": workspace, "deleted_at": None}, limit=limit
            )
        return count >= limit

    def _limit_reached(self) -> Conflict:
        limit = self._settings.webhooks_per_workspace
        return Conflict(f"the workspace has {limit} outgoing webhooks, its limit: delete one first")

    async def _check_url_is_free(self, workspace: str, url: str) -> None:
        """Raise `Conflict` if a webhook of the workspace has this URL.

        The unique index refuses only two webhooks that claim a URL. One that was created with `force` does
        not.
        """
        with translate_errors():
            taken = await self._subscriptions.collection.find_one(
                {"workspace": workspace, "url": url, "deleted_at": None}, {"_id": 1}
            )
        if taken is not None:
            raise _url_taken()

    def _validate(self, document: Document) -> None:
        """Raise `Invalid` if fields do not fit together, such as a certificate and its key."""
        try:
            self._subscriptions.validate(document)
        except Malformed as error:
            raise _invalid("auth", error.detail) from None

    @staticmethod
    def _check_secret(profile: Any, secret: str) -> None:
        try:
            signing_key(profile, secret)
        except Malformed as error:
            raise _invalid("secret", error.detail) from None

    async def _find(self, webhook_id: str, key: ApiKey) -> Document:
        with translate_errors():
            document = await self._subscriptions.collection.find_one(
                {"_id": webhook_id, "workspace": key.workspace, "deleted_at": None}
            )
        if document is None:
            raise NotFound("no such outgoing webhook")
        return document

    async def _change(self, webhook_id: str, change: Mapping[str, Any], *, lifts: bool = False) -> Document:
        """Change a webhook.

        With `lifts`, end its endpoint's hold and close its circuit in the owning process.
        """
        increment = {"$inc": {"lifts": 1}} if lifts else {}
        try:
            with translate_errors():
                document = await self._subscriptions.collection.find_one_and_update(
                    {"_id": webhook_id, "deleted_at": None},
                    {"$set": {**change, "changed_at": utcnow()}, **increment},
                    return_document=True,
                )
        except Duplicate:
            raise _url_taken() from None
        if document is None:
            raise NotFound("no such outgoing webhook")
        # Announced before the response: every process loads the change before its next attempt.
        await self._subscriptions.snapshot.record(document["_id"])
        return document

    async def _webhook_out(self, document: Document, secret: str | None = None) -> WebhookOut:
        health = await self._endpoint_health.by_webhook([document["_id"]])
        return self._documents.webhook_out(document, health[document["_id"]], secret)


def _check_event_names(events: Sequence[str], accepted: Sequence[str] = (), *, force: bool) -> list[str]:
    """Return warnings about event names.

    Raises `Invalid` for names that are in neither the catalogue nor `accepted`.
    """
    report = event_names().check(events, events if force else accepted)
    if report.errors:
        errors = [FieldError(f"events.{position}", error) for position, error in report.errors.items()]
        raise Invalid("some fields are not acceptable", errors=tuple(errors))
    return report.warnings


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))


def _url_taken() -> Conflict:
    return Conflict(
        "another webhook of this workspace has this URL: change that one, or repeat with ?force=true"
    )
