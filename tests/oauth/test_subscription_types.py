"""The other subscription types against their providers: create, renew, find, verify and cancel."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.airtable import Airtable
from tests.support.fakes.channels import DriveChannels, GraphSubscriptions
from tests.support.fakes.gmail import Gmail, PubSub
from tests.support.fakes.google import Google
from tests.support.fakes.microsoft import Microsoft
from tests.support.fakes.tokens import bearer
from tests.support.fakes.websub import Hub as FeedHub
from tests.support.person import Person
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among, subscription_hub_process

SHORT_S: Final = 4.0
"""How long all that ends lives here."""
TOPIC: Final = "projects/example-project/topics/gmail"
OTHER_TOPIC: Final = "projects/example-project/topics/other"
CHANNEL: Final = "UC_x5XG1OV2P6uZZ5FSM9Ttw"


@dataclass
class World(SubscriptionHub):
    """A hub, and the platforms that it finds."""

    google: Google
    drive: DriveChannels
    gmail: Gmail
    graph: GraphSubscriptions
    airtable: Airtable
    feeds: FeedHub

    def disconnect(self, integration: str) -> None:
        """Nothing of it stays, and it is not spoken of any more."""
        watches = self.watches(integration)
        self.hub.call("POST", f"/api/integrations/{integration}/disconnect")
        assert self.watches(integration) == []
        for item in watches:
            if item["endpoint_id"]:
                self.hub.call("GET", f"/api/inbound-endpoints/{item['endpoint_id']}", expect=404)

    def outcomes(self, endpoint: str) -> list[str]:
        """What became of an endpoint's requests, the last first."""
        return [
            one["outcome"]
            for one in self.hub.call("GET", f"/api/inbound-endpoints/{endpoint}/events")["items"]
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    redirect = hub.url("gateway") + CALLBACK
    google, microsoft = Google("g-id", "g-secret", redirect), Microsoft("m-id", "m-secret", redirect)
    airtable = Airtable("a-id", "a-secret-that-is-long-enough", redirect, week_s=SHORT_S)
    pubsub = PubSub("example-project", "gmail-push@example-project.iam.gserviceaccount.com")
    drive, graph, feeds = DriveChannels(google, SHORT_S), GraphSubscriptions(microsoft, SHORT_S), FeedHub()
    gmail = Gmail(google, pubsub, SHORT_S)

    def channels(asked: HostRequest) -> Reply:
        """The person's channel at YouTube."""
        token = google.access(bearer(asked))
        assert token is not None
        assert asked.params() == {"part": "snippet", "mine": "true"}
        return Reply.json({"items": [{"id": CHANNEL, "snippet": {"title": token.grant.account.name}}]})

    apis = google.on({**drive.routes(), "GET /youtube/v3/channels": channels})

    def www(asked: HostRequest) -> Reply:
        return pubsub.keys(asked) if asked.path == "/oauth2/v3/certs" else apis(asked)

    hosts = {**google.hosts, **microsoft.hosts, **airtable.hosts, "www.googleapis.com": www}
    hosts |= {"gmail.googleapis.com": gmail.handler(), "graph.microsoft.com": graph.handle}
    hosts |= {"pubsubhubbub.appspot.com": feeds.handle}
    with among(hub, hosts, gateway_too=True) as platforms:
        world = World(hub, platforms, google, drive, gmail, graph, airtable, feeds)
        for provider, fake in (("google", google), ("microsoft", microsoft), ("airtable", airtable)):
            world.app(provider, fake)
        yield world


def test_gmail_waits_for_the_topic_is_pushed_to_renewed_moved_and_stopped(world: World) -> None:
    hub, gmail, pubsub = world.hub, world.gmail, world.gmail.pubsub
    integration = world.connected("gmail")
    [watch] = eventually(lambda: [one for one in world.watches(integration) if one["last_error"]])
    assert (watch["status"], watch["last_error"]["code"]) == ("pending", "missing_setting")
    detail = "the app of google has no Pub/Sub topic: enter it as its setting pubsub_topic"
    assert watch["last_error"]["detail"] == detail
    assert (watch["next_at"] > watch["last_error"]["at"], gmail.made) == (True, 0)

    settings = {"service_account": pubsub.service_account}
    endpoint = {"provider": "gmail", "name": "mail", "settings": settings}
    endpoint = hub.call("POST", "/api/inbound-endpoints", endpoint, expect=201)
    pubsub.topics = {TOPIC: endpoint["url"], OTHER_TOPIC: endpoint["url"]}
    world.app("google", world.google, pubsub_topic=TOPIC)
    watch = world.active(integration)
    assert (watch["last_error"], watch["endpoint_id"]) == (None, None)
    assert eventually(lambda: pubsub.answered)[0] in (200, 202, 204), "the message that comes at once"
    [mailbox] = gmail.live.values()
    assert gmail.changed(mailbox) in (200, 202, 204)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert gmail.changed(mailbox, key=stranger) == 401
    assert gmail.changed(mailbox, email="other@example-project.iam.gserviceaccount.com") == 401
    assert gmail.changed(mailbox, aud="https://hub.example.com/") == 401

    eventually(lambda: gmail.renewed)
    assert (gmail.made, gmail.stopped) == (1, 0)
    world.app("google", world.google, pubsub_topic=OTHER_TOPIC)
    eventually(lambda: [one for one in gmail.live.values() if one.topic == OTHER_TOPIC])
    assert gmail.stopped == 1
    gmail.live.clear()  # the platform has lost it
    eventually(lambda: gmail.live)
    world.disconnect(integration)
    assert (gmail.live, gmail.stopped) == ({}, 2)
    hub.call("DELETE", f"/api/inbound-endpoints/{endpoint['id']}", expect=204)


def test_a_subscription_of_a_drive_starts_at_a_page_token_and_is_renewed(world: World) -> None:
    drive = world.drive
    integration = world.connected("google-drive")
    watch = world.active(integration)
    [channel] = drive.live.values()
    assert channel.address == watch["endpoint_url"]
    assert drive.notify(channel, "change") == 202
    assert drive.notify(channel, "change", token="no-token-of-this-channel") == 401
    first = channel.id
    eventually(lambda: first not in drive.live and drive.live)
    assert len(drive.pages) >= 2, "each channel begins at a page that was asked for"
    [channel] = drive.live.values()
    assert drive.notify(channel, "change") == 202, "through the same endpoint, with the same secret"
    drive.live.clear()  # the platform has lost it
    eventually(lambda: drive.live)
    world.disconnect(integration)
    assert not drive.live


def test_a_microsoft_drive_validates_the_address_is_renewed_and_deleted(world: World) -> None:
    graph = world.graph
    integration = world.connected("onedrive")
    watch = world.active(integration)
    [subscription] = graph.live.values()
    assert subscription.address == watch["endpoint_url"] + "?kind=driveItem"
    assert graph.notify(subscription, "updated") in (200, 202)
    assert graph.notify(subscription, "updated", state="no-state-of-this-subscription") == 401
    eventually(lambda: graph.renewed)
    assert graph.made == 1, "renewed, not created again"
    graph.live.clear()  # the platform has lost it
    [subscription] = eventually(lambda: list(graph.live.values()))
    assert graph.notify(subscription, "updated") in (200, 202)
    world.disconnect(integration)
    assert not graph.live


def test_a_base_is_subscribed_on_request_and_its_secret_goes_to_the_endpoint(world: World) -> None:
    hub, airtable = world.hub, world.airtable
    integration = world.connected("airtable")
    assert world.watches(integration) == []
    path = f"/api/integrations/{integration}/watches"
    made = hub.call(
        "POST", path, {"watch": "base", "resource": {"base_id": "appExampleExample1"}}, expect=201
    )
    watch = world.active(integration)
    assert watch["id"] == made["id"]
    [webhook] = airtable.webhooks.values()
    assert (webhook.address, webhook.data) == (watch["endpoint_url"], ("tableData",))
    assert airtable.notify(webhook) == 204
    forged = "AAAA" * 20
    assert airtable.notify(webhook, secret=forged) == 401
    eventually(lambda: airtable.refreshed)
    assert airtable.made == 1, "refreshed, not created again"
    old = webhook.secret
    airtable.webhooks.clear()  # the platform has lost it
    [webhook] = eventually(lambda: list(airtable.webhooks.values()))
    assert webhook.secret != old
    eventually(lambda: airtable.notify(webhook) == 204)

    other = hub.call("POST", path, {"watch": "base", "resource": {"base_id": "appNobodyNobody1"}}, expect=201)
    [refused] = eventually(
        lambda: [one for one in world.watches(integration) if one["id"] == other["id"] and one["last_error"]]
    )
    assert refused["status"] == "failing"
    assert refused["last_error"]["code"] == "INVALID_PERMISSIONS_OR_MODEL_NOT_FOUND"
    world.disconnect(integration)
    assert not airtable.webhooks


def test_a_channel_is_subscribed_verified_and_unsubscribed(world: World) -> None:
    feeds = world.feeds
    integration = world.connected("youtube")
    watch = world.active(integration)
    [feed] = feeds.live.values()
    assert (feed.address, feed.topic.rpartition("=")[2]) == (watch["endpoint_url"], CHANNEL)
    assert feed.leased_s == 432_000, "as long as the hub believes that it is"
    assert feeds.publish(feed, "dQw4w9WgXcQ") == (200, "")
    assert feeds.publish(feed, "anotherVid1", secret="no-secret-of-this-subscription") == (200, "")
    eventually(lambda: len(world.outcomes(watch["endpoint_id"])) >= 3)
    outcomes = world.outcomes(watch["endpoint_id"])
    assert "accepted" in outcomes
    assert "signature" in outcomes, "what is forged is acknowledged, and no event"
    assert feeds.asks(feed.address, feed.topic, token="somebody-else-asked").status_code == 403
    world.now(watch["id"])
    eventually(lambda: next(iter(feeds.live.values())).verified == 2)
    feeds.live.clear()  # the platform has lost it
    world.now(watch["id"])
    [feed] = eventually(lambda: list(feeds.live.values()))
    assert feeds.publish(feed, "dQw4w9WgXcQ") == (200, "")
    world.disconnect(integration)
    assert not feeds.live


def test_a_subscription_without_a_token_is_cancelled_for_an_account_with_an_expired_token(
    world: World,
) -> None:
    hub, feeds = world.hub, world.feeds
    integration = world.connected("youtube")
    watch = world.active(integration)
    world.google.withdraw()
    hub.call("POST", f"/api/integrations/{integration}/refresh", expect=409)
    assert hub.call("GET", f"/api/integrations/{integration}")["status"] == "reauth_required"
    assert len(feeds.live) == 1
    hub.call("DELETE", f"/api/integrations/{integration}/watches/{watch['id']}", expect=204)
    assert not feeds.live
    world.disconnect(integration)


def test_a_mailbox_of_two_workspaces_is_unsubscribed_with_the_last(world: World) -> None:
    """The platform has one watch of it for the app that both of them share."""
    hub, gmail, google = world.hub, world.gmail, world.google
    settings = {"service_account": gmail.pubsub.service_account}
    body = {"provider": "gmail", "name": "mail", "settings": settings}
    endpoint = hub.call("POST", "/api/inbound-endpoints", body, expect=201)
    gmail.pubsub.topics = {TOPIC: endpoint["url"]}
    app = {"client_id": google.client_id, "client_secret": google.client_secret, "verified": True}
    hub.call("DELETE", "/api/platform-credentials/google", expect=204)
    whole = {"scope": "installation", "settings": {"pubsub_topic": TOPIC}}
    hub.call("PUT", "/api/platform-credentials/google", app | whole)
    other, stopped = hub.other_workspace(), gmail.stopped
    first = world.connected("gmail")
    world.active(first)
    with Person(hub, "ada", key=other) as ada:
        authorization = ada.connect("gmail")
        ada.through(world.platforms, authorization["authorization_url"])
    path = f"/api/integrations/{authorization['integration_id']}"

    def active() -> bool:
        return [one["status"] for one in hub.call("GET", f"{path}/watches", key=other)["items"]] == ["active"]

    eventually(active)
    world.disconnect(first)
    assert active()
    assert (len(gmail.live), gmail.stopped) == (1, stopped)
    hub.call("POST", f"{path}/disconnect", key=other)
    assert (gmail.live, gmail.stopped) == ({}, stopped + 1)
