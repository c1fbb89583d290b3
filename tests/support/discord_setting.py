"""A server of Discord with channels, threads and a forum, for tests of its API and of what reads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tests.support import capture
from tests.support.fakes.discord_api import DiscordApi
from tests.support.fakes.discord_state import (
    CATEGORY,
    FORUM,
    HISTORY,
    PRIVATE_THREAD,
    VIEW,
    VOICE,
    Bot,
    Channel,
    Guild,
    User,
    iso,
    snowflake,
)
from tests.support.provider_hosts import HostRequest

START: Final = 1_704_153_600.0


@dataclass
class Setting:
    """A server with a bot and three people. `channels` are by name, threads among them."""

    discord: DiscordApi
    bot: Bot
    guild: Guild
    ada: User
    grace: User
    alan: User
    channels: dict[str, Channel] = field(default_factory=dict)


def setting(*, posts: int = 130, liked: int = 60) -> Setting:
    """Return a server with everything that a history may have, and with long channels and thread lists.

    `posts` are the threads of its forum, `liked` messages with two reactions each.
    """
    discord = DiscordApi()
    bot = discord.add_bot("Importer")
    ada, grace, alan = (discord.add_user(name) for name in ("Ada", "Grace", "Alan"))
    guild = discord.add_guild("Example", ada, bot)
    guild.join(grace)
    guild.join(alan, nick="Alan T")
    made = Setting(discord, bot, guild, ada, grace, alan)
    _add_channels(made)
    _talk(made, liked)
    _add_threads(made, posts)
    return made


def _add_channels(made: Setting) -> None:
    guild, channels = made.guild, made.channels
    staff = snowflake(START)
    guild.roles[staff] = ("Staff", 0)
    guild.members[made.ada.id] = (made.ada, [staff])
    closed = {guild.id: (0, VIEW), staff: (VIEW, 0)}
    texts = guild.add_channel("Texts", START, CATEGORY)
    channels["general"] = guild.add_channel("general", START, parent=texts.id, topic="all", position=1)
    channels["quiet"] = guild.add_channel("quiet", START, parent=texts.id, position=0)
    with_bot = closed | {made.bot.user.id: (VIEW, 0)}
    channels["staff"] = guild.add_channel("staff", START, overwrites=with_bot, position=2)
    channels["hidden"] = guild.add_channel("hidden", START, overwrites=closed, position=3)
    no_history = {guild.id: (0, HISTORY)}
    channels["now"] = guild.add_channel("now", START, overwrites=no_history, position=4)
    channels["voice"] = guild.add_channel("voice", START, VOICE, position=5)
    channels["help"] = guild.add_channel("help", START, FORUM, position=6)


def _talk(made: Setting, liked: int) -> None:
    ada, grace, alan, general = made.ada, made.grace, made.alan, made.channels["general"]
    people = [ada, grace, alan]
    for number in range(230):
        general.say(people[number % 3], f"line {number}", START + 60 * number)
    at = START + 86_400
    hello = general.say(
        grace, f"Hello <@{ada.id}>, see <#{general.id}> **now** :)", at, mentions=[ada.shown()]
    )
    emoji = snowflake(START)
    hello.reactions = {"👍": [ada, grace], f"party:{emoji}": [alan]}
    reference = {"type": 0, "message_id": hello.id, "channel_id": general.id, "guild_id": made.guild.id}
    general.say(ada, f"Thanks <:party:{emoji}>", at + 60, type=19, message_reference=reference, pinned=True)
    general.say(alan, "as I meant it", at + 120, edited_timestamp=iso(at + 180))
    general.say(alan, "", at + 240, type=7)
    plan = made.discord.attach(general, "plan.txt", b"the plan")
    general.say(ada, "the plan", at + 300, attachments=[plan])
    hook = made.discord.add_user("hook")
    general.say(hook, "", at + 360, webhook="Builds", embeds=[_embed()])
    popular = general.say(grace, "who likes this?", at + 420)
    popular.reactions = {"👍": [made.discord.add_user(f"Fan {number}") for number in range(120)]}
    for number in range(liked):
        message = general.say(grace, f"liked {number}", at + 480 + number)
        message.reactions = {"👍": [ada], "🎉": [alan]}
    made.channels["staff"].say(ada, "for the staff", START)
    made.channels["hidden"].say(ada, "for nobody else", START)
    made.channels["now"].say(ada, "gone at once", START)
    made.channels["voice"].say(alan, "can you hear me?", START)


def _embed() -> dict[str, object]:
    fields = [{"name": "branch", "value": "main", "inline": True}]
    text = {"title": "Build 7", "url": "https://ci.example.com/7", "description": "is **green**"}
    return {"type": "rich", "fields": fields, "footer": {"text": "CI"}, **text}


def _add_threads(made: Setting, posts: int) -> None:
    guild, general, forum = made.guild, made.channels["general"], made.channels["help"]
    starter = general.messages[10]
    thread = made.channels["plans"] = guild.add_thread(general, "plans", starter.id)
    reference = {"type": 0, "message_id": starter.id, "channel_id": general.id, "guild_id": guild.id}
    thread.say(made.ada, "", START + 700, type=21, message_reference=reference)
    for number in range(105):
        thread.say(made.grace, f"answer {number}", START + 800 + number)
    alone = made.channels["alone"] = guild.add_thread(general, "alone", snowflake(START + 90_000))
    points = {"type": 0, "channel_id": alone.id, "guild_id": guild.id}
    general.say(made.ada, "alone", START + 90_000, type=18, message_reference=points)
    alone.say(made.ada, "nobody is here", START + 90_060)
    alone.archived_at = START + 95_000
    for number in range(posts):
        post = guild.add_thread(forum, f"Question {number}", snowflake(START + 1_000 * number))
        first = post.say(made.alan, f"How does {number} work?", START + 1_000 * number)
        first.id = post.id
        post.say(made.ada, "Like this", START + 1_000 * number + 30)
        post.archived_at = START + 1_000 * number + 500 if number >= 3 else None
        made.channels[f"post {number}"] = post
    for name, type_, is_archived in (("heads", PRIVATE_THREAD, False), ("old heads", PRIVATE_THREAD, True)):
        secret = made.channels[name] = guild.add_thread(general, name, snowflake(START + 500), type_)
        secret.people = [made.ada, made.bot.user]
        secret.say(made.ada, f"a secret of {name}", START + 500)
        secret.archived_at = START + 600 if is_archived else None
    other = made.channels["others"] = guild.add_thread(general, "others", snowflake(START), PRIVATE_THREAD)
    other.people = [made.grace]
    other.say(made.grace, "not for the bot", START + 501)


@contextmanager
def served(discord: DiscordApi) -> Iterator[str]:
    """Serve the API as plain HTTP on this machine; yield the address before `/api`."""

    class Each(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = discord.handle(HostRequest("GET", "discord.com", url.path, parse_qs(url.query), headers))
            self.send_response(reply.status)
            for name, value in reply.fields:
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Each)
    server.daemon_threads = True
    capture.exclude_ports(server.server_port)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        capture.include_ports(server.server_port)
