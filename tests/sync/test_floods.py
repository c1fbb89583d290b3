"""What a hostile workspace sends in quantities: it is bounded, and the messages of others go on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import token_hex

import pytest
from aiokafka.partitioner import murmur2

from shared.contracts.topics import CHAT_EVENTS
from shared.richtext.markdown import parse_markdown
from shared.richtext.mentions import mentioned
from tests.support.eventually import eventually
from tests.sync.chat_side import ChatPlace
from tests.sync.other_workspace import OtherWorkspace, other_workspace
from tests.sync.places import ADA, SlackPlace
from tests.sync.test_flow import rich
from tests.sync.three_legs import World

_MENTIONS = 10_000
_NAMED = 20
"""People of one message whose names are asked for, at most."""
_BATCH = 10
"""The same of one batch, for one workspace."""
_FLOOD = 200


@dataclass
class Hostile:
    """A workspace with a channel of Slack and one of the chat, mapped to each other."""

    other: OtherWorkspace
    slack: SlackPlace
    chat: ChatPlace

    @property
    def asked(self) -> int:
        """The names that the hub has asked Slack for."""
        return len(self.other.world.hosts.requests("slack.com", "/api/users.info"))


@pytest.fixture
def hostile(world: World) -> Iterator[Hostile]:
    with other_workspace(world) as other:
        other.add_slack_app()
        person = world.team.person(ADA, ADA)
        channel = world.team.add_channel(f"hostile-{token_hex(3)}", "channel", other.app, person)
        chat = other.chat.channel()
        mapping = other.map(other.slack_leg(channel), {"provider": "chat", "conversation": chat.channel})
        yield Hostile(other, SlackPlace(world.slack, world.team, channel), chat)
        other.call("DELETE", f"/api/mappings/{mapping}")


def partition(key: str) -> int:
    """The partition of `chat.events` for a channel."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % CHAT_EVENTS.partitions)


def in_one_partition(make: Callable[[], ChatPlace], channel: str) -> ChatPlace:
    """A new channel of the chat whose events are in the partition of another one's."""
    while True:
        made = make()
        if partition(made.channel) == partition(channel):
            return made


def test_ten_thousand_mentions_of_the_chat_are_cut_and_hold_up_nobody(world: World, hostile: Hostile) -> None:
    legs = world.mapped()
    text = "".join(f"[@a](mention://user/U{number}) " for number in range(_MENTIONS))
    author = {"id": "usr_x", "name": "X"}
    for name, body in (("whole", text), ("cut", text[:39_000])):
        data = {"message_id": f"msg_{name}{token_hex(6)}", "channel_id": hostile.chat.channel, "text": body}
        event = {"specversion": "1.0", "id": f"evt_{token_hex(8)}", "source": "/x", "type": "message.created"}
        expect = 422 if name == "whole" else 202
        hostile.other.call("POST", "/api/events", event | {"data": data | {"author": author}}, expect=expect)
    legs.chat.write("meanwhile")
    legs.agree("meanwhile")
    eventually(hostile.slack.texts)
    [shown] = [one for one in hostile.slack.channel.messages.values() if one.get("username") == "X"][:1]
    assert len(shown["text"]) <= 4_000
    assert hostile.asked == 0


def test_ten_thousand_mentions_of_slack_are_cut_and_hold_up_nobody(world: World, hostile: Hostile) -> None:
    legs, before = world.mapped(), hostile.asked
    mentions = [{"type": "user", "user_id": f"U0{number:06}"} for number in range(_MENTIONS)]
    hostile.slack.write("mentions", blocks=rich(*mentions))
    legs.slack.write("meanwhile")
    legs.agree("meanwhile")
    eventually(hostile.chat.texts)
    [text] = hostile.chat.texts()
    assert len(text) <= 40_000
    assert len(mentioned(parse_markdown(text)).users) == 0, "nobody of the chat is one of them"
    assert hostile.asked - before <= 2 * _NAMED


def test_a_provider_that_is_slow_with_names_slows_one_batch_down(world: World, hostile: Hostile) -> None:
    legs, before = world.mapped(), hostile.asked
    world.slack.faults.delay("users.info", 4, count=1_000)
    try:
        for number in range(30):
            mentions = [{"type": "user", "user_id": f"U0{number:03}{index:03}"} for index in range(20)]
            hostile.slack.write(f"message {number}", blocks=rich(*mentions))
            world.slack.events.settle()
            eventually(lambda wanted=number + 1: len(hostile.chat.texts()) == wanted)  # type: ignore[misc]
        assert hostile.asked - before <= _BATCH
    finally:
        world.slack.faults.clear()
    legs.slack.write("meanwhile")
    legs.agree("meanwhile")
    assert legs.chat.find("meanwhile").author == ADA


def test_a_flood_of_one_conversation_holds_up_no_other_in_its_partition(
    world: World, hostile: Hostile
) -> None:
    legs = world.legs()
    legs.chat = in_one_partition(world.chat.channel, hostile.chat.channel)
    legs.map()
    for number in range(_FLOOD):
        hostile.chat.write(f"flood {number}")
        if number % 50 == 0:
            legs.chat.write(f"here {number}")
    legs.agree(*(f"here {number}" for number in range(0, _FLOOD, 50)))
    sent = len(hostile.slack.texts())
    assert sent < _FLOOD / 2, f"{sent} messages of the flood went first"
    assert legs.slack.texts() == [f"here {number}" for number in range(0, _FLOOD, 50)]


def test_a_flood_of_events_of_slack_holds_up_no_other_workspace(world: World, hostile: Hostile) -> None:
    legs = world.mapped()
    with ThreadPoolExecutor(4) as aside:
        flood = [aside.submit(hostile.slack.write, f"flood {number}") for number in range(_FLOOD)]
        for number in range(3):
            legs.slack.write(f"here {number}")
        assert all(written.result() for written in flood)
    legs.agree(*(f"here {number}" for number in range(3)))
    eventually(lambda: len(hostile.chat.texts()) == _FLOOD, 40)
    assert hostile.chat.texts() == hostile.slack.texts()
