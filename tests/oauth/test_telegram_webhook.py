"""The webhook of a connected Telegram bot: set by a provider subscription, and removed with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.telegram_api import Fault, TelegramApi
from tests.support.fakes.telegram_people import Bot
from tests.support.hub import Hub
from tests.support.subscription_hub import among

PUBLIC = "https://hub.example.com"
UPDATES = {
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "message_reaction",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "callback_query",
    "inline_query",
    "poll",
    "pre_checkout_query",
}


@dataclass
class World:
    """A hub behind an HTTPS address, and the Telegram that it finds."""

    hub: Hub
    telegram: TelegramApi

    def connected(self, bot: Bot) -> str:
        """Connect a bot by its token: its integration."""
        fields = {"access_token": bot.token}
        body = {"provider": "telegram", "kind": "bot_token", "fields": fields}
        return str(self.hub.call("POST", "/api/integrations", body, expect=201)["id"])

    def watching(self, integration: str) -> dict[str, Any]:
        """Create the subscription, and wait until it is active."""
        path = f"/api/integrations/{integration}/watches"
        self.hub.call("POST", path, {"watch": "webhook"}, expect=201)
        [found] = eventually(
            lambda: [one for one in self.hub.call("GET", path)["items"] if one["status"] == "active"]
        )
        return dict(found)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    env = {"INTERLINK_UPKEEP_EVERY_S": "0.3", "INTERLINK_PUBLIC_URL": PUBLIC}
    folder = tmp_path_factory.mktemp("hub")
    hub = Hub(folder, bus, store, services=("gateway", "oauth"), env=env, entrance=True)
    with TelegramApi() as telegram, among(hub, telegram.hosts):
        telegram.routes[PUBLIC] = hub.url("gateway")
        yield World(hub, telegram)
        assert telegram.complaints == []


def test_a_subscription_sets_the_webhook_and_its_end_removes_it(world: World) -> None:
    hub, telegram = world.hub, world.telegram
    bot = telegram.bot("first_bot")
    integration = world.connected(bot)
    assert bot.updates.url == "", "nobody asked for a webhook yet"
    watch = world.watching(integration)
    assert bot.updates.url == watch["endpoint_url"]
    assert bot.updates.url.startswith(f"{PUBLIC}/")
    assert set(bot.updates.allowed) == UPDATES
    ada = telegram.user("Ada")
    group = telegram.chat("supergroup", "Example", ada, bot)
    telegram.set_status(group, bot, "administrator", ada)
    telegram.react(telegram.write(group, ada, "hello"), ada, "👍")
    eventually(lambda: len(bot.updates.attempts) == 3)
    assert bot.updates.attempts == [200, 200, 200], "the endpoint knows the secret"
    assert bot.updates.pending == []
    hub.call("DELETE", f"/api/integrations/{integration}/watches/{watch['id']}", expect=204)
    assert bot.updates.url == ""
    hub.call("GET", f"/api/inbound-endpoints/{watch['endpoint_id']}", expect=404)


def test_a_disconnected_bot_has_no_webhook(world: World) -> None:
    bot = world.telegram.bot("second_bot")
    integration = world.connected(bot)
    world.watching(integration)
    assert bot.updates.url
    world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
    assert bot.updates.url == ""


def test_an_update_with_another_secret_is_refused(world: World) -> None:
    bot = world.telegram.bot("third_bot")
    world.watching(world.connected(bot))
    bot.updates.secret = "of-somebody-else"
    ada = world.telegram.user("Ada")
    world.telegram.write(world.telegram.private(ada, bot), ada, "hello")
    eventually(lambda: bot.updates.attempts)
    assert bot.updates.attempts[0] == 401
    assert len(bot.updates.pending) == 1


def test_a_webhook_is_set_again_after_telegram_failed(world: World) -> None:
    bot = world.telegram.bot("fourth_bot")
    integration = world.connected(bot)
    world.telegram.fail(Fault(502, method="setWebhook"))
    watch = world.watching(integration)
    assert bot.updates.url == watch["endpoint_url"]
