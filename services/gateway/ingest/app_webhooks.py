"""The addresses of whole apps: what each verifies with, from the apps that are registered here.

An app's webhooks all come to one address, `/api/webhooks/{provider}`, whoever's app it is. The secret that
made a request's signature tells which app it is of: what a request says of itself is not believed before.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shared.connections.apps import INSTALLATION, App, Apps, uses_own_app
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
"""Whose an app is (`INSTALLATION`, or the workspace), and its client id."""


@dataclass(frozen=True, slots=True)
class AppSecret:
    """A secret that verifies, the settings of its app, and all registrations of apps that have it."""

    key: bytes = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)
    registrations: frozenset[AppKey]


class AppWebhookTarget:
    """The address of a provider's apps."""

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
        self._names = frozenset(declared)
        self.settings: Mapping[str, str] = {
            name: each.default for name, each in declared.items() if each.default
        }
        """What every app has that says nothing else."""
        self._of: Sequence[App] | None = None
        self._secrets: Sequence[AppSecret] = ()
        self._every: Sequence[Mapping[str, str]] = ()

    def address(self, path: str) -> str:
        """What the platform calls: this path is the one that it came by, which some of them sign."""
        return self._base + path

    @property
    def secrets(self) -> Sequence[AppSecret]:
        """What verifies now, each secret once; the installation's first."""
        self._refresh()
        return self._secrets

    def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        """The answer to a handshake that nobody has signed, by the first app that it can be for.

        Raises `Forbidden`, `Malformed`.
        """
        self._refresh()
        for settings in self._every:
            request.settings = settings
            with suppress(Forbidden, Malformed):
                return handshake.response(request)
        request.settings = self.settings
        return handshake.response(request)

    def setup(self) -> dict[str, Any]:
        """What a person has to know who sets the address up. Nothing in it is secret, or a workspace's."""
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
                "settings": [name for name in connector.settings if name in self._names],
            },
            "setup_steps": [
                _fill_setup_step(step, url, connector.settings) for step in self._webhook.setup_steps
            ],
            "docs": str(self.provider.manifest.docs),
        }

    def _refresh(self) -> None:
        """Read the apps again, where one of them has changed."""
        apps = self._apps.all_readable(self.app)
        if apps is self._of:
            return
        found: dict[str, list[AppSecret]] = {}
        for app in apps:
            own = {name: value for name, value in app.settings.items() if name in self._names}
            for name in self._webhook.secrets:
                secret = app.secrets.get(name)
                if secret:
                    settings = {**self.settings, **own, SECRET_SETTING: secret}
                    one = frozenset({(app.workspace, app.client_id)})
                    found.setdefault(secret, []).append(AppSecret(secret.encode(), settings, one))
        self._secrets = [_merge_app_secrets(each) for each in found.values()]
        self._every = [one.settings for each in found.values() for one in each]
        self._of = apps


def _fill_setup_step(step: str, url: str, settings: Mapping[str, Setting]) -> str:
    step = step.replace("{url}", url)
    for name, setting in settings.items():
        step = step.replace(f"{{setting:{name}}}", f"({setting.name})")
    return step


def _merge_app_secrets(same: Sequence[AppSecret]) -> AppSecret:
    """One app may be registered by several workspaces: what its secret signs is for all of them."""
    first = same[0]
    return AppSecret(first.key, first.settings, frozenset().union(*(each.registrations for each in same)))


def app_webhook_targets(
    apps: Apps, base: str, known: Iterable[Provider] | None = None
) -> dict[str, AppWebhookTarget]:
    """The address of every provider that has one, by its id."""
    found: dict[str, AppWebhookTarget] = {}
    for provider in known if known is not None else providers().values():
        webhook = provider.manifest.webhook
        connector = connectors().get(provider.id)
        if webhook is None or webhook.app is None or provider.definition is None or connector is None:
            continue
        if uses_own_app(connectors()[connector.app]):
            found[provider.id] = AppWebhookTarget(provider, provider.definition, webhook.app, apps, base)
    return found


def missing_target_detail(name: str) -> str:
    """What is told where a provider has no address for its apps; '' for what is no provider.

    Which providers there are is no secret; which endpoints there are, is.
    """
    provider = providers().get(name)
    if provider is None:
        return ""
    by = receiving_provider(provider.manifest)
    if by not in providers() or providers()[by].manifest.webhook is None:
        return f"{name} sends no webhooks"
    endpoint = "an endpoint" if by == name else f"an endpoint of {by}"
    return f"{name} has no address for an app: make {endpoint} with POST /api/inbound-endpoints"


def alias_provider(path: str) -> str:
    """The provider of `/integrations/{provider}/webhook`, or ''."""
    if not (path.startswith(ALIAS_PREFIX) and path.endswith(ALIAS_SUFFIX)):
        return ""
    name = path[len(ALIAS_PREFIX) : -len(ALIAS_SUFFIX)]
    return "" if "/" in name else name
