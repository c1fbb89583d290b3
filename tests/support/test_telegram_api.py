"""The fake of Telegram's Bot API, driven by python-telegram-bot: its methods, refusals and updates."""

import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from telegram import (
    Bot,
    InputMediaDocument,
    InputMediaPhoto,
    MessageEntity,
    ReactionTypeCustomEmoji,
    ReactionTypeEmoji,
    ReplyParameters,
    Update,
)
from telegram.constants import ReactionEmoji
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
    TimedOut,
)
from telegram.request import HTTPXRequest

from tests.support.eventually import eventually
from tests.support.fakes.telegram_api import HOST, MAX_REQUEST, Fault, TelegramApi
from tests.support.fakes.telegram_messages import REACTIONS
from tests.support.fakes.telegram_model import Chat, User
from tests.support.provider_hosts import ProviderHosts

PNG = b"\x89PNG\r\n\x1a\n--\r\n\x00example"
HOOK = "https://hub.example.com/hook"
ALL = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "message_reaction",
    "my_chat_member",
]


@dataclass
class World:
    """The fake, the SDK's client of its bot, and a group of a person and the bot."""

    api: TelegramApi
    hosts: ProviderHosts
    bot: Bot
    ada: User
    group: Chat

    @property
    def token(self) -> str:
        return self.api.bots[0].token

    def texts(self) -> list[str]:
        return [message.text for message in self.group.visible()]

    async def refused(self, call: Any, words: str, kind: type[TelegramError] = BadRequest) -> TelegramError:
        """The refusal of a call, whose words begin so."""
        with pytest.raises(kind) as caught:
            await call
        assert str(caught.value).lower().startswith(words.lower())
        return caught.value


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with TelegramApi() as api, ProviderHosts(api.hosts, max_body=MAX_REQUEST) as hosts:
        made = api.bot("example_bot")
        ada = api.user("Ada")
        group = api.chat("supergroup", "Example", ada, made, is_forum=True)
        trust = ssl.create_default_context(cadata=hosts._authority.pem)
        request = HTTPXRequest(proxy=hosts.proxy, httpx_kwargs={"verify": trust, "trust_env": False})
        bot = Bot(made.token, request=request, get_updates_request=request)
        await bot.initialize()
        yield World(api, hosts, bot, ada, group)
        await bot.shutdown()
        assert hosts.faults == []


@dataclass
class Receiver:
    """A webhook; `answers` are the next status codes, then 200."""

    origin: str = ""
    answers: list[int] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    secrets: set[str | None] = field(default_factory=set)

    def kinds(self) -> list[str]:
        return [next(name for name in one if name != "update_id") for one in self.updates]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run one."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.secrets.add(self.headers["x-telegram-bot-api-secret-token"])
            status = made.answers.pop(0) if made.answers else 200
            if status == 200:
                made.updates.append(json.loads(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.origin = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_texts_are_sent_edited_and_deleted(world: World) -> None:
    bot, group = world.bot, world.group
    sent = await bot.send_message(group.id, "  a 😀 bold ", entities=[MessageEntity("bold", 7, 4)])
    assert (sent.text, sent.entities) == ("a 😀 bold", (MessageEntity("bold", 5, 4),))
    assert sent.from_user is not None
    assert sent.from_user.id == bot.id
    answer = await bot.send_message(group.id, "answer", reply_parameters=ReplyParameters(sent.message_id))
    assert answer.reply_to_message is not None
    assert answer.reply_to_message.message_id == sent.message_id
    edited = await bot.edit_message_text("new", group.id, sent.message_id)
    assert not isinstance(edited, bool)
    assert edited.edit_date is not None
    assert world.texts() == ["new", "answer"]
    assert await bot.delete_message(group.id, sent.message_id)
    assert await bot.delete_messages(group.id, [answer.message_id, 4711])
    assert world.texts() == []
    assert world.api.complaints == []


async def test_files_and_albums_are_sent_and_downloaded(world: World) -> None:
    bot, group = world.bot, world.group
    photo = await bot.send_photo(group.id, PNG, caption="a photo")
    assert (photo.caption, len(photo.photo)) == ("a photo", 1)
    document = await bot.send_document(group.id, PNG, filename="example.bin")
    assert document.document is not None
    assert document.document.file_name == "example.bin"
    assert (await bot.send_video(group.id, PNG)).video
    assert (await bot.send_audio(group.id, PNG)).audio
    assert (await bot.send_voice(group.id, PNG)).voice
    assert (await bot.send_sticker(group.id, PNG)).sticker
    again = await bot.send_document(group.id, document.document.file_id)
    assert again.document == document.document
    file = await bot.get_file(document.document.file_id)
    assert bytes(await file.download_as_bytearray()) == PNG
    large = await bot.send_document(group.id, bytes(2 * 1024 * 1024), filename="large.bin")
    assert large.document is not None
    assert large.document.file_size == 2 * 1024 * 1024
    album = await bot.send_media_group(group.id, [InputMediaPhoto(PNG, caption="two"), InputMediaPhoto(PNG)])
    assert len({message.media_group_id for message in album}) == 1
    changed = await bot.edit_message_caption(group.id, photo.message_id, caption="another")
    assert not isinstance(changed, bool)
    assert changed.caption == "another"
    media = await bot.edit_message_media(InputMediaDocument(PNG), group.id, photo.message_id)
    assert not isinstance(media, bool)
    assert media.document is not None
    assert world.api.complaints == []


async def test_files_that_are_too_large_or_unknown_are_refused(world: World) -> None:
    bot, group = world.bot, world.group
    sent = await bot.send_document(group.id, PNG)
    assert sent.document is not None
    world.api.chat_methods.max_download = 5
    await world.refused(bot.get_file(sent.document.file_id), "file is too big")
    await world.refused(bot.get_file("nothing"), "wrong file_id")
    world.api.max_upload = 5
    await world.refused(bot.send_document(group.id, PNG), "Request Entity Too Large", NetworkError)
    world.api.max_upload = 10_000
    await world.refused(bot.send_photo(group.id, "https://example.com/a.png"), "wrong file identifier")
    assert world.api.complaints == ["photo is a URL, which Telegram would fetch"]
    pair: list[InputMediaPhoto | InputMediaDocument] = [InputMediaPhoto(PNG), InputMediaDocument(PNG)]
    await world.refused(bot.send_media_group(group.id, pair), "document and audio can't be mixed")
    await world.refused(bot.send_media_group(group.id, pair[:1]), "wrong number of messages")
    await world.refused(bot.send_document(group.id, b"", filename="empty"), "file must be non-empty")
    assert len(group.visible()) == 1


@pytest.mark.parametrize(
    ("text", "entities", "words"),
    [
        ("", [], "message text is empty"),
        (" \n", [MessageEntity("bold", 0, 2)], "message text is empty"),
        ("😀" * 2049, [], "message is too long"),
        ("abc", [MessageEntity("bold", 1, 3)], "entity beginning at UTF-16 offset 1 ends after the end"),
        ("😀b", [MessageEntity("bold", 1, 2)], "entity beginning at UTF-16 offset 1 begins in a middle"),
        ("a😀", [MessageEntity("bold", 0, 2)], "entity beginning at UTF-16 offset 0 ends in a middle"),
        ("abc", [MessageEntity("bold", 0, 0)], "receive entity with incorrect length 0"),
        ("abc", [MessageEntity("bold", -1, 1)], "receive entity with incorrect offset -1"),
        ("abc", [MessageEntity("text_link", 0, 1)], "can't parse MessageEntity: Can't find field 'url'"),
        ("abc", [MessageEntity("shout", 0, 1)], "can't parse MessageEntity: Unsupported type"),
        (
            "abc",
            [MessageEntity("bold", 0, 2), MessageEntity("italic", 1, 2)],
            "can't use entities: italic overlaps bold",
        ),
        (
            "abc",
            [MessageEntity("pre", 0, 3), MessageEntity("bold", 1, 1)],
            "can't use entities: bold is inside of pre",
        ),
    ],
)
async def test_texts_are_refused(world: World, text: str, entities: list[MessageEntity], words: str) -> None:
    await world.refused(world.bot.send_message(world.group.id, text, entities=entities), words)
    assert world.texts() == []


async def test_limits_count_utf_16_units(world: World) -> None:
    await world.bot.send_message(world.group.id, "😀" * 2048)
    await world.bot.send_photo(world.group.id, PNG, caption="😀" * 512)
    await world.refused(
        world.bot.send_photo(world.group.id, PNG, caption="x" * 1025), "message caption is too long"
    )
    await world.refused(world.bot.send_message(world.group.id, "*a*", parse_mode="Markdown"), "parse_mode")
    assert world.api.complaints == ["sendMessage has no parameter parse_mode"]


async def test_edits_deletions_and_replies_are_refused(world: World) -> None:
    bot, group, api = world.bot, world.group, world.api
    own = await bot.send_message(group.id, "own")
    photo = await bot.send_photo(group.id, PNG)
    foreign = api.write(group, world.ada, "hers")
    await world.refused(bot.edit_message_text("own", group.id, own.message_id), "message is not modified")
    await world.refused(bot.edit_message_text("x", group.id, 4711), "message to edit not found")
    await world.refused(bot.edit_message_text("x", group.id, foreign.id), "message can't be edited")
    await world.refused(bot.edit_message_text("x", group.id, photo.message_id), "there is no text")
    await world.refused(
        bot.edit_message_caption(group.id, own.message_id, caption="x"), "there is no caption"
    )
    await world.refused(bot.delete_message(group.id, 4711), "message to delete not found")
    await world.refused(bot.delete_message(group.id, foreign.id), "message can't be deleted")
    await world.refused(bot.delete_messages(group.id, [foreign.id]), "message can't be deleted")
    gone = ReplyParameters(4711)
    await world.refused(bot.send_message(group.id, "x", reply_parameters=gone), "message to be replied not")
    lenient = ReplyParameters(4711, allow_sending_without_reply=True)
    assert (await bot.send_message(group.id, "x", reply_parameters=lenient)).reply_to_message is None
    api.set_status(group, api.bots[0], "administrator", world.ada)
    assert await bot.delete_message(group.id, foreign.id)


async def test_reactions_are_set_by_the_bot_and_limited(world: World) -> None:
    bot, group = world.bot, world.group
    message = world.api.write(group, world.ada, "hello")
    assert await bot.set_message_reaction(group.id, message.id, "👍")
    assert message.emoji == {bot.id: ["👍"]}
    await world.refused(bot.set_message_reaction(group.id, message.id, "🐌"), "REACTION_INVALID")
    custom = ReactionTypeCustomEmoji("5368324170671202286")
    await world.refused(bot.set_message_reaction(group.id, message.id, custom), "REACTION_INVALID")
    await world.refused(bot.set_message_reaction(group.id, message.id, ["👍", "🔥"]), "REACTIONS_TOO_MANY")
    await world.refused(bot.set_message_reaction(group.id, 4711, "👍"), "message to react not found")
    assert await bot.set_message_reaction(group.id, message.id)
    assert message.emoji == {}
    assert {one.replace("\ufe0f", "") for one in REACTIONS} == {
        emoji.value.replace("\ufe0f", "") for emoji in ReactionEmoji
    }


async def test_topics_and_chats_are_read(world: World) -> None:
    bot, group, api = world.bot, world.group, world.api
    topic = api.topic(group, "News", world.ada)
    sent = await bot.send_message(group.id, "in a topic", message_thread_id=topic)
    assert (sent.message_thread_id, sent.is_topic_message) == (topic, True)
    await world.refused(bot.send_message(group.id, "x", message_thread_id=4711), "message thread not found")
    assert (await bot.get_chat(group.id)).title == "Example"
    assert [one.user.id for one in await bot.get_chat_administrators(group.id)] == [world.ada.id]
    assert await bot.get_chat_member_count(group.id) == 2
    assert (await bot.get_chat_member(group.id, bot.id)).status == "member"
    assert (await bot.get_chat_member(group.id, api.user("Grace").id)).status == "left"
    assert await bot.send_chat_action(group.id, "typing")
    assert (await bot.get_me()).can_read_all_group_messages is False


async def test_a_chat_without_access_is_refused(world: World) -> None:
    bot, group, api = world.bot, world.group, world.api
    await world.refused(bot.send_message(4711, "x"), "chat not found")
    made, ada = api.bots[0], world.ada
    api.set_status(group, made, "restricted", ada, can_send=False)
    await world.refused(
        bot.send_message(group.id, "x"), "not enough rights to send text messages to the chat"
    )
    api.set_status(group, made, "kicked", ada)
    kicked = "Forbidden: bot was kicked from the supergroup chat"
    await world.refused(bot.send_message(group.id, "x"), kicked, Forbidden)
    channel = api.chat("channel", "News", ada, made, username="example_news")
    await world.refused(bot.send_message("@example_news", "x"), "need administrator rights in the channel")
    api.set_status(channel, made, "administrator", ada)
    assert (await bot.send_message("@example_news", "x")).sender_chat is not None
    old = api.chat("group", "Old", ada, made)
    new = api.migrate(old)
    moved = await world.refused(bot.send_message(old.id, "x"), "Group migrated", ChatMigrated)
    assert isinstance(moved, ChatMigrated)
    assert moved.new_chat_id == new.id


async def test_faults_come_on_request(world: World) -> None:
    bot, group, api = world.bot, world.group, world.api
    api.fail(Fault(429, retry_after=7), Fault(500), Fault(502), Fault(loses_response=True))
    limited = await world.refused(bot.send_message(group.id, "x"), "Flood control exceeded", RetryAfter)
    assert isinstance(limited, RetryAfter)
    await world.refused(bot.send_message(group.id, "x"), "Internal Server Error", NetworkError)
    await world.refused(bot.send_message(group.id, "x"), "Bad Gateway", NetworkError)
    assert world.texts() == []
    await world.refused(bot.send_message(group.id, "lost"), "", NetworkError)
    assert world.texts() == ["lost"], "the effect is there, the response is not"
    api.fail(Fault(delay_s=0.5))
    await world.refused(bot.send_message(group.id, "late", read_timeout=0.1), "Timed out", TimedOut)
    eventually(lambda: world.texts() == ["lost", "late"])
    api.fail(Fault(500, method="getChat"))
    await bot.send_message(group.id, "not that method")
    await world.refused(bot.get_chat(group.id), "Internal Server Error", NetworkError)
    world.hosts.take_down(HOST)
    with pytest.raises(httpx.ProxyError):
        ask(world, f"/bot{world.token}/getMe")
    world.hosts.bring_up()
    api.bots[0].new_token()
    await world.refused(bot.send_message(group.id, "x"), "Unauthorized", InvalidToken)


def ask(world: World, path: str, **how: Any) -> httpx.Response:
    """A request without the SDK."""
    trust = ssl.create_default_context(cadata=world.hosts._authority.pem)
    with httpx.Client(proxy=world.hosts.proxy, verify=trust, trust_env=False) as client:
        return client.request(how.pop("method", "GET"), f"https://{HOST}{path}", **how)


async def test_requests_come_in_every_form(world: World) -> None:
    at = f"/bot{world.token}/sendMessage"
    values = {"chat_id": str(world.group.id), "text": "a"}
    assert ask(world, at, params=values).json()["ok"]
    assert ask(world, at, method="POST", data=values).json()["ok"]
    assert ask(world, at, method="POST", json=values).json()["ok"]
    assert world.texts() == ["a", "a", "a"]
    other = ask(world, at, method="POST", json=values | {"colour": "red"})
    assert other.json()["ok"]
    assert world.api.complaints == ["sendMessage has no parameter colour"]
    unknown = {"ok": False, "error_code": 404, "description": "Not Found: method not found"}
    assert ask(world, f"/bot{world.token}/sendNothing").json() == unknown
    assert ask(world, "/botnothing/getMe").status_code == 404
    assert ask(world, f"/bot{world.token[:-1]}x/getMe").json()["description"] == "Unauthorized"
    assert (
        ask(world, at, method="POST", content=b"{", headers={"content-type": "application/json"}).status_code
        == 400
    )
    assert ask(world, f"/file/bot{world.token}/nothing").status_code == 404


async def test_webhooks_are_set_and_removed(world: World) -> None:
    bot = world.bot
    await world.refused(bot.set_webhook("http://hub.example.com/hook"), "bad webhook: An HTTPS URL")
    await world.refused(bot.set_webhook("https://hub.example.com:8080/"), "bad webhook: Webhook can be set")
    await world.refused(bot.set_webhook(HOOK, secret_token="not/this"), "secret token contains")
    world.api.routes["https://hub.example.com"] = "http://127.0.0.1:1"
    assert await bot.set_webhook(HOOK, secret_token="s-1", allowed_updates=["message"], max_connections=1)
    await world.refused(bot.get_updates(), "Conflict: can't use getUpdates", TelegramError)
    world.api.write(world.group, world.ada, "/start")
    made = world.api.bots[0]
    eventually(lambda: made.updates.last_error)
    info = await bot.get_webhook_info()
    assert (info.url, info.allowed_updates, info.pending_update_count) == (HOOK, ("message",), 1)
    assert info.last_error_message == "Connection refused"
    assert await bot.delete_webhook()
    [update] = await bot.get_updates()
    assert update.message is not None
    assert update.message.text == "/start"
    assert await bot.get_updates(offset=update.update_id + 1) == ()


async def test_updates_are_posted_in_order_until_they_are_accepted(world: World) -> None:
    api, group, ada = world.api, world.group, world.ada
    made = api.bots[0]
    with receiver() as hook:
        hook.answers = [500, 429]
        api.routes["https://hub.example.com"] = hook.origin
        await world.bot.set_webhook(HOOK, secret_token="s-1", allowed_updates=ALL)
        api.write(group, ada, "nobody sees this: privacy")
        api.set_status(group, made, "administrator", ada)
        message = api.write(group, ada, "hello")
        api.edit(message, "hello again")
        api.react(message, ada, "👍")
        api.send_album(group, ada, [PNG, PNG], "two")
        await world.bot.send_message(group.id, "the bot's own")
        await world.bot.set_message_reaction(group.id, message.id, "🔥")
        api.delete(message)
        api.migrate(api.chat("group", "Old", ada, made))
        channel = api.chat("channel", "News", ada, made)
        api.set_status(channel, made, "administrator", ada)
        await world.bot.send_message(channel.id, "own post")
        api.edit(api.write(channel, None, "post"), "edited post")
        kinds = ["my_chat_member", "message", "edited_message", "message_reaction", "message", "message"]
        kinds += [
            "message",
            "message",
            "my_chat_member",
            "channel_post",
            "channel_post",
            "edited_channel_post",
        ]
        eventually(lambda: len(hook.updates) >= len(kinds))
        assert hook.kinds() == kinds
        assert hook.secrets == {"s-1"}
        assert made.updates.attempts[:3] == [500, 429, 200]
        ids = [one["update_id"] for one in hook.updates]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        parsed = [Update.de_json(one, world.bot) for one in hook.updates]
        assert parsed[3].message_reaction is not None
        assert parsed[3].message_reaction.new_reaction == (ReactionTypeEmoji("👍"),)
        albums = {one.message.media_group_id for one in parsed[4:6] if one.message}
        assert len(albums) == 1
        assert hook.updates[6]["message"]["migrate_to_chat_id"] == hook.updates[7]["message"]["chat"]["id"]


async def test_updates_are_doubled_and_swapped_on_request(world: World) -> None:
    updates = world.api.bots[0].updates
    with receiver() as hook:
        world.api.routes["https://hub.example.com"] = hook.origin
        await world.bot.set_webhook(HOOK)
        updates.duplicate_next = 1
        world.api.write(world.group, world.ada, "/one")
        eventually(lambda: len(hook.updates) == 2)
        updates.swap_next = 1
        world.api.write(world.group, world.ada, "/two")
        world.api.write(world.group, world.ada, "/three")
        eventually(lambda: len(hook.updates) == 4)
        assert [one["message"]["text"] for one in hook.updates] == ["/one", "/one", "/three", "/two"]


async def test_privacy_and_default_updates_hide_what_a_bot_does_not_see(world: World) -> None:
    api, group, ada = world.api, world.group, world.ada
    made = api.bots[0]
    api.set_status(group, made, "administrator", ada)
    message = api.write(group, ada, "seen")
    api.react(message, ada, "👍")
    api.set_status(group, made, "member", ada)
    api.write(group, ada, "not seen")
    own = await world.bot.send_message(group.id, "own")
    api.write(group, ada, "answer", reply_to=group.messages[own.message_id])
    api.write(group, ada, "for @example_bot")
    api.write(api.private(ada, made), ada, "to the bot")
    got = await world.bot.get_updates()
    texts = [one.message.text for one in got if one.message]
    assert texts == ["seen", "answer", "for @example_bot", "to the bot"]
    assert all(one.message_reaction is None for one in got)
