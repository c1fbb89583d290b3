"""Files in the archive of an export follow their messages: stored, hashed, served, resumed, and undone."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any, Final

import httpx
import pytest

from tests.importer.archives import CHANNELS, slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import imported, reached, ready
from tests.importer.test_mattermost_exports import AT, export, post
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.second_process import second_process

PUBLIC: Final = "http://127.0.0.1:1"
KIB: Final = 1024
QUOTA: Final = 4 * KIB * KIB
MAX_FILE: Final = KIB * KIB
ENV: Final = {
    "INTERLINK_IMPORT_FILE_BYTES_PER_WORKSPACE": str(QUOTA),
    "INTERLINK_IMPORT_MAX_FILE_BYTES": str(MAX_FILE),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("files")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads"), **ENV}
    services = ("gateway", "importer")
    workspace = f"w-{token_hex(4)}"
    with Hub(folder, bus, store, services=services, env=env, workspace=workspace, entrance=True) as started:
        yield started


def archive(files: Mapping[str, bytes], *texts: str, start: int = AT, lost: tuple[str, ...] = ()) -> bytes:
    """Return a bulk export of Mattermost: a post for each text, and one with all files."""
    paths = [{"path": f"files/{name}"} for name in (*files, *lost)]
    posts = [post(start + number, text) for number, text in enumerate(texts)]
    posts.append(post(start + len(texts), "with files", attachments=paths))
    entries: dict[str, Any] = {"import.jsonl": export(*posts)}
    return zipped(entries | {f"data/files/{name}": data for name, data in files.items()}).getvalue()


def listed(hub: Hub, import_id: str, **params: str) -> list[dict[str, Any]]:
    """Return all files of an import, read in pages of two."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": "2", **params}
    while True:
        page = hub.call("GET", f"/api/imports/{import_id}/files", params=query)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def attachments(chat: HistoryChat, text: str = "with files") -> list[dict[str, Any]]:
    """Return the attachments of the latest message with this text."""
    [message] = [data for data in chat.messages.values() if data["text"] == text]
    return list(message.get("attachments", ()))


def get(hub: Hub, url: str, at: str = "importer", method: str = "GET", **headers: str) -> httpx.Response:
    """Ask for an address without a key."""
    assert url.startswith(hub.env["INTERLINK_PUBLIC_URL"]), url
    path = url.removeprefix(hub.env["INTERLINK_PUBLIC_URL"])
    return httpx.request(method, hub.url(at) + path, headers=headers, timeout=30)


def undone(hub: Hub, done: Mapping[str, Any]) -> None:
    hub.call("POST", f"/api/imports/{done['id']}/undo", {"messages": done["added"]})
    reached(hub, done["id"], "undone")


def on_disk(hub: Hub) -> list[Path]:
    """Return the files that are stored."""
    root = Path(hub.env["INTERLINK_UPLOAD_FOLDER"]) / "files"
    return [path for path in root.rglob("*") if path.is_file()]


def test_files_of_an_archive_are_stored_served_and_undone(hub: Hub, chat: HistoryChat) -> None:
    files = {"a.bin": token_bytes(700 * KIB), "page.html": b"<script>alert(1)</script>", "empty.txt": b""}
    done = imported(hub, archive(files, "before", lost=("gone.png",)))
    counts = done["counts"]["files"]
    assert counts == {
        "found": 4, "selected": 3, "imported": 3, "skipped": {"file_not_found": 1},
        "bytes": sum(map(len, files.values())),
    }  # fmt: skip
    rows = {row["name"]: row for row in listed(hub, done["id"])}
    assert (rows["gone.png"]["state"], rows["gone.png"]["reason"]) == ("skipped", "file_not_found")
    found = {item["filename"]: item for item in attachments(chat)}
    assert list(found) == list(files)
    for name, data in files.items():
        row, item = rows[name], found[name]
        assert (row["state"], row["sha256"]) == ("stored", hashlib.sha256(data).hexdigest())
        assert (row["stored_bytes"], item["size"], item["id"]) == (len(data), len(data), row["id"])
        for at in ("importer", "gateway"):
            answer = get(hub, item["url"], at)
            assert (answer.status_code, answer.content) == (200, data)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-disposition"].startswith(f'attachment; filename="{name}"')
            assert answer.headers["content-type"] in ("application/octet-stream", "text/plain")
            assert answer.headers["content-security-policy"].startswith("sandbox")
    assert {row["state"] for row in listed(hub, done["id"], state="stored")} == {"stored"}
    with hub.client("importer") as client:
        table = client.get(f"/api/imports/{done['id']}/files", params={"format": "csv"})
    found_rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table.text))}
    assert {name: row["sha256"] for name, row in found_rows.items()} == {
        name: row["sha256"] or "" for name, row in rows.items()
    }
    report = hub.call("GET", f"/api/imports/{done['id']}/report")
    assert report["files"]["counts"] == counts
    with hub.client("importer") as client:
        assert client.get(report["files"]["csv"]).text == table.text
        assert len(client.get(report["files"]["list"]).json()["items"]) == 4
        page = client.get(f"/api/imports/{done['id']}/report", params={"format": "html"}).text
    for row in rows.values():
        assert f"<td>{row['name']}</td>" in page
        assert (row["sha256"] or "skipped (file_not_found)") in page
        assert f"<td>{row['stored_bytes'] if row['sha256'] else ''}</td>" in page

    undone(hub, done)
    assert on_disk(hub) == []
    assert get(hub, found["a.bin"]["url"]).status_code == 404
    assert listed(hub, done["id"]) == []


def test_a_served_file_has_ranges_and_a_version(hub: Hub, chat: HistoryChat) -> None:
    done = imported(hub, archive({"digits.txt": b"0123456789"}))
    [item] = attachments(chat)
    whole = get(hub, item["url"])
    assert whole.headers["accept-ranges"] == "bytes"
    part = get(hub, item["url"], range="bytes=2-4")
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert get(hub, item["url"], range="bytes=-3").content == b"789"
    again = get(hub, item["url"], range="bytes=5-", **{"if-range": whole.headers["etag"]})
    assert (again.status_code, again.content) == (206, b"56789")
    other = get(hub, item["url"], range="bytes=5-", **{"if-range": '"another"'})
    assert (other.status_code, other.content) == (200, b"0123456789")
    beyond = get(hub, item["url"], range="bytes=10-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    head = get(hub, item["url"], method="HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    undone(hub, done)


def test_an_address_opens_nothing_else(hub: Hub, chat: HistoryChat) -> None:
    done = imported(hub, archive({"a.txt": b"secret"}))
    [item] = attachments(chat)
    token = item["url"].rpartition("/")[2]
    for at in range(0, len(token), 11):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        answer = get(hub, f"{hub.env['INTERLINK_PUBLIC_URL']}/api/files/imported/{changed}")
        assert answer.status_code == 404, changed
    undone(hub, done)


@pytest.mark.parametrize(
    ("plan", "counts", "names"),
    [
        ({"mode": "none"}, {"found": 3, "skipped": {"not_planned": 3}}, []),
        (
            {"mode": "addresses"},
            {"found": 3, "skipped": {"only_in_the_archive": 2, "file_not_found": 1}},
            [],
        ),
        (
            {"mode": "up_to", "max_bytes": 10},
            {
                "found": 3, "selected": 1, "imported": 1, "bytes": 5,
                "skipped": {"larger_than_planned": 1, "file_not_found": 1},
            },
            ["small.txt"],
        ),
    ],
)  # fmt: skip
def test_the_plan_selects_files(
    hub: Hub, chat: HistoryChat, plan: dict[str, Any], counts: dict[str, Any], names: list[str]
) -> None:
    files = {"small.txt": b"small", "large.txt": b"larger than ten bytes"}
    done = imported(hub, archive(files, lost=("gone.txt",)), files=plan)
    assert done["counts"]["files"] == counts
    assert [item["filename"] for item in attachments(chat)] == names
    undone(hub, done)


def test_a_dry_run_counts_files_and_gives_no_address(hub: Hub, chat: HistoryChat) -> None:
    found = ready(hub, archive({"a.txt": b"content"}, lost=("gone.txt",)))
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {"dry_run": True})
    tried = eventually(lambda: (got := reached(hub, found["id"], "ready"))["dry_run"] and got)
    assert "files" in json.dumps(tried["dry_run"])
    samples = hub.call("GET", f"{path}/channels")["items"][0]["samples"]
    assert [item["url"] for item in samples[-1]["attachments"]] == [""]
    assert listed(hub, found["id"]) == []
    assert not [data for data in chat.messages.values() if data["text"] == "with files"]


def test_a_file_that_is_too_large_fails_alone(hub: Hub, chat: HistoryChat) -> None:
    done = imported(hub, archive({"large.bin": token_bytes(MAX_FILE + 1), "small.txt": b"small"}))
    counts = done["counts"]["files"]
    assert (counts["imported"], counts["failed"], counts["failures"]) == (1, 1, {"too_large": 1})
    [failed] = listed(hub, done["id"], state="failed")
    assert "1.0 MB" in failed["detail"]
    [item] = [item for item in attachments(chat) if item["filename"] == "large.bin"]
    answer = get(hub, item["url"])
    assert (answer.status_code, answer.json()["detail"]) == (404, failed["detail"])
    undone(hub, done)


def test_files_beyond_the_quota_of_the_workspace_fail(hub: Hub, chat: HistoryChat) -> None:
    size = QUOTA // 5
    files = {f"{number}.bin": token_bytes(size) for number in range(7)}
    done = imported(hub, archive(files))
    assert done["counts"]["files"]["failures"] == {"quota_exceeded": 2}
    assert done["counts"]["files"]["bytes"] == 5 * size
    [first, _] = listed(hub, done["id"], state="failed")
    assert "INTERLINK_IMPORT_FILE_BYTES_PER_WORKSPACE" in first["detail"]
    undone(hub, done)
    again = imported(hub, archive({"a.txt": b"there is room again"}))
    assert again["counts"]["files"]["imported"] == 1
    undone(hub, again)


def test_two_imports_at_a_time_do_not_exceed_the_quota(hub: Hub, chat: HistoryChat) -> None:
    size = QUOTA // 8
    contents = [
        archive({f"{number}-{at}.bin": token_bytes(size) for at in range(6)}, start=AT + 100 * number)
        for number in range(2)
    ]
    started = [ready(hub, content) for content in contents]
    for found in started:
        hub.call("POST", f"/api/imports/{found['id']}/start", {})
    done = [reached(hub, found["id"], "completed") for found in started]
    counts = [item["counts"]["files"] for item in done]
    assert QUOTA - 4 * size <= sum(item.get("bytes", 0) for item in counts) <= QUOTA
    assert {reason for item in counts for reason in item.get("failures", {})} == {"quota_exceeded"}
    for item in done:
        undone(hub, item)


def test_an_undo_keeps_what_another_import_added(hub: Hub, chat: HistoryChat) -> None:
    first = imported(hub, archive({"a.txt": b"first"}))
    content = zipped(
        {
            "import.jsonl": export(
                post(AT, "with files", attachments=[{"path": "files/a.txt"}]),
                post(AT + 5, "later", attachments=[{"path": "files/b.txt"}]),
            ),
            "data/files/a.txt": b"first",
            "data/files/b.txt": b"second",
        }
    ).getvalue()
    second = imported(hub, content)
    assert second["counts"]["files"] == {
        "found": 2, "duplicate": 1, "selected": 1, "imported": 1, "bytes": 6
    }  # fmt: skip
    undone(hub, second)
    [item] = attachments(chat)
    assert get(hub, item["url"]).content == b"first"
    undone(hub, first)
    assert on_disk(hub) == []


def test_the_same_bytes_are_on_the_disk_once_until_the_last_import_is_undone(
    hub: Hub, chat: HistoryChat
) -> None:
    data, other = token_bytes(200 * KIB), token_bytes(200 * KIB)
    first = imported(hub, archive({"a.bin": data, "b.bin": other}))
    second = imported(hub, archive({"renamed.bin": data}, start=AT + 100))
    retained = next(
        item
        for message in chat.messages.values()
        for item in message.get("attachments", ())
        if item["filename"] == "a.bin"
    )
    shared = [path for path in on_disk(hub) if path.stat().st_nlink == 2]
    assert len(on_disk(hub)) == 3
    assert len({path.stat().st_ino for path in shared}) == 1
    assert (second["counts"]["files"]["bytes"], len(shared)) == (len(data), 2)
    undone(hub, second)
    assert get(hub, retained["url"]).content == data
    assert [path.stat().st_nlink for path in on_disk(hub)] == [1, 1]
    undone(hub, first)
    assert on_disk(hub) == []


def test_slackdump_puts_files_into_the_archive(hub: Hub, chat: HistoryChat) -> None:
    def file(file_id: str, name: str, **fields: Any) -> dict[str, Any]:
        url = f"https://files.slack.com/files-pri/T00000001-{file_id}/{name}"
        return {"id": file_id, "name": name, "mimetype": "text/plain", "url_private": url, **fields}

    lost = [{"id": "F9", "mode": "tombstone"}, {"id": "F8", "name": "old.txt", "mode": "hidden_by_limit"}]
    lost += [file("F7", "denied.txt", file_access="access_denied")]
    files = [file("F1", "one.txt"), file("F2", "two.txt"), *lost]
    days = {"general/2024-01-01": [slack_message("1704067200.000100", "with files", files=files)]}
    entries = slack_export(days, channels=CHANNELS)
    entries |= {"__uploads/F1/one.txt": b"one", "general/attachments/F2-two.txt": b"two"}
    done = imported(hub, zipped(entries).getvalue())
    found = {item["filename"]: get(hub, item["url"]).content for item in attachments(chat)}
    assert {name: found[name] for name in ("one.txt", "two.txt")} == {"one.txt": b"one", "two.txt": b"two"}
    skipped = done["counts"]["files"]["skipped"]
    assert (skipped["tombstone"], skipped["hidden_by_limit"]) == (1, 1)
    undone(hub, done)


HOSTILE_FILES: Final = {
    "../../../etc/passwd": ("text/plain", "_.._.._etc_passwd"),
    "..\\..\\win.ini": ("text/plain", "_.._win.ini"),
    "a\r\nSet-Cookie: x=y\r\n\r\n<script>.png": ("image/png", "a Set-Cookie_ x=y  _script_.png"),
    "invoice\u202egnp.exe": ("image/png", "invoicegnp.exe"),
    "zero\u200bwidth\x00null\x1b[31m.png": ("image/png", "zerowidthnull[31m.png"),
    ".htaccess": ("text/plain", "htaccess"),
    "...": ("text/plain", "file"),
    "=1+1.csv": ("text/csv", "=1+1.csv"),
    'a"; filename="b.exe': ("image/png", "a_; filename=_b.exe"),
    "picture.svg": ("image/svg+xml", "picture.svg"),
    "page.html": ("text/html; charset=utf-8", "page.html"),
    "sheet.xhtml": ("application/xhtml+xml", "sheet.xhtml"),
    "script.js": ("text/javascript", "script.js"),
    "split.png": ("image/png\r\nX-Evil: 1", "split.png"),
}
"""What a member of a connected workspace may call a file, and its type; and the name that others see."""


def test_names_and_types_of_strangers_are_harmless(hub: Hub, chat: HistoryChat) -> None:
    page = b"<html><script>alert(document.domain)</script></html>"
    files = [
        {
            "id": f"F{number:04}",
            "name": name,
            "mimetype": media_type,
            "url_private": "https://files.slack.com/x",
        }
        for number, (name, (media_type, _)) in enumerate(HOSTILE_FILES.items())
    ]
    days = {"general/2024-01-01": [slack_message("1704067200.000100", "with files", files=files)]}
    entries = slack_export(days, channels=CHANNELS)
    entries |= {f"__uploads/{file['id']}/x": page for file in files}
    done = imported(hub, zipped(entries).getvalue())
    names = [shown for _, shown in HOSTILE_FILES.values()]
    rows = listed(hub, done["id"])
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert [item["filename"] for item in attachments(chat)] == names
    for item, (media_type, name) in zip(attachments(chat), HOSTILE_FILES.values(), strict=True):
        answer = get(hub, item["url"], "gateway")
        assert answer.content == page
        headers = answer.headers
        assert "x-evil" not in headers
        assert "set-cookie" not in headers
        assert headers["content-type"] == (
            media_type
            if media_type in ("image/png", "text/plain", "text/csv")
            else "application/octet-stream"
        ), name
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox")
        disposition = headers["content-disposition"]
        assert disposition.startswith('attachment; filename="')
        assert disposition.count('"') == 2
    with hub.client("importer") as client:
        table = client.get(f"/api/imports/{done['id']}/files", params={"format": "csv"}).text
        report = client.get(f"/api/imports/{done['id']}/report", params={"format": "html"})
    assert "'=1+1.csv" in table
    assert "<script" not in report.text
    assert report.headers["content-security-policy"].startswith("default-src 'none'")
    root = Path(hub.env["INTERLINK_UPLOAD_FOLDER"]) / "files"
    assert {path.parent.parent.parent for path in on_disk(hub)} == {root}
    undone(hub, done)


def test_another_workspace_sees_no_files(hub: Hub, chat: HistoryChat) -> None:
    done = imported(hub, archive({"a.txt": b"a"}))
    other = hub.other_workspace()
    hub.call("GET", f"/api/imports/{done['id']}/files", key=other, expect=404)
    undone(hub, done)


def test_a_process_without_the_folder_says_so(
    hub: Hub, chat: HistoryChat, tmp_path: Path, bus: Bus, store: Store
) -> None:
    done = imported(hub, archive({"a.txt": b"a"}))
    [item] = attachments(chat)
    path = item["url"].removeprefix(hub.env["INTERLINK_PUBLIC_URL"])
    elsewhere = str(tmp_path / "elsewhere")
    with second_process(
        "importer", hub, tmp_path / "1", bus, store, INTERLINK_UPLOAD_FOLDER=elsewhere
    ) as other:
        answer = httpx.get(other.url("importer") + path)
        assert (answer.status_code, "does not have the folder" in answer.text) == (503, True)
        assert "retry-after" in answer.headers
    with second_process("importer", hub, tmp_path / "2", bus, store) as other:
        assert httpx.get(other.url("importer") + path).content == b"a"
    undone(hub, done)


def test_another_process_goes_on_with_the_files_of_a_killed_one(
    tmp_path: Path, bus: Bus, store: Store
) -> None:
    env = {"INTERLINK_UPLOAD_FOLDER": str(tmp_path / "uploads")}
    workspace = f"w-{token_hex(4)}"
    files = {f"{number:03}.bin": token_bytes(8 * KIB) for number in range(400)}
    posts = [post(AT + at, f"{at}", attachments=[{"path": f"files/{name}"}]) for at, name in enumerate(files)]
    content = zipped(
        {"import.jsonl": export(*posts)} | {f"data/files/{name}": data for name, data in files.items()},
        stored=True,
    ).getvalue()
    with (
        Hub(tmp_path, bus, store, services=("importer",), env=env, workspace=workspace) as hub,
        HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], workspace) as chat,
    ):
        found = ready(hub, content)
        hub.call("POST", f"/api/imports/{found['id']}/start", {})
        assert eventually(lambda: len(on_disk(hub)) >= 50, within_s=60)
        hub.kill("importer")
        hub.start_service("importer")
        hub.wait_ready("importer")
        assert eventually(lambda: len(on_disk(hub)) >= 150, within_s=60)
        hub.kill("importer")
        assert len(on_disk(hub)) < len(files)
        with second_process("importer", hub, tmp_path / "second", bus, store) as other:
            done = reached(other, found["id"], "completed")
        hub.start_service("importer")
        hub.wait_ready("importer")
        counts = done["counts"]["files"]
        assert (counts["found"], counts["imported"], counts["bytes"]) == (400, 400, 400 * 8 * KIB)
        rows = listed(hub, done["id"], limit="200")
        assert {row["name"]: row["sha256"] for row in rows} == {
            name: hashlib.sha256(data).hexdigest() for name, data in files.items()
        }
        for message in list(chat.messages.values())[::40]:
            [item] = message["attachments"]
            assert get(hub, item["url"]).content == files[item["filename"]]
        undone(hub, done)
        assert [path for path in on_disk(hub) if path.suffix != ".part"] == []
