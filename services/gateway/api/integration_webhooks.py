"""`/api/integration-webhooks`: the workspace's endpoints, and the integrations that have none yet."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel

from services.gateway.api.catalogue import catalogue_entries
from services.gateway.api.catalogue_schemas import CatalogueEntryOut
from services.gateway.api.endpoint_documents import status_of
from services.gateway.ingest.endpoints import InboundEndpoints
from shared.contracts.envelope import rfc3339
from shared.manifests.catalogue import placeholder_url, receiving_provider, setup_steps
from shared.manifests.registry import providers
from shared.runtime.mongo import Document, translate_errors
from shared.runtime.web.access import ApiKey, requires
from shared.webhooks.incoming import INCOMING_PROVIDER

MAX_ENDPOINTS: Final = 500
"""Endpoints of a workspace in one response."""
_NO_URL_YET: Final = "(the url of the endpoint, once it is created)"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]


class ExternalConfigOut(BaseModel):
    """What has to be set up at the provider for an integration's webhook."""

    type: Literal["webhook", "polling", "none"]
    setup_required: bool
    instructions: str
    integration_name: str
    category: str
    capabilities: list[str]


class EndpointCallOut(BaseModel):
    """The call that creates an endpoint. Values of `body` in angle brackets have to be replaced."""

    method: Literal["POST"] = "POST"
    path: str = "/api/inbound-endpoints"
    body: dict[str, Any]


class IntegrationWebhookOut(BaseModel):
    """An endpoint, or an integration that has none yet.

    Without an endpoint, `webhook_url` is null and `create_endpoint` is the call that creates one; its
    response has the URL. `create_endpoint` is null if there is an endpoint, and for an integration without
    webhooks.
    """

    id: str
    user_id: str
    provider_id: str
    webhook_url: str | None
    create_endpoint: EndpointCallOut | None
    trigger_types: list[str]
    integration_config: dict[str, Any]
    external_config: ExternalConfigOut
    status: Literal["active", "inactive", "error"]
    last_triggered: str | None
    trigger_count: int
    error_count: int
    created_at: str | None
    updated_at: str | None


class IntegrationWebhooksOut(BaseModel):
    """The workspace's endpoints, newest first, then the other integrations sorted by name."""

    webhooks: list[IntegrationWebhookOut]


class IntegrationWebhooksApi:
    """The route of integration webhooks."""

    def __init__(self, endpoints: InboundEndpoints, public_base: str) -> None:
        self._endpoints = endpoints
        self._base = public_base

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        router = APIRouter(prefix="/api")
        router.add_api_route("/integration-webhooks", self.integration_webhooks, methods=["GET"])
        app.include_router(router)

    async def integration_webhooks(self, key: Reader) -> IntegrationWebhooksOut:
        """List the workspace's endpoints (the newest 500), and an entry for each other integration."""
        query = {"workspace": key.workspace, "deleted_at": None, "provider": {"$ne": INCOMING_PROVIDER}}
        order = [("created_at", -1), ("_id", -1)]
        with translate_errors():
            documents: list[Document] = (
                await self._endpoints.collection.find(query)
                .sort(order)
                .limit(MAX_ENDPOINTS)
                .to_list(MAX_ENDPOINTS)
            )
        entries = {item.entry.id: item.entry for item in catalogue_entries(self._base)}
        with_endpoint = [
            self._endpoint_webhook(document, entries[document["provider"]])
            for document in documents
            if document["provider"] in entries
        ]
        provider_ids = {document["provider"] for document in documents}
        without_endpoint = [
            self._missing_webhook(entry, key.workspace)
            for provider_id, entry in entries.items()
            if provider_id not in provider_ids and entry.auth_type is not None
        ]
        return IntegrationWebhooksOut(webhooks=with_endpoint + without_endpoint)

    def _endpoint_webhook(self, document: Document, entry: CatalogueEntryOut) -> IntegrationWebhookOut:
        last_triggered, url = document.get("last_triggered"), self._endpoints.address(document)
        return IntegrationWebhookOut(
            id=document["_id"],
            user_id=document["workspace"],
            provider_id=entry.id,
            webhook_url=url,
            create_endpoint=None,
            trigger_types=_trigger_types(entry),
            integration_config={
                "name": document["name"],
                "channel_id": document["channel_id"],
                "events": document.get("events", ["*"]),
                "settings": {
                    name: value if isinstance(value, str) else None
                    for name, value in document.get("settings", {}).items()
                },
                "enabled": document["enabled"],
                "rate_limit": document["rate_limit"],
                "allow_ips": document["allow_ips"],
            },
            external_config=self._external_config(entry, url, setup_required=last_triggered is None),
            status=status_of(document, self._endpoints.source_error(document["_id"])),
            last_triggered=rfc3339(last_triggered) if last_triggered else None,
            trigger_count=document.get("trigger_count", 0),
            error_count=document.get("error_count", 0),
            created_at=rfc3339(document["created_at"]),
            updated_at=rfc3339(document["changed_at"]),
        )

    def _missing_webhook(self, entry: CatalogueEntryOut, workspace: str) -> IntegrationWebhookOut:
        """Return the entry of an integration without an endpoint."""
        return IntegrationWebhookOut(
            id=f"int_{entry.id}",
            user_id=workspace,
            provider_id=entry.id,
            webhook_url=None,
            create_endpoint=_endpoint_call(entry.id),
            trigger_types=_trigger_types(entry),
            integration_config={},
            external_config=self._external_config(entry, None, setup_required=entry.auth_type != "none"),
            status="inactive",
            last_triggered=None,
            trigger_count=0,
            error_count=0,
            created_at=None,
            updated_at=None,
        )

    def _external_config(
        self, entry: CatalogueEntryOut, url: str | None, *, setup_required: bool
    ) -> ExternalConfigOut:
        """Return what has to be set up at the provider. `url` is None if there is no endpoint."""
        manifest = providers()[entry.id].manifest
        placeholder = placeholder_url(self._base, manifest)
        steps = setup_steps(manifest, url or placeholder)
        if url is None:  # the placeholder is not an address that a provider can call: do not show it
            steps = [step.replace(placeholder, _NO_URL_YET) for step in steps]
        is_polled = any(trigger.by == "polling" for trigger in entry.triggers)
        return ExternalConfigOut(
            type="webhook" if entry.webhooks else "polling" if is_polled else "none",
            setup_required=setup_required,
            instructions="\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)),
            integration_name=entry.name,
            category=entry.category,
            capabilities=entry.capabilities,
        )


def _endpoint_call(provider_id: str) -> EndpointCallOut | None:
    """Return the call that creates an integration's endpoint; None if it has no webhooks."""
    sender = providers()[receiving_provider(providers()[provider_id].manifest)]
    webhook = sender.manifest.webhook
    if webhook is None:
        return None
    body: dict[str, Any] = {"provider": sender.id, "name": sender.manifest.name}
    if webhook.secret.source == "theirs":
        body["secret"] = f"<{webhook.secret.name}>"
    required = {
        name: f"<{setting.name}>"
        for name, setting in webhook.settings.items()
        if setting.required and not setting.generated and not setting.default
    }
    return EndpointCallOut(body=body | ({"settings": required} if required else {}))


def _trigger_types(entry: CatalogueEntryOut) -> list[str]:
    """Return the trigger ids of an integration; for a provider that is none, its event types."""
    if entry.auth_type is None and entry.webhooks:
        return entry.webhooks.event_types
    return [trigger.id for trigger in entry.triggers]
