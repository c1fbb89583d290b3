"""App webhooks: the one address per provider that serves every OAuth app of that provider.

Webhooks of all apps of a provider arrive at `/api/webhooks/{provider}`, whoever registered the app. The
secret that verifies a request's signature identifies the app; no claim in the request is trusted before that.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shared.connections.account_routes import AppKey
from shared.connections.apps import Apps
from shared.connections.provider_app import INSTALLATION, App, uses_own_app
from shared.contracts.errors import Forbidden, Malformed
from shared.contracts.routes import WEBHOOKS_PREFIX
from shared.manifests.catalogue import receiving_provider
from shared.manifests.connect_models import Setting
from shared.manifests.connector import Connector
from shared.manifests.models import AppWebhookSpec
from shared.manifests.registry import Provider, Registry
from shared.manifests.response_template import Handshake, Response
from shared.manifests.webhook import WebhookDefinition
from shared.verification.request import SECRET_SETTING, InboundRequest

PREFIX: Final = WEBHOOKS_PREFIX
ALIAS_PREFIX: Final = "/integrations/"
ALIAS_SUFFIX: Final = "/webhook"


@dataclass(frozen=True, slots=True)
class AppSecret:
    """A secret that verifies webhooks, the settings of its app, and all apps that have this secret."""

    key: bytes = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)
    app_keys: frozenset[AppKey]


class AppWebhookTarget:
    """The app webhook of one provider: its definition, and the secrets of the apps that use it."""

    def __init__(
        self,
        provider: Provider,
        definition: WebhookDefinition,
        webhook: AppWebhookSpec,
        app: Connector,
        apps: Apps,
        base: str,
    ) -> None:
        """`app` is the connector of the provider whose OAuth apps these are."""
        self.provider = provider
        self.definition = definition
        self._app = app
        self._webhook = webhook
        self._apps = apps
        self._base = base
        declared = provider.manifest.webhook.settings if provider.manifest.webhook else {}
        self._setting_names = frozenset(declared)
        self.settings: Mapping[str, str] = {
            name: setting.default for name, setting in declared.items() if setting.default
        }
        """The default settings, which an app's own settings override."""
        self._read_apps: Sequence[App] | None = None
        self._secrets: Sequence[AppSecret] = ()
        self._app_settings: Sequence[Mapping[str, str]] = ()

    def address(self, path: str) -> str:
        """Return the URL that the provider called, for the request's `path`. Some providers sign this URL."""
        return self._base + path

    @property
    def secrets(self) -> Sequence[AppSecret]:
        """The secrets that verify now, each once; those of the installation's apps come first."""
        self._refresh()
        return self._secrets

    def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        """Answer an unsigned handshake with the settings of the first app that it can be for.

        Raises `Forbidden` or `Malformed` if no app accepts it.
        """
        self._refresh()
        for settings in self._app_settings:
            request.settings = settings
            with suppress(Forbidden, Malformed):
                return handshake.response(request)
        request.settings = self.settings
        return handshake.response(request)

    def setup(self) -> dict[str, Any]:
        """Return what a person needs to set up the app webhook. Nothing in it is secret or of a workspace."""
        apps = [app for app in self._apps.all_readable(self._app.provider) if app.workspace == INSTALLATION]
        settings = self._app.settings
        url = f"{self._base}{PREFIX}{self.provider.id}"
        return {
            "provider": self.provider.id,
            "name": self.provider.manifest.name,
            "url": url,
            "registered": any(name in app.secrets for app in apps for name in self._webhook.secrets),
            "credentials": {
                "path": f"/api/platform-credentials/{self._app.provider}",
                "secrets": list(self._webhook.secrets),
                "settings": [name for name in settings if name in self._setting_names],
            },
            "setup_steps": [_fill_setup_step(step, url, settings) for step in self._webhook.setup_steps],
            "docs": str(self.provider.manifest.docs),
        }

    def _refresh(self) -> None:
        """Derive secrets and settings from the apps again if one of them has changed."""
        apps = self._apps.all_readable(self._app.provider)
        if apps is self._read_apps:  # the same list object until an app changes
            return
        by_secret: dict[str, list[AppSecret]] = {}
        for app in apps:
            own = {name: value for name, value in app.settings.items() if name in self._setting_names}
            for name in self._webhook.secrets:
                secret = app.secrets.get(name)
                if secret:
                    settings = {**self.settings, **own, SECRET_SETTING: secret}
                    app_key = frozenset({(app.workspace, app.client_id)})
                    by_secret.setdefault(secret, []).append(AppSecret(secret.encode(), settings, app_key))
        self._secrets = [_merge_app_secrets(equal) for equal in by_secret.values()]
        self._app_settings = [secret.settings for equal in by_secret.values() for secret in equal]
        self._read_apps = apps


def _fill_setup_step(step: str, url: str, settings: Mapping[str, Setting]) -> str:
    step = step.replace("{url}", url)
    for name, setting in settings.items():
        step = step.replace(f"{{setting:{name}}}", f"({setting.name})")
    return step


def _merge_app_secrets(equal: Sequence[AppSecret]) -> AppSecret:
    """Merge the entries of one secret.

    Several workspaces can register the same app: a webhook that it signs is for all of them.
    """
    first = equal[0]
    return AppSecret(first.key, first.settings, frozenset().union(*(secret.app_keys for secret in equal)))


class AppWebhooks:
    """The app webhooks of all providers. A provider is loaded when the first request names it."""

    def __init__(self, registry: Registry, apps: Apps, base: str) -> None:
        """Set the public URL of the hub as `base`."""
        self._registry = registry
        self._apps = apps
        self._base = base
        self._targets: dict[str, AppWebhookTarget] = {}

    def get(self, provider_id: str) -> AppWebhookTarget | None:
        """Return the app webhook of a provider; None if it has none, or there is no such provider.

        Nothing is stored for a name without an app webhook: any caller can send one.
        """
        target = self._targets.get(provider_id)
        if target is None:
            target = self._compile(provider_id)
            if target:
                self._targets[provider_id] = target
        return target

    def _compile(self, provider_id: str) -> AppWebhookTarget | None:
        provider = self._registry.providers.get(provider_id)
        webhook = provider.manifest.webhook if provider else None
        if provider is None or provider.definition is None or webhook is None or webhook.app is None:
            return None
        connector = self._registry.connectors.get(provider_id)
        app = self._registry.connectors.get(connector.app) if connector else None
        if app is None or not uses_own_app(app):
            return None
        return AppWebhookTarget(provider, provider.definition, webhook.app, app, self._apps, self._base)

    def missing_detail(self, name: str) -> str:
        """Return the error text for a provider without an app webhook; '' if there is no such provider.

        The text may name providers, which are public. It must not reveal which endpoints exist.
        """
        providers = self._registry.providers
        provider = providers.get(name)
        if provider is None:
            return ""
        receiver = providers.get(receiving_provider(provider.manifest))
        if receiver is None or receiver.manifest.webhook is None:
            return f"{name} sends no webhooks"
        endpoint = "an endpoint" if receiver is provider else f"an endpoint of {receiver.id}"
        return (
            f"{name} has no app webhook and no default endpoint here: create {endpoint} with "
            "POST /api/inbound-endpoints, and use its own address"
        )


def alias_provider(path: str) -> str:
    """Return the provider id of a path `/integrations/{provider}/webhook`; '' for another path."""
    if not (path.startswith(ALIAS_PREFIX) and path.endswith(ALIAS_SUFFIX)):
        return ""
    name = path[len(ALIAS_PREFIX) : -len(ALIAS_SUFFIX)]
    return "" if "/" in name else name
