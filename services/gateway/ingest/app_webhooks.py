"""App webhooks: the one address per provider that serves every OAuth app of that provider.

Webhooks of all apps of a provider arrive at `/api/webhooks/{provider}`, whoever registered the app. The
secret that verifies a request's signature identifies the app; no claim in the request is trusted before that.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shared.connections.apps import Apps
from shared.connections.provider_app import INSTALLATION, App, uses_own_app
from shared.contracts.errors import Forbidden, Malformed
from shared.manifests.catalogue import receiving_provider
from shared.manifests.connect_models import Setting
from shared.manifests.models import AppWebhookSpec
from shared.manifests.registry import Provider, connectors, providers
from shared.manifests.response_template import Handshake, Response
from shared.manifests.webhook import WebhookDefinition
from shared.verification.request import SECRET_SETTING, InboundRequest

PREFIX: Final = "/api/webhooks/"
ALIAS_PREFIX: Final = "/integrations/"
ALIAS_SUFFIX: Final = "/webhook"

AppKey = tuple[str, str]
"""The workspace of an app (`INSTALLATION` for an app of the whole installation) and its client id."""


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
        apps: Apps,
        base: str,
    ) -> None:
        self.provider = provider
        self.definition = definition
        self.app = connectors()[provider.id].app
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
        apps = [app for app in self._apps.all_readable(self.app) if app.workspace == INSTALLATION]
        connector = connectors()[self.app]
        url = f"{self._base}{PREFIX}{self.provider.id}"
        return {
            "provider": self.provider.id,
            "name": self.provider.manifest.name,
            "url": url,
            "registered": any(name in app.secrets for app in apps for name in self._webhook.secrets),
            "credentials": {
                "path": f"/api/platform-credentials/{self.app}",
                "secrets": list(self._webhook.secrets),
                "settings": [name for name in connector.settings if name in self._setting_names],
            },
            "setup_steps": [
                _fill_setup_step(step, url, connector.settings) for step in self._webhook.setup_steps
            ],
            "docs": str(self.provider.manifest.docs),
        }

    def _refresh(self) -> None:
        """Derive secrets and settings from the apps again if one of them has changed."""
        apps = self._apps.all_readable(self.app)
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


def app_webhook_targets(
    apps: Apps, base: str, candidates: Iterable[Provider] | None = None
) -> dict[str, AppWebhookTarget]:
    """Return the app webhooks by provider id. `candidates` are the providers to look at; None for all."""
    targets: dict[str, AppWebhookTarget] = {}
    for provider in candidates if candidates is not None else providers().values():
        webhook = provider.manifest.webhook
        connector = connectors().get(provider.id)
        if webhook is None or webhook.app is None or provider.definition is None or connector is None:
            continue
        if uses_own_app(connectors()[connector.app]):
            targets[provider.id] = AppWebhookTarget(provider, provider.definition, webhook.app, apps, base)
    return targets


def missing_target_detail(name: str) -> str:
    """Return the error text for a provider without an app webhook; '' if there is no such provider.

    The text may name providers, which are public. It must not reveal which endpoints exist.
    """
    provider = providers().get(name)
    if provider is None:
        return ""
    receiver = receiving_provider(provider.manifest)
    if receiver not in providers() or providers()[receiver].manifest.webhook is None:
        return f"{name} sends no webhooks"
    endpoint = "an endpoint" if receiver == name else f"an endpoint of {receiver}"
    return f"{name} has no app webhook: create {endpoint} with POST /api/inbound-endpoints"


def alias_provider(path: str) -> str:
    """Return the provider id of a path `/integrations/{provider}/webhook`; '' for another path."""
    if not (path.startswith(ALIAS_PREFIX) and path.endswith(ALIAS_SUFFIX)):
        return ""
    name = path[len(ALIAS_PREFIX) : -len(ALIAS_SUFFIX)]
    return "" if "/" in name else name
