"""A group of Telegram that becomes a supergroup, with another id: its mapping follows, nothing is lost."""

from tests.support.fakes.telegram_model import Chat
from tests.sync.places import ADA, TelegramPlace
from tests.sync.three_legs import World


def test_messages_in_the_supergroup_that_come_with_its_move_are_forwarded(world: World) -> None:
    legs = world.legs()
    group = world.telegram.chat("group", "Example", *world.people.values(), world.bot)
    world.telegram.set_status(group, world.bot, "administrator", world.people[ADA])
    world.create_mapping(world.slack_leg(legs.slack.channel), telegram_leg(world, group))
    TelegramPlace(world.telegram, world.bot, group, world.people).write("before")
    legs.until(lambda: legs.slack.texts() == ["before"])
    world.kill_sync()  # what comes until it is back, it reads together
    supergroup = TelegramPlace(world.telegram, world.bot, world.telegram.migrate(group), world.people)
    supergroup.write("after")
    world.restart_sync()
    legs.until(lambda: legs.slack.texts() == ["before", "after"])
    legs.slack.write("to the supergroup")
    legs.until(lambda: "to the supergroup" in supergroup.texts())


def test_a_paused_mapping_follows_a_group_that_moves(world: World) -> None:
    legs = world.legs()
    group = world.telegram.chat("group", "Example", *world.people.values(), world.bot)
    world.telegram.set_status(group, world.bot, "administrator", world.people[ADA])
    mapping = world.create_mapping(world.slack_leg(legs.slack.channel), telegram_leg(world, group))
    world.hub.call("POST", f"/api/mappings/{mapping}/pause")
    moved = world.telegram.migrate(group)
    supergroup = TelegramPlace(world.telegram, world.bot, moved, world.people)

    def is_followed() -> bool:
        shown = world.hub.call("GET", f"/api/mappings/{mapping}")
        return str(moved.id) in [leg["conversation"] for leg in shown["legs"]]

    legs.until(is_followed)
    supergroup.write("while it is paused")
    world.hub.call("POST", f"/api/mappings/{mapping}/resume")
    supergroup.write("after")
    legs.until(lambda: legs.slack.texts() == ["after"])


def telegram_leg(world: World, chat: Chat) -> dict[str, str]:
    return {"provider": "telegram", "account": str(world.bot.user.id), "conversation": str(chat.id)}
