"""`interlink up`, whole and real: from the first line to the last process."""

import json
import re
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import psutil
import pymongo
import pytest

from interlink.embedded import HOST, EmbeddedPair, is_free, saved_addresses
from shared.runtime.web import audit_entries as audit
from tests.cli.commands import (
    PORTS,
    Up,
    call,
    complaint,
    gone_within,
    interlink,
    memory,
    port_block,
    readable_memory,
    running,
    settings_of,
    shown_in_chat,
    start_up,
)
from tests.support.eventually import eventually
from tests.support.subscriber import Subscriber

STOP_S = 30.0


def incoming(up: Up, text: str) -> str:
    """Post into the channel "general" through an incoming webhook; the message's id."""
    made = call(up, "POST", "/api/incoming-webhooks", {"name": "t", "target_channel_id": "general"})
    answer = httpx.post(made["url"], json={"text": text}, timeout=10)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message_id"])


def has_child(up: Up, *words: str) -> psutil.Process | None:
    """Return the child with these words in its command line, or None."""
    try:
        return up.child(*words)
    except AssertionError:
        return None


@contextmanager
def audit_entries(folder: Path) -> Iterator[Any]:
    """The collection in the embedded database of a running `up`."""
    with pymongo.MongoClient[Any](saved_addresses(folder)["MONGODB_URI"]) as client:
        yield client.get_default_database()[audit.COLLECTION]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="class")
def up(folder: Path) -> Iterator[Up]:
    with running(folder) as started:
        yield started


class TestRunning:
    """One hub; the tests go through its life in order."""

    def test_it_says_where_everything_is(self, up: Up) -> None:
        assert f"Interlink is ready: {up.url}\n" in up.text()
        assert up.chat in up.text()
        line = up.text().partition("behind it")[2].partition("\n")[0]
        behind = dict(re.findall(r"(\w+) (http://127\.0\.0\.1:[0-9]+)", line))
        assert behind.keys() == {"delivery", "sync", "oauth", "importer", "console"}
        assert all("interlink_" in httpx.get(f"{url}/metrics").text for url in behind.values())
        assert up.key not in up.text()
        assert stat.S_IMODE((up.folder / "admin.key").stat().st_mode) == 0o600
        assert stat.S_IMODE(up.folder.stat().st_mode) == 0o700

    @readable_memory
    def test_the_supervisor_has_not_imported_what_a_command_line_needs(self, up: Up) -> None:
        assert "pydantic" not in Path(f"/proc/{up.process.pid}/maps").read_text()

    def test_the_page_is_served(self, up: Up) -> None:
        page = httpx.get(up.chat)
        assert page.status_code == 200
        assert "<title>minichat</title>" in page.text
        nonce = page.headers["content-security-policy"].partition("'nonce-")[2].partition("'")[0]
        assert f'nonce="{nonce}"' in page.text
        assert nonce not in httpx.get(up.chat).text

    def test_one_entrance_for_every_service(self, up: Up) -> None:
        assert call(up, "GET", "/api/outgoing-webhooks")["items"] == []  # delivery's
        assert call(up, "GET", "/api/integrations")["items"] == []  # oauth's
        assert call(up, "GET", "/api/inbound-endpoints")["items"] == []  # the gateway's own

    def test_a_message_comes_to_the_chat(self, up: Up) -> None:
        message = incoming(up, "hello")
        seen = eventually(lambda: shown_in_chat(up).get(message))
        assert seen
        assert (seen["channel_id"], seen["text"]) == ("general", "hello")

    def test_what_is_written_in_the_chat_goes_out(self, up: Up) -> None:
        with Subscriber() as subscriber:
            hook = {"name": "t", "url": subscriber.url, "events": ["message.created"]}
            call(up, "POST", "/api/outgoing-webhooks", hook)
            time.sleep(1.5)  # every service has it in memory
            post = {"channel": "general", "author": "Ann", "text": "hi there"}
            assert httpx.post(f"{up.chat}/messages", json=post).status_code == 201
            body = json.loads(subscriber.wait_for(1)[0].body)
        assert body["type"] == "message.created"
        assert body["data"]["text"] == "hi there"

    def test_commands_beside_it_find_it(self, up: Up, tmp_path: Path) -> None:
        beside = {"INTERLINK_DATA_DIR": str(up.folder)}
        assert interlink("doctor", cwd=tmp_path, **beside).returncode == 0
        assert interlink("send", "message.created", cwd=tmp_path, **beside).stdout.startswith("evt_")

    def test_a_second_one_is_refused(self, up: Up, tmp_path: Path) -> None:
        message = complaint(interlink("up", "--data-dir", str(up.folder), cwd=tmp_path))
        assert f"in use by another 'interlink up' (process {up.process.pid})" in message

    @readable_memory
    def test_the_chat_has_none_of_the_hubs_secrets(self, up: Up) -> None:
        secrets = [(up.folder / name).read_bytes().strip() for name in ("store.password", "encryption.key")]

        def known_to(*words: str) -> list[bytes]:
            parts = list(memory(up.child(*words).pid))
            return [secret for secret in secrets if any(secret in part for part in parts)]

        assert known_to("serve delivery") == secrets
        assert known_to("interlink.examples.minichat") == []

    @readable_memory
    def test_a_service_that_dies_is_started_again_by_a_process_without_secrets(self, up: Up) -> None:
        secrets = [(up.folder / name).read_bytes().strip() for name in ("store.password", "encryption.key")]
        up.child("serve sync").kill()
        up.wait_for_text("sync ended with signal SIGKILL: it is started again")
        server = eventually(lambda: has_child(up, "interlink fork-server"))
        assert server
        server.suspend()
        parts = list(memory(server.pid))
        server.resume()
        assert not [secret for secret in secrets if any(secret in part for part in parts)]
        up.wait_for_text("sync is back")
        message = incoming(up, "after sync")
        assert eventually(lambda: shown_in_chat(up).get(message))

    def test_a_store_that_dies_comes_back_with_its_data(self, up: Up) -> None:
        made = call(up, "POST", "/api/inbound-endpoints", {"provider": "github", "name": "kept"})
        up.child("secantus").kill()
        up.wait_for_text("store is back")
        eventually(lambda: httpx.get(f"{up.url}/readyz").status_code == 200)
        assert call(up, "GET", f"/api/inbound-endpoints/{made['id']}")["name"] == "kept"

    def test_a_broker_that_dies_is_restarted_and_the_user_is_notified(self, up: Up) -> None:
        up.child("tansu").kill()
        up.wait_for_text("broker ended with signal SIGKILL (it holds events in memory")
        up.wait_for_text("broker is back")
        eventually(lambda: httpx.get(f"{up.url}/readyz").status_code == 200)
        message = incoming(up, "after the broker")
        assert eventually(lambda: shown_in_chat(up).get(message), within_s=30)

    def test_the_fork_server_runs_only_to_start_services(self, up: Up) -> None:
        eventually(lambda: has_child(up, "fork-server") is None)
        sync = up.child("serve sync")
        killed = [up.child(f"serve {name}") for name in ("delivery", "oauth")]
        for service in killed:
            service.kill()
        for name in ("delivery", "oauth"):
            up.wait_for_text(f"{name} ended with signal SIGKILL: it is started again")
            up.wait_for_text(f"{name} is back")
        eventually(lambda: has_child(up, "fork-server") is None)
        assert not [service for service in killed if service.is_running()]  # as a zombie would be
        message = incoming(up, "after the fork server")
        assert eventually(lambda: shown_in_chat(up).get(message))
        assert sync.is_running()

    def test_a_fork_server_that_dies_is_replaced(self, up: Up) -> None:
        up.child("serve delivery").kill()
        first = eventually(lambda: has_child(up, "interlink.fork_server"))
        assert first
        first.kill()
        up.wait_for_text("fork-server ended with signal SIGKILL")
        eventually(lambda: up.text().count("delivery is back") == 2)

    def test_ctrl_c_ends_it_all(self, up: Up) -> None:
        assert up.end(signal.SIGINT, STOP_S) == 0
        assert up.text().endswith("stopped\n")
        assert all(is_free(HOST, up.port + offset) for offset in PORTS)


def test_a_killed_supervisor_leaves_nobody_behind(folder: Path) -> None:
    with running(folder) as up:
        children = up.children()
        assert len(children) >= 8
        with audit_entries(folder) as entries:
            entries.insert_one({"_id": "old", "expires_at": datetime(2001, 1, 1, tzinfo=UTC)})
        up.process.kill()
        up.process.wait(60)
        gone_within(children, 5)


def test_its_folder_goes_on_and_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    key = (folder / "admin.key").read_text().strip()
    with running(folder) as up:  # on what was left
        assert up.key == key
        assert call(up, "GET", "/api/inbound-endpoints")["items"][0]["name"] == "kept"
        with audit_entries(folder) as entries:
            eventually(lambda: entries.find_one({"_id": "old"}) is None)  # deleted because it has expired
            assert entries.find_one()
        children = up.children()
        up.child("serve delivery").send_signal(signal.SIGSTOP)  # it will not stop when it is asked to
        delivery = psutil.Process(up.child("serve delivery").pid)
        up.process.send_signal(signal.SIGINT)
        up.wait_for_text("stopping")
        time.sleep(1)
        assert delivery.is_running()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 130
        gone_within(children, 5)


def test_a_clean_stop_loses_nothing(tmp_path: Path) -> None:
    """What the entrance has accepted is delivered, although the broker forgets everything."""
    count = 600
    with running(tmp_path / "data", "--no-minichat") as up, Subscriber() as subscriber:
        hook = {"name": "t", "url": subscriber.url, "events": ["t.*"], "timeout_s": 5}
        call(up, "POST", "/api/outgoing-webhooks", hook)
        time.sleep(1.5)
        events = [
            {"specversion": "1.0", "id": f"e{n}", "source": "/t", "type": "t.happened", "data": {"n": n}}
            for n in range(count)
        ]
        headers = {
            "authorization": f"Bearer {up.key}",
            "content-type": "application/cloudevents-batch+json",
        }
        for start in range(0, count, 300):
            answer = httpx.post(
                f"{up.url}/api/events",
                content=json.dumps(events[start : start + 300]),
                headers=headers,
                timeout=10,
            )
            assert answer.status_code == 202, answer.text
        assert up.end(signal.SIGTERM, 60) == 0
        assert "were not processed in time" not in up.text()
        expected = {f"e{n}" for n in range(count)}

        def all_there() -> bool:
            return expected == {json.loads(got.body)["id"] for got in subscriber.got}

        if not all_there():
            with running(tmp_path / "data", "--no-minichat"):  # goes on with what it had put off
                eventually(all_there, within_s=60)


def test_with_a_bus_and_a_store_of_ones_own(tmp_path: Path, pair: EmbeddedPair) -> None:
    settings = settings_of(pair, f"up_{token_hex(6)}")
    with running(tmp_path / "data", "--no-minichat", **settings) as up:
        commands = [" ".join(child.cmdline()) for child in up.children()]
        assert not [command for command in commands if "tansu" in command or "secantus" in command]
        assert call(up, "GET", "/api/outgoing-webhooks")["items"] == []
        hook = {"name": "t", "url": "https://127.0.0.1/", "events": ["*"]}
        headers = {"authorization": f"Bearer {up.key}"}
        refused = httpx.post(f"{up.url}/api/outgoing-webhooks", json=hook, headers=headers, timeout=10)
        assert refused.status_code == 422, refused.text  # private networks are not allowed
        made = call(up, "POST", "/api/outgoing-webhooks?force=true", hook | {"url": "https://example.com/"})
        with pymongo.MongoClient[Any](settings["MONGODB_URI"]) as client:
            assert client.get_default_database().outgoing_webhooks.find_one(made["id"])
        assert up.end(signal.SIGTERM, STOP_S) == 0
    assert pair.broker.answers()
    assert pair.database.answers()


def test_a_service_that_cannot_start_is_one_line_and_leaves_nobody(tmp_path: Path) -> None:
    up = start_up(tmp_path / "data", port_block(), INTERLINK_LOG_LEVEL="loud")
    assert up.process.wait(60) == 2
    lines = up.text().splitlines()
    assert len(lines) == 1
    assert "INTERLINK_LOG_LEVEL" in lines[0]
    assert all(is_free(HOST, up.port + offset) for offset in PORTS)
