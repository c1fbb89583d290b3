"""An edit that makes a text too long for one message adds parts, and each is there once.

kill -9 of sync after a part was sent, and before that was stored: Slack is asked whether it has the part.
Telegram cannot be asked, so it may get the part again, and the trace says so.
"""

import signal

import pytest

from tests.support.eventually import eventually
from tests.support.fakes.telegram_api import Fault
from tests.sync.places import Place
from tests.sync.three_legs import ThreeLegs, World

KILLED_AT = pytest.mark.parametrize("point", ["carry.sending", "carry.sent"])


def text_of(word: str, words: int) -> str:
    """A text of many words. Both providers take about 400 of them in a message."""
    return " ".join(f"{word}{number:04}" for number in range(words))


def slack_and_chat(world: World) -> ThreeLegs:
    legs = world.legs()
    legs.id = world.create_mapping(world.slack_leg(legs.slack.channel), _chat(legs))
    return legs


def telegram_and_chat(world: World) -> ThreeLegs:
    legs = world.legs()
    account, group = str(world.bot.user.id), str(legs.telegram.chat.id)
    telegram = {"provider": "telegram", "account": account, "conversation": group}
    legs.id = world.create_mapping(telegram, _chat(legs))
    return legs


def _chat(legs: ThreeLegs) -> dict[str, str]:
    return {"provider": "chat", "conversation": legs.chat.channel}


def steps(legs: ThreeLegs) -> list[str]:
    """The trace of the only message at its only target."""
    [message] = legs.synced()
    [target] = message["targets"]
    return [entry["step"] for entry in target["trace"]]


def kill_during_an_edit(world: World, legs: ThreeLegs, place: Place, point: str) -> str:
    """Write a short message, and make it a long one; sync dies while it sends the second part."""
    written = legs.chat.write("short")
    legs.until(lambda: place.texts() == ["short"] and "sent" in steps(legs))
    world.restart_sync(crash_at=point)
    legs.chat.edit(written, text_of("first", 600))
    eventually(lambda: world.hub.ended("sync") == -signal.SIGKILL, 30)
    assert len(place.texts()) == (2 if point == "carry.sent" else 1)
    return written


@KILLED_AT
def test_slack_is_asked_for_the_part_that_an_edit_has_added(world: World, point: str) -> None:
    legs = slack_and_chat(world)
    kill_during_an_edit(world, legs, legs.slack, point)
    world.restart_sync()
    legs.until(lambda: "edited" in steps(legs))
    assert " ".join(legs.slack.texts()) == text_of("first", 600)
    assert len(legs.slack.texts()) == 2
    assert "duplicate_possible" not in steps(legs)


def test_a_later_edit_replaces_the_part_that_was_added_before_the_kill(world: World) -> None:
    legs = slack_and_chat(world)
    written = kill_during_an_edit(world, legs, legs.slack, "carry.sent")
    legs.chat.edit(written, text_of("second", 1000))
    world.restart_sync()
    legs.until(lambda: " ".join(legs.slack.texts()) == text_of("second", 1000))
    legs.quiet()
    assert len(legs.slack.texts()) == 3
    legs.chat.edit(written, "short again")
    legs.until(lambda: legs.slack.texts() == ["short again"])


def test_a_deletion_removes_the_part_that_was_added_before_the_kill(world: World) -> None:
    legs = slack_and_chat(world)
    written = kill_during_an_edit(world, legs, legs.slack, "carry.sent")
    legs.chat.delete(written)
    world.restart_sync()
    legs.until(lambda: "deleted" in steps(legs))
    assert legs.slack.texts() == []


@KILLED_AT
def test_telegram_may_get_the_part_again_and_the_trace_says_so(world: World, point: str) -> None:
    legs = telegram_and_chat(world)
    kill_during_an_edit(world, legs, legs.telegram, point)
    world.restart_sync()
    legs.until(lambda: "edited" in steps(legs))
    first, *added = legs.telegram.texts()
    assert f"{first} {added[-1]}" == text_of("first", 600)
    assert set(added) == {added[-1]}
    assert len(added) == (2 if point == "carry.sent" else 1)
    assert "duplicate_possible" in steps(legs)


@pytest.mark.parametrize("fault", [Fault(429, 1, method="sendMessage"), Fault(502, method="sendMessage")])
def test_a_part_that_was_refused_is_not_there_twice(world: World, fault: Fault) -> None:
    legs = telegram_and_chat(world)
    written = legs.chat.write("short")
    legs.until(lambda: legs.telegram.texts() == ["short"] and "sent" in steps(legs))
    world.telegram.fail(fault)
    legs.chat.edit(written, text_of("first", 600))
    legs.until(lambda: "edited" in steps(legs))
    assert " ".join(legs.telegram.texts()) == text_of("first", 600)
    assert ("duplicate_possible" in steps(legs)) == (fault.code == 502)  # who failed may have sent it
