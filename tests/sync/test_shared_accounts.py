"""Two workspaces of a hub that have connected the same workspace of Slack, and mapped the same channel.

Each has an app of its own there, or both have the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.sync.chat_side import ChatPlace
from tests.sync.other_workspace import OtherWorkspace, other_workspace
from tests.sync.places import ADA, GRACE, SlackPlace
from tests.sync.three_legs import World

_FLOOD = 150


@dataclass
class Shared:
    """A channel of Slack that is mapped to a channel of the chat in both workspaces."""

    world: World
    other: OtherWorkspace
    slack: SlackPlace
    chat: ChatPlace
    other_chat: ChatPlace
    other_mapping: str

    def until(self, slack: list[str], chat: list[str], other_chat: list[str]) -> None:
        """Wait until the three places show these texts, in any order, and nothing else."""

        def shown() -> list[list[str]]:
            return [sorted(place.texts()) for place in (self.slack, self.chat, self.other_chat)]

        wanted = [sorted(texts) for texts in (slack, chat, other_chat)]
        try:
            eventually(lambda: shown() == wanted, every_s=0.02)
        except AssertionError:
            raise AssertionError(f"{shown()}\n{self.world.hub.log_tail('sync')}") from None

    def problems(self) -> dict[str, str]:
        """Why messages of the other workspace wait for Slack, by their texts."""
        found = self.other.call("GET", "/api/synced-messages", params={"mapping_id": self.other_mapping})
        return {
            one["excerpt"]: target["code"]
            for one in found["items"]
            for target in one["targets"]
            if target["provider"] == "slack"
        }


@pytest.fixture(scope="module", params=["own app", "same app"])
def other(request: pytest.FixtureRequest, world: World) -> Iterator[OtherWorkspace]:
    with other_workspace(world) as found:
        if request.param == "own app":
            found.add_slack_app()
        else:
            found.share_slack_app()
        yield found


@pytest.fixture
def shared(world: World, other: OtherWorkspace) -> Iterator[Shared]:
    people = [world.team.person(name, name) for name in (ADA, GRACE)]
    channel = world.team.add_channel(
        "shared", "channel", *{world.app.id: world.app, other.app.id: other.app}.values(), *people
    )
    chat, other_chat = world.chat.channel(), other.chat.channel()
    fields: dict[str, Any] = {"filters": {"bots": True}}
    chat_leg = {"provider": "chat", "conversation": chat.channel}
    world.create_mapping(world.slack_leg(channel), chat_leg, **fields)
    other_leg = {"provider": "chat", "conversation": other_chat.channel}
    mapping = other.map(world.slack_leg(channel), other_leg, **fields)
    slack = SlackPlace(world.slack, world.team, channel)
    yield Shared(world, other, slack, chat, other_chat, mapping)
    other.call("DELETE", f"/api/mappings/{mapping}")


def test_messages_go_to_both_and_copies_of_a_hub_to_none(shared: Shared) -> None:
    shared.slack.write("by a person")
    shared.until(["by a person"], ["by a person"], ["by a person"])
    shared.chat.write("here")
    shared.other_chat.write("there")
    everything = ["by a person", "here", "there"]
    shared.until(everything, ["by a person", "here"], ["by a person", "there"])
    shared.slack.write("after")
    shared.until([*everything, "after"], ["by a person", "here", "after"], ["by a person", "there", "after"])


def test_edits_reactions_and_deletions_stay_with_their_workspace(shared: Shared) -> None:
    written = shared.slack.write("1")
    here, there = shared.chat.write("here"), shared.other_chat.write("there")
    shared.until(["1", "here", "there"], ["1", "here"], ["1", "there"])
    shared.slack.edit(written, "2")
    shared.chat.edit(here, "here 2")
    shared.other_chat.edit(there, "there 2")
    shared.until(["2", "here 2", "there 2"], ["2", "here 2"], ["2", "there 2"])
    shared.slack.react(shared.slack.find("here 2").id, "+1", by=ADA)
    eventually(lambda: shared.chat.find("here 2").reactions == {"👍": (ADA,)})
    shared.slack.react(shared.slack.find("there 2").id, "tada", by=GRACE)
    eventually(lambda: shared.other_chat.find("there 2").reactions == {"🎉": (GRACE,)})
    shared.other_chat.delete(there)
    shared.chat.delete(here)
    shared.until(["2"], ["2"], ["2"])


def test_a_pause_that_slack_asks_one_workspace_for_holds_up_no_other(shared: Shared) -> None:
    shared.world.slack.faults.rate_limit("chat.postMessage", retry_after_s=60)
    shared.other_chat.write("limited")
    eventually(lambda: shared.problems().get("limited") == "rate_limited")
    shared.chat.write("not limited")
    shared.until(["not limited"], ["not limited"], ["limited"])


@pytest.mark.parametrize("other", ["own app"], indirect=True)
def test_a_refused_token_of_one_workspace_holds_up_no_other(shared: Shared) -> None:
    app = shared.other.app
    app.revoke()
    try:
        shared.other_chat.write("waits")
        eventually(lambda: shared.problems().get("waits"))
        shared.chat.write("here")
        shared.until(["here"], ["here"], ["waits"])
    finally:
        app.live = True
        shared.other.connect_slack()
    shared.until(["here", "waits"], ["here"], ["waits"])


def test_a_flood_of_one_workspace_holds_up_no_other(shared: Shared) -> None:
    for number in range(_FLOOD):
        shared.other_chat.write(f"flood {number}")
    shared.chat.write("here")
    eventually(lambda: "here" in shared.slack.texts())
    before = shared.slack.texts().index("here")
    assert before < _FLOOD / 4, f"{before} messages of the flood went first"
