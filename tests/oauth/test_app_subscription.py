"""A subscription of the app: created on connect with the app's own token, checked, and deleted."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from interlink.provider.subscription_rules import subscription_faults
from shared.manifests.registry import registry
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.x import Webhook, X
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among, subscription_hub_process


@dataclass
class World(SubscriptionHub):
    """A hub, and X."""

    x: X

    def account(self, number: int = 1) -> str:
        """The account of a person is connected; each number is somebody else."""
        self.x.accounts = [self.x.account(number)]
        return self.connected("twitter")

    def settings(self, **settings: str) -> None:
        """Enter the app, with these settings."""
        self.app("twitter", self.x, **settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    x = X("x-id", "x-secret-that-is-long-enough", hub.url("gateway") + CALLBACK)
    with among(hub, x.hosts) as platforms:
        yield World(hub, platforms, x)
    logs = b"".join(file.read_bytes() for file in hub.folder.rglob("*.log"))
    assert x.bearer_token.encode() not in logs


def signed(webhook: Webhook, secret: str) -> int:
    """The status that an event is answered with, signed with this secret."""
    body = b'{"data":{"event_type":"profile.update.bio","event_uuid":"1"}}'
    proof = base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()
    headers = {"x-twitter-webhooks-signature-oauth2": f"sha256={proof}", "content-type": "application/json"}
    return httpx.post(webhook.url, content=body, headers=headers).status_code


def test_without_the_token_of_the_app_there_is_no_webhook(world: World) -> None:
    world.settings()
    integration = world.account()
    [watch] = eventually(lambda: [one for one in world.watches(integration) if one["last_error"]])
    assert (watch["status"], watch["last_error"]["code"]) == ("pending", "missing_setting")
    detail = "the app of twitter has no Bearer token: enter it as its setting bearer_token"
    assert watch["last_error"]["detail"] == detail
    assert (watch["endpoint_id"], world.x.webhooks) == (None, {}), "nothing is made in vain"
    world.settings(bearer_token=world.x.bearer_token)
    assert world.active(integration)["last_error"] is None
    assert len(world.x.webhooks) == 1
    world.settings()  # it cannot be cancelled without the token, which changes nothing about disconnecting
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert world.watches(integration) == []
    world.x.webhooks.clear()


def test_the_webhook_is_made_checked_once_a_day_and_deleted(world: World) -> None:
    hub, x = world.hub, world.x
    world.settings(bearer_token=x.bearer_token)
    integration = world.account()
    watch = world.active(integration)
    [webhook] = x.webhooks.values()
    assert webhook.url == watch["endpoint_url"]
    assert signed(webhook, x.client_secret) == 200
    assert signed(webhook, "another-secret-of-another-app") == 401
    webhook.valid = False  # it did not answer X
    world.now(watch["id"])
    eventually(lambda: webhook.valid)
    assert list(x.webhooks.values()) == [webhook], "checked, not created again"
    hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert x.webhooks == {}
    hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}", expect=404)


def test_a_missing_webhook_is_created_again(world: World) -> None:
    world.settings(bearer_token=world.x.bearer_token)
    integration = world.account()
    watch = world.active(integration)
    world.x.webhooks.clear()
    world.now(watch["id"])
    [webhook] = eventually(lambda: list(world.x.webhooks.values()))
    assert webhook.url == watch["endpoint_url"]
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")


def test_two_accounts_share_the_only_webhook_that_the_app_may_have(world: World) -> None:
    hub, x = world.hub, world.x
    world.settings(bearer_token=x.bearer_token)
    one = world.account()
    watch = world.active(one)
    two = world.account(2)
    assert two != one
    assert world.active(two) == watch
    assert watch["shared"]
    [webhook] = x.webhooks.values()
    hub.call("POST", f"/api/integrations/{one}/disconnect")
    assert world.watches(one) == []
    assert list(x.webhooks.values()) == [webhook], "the other one's webhook is there"
    assert signed(webhook, x.client_secret) == 200
    webhook.valid = False
    world.now(watch["id"])
    eventually(lambda: webhook.valid)
    one = world.account()
    hub.call("DELETE", f"/api/integrations/{two}/watches/{watch['id']}", expect=204)
    assert world.watches(two) == []
    assert world.active(one)["endpoint_url"] == webhook.url
    assert signed(webhook, x.client_secret) == 200
    hub.call("POST", f"/api/integrations/{one}/disconnect")
    assert x.webhooks == {}
    hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}", expect=404)
    hub.call("POST", f"/api/integrations/{two}/disconnect")


def test_an_account_that_joins_while_the_webhook_is_deleted_gets_another_one(world: World) -> None:
    hub, x = world.hub, world.x
    world.settings(bearer_token=x.bearer_token)
    one, two = world.account(), world.account(2)
    watch = world.active(one)
    hub.call("DELETE", f"/api/integrations/{two}/watches/{watch['id']}", expect=204)

    def joins() -> None:
        with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
            watches = mongo.get_default_database()["watches"]
            watches.update_one({"_id": watch["id"]}, {"$addToSet": {"integrations": two}})

    x.meanwhile = joins
    hub.call("POST", f"/api/integrations/{one}/disconnect")
    x.meanwhile = lambda: None
    again = world.active(two)
    [webhook] = x.webhooks.values()
    assert again["endpoint_id"] != watch["endpoint_id"]
    assert webhook.url == again["endpoint_url"]
    assert signed(webhook, x.client_secret) == 200
    hub.call("POST", f"/api/integrations/{two}/disconnect")
    assert x.webhooks == {}


def test_a_new_secret_of_the_app_is_the_endpoints_secret_too(world: World) -> None:
    x = world.x
    world.settings(bearer_token=x.bearer_token)
    integration = world.account()
    world.active(integration)
    [webhook] = x.webhooks.values()
    x.client_secret = "another-secret-that-is-long-enough"
    world.settings(bearer_token=x.bearer_token)
    asked = webhook.challenges
    eventually(lambda: webhook.challenges > asked and webhook.valid)
    assert signed(webhook, x.client_secret) == 200
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert x.webhooks == {}


def test_the_webhook_is_deleted_for_an_account_with_an_expired_token(world: World) -> None:
    hub, x = world.hub, world.x
    world.settings(bearer_token=x.bearer_token)
    integration = world.account()
    world.active(integration)
    x.withdraw()
    hub.call("POST", f"/api/integrations/{integration}/refresh", expect=409)
    assert hub.call("GET", f"/api/integrations/{integration}")["status"] == "reauth_required"
    hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert x.webhooks == {}


def test_an_app_token_that_x_rejects_harms_no_account(world: World) -> None:
    world.settings(bearer_token="no-such-token-of-the-app")
    integration = world.account()
    [watch] = eventually(lambda: [one for one in world.watches(integration) if one["last_error"]])
    assert watch["status"] == "failing"
    assert world.hub.call("GET", f"/api/integrations/{integration}")["status"] == "connected"
    assert world.x.refreshes == 0
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")


def test_a_subscription_of_an_app_uses_nothing_of_one_account() -> None:
    manifest, connector = registry().providers["twitter"].manifest, registry().connectors["twitter"]
    [watch] = manifest.watches
    known = {"client_secret", "setting:bearer_token", "account:username"}
    assert list(subscription_faults(manifest, connector, {}, known)) == []
    for wrong, fault in (
        ({"token": True}, "the token"),
        ({"json_": {"url": "{endpoint:url}", "of": "{account:username}"}}, "{account:username}"),
    ):
        other = watch.model_copy(update={"create": watch.create.model_copy(update=wrong)})
        found = subscription_faults(manifest.model_copy(update={"watches": (other,)}), connector, {}, known)
        assert list(found) == [f"webhook.of_app: accounts share it, but {fault} belongs to one"]
