"""A message that was given up: its trace says why, a notice answers it, and a retry brings it there."""

from typing import Any

from tests.sync.test_commands import sync
from tests.sync.three_legs import ThreeLegs, World


def target(legs: ThreeLegs, provider: str) -> dict[str, Any]:
    """The target of the only message."""
    [message] = legs.synced()
    return next(dict(one) for one in message["targets"] if one["provider"] == provider)


def test_a_given_up_message_is_notified_and_retried(world: World) -> None:
    options = {"retry_for_s": 0, "failure_notice": True}
    legs, other = world.mapped(options=options), world.mapped(options=options)
    world.hosts.take_down("slack.com")
    legs.telegram.write("lost")
    legs.until(lambda: len(legs.telegram.texts()) == 2)
    lost, notice = legs.telegram.shown()
    assert notice.text.startswith(f"Not delivered to {legs.slack.channel.name}: ")
    assert notice.thread == lost.id
    other.chat.write("lost as well")
    other.until(lambda: len(other.chat.texts()) == 2)
    assert other.chat.shown()[1].text.startswith(f"Not delivered to {other.slack.channel.name}: ")
    assert other.chat.shown()[1].thread == other.chat.shown()[0].id
    world.hosts.bring_up()

    failed = target(legs, "slack")
    assert (failed["state"], failed["code"]) == ("failed", "unreachable")
    listed = sync(world, "trace", "--mapping", legs.id, "--state", "failed").output.splitlines()
    message = listed[0].split()[0]
    assert listed[1] == "  Ada Example: lost  " + legs.synced()[0]["source"]["permalink"]
    assert f"  -> slack:{legs.slack.channel.id}  failed  (leg {failed['leg']})" in listed
    assert f"    problem: {failed['reason']}" in listed
    retried = sync(world, "retry", message, "--leg", failed["leg"])
    assert retried.exit_code == 0, retried.output
    again = sync(world, "retry", "syn_nothing")
    assert (again.exit_code, "no such message" in again.output) == (2, True)
    legs.until(lambda: legs.slack.texts() == ["lost"])
    legs.until(lambda: target(legs, "slack")["state"] == "sent")
    sent = target(legs, "slack")
    assert [entry["step"] for entry in sent["trace"]][-3:] == ["failed", "retried", "sent"]
    assert sent["trace"][-1]["detail"] == sent["permalink"]
    traced = sync(world, "trace", message).output
    assert f"  sent (attempt 1)  {sent['permalink']}\n" in traced
    legs.quiet()
    other.quiet(0.1)
    assert legs.telegram.texts() == ["lost", notice.text], "one notice"
    assert legs.chat.texts() == ["lost"], "no hub forwards a notice"
    assert other.telegram.texts() == ["lost as well"]
    assert other.slack.texts() == []
