"""`interlink import` as a person uses it."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from interlink.cli import app
from tests.cli.commands import COMMAND, clean_env, complaint, invoked
from tests.importer.archives import slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import DAYS, export
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.slow_line import slow_line


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An export of a workspace that no other test has."""
    return written(tmp_path, DAYS)


def written(folder: Path, days: Mapping[str, Any], team: str = "") -> Path:
    path = folder / f"export-{token_hex(4)}.zip"
    path.write_bytes(export(days, team=team or f"T{token_hex(4).upper()}"))
    return path


def settings(hub: Hub, folder: Path, **more: str) -> dict[str, str]:
    return {
        "INTERLINK_URL": hub.url("importer"),
        "INTERLINK_API_KEY": hub.admin_key,
        "XDG_STATE_HOME": str(folder / "state"),
        **more,
    }


def run(hub: Hub, folder: Path, *arguments: str | Path) -> Result:
    """Run a command of `interlink import`."""
    return CliRunner().invoke(app, ["import", *map(str, arguments)], env=settings(hub, folder))


def import_id(result: Result) -> str:
    return result.stdout.partition(":")[0]


def test_an_export_is_imported_shown_repeated_and_undone(
    hub: Hub, chat: HistoryChat, archive: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.csv"
    done = run(hub, tmp_path, archive, "--yes", "--report", report)
    assert done.exit_code == 0, done.output
    assert "Slack export of 2 channels, 2023-05 to 2024-01" in done.stdout
    assert "  old  archived" in done.stdout
    assert "  messages: 6 found, 5 selected, 5 imported, 1 failed" in done.stdout
    assert len(chat.texts()) == 5
    assert report.read_text().splitlines()[1].startswith("C00000001,general,")

    first = import_id(done)
    assert f"interlink import undo {first}" in done.stdout
    assert first in run(hub, tmp_path, "list").stdout
    assert "general/2024-01-02.json" in run(hub, tmp_path, "issues", first).stdout
    assert run(hub, tmp_path, "report", first).stdout.strip() == report.read_text().strip()
    as_json = json.loads(run(hub, tmp_path, "report", first, "--format", "json").stdout)
    assert sum(row["imported"] for row in as_json["days"]) == 5
    shown = json.loads(run(hub, tmp_path, "show", first, "--json").stdout)
    assert shown["added"] == 5

    again = run(hub, tmp_path, archive, "--yes")
    assert "5 selected, 5 duplicate" in again.stdout
    left = run(hub, tmp_path, "undo", first, "--keep-shared", "--yes")
    assert left.stdout.splitlines() == [
        "5 of its messages were found by other imports, too: they stay",
        "its new channels (2) and people (2) are removed, too, unless they are needed otherwise",
        "0 messages were removed",
        "5 messages were left to other imports",
        "channels: 0 removed, 2 kept (in use)",
        "people: 0 removed, 2 kept (in use)",
    ]
    assert len(chat.texts()) == 5
    undone = run(hub, tmp_path, "undo", import_id(again), "--yes")
    assert undone.stdout.splitlines()[1:] == [
        "5 messages were removed",
        "channels: 2 removed",
        "people: 2 removed",
    ]
    assert (chat.messages, chat.channels, chat.users) == ({}, {}, {})


def test_a_dry_run_shows_messages_and_the_import_starts_later(
    hub: Hub, chat: HistoryChat, archive: Path, tmp_path: Path
) -> None:
    before = len(chat.batches)
    tried = run(hub, tmp_path, archive, "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert "  2024-01-01T00:01:40.000Z  Ada: answer" in tried.stdout
    assert "dry run: 6 found, 5 selected, 5 imported, 1 failed" in tried.stdout
    assert len(chat.batches) == before
    found = import_id(tried)
    started = run(hub, tmp_path, "start", found, "--channel", "#general", "--since", "2024-01-02", "--yes")
    assert started.exit_code == 0, started.output
    assert chat.texts() == ["the **second** day"]
    plan = tmp_path / "plan.json"
    plan.write_text(run(hub, tmp_path, "plan", found).stdout)
    assert json.loads(plan.read_text())["since"] == "2024-01-02T00:00:00Z"
    run(hub, tmp_path, "undo", found, "--yes")

    reused = run(hub, tmp_path, archive, "--plan", plan, "--until", "2024-01-03", "--yes", "--json")
    assert reused.exit_code == 0, reused.output
    result = json.loads(reused.stdout)
    assert result["counts"]["messages"]["skipped"] == {"outside_time_range": 3}
    assert "Slack export" in reused.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--channel", "generl"), "--channel: the export has no conversation 'generl'; it has general"),
        (("--since", "yesterday"), "--since: yesterday: has to be a day (2024-11-05) or a time (RFC 3339)"),
        (("--answer", "order"), "--answer: order: has to be ID=VALUE"),
        (("--answer", "order=dmy"), "no choice 'order'"),
    ],
)
def test_an_option_that_does_not_fit_names_what_does(
    hub: Hub, archive: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    refused = run(hub, tmp_path, archive, "--dry-run", *options)
    assert refused.exit_code in (1, 2)
    assert expected in refused.output


def test_nothing_starts_without_a_yes(hub: Hub, archive: Path, tmp_path: Path) -> None:
    result = invoked("import", str(archive), **settings(hub, tmp_path))
    assert "add --yes" in complaint(result)
    assert run(hub, tmp_path, "undo", "imp_unknown", "--yes").exit_code == 2
    for arguments in ((), (str(archive), "--account", "int_1")):
        named = invoked("import", "run", *arguments, **settings(hub, tmp_path))
        assert "name the file of an export" in complaint(named)


def test_a_file_of_another_kind_names_the_known_ones(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Sir or Madam")
    failed = run(hub, tmp_path, path, "--yes")
    assert failed.exit_code == 1
    assert "Slack" in failed.stdout
    path.write_bytes(b"")
    assert "is empty" in complaint(invoked("import", str(path), "--yes", **settings(hub, tmp_path)))
    missing = invoked("import", str(tmp_path / "none"), "--yes", **settings(hub, tmp_path))
    assert "cannot be read" in complaint(missing)


def test_an_import_is_paused_resumed_and_cancelled(
    hub: Hub, chat: HistoryChat, archive: Path, tmp_path: Path
) -> None:
    found = import_id(run(hub, tmp_path, archive, "--dry-run"))
    chat.confirms = False
    try:
        hub.call("POST", f"/api/imports/{found}/start", {})
        assert "paused" in run(hub, tmp_path, "pause", found).stdout
        assert "running" in run(hub, tmp_path, "resume", found).stdout
        assert "cancelled" in run(hub, tmp_path, "cancel", found).stdout
    finally:
        chat.confirms = True
    assert run(hub, tmp_path, "start", found, "--yes").exit_code == 1
    assert "can be undone" in complaint(invoked("import", "cancel", found, **settings(hub, tmp_path)))


def started_command(hub: Hub, folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own, that gets Ctrl-C."""
    return subprocess.Popen(
        [*COMMAND, "import", *arguments],
        env=clean_env(**settings(hub, folder, **more)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_leaves_the_import_running(hub: Hub, chat: HistoryChat, archive: Path, tmp_path: Path) -> None:
    chat.confirms = False
    try:
        process = started_command(hub, tmp_path, str(archive), "--yes")
        running = eventually(
            lambda: [item for item in hub.call("GET", "/api/imports")["items"] if item["status"] == "running"]
        )
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    finally:
        chat.confirms = True
    assert process.returncode == 130, errors
    followed = f"Follow it: interlink import show {running[0]['id']} --follow"
    assert followed in output, errors
    done = run(hub, tmp_path, "show", running[0]["id"], "--follow")
    assert "completed" in done.stdout


def test_an_upload_that_was_interrupted_goes_on(hub: Hub, chat: HistoryChat, tmp_path: Path) -> None:
    files = slack_export({"general/2024-01-01": [slack_message("1704067200.000100", "of a large export")]})
    path = tmp_path / "large.zip"
    path.write_bytes(zipped(files | {"noise.bin": os.urandom(30_000_000)}).getvalue())
    with slow_line(hub.ports["importer"]) as line:
        command = (str(path), "--yes")
        process = started_command(hub, tmp_path, *command, INTERLINK_URL=line.url)
        eventually(lambda: line.forwarded > 12_000_000)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 130, output + errors
        assert "run the same command again" in output
        again = started_command(hub, tmp_path, *command, INTERLINK_URL=line.url)
        eventually(lambda: line.forwarded > 20_000_000)
        line.cut()  # it goes on by itself
        output, errors = again.communicate(timeout=120)
        assert again.returncode == 0, output + errors
        assert "1 imported" in output
        # Each interruption repeats at most one request of 8 MB.
        assert line.forwarded < path.stat().st_size + 2 * 8_500_000 + 1_000_000
    found = hub.call("GET", "/api/uploads")["items"]
    assert [item["complete"] for item in found if item["name"] == "large.zip"] == [True]
    assert "of a large export" in chat.texts()


def test_a_changed_file_is_uploaded_again(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "changed.zip"
    for _ in range(2):
        path.write_bytes(export(DAYS, team=f"T{token_hex(4).upper()}"))
        assert run(hub, tmp_path, path, "--dry-run").exit_code == 0
    found = hub.call("GET", "/api/uploads")["items"]
    assert [item["complete"] for item in found if item["name"] == "changed.zip"] == [True, True]
    assert not list((tmp_path / "state").rglob("uploads/*"))
