"""`/api/catalog`: all providers, with what can be connected and what can trigger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Final, get_args

from fastapi import Depends, FastAPI, Query

from services.gateway.api.catalogue_schemas import (
    CatalogueEntryOut,
    CatalogueOut,
    CredentialFieldOut,
    InitialsIconOut,
    PollingOut,
    PollingParamOut,
    ProviderWebhooksOut,
    SvgIconOut,
    TriggerOut,
    WebhookSecretOut,
    WebhookSettingOut,
)
from services.gateway.api.fields import invalid_field
from shared.connections.apps import Apps
from shared.manifests.catalogue import (
    credentials,
    icon,
    import_sources,
    initials,
    placeholder_url,
    setup_steps,
    triggers,
)
from shared.manifests.connect_options import allowed_values, connect_options
from shared.manifests.models import Category
from shared.manifests.polling import PollSpec
from shared.manifests.registry import Provider, Registry
from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.routes import Routes

_CATEGORIES: Final[tuple[str, ...]] = get_args(Category)
_MAX_QUERY_LENGTH: Final = 200

Reader = Annotated[ApiKey, Depends(requires("integrations:read"))]
CategoryQuery = Annotated[str, Query(description=f"One of {', '.join(_CATEGORIES)}.")]
SearchQuery = Annotated[
    str,
    Query(
        max_length=_MAX_QUERY_LENGTH,
        description="Words in name, id, aliases, capabilities or triggers; all of them have to match.",
    ),
]


@dataclass(frozen=True, slots=True)
class IndexedEntry:
    """A catalogue entry and the casefolded text that a search looks in."""

    entry: CatalogueEntryOut
    text: str


class Catalogue:
    """The catalogue of all providers. It is built when it is first asked for."""

    def __init__(self, registry: Registry, base: str) -> None:
        """Set the public URL of the hub as `base`."""
        self._registry = registry
        self._base = base

    @cached_property
    def entries(self) -> Sequence[IndexedEntry]:
        """All entries, sorted by name."""
        entries = [
            _entry_out(provider, self._registry, self._base) for provider in self._registry.providers.values()
        ]
        return [
            IndexedEntry(entry, _search_text(entry))
            for entry in sorted(entries, key=lambda item: item.name.casefold())
        ]


class CatalogueApi:
    """The route of the catalogue."""

    def __init__(self, catalogue: Catalogue, apps: Apps) -> None:
        self._catalogue = catalogue
        self._apps = apps

    def mount(self, app: FastAPI) -> None:
        """Add the route to the app."""
        routes = Routes(app, "/api")
        routes.add("/catalog", self.catalog, methods=["GET"])

    async def catalog(self, key: Reader, category: CategoryQuery = "", q: SearchQuery = "") -> CatalogueOut:
        """List the providers, sorted by name.

        The list is the same for every workspace, except for `app_registered`.
        """
        if category and category not in _CATEGORIES:
            raise invalid_field("category", f"one of {', '.join(_CATEGORIES)}")
        words = q.casefold().split()
        return CatalogueOut(
            items=[
                self._entry_for(key.workspace, item.entry)
                for item in self._catalogue.entries
                if category in ("", item.entry.category) and all(word in item.text for word in words)
            ],
            categories=sorted({item.entry.category for item in self._catalogue.entries}),
        )

    def _entry_for(self, workspace: str, entry: CatalogueEntryOut) -> CatalogueEntryOut:
        """Return an entry with `app_registered` set where the workspace can use a verified app."""
        registered = {
            option.kind: replace(option, app_registered=True)
            for option in entry.connect
            if option.app and (app := self._apps.find(option.app.provider, workspace)) and app.verified
        }
        if not registered:
            return entry
        options = [registered.get(option.kind, option) for option in entry.connect]
        return entry.model_copy(update={"connect": options})


def _search_text(entry: CatalogueEntryOut) -> str:
    texts = [entry.name, entry.id, *entry.aliases, *entry.capabilities]
    return "\n".join([*texts, *(trigger.id for trigger in entry.triggers)]).casefold()


def _entry_out(provider: Provider, registry: Registry, base: str) -> CatalogueEntryOut:
    manifest = provider.manifest
    listed = manifest.integration
    svg = icon(registry.folder(provider.id))
    return CatalogueEntryOut(
        id=manifest.id,
        name=manifest.name,
        category=(listed and listed.category) or manifest.category,
        auth_type=listed.auth_type if listed else None,
        color=manifest.color,
        icon=SvgIconOut(svg=svg) if svg else InitialsIconOut(initials=initials(manifest.name)),
        docs=listed.docs if listed else str(manifest.docs),
        aliases=list(manifest.aliases),
        capabilities=list(listed.capabilities) if listed else [],
        scopes=list(listed.scopes) if listed else [],
        triggers=[
            TriggerOut(
                id=trigger.id,
                by=trigger.by,
                provider=trigger.provider,
                events=list(trigger.events),
                polled=trigger.polled or None,
                every_s=trigger.every_s,
                polling=_polling_out(provider, trigger.polling),
            )
            for trigger in triggers(provider, registry.providers)
        ],
        webhooks=_webhooks_out(provider, base),
        connect=list(connect_options(provider.id, registry.providers, registry.connectors, base)),
        credentials=[
            CredentialFieldOut(
                name=credential.name,
                type=credential.type,
                pattern=credential.pattern,
                required=credential.required,
                secret=credential.type == "secret",
                about=credential.about,
            )
            for credential in credentials(manifest)
        ],
        sync=manifest.channel is not None,
        imports=import_sources(manifest, registry.folder(provider.id)),
        setup_steps=setup_steps(manifest, placeholder_url(base, manifest)),
        tier=manifest.tier,
    )


def _polling_out(provider: Provider, spec: PollSpec | None) -> PollingOut | None:
    if spec is None:
        return None
    return PollingOut(
        event=f"{provider.id}.{spec.event}",
        needs_account=provider.manifest.connect is not None,
        params=[
            PollingParamOut(
                id=name,
                name=setting.name,
                about=setting.about,
                pattern=setting.pattern,
                required=setting.required,
                default=setting.default,
            )
            for name, setting in spec.params.items()
        ],
        scopes=list(spec.scopes),
        interval_s=spec.interval_s,
        min_interval_s=spec.min_interval_s,
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
                name=setting.name,
                about=setting.about,
                pattern=setting.pattern,
                secret=setting.secret,
                required=setting.required,
                generated=setting.generated,
                default=setting.default,
                options=list(allowed_values(setting)),
                example="" if setting.secret else setting.example,
            )
            for name, setting in (webhook.settings if webhook else {}).items()
        ],
        configurable=webhook is not None and webhook.configurable,
    )
