"""Another workspace of the same hub: its own key, its own side of the chat, and its own accounts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from tests.support.eventually import eventually
from tests.support.fakes.slack_state import App, Channel
from tests.support.fakes.telegram_people import Bot
from tests.sync.chat_side import ChatServer
from tests.sync.three_legs import World

SCOPES = (
    "channels:history channels:read chat:write chat:write.customize files:read files:write groups:history "
    "groups:read im:history mpim:history reactions:read reactions:write users:read users:read.email"
)


@dataclass
class OtherWorkspace:
    """A tenant beside that of the world."""

    world: World
    name: str
    key: str
    chat: ChatServer
    app: App
    """Its app in Slack; that of the world if it has none of its own."""

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A management call with its key."""
        return self.world.hub.call(method, path, body, key=self.key, **more)

    def add_slack_app(self) -> None:
        """Connect an app of its own in the same workspace of Slack, by its token."""
        hub = self.world.hub
        events_url = f"{hub.url('gateway')}/api/webhooks/slack"
        self.app = self.world.team.add_app(f"Interlink of {self.name}", SCOPES, events_url)
        self._register(f"{self.app.id}.client", token_hex(16))
        self.connect_slack()

    def share_slack_app(self) -> None:
        """Connect the app of the world here too."""
        oauth = self.world.oauth
        self._register(oauth.client_id, oauth.client_secret)
        self.connect_slack()

    def _register(self, client_id: str, client_secret: str) -> None:
        credentials = {"client_id": client_id, "client_secret": client_secret, "verified": True}
        credentials["signing_secret"] = self.app.signing_secret
        self.call("PUT", "/api/platform-credentials/slack", credentials)

    def connect_slack(self) -> None:
        """Connect the app by its token, or connect it again."""
        body = {"provider": "slack", "kind": "bot_token", "fields": {"access_token": self.app.token}}
        self.call("POST", "/api/integrations", body, expect=201)

    def connect_telegram(self, bot: Bot) -> None:
        """Connect a bot by its token, and let the hub set its webhook."""
        body = {"provider": "telegram", "kind": "bot_token", "fields": {"access_token": bot.token}}
        made = self.call("POST", "/api/integrations", body, expect=201)
        path = f"/api/integrations/{made['id']}/watches"
        self.call("POST", path, {"watch": "webhook"}, expect=201)
        eventually(lambda: [one for one in self.call("GET", path)["items"] if one["status"] == "active"])

    def map(self, *legs: Mapping[str, str], **fields: Any) -> str:
        """Create a mapping: its id."""
        return str(self.call("POST", "/api/mappings", {"legs": list(legs), **fields}, expect=201)["id"])

    def slack_leg(self, channel: Channel, **fields: str) -> dict[str, str]:
        """A channel of the same workspace of Slack as a leg."""
        return self.world.slack_leg(channel, **fields)


@contextmanager
def other_workspace(world: World) -> Iterator[OtherWorkspace]:
    """Make another workspace; its side of the chat runs while the context lasts."""
    name, key = f"other-{token_hex(4)}", f"ilk_other_{token_hex(16)}"
    world.hub.init(name, key)
    with ChatServer(world.hub.bus.env["KAFKA_BOOTSTRAP_SERVERS"], name, world.chat.files) as chat:
        yield OtherWorkspace(world, name, key, chat, world.app)
        assert chat.errors == []
