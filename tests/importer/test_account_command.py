"""`interlink import --account` imports a connected account."""

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from interlink.cli import app
from tests.cli.commands import complaint, invoked
from tests.importer.slack_account import SlackAccount, slack_account
from tests.importer.test_account_imports import message
from tests.support.backends import Bus, Store


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[SlackAccount]:
    with slack_account(tmp_path_factory.mktemp("account"), bus, store) as found:
        yield found


def run(account: SlackAccount, *arguments: str) -> Result:
    """Run `interlink import` at the hub."""
    settings = {
        "INTERLINK_URL": account.hub.url("importer"),
        "INTERLINK_API_KEY": account.hub.admin_key,
    }
    return CliRunner().invoke(app, ["import", *arguments], env=settings)


def test_an_account_is_imported_and_again_each_day(account: SlackAccount) -> None:
    ada = account.team.person("Ada Example")
    account.channel("plans", message(0, ada.user_id, "the *first* one"), message(10, ada.user_id, "second"))
    integration = account.connect()
    done = run(account, "--account", integration, "--channel", "plans", "--yes", "--daily")
    assert done.exit_code == 0, done.output
    assert "  plans" in done.stdout
    assert "messages: 2 found, 2 selected, 2 imported" in done.stdout
    assert account.chat.texts("plans") == ["the **first** one", "second"]
    listed = run(account, "list").stdout.splitlines()
    assert len(listed) == 2  # the one of tomorrow waits
    assert run(account, "cancel", listed[0].split()[0]).exit_code == 0
    undone = run(account, "undo", listed[1].split()[0], "--yes")
    assert undone.stdout.splitlines()[1:3] == ["2 messages were removed", "channels: 1 removed"]


def test_an_unknown_account_and_a_daily_file_are_refused(account: SlackAccount) -> None:
    unknown = run(account, "--account", "int_unknown", "--yes")
    assert unknown.exit_code == 2
    settings = {"INTERLINK_URL": account.hub.url("importer"), "INTERLINK_API_KEY": account.hub.admin_key}
    refused = invoked("import", "export.zip", "--daily", "--yes", **settings)
    assert "add --account" in complaint(refused)
