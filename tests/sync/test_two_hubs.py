"""Two hubs with two apps bridge the same channels in a ring: no message goes around."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Store, embedded_broker
from tests.support.eventually import eventually
from tests.sync.places import ADA, SlackPlace
from tests.sync.three_legs import World, connected


@pytest.fixture
def other(world: World, tmp_path: Path, store: Store) -> Iterator[World]:
    """A hub of its own, with its own app in the same workspace of Slack."""
    bus = embedded_broker(tmp_path)
    try:
        with connected(tmp_path, bus, store, world.slack) as found:
            yield found
    finally:
        bus.close()


def test_every_message_appears_once_in_each_channel(world: World, other: World) -> None:
    ada = world.team.person(ADA)
    first, second = (world.team.add_channel(name, "channel", world.app, other.app, ada) for name in "ab")
    filters = {"bots": True}
    world.create_mapping(
        world.slack_leg(first, direction="in"), world.slack_leg(second, direction="out"), filters=filters
    )
    other.create_mapping(
        other.slack_leg(second, direction="in"), other.slack_leg(first, direction="out"), filters=filters
    )
    places = [SlackPlace(world.slack, world.team, channel) for channel in (first, second)]
    places[0].write("from the first")
    places[1].write("from the second")
    wanted = ["from the first", "from the second"]
    eventually(lambda: all(sorted(place.texts()) == wanted for place in places))
    places[0].write("later")  # what goes around would have come back before this one
    eventually(lambda: all("later" in place.texts() for place in places))
    assert [sorted(place.texts()) for place in places] == [[*wanted, "later"]] * 2
