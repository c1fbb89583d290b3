"""Provider subscriptions: created on connect, renewed before they expire, cancelled on disconnect."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.channels import GoogleChannels, GraphSubscriptions
from tests.support.fakes.google import Google
from tests.support.fakes.microsoft import Microsoft
from tests.support.person import Person
from tests.support.subscription_hub import CALLBACK, SubscriptionHub, among, subscription_hub_process

SHORT_S = 6.0


@dataclass
class World(SubscriptionHub):
    """A hub, and the platforms that it finds."""

    calendar: GoogleChannels
    graph: GraphSubscriptions


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    hub = subscription_hub_process(tmp_path_factory.mktemp("hub"), bus, store)
    redirect = hub.url("gateway") + CALLBACK
    google, microsoft = Google("g-id", "g-secret", redirect), Microsoft("m-id", "m-secret", redirect)
    calendar, graph = GoogleChannels(google, SHORT_S), GraphSubscriptions(microsoft, SHORT_S)
    hosts = {**google.hosts, **microsoft.hosts}
    hosts |= {"www.googleapis.com": google.on(calendar.routes()), "graph.microsoft.com": graph.handle}
    with among(hub, hosts) as platforms:
        world = World(hub, platforms, calendar, graph)
        world.app("google", google)
        world.app("microsoft", microsoft)
        yield world


def test_a_channel_is_created_on_connect_delivers_is_renewed_and_stopped(world: World) -> None:
    hub, calendar = world.hub, world.calendar
    integration = world.connected("google-calendar")
    watch = world.active(integration)
    [channel] = calendar.live.values()
    assert watch["endpoint_url"] == channel.address
    assert calendar.notify(channel, "exists") == 202
    endpoint = hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}")
    assert endpoint["provider"] == "google-calendar"
    first = channel.id
    eventually(lambda: first not in calendar.live and calendar.live)
    assert calendar.made >= 2
    [channel] = calendar.live.values()
    assert calendar.notify(channel, "exists") == 202, "through the same endpoint, with the same secret"
    assert channel.address == watch["endpoint_url"]
    hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert not calendar.live
    assert world.watches(integration) == []
    hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}", expect=404)


def test_another_account_is_subscribed_in_place_of_the_one_before(world: World) -> None:
    """At once, not when the earlier one's subscription would be renewed."""
    calendar, google = world.calendar, world.calendar.fake
    calendar.lifetime_s, accounts = 3600.0, google.accounts
    try:
        integration = world.connected("google-calendar")
        world.active(integration)
        made = calendar.made
        google.accounts = [google.account(77)]
        with Person(world.hub, "ada") as ada:
            started = ada.reconnect(integration, any_account=True)
            ada.through(world.platforms, started["authorization_url"])
        assert world.hub.call("GET", f"/api/integrations/{integration}")["account"]["id"] != accounts[0].id
        eventually(lambda: calendar.made == made + 1)
        world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
    finally:
        calendar.lifetime_s, google.accounts = SHORT_S, accounts
        calendar.live.clear()


def test_subscriptions_are_renewed_and_removed(world: World) -> None:
    hub, graph = world.hub, world.graph
    integration = world.connected("microsoft-outlook")
    eventually(lambda: [one["status"] for one in world.watches(integration)] == ["active", "active"])
    assert {one.resource for one in graph.live.values()} == {
        "/me/mailFolders('inbox')/messages",
        "/me/events",
    }
    [inbox] = [one for one in graph.live.values() if "inbox" in one.resource]
    assert graph.notify(inbox, "created") in (200, 202)
    ends = inbox.ends_at
    eventually(lambda: graph.live[inbox.id].ends_at > ends)
    assert graph.made == 2, "renewed, not created again"
    del graph.live[inbox.id]  # the platform has lost it
    eventually(lambda: graph.made == 3)
    for item in world.watches(integration):
        hub.call("DELETE", f"/api/integrations/{integration}/watches/{item['id']}", expect=204)
    assert not graph.live
    hub.call("POST", f"/api/integrations/{integration}/disconnect")


def test_subscription_types_are_listed_and_others_are_refused(world: World) -> None:
    hub = world.hub
    integration = world.connected("google-calendar")
    path = f"/api/integrations/{integration}/watches"
    shown = hub.call("GET", path)
    assert [item["watch"] for item in shown["available"]] == ["events"]
    refused = hub.call("POST", path, {"watch": "nothing"}, expect=422)
    assert refused["errors"][0]["message"] == "there is events"
    bad = {"watch": "events", "resource": {"calendar_id": "a/../b"}}
    assert hub.call("POST", path, bad, expect=422)["errors"][0]["field"] == "resource.calendar_id"
    hub.call("GET", path, key=hub.other_workspace(), expect=404)
    hub.call("POST", f"/api/integrations/{integration}/disconnect")
