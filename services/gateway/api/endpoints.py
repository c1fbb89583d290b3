"""`/api/inbound-endpoints` and `/api/endpoint-templates`: the addresses that providers send webhooks to."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI
from starlette.responses import Response

from services.gateway.api.endpoint_lists import (
    EndpointLists,
    EndpointOrder,
    EndpointQuery,
    LongCursor,
    StatusFilter,
)
from services.gateway.api.endpoint_schemas import (
    EndpointCreate,
    EndpointFromTemplateCreate,
    EndpointOut,
    EndpointSecretRotate,
    EndpointTemplateOut,
    EndpointTestCreate,
    EndpointTestOut,
    EndpointUpdate,
    HandshakeSecretOut,
)
from services.gateway.api.endpoint_templates import endpoint_templates, template_out
from services.gateway.api.endpoint_validation import (
    check_unsigned_reason,
    choose_secret,
    compile_definition,
    public_origin,
    require_webhooks,
    secret_settings,
    validate_settings,
)
from services.gateway.api.fields import invalid_field, sent_fields
from services.gateway.api.recorded_requests import asgi_receive, asgi_scope, find_fixture, sign_request
from services.gateway.api.rotation_events import publish_rotation
from services.gateway.ingest.endpoint_records import EndpointRepository, ProviderEndpoint
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.receive import Receiver
from shared.contracts.errors import Conflict, Forbidden, NotFound
from shared.contracts.ids import EndpointId, WorkspaceId, new_endpoint_id
from shared.manifests.registry import Registry
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Limit, Page, Since, Until
from shared.runtime.web.routes import Routes
from shared.runtime.web.versions import IfMatch, check_version, expected_version

_NULLABLE: Final = frozenset({"channel_id", "body_limit", "dedupe_window_s", "public_url", "source"})
_CHANGEABLE_IF_POLLED: Final = frozenset({"name", "channel_id", "events", "rate_limit", "enabled"})
_POLLED: Final = "this endpoint receives no requests: its events come from a polling trigger"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class EndpointsApi:
    """The routes of inbound endpoints and endpoint templates."""

    def __init__(
        self,
        repository: EndpointRepository,
        endpoints: InboundEndpoints,
        lists: EndpointLists,
        receiver: Receiver,
        registry: Registry,
        producer: Producer,
        *,
        operator: str,
    ) -> None:
        """Read from `repository`; write through `endpoints`, which announces each change.

        Endpoints of the workspace `operator` may be the installation's defaults.
        """
        self._operator = operator
        self._repository = repository
        self._endpoints = endpoints
        self._lists = lists
        self._receiver = receiver
        self._registry = registry
        self._producer = producer

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api").add
        item = "/inbound-endpoints/{endpoint_id}"
        add("/inbound-endpoints", self.create, methods=["POST"], status_code=201)
        add("/inbound-endpoints", self.list_all, methods=["GET"])
        add(item, self.read, methods=["GET"])
        add(item, self.change, methods=["PATCH"])
        add(item, self.delete, methods=["DELETE"], status_code=204)
        add(f"{item}/enable", self.enable, methods=["POST"])
        add(f"{item}/disable", self.disable, methods=["POST"])
        add(f"{item}/rotate-secret", self.rotate_secret, methods=["POST"])
        add(
            f"{item}/handed-over-secret",
            self.handed_over_secret,
            methods=["POST"],
            operation_id="reveal_inbound_endpoint_secret",
        )
        add(f"{item}/test", self.test, methods=["POST"])
        add("/endpoint-templates", self.templates, methods=["GET"])
        add(
            "/endpoint-templates/{template_id}",
            self.create_from,
            methods=["POST"],
            status_code=201,
            operation_id="create_inbound_endpoint_from_template",
        )

    async def create(self, body: EndpointCreate, key: Writer) -> EndpointOut:
        """Create the address that a provider calls. A generated secret is shown only this once."""
        if body.polled:
            return await self._create_polled(body, key)
        provider, webhook = require_webhooks(self._registry.providers, body.provider)
        definition = compile_definition(webhook, body.source)
        check_unsigned_reason(body.require_signature, body.unsigned_reason)
        if body.installation_default:
            self._check_default(key, require_signature=body.require_signature)
        secret = choose_secret(webhook, definition, body.secret)
        endpoint_id = new_endpoint_id()
        settings = validate_settings(webhook, body.settings, complete=True)
        record = _new_record(
            endpoint_id,
            key.workspace,
            provider.id,
            body,
            secrets=[self._endpoints.seal_secret(key.workspace, endpoint_id, secret)] if secret else [],
            settings=self._endpoints.seal_settings(
                key.workspace, endpoint_id, settings, secret_settings(webhook)
            ),
            allow_ips=tuple(body.allow_ips),
            body_limit=body.body_limit,
            dedupe_window_s=body.dedupe_window_s,
            public_url=public_origin(body.public_url),
            require_signature=body.require_signature,
            unsigned_reason=body.unsigned_reason,
            source=body.source,
            is_default=body.installation_default or None,
        )
        await self._endpoints.insert(record)
        return self._endpoint_out(record, secret, settings)

    async def _create_polled(self, body: EndpointCreate, key: ApiKey) -> EndpointOut:
        """Create the endpoint that the events of a polling trigger belong to."""
        provider = self._registry.providers.get(body.provider)
        if not key.service:
            raise invalid_field("polled", "create a polling trigger instead: POST /api/polling-triggers")
        if provider is None or provider.manifest.polling is None:
            raise invalid_field("provider", "this provider has no polling triggers")
        record = _new_record(
            new_endpoint_id(), key.workspace, provider.id, body, secrets=[], allow_ips=(), polled=True
        )
        await self._endpoints.insert(record)
        return self._endpoint_out(record)

    async def list_all(
        self,
        key: Reader,
        status: StatusFilter = None,
        order: EndpointOrder = "newest",
        since: Since = None,
        until: Until = None,
        limit: Limit = 50,
        cursor: LongCursor = None,
    ) -> Page[EndpointOut]:
        """List the workspace's endpoints, newest first. Counts that order them can be some seconds old."""
        query = EndpointQuery(order, status, since, until, limit, cursor)
        records = await self._lists.page(key.workspace, query)
        return Page(
            items=[self._endpoint_out(record) for record in records.items], next_cursor=records.next_cursor
        )

    async def read(self, endpoint_id: str, key: Reader) -> EndpointOut:
        """Return one endpoint."""
        return self._endpoint_out(await self._repository.find(endpoint_id, key.workspace))

    async def change(
        self, endpoint_id: str, body: EndpointUpdate, key: Writer, if_match: IfMatch = None
    ) -> EndpointOut:
        """Change the given fields. Of `settings`, only the given names are changed."""
        record = await self._repository.find(endpoint_id, key.workspace)
        version = expected_version(if_match)
        check_version(version, record.version)
        changes = sent_fields(body, nullable=_NULLABLE)
        if record.polled:
            if unusable := sorted(changes.keys() - _CHANGEABLE_IF_POLLED):
                raise invalid_field(unusable[0], "this endpoint receives no requests: its events are polled")
            return self._endpoint_out(await self._endpoints.change(record, based_on=version, **changes))
        _, webhook = require_webhooks(self._registry.providers, record.provider)
        if "require_signature" in changes or "unsigned_reason" in changes:
            required = bool(changes.get("require_signature", record.require_signature))
            reason = changes.get("unsigned_reason") or record.unsigned_reason or ""
            check_unsigned_reason(required, str(reason))
            if required:
                changes["unsigned_reason"] = ""
        if "installation_default" in changes:
            changes["is_default"] = changes.pop("installation_default")
        concerns_default = bool(changes.keys() & {"is_default", "require_signature"})
        if concerns_default and changes.get("is_default", record.is_default):
            required = bool(changes.get("require_signature", record.require_signature))
            self._check_default(key, require_signature=required)
        if "source" in changes:
            compile_definition(webhook, changes["source"])
        if "settings" in changes:
            settings = validate_settings(webhook, changes["settings"], complete=False)
            sealed = self._endpoints.seal_settings(
                key.workspace, endpoint_id, settings, secret_settings(webhook)
            )
            changes["settings"] = {**record.settings, **sealed}
        if "public_url" in changes:
            changes["public_url"] = public_origin(changes["public_url"])
        unchanged = "settings" in changes and version is None
        changed = await self._endpoints.change(record, based_on=version, unchanged=unchanged, **changes)
        return self._endpoint_out(changed)

    async def delete(self, endpoint_id: str, key: Writer) -> Response:
        """Delete an endpoint. Its address is unknown from now on."""
        record = await self._repository.find(endpoint_id, key.workspace)
        await self._endpoints.change(record, deleted_at=utcnow(), secrets=[], settings={}, is_default=False)
        return Response(status_code=204)

    async def enable(self, endpoint_id: str, key: Writer) -> EndpointOut:
        """Accept requests again, and reset the count of rejected requests in a row."""
        record = await self._repository.find(endpoint_id, key.workspace)
        return self._endpoint_out(await self._endpoints.change(record, enabled=True, error_streak=0))

    async def disable(self, endpoint_id: str, key: Writer) -> EndpointOut:
        """Answer every request with 410 until the endpoint is enabled."""
        record = await self._repository.find(endpoint_id, key.workspace)
        return self._endpoint_out(await self._endpoints.change(record, enabled=False))

    async def rotate_secret(self, endpoint_id: str, body: EndpointSecretRotate, key: Writer) -> EndpointOut:
        """Set a new secret, given or generated. The old secret is accepted for `overlap_hours` more.

        At most five secrets are valid at a time. If the provider hands the secret over in a handshake, a call
        without a secret makes the endpoint wait for another handshake.
        """
        record = await self._repository.find(endpoint_id, key.workspace)
        if record.polled:
            raise Conflict(_POLLED)
        _, webhook = require_webhooks(self._registry.providers, record.provider)
        if webhook.secret.source == "handshake" and body.secret is None:
            return self._endpoint_out(await self._endpoints.change(record, secrets=[], handed_over=False))
        if webhook.secret.source == "theirs" and body.secret is None:
            raise invalid_field(
                "secret", f"{webhook.secret.name} comes from the provider: send it in this call"
            )
        secret = choose_secret(webhook, compile_definition(webhook, record.source), body.secret)
        if not secret:
            raise invalid_field("secret", "send the secret: the hub cannot generate one for this endpoint")
        overlap = timedelta(hours=body.overlap_hours)
        rotated = self._endpoints.rotate_secret(record, secret, overlap)
        await publish_rotation(self._producer, record, overlap)
        changed = await self._endpoints.change(record, unchanged=True, secrets=rotated, handed_over=False)
        return self._endpoint_out(changed, secret)

    async def handed_over_secret(self, endpoint_id: str, key: Writer) -> HandshakeSecretOut:
        """Return the secret of the provider's handshake, only once: some providers ask for it again."""
        record = await self._repository.find(endpoint_id, key.workspace)
        secret = self._endpoints.newest_secret(record) if record.handed_over else None
        if secret is None:
            raise Conflict("there is no handed-over secret, or it was shown already")
        await self._endpoints.change(record, unchanged=True, handed_over=False)
        return HandshakeSecretOut(secret=secret)

    async def test(
        self,
        endpoint_id: str,
        key: Writer,
        body: EndpointTestCreate = EndpointTestCreate(),  # noqa: B008 -- it is frozen
    ) -> EndpointTestOut:
        """Send a recorded webhook of the provider through the endpoint, signed with the endpoint's secret.

        The request is processed like one of the provider. Its event is marked with `test`.
        """
        record = await self._repository.find(endpoint_id, key.workspace)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint and endpoint.source_error:
            raise Conflict(f"this endpoint accepts no requests: {endpoint.source_error}")
        if record.polled:
            raise Conflict(_POLLED)
        if endpoint is None or endpoint.provider is None or endpoint.definition is None:
            raise NotFound("no such endpoint")
        fixture = find_fixture(self._registry, endpoint.provider, body.event)
        unsigned = fixture.request(
            endpoint.provider, endpoint.settings, address=self._endpoints.address(record)
        )
        request = sign_request(endpoint.definition.schemes, unsigned, endpoint.valid_keys())
        response = await self._receiver.receive(
            endpoint, "webhook", asgi_scope(request), asgi_receive(request), test=True
        )
        return EndpointTestOut(
            fixture=fixture.name, status=response.status, answer=response.body.decode("utf-8", "replace")
        )

    # Templates

    async def templates(self, key: Reader) -> list[EndpointTemplateOut]:
        """List ready-made endpoints: a provider, and which of its events become messages of a channel."""
        del key  # it only has to be valid
        templates = endpoint_templates(self._registry.providers)
        return [template_out(provider, template) for provider, template in templates.values()]

    async def create_from(
        self, template_id: str, body: EndpointFromTemplateCreate, key: Writer
    ) -> EndpointOut:
        """Create an endpoint with the events of a template."""
        item = endpoint_templates(self._registry.providers).get(template_id)
        if item is None:
            raise NotFound("no such template: see GET /api/endpoint-templates")
        provider, template = item
        endpoint = EndpointCreate(
            provider=provider.id,
            name=body.name or template.name,
            channel_id=body.channel_id,
            secret=body.secret,
            settings=body.settings,
            events=list(template.events),
        )
        return await self.create(endpoint, key)

    def _check_default(self, key: ApiKey, *, require_signature: bool) -> None:
        """Check that an endpoint may be the installation's default. Raises `Forbidden`, `Invalid`."""
        if key.workspace != self._operator or not key.allows("admin"):
            raise Forbidden("default endpoints are set with an admin key of the operator's workspace")
        if not require_signature:
            raise invalid_field(
                "installation_default",
                "everybody knows its address: it has to require signatures",
            )

    def _endpoint_out(
        self, record: ProviderEndpoint, secret: str | None = None, settings: Mapping[str, str] | None = None
    ) -> EndpointOut:
        """Return an endpoint as the API shows it.

        `secret` and `settings` are the values in clear text, if this call may show them.
        """
        return EndpointOut.of(
            record,
            self._registry.providers.get(record.provider),
            url=self._endpoints.address(record),
            source_error=self._endpoints.source_error(record.id),
            secret=secret,
            settings=settings or {},
        )


def _new_record(
    endpoint_id: EndpointId, workspace: WorkspaceId, provider: str, body: EndpointCreate, **fields: Any
) -> ProviderEndpoint:
    """Return the record of a new endpoint. `fields` has those that depend on where its events come from."""
    now = utcnow()
    return ProviderEndpoint(
        id=endpoint_id,
        workspace=workspace,
        provider=provider,
        name=body.name,
        channel_id=body.channel_id,
        rate_limit=body.rate_limit,
        enabled=True,
        created_at=now,
        changed_at=now,
        events=tuple(body.events),
        **fields,
    )
