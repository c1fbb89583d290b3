"""`/api/integration-webhooks`: the workspace's endpoints, and the integrations that have none yet."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from services.gateway.api.catalogue import Catalogue
from services.gateway.api.catalogue_schemas import CatalogueEntryOut
from services.gateway.api.endpoint_schemas import EndpointStatus, endpoint_status
from services.gateway.ingest.endpoint_records import EndpointRepository, ProviderEndpoint
from services.gateway.ingest.endpoints import InboundEndpoints
from shared.contracts.envelope import rfc3339
from shared.manifests.catalogue import placeholder_url, receiving_provider, setup_steps
from shared.manifests.registry import Provider
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

MAX_ENDPOINTS: Final = 500
"""Endpoints of a workspace in one response."""
_NO_URL_YET: Final = "(the url of the endpoint, once it is created)"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]


class ExternalConfigOut(BaseModel):
    """Settings to make at the provider for an integration's webhook."""

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
    status: EndpointStatus
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

    def __init__(
        self,
        repository: EndpointRepository,
        endpoints: InboundEndpoints,
        catalogue: Catalogue,
        providers: Mapping[str, Provider],
        public_base: str,
    ) -> None:
        """Set what is shown: `providers` by id, `public_base` as the public URL of the hub."""
        self._repository = repository
        self._endpoints = endpoints
        self._catalogue = catalogue
        self._providers = providers
        self._base = public_base

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/integration-webhooks", self.integration_webhooks, methods=["GET"])

    async def integration_webhooks(self, key: Reader) -> IntegrationWebhooksOut:
        """List the workspace's endpoints (the newest 500), and an entry for each other integration."""
        records = await self._repository.newest(key.workspace, MAX_ENDPOINTS)
        entries = {item.entry.id: item.entry for item in self._catalogue.entries}
        with_endpoint = [
            self._endpoint_webhook(record, entries[record.provider])
            for record in records
            if record.provider in entries
        ]
        provider_ids = {record.provider for record in records}
        without_endpoint = [
            self._missing_webhook(entry, key.workspace)
            for provider_id, entry in entries.items()
            if provider_id not in provider_ids and entry.auth_type is not None
        ]
        return IntegrationWebhooksOut(webhooks=with_endpoint + without_endpoint)

    def _endpoint_webhook(self, record: ProviderEndpoint, entry: CatalogueEntryOut) -> IntegrationWebhookOut:
        last_triggered, url = record.last_triggered, self._endpoints.address(record) or None
        return IntegrationWebhookOut(
            id=record.id,
            user_id=record.workspace,
            provider_id=entry.id,
            webhook_url=url,
            create_endpoint=None,
            trigger_types=_trigger_types(entry),
            integration_config={
                "name": record.name,
                "channel_id": record.channel_id,
                "events": list(record.events),
                "settings": record.shown_settings,
                "enabled": record.enabled,
                "rate_limit": record.rate_limit,
                "allow_ips": list(record.allow_ips),
            },
            external_config=self._external_config(entry, url, setup_required=last_triggered is None),
            status=endpoint_status(record, self._endpoints.source_error(record.id)),
            last_triggered=rfc3339(last_triggered) if last_triggered else None,
            trigger_count=record.trigger_count or 0,
            error_count=record.error_count or 0,
            created_at=rfc3339(record.created_at),
            updated_at=rfc3339(record.changed_at),
        )

    def _missing_webhook(self, entry: CatalogueEntryOut, workspace: str) -> IntegrationWebhookOut:
        """Return the entry of an integration without an endpoint."""
        return IntegrationWebhookOut(
            id=f"int_{entry.id}",
            user_id=workspace,
            provider_id=entry.id,
            webhook_url=None,
            create_endpoint=_endpoint_call(self._providers, entry.id),
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
        manifest = self._providers[entry.id].manifest
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


def _endpoint_call(providers: Mapping[str, Provider], provider_id: str) -> EndpointCallOut | None:
    """Return the call that creates an integration's endpoint; None if it has no webhooks."""
    sender = providers[receiving_provider(providers[provider_id].manifest)]
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
