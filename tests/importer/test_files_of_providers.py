"""Files at the provider: by the account's token or an address's own proof, and from hosts that misbehave."""

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from secrets import token_bytes
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.importer.discord_exports import channel, message
from tests.importer.file_hosts import (
    CDN,
    ELSEWHERE,
    EXPORT_TOKEN,
    FILES,
    KIB,
    MIB,
    OTHER_TEAM,
    PUBLIC,
    World,
    file_world,
    start_on_hosts,
)
from tests.importer.test_files import attachments, get, listed, undone
from tests.importer.test_imports import imported, reached, ready
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.provider_hosts import Reply


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    with file_world(tmp_path_factory.mktemp("provider-files"), bus, store) as found:
        yield found


def test_files_of_a_connected_account_are_fetched_with_its_token(world: World) -> None:
    data = {f"{number}.bin": token_bytes(200 * KIB) for number in range(6)}
    files = [world.file(name, content) for name, content in data.items()]
    done = imported(world.hub, world.export(*files))
    assert done["counts"]["files"] == {
        "found": 6, "selected": 6, "imported": 6, "bytes": 6 * 200 * KIB
    }  # fmt: skip
    rows = {row["name"]: row["sha256"] for row in listed(world.hub, done["id"])}
    assert rows == {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    for item in attachments(world.chat):
        assert get(world.hub, item["url"], "gateway").content == data[item["filename"]]
    asked = world.hosts.requests(FILES)[-6:]
    assert {request.headers["authorization"] for request in asked} == {f"Bearer {world.app.token}"}
    undone(world.hub, done)


def test_addresses_only_stream_from_the_provider(world: World) -> None:
    before = len(world.hosts.requests(FILES))
    done = imported(world.hub, world.export(world.file("a.txt", b"at Slack")), files={"mode": "addresses"})
    assert done["counts"]["files"] == {"found": 1, "selected": 1, "imported": 1}
    assert len(world.hosts.requests(FILES)) == before
    [row] = listed(world.hub, done["id"])
    assert (row["state"], row["sha256"]) == ("address", None)
    [item] = attachments(world.chat)
    assert item["url"].startswith(f"{PUBLIC}/api/files/")
    assert get(world.hub, item["url"], "gateway").content == b"at Slack"
    undone(world.hub, done)


def test_an_address_with_the_token_of_an_export_needs_no_account(world: World) -> None:
    files = [world.proven("a.txt", b"proven"), world.proven("b.txt", b"expired", "xoxe-old")]
    done = imported(world.hub, world.export(*files, team=OTHER_TEAM))
    counts = done["counts"]["files"]
    assert (counts["imported"], counts["failures"]) == (1, {"expired": 1})
    [failed] = listed(world.hub, done["id"], state="failed")
    assert f"connect the account {OTHER_TEAM}" in failed["detail"]
    urls = {item["filename"]: item["url"] for item in attachments(world.chat)}
    assert get(world.hub, urls["a.txt"]).content == b"proven"
    assert get(world.hub, urls["b.txt"]).json()["detail"] == failed["detail"]
    undone(world.hub, done)

    only = imported(world.hub, world.export(*files, team=OTHER_TEAM), files={"mode": "addresses"})
    [url, _] = [item["url"] for item in attachments(world.chat)]
    assert get(world.hub, url, "gateway").content == b"proven"
    undone(world.hub, only)


def test_the_token_of_an_export_goes_to_no_other_host(world: World) -> None:
    outside = {
        "id": "F0000000A", "name": "a.txt", "mimetype": "text/plain", "size": 5,
        "url_private": f"https://{ELSEWHERE}/a.txt?t={EXPORT_TOKEN}",
    }  # fmt: skip
    before = len(world.hosts.requests(ELSEWHERE))
    done = imported(world.hub, world.export(outside, team=OTHER_TEAM))
    assert done["counts"]["files"]["failures"] == {"account_not_connected": 1}
    assert len(world.hosts.requests(ELSEWHERE)) == before
    undone(world.hub, done)


def test_signed_addresses_of_discord_are_fetched_while_they_last(world: World) -> None:
    def attachment(name: str, signature: str) -> dict[str, Any]:
        url = f"https://{CDN}/attachments/1/2/{name}?ex=1&is=1&hm={signature}"
        return {"id": "3", "url": url, "fileName": name, "fileSizeBytes": 12}

    files = [attachment("good.txt", "good"), attachment("old.txt", "old")]
    content = json.dumps(channel(message(1, "with files", attachments=files))).encode()
    done = imported(world.hub, content)
    counts = done["counts"]["files"]
    assert (counts["imported"], counts["failures"]) == (1, {"expired": 1})
    [failed] = listed(world.hub, done["id"], state="failed")
    assert "export it again" in failed["detail"]
    urls = {item["filename"]: item["url"] for item in attachments(world.chat)}
    assert get(world.hub, urls["good.txt"]).content == b"from Discord"
    undone(world.hub, done)


def test_what_a_file_may_do_costs_only_this_file(world: World) -> None:
    text = {"content-type": "text/plain"}
    chunked = {"content-type": "text/plain", "transfer-encoding": "chunked"}
    hostile = {
        "endless": (Reply(200, bytes(20 * MIB), chunked), {"size": KIB}),
        "longer": (Reply(200, bytes(2 * KIB), text), {"size": KIB}),
        "page": (Reply.html("<h1>Sign in</h1>"), {}),
        "picture": (Reply(200, b"GIF89a    ", {"content-type": "image/gif"}), {}),
        "internal": (Reply.redirect("https://10.0.0.1/x"), {}),
        "loopback": (Reply.redirect("http://127.0.0.1:1/x"), {}),
        "missing": (Reply(404, b"gone", text), {}),
        "forbidden": (Reply(403, b"no", text), {}),
        "zipped": (Reply(200, b"x" * 10, text | {"content-encoding": "gzip"}), {}),
        "empty": (Reply(200, b"", text), {}),
    }
    files = [world.hostile(name, reply, **more) for name, (reply, more) in hostile.items()]
    good = world.file("good.txt", b"good")
    moved = world.hostile("moved", Reply.redirect(f"https://{ELSEWHERE}/moved"), size=5)
    done = imported(world.hub, world.export(*files, good, moved))
    rows = {row["name"]: row for row in listed(world.hub, done["id"])}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "endless": "too_large", "longer": "too_large", "page": "not_a_file", "picture": "changed_type",
        "internal": "address_refused", "loopback": "address_refused", "missing": "file_not_found",
        "forbidden": "access_denied", "zipped": "damaged", "empty": "damaged",
        "good.txt": None, "moved": None,
    }  # fmt: skip
    assert done["counts"]["files"]["failed"] == 10
    assert done["counts"]["files"]["imported"] == 2
    assert all(rows[name]["detail"] for name in hostile)
    assert not [host for host in world.hosts.connected if host.startswith("10.")]
    undone(world.hub, done)


def test_addresses_that_are_not_the_providers_are_not_asked(world: World) -> None:
    addresses = (
        f"https://{ELSEWHERE}/a.txt",
        f"http://{FILES}/a.txt",
        f"https://{FILES}.{ELSEWHERE}/a.txt",
        f"https://{FILES}@{ELSEWHERE}/a.txt",
        f"https://{ELSEWHERE}/https://{FILES}/a.txt",
        f"https://{ELSEWHERE}#.slack.com",
        f"https://{ELSEWHERE}\\@{FILES}/a.txt",
        "https://10.0.0.1/a.txt",
        "file:///etc/passwd",
        "//slack.com/a.txt",
        "https://[",
    )
    named = {f"{number}.txt": address for number, address in enumerate(addresses)}
    files = [
        world.file(name, b"a") | {"url_private": address, "url_private_download": address}
        for name, address in named.items()
    ]
    asked, connected = len(world.hosts.asked), len(world.hosts.connected)
    done = imported(world.hub, world.export(*files))
    assert done["counts"]["files"]["failed"] == len(addresses), done
    rows = {row["name"]: row for row in listed(world.hub, done["id"], limit="100")}
    assert rows.keys() == named.keys()
    for name, row in rows.items():
        assert row["state"] == "failed", (named[name], row)
        assert row["reason"] in ("file_not_found", "address_refused"), (named[name], row)
    assert len(world.hosts.asked) == asked
    assert len(world.hosts.connected) == connected
    undone(world.hub, done)


def test_redirects_without_end_and_to_less_protection_cost_only_their_file(world: World) -> None:
    loop = world.hostile("loop", Reply(200))
    world.files.hostile[urlsplit(loop["url_private"]).path] = Reply.redirect(loop["url_private"])
    plain = world.hostile("plain", Reply.redirect(f"http://{ELSEWHERE}/x"))
    split = world.hostile("split", Reply.redirect("https://slack.com/a b"))
    before = len(world.hosts.requests(FILES))
    done = imported(world.hub, world.export(loop, plain, split))
    rows = {row["name"]: row["reason"] for row in listed(world.hub, done["id"])}
    assert rows == {"loop": "not_reached", "plain": "address_refused", "split": "address_refused"}
    assert len(world.hosts.requests(FILES)) - before == 4 * 4 + 1 + 1
    undone(world.hub, done)


def test_a_provider_that_asks_for_a_pause_gets_one(world: World) -> None:
    world.slack.faults.rate_limit("download", retry_after_s=1)
    done = imported(world.hub, world.export(world.file("later.txt", b"later")))
    assert done["counts"]["files"]["imported"] == 1
    undone(world.hub, done)


def test_calls_that_look_addresses_up_use_half_of_their_rate(world: World) -> None:
    data = {f"{number}.txt": f"content {number}".encode() for number in range(4)}
    files = [world.file(name, content) | {"file_access": "check_file_info"} for name, content in data.items()]
    before = len(world.slack.times)
    done = imported(world.hub, world.export(*files))
    assert done["counts"]["files"]["imported"] == 4
    times = [at for method, at in world.slack.times[before:] if method == "files.info"]
    assert len(times) == 4
    assert all(later - earlier > 1.1 for earlier, later in pairwise(times))
    undone(world.hub, done)


def test_a_stop_ends_the_phase_of_files_and_a_kill_repeats_no_file(world: World) -> None:
    hub = world.hub
    data = {f"{number:02}.bin": token_bytes(KIB) for number in range(60)}
    files = [world.file(name, content) for name, content in data.items()]
    world.slack.faults.delay("download", 0.2, count=60)
    before = len(world.hosts.requests(FILES))
    found = ready(hub, world.export(*files, days=6))
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {})

    def stored() -> int:
        return int(hub.call("GET", path)["counts"].get("files", {}).get("imported", 0))

    assert eventually(lambda: stored() >= 8)
    assert hub.call("GET", path)["current_step"] == "files"
    hub.call("POST", f"{path}/pause")
    reached(hub, found["id"], "paused")
    waiting = listed(hub, found["id"], state="waiting", limit="100")
    assert waiting
    texts = {data["text"]: data for data in world.chat.messages.values()}
    name = waiting[-1]["name"]
    [item] = texts[name.removesuffix(".bin")]["attachments"]
    answer = get(hub, item["url"])
    assert (answer.status_code, "retry-after" in answer.headers) == (404, True)
    hub.call("POST", f"{path}/resume")
    assert eventually(lambda: stored() >= 25)
    hub.kill("importer")
    start_on_hosts(hub, world.hosts, "importer")
    hub.wait_ready("importer")
    done = reached(hub, found["id"], "completed")
    assert done["counts"]["files"] == {
        "found": 60, "selected": 60, "imported": 60, "bytes": 60 * KIB
    }  # fmt: skip
    assert len(world.hosts.requests(FILES)) - before <= 60 + 2 * 4 + 10, "few files are fetched again"
    assert get(hub, item["url"]).content == data[name]
    undone(hub, done)
