"""`/api/catalog` and `/api/integration-webhooks`: what can be connected, and what is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import BaseModel

from services.gateway.ingest.endpoints import InboundEndpoints, status_of
from shared.connections.apps import Apps
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError, Invalid
from shared.manifests import catalogue
from shared.manifests.catalogue import credentials, placeholder_url, receiving_provider, setup_steps, triggers
from shared.manifests.connect_options import ConnectOption, connect_options
from shared.manifests.models import Category
from shared.manifests.registry import Provider, connectors, provider_folders, providers
from shared.runtime.mongo import Document, translate_errors
from shared.runtime.web.access import ApiKey, requires
from shared.webhooks.incoming import INCOMING_PROVIDER

MAX_ENDPOINTS: Final = 500
"""Of a workspace, in `/api/integration-webhooks`."""
_CATEGORIES: Final[tuple[str, ...]] = get_args(Category)
_MAX_QUERY_LENGTH: Final = 200
_NO_URL_YET: Final = "(the url of the endpoint, once it is made)"

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
CategoryQuery = Annotated[str, Query(description=f"One of {', '.join(_CATEGORIES)}.")]
SearchQuery = Annotated[
    str,
    Query(max_length=_MAX_QUERY_LENGTH, description="Words of name, id, aliases, capabilities or triggers."),
]


class SvgIconOut(BaseModel):
    """An icon: path data in a box of 24 by 24."""

    svg: str


class InitialsIconOut(BaseModel):
    """What stands for a provider that has no icon."""

    initials: str


class TriggerOut(BaseModel):
    """A trigger and what brings it: own webhooks, another `provider`'s, or asking the platform."""

    id: str
    by: catalogue.TriggerSource
    provider: str
    events: list[str]
    polled: str | None
    every_s: int | None


class WebhookSecretOut(BaseModel):
    """The secret that verifies webhooks: who makes it, what the platform calls it, where it goes."""

    source: Literal["ours", "theirs", "handshake", "none"]
    name: str
    about: str
    pattern: str


class WebhookSettingOut(BaseModel):
    """What else an endpoint is told."""

    id: str
    name: str
    about: str
    pattern: str
    secret: bool
    required: bool
    generated: bool
    default: str


class ProviderWebhooksOut(BaseModel):
    """Whether the platform sends webhooks itself (`supported`), or other providers bring them (`through`)."""

    supported: bool
    through: list[str]
    url_template: str
    event_types: list[str]
    secret: WebhookSecretOut | None
    settings: list[WebhookSettingOut]


class CredentialFieldOut(BaseModel):
    """What somebody has to enter."""

    name: str
    type: Literal["text", "secret"]
    pattern: str
    required: bool
    secret: bool
    about: str


class CatalogueEntryOut(BaseModel):
    """An integration, or a platform that webhooks come from or accounts are connected with.

    `connect` says each way to connect an account. `auth_type` is null for what is no integration, and
    `credentials` is the endpoint's secret and all that is entered in any of the ways, in one list.
    """

    id: str
    name: str
    category: str
    auth_type: Literal["oauth", "apiKey", "none"] | None
    color: str
    icon: SvgIconOut | InitialsIconOut
    docs: str
    aliases: list[str]
    capabilities: list[str]
    scopes: list[str]
    triggers: list[TriggerOut]
    webhooks: ProviderWebhooksOut | None
    connect: list[ConnectOption]
    credentials: list[CredentialFieldOut]
    setup_steps: list[str]
    tier: str


class CatalogueOut(BaseModel):
    """The catalogue, by name."""

    items: list[CatalogueEntryOut]


class ExternalConfigOut(BaseModel):
    """What the platform's side of an integration's webhook needs."""

    type: Literal["webhook", "polling", "none"]
    setup_required: bool
    instructions: str
    integration_name: str
    category: str
    capabilities: list[str]


class EndpointCallOut(BaseModel):
    """The call that makes an endpoint; in `body`, what stands in angle brackets has to be filled in."""

    method: Literal["POST"] = "POST"
    path: str = "/api/inbound-endpoints"
    body: dict[str, Any]


class IntegrationWebhookOut(BaseModel):
    """An endpoint, or an integration that has none yet.

    Without an endpoint there is no `webhook_url`: `create_endpoint` is the call that makes one, whose answer
    has it. It is null where there is an endpoint, and for an integration that no webhooks come from.
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
    """The workspace's endpoints, newest first, then the other integrations by name."""

    webhooks: list[IntegrationWebhookOut]


class CatalogueApi:
    """The routes and what they need."""

    def __init__(self, endpoints: InboundEndpoints, apps: Apps, public_base: str) -> None:
        self._endpoints = endpoints
        self._apps = apps
        self._base = public_base

    def mount(self, app: FastAPI) -> None:
        """Put every route on the app."""
        router = APIRouter(prefix="/api")
        router.add_api_route("/catalog", self.catalog, methods=["GET"])
        router.add_api_route("/integration-webhooks", self.integration_webhooks, methods=["GET"])
        app.include_router(router)

    async def catalog(self, key: Reader, category: CategoryQuery = "", q: SearchQuery = "") -> CatalogueOut:
        """Every integration, and every platform that webhooks come from or accounts are connected with.

        It is by name, and the same for everybody but for `app_registered`.
        """
        if category and category not in _CATEGORIES:
            fault = FieldError("category", f"one of {', '.join(_CATEGORIES)}")
            raise Invalid("some fields are not acceptable", errors=(fault,))
        words = q.casefold().split()
        return CatalogueOut(
            items=[
                self._for(key.workspace, known.entry)
                for known in catalogue_entries(self._base)
                if category in ("", known.entry.category) and all(word in known.text for word in words)
            ]
        )

    def _for(self, workspace: str, entry: CatalogueEntryOut) -> CatalogueEntryOut:
        """The entry with what apps the workspace's accounts may be connected with."""
        there = {
            way.kind: replace(way, app_registered=True)
            for way in entry.connect
            if way.app and (app := self._apps.find(way.app.provider, workspace)) and app.verified
        }
        if not there:
            return entry
        return entry.model_copy(update={"connect": [there.get(way.kind, way) for way in entry.connect]})

    async def integration_webhooks(self, key: Reader) -> IntegrationWebhooksOut:
        """The workspace's endpoints (the newest 500), and a generated entry for each other integration."""
        query = {"workspace": key.workspace, "deleted_at": None, "provider": {"$ne": INCOMING_PROVIDER}}
        order = [("created_at", -1), ("_id", -1)]
        with translate_errors():
            found: list[Document] = (
                await self._endpoints.collection.find(query)
                .sort(order)
                .limit(MAX_ENDPOINTS)
                .to_list(MAX_ENDPOINTS)
            )
        entries = {known.entry.id: known.entry for known in catalogue_entries(self._base)}
        made = [
            self._endpoint(document, entries[document["provider"]])
            for document in found
            if document["provider"] in entries
        ]
        there = {document["provider"] for document in found}
        return IntegrationWebhooksOut(
            webhooks=made
            + [
                self._generated(entry, key.workspace)
                for name, entry in entries.items()
                if name not in there and entry.auth_type is not None
            ]
        )

    def _endpoint(self, document: Document, entry: CatalogueEntryOut) -> IntegrationWebhookOut:
        last, url = document.get("last_triggered"), self._endpoints.address(document)
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
            external_config=self._external(
                entry, self._endpoints.address(document), setup_required=last is None
            ),
            status=status_of(document, self._endpoints.fault(document["_id"])),
            last_triggered=rfc3339(last) if last else None,
            trigger_count=document.get("trigger_count", 0),
            error_count=document.get("error_count", 0),
            created_at=rfc3339(document["created_at"]),
            updated_at=rfc3339(document["changed_at"]),
        )

    def _generated(self, entry: CatalogueEntryOut, workspace: str) -> IntegrationWebhookOut:
        """Return what stands for an integration without an endpoint."""
        return IntegrationWebhookOut(
            id=f"int_{entry.id}",
            user_id=workspace,
            provider_id=entry.id,
            webhook_url=None,
            create_endpoint=_endpoint_call(entry.id),
            trigger_types=_trigger_types(entry),
            integration_config={},
            external_config=self._external(entry, None, setup_required=entry.auth_type != "none"),
            status="inactive",
            last_triggered=None,
            trigger_count=0,
            error_count=0,
            created_at=None,
            updated_at=None,
        )

    def _external(
        self, entry: CatalogueEntryOut, url: str | None, *, setup_required: bool
    ) -> ExternalConfigOut:
        """Return what the platform's side needs; without an endpoint, no address that cannot be called."""
        future = placeholder_url(self._base, providers()[entry.id].manifest)
        said = setup_steps(providers()[entry.id].manifest, url or future)
        if url is None:
            said = [step.replace(future, _NO_URL_YET) for step in said]
        by_asking = any(trigger.by == "polling" for trigger in entry.triggers)
        return ExternalConfigOut(
            type="webhook" if entry.webhooks else "polling" if by_asking else "none",
            setup_required=setup_required,
            instructions="\n".join(f"{position}. {step}" for position, step in enumerate(said, 1)),
            integration_name=entry.name,
            category=entry.category,
            capabilities=entry.capabilities,
        )


def _endpoint_call(provider: str) -> EndpointCallOut | None:
    """Return the call that makes the endpoint of an integration; None if no webhooks come from it."""
    sender = providers()[receiving_provider(providers()[provider].manifest)]
    webhook = sender.manifest.webhook
    if webhook is None:
        return None
    body: dict[str, Any] = {"provider": sender.id, "name": sender.manifest.name}
    if webhook.secret.source == "theirs":
        body["secret"] = f"<{webhook.secret.name}>"
    required = {
        name: f"<{each.name}>"
        for name, each in webhook.settings.items()
        if each.required and not each.generated and not each.default
    }
    return EndpointCallOut(body=body | ({"settings": required} if required else {}))


def _trigger_types(entry: CatalogueEntryOut) -> list[str]:
    """The ids of the catalogue; for a platform that is not in it, the types of its events."""
    if entry.auth_type is None and entry.webhooks:
        return entry.webhooks.event_types
    return [trigger.id for trigger in entry.triggers]


@dataclass(frozen=True, slots=True)
class IndexedEntry:
    """An entry and the text that a search looks in."""

    entry: CatalogueEntryOut
    text: str


@cache
def catalogue_entries(base: str) -> Sequence[IndexedEntry]:
    """Every entry, by name, with addresses below `base`."""
    known = providers()
    icons = {folder.name: catalogue.icon(folder) for folder in provider_folders()}
    entries = [_entry_out(provider, known, icons.get(name), base) for name, provider in known.items()]
    return [
        IndexedEntry(entry, _search_text(entry))
        for entry in sorted(entries, key=lambda each: each.name.casefold())
    ]


def _search_text(entry: CatalogueEntryOut) -> str:
    found = [entry.name, entry.id, *entry.aliases, *entry.capabilities]
    return "\n".join([*found, *(trigger.id for trigger in entry.triggers)]).casefold()


def _entry_out(
    provider: Provider, known: Mapping[str, Provider], icon: str | None, base: str
) -> CatalogueEntryOut:
    manifest = provider.manifest
    listed = manifest.integration
    return CatalogueEntryOut(
        id=manifest.id,
        name=manifest.name,
        category=(listed and listed.category) or manifest.category,
        auth_type=listed.auth_type if listed else None,
        color=manifest.color,
        icon=SvgIconOut(svg=icon) if icon else InitialsIconOut(initials=catalogue.initials(manifest.name)),
        docs=listed.docs if listed else str(manifest.docs),
        aliases=list(manifest.aliases),
        capabilities=list(listed.capabilities) if listed else [],
        scopes=list(listed.scopes) if listed else [],
        triggers=[
            TriggerOut(
                id=each.id,
                by=each.by,
                provider=each.provider,
                events=list(each.events),
                polled=each.polled or None,
                every_s=each.every_s,
            )
            for each in triggers(provider, known)
        ],
        webhooks=_webhooks_out(provider, base),
        connect=list(connect_options(provider.id, known, connectors(), base)),
        credentials=[
            CredentialFieldOut(
                name=each.name,
                type=each.type,
                pattern=each.pattern,
                required=each.required,
                secret=each.type == "secret",
                about=each.about,
            )
            for each in credentials(manifest)
        ],
        setup_steps=setup_steps(manifest, placeholder_url(base, manifest)),
        tier=manifest.tier,
    )


def _webhooks_out(provider: Provider, base: str) -> ProviderWebhooksOut | None:
    webhook, listed = provider.manifest.webhook, provider.manifest.integration
    through = list(listed.through) if listed and not webhook else []
    if not (webhook or through):
        return None
    return ProviderWebhooksOut(
        supported=webhook is not None,
        through=through,
        url_template=placeholder_url(base, provider.manifest),
        event_types=provider.trigger_types,
        secret=WebhookSecretOut(
            source=webhook.secret.source,
            name=webhook.secret.name,
            about=webhook.secret.about,
            pattern=webhook.secret.pattern,
        )
        if webhook
        else None,
        settings=[
            WebhookSettingOut(
                id=name,
                name=each.name,
                about=each.about,
                pattern=each.pattern,
                secret=each.secret,
                required=each.required,
                generated=each.generated,
                default=each.default,
            )
            for name, each in (webhook.settings if webhook else {}).items()
        ],
    )
