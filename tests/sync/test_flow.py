"""One conversation in three places: what is done in one of them is seen in the two others."""

from typing import Any

import pytest

from tests.support.fakes.slack_state import Json
from tests.sync.places import ADA, GRACE, Place
from tests.sync.three_legs import ThreeLegs, World

BOTH_KINDS = pytest.mark.parametrize("own_ids", [False, True], ids=["ids of the hub", "own ids"])
"""Of a chat: one that stores messages under the hub's ids, and one that has its own."""


def authors(place: Place) -> dict[str, str]:
    return {one.text: one.author for one in place.shown()}


def rich(*elements: Json) -> list[Json]:
    section = {"type": "rich_text_section", "elements": list(elements)}
    return [{"type": "rich_text", "elements": [section]}]


@BOTH_KINDS
def test_a_message_is_seen_in_all_places_as_its_authors(world: World, own_ids: bool) -> None:
    legs = world.mapped(own_ids=own_ids)
    legs.slack.write("from Slack", by=ADA)
    legs.telegram.write("from Telegram", by=GRACE)
    legs.chat.write("from the chat", by=ADA)
    legs.agree("from Slack", "from Telegram", "from the chat")
    wanted = {"from Slack": ADA, "from Telegram": GRACE, "from the chat": ADA}
    assert [authors(place) for place in legs.places] == [wanted] * 3
    legs.quiet()
    for text in wanted:
        for place in legs.places:
            is_id_of_hub = place is legs.chat and not own_ids and text != "from the chat"
            name = "message_id" if is_id_of_hub else "related_id"
            found = world.hub.call("GET", f"/api/synced-messages?{name}={place.find(text).id}")["items"]
            assert text in {item["excerpt"] for item in found}, "by its own id in each place"
    legs.agree("from Slack", "from Telegram", "from the chat", within_s=0)


def test_formatting_follows(world: World) -> None:
    legs = world.mapped()
    link = {"type": "link", "url": "https://example.com/", "text": "site"}
    bold = {"type": "text", "text": "bold", "style": {"bold": True}}
    legs.slack.write("bold site", blocks=rich(bold, {"type": "text", "text": " "}, link))
    legs.chat.write("*slanted* and `code`")

    def markdown() -> list[str]:
        return sorted(legs.chat.texts())

    legs.until(lambda: markdown() == ["**bold** [site](https://example.com/)", "*slanted* and `code`"])
    legs.until(lambda: len(legs.slack.shown()) == len(legs.telegram.shown()) == 2)
    shown = legs.telegram.raw(legs.telegram.find("bold site").id)
    heading, *entities = shown.entities
    assert heading["type"] == "bold"
    assert [one["type"] for one in entities] == ["bold", "text_link"]
    written = legs.slack.raw(legs.slack.find("slanted and code").id)["blocks"][0]["elements"][0]["elements"]
    styles = {one["text"]: one.get("style", {}) for one in written}
    assert styles == {"slanted": {"italic": True}, " and ": {}, "code": {"code": True}}


@BOTH_KINDS
def test_an_answer_stands_below_its_message(world: World, own_ids: bool) -> None:
    legs = world.mapped(own_ids=own_ids)
    legs.slack.write("question")
    legs.agree("question")
    legs.slack.reply(legs.slack.find("question").id, "answer in Slack")
    legs.telegram.reply(legs.telegram.find("question").id, "answer in Telegram")
    legs.chat.reply(legs.chat.find("question").id, "answer in the chat")
    answers = ("answer in Slack", "answer in Telegram", "answer in the chat")
    legs.agree("question", *answers)
    for place in legs.places:
        assert {place.find(text).thread for text in answers} == {place.find("question").id}, type(place)


@BOTH_KINDS
def test_edits_follow(world: World, own_ids: bool) -> None:
    legs = world.mapped(own_ids=own_ids)
    in_slack = legs.slack.write("Slack 1")
    in_telegram = legs.telegram.write("Telegram 1")
    in_chat = legs.chat.write("chat 1")
    legs.agree("Slack 1", "Telegram 1", "chat 1")
    for number in (2, 3):
        legs.slack.edit(in_slack, f"Slack {number}")
        legs.telegram.edit(in_telegram, f"Telegram {number}")
        legs.chat.edit(in_chat, f"chat {number}")
        legs.agree(f"Slack {number}", f"Telegram {number}", f"chat {number}")


@BOTH_KINDS
def test_deletions_follow_but_telegram_reports_none(world: World, own_ids: bool) -> None:
    legs = world.mapped(own_ids=own_ids)
    in_slack = legs.slack.write("Slack")
    in_telegram = legs.telegram.write("Telegram")
    in_chat = legs.chat.write("chat")
    legs.agree("Slack", "Telegram", "chat")
    legs.telegram.delete(in_telegram)
    legs.slack.delete(in_slack)
    legs.chat.delete(in_chat)
    left = {"SlackPlace": ["Telegram"], "TelegramPlace": [], "ChatPlace": ["Telegram"]}
    legs.until(lambda: {type(place).__name__: place.texts() for place in legs.places} == left)


@BOTH_KINDS
def test_reactions_follow_and_telegram_shows_the_first(world: World, own_ids: bool) -> None:
    legs = world.mapped(own_ids=own_ids)
    legs.telegram.write("news")
    legs.agree("news")
    in_slack, in_telegram, in_chat = (place.find("news").id for place in legs.places)
    app = world.app.name

    def shown() -> list[dict[str, set[str]]]:
        return [
            {emoji: set(people) for emoji, people in place.find("news").reactions.items()}
            for place in legs.places
        ]

    legs.slack.react(in_slack, "+1", by=ADA)
    bot = world.bot.user.first_name
    legs.until(lambda: shown() == [{"+1": {ADA}}, {"👍": {bot}}, {"👍": {ADA}}])
    legs.chat.react(in_chat, "🔥", by=GRACE)
    second = [{"+1": {ADA}, "fire": {app}}, {"👍": {bot}}, {"👍": {ADA}, "🔥": {GRACE}}]
    legs.until(lambda: shown() == second)
    legs.telegram.react(in_telegram, "🎉", by=GRACE)
    third: list[dict[str, set[str]]] = [
        {"+1": {ADA}, "fire": {app}, "tada": {app}},
        {"👍": {bot}, "🎉": {GRACE}},
        {"👍": {ADA}, "🔥": {GRACE}, "🎉": {GRACE}},
    ]
    legs.until(lambda: shown() == third)
    legs.slack.unreact(in_slack, "+1", by=ADA)
    legs.chat.unreact(in_chat, "🔥", by=GRACE)
    legs.telegram.react(in_telegram, by=GRACE)
    legs.until(lambda: shown()[0] == {} and shown()[2] == {})


def test_files_follow(world: World) -> None:
    legs = world.mapped()
    legs.slack.upload("slack.txt", b"of Slack", "a file")
    legs.telegram.upload("telegram.txt", b"of Telegram", "another file")
    legs.chat.upload("chat.txt", b"of the chat", "a third file")
    contents = {"slack.txt": b"of Slack", "telegram.txt": b"of Telegram", "chat.txt": b"of the chat"}

    def files(place: Place) -> dict[str, Any]:
        return {name: content for one in place.shown() for name, content in one.files.items()}

    legs.until(lambda: files(legs.slack) == files(legs.telegram) == contents)
    legs.until(lambda: files(legs.chat).keys() == contents.keys())
    with world.browser() as browser:
        for name in ("slack.txt", "telegram.txt"):
            answer = browser.get(files(legs.chat)[name])
            assert (answer.status_code, answer.content) == (200, contents[name])


def test_messages_of_bots_stay_where_they_are(world: World) -> None:
    legs = world.mapped()
    build = world.team.add_app("Builds", "chat:write")
    posted: Json = {"user": build.user_id, "bot_id": build.bot_id, "app_id": build.id, "text": "built"}
    world.team.post(legs.slack.channel, posted)
    legs.slack.write("from a person")
    legs.until(lambda: [place.texts() for place in legs.places[1:]] == [["from a person"]] * 2)


def test_an_answer_to_what_is_not_forwarded_does_not_wait_for_it(world: World) -> None:
    legs = world.mapped()
    build = world.team.add_app("Builds", "chat:write")
    posted: Json = {"user": build.user_id, "bot_id": build.bot_id, "app_id": build.id, "text": "built"}
    dropped = world.team.post(legs.slack.channel, posted)
    legs.slack.reply(dropped["ts"], "to a bot")
    legs.until(lambda: legs.telegram.texts() == legs.chat.texts() == ["to a bot"])


def test_a_mapping_that_lets_bots_through_forwards_their_messages(world: World) -> None:
    legs = world.mapped(filters={"bots": True})
    build = world.team.add_app("Builds", "chat:write")
    posted: Json = {"user": build.user_id, "bot_id": build.bot_id, "app_id": build.id, "text": "built"}
    world.team.post(legs.slack.channel, posted)
    legs.agree("built")
    legs.quiet()
    legs.agree("built", within_s=0)


def test_previews_of_links_are_no_edits(world: World) -> None:
    legs = world.mapped()
    message = legs.slack.write("see https://example.com")
    legs.agree("see https://example.com")
    world.team.preview(legs.slack.channel, message, "https://example.com", "Example")
    legs.slack.write("after")
    legs.agree("see https://example.com", "after")
    assert not any(one.edited for place in legs.places[1:] for one in place.shown())


def sent_by_the_hub(legs: ThreeLegs) -> int:
    asked = legs.world.slack.called("chat.postMessage")
    return sum(args["channel"] == legs.slack.channel.id for args in asked)


def test_repeated_and_reordered_events_change_nothing(world: World) -> None:
    legs = world.mapped()
    world.slack.events.duplicate_next = 1
    world.bot.updates.duplicate_next = 1
    legs.slack.write("one")
    legs.telegram.write("two")
    legs.agree("one", "two")
    world.slack.events.hold()
    late = legs.slack.write("first form")
    legs.slack.edit(late, "second form")
    legs.slack.react(late, "+1")
    world.slack.events.release(backwards=True)
    legs.until(lambda: "second form" in legs.chat.texts() and "second form" in legs.telegram.texts())
    legs.until(lambda: legs.chat.find("second form").reactions == {"👍": (ADA,)})
    legs.quiet()
    legs.agree("one", "two", "second form", within_s=0)
    assert sent_by_the_hub(legs) == 1


def test_an_event_that_comes_before_the_response_is_an_echo(world: World) -> None:
    legs = world.mapped()
    world.slack.events.before_response = 1
    legs.chat.write("early")
    legs.agree("early")
    legs.quiet()
    legs.agree("early", within_s=0)
    assert sent_by_the_hub(legs) == 1


def test_telegram_shows_who_types_in_the_chat_now(world: World) -> None:
    legs = world.mapped()
    long_ago = "2026-01-01T00:00:00.000Z"

    def signal(at: str | None = None, **fields: str) -> None:
        data = {"kind": "typing", "state": "started", "at": long_ago} | fields
        about = {"channel_id": legs.chat.channel, "author": {"id": "usr_ada", "name": ADA}}
        world.chat.publish("chat.signal", data | about, topic="chat.signals", at=at)

    before = world.telegram.calls.count("sendChatAction")
    signal(at=long_ago)
    signal(kind="presence", state="online")
    signal(state="stopped")
    signal()
    legs.until(lambda: world.telegram.calls.count("sendChatAction") > before)
    legs.quiet()
    assert world.telegram.calls.count("sendChatAction") == before + 1
