"""A webhook that belongs to the app: made on connect with the app's own token, looked at, and deleted."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.x import X
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.platforms import Platforms

CALLBACK = "/api/auth/oauth/callback"


@dataclass
class World:
    """A hub, and X."""

    hub: Hub
    platforms: Platforms
    x: X

    def connected(self) -> str:
        with Person(self.hub, "ada") as ada:
            begun = ada.connect("twitter")
            ada.through(self.platforms, begun["authorization_url"])
            return str(begun["integration_id"])

    def watches(self, integration: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.hub.call("GET", f"/api/integrations/{integration}/watches")[
            "items"
        ]
        return found

    def active(self, integration: str) -> dict[str, Any]:
        """The only watch, once it is."""
        [found] = eventually(lambda: [one for one in self.watches(integration) if one["status"] == "active"])
        return found

    def now(self, watch: str) -> None:
        """A day is over."""
        with MongoClient[dict[str, Any]](self.hub.env["MONGODB_URI"]) as mongo:
            watches = mongo.get_default_database()["watches"]
            changed = watches.update_one({"_id": watch}, {"$set": {"due_at": datetime.now(UTC)}})
            assert changed.modified_count == 1

    def app(self, **settings: str) -> None:
        app = {"client_id": self.x.client_id, "client_secret": self.x.client_secret, "verified": True}
        self.hub.call("PUT", "/api/platform-credentials/twitter", {**app, "settings": settings})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hub")
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.3"}
    hub = Hub(folder, bus, store, services=("gateway", "oauth"), env=env, entrance=True)
    x = X("x-id", "x-secret-that-is-long-enough", hub.url("gateway") + CALLBACK)
    with Platforms(x.hosts) as platforms:
        try:
            hub.init(hub.workspace)
            hub.start_service("gateway")
            hub.start_service("oauth", module=("tests.support.platforms", "oauth"), **platforms.env(folder))
            hub.wait_ready("gateway")
            hub.wait_ready("oauth")
            yield World(hub, platforms, x)
            assert not platforms.faults
            logs = b"".join(file.read_bytes() for file in folder.rglob("*.log"))
            assert x.bearer_token.encode() not in logs
        finally:
            hub.stop()


def test_without_the_apps_token_there_is_no_webhook(world: World) -> None:
    world.app()
    integration = world.connected()
    assert world.watches(integration) == []
    assert world.x.webhooks == {}
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")


def test_the_webhook_is_made_checked_once_a_day_and_deleted(world: World) -> None:
    hub, x = world.hub, world.x
    world.app(bearer_token=x.bearer_token)
    integration = world.connected()
    watch = world.active(integration)
    [webhook] = x.webhooks.values()
    assert (webhook.url, webhook.asked) == (watch["endpoint_url"], 1)
    body = b'{"data":{"event_type":"profile.update.bio","event_uuid":"1"}}'
    proof = base64.b64encode(hmac.digest(x.client_secret.encode(), body, hashlib.sha256)).decode()
    signed = {"x-twitter-webhooks-signature-oauth2": f"sha256={proof}", "content-type": "application/json"}
    assert httpx.post(webhook.url, content=body, headers=signed).status_code == 200
    webhook.valid = False  # it did not answer X
    world.now(watch["id"])
    eventually(lambda: webhook.valid)
    assert webhook.asked == 2
    assert list(x.webhooks.values()) == [webhook], "checked, not made anew"
    hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert x.webhooks == {}
    hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}", expect=404)


def test_a_webhook_that_is_gone_is_made_anew(world: World) -> None:
    world.app(bearer_token=world.x.bearer_token)
    integration = world.connected()
    watch = world.active(integration)
    world.x.webhooks.clear()
    world.now(watch["id"])
    [webhook] = eventually(lambda: list(world.x.webhooks.values()))
    assert webhook.url == watch["endpoint_url"]
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")


def test_an_app_token_that_x_does_not_take_harms_no_account(world: World) -> None:
    world.app(bearer_token="no-such-token-of-the-app")
    integration = world.connected()
    [watch] = eventually(lambda: [one for one in world.watches(integration) if one["last_error"]])
    assert watch["status"] == "failing"
    assert world.hub.call("GET", f"/api/integrations/{integration}")["status"] == "connected"
    assert world.x.refreshes == 0
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
