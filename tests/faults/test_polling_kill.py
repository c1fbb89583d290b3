"""kill -9 of a process that polls, between the publishing of events and the storing of the cursor.

And two processes that poll: each trigger has one owner at a time.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from shared.runtime.failpoints import FAILPOINT_VARIABLE
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.feed import FeedServer
from tests.support.hub import Hub
from tests.support.polling_hub import PATH, PollingHub
from tests.support.provider_hosts import ProviderHosts
from tests.support.subscription_hub import among
from tests.support.tap import Tap

HOST = "blog.example.com"
MODULE = ("tests.support.provider_hosts", "oauth")


@dataclass
class World(PollingHub):
    feeds: FeedServer

    def start_oauth(self, **env: str) -> None:
        settings = self.platforms.env(self.hub.folder) | env
        self.hub.start_service("oauth", module=MODULE, **settings)
        self.hub.wait_ready("oauth")

    def feed(self, path: str) -> tuple[str, list[str]]:
        """A new trigger of a feed with one old item, and the list of the feed's items."""
        items = self.feeds.feeds[path] = ["old"]
        return self.polled("rss_trigger_new_item", url=f"https://{HOST}{path}")["id"], items


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.2"}
    folder = tmp_path_factory.mktemp("hub")
    hub = Hub(folder, bus, store, services=("gateway", "oauth"), env=env, entrance=True)
    feeds = FeedServer()
    with among(hub, {HOST: feeds.handle}) as platforms:
        yield World(hub, platforms, Tap(bus, "webhooks.received"), feeds)


def test_events_of_a_killed_poll_are_published_again_under_the_same_ids(world: World) -> None:
    hub = world.hub
    trigger, items = world.feed("/killed")
    hub.stop_service("oauth")
    world.start_oauth(**{FAILPOINT_VARIABLE: "poll.published"})
    items += ["first", "second"]
    hub.call("POST", f"{PATH}/{trigger}/resume")
    assert eventually(lambda: hub.ended("oauth")) == -signal.SIGKILL
    published = world.tap.wait_for(2)
    # The gateway forgets what it has published, as after the deduplication window.
    hub.kill("gateway")
    hub.start_service("gateway")
    hub.wait_ready("gateway")
    world.start_oauth()
    shown = world.poll(trigger)
    events = world.events(shown["endpoint_id"])
    ids = Counter(event.attributes["ce_id"] for event in events)
    assert set(ids) == {event.attributes["ce_id"] for event in published}
    assert sorted(ids.values()) == [2, 2], "again, and as the same events"
    items.append("third")
    world.poll(trigger)
    assert [event.data["title"] for event in world.events(shown["endpoint_id"])][-1] == "third"


def test_a_trigger_is_polled_by_one_of_two_processes(
    world: World, tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> None:
    hub, platforms = world.hub, world.platforms
    folder = tmp_path_factory.mktemp("second")
    second = Hub(folder, bus, store, services=("oauth",), env=hub.env, workspace=hub.workspace)
    second.admin_key = hub.admin_key
    feeds = [world.feed(f"/shared-{number}") for number in range(10)]
    with _SecondProcess(second, platforms):
        for trigger, items in feeds:
            items.append("new")
            hub.call("POST", f"{PATH}/{trigger}/resume")
        for number, (trigger, _) in enumerate(feeds):
            eventually(lambda trigger=trigger: world.shown(trigger)["last_event_at"])  # type: ignore[misc]
            assert world.feeds.count(f"/shared-{number}") == 2, "the first poll, and one poll by one process"
    endpoints = [world.shown(trigger)["endpoint_id"] for trigger, _ in feeds]
    assert [len(world.events(endpoint)) for endpoint in endpoints] == [1] * len(feeds)


class _SecondProcess:
    """A second oauth process that finds the same platforms."""

    def __init__(self, hub: Hub, platforms: ProviderHosts) -> None:
        self._hub = hub
        self._platforms = platforms

    def __enter__(self) -> None:
        self._hub.start_service("oauth", module=MODULE, **self._platforms.env(self._hub.folder))
        self._hub.wait_ready("oauth")

    def __exit__(self, *_: object) -> None:
        self._hub.stop()
