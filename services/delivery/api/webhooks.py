"""The management API of outgoing webhooks."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.delivery.api.customers import check_patterns
from services.delivery.api.fields import CustomerOperator, CustomerReader, CustomerWriter, customer_of
from services.delivery.api.webhook_lists import (
    CustomerFilter,
    MetadataFilter,
    NameFilter,
    StatusFilter,
    UrlFilter,
    WebhookLists,
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
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.endpoint_health import EndpointHealthRecord, EndpointHealthRecords
from services.delivery.model.delivery import TEST_TYPE, request_event
from services.delivery.settings import DeliverySettings
from services.delivery.webhooks.encryption import WebhookEncryption
from services.delivery.webhooks.outgoing_webhooks import (
    OutgoingWebhooks,
    compile_readable,
    validate_webhook,
)
from services.delivery.webhooks.repository import (
    WebhookCriteria,
    WebhookRecord,
    WebhookRepository,
    enabled_changes,
)
from shared.contracts.envelope import Event, now
from shared.contracts.errors import Conflict, FieldError, Invalid, Malformed, Misconfigured
from shared.contracts.ids import WorkspaceId, delivery_id_for, new_event_id, new_webhook_id
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.manifests.event_names import EventNames
from shared.runtime.clock import utcnow
from shared.runtime.egress.client import EgressClient
from shared.runtime.kafka.producer import Producer, event_record
from shared.runtime.secret_rotations import PUBLISH_TIMEOUT_S, rotation_record
from shared.runtime.tracing import continue_trace
from shared.runtime.web.access import ApiKey
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.web.versions import IfMatch, check_version, expected_version
from shared.webhooks.formats import render_body
from shared.webhooks.signatures import SigningProfile, new_secret, public_key, signing_key

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
        webhooks: OutgoingWebhooks,
        repository: WebhookRepository,
        encryption: WebhookEncryption,
        deliveries: Deliveries,
        endpoint_health: EndpointHealthRecords,
        producer: Producer,
        client: EgressClient,
        event_names: EventNames,
        settings: DeliverySettings,
    ) -> None:
        self._webhooks = webhooks
        self._lists = WebhookLists(webhooks, repository, endpoint_health)
        self._repository = repository
        self._encryption = encryption
        self._deliveries = deliveries
        self._endpoint_health = endpoint_health
        self._producer = producer
        self._client = client
        self._event_names = event_names
        self._settings = settings

    def mount(self, app: FastAPI) -> None:
        """Add every route to the app."""
        add = Routes(app, "/api").add
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

    async def create(self, body: WebhookCreate, key: CustomerWriter, *, force: Force = False) -> WebhookOut:
        """Subscribe a URL to events. Only this response shows the secret.

        The URL of a webhook with a `customer` may be that of another one.
        """
        check_patterns(key, body.events)
        body = body.model_copy(update={"customer": customer_of(key) or body.customer})
        self._check_url(body.url)
        warnings = self._check_event_names(body.events, force=force)
        # A conflict would show a customer that another one has this URL.
        claims_url = not force and body.customer is None
        if claims_url:
            await self._repository.check_url_is_free(key.workspace, body.url)
        # Generated secrets are valid; given ones must fit the profile.
        if body.secret is not None:
            _check_secret(body.profile, body.secret)
        secret = body.secret or new_secret(body.profile)
        record = self._new_record(body, key.workspace, secret, claims_url=claims_url)
        self._validate(record)
        await self._webhooks.create(record)
        webhook = self._out(record, EndpointHealthRecord(id=record.id), secret)
        return webhook.model_copy(update={"warnings": warnings})

    def _new_record(
        self, body: WebhookCreate, workspace: WorkspaceId, secret: str, *, claims_url: bool
    ) -> WebhookRecord:
        """Return the record of a new webhook. `secret` is empty if its profile does not sign."""
        webhook_id, created_at = new_webhook_id(), utcnow()
        settings = body.model_dump(exclude={"secret", "headers", "auth", "enabled"}, exclude_none=True)
        return WebhookRecord.model_validate(
            {
                **_record_fields(settings),
                **self._encryption.sealed_headers(workspace, webhook_id, body.headers),
                **self._encryption.sealed_auth(workspace, webhook_id, body.auth.model_dump()),
                **enabled_changes(enabled=body.enabled),
                "id": webhook_id,
                "workspace": workspace,
                "secrets": [self._encryption.new_secret(workspace, webhook_id, secret)] if secret else [],
                "claims_url": claims_url,
                "created_at": created_at,
                "changed_at": created_at,
            }
        )

    async def list_webhooks(
        self,
        key: CustomerReader,
        paging: PagingQuery,
        name: NameFilter = "",
        url: UrlFilter = "",
        metadata: MetadataFilter = None,
        customer: CustomerFilter = None,
        status: StatusFilter = None,
    ) -> Page[WebhookOut]:
        """List the workspace's outgoing webhooks, newest first, or those that `name` and others select.

        Of more than 2,000 webhooks, a page may have fewer of those selected than `limit`, or none, before the
        last one: use `next_cursor`.
        """
        criteria = WebhookCriteria(name, url, dict(item.split(":", 1) for item in metadata or ()))
        records = await self._lists.page(
            key.workspace, criteria, status, paging, customer=customer_of(key) or customer
        )
        health = await self._endpoint_health.by_webhook([record.id for record in records.items])
        return Page[WebhookOut](
            items=[self._out(record, health[record.id]) for record in records.items],
            next_cursor=records.next_cursor,
        )

    async def read(self, webhook_id: str, key: CustomerReader) -> WebhookOut:
        """Return one outgoing webhook."""
        return await self._out_with_health(await self._find(webhook_id, key))

    async def change(
        self,
        webhook_id: str,
        body: WebhookUpdate,
        key: CustomerWriter,
        if_match: IfMatch = None,
        *,
        force: Force = False,
    ) -> WebhookOut:
        """Change the given fields. Waiting deliveries keep their bodies, and go out with the new settings."""
        record = await self._find(webhook_id, key)
        version = expected_version(if_match)
        check_version(version, record.version)
        check_patterns(key, body.events or (), record.events)
        changes = {
            name: value
            for name, value in _record_fields(body.model_dump(exclude_unset=True)).items()
            if value is not None or name in CLEARABLE
        }
        if "headers" in changes:
            changes |= self._encryption.sealed_headers(record.workspace, record.id, changes["headers"])
        if "auth" in changes:
            changes |= self._encryption.sealed_auth(record.workspace, record.id, changes["auth"])
        if body.url:
            self._check_url(body.url)
            # A webhook that shares its URL by `force` keeps doing so while its URL stays.
            keeps_shared_url = body.url == record.url and not record.claims_url
            changes["claims_url"] = not (force or keeps_shared_url or record.customer is not None)
            if changes["claims_url"] and body.url != record.url:
                await self._repository.check_url_is_free(key.workspace, body.url)
        if "enabled" in changes:
            changes |= enabled_changes(enabled=changes["enabled"])
        warnings = self._check_event_names(body.events or (), record.events, force=force)
        self._validate(record.changed(changes))
        # Changes that invalidate earlier responses end hold and open circuit.
        reset = bool(changes.get("enabled")) or bool(_RESETTING_FIELDS & changes.keys())
        changed = await self._webhooks.update(webhook_id, changes, reset=reset, version=version)
        webhook = await self._out_with_health(changed)
        return webhook.model_copy(update={"warnings": warnings})

    async def delete(self, webhook_id: str, key: CustomerWriter) -> Response:
        """Delete a webhook. Its waiting deliveries are cancelled; its log stays until it expires."""
        await self._check_exists(webhook_id, key)
        await self._webhooks.delete(webhook_id)
        await self._deliveries.cancel_all(webhook_id)
        await self._endpoint_health.delete(webhook_id)
        return Response(status_code=204)

    async def test(self, webhook_id: str, key: CustomerOperator) -> WebhookTestOut:
        """Send a `webhook.test` event the way other events go, whatever event types the webhook has.

        It goes past the endpoint's hold and open circuit, and its result decides about them.
        """
        record = await self._find(webhook_id, key)
        webhook = compile_readable(record, self._encryption)
        # Only this webhook gets the event: it is a delivery request, not an event on `chat.events`.
        event = Event(
            id=new_event_id(),
            type=TEST_TYPE,
            source="/delivery/test",
            workspace=key.workspace,
            time=now(),
            data=b'{"message":"This is a test."}',
            traceparent=continue_trace(""),
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

    async def rotate_secret(
        self, webhook_id: str, body: WebhookSecretRotate, key: CustomerWriter
    ) -> WebhookOut:
        """Set a new secret, given or generated; the old one stays valid for `overlap_hours`.

        `standard` and `standard_v1a` send one signature for each valid secret. The other profiles sign
        with the old secret until it expires, and with the new one in a second header, `...-Signature-Next`.
        At most five secrets are valid at a time.
        """
        record = await self._find(webhook_id, key)
        secret = body.secret or new_secret(record.profile)
        if not secret:
            raise Conflict("this webhook does not sign: there is no secret to rotate")
        _check_secret(record.profile, secret)
        overlap = timedelta(hours=body.overlap_hours)
        rotated = self._encryption.rotated_secrets(record, secret, overlap)
        fields = {"webhook_id": record.id, "name": record.name, "metadata": dict(record.metadata or {})}
        event = rotation_record(
            "delivery", "webhook.secret_rotated", record.workspace, record.id, fields, overlap
        )
        await self._producer.publish(event, timeout_s=PUBLISH_TIMEOUT_S)
        # Of two rotations at the same time one must fail: its secret would be shown and lost.
        changed = await self._webhooks.update(webhook_id, {"secrets": rotated}, read_at=record.changed_at)
        return await self._out_with_health(changed, secret)

    async def enable(self, webhook_id: str, key: CustomerWriter) -> WebhookOut:
        """Enable the webhook, end a hold and close the circuit; waiting deliveries are sent.

        Events from while it was disabled are not sent.
        """
        return await self._switch(webhook_id, key, enabled_changes(enabled=True), reset=True)

    async def disable(self, webhook_id: str, key: CustomerWriter) -> WebhookOut:
        """Disable the webhook: it gets no new events, and its deliveries wait until it is enabled."""
        return await self._switch(webhook_id, key, enabled_changes(enabled=False))

    async def pause(self, webhook_id: str, key: CustomerOperator) -> WebhookOut:
        """Pause the webhook: events are stored, and nothing is sent until it is resumed.

        What has waited for `INTERLINK_DEAD_LETTER_DAYS` (30) is a dead letter with the error `stopped`.
        """
        return await self._switch(webhook_id, key, {"paused": True})

    async def resume(self, webhook_id: str, key: CustomerOperator) -> WebhookOut:
        """Resume the webhook, end a hold and close the circuit; waiting deliveries are sent."""
        return await self._switch(webhook_id, key, {"paused": False}, reset=True)

    async def _switch(
        self, webhook_id: str, key: ApiKey, changes: Mapping[str, Any], *, reset: bool = False
    ) -> WebhookOut:
        await self._check_exists(webhook_id, key)
        return await self._out_with_health(await self._webhooks.update(webhook_id, changes, reset=reset))

    async def _find(self, webhook_id: str, key: ApiKey) -> WebhookRecord:
        return await self._repository.find(webhook_id, workspace=key.workspace, customer=customer_of(key))

    async def _check_exists(self, webhook_id: str, key: ApiKey) -> None:
        await self._repository.check_exists(webhook_id, workspace=key.workspace, customer=customer_of(key))

    # Checks and responses

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

    def _check_event_names(
        self, events: Sequence[str], accepted: Sequence[str] = (), *, force: bool
    ) -> list[str]:
        """Return warnings about event names.

        Raises `Invalid` for names that are in neither the catalogue nor `accepted`.
        """
        report = self._event_names.check(events, events if force else accepted)
        if report.errors:
            errors = [FieldError(f"events.{position}", error) for position, error in report.errors.items()]
            raise Invalid("some fields are not acceptable", errors=tuple(errors))
        return report.warnings

    def _validate(self, record: WebhookRecord) -> None:
        """Raise `Invalid` if fields do not fit together, such as a certificate and its key."""
        try:
            validate_webhook(record, self._encryption)
        except Malformed as error:
            raise _invalid("auth", error.detail) from None

    async def _out_with_health(self, record: WebhookRecord, secret: str | None = None) -> WebhookOut:
        health = await self._endpoint_health.by_webhook([record.id])
        return self._out(record, health[record.id], secret)

    def _out(
        self, record: WebhookRecord, health: EndpointHealthRecord, secret: str | None = None
    ) -> WebhookOut:
        return WebhookOut.of(
            record,
            health,
            public_keys=self._public_keys(record),
            unreadable=self._webhooks.unreadable_parts(record.id),
            warnings=self._event_names.check(record.events, record.events, suggesting=False).warnings,
            secret=secret,
        )

    def _public_keys(self, record: WebhookRecord) -> list[str]:
        """Return the public keys of the secrets that are valid now.

        The list is empty if the secrets do not decrypt: `unreadable` reports that.
        """
        try:
            secrets = self._encryption.secrets(record)
        except Misconfigured:
            return []
        return [public for text, _ in secrets if (public := public_key(record.profile, text))]


def _record_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of the API as fields of a record: the retry settings are fields of their own."""
    retry = settings.pop("retry", None) or {}
    return settings | retry


def _check_secret(profile: SigningProfile, secret: str) -> None:
    try:
        signing_key(profile, secret)
    except Malformed as error:
        raise _invalid("secret", error.detail) from None


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))
