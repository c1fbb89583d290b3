"""A hub and the platforms that it finds, for tests of watches: what a person and an operator do there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pymongo import MongoClient

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.provider_hosts import Handler, ProviderHosts

CALLBACK = "/api/auth/oauth/callback"


class Registered(Protocol):
    """A fake platform, and the app that is registered with it."""

    client_id: str
    client_secret: str


@dataclass
class SubscriptionHub:
    """What is done about watches, whatever the platform."""

    hub: Hub
    platforms: ProviderHosts

    def app(self, provider: str, fake: Registered, **settings: str) -> None:
        """Enter the app of a provider, with these settings."""
        app = {"client_id": fake.client_id, "client_secret": fake.client_secret, "verified": True}
        self.hub.call("PUT", f"/api/platform-credentials/{provider}", {**app, "settings": settings})

    def connected(self, provider: str) -> str:
        """An account is connected: its integration, which it keeps when it had one.

        Where the platform sends the browser at once, the browser goes: it has no page.
        """
        with Person(self.hub, "ada") as ada:
            started = ada.connect(provider)
            ada.through(self.platforms, started["authorization_url"])
        return str(self.hub.call("GET", f"/api/integrations/{started['integration_id']}")["id"])

    def watches(self, integration: str) -> list[dict[str, Any]]:
        return list(self.hub.call("GET", f"/api/integrations/{integration}/watches")["items"])

    def active(self, integration: str) -> dict[str, Any]:
        """The only watch, once it is."""
        [found] = eventually(lambda: [one for one in self.watches(integration) if one["status"] == "active"])
        return found

    def now(self, watch: str) -> None:
        """Days are over."""
        with MongoClient[dict[str, Any]](self.hub.env["MONGODB_URI"]) as mongo:
            watches = mongo.get_default_database()["watches"]
            assert watches.update_one({"_id": watch}, {"$set": {"due_at": datetime.now(UTC)}}).matched_count


def subscription_hub_process(folder: Path, bus: Bus, store: Store) -> Hub:
    """A hub that looks after watches often, not started yet."""
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.3"}
    return Hub(folder, bus, store, services=("gateway", "oauth"), env=env, entrance=True)


@contextmanager
def among(hub: Hub, hosts: Mapping[str, Handler], *, gateway_too: bool = False) -> Iterator[ProviderHosts]:
    """Run the hub where these hosts are the platforms', for the gateway only if it asks them too."""
    with ProviderHosts(dict(hosts)) as platforms:
        try:
            hub.init(hub.workspace)
            for service in hub.services:
                if service == "oauth" or gateway_too:
                    module = ("tests.support.provider_hosts", service)
                    hub.start_service(service, module=module, **platforms.env(hub.folder))
                else:
                    hub.start_service(service)
            for service in hub.services:
                hub.wait_ready(service)
            yield platforms
            assert not platforms.faults
        finally:
            hub.stop()
