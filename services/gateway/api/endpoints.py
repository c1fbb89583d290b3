"""Inbound endpoints: where platforms send their webhooks to, with all that can be set on them."""

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import Response

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
from services.gateway.ingest.endpoints import InboundEndpoints, new_document, sent_fields, status_of
from services.gateway.ingest.receive import Receiver
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, FieldError, Invalid, NotFound, Rejected
from shared.contracts.ids import new_endpoint_id
from shared.manifests.fixtures import FIXTURES, Fixture, read_fixtures
from shared.manifests.models import EndpointTemplate, WebhookSpec
from shared.manifests.registry import Provider, provider_folders, providers
from shared.manifests.scheme_signers import new_basic_secret, new_secret
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.mongo import Document, utcnow
from shared.runtime.quotas import Quota
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.paging import Cursor, Limit, Page, page
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier
from shared.webhooks.incoming import INCOMING_PROVIDER

_NULLABLE: Final = frozenset({"channel_id", "body_limit", "dedupe_window_s", "public_url", "source"})
_SOURCE_SETUP_STEP: Final = "Send webhooks to {url}, signed as the endpoint's source says."
_STORED_SECRET_TEXT: Final = "the endpoint's secret (shown when it is made; rotate it to get another)"  # noqa: S105

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
Writer = Annotated[ApiKey, Depends(requires("integrations:write"))]


class EndpointsApi:
    """The routes and what they need."""

    def __init__(self, endpoints: InboundEndpoints, receiver: Receiver, *, per_workspace: int) -> None:
        self._endpoints = endpoints
        self._receiver = receiver
        self._quota = Quota(
            endpoints.collection, per_workspace, "inbound endpoints", "INTERLINK_ENDPOINTS_PER_WORKSPACE"
        )

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        add = router.add_api_route
        one = "/inbound-endpoints/{endpoint_id}"
        add("/inbound-endpoints", self.create, methods=["POST"], status_code=201)
        add("/inbound-endpoints", self.list_all, methods=["GET"])
        add(one, self.read, methods=["GET"])
        add(one, self.change, methods=["PATCH"])
        add(one, self.delete, methods=["DELETE"], status_code=204)
        add(f"{one}/enable", self.enable, methods=["POST"])
        add(f"{one}/disable", self.disable, methods=["POST"])
        add(f"{one}/rotate-secret", self.rotate_secret, methods=["POST"])
        add(
            f"{one}/handed-over-secret",
            self.handed_over_secret,
            methods=["POST"],
            operation_id="reveal_inbound_endpoint_secret",
        )
        add(f"{one}/test", self.test, methods=["POST"])
        add("/endpoint-templates", self.templates, methods=["GET"])
        add(
            "/endpoint-templates/{template_id}",
            self.create_from,
            methods=["POST"],
            status_code=201,
            operation_id="create_inbound_endpoint_from_template",
        )
        app.include_router(router)

    async def create(self, body: EndpointCreate, key: Writer) -> EndpointOut:
        """Make the address that a platform calls. A secret that we make is shown this once."""
        provider, webhook = _require_webhooks(body.provider)
        door = _webhook_definition(webhook, body.source)
        _check_unsigned(body.require_signature, body.unsigned_reason)
        secret = _new_secret(webhook, door, body.secret)
        endpoint = new_endpoint_id()
        settings = _validate_settings(webhook, body.settings, complete=True)
        document = new_document(
            endpoint, key, provider.id, body.name, body.channel_id, body.rate_limit, enabled=True
        )
        document |= {
            "secrets": [self._endpoints.keep(key.workspace, endpoint, secret)] if secret else [],
            "settings": self._endpoints.sealed(key.workspace, endpoint, settings, _secret_settings(webhook)),
            "allow_ips": body.allow_ips,
            "events": body.events,
            "body_limit": body.body_limit,
            "dedupe_window_s": body.dedupe_window_s,
            "public_url": _public_origin(body.public_url),
            "require_signature": body.require_signature,
            "unsigned_reason": body.unsigned_reason,
            "source": body.source,
        }
        alive = {"workspace": key.workspace, "deleted_at": None, "provider": {"$ne": INCOMING_PROVIDER}}
        async with self._quota.reserve(alive, undo=lambda: self._endpoints.delete(endpoint)):
            await self._endpoints.insert(document)
        return self._show(document, secret, settings)

    async def list_all(self, key: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[EndpointOut]:
        """The workspace's endpoints, newest first."""
        query = {"workspace": key.workspace, "deleted_at": None, "provider": {"$ne": INCOMING_PROVIDER}}
        return await page(self._endpoints.collection, query, self._show, limit=limit, cursor=cursor)

    async def read(self, endpoint_id: str, key: Reader) -> EndpointOut:
        """One endpoint."""
        return self._show(await self._endpoints.find(endpoint_id, key))

    async def change(self, endpoint_id: str, body: EndpointUpdate, key: Writer) -> EndpointOut:
        """Change what is given. Settings are changed one by one: a name that is left out stays."""
        document = await self._endpoints.find(endpoint_id, key)
        _, webhook = _require_webhooks(document["provider"])
        change = sent_fields(body, nullable=_NULLABLE)
        if "require_signature" in change or "unsigned_reason" in change:
            required = bool(change.get("require_signature", document.get("require_signature", True)))
            reason = change.get("unsigned_reason") or document.get("unsigned_reason") or ""
            _check_unsigned(required, str(reason))
            if required:
                change["unsigned_reason"] = ""
        if "source" in change:
            _webhook_definition(webhook, change["source"])
        if "settings" in change:
            new = _validate_settings(webhook, change["settings"], complete=False)
            sealed = self._endpoints.sealed(key.workspace, endpoint_id, new, _secret_settings(webhook))
            change["settings"] = {**document.get("settings", {}), **sealed}
        if "public_url" in change:
            change["public_url"] = _public_origin(change["public_url"])
        return self._show(await self._endpoints.change(endpoint_id, change))

    async def delete(self, endpoint_id: str, key: Writer) -> Response:
        """Remove an endpoint: from now on its address is unknown."""
        await self._endpoints.find(endpoint_id, key)
        gone = {"deleted_at": utcnow(), "secrets": [], "settings": {}}
        await self._endpoints.change(endpoint_id, gone)
        return Response(status_code=204)

    async def enable(self, endpoint_id: str, key: Writer) -> EndpointOut:
        """Accept requests again; what was counted against the endpoint is forgotten."""
        await self._endpoints.find(endpoint_id, key)
        return self._show(await self._endpoints.change(endpoint_id, {"enabled": True, "error_streak": 0}))

    async def disable(self, endpoint_id: str, key: Writer) -> EndpointOut:
        """Answer every request with 410 until the endpoint is enabled."""
        await self._endpoints.find(endpoint_id, key)
        return self._show(await self._endpoints.change(endpoint_id, {"enabled": False}))

    async def rotate_secret(self, endpoint_id: str, body: EndpointSecretRotate, key: Writer) -> EndpointOut:
        """Make or take a new secret; the old one is accepted for `overlap_hours` more.

        At most five secrets are valid at a time.
        Where the platform hands it over, a call without one makes the endpoint wait for another handshake.
        """
        document = await self._endpoints.find(endpoint_id, key)
        _, webhook = _require_webhooks(document["provider"])
        if webhook.secret.source == "handshake" and body.secret is None:
            waiting = {"secrets": [], "handed_over": False}
            return self._show(await self._endpoints.change(endpoint_id, waiting))
        if webhook.secret.source == "theirs" and body.secret is None:
            raise _invalid("secret", f"{webhook.secret.name} comes from the platform: send it")
        secret = _new_secret(webhook, _webhook_definition(webhook, document.get("source")), body.secret)
        if not secret:
            raise _invalid("secret", "send the secret: there is none that could be made here")
        rotated = self._endpoints.rotated(document, secret, timedelta(hours=body.overlap_hours))
        changed = await self._endpoints.change(endpoint_id, {"secrets": rotated, "handed_over": False})
        return self._show(changed, secret)

    async def handed_over_secret(self, endpoint_id: str, key: Writer) -> HandshakeSecretOut:
        """The secret that the platform handed over in its handshake, this once: some want to see it again."""
        document = await self._endpoints.find(endpoint_id, key)
        secret = self._endpoints.newest_secret(document) if document.get("handed_over") else None
        if secret is None:
            raise Conflict("there is no secret that was handed over and not shown yet")
        await self._endpoints.change(endpoint_id, {"handed_over": False})
        return HandshakeSecretOut(secret=secret)

    async def test(
        self,
        endpoint_id: str,
        key: Writer,
        body: EndpointTestCreate = EndpointTestCreate(),  # noqa: B008 -- it is frozen
    ) -> EndpointTestOut:
        """Send a recorded webhook of the provider through the endpoint, signed with the endpoint's secret.

        It takes the whole way, as the platform's would: its event is marked with `test`.
        """
        document = await self._endpoints.find(endpoint_id, key)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint and endpoint.fault:
            raise Conflict(f"this endpoint accepts nothing: {endpoint.fault}")
        if endpoint is None or endpoint.provider is None or endpoint.definition is None:
            raise NotFound("no such endpoint")
        fixture = _fixture(endpoint.provider, body.event)
        plain = fixture.request(
            endpoint.provider, endpoint.settings, address=self._endpoints.address(document)
        )
        request = _sign_request(endpoint.definition.schemes, plain, endpoint.valid_keys())
        reply = await self._receiver.receive(
            endpoint, "webhook", _asgi_scope(request), _asgi_receive(request), test=True
        )
        return EndpointTestOut(
            fixture=fixture.name, status=reply.status, answer=reply.body.decode("utf-8", "replace")
        )

    # Templates

    async def templates(self, key: Reader) -> list[EndpointTemplateOut]:
        """Ready-made endpoints: a platform, and which of its events become messages of a channel."""
        del key
        return [_template_out(provider, each) for provider, each in _templates().values()]

    async def create_from(
        self, template_id: str, body: EndpointFromTemplateCreate, key: Writer
    ) -> EndpointOut:
        """Make an endpoint with its mapping from a template, in one call."""
        found = _templates().get(template_id)
        if found is None:
            raise NotFound("no such template: see GET /api/endpoint-templates")
        provider, template = found
        new = EndpointCreate(
            provider=provider.id,
            name=body.name or template.name,
            channel_id=body.channel_id,
            secret=body.secret,
            settings=body.settings,
            events=list(template.events),
        )
        return await self.create(new, key)

    def _show(
        self, document: Document, secret: str | None = None, settings: Mapping[str, str] | None = None
    ) -> EndpointOut:
        provider = providers().get(document["provider"])
        webhook = provider.manifest.webhook if provider else None
        url = self._endpoints.address(document)
        shown = {
            name: value if isinstance(value, str) else None
            for name, value in document.get("settings", {}).items()
        }
        last = document.get("last_triggered")
        fault = self._endpoints.fault(document["_id"])
        return EndpointOut(
            id=document["_id"],
            provider=document["provider"],
            name=document["name"],
            url=url,
            status=status_of(document, fault),
            awaits=_missing_setup(webhook, document),
            disabled_reason=fault or None,
            channel_id=document["channel_id"],
            events=document.get("events", ["*"]),
            settings=shown,
            allow_ips=document["allow_ips"],
            rate_limit=document["rate_limit"],
            body_limit=document.get("body_limit"),
            dedupe_window_s=document.get("dedupe_window_s"),
            public_url=document.get("public_url"),
            require_signature=document.get("require_signature", True),
            unsigned_reason=document.get("unsigned_reason") or "",
            source=document.get("source"),
            trigger_types=provider.trigger_types if provider else [],
            setup_steps=[_SOURCE_SETUP_STEP.format(url=url)]
            if document.get("source")
            else _setup_steps(webhook, url, secret, {**shown, **(settings or {})}),
            last_triggered=rfc3339(last) if last else None,
            trigger_count=document.get("trigger_count", 0),
            error_count=document.get("error_count", 0),
            created_at=rfc3339(document["created_at"]),
            updated_at=rfc3339(document["changed_at"]),
            secret=secret or None,
        )


def _require_webhooks(name: str) -> tuple[Provider, WebhookSpec]:
    provider = providers().get(name)
    if provider is None or provider.manifest.webhook is None:
        known = ", ".join(sorted(each.id for each in providers().values() if each.manifest.webhook))
        raise _invalid("provider", f"one of: {known}")
    return provider, provider.manifest.webhook


def _invalid(field: str, message: str) -> Invalid:
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))


def _new_secret(webhook: WebhookSpec, definition: WebhookDefinition, secret: str | None) -> str:
    """The endpoint's secret: what was given, what we make, or '' where it is not there yet."""
    wanted = webhook.secret
    if secret is None:
        made = (new_secret(webhook), new_basic_secret()) if wanted.source == "ours" else ()
        return next((each for each in made if definition.accepts_secret(each.encode(), made_here=True)), "")
    if wanted.source == "none":
        raise _invalid("secret", "this provider's webhooks are verified without a secret")
    if secret != secret.strip() and "-----BEGIN" not in secret:
        raise _invalid("secret", f"{wanted.name} has a blank or a line break at one of its ends")
    if not wanted.min_length <= len(secret) <= wanted.max_length:
        raise _invalid("secret", f"{wanted.name} has {wanted.min_length} to {wanted.max_length} characters")
    if wanted.pattern and not re.fullmatch(wanted.pattern, secret):
        raise _invalid("secret", f"{wanted.name} looks different: {wanted.about or wanted.pattern}")
    if not definition.accepts_secret(secret.encode()):
        raise _invalid("secret", f"{wanted.name} cannot be read as its way of signing needs it")
    return secret


def _secret_settings(webhook: WebhookSpec) -> frozenset[str]:
    return frozenset(name for name, setting in webhook.settings.items() if setting.secret)


def _validate_settings(webhook: WebhookSpec, values: Mapping[str, str], *, complete: bool) -> dict[str, str]:
    """What the owner entered, checked; when it has to be complete, with what we make and the defaults."""
    faults: list[FieldError] = []
    found: dict[str, str] = {}
    for name in values.keys() - webhook.settings.keys():
        known = ", ".join(sorted(webhook.settings)) or "none"
        faults.append(FieldError(f"settings.{name}", f"no such setting: there is {known}"))
    for name, setting in webhook.settings.items():
        value = values.get(name)
        if value is None and complete:
            value = secrets.token_urlsafe(24) if setting.generated else setting.default
            if not value and setting.required:
                faults.append(FieldError(f"settings.{name}", f"required: {setting.name}. {setting.about}"))
        if not value:
            continue
        if setting.pattern and not re.fullmatch(setting.pattern, value):
            faults.append(FieldError(f"settings.{name}", f"{setting.name} looks different: {setting.about}"))
        found[name] = value
    if faults:
        raise Invalid("some fields are not acceptable", errors=tuple(faults))
    return found


def _webhook_definition(webhook: WebhookSpec, source: Mapping[str, Any] | None) -> WebhookDefinition:
    """What the endpoint verifies with: its own description of the sender, or the provider's."""
    if source is None:
        return WebhookDefinition(webhook)
    if not webhook.configurable:
        raise _invalid("source", "only a generic provider can be described: this one's folder does it")
    return WebhookDefinition(apply_description(webhook, source))


def _check_unsigned(require_signature: bool, reason: str) -> None:
    """A signature is never given up in passing: it takes a reason, which is shown with the endpoint."""
    if not require_signature and len(reason.split()) < 3:
        raise _invalid("unsigned_reason", "say in a few words why unsigned requests are accepted here")


def _public_origin(url: object) -> str | None:
    """The scheme and host that the platform knows us by."""
    if url is None:
        return None
    parts = urlsplit(str(url))
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise _invalid("public_url", "scheme and host only, as https://hooks.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def _missing_setup(webhook: WebhookSpec | None, document: Document) -> str | None:
    """What the endpoint needs before it can verify anything."""
    if webhook is None or document["secrets"] or webhook.secret.source == "none":
        return None
    return "handshake" if webhook.secret.source == "handshake" else "secret"


def _setup_steps(
    webhook: WebhookSpec | None, url: str, secret: str | None, settings: Mapping[str, str | None]
) -> list[str]:
    if webhook is None:
        return []
    values = {"{url}": url, "{secret}": secret or _STORED_SECRET_TEXT}
    values |= {
        f"{{setting:{name}}}": settings.get(name) or f"({each.name})"
        for name, each in webhook.settings.items()
    }
    steps: list[str] = []
    for step in webhook.setup_steps:
        filled = step
        for placeholder, value in values.items():
            filled = filled.replace(placeholder, value)
        steps.append(filled)
    return steps


def _templates() -> dict[str, tuple[Provider, EndpointTemplate]]:
    return {
        each.id: (provider, each)
        for provider in providers().values()
        if provider.manifest.webhook
        for each in provider.manifest.webhook.templates
    }


def _template_out(provider: Provider, template: EndpointTemplate) -> EndpointTemplateOut:
    webhook = provider.manifest.webhook
    required = [name for name, each in webhook.settings.items() if each.required] if webhook else []
    return EndpointTemplateOut(
        id=template.id,
        name=template.name,
        about=template.about,
        provider=provider.id,
        provider_name=provider.manifest.name,
        events=list(template.events),
        required_settings=required,
    )


def _fixture(provider: Provider, event: str | None) -> Fixture:
    """The first recorded request with this event; of any event when none is named."""
    folder = next(folder for folder in provider_folders() if folder.name == provider.id)
    for fixture in read_fixtures(Path(str(folder))):
        names = [str(each.get("event")) for each in fixture.expected.get("events", ())]
        if names and event in (None, *names):
            return fixture
    raise _invalid(
        "event", f"no recorded webhook of {provider.manifest.name} has it: see {FIXTURES} of its folder"
    )


def _sign_request(
    schemes: Sequence[SchemeVerifier], plain: InboundRequest, keys: list[bytes]
) -> InboundRequest:
    for way in schemes:
        for key in keys:
            try:
                signed = way.sign(plain, key, utcnow().timestamp())
            except (Rejected, ValueError, TypeError):
                continue
            if way.applies(signed):
                return signed
    raise Conflict(
        "this cannot be signed here: only the platform has the key, or the endpoint has no secret yet"
    )


def _asgi_scope(request: InboundRequest) -> dict[str, Any]:
    headers = [(name, value) for name, values in request.headers.items() for value in values]
    path = urlsplit(request.address).path
    return {
        "type": "http",
        "method": request.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": request.query_string,
        "headers": headers,
        "client": None,
    }


def _asgi_receive(request: InboundRequest) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    return receive
