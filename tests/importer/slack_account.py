"""A strict Slack whose workspace is connected to a hub, with messages of any time in it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from tests.importer.history_chat import HistoryChat
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_state import App, Channel
from tests.support.hub import Hub
from tests.support.provider_hosts import ProviderHosts

SCOPES: Final = (
    "channels:history channels:read emoji:read files:read groups:history groups:read im:history im:read "
    "mpim:history mpim:read reactions:read team:read users:read users:read.email"
)
_SERVICES: Final = ("oauth", "importer")
_MODULE: Final = "tests.support.provider_hosts"


@dataclass
class SlackAccount:
    """The hub, Slack, and the chat that gets the history."""

    hub: Hub
    hosts: ProviderHosts
    slack: SlackApi
    team: Workspace
    app: App
    chat: HistoryChat

    def connect(self, token: str = "") -> str:
        """Connect the workspace by its bot's token, and return the integration's id."""
        fields = {"access_token": token or self.app.token}
        body = {"provider": "slack", "kind": "bot_token", "fields": fields}
        return str(self.hub.call("POST", "/api/integrations", body, expect=201)["id"])

    def channel(self, name: str, *messages: dict[str, Any], kind: Any = "channel") -> Channel:
        """Return a new channel with these messages, each as `conversations.history` shows it."""
        channel = self.team.add_channel(name, kind, self.app)
        channel.messages.clear()  # of the app, which has joined
        for message in messages:
            self.add(channel, message)
        return channel

    def add(self, channel: Channel, message: dict[str, Any]) -> None:
        """Add a message, and count it at the parent of its thread."""
        with self.team.lock:
            channel.messages[message["ts"]] = {"type": "message", **message}
            parent = channel.messages.get(message.get("thread_ts", ""))
            if parent is not None and parent["ts"] != message["ts"]:
                parent |= {
                    "thread_ts": parent["ts"],
                    "reply_count": parent.get("reply_count", 0) + 1,
                    "latest_reply": message["ts"],
                }

    def begin(self, integration: str, **body: Any) -> dict[str, Any]:
        """Begin an import of the account, and wait until it is ready."""
        path = f"/api/integrations/{integration}/import"
        created = self.hub.call("POST", path, body, expect=201)
        return self.reached(created["id"], "ready")

    def imported(self, integration: str, **plan: Any) -> dict[str, Any]:
        """Import the account, and wait for the end."""
        ready = self.begin(integration, plan=plan)
        self.hub.call("POST", f"/api/imports/{ready['id']}/start", {})
        return self.reached(ready["id"], "completed", "failed")

    def reached(self, import_id: str, *states: str, within_s: float = 90) -> dict[str, Any]:
        """Wait until an import has one of these states."""

        def read() -> dict[str, Any] | None:
            found = self.hub.call("GET", f"/api/imports/{import_id}")
            return found if found["status"] in states else None

        try:
            result = eventually(read, within_s=within_s)
        except AssertionError:
            now = self.hub.call("GET", f"/api/imports/{import_id}")
            raise AssertionError(f"{now}\n{self.hub.log_tail('importer')}") from None
        assert result is not None
        return dict(result)

    def start(self, service: str) -> None:
        """Start a service that calls providers."""
        self.hub.start_service(service, module=(_MODULE, service), **self.hosts.env(self.hub.folder))
        self.hub.wait_ready(service)


@contextmanager
def slack_account(
    folder: Path,
    bus: Bus,
    store: Store,
    *,
    services: Sequence[str] = _SERVICES,
    scopes: str = SCOPES,
    public_url: str = "https://hub.example.com",
) -> Iterator[SlackAccount]:
    """Run the hub with a workspace of Slack; afterwards Slack may have no complaint."""
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads")}
    env |= {"INTERLINK_PUBLIC_URL": public_url} if public_url else {}
    hub = Hub(folder, bus, store, services=services, env=env, workspace=f"w-{token_hex(4)}", entrance=True)
    slack = SlackApi()
    team = slack.workspace()
    app = team.add_app("Interlink", scopes)
    with ExitStack() as stack:
        stack.callback(slack.close)
        hosts = stack.enter_context(ProviderHosts(slack.hosts))
        stack.callback(hub.stop)
        hub.init(hub.workspace)
        chat = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], hub.workspace))
        account = SlackAccount(hub, hosts, slack, team, app, chat)
        for service in services:
            account.start(service)
        yield account
        assert slack.complaints == []
        assert hosts.faults == []
        assert chat.errors == []
