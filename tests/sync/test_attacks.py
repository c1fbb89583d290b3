"""What a hostile tenant tries with sync: other workspaces' accounts and channels, and expensive filters."""

from secrets import token_hex
from time import process_time

import pytest

from services.sync.model.mapping import Filters
from services.sync.translate.filters import dropped_because
from services.sync.translate.text import markdown_of
from shared.contracts.chat_limits import MAX_TEXT_CHARACTERS
from shared.manifests.channel_types import Account, MessageWritten, Person, Place
from shared.providers.slack.events import parse_message
from shared.richtext.markdown import parse_markdown
from shared.richtext.mentions import mentioned
from tests.sync.chat_side import ChatServer
from tests.sync.three_legs import World


def test_another_workspaces_account_cannot_be_mapped(world: World) -> None:
    legs = world.mapped()
    key = world.hub.other_workspace()
    chat = {"provider": "chat", "conversation": legs.chat.channel}
    bot = {"provider": "telegram", "account": str(world.bot.user.id)}
    for leg in (
        world.slack_leg(legs.slack.channel),
        {**bot, "conversation": str(legs.telegram.chat.id)},
        {"provider": "slack", "integration_id": world.slack_integration, "conversation": "C1"},
    ):
        world.hub.call("POST", "/api/mappings", {"legs": [leg, chat]}, key=key, expect=404)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/test")):
        world.hub.call(method, f"/api/mappings/{legs.id}{path}", key=key, expect=404)


def test_events_of_another_workspace_for_a_mapped_channel_reach_nobody(world: World) -> None:
    legs, name = world.mapped(), f"other-{token_hex(4)}"
    world.hub.init(name, f"ilk_other_{token_hex(16)}")
    with ChatServer(world.hub.bus.env["KAFKA_BOOTSTRAP_SERVERS"], name, {}) as stranger:
        forged = {"message_id": "msg_forged", "channel_id": legs.chat.channel, "text": "forged"}
        stranger.publish("message.created", forged | {"author": {"id": "usr_x", "name": "X"}})
    legs.chat.write("after")  # in the same partition: the key is the channel
    legs.agree("after")


def test_a_text_that_is_cut_mentions_nobody() -> None:
    """Its Markdown is longer than a message of the chat may be, and the end of its code is not in it."""
    secret = "`[all](mention://everyone) [ada](mention://user/usr_ada) "
    text = f"{'[' * 1_400} {secret}{'b ' * 19_200}b`"
    event = {"ts": "1764000000.000100", "user": "U0ADA", "text": text}
    began = process_time()
    cut = markdown_of(parse_message(event, "C1", Account("T1")).body)
    assert process_time() - began < 0.5
    assert MAX_TEXT_CHARACTERS // 2 < len(cut) <= MAX_TEXT_CHARACTERS
    assert not mentioned(parse_markdown(cut))


@pytest.mark.parametrize("word", ["a" * 90, "a " * 45, "+ " * 45], ids=["long", "short", "signs"])
@pytest.mark.parametrize("text", ["a" * 40_000, "a " * 20_000, ("a" * 99 + " ") * 400], ids=str.__len__)
def test_many_long_words_of_a_filter_cost_little(text: str, word: str) -> None:
    words = tuple(f"{word}{number:010}" for number in range(200))
    author = Person("U1", "Ada Example")
    written = MessageWritten("1", Place("C1"), author, parse_markdown(text))
    began = process_time()
    assert dropped_because(Filters(exclude_words=words), written) is None
    assert process_time() - began < 0.2


@pytest.mark.parametrize(
    ("words", "text", "dropped"),
    [
        (("Deploy",), "the deploy, at last", True),
        (("deploy",), "redeployed", False),
        (("c++",), "I like C++.", True),
        (("c++",), "I like c", False),
        (("on call",), "who is on  call?", True),
        (("straße",), "STRASSE", True),
        (("",), "anything", False),
    ],
)
def test_words_of_a_filter_are_whole_words_in_any_case(
    words: tuple[str, ...], text: str, dropped: bool
) -> None:
    written = MessageWritten("1", Place("C1"), Person("U1", "Ada Example"), parse_markdown(text))
    assert (dropped_because(Filters(exclude_words=words), written) == "exclude_words") is dropped
