"""A new user's walk: `interlink up`, import an export by the command, look at the chat page, and undo it."""

import json
import subprocess
from pathlib import Path

import httpx

from tests.cli.commands import Up, interlink, running
from tests.importer.archives import slack_message
from tests.importer.test_imports import export
from tests.support.eventually import eventually


def imported_texts(up: Up) -> list[str] | None:
    """The texts of the channels that the chat page has from imports; None if it has none."""
    found = []
    event = ""
    try:
        with httpx.stream("GET", f"{up.chat}/events", timeout=1) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == "channel":
                    messages = json.loads(line.removeprefix("data: "))["messages"]
                    found += [message["text"] for message in messages]
    except httpx.ReadTimeout:  # it has sent everything it has
        pass
    return found or None


def test_an_export_is_imported_into_the_chat_page_and_undone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    days = {"general/2024-01-01": [slack_message("1704067200.000100", "from *another* chat")]}
    (tmp_path / "export.zip").write_bytes(export(days))
    with running(folder) as up:

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            """Run a command beside the data folder, which has the hub's address and key."""
            settings = {"INTERLINK_DATA_DIR": str(folder), "XDG_STATE_HOME": str(tmp_path)}
            return interlink("import", *arguments, cwd=tmp_path, **settings)

        done = run("export.zip", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "messages: 1 found, 1 selected, 1 imported" in done.stdout
        assert eventually(lambda: imported_texts(up)) == ["from **another** chat"]
        assert (folder / "uploads").is_dir()
        import_id = done.stdout.partition(":")[0]
        key = {"Authorization": f"Bearer {up.key}"}
        for document in ("events", "report?format=csv"):
            answer = httpx.get(f"{up.url}/api/imports/{import_id}/{document}", headers=key)
            assert answer.status_code == 200
            assert "content-length" not in answer.headers, "the gateway waits for the end of a stream"
        undone = run("undo", import_id, "--yes")
        assert undone.returncode == 0, undone.stdout + undone.stderr
        assert eventually(lambda: imported_texts(up) is None)
