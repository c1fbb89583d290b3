"""Files at the provider: by the account's token or an address's own proof, and from hosts that misbehave."""

import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any, Final

import httpx
import pytest

from tests.importer.archives import USERS, slack_export, slack_message, zipped
from tests.importer.discord_exports import channel, message
from tests.importer.history_chat import HistoryChat
from tests.importer.test_files import attachments, get, listed, undone
from tests.importer.test_imports import imported, reached, ready
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_oauth import SlackOAuth
from tests.support.fakes.slack_state import App, Channel
from tests.support.hub import Hub
from tests.support.provider_hosts import Forward, Handler, HostRequest, ProviderHosts, Reply
from tests.support.recorded_secrets import record_secret

HOST: Final = "hub.example.com"
PUBLIC: Final = f"https://{HOST}"
FILES: Final = "files.slack.com"
ELSEWHERE: Final = "files.example.net"
CDN: Final = "cdn.discordapp.com"
SERVICES: Final = ("gateway", "oauth", "sync", "importer")
ON_HOSTS: Final = ("oauth", "sync", "importer")
KIB: Final = 1024
MIB: Final = KIB * KIB
EXPORT_TOKEN: Final = f"xoxe-{token_hex(16)}"
OTHER_TEAM: Final = "T0OTHER00"


@dataclass
class FileHosts:
    """Slack's host of files, with addresses that misbehave, and exports' addresses with their token.

    `proven` are the files that the token of an export opens, by path.
    """

    slack: SlackApi
    proven: dict[str, bytes] = field(default_factory=dict)
    hostile: dict[str, Reply] = field(default_factory=dict)

    def files(self, request: HostRequest) -> Reply:
        for path, reply in self.hostile.items():
            if request.path.startswith(path):
                return reply
        if request.path in self.proven:
            assert "authorization" not in request.headers, "an address with a proof gets no token"
            if request.query.get("t") != [EXPORT_TOKEN]:
                return Reply.html("<!doctype html><title>Slack</title><h1>Sign in</h1>")
            return Reply(200, self.proven[request.path], {"content-type": "text/plain"})
        assert "t" not in request.query, "the account's token goes without that of an export"
        return self.slack.hosts[FILES](request)

    def cdn(self, request: HostRequest) -> Reply:
        assert "authorization" not in request.headers
        if request.query.get("hm") != ["good"]:
            return Reply(404, b"This content is no longer available.", {"content-type": "text/plain"})
        return Reply(200, b"from Discord", {"content-type": "text/plain"})

    def elsewhere(self, request: HostRequest) -> Reply:
        assert "authorization" not in request.headers, "no token leaves the provider"
        return Reply(200, b"moved", {"content-type": "text/plain"})


@dataclass
class World:
    hub: Hub
    hosts: ProviderHosts
    chat: HistoryChat
    slack: SlackApi
    team: Workspace
    app: App
    channel: Channel
    files: FileHosts

    def file(self, name: str, data: bytes, media_type: str = "text/plain") -> dict[str, Any]:
        """A file of a person in a channel of the account, as a message of an export has it."""
        person = self.team.person("Ada Example")
        made = person.upload(name, data, media_type)
        made.shares.setdefault(self.channel.id, []).append("1704067200.000100")
        return made.in_message()

    def hostile(self, name: str, reply: Reply, **fields: Any) -> dict[str, Any]:
        """A file at an address that answers so, whoever asks."""
        file_id = f"F{token_hex(5).upper()}"
        path = f"/files-pri/{self.team.id}-{file_id}/{name}"
        self.files.hostile[path] = reply
        shown = {"id": file_id, "name": name, "mimetype": "text/plain", "size": 10, "mode": "hosted"}
        return {**shown, "url_private": f"https://{FILES}{path}", **fields}

    def proven(self, name: str, data: bytes, token: str = EXPORT_TOKEN) -> dict[str, Any]:
        """A file of another team that the token of an export opens."""
        file_id = f"F{token_hex(5).upper()}"
        path = f"/files-pri/{OTHER_TEAM}-{file_id}/{name}"
        self.files.proven[path] = data
        url = f"https://{FILES}{path}?t={token}"
        return {"id": file_id, "name": name, "mimetype": "text/plain", "size": len(data), "url_private": url}

    def export(self, *files: dict[str, Any], team: str = "", days: int = 1) -> bytes:
        """An export of the team with a message that has all files; or a message for each, over some days."""
        team = team or self.team.id
        messages: dict[str, Any] = {f"general/2024-01-{1 + day:02}": [] for day in range(days)}
        if days == 1:
            messages["general/2024-01-01"] = [
                slack_message("1704067200.000100", "with files", files=list(files))
            ]
        for at, file in enumerate(files if days > 1 else ()):
            ts = f"{1704067200 + 86400 * (at % days) + at}.000100"
            messages[f"general/2024-01-{1 + at % days:02}"].append(slack_message(ts, str(at), files=[file]))
        people = [dict(user, team_id=team) for user in USERS]
        return zipped(slack_export(messages, users=people)).getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("provider-files")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads"), "INTERLINK_PUBLIC_URL": PUBLIC}
    hub = Hub(folder, bus, store, services=SERVICES, env=env, workspace=f"w-{token_hex(4)}", entrance=True)
    record_secret("the token of an export", EXPORT_TOKEN)
    slack = SlackApi()
    team = slack.workspace()
    app = team.add_app("Interlink", "", f"{hub.url('gateway')}/api/webhooks/slack")
    oauth = SlackOAuth(slack, app, f"{PUBLIC}/api/auth/oauth/callback")
    files = FileHosts(slack)
    served: dict[str, Handler] = {
        **oauth.hosts, FILES: files.files, CDN: files.cdn, ELSEWHERE: files.elsewhere,
        HOST: Forward(hub.ports["gateway"]),
    }  # fmt: skip
    with ExitStack() as stack:
        stack.callback(slack.close)
        hosts = stack.enter_context(ProviderHosts(served))
        stack.callback(hub.stop)
        hub.init(hub.workspace)
        for service in SERVICES:
            start(hub, hosts, service)
        for service in SERVICES:
            hub.wait_ready(service)
        chat = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], hub.workspace))
        credentials = {"client_id": oauth.client_id, "client_secret": oauth.client_secret, "verified": True}
        credentials["signing_secret"] = app.signing_secret
        hub.call("PUT", "/api/platform-credentials/slack", credentials)
        connect(hub, hosts, folder)
        channel = team.add_channel("general", "channel", app, team.person("Ada Example"))
        yield World(hub, hosts, chat, slack, team, app, channel, files)
        assert hosts.faults == []
        assert chat.errors == []


def start(hub: Hub, hosts: ProviderHosts, service: str) -> None:
    if service in ON_HOSTS:
        module = ("tests.support.provider_hosts", service)
        hub.start_service(service, module=module, **hosts.env(hub.folder))
    else:
        hub.start_service(service)


def connect(hub: Hub, hosts: ProviderHosts, folder: Path) -> None:
    """Connect the workspace of Slack by OAuth."""
    tls = ssl.create_default_context(cafile=str(hosts.authority(folder)))
    with httpx.Client(proxy=hosts.proxy, verify=tls, base_url=PUBLIC, timeout=20) as browser:
        key = {"authorization": f"Bearer {hub.admin_key}"}
        body = {"provider": "slack", "purpose": "sync"}
        started = browser.post("/api/auth/oauth/connect", json=body, headers=key)
        assert started.is_success, started.text

        def authorize(request: httpx.Request) -> None:
            if request.url.host == HOST:
                request.headers.update(key)

        browser.event_hooks = {"request": [authorize]}
        page = browser.get(started.json()["authorization_url"], follow_redirects=True)
        assert page.status_code == 200, page.text


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


def test_a_provider_that_asks_for_a_pause_gets_one(world: World) -> None:
    world.slack.faults.rate_limit("download", retry_after_s=1)
    done = imported(world.hub, world.export(world.file("later.txt", b"later")))
    assert done["counts"]["files"]["imported"] == 1
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
    [item] = texts["59"]["attachments"]
    answer = get(hub, item["url"])
    assert (answer.status_code, "retry-after" in answer.headers) == (404, True)
    hub.call("POST", f"{path}/resume")
    assert eventually(lambda: stored() >= 25)
    hub.kill("importer")
    start(hub, world.hosts, "importer")
    hub.wait_ready("importer")
    done = reached(hub, found["id"], "completed")
    assert done["counts"]["files"] == {
        "found": 60, "selected": 60, "imported": 60, "bytes": 60 * KIB
    }  # fmt: skip
    assert len(world.hosts.requests(FILES)) - before <= 60 + 2 * 4 + 10, "few files are fetched again"
    assert get(hub, item["url"]).content == data["59.bin"]
    undone(hub, done)
