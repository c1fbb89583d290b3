"""Two importers, each with a disk of its own: who takes an import, who answers for it, and who stops it."""

import base64
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import inf
from secrets import token_hex
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.importer.archives import slack_message
from tests.importer.history_chat import HistoryChat
from tests.importer.reader_pids import readers_of
from tests.importer.test_imports import DAYS, export, patched, reached, ready, uploaded
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.second_process import second_process

STOP_S: Final = 5.0
_SOME: Final = 6
"""Batches that the chat stores of an import of people, channels and 28 batches of messages."""
_FIRST_PART: Final = 28
"""The first part of the messages has 25 batches: it gets done, and the import does not."""
_MANY: Final = {
    f"general/2024-01-{day:02}": [
        slack_message(f"{1704067200 + 86_400 * (day - 1) + number}.000100", f"{day} {number}")
        for number in range(200)
    ]
    for day in range(1, 29)
}


@dataclass(frozen=True)
class Rig:
    """Two importers on one database. Imports of the first one's uploads run there."""

    here: Hub
    there: Hub
    chat: HistoryChat
    watch: HistoryChat
    """It stores nothing, and sees what all workspaces get."""

    def readers(self) -> list[int]:
        """The readers of the importer that has the uploads."""
        return readers_of(self.here.pid("importer"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("processes")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "here")}
    workspace = f"w-{token_hex(4)}"
    with ExitStack() as stack:
        here = Hub(folder / "a", bus, store, services=("importer",), env=env, workspace=workspace)
        stack.enter_context(here)
        elsewhere = {"INTERLINK_UPLOAD_FOLDER": str(folder / "there")}
        there = stack.enter_context(second_process("importer", here, folder / "b", bus, store, **elsewhere))
        chat = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], workspace))
        watch = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], "nobody's"))
        yield Rig(here, there, chat, watch)
        assert not chat.errors


@pytest.fixture(autouse=True)
def quiet(rig: Rig) -> Iterator[None]:
    """The chat confirms again, and no reader is stopped, whatever a test did."""
    yield
    rig.chat.permits = inf
    for pid in rig.readers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def many(team: str) -> bytes:
    """An export of 28 days with 200 messages each."""
    return export(_MANY, team=team)


def ends_within_five_seconds(rig: Rig, import_id: str) -> None:
    """Cancel an import by the other process: its reader ends, and nothing more is published."""
    called_at = monotonic()
    assert rig.there.call("POST", f"/api/imports/{import_id}/cancel")["status"] == "cancelled"
    assert rig.here.call("GET", f"/api/imports/{import_id}")["status"] == "cancelled"
    eventually(lambda: not rig.readers(), within_s=STOP_S, every_s=0.02)
    assert monotonic() - called_at < STOP_S


def stopped_reader(rig: Rig) -> int:
    """Stop the reader that comes next: for the importer, it is in the middle of a big unit."""
    pid = eventually(rig.readers, every_s=0.005)[0]
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_an_import_that_is_read_is_cancelled_while_its_reader_is_busy(rig: Rig) -> None:
    upload_id = uploaded(rig.here, many("T00000101"))
    created = rig.here.call("POST", "/api/imports", {"upload_id": upload_id}, expect=201)
    stopped_reader(rig)
    assert rig.here.call("GET", f"/api/imports/{created['id']}")["status"] == "reading"
    ends_within_five_seconds(rig, created["id"])


def test_an_import_that_runs_is_cancelled_in_the_middle_of_a_unit_and_undone(rig: Rig) -> None:
    found = ready(rig.here, many("T00000102"))
    path = f"/api/imports/{found['id']}"
    rig.chat.permits = _SOME
    rig.here.call("POST", f"{path}/start", {})
    eventually(lambda: rig.chat.messages)
    stopped_reader(rig)
    ends_within_five_seconds(rig, found["id"])
    report = rig.there.call("GET", f"{path}/report")
    assert rig.there.call("GET", f"{path}/report/days")["items"] == report["days"][:50]
    assert report["not_determined"][0].startswith("the import was cancelled")
    imported = rig.there.call("GET", path)["counts"].get("messages", {}).get("imported", 0)
    assert sum(row["imported"] for row in report["channels"]) >= imported
    rig.chat.permits = inf
    # At once, although batches may be on their way. The other process can do it: it needs no upload.
    added = rig.there.call("GET", f"{path}/undo")["messages"]
    assert added >= len(rig.chat.messages) > 0
    rig.there.call("POST", f"{path}/undo", {"messages": added})
    undone = reached(rig.here, found["id"], "undone", within_s=60)
    assert (undone["added"], rig.chat.messages) == (0, {})


def test_an_import_whose_chat_confirms_nothing_more_is_paused_undone_and_cancelled(rig: Rig) -> None:
    found = ready(rig.here, many("T00000103"))
    path = f"/api/imports/{found['id']}"
    rig.chat.permits = _SOME
    rig.here.call("POST", f"{path}/start", {})
    eventually(lambda: rig.chat.permits < 1, every_s=0.01)
    assert rig.there.call("POST", f"{path}/pause")["status"] == "paused"
    eventually(lambda: not rig.readers(), within_s=STOP_S, every_s=0.02)
    added = rig.here.call("GET", f"{path}/undo")["messages"]
    assert added > 0
    rig.here.call("POST", f"{path}/undo", {"messages": added + 1}, expect=409)
    rig.here.call("POST", f"{path}/undo", {"messages": added})
    assert reached(rig.here, found["id"], "undoing")["status"] == "undoing"
    ends_within_five_seconds(rig, found["id"])


def test_two_imports_of_a_workspace_and_four_of_a_process_run_at_a_time(rig: Rig) -> None:
    """The third import of a workspace holds nobody else up."""
    keys = (None, rig.here.other_workspace(), rig.here.other_workspace())
    rig.chat.permits = 0
    ids: dict[str | None, list[str]] = {}
    for key, count in zip(keys, (3, 2, 1), strict=True):
        with rig.here.client("importer", key) as client:
            upload_id = uploaded_by(client, export(DAYS, team=f"T{token_hex(4)}"))
        ids[key] = [
            rig.here.call("POST", "/api/imports", {"upload_id": upload_id}, key=key, expect=201)["id"]
            for _ in range(count)
        ]

    def states(key: str | None) -> list[dict[str, Any]]:
        return [rig.here.call("GET", f"/api/imports/{item}", key=key) for item in ids[key]]

    for key in keys:
        eventually(lambda: all(item["status"] == "ready" for item in states(key)))  # noqa: B023
    for key in keys[:2]:
        for item in ids[key]:
            rig.here.call("POST", f"/api/imports/{item}/start", {}, key=key)
    eventually(lambda: len(rig.readers()) == 4)
    waits = eventually(lambda: states(None)[2]["waiting_for"])
    assert waits.startswith("other imports of the workspace")
    [last] = ids[keys[2]]
    rig.here.call("POST", f"/api/imports/{last}/start", {}, key=keys[2])
    watched_until = monotonic() + 2.0
    while monotonic() < watched_until:
        assert len(rig.readers()) <= 4
    assert last not in rig.watch.other_imports
    rig.here.call("POST", f"/api/imports/{ids[keys[1]][0]}/cancel", key=keys[1])
    eventually(lambda: last in rig.watch.other_imports)
    assert states(None)[2]["waiting_for"] == waits
    for key in keys:
        for state in states(key):
            if state["status"] == "running":
                rig.there.call("POST", f"/api/imports/{state['id']}/cancel", key=key)
    eventually(lambda: not rig.readers(), within_s=STOP_S)


def test_a_process_without_the_folder_of_an_upload_says_so(rig: Rig) -> None:
    content = export(DAYS, team="T00000104")
    path = f"/api/uploads/{uploaded(rig.here, content)}"
    with rig.there.client("importer") as client, rig.there.unbroken("importer"):
        for answer in (client.head(path), patched(client, path, 0, content)):
            assert answer.status_code == 503
            assert "upload-offset" not in answer.headers
            assert int(answer.headers["retry-after"]) > 0
        assert "does not have the folder of the upload" in patched(client, path, 0, content).text
        shown = client.get(path).json()
        assert (shown["received"], shown["complete"], shown["size"]) == (None, None, len(content))
        listed = {item["id"]: item["complete"] for item in client.get("/api/uploads").json()["items"]}
        assert listed[path.rpartition("/")[2]] is None
    assert rig.here.call("GET", path)["complete"] is True


def test_an_import_runs_where_its_upload_is_whoever_is_asked(rig: Rig) -> None:
    upload_id = uploaded(rig.here, export(DAYS, team="T00000105"))
    created = rig.there.call("POST", "/api/imports", {"upload_id": upload_id}, expect=201)
    reached(rig.there, created["id"], "ready")
    rig.here.call("POST", f"/api/imports/{created['id']}/start", {})
    assert reached(rig.there, created["id"], "completed")["added"] == 5
    assert not [line for line in rig.there.log_lines("importer") if line.get("job_id") == created["id"]]


def test_an_upload_that_is_incomplete_elsewhere_is_refused_by_the_process_that_sees_it(rig: Rig) -> None:
    content = export(DAYS, team="T00000106")
    with rig.here.client("importer") as client:
        upload_id = uploaded_by(client, content, missing=10)
    rig.here.call("POST", "/api/imports", {"upload_id": upload_id}, expect=409)
    created = rig.there.call("POST", "/api/imports", {"upload_id": upload_id}, expect=201)
    failed = reached(rig.there, created["id"], "failed")
    assert f"{len(content) - 10} of {len(content)} bytes" in failed["error"]


def test_a_failed_import_is_undone(rig: Rig) -> None:
    """Its upload was deleted while it was paused."""
    found = ready(rig.here, many("T00000107"))
    path = f"/api/imports/{found['id']}"
    rig.chat.permits = _FIRST_PART
    rig.here.call("POST", f"{path}/start", {})
    eventually(lambda: rig.here.call("GET", path)["items_processed"] > 0)
    rig.here.call("POST", f"{path}/pause")
    rig.here.call("DELETE", f"/api/uploads/{found['upload_id']}", expect=204)
    rig.here.call("POST", f"{path}/resume")
    failed = reached(rig.here, found["id"], "failed")
    assert "upload the export again" in failed["error"]
    report = rig.there.call("GET", f"{path}/report")
    assert report["not_determined"][0].startswith("the import failed")
    by_channel, by_day = (
        sum(row["imported"] for row in rows) for rows in (report["channels"], report["days"])
    )
    # A part that is stored may be counted by the next run only, which there was not.
    assert by_channel == by_day >= failed["counts"]["messages"]["imported"] > 0
    rig.chat.permits = inf
    added = rig.here.call("GET", f"{path}/undo")["messages"]
    rig.here.call("POST", f"{path}/undo", {"messages": added})
    undone = reached(rig.here, found["id"], "undone", within_s=60)
    assert (undone["added"], undone["error"]) == (0, None)
    left = [item for item in rig.chat.messages.values() if item["import_id"] == found["id"]]
    assert left == []


def uploaded_by(client: Any, content: bytes, missing: int = 0) -> str:
    """Upload a file, without its last bytes, and return its id."""
    name = base64.b64encode(b"export.zip").decode()
    headers = {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name}"}
    answer = client.post("/api/uploads", headers=headers).raise_for_status()
    location = urlsplit(answer.headers["location"]).path
    assert patched(client, location, 0, content[: len(content) - missing]).status_code == 204
    return str(location.rpartition("/")[2])
