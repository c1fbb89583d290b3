"""A hub whose oauth service finds the fakes where it would find the platforms."""

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final, Self
from unittest.mock import patch

import httpx

from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.configured_apps import configured_apps
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import Access, TokenSource
from shared.manifests.registry import registry
from shared.runtime.configuration import Configuration
from shared.runtime.egress.client import EgressClient
from shared.runtime.encryption_keys import open_vault
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from tests.support.backends import Bus, Store
from tests.support.fakes.atlassian import Atlassian
from tests.support.fakes.calendly import Calendly
from tests.support.fakes.facebook import Facebook
from tests.support.fakes.fake import Fake
from tests.support.fakes.github import GitHub
from tests.support.fakes.google import Google
from tests.support.fakes.hubspot import HubSpot
from tests.support.fakes.mailchimp import Mailchimp
from tests.support.fakes.microsoft import Microsoft
from tests.support.fakes.notion import Notion
from tests.support.fakes.pagerduty import PagerDuty
from tests.support.fakes.shopify import Shopify
from tests.support.fakes.slack import Slack
from tests.support.fakes.tiktok import TikTok
from tests.support.fakes.trello import Trello
from tests.support.fakes.typeform import Typeform
from tests.support.fakes.zalo import Zalo
from tests.support.fakes.zendesk import Zendesk
from tests.support.fakes.zoom import Zoom
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.ports import free_port
from tests.support.provider_hosts import Handler, HostRequest, ProviderHosts, Reply

FAKES: Final[Mapping[str, type[Fake]]] = {
    "slack": Slack,
    "github": GitHub,
    "jira": Atlassian,
    "google": Google,
    "microsoft": Microsoft,
    "shopify": Shopify,
    "zalo": Zalo,
    "tiktok": TikTok,
    "mailchimp": Mailchimp,
    "notion": Notion,
    "trello": Trello,
    "zoom": Zoom,
    "hubspot": HubSpot,
    "calendly": Calendly,
    "typeform": Typeform,
    "pagerduty": PagerDuty,
    "zendesk": Zendesk,
    "facebook": Facebook,
}
"""By the id of the provider that has the app."""
CALLBACK: Final = "/api/auth/oauth/callback"


class OAuthHub:
    """The hub's oauth service, the platforms, and the people who go there."""

    def __init__(
        self,
        folder: Path,
        bus: Bus,
        store: Store,
        more: Mapping[str, Handler],
        services: Sequence[str] = ("oauth",),
    ) -> None:
        """`more` are further hosts; the first of `services` is the one that people come to."""
        port = free_port()
        self._back = f"http://127.0.0.1:{port}{CALLBACK}"
        self._clients = {name: (f"app-of-{name}", token_urlsafe(24)) for name in FAKES}
        self._playing = {name: self._new(name) for name in FAKES}
        self._people = 0
        hosts = {host: self._at(name, host) for name, fake in self._playing.items() for host in fake.hosts}
        self.platforms = ProviderHosts(hosts | dict(more))
        folder.mkdir(parents=True, exist_ok=True)
        self._trust = ssl.create_default_context(cafile=str(self.platforms.authority(folder)))
        env = {
            **self.platforms.env(folder),
            "INTERLINK_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "INTERLINK_UPKEEP_EVERY_S": "0.5",
            "INTERLINK_RETURN_ORIGINS": "https://chat.example.com",
        }
        entrance = "gateway" in services
        if entrance:
            env["INTERLINK_GATEWAY_URL"] = env["INTERLINK_PUBLIC_URL"]
        self.hub = Hub(folder / "hub", bus, store, services=services, env=env, entrance=entrance)
        self.hub.ports[services[0]] = port
        self._page = self.browser()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.platforms)
            stack.enter_context(self._page)
            stack.callback(self.hub.stop)
            self.hub.init(self.hub.workspace)
            for service in self.hub.services:
                module = ("tests.support.provider_hosts", "oauth") if service == "oauth" else ()
                self.hub.start_service(service, module=module)
            for service in self.hub.services:
                self.hub.wait_ready(service)
            for name in FAKES:
                self.register(name)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # ProviderHosts

    def _new(self, name: str, **more: str) -> Fake:
        client_id, secret = self._clients[name]
        return FAKES[name](client_id, secret, self._back, **more)

    def _at(self, name: str, host: str) -> Handler:
        def answer(request: HostRequest) -> Reply:
            return self._playing[name].hosts[host](request)

        return answer

    def play(self, name: str, **more: str) -> Fake:
        """A new fake in the place of the platform; somebody whom nobody knows yet logs in."""
        fake = self._playing[name] = self._new(name, **more)
        fake.accounts = [fake.account(self.number())]
        return fake

    def number(self) -> int:
        """Of somebody new."""
        self._people += 1
        return self._people

    def register(self, name: str, **fields: Any) -> dict[str, Any]:
        """Tell the hub about the app; without `verified` the platform is asked."""
        client_id, secret = self._clients[name]
        body = {"client_id": client_id, "client_secret": secret, "verified": True, **fields}
        return self.ask("PUT", f"/api/platform-credentials/{name}", body)

    # The hub

    def ask(
        self, method: str, path: str, body: Any = None, *, expect: int = 200, key: str | None = None
    ) -> dict[str, Any]:
        """A call of the hub's API; with the key of another workspace, where one is given."""
        answer = self._page.request(
            method,
            self.hub.url("oauth") + path,
            json=body,
            headers={"authorization": f"Bearer {key or self.hub.admin_key}"},
        )
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return dict(answer.json()) if answer.content else {}

    def shown(self, integration: str, *, key: str | None = None) -> dict[str, Any]:
        """How an integration is."""
        return self.ask("GET", f"/api/integrations/{integration}", key=key)

    def do(self, integration: str, what: str, body: Any = None, *, expect: int = 200) -> dict[str, Any]:
        """`check`, `refresh`, `disconnect`, ..."""
        return self.ask("POST", f"/api/integrations/{integration}/{what}", body, expect=expect)

    def connect(self, provider: str, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Somebody connects an account, all the way: the integration as it is shown."""
        with self.person(key) as ada:
            return self.shown(ada.connected(provider, **fields), key=key)

    def person(self, key: str | None = None) -> Person:
        """Somebody with a browser of his own, who finds the platforms."""
        return Person(self.hub, "ada", key=key, client=self.browser())

    def access(self, integration: str, other: str = "") -> Access:
        """What another service gets to call the platform with."""
        with patch.dict(os.environ, self.hub.env):
            return asyncio.run(_access(integration, other))

    def browser(self) -> httpx.Client:
        """A browser that finds the platforms."""
        through = httpx.HTTPTransport(proxy=self.platforms.proxy, verify=self._trust)
        return httpx.Client(timeout=20, verify=self._trust, trust_env=False, mounts={"https://": through})


async def _access(integration: str, other: str) -> Access:
    log = configure("test", "warning")
    vault, mongo = open_vault(load(HubSettings)), Mongo(load(MongoSettings), app="test")
    producer = Producer(load(KafkaSettings), log, client_id="test")
    configuration = Configuration(mongo, log)
    app_repository = AppRepository(mongo, vault, registry().connectors, log)
    apps = Apps(app_repository, configured_apps(registry()), configuration)
    await apps.start()
    try:
        integrations = IntegrationRepository(mongo, vault, producer, log)
        tokens = TokenSource(
            integrations,
            apps,
            registry().connectors,
            configuration,
            EgressClient("none", max_connections=1),
            log,
            redirect_uri=CALLBACK,
        )
        return await tokens.access(integration, other=other)
    finally:
        await apps.stop()
        await configuration.stop()
        mongo.close()
