"""The world of sync: a hub of real processes between a strict Slack, a strict Telegram and a chat on Kafka.

    with connected(folder, bus, store) as world:
        legs = world.mapped()
        legs.slack.write("hello")
        legs.until(lambda: [one.text for one in legs.telegram.shown()] == ["hello"])

The hub finds both providers at their own names, over TLS. One Slack workspace is connected by OAuth, one
Telegram bot by its token, and its webhook is set by a provider subscription. Events of both reach the hub's
gateway with their signatures.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final

import httpx

from shared.runtime.failpoints import FAILPOINT_VARIABLE
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_oauth import SlackOAuth
from tests.support.fakes.slack_state import App, Channel
from tests.support.fakes.telegram_api import TelegramApi
from tests.support.fakes.telegram_model import User
from tests.support.fakes.telegram_people import Bot
from tests.support.hub import Hub
from tests.support.provider_hosts import Forward, Handler, HostRequest, ProviderHosts, Reply
from tests.sync.chat_side import FILES, ChatPlace, ChatServer
from tests.sync.places import ADA, GRACE, Place, SlackPlace, TelegramPlace

HOST: Final = "hub.example.com"
PUBLIC: Final = f"https://{HOST}"
SERVICES: Final = ("gateway", "oauth", "sync")
_WITHIN_S: Final = 60.0
_MODULE: Final = "tests.support.provider_hosts"
_ON_HOSTS: Final = frozenset({"oauth", "sync"})
"""The services that call providers."""


@dataclass
class World:
    """The hub, what it is connected to, and the accounts."""

    hub: Hub
    hosts: ProviderHosts
    slack: SlackApi
    telegram: TelegramApi
    chat: ChatServer
    team: Workspace
    app: App
    oauth: SlackOAuth
    bot: Bot
    people: Mapping[str, User]
    tls: ssl.SSLContext
    slack_integration: str = ""
    telegram_integration: str = ""

    def __post_init__(self) -> None:
        self._numbers = count(1)

    # The accounts.

    def connect_slack(self) -> None:
        """Connect the workspace by OAuth, or connect it again."""
        with self.browser() as browser:
            if self.slack_integration:
                path = f"/api/integrations/{self.slack_integration}/reconnect"
                started = browser.post(path, json={})
            else:
                body = {"provider": "slack", "purpose": "sync"}
                started = browser.post("/api/auth/oauth/connect", json=body)
            assert started.is_success, started.text
            page = browser.get(started.json()["authorization_url"], follow_redirects=True)
            assert page.status_code == 200, page.text
            self.slack_integration = started.json()["integration_id"]

    def connect_telegram(self) -> None:
        """Connect the bot by its token, and let the hub set its webhook."""
        fields = {"access_token": self.bot.token}
        body = {"provider": "telegram", "kind": "bot_token", "fields": fields}
        made = self.hub.call("POST", "/api/integrations", body, expect=201)
        self.telegram_integration = made["id"]
        path = f"/api/integrations/{made['id']}/watches"
        self.hub.call("POST", path, {"watch": "webhook"}, expect=201)
        eventually(lambda: [one for one in self.hub.call("GET", path)["items"] if one["status"] == "active"])

    def browser(self) -> httpx.Client:
        """A client that finds the hub and the providers at their names, with the admin's key for the hub."""
        client = httpx.Client(proxy=self.hosts.proxy, verify=self.tls, base_url=PUBLIC, timeout=20)

        def authorize(request: httpx.Request) -> None:
            if request.url.host == HOST:
                request.headers["authorization"] = f"Bearer {self.hub.admin_key}"

        client.event_hooks = {"request": [authorize]}
        return client

    # The mappings.

    def legs(self, *, own_ids: bool = False) -> "ThreeLegs":
        """A new channel, group and channel of the chat, with people in them, and no mapping yet."""
        number = next(self._numbers)
        ada, grace = self.team.person(ADA, ADA), self.team.person(GRACE, GRACE)
        channel = self.team.add_channel(f"example-{number}", "channel", self.app, ada, grace)
        group = self.telegram.chat("supergroup", f"Example {number}", *self.people.values(), self.bot)
        self.telegram.set_status(group, self.bot, "administrator", self.people[ADA])
        slack = SlackPlace(self.slack, self.team, channel)
        telegram = TelegramPlace(self.telegram, self.bot, group, self.people)
        return ThreeLegs(self, slack, telegram, self.chat.channel(own_ids=own_ids))

    def mapped(self, *, own_ids: bool = False, **fields: Any) -> "ThreeLegs":
        """The same with a mapping of the three; `fields` are others of the mapping: options, filters."""
        legs = self.legs(own_ids=own_ids)
        legs.map(**fields)
        return legs

    def create_mapping(self, *legs: Mapping[str, str], **fields: Any) -> str:
        """Create a mapping of any legs: its id."""
        body = {"legs": list(legs), **fields}
        return str(self.hub.call("POST", "/api/mappings", body, expect=201)["id"])

    def slack_leg(self, channel: Channel, **fields: str) -> dict[str, str]:
        """A channel of Slack as a leg."""
        return {"provider": "slack", "account": self.team.id, "conversation": channel.id, **fields}

    # The process of sync.

    def start_sync(self, crash_at: str | None = None, module: str = _MODULE) -> None:
        """Start it; with `crash_at` it kills itself at that failpoint (`name`, or `name:20`)."""
        env = {FAILPOINT_VARIABLE: crash_at} if crash_at else {}
        _start(self.hub, self.hosts, "sync", module, **env)

    def kill_sync(self) -> None:
        """SIGKILL, as if the machine took it."""
        self.hub.kill("sync")

    def restart_sync(self, crash_at: str | None = None, module: str = _MODULE) -> None:
        """Kill it if it runs, start it again, and wait until it is ready."""
        if self.hub.ended("sync") is None:
            self.kill_sync()
        self.start_sync(crash_at, module)
        if crash_at is None:
            self.hub.wait_ready("sync")

    def check(self) -> None:
        """Fail if the hub sent a provider what it refuses as a fault, or the chat could not read an event."""
        assert self.hosts.faults == [], "; ".join(self.hosts.faults[:5])
        assert self.slack.complaints == [], "; ".join(self.slack.complaints[:5])
        assert self.telegram.complaints == []
        assert self.chat.errors == []


@dataclass
class ThreeLegs:
    """One conversation in three places."""

    world: World
    slack: SlackPlace
    telegram: TelegramPlace
    chat: ChatPlace
    id: str = ""
    """Of the mapping."""

    def map(self, **fields: Any) -> None:
        """Create the mapping."""
        slack = self.world.slack_leg(self.slack.channel)
        bot, group = str(self.world.bot.user.id), str(self.telegram.chat.id)
        telegram = {"provider": "telegram", "account": bot, "conversation": group}
        chat = {"provider": "chat", "conversation": self.chat.channel}
        self.id = self.world.create_mapping(slack, telegram, chat, name=self.slack.channel.name, **fields)

    @property
    def places(self) -> tuple[Place, Place, Place]:
        """All three."""
        return self.slack, self.telegram, self.chat

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping as the API shows it."""
        return dict(self.world.hub.call("GET", f"/api/mappings/{self.id}"))

    def until(self, look: Callable[[], object], within_s: float = _WITHIN_S) -> None:
        """Wait until it is so; fails with what all three places show."""
        try:
            eventually(look, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def agree(self, *texts: str, within_s: float = _WITHIN_S) -> None:
        """Wait until every place shows messages with just these texts, in any order."""
        self.until(lambda: all(sorted(place.texts()) == sorted(texts) for place in self.places), within_s)

    def quiet(self, for_s: float = 1.0) -> None:
        """Wait until the places have shown the same for so long; fails if they never do."""
        seen, since, deadline = self._shown(), monotonic(), monotonic() + _WITHIN_S + for_s

        def settled() -> bool:
            nonlocal seen, since
            now = self._shown()
            if now != seen:
                seen, since = now, monotonic()
            return monotonic() - since >= for_s

        eventually(settled, deadline - monotonic(), every_s=0.1)

    def synced(self) -> list[dict[str, Any]]:
        """The messages of the mapping with their targets and traces, oldest first."""
        call, params = self.world.hub.call, {"mapping_id": self.id}
        found: list[dict[str, Any]] = []
        while True:
            page = call("GET", "/api/synced-messages", params=params)
            found += [call("GET", f"/api/synced-messages/{one['id']}") for one in page["items"]]
            if page["next_cursor"] is None:
                return found[::-1]
            params["cursor"] = page["next_cursor"]

    def report(self) -> str:
        """What all three places show, the traces, and the end of sync's log."""
        lines = [
            f"{type(place).__name__}: {[(one.author, one.text) for one in place.shown()]}"
            for place in self.places
        ]
        for message in self.synced():
            lines.append(f"{message['excerpt']} in {message['source']['provider']}")
            for target in message["targets"]:
                steps = [f"{entry['step']} {entry['detail']}".strip() for entry in target["trace"]]
                lines.append(f"    {target['provider']}: {target['state']}: {', '.join(steps)}")
        return "\n".join([*lines, self.world.hub.log_tail("sync")])

    def _shown(self) -> list[Any]:
        return [place.shown() for place in self.places]


@contextmanager
def connected(
    folder: Path,
    bus: Bus,
    store: Store,
    slack: SlackApi | None = None,
    services: Sequence[str] = SERVICES,
    **env: str,
) -> Iterator[World]:
    """Run the world, with both accounts connected; afterwards no provider may have a complaint.

    With the `slack` of another world, the hub has an app of its own there. `env` are settings of the hub,
    `services` its services: those three, and others.
    """
    settings = {"INTERLINK_UPKEEP_EVERY_S": "0.3", "INTERLINK_PUBLIC_URL": PUBLIC}
    hub = Hub(folder, bus, store, services=services, env=settings | env, entrance=True)
    slack, telegram = slack or SlackApi(), TelegramApi()
    team = slack.workspace()
    app = team.add_app(f"Interlink {len(team.apps) + 1}", "", f"{hub.url('gateway')}/api/webhooks/slack")
    oauth = SlackOAuth(slack, app, f"{PUBLIC}/api/auth/oauth/callback")
    slack.events.retry_delays_s = (0.2, 0.5, 1.0)
    telegram.routes[PUBLIC] = hub.url("gateway")
    people = {name: telegram.user(name) for name in (ADA, GRACE)}
    files: dict[str, bytes] = {}

    def chat_file(request: HostRequest) -> Reply:
        content = files.get(request.path)
        return Reply(404) if content is None else Reply(200, content, {"content-type": "text/plain"})

    served: dict[str, Handler] = {**oauth.hosts, **telegram.hosts, FILES: chat_file}
    served[HOST] = Forward(hub.ports["gateway"])
    with ExitStack() as stack:
        stack.callback(slack.close)
        stack.callback(telegram.close)
        hosts = stack.enter_context(ProviderHosts(served))
        stack.callback(hub.stop)
        hub.init(hub.workspace)
        for service in services:
            _start(hub, hosts, service)
        for service in services:
            hub.wait_ready(service)
        bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
        chat = stack.enter_context(ChatServer(bootstrap, hub.workspace, files))
        tls = ssl.create_default_context(cafile=str(hosts.authority(folder)))
        bot = telegram.bot("interlink_bot")
        world = World(hub, hosts, slack, telegram, chat, team, app, oauth, bot, people, tls)
        credentials = {"client_id": oauth.client_id, "client_secret": oauth.client_secret, "verified": True}
        credentials["signing_secret"] = app.signing_secret
        hub.call("PUT", "/api/platform-credentials/slack", credentials)
        world.connect_slack()
        world.connect_telegram()
        yield world
        world.check()


def _start(hub: Hub, hosts: ProviderHosts, service: str, module: str = _MODULE, **env: str) -> None:
    if service not in _ON_HOSTS:
        hub.start_service(service, **env)
        return
    hub.start_service(service, module=(module, service), **hosts.env(hub.folder), **env)
