"""`interlink sync` as a person uses it."""

from pathlib import Path
from secrets import token_hex

import pytest
from typer.testing import CliRunner, Result

from interlink.cli import app
from tests.cli.commands import complaint, invoked
from tests.sync.three_legs import World


def sync(world: World, *arguments: str, key: str | None = None) -> Result:
    """Run a command of `interlink sync`."""
    env: dict[str, str | None] = {"INTERLINK_URL": world.hub.url("sync")}
    env["INTERLINK_API_KEY"] = world.hub.admin_key if key is None else key
    return CliRunner().invoke(app, ["sync", *arguments], env=env)


def test_conversations_are_mapped_tested_and_deleted(world: World) -> None:
    legs = world.legs()
    channel, group = legs.slack.channel, legs.telegram.chat
    places = [f"slack:{world.team.id}:{channel.id}", f"out=telegram:{group.id}", f"chat:{legs.chat.channel}"]
    preview = sync(world, "map", *places, "--preview")
    assert preview.exit_code == 0, preview.output
    assert "cannot read deletions: Telegram reports no deletions to bots." in preview.output
    assert preview.output.endswith("can be saved\n")
    settings = ("--option", "files=false", "--filter", "exclude_words=a", "--filter", "exclude_words=b")
    made = sync(world, "map", *places, "--name", "Example", *settings)
    assert made.exit_code == 0, made.output
    mapping = made.output.split()[0]
    assert made.output.splitlines() == [
        f"{mapping}  active  Example",
        f"  <-> slack:{world.team.id}:{channel.id} ({channel.name})",
        f"  <-- telegram:{world.bot.user.id}:{group.id} ({group.title})",
        f"  <-> chat:{legs.chat.channel}",
    ]
    stored = world.hub.call("GET", f"/api/mappings/{mapping}")
    assert stored["options"]["files"] is False
    assert stored["filters"]["exclude_words"] == ["a", "b"]
    tested = sync(world, "test", mapping)
    assert tested.exit_code == 0, tested.output
    assert [line.partition("  ")[0] for line in tested.output.splitlines()] == [
        f"slack {channel.id}: sent",
        f"telegram {group.id}: sent",
        f"chat {legs.chat.channel}: sent",
    ]
    assert sync(world, "pause", mapping).output.startswith(f"{mapping}  paused")
    assert mapping in sync(world, "list", "--status", "paused").output
    assert sync(world, "resume", mapping).output.startswith(f"{mapping}  active")
    world.telegram.set_status(group, world.bot, "kicked", next(iter(world.people.values())))
    failed = sync(world, "test", mapping)
    assert failed.exit_code == 1
    assert f"telegram {group.id}: failed: The bot was removed from the chat. Add it again." in failed.output
    assert sync(world, "delete", mapping).output == f"deleted {mapping}\n"
    assert mapping not in sync(world, "list").output


def test_a_list_shows_which_account_has_to_be_connected_again(world: World) -> None:
    legs = world.mapped()
    world.app.revoke()
    legs.chat.write("waits for the account")
    path = f"/api/integrations/{world.slack_integration}"
    legs.until(lambda: world.hub.call("GET", path)["status"] == "reauth_required")
    problem = "the account Example of slack is not connected any more: connect the account again"
    try:
        legs.until(lambda: problem in sync(world, "list").output)  # sync looks at accounts now and then
        lines = sync(world, "list").output.splitlines()
        leg = next(number for number, line in enumerate(lines) if legs.slack.channel.id in line)
        assert lines[leg + 1] == f"      problem: {problem}"
        assert "problem" not in lines[leg + 2]
        assert [one["problem"] for one in legs.mapping["legs"]] == [problem, None, None]
    finally:
        world.connect_slack()
    legs.agree("waits for the account")
    assert problem not in sync(world, "list").output


def test_what_the_hub_refuses_is_one_line(world: World) -> None:
    refused = sync(world, "map", "slack:C0NONE", f"chat:{token_hex(4)}")
    assert refused.exit_code == 2
    assert refused.output == (
        "interlink: legs.0.conversation: The app does not see the channel: invite it with /invite, or choose "
        "another channel.\n"
    )
    assert "API key" in sync(world, "list", key="ilk_wrong").output
    preview = sync(world, "map", "slack:C0NONE", f"chat:{token_hex(4)}", "--preview")
    assert preview.exit_code == 1
    assert preview.output.endswith("cannot be saved\n")


@pytest.mark.parametrize("leg", ["slack", "slack:", ":C1", "in=", "out=chat:"])
def test_a_leg_that_cannot_be_read_is_shown_how(world: World, leg: str) -> None:
    refused = sync(world, "map", leg, "chat:general")
    assert refused.exit_code == 2
    assert "has to be PROVIDER:CONVERSATION" in refused.output


def test_without_a_key_the_command_says_where_it_looked(tmp_path: Path) -> None:
    shown = invoked("sync", "list", "--data-dir", str(tmp_path))
    assert complaint(shown).startswith("INTERLINK_API_KEY: not set")
