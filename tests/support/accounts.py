"""An oauth service alone, with accounts connected at servers of the test, and the store's side of them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient

from shared.contracts.topics import INTEGRATION_EVENTS
from tests.support.auth_servers import Client, OidcProvider
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.ports import free_port
from tests.support.tap import Tap

CALLBACK: Final = "/api/auth/oauth/callback"
SECRET: Final = "the-secret-of-the-hub"


@dataclass
class Accounts:
    """The accounts of one workspace; the provider is always `oidc`, at the server of its settings."""

    hub: Hub
    database: Any
    tap: Tap

    @property
    def redirect_uri(self) -> str:
        return self.hub.url("oauth") + CALLBACK

    def at(self, settings: Mapping[str, str], client_id: str) -> "Accounts":
        """The accounts of another workspace, whose app is at this server."""
        hub = copy.copy(self.hub)
        hub.admin_key = self.hub.other_workspace()
        other = Accounts(hub, self.database, self.tap)
        other.register(settings, client_id)
        return other

    def register(self, settings: Mapping[str, str], client_id: str, secret: str = SECRET) -> Any:
        """The workspace's app; nobody is asked whether it is right."""
        body = {"client_id": client_id, "client_secret": secret, "settings": settings, "verified": True}
        return self.hub.call("PUT", "/api/platform-credentials/oidc", body)

    def connect(self, name: str) -> str:
        """Connect an account by this name; the integration's id."""
        with Person(self.hub, name) as person:
            return person.connected("oidc")

    def shown(self, integration: str) -> dict[str, Any]:
        """What the API says."""
        return dict(self.hub.call("GET", f"/api/integrations/{integration}"))

    def call(self, integration: str, what: str, expect: int = 200) -> Any:
        """`refresh`, `check`, and what else can be done."""
        return self.hub.call("POST", f"/api/integrations/{integration}/{what}", expect=expect)

    def move(self, integration: str, **seconds: float) -> None:
        """Set times of an integration to so many seconds from now."""
        now = datetime.now(UTC)
        change = {name: now + timedelta(seconds=value) for name, value in seconds.items()}
        done = self.database.integrations.update_one({"_id": integration}, {"$set": change})
        assert done.matched_count == 1

    def stored(self, integration: str) -> dict[str, Any]:
        """What the store has."""
        found = self.database.integrations.find_one({"_id": integration})
        assert found
        return dict(found)

    def events(self, integration: str) -> list[str]:
        """What happened to an integration, as Kafka has it: types in order, each event once."""
        once: dict[str, str] = {}
        for record in self.tap.look():
            if record.key == integration.encode():
                once.setdefault(record.attributes["ce_id"], record.attributes["ce_type"])
        return [kind.removeprefix("integration.") for kind in once.values()]


def oidc_settings(server: OidcProvider) -> dict[str, str]:
    """Of the hub's app at npm's oidc-provider."""
    return {
        "authorize_url": server.authorize_url,
        "token_url": server.token_url,
        "userinfo_url": server.userinfo_url,
        "revoke_url": server.revoke_url,
        "issuer": server.url,
    }


def app_at(accounts: Accounts) -> Client:
    """The hub's app, for a server that has to know it beforehand."""
    return Client("hub", SECRET, [accounts.redirect_uri])


@contextmanager
def accounts(folder: Path, bus: Bus, store: Store, **env: str) -> Iterator[Accounts]:
    """The service, started, and ended with the test."""
    port = free_port()
    usual = {
        "INTERLINK_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "INTERLINK_UPKEEP_EVERY_S": "0.3",
        "INTERLINK_RETURN_ORIGINS": "https://chat.example.com",
    }
    hub = Hub(folder, bus, store, services=("oauth",), env=usual | env)
    hub.ports["oauth"] = port
    try:
        hub.start()
        client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
        with client:
            yield Accounts(hub, client.get_default_database(), Tap(bus, INTEGRATION_EVENTS.name))
    finally:
        hub.stop()
