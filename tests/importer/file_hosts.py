"""A hub with a connected workspace of Slack, and hosts of files that do as tests say."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import httpx

from tests.importer.archives import USERS, slack_export, slack_message, zipped
from tests.importer.history_chat import HistoryChat
from tests.support.backends import Bus, Store
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
    hostile: dict[str, Reply | Handler] = field(default_factory=dict)

    def files(self, request: HostRequest) -> Reply:
        for path, reply in self.hostile.items():
            if request.path.startswith(path):
                return reply if isinstance(reply, Reply) else reply(request)
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
    """The hub, the hosts that it reaches, the chat that gets the history, and a channel of Slack."""

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

    def hostile(self, name: str, reply: Reply | Handler, **fields: Any) -> dict[str, Any]:
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


@contextmanager
def file_world(folder: Path, bus: Bus, store: Store) -> Iterator[World]:
    """Run the hub with a connected workspace of Slack; afterwards no host may have a fault."""
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
            start_on_hosts(hub, hosts, service)
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


def start_on_hosts(hub: Hub, hosts: ProviderHosts, service: str) -> None:
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
