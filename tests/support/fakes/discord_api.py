"""A strict Discord: what a bot can read with its API, version 10, and the files of messages.

    discord = DiscordApi()
    bot = discord.add_bot("Importer")
    guild = discord.add_guild("Example", owner)
    with ProviderHosts(discord.hosts) as hosts: ...

Facts are from https://discord.com/developers/docs. What Discord would let pass and a client must not do is
refused, and stands in `complaints`, a line each.
"""

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from time import time
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tests.support.fakes.discord_limits import Limits, json_reply
from tests.support.fakes.discord_state import (
    CATEGORY,
    CONNECT,
    FORUM,
    GUILD_MEMBERS,
    HISTORY,
    MANAGE_THREADS,
    MESSAGE_CONTENT,
    PRIVATE_THREAD,
    THREADS,
    VIEW,
    VOICE,
    Bot,
    Channel,
    Guild,
    Json,
    Message,
    User,
    iso,
    snowflake,
)
from tests.support.fakes.ranges import file_reply
from tests.support.provider_hosts import Handler, HostRequest, Reply

_PREFIX: Final = re.compile(r"/api/(?:v10/)?")
_MADE_AT: Final = 1_600_000_000.0
_EVERYBODY: Final = VIEW | HISTORY | CONNECT


class DiscordError(Exception):
    """A refusal: a status, and Discord's code with its message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.reply = json_reply({"message": message, "code": code}, status)


@dataclass
class _Call:
    """A call that a bot makes, with its query."""

    bot: Bot
    query: dict[str, str]
    body: Any = None

    def number(self, name: str, default: int, greatest: int) -> int:
        """Return a number from 1 on. Raises `DiscordError`."""
        text = self.query.get(name, str(default))
        if not text.isdecimal() or not 1 <= int(text) <= greatest:
            raise DiscordError(400, 50035, f"Invalid Form Body: {name}")
        return int(text)


class DiscordApi:
    """Discord. `hosts` are for ProviderHosts; `calls` are the paths that it was asked, with their queries."""

    def __init__(self) -> None:
        self.bots: dict[str, Bot] = {}
        self.guilds: dict[str, Guild] = {}
        self.files: dict[str, bytes] = {}
        """By the path of the address."""
        self.complaints: list[str] = []
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.limits = Limits()
        self.before: Callable[[str], None] | None = None
        """Called with the path before each call."""
        self._key = secrets.token_hex(16)
        self._lock = threading.RLock()
        self.hosts: dict[str, Handler] = {"discord.com": self.handle, "cdn.discordapp.com": self._file}

    def add_bot(self, name: str) -> Bot:
        """Return a new application with a bot."""
        user = User(snowflake(_MADE_AT), name.lower(), None, bot=True)
        bot = Bot(user, self.add_user(f"Owner of {name}"))
        self.bots[bot.token] = bot
        return bot

    def add_user(self, name: str, *, bot: bool = False) -> User:
        """Return a new person."""
        return User(snowflake(_MADE_AT), name.lower(), name, bot)

    def add_guild(self, name: str, owner: User, *bots: Bot) -> Guild:
        """Return a new server with a role for everybody, who may read everything, and with these bots."""
        guild = Guild(snowflake(_MADE_AT), name, owner)
        guild.roles[guild.id] = ("@everyone", _EVERYBODY)
        guild.join(owner)
        for bot in bots:
            guild.join(bot.user)
        self.guilds[guild.id] = guild
        return guild

    def attach(self, channel: Channel, name: str, content: bytes, *, lasts_s: float = 86_400) -> Json:
        """Return an attachment with an address of Discord's, which works for some seconds."""
        id_ = snowflake(_MADE_AT)
        path = f"/attachments/{channel.id}/{id_}/{name}"
        self.files[path] = content
        url = self.signed(path, lasts_s)
        return {"id": id_, "filename": name, "size": len(content), "url": url, "proxy_url": url}

    def signed(self, path: str, lasts_s: float) -> str:
        """Return an address of a file, which works for some seconds."""
        now = time()
        expires = f"{int(now + lasts_s):x}"
        signature = sha256(f"{self._key}{path}{expires}".encode()).hexdigest()
        return f"https://cdn.discordapp.com{path}?ex={expires}&is={int(now):x}&hm={signature}"

    def handle(self, request: HostRequest) -> Reply:
        """Answer a request to the API."""
        prefix = _PREFIX.match(request.path)
        if prefix is None:
            return json_reply({"message": "404: Not Found", "code": 0}, 404)
        path = request.path[prefix.end() :]
        if self.before is not None:
            self.before(path)
        with self._lock:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            bot = self.bots.get(token) if scheme == "Bot" else None
            if bot is None:
                return json_reply({"message": "401: Unauthorized", "code": 0}, 401)
            self.calls.append((path, request.params()))
            return self._answer(request, path, bot)

    def _answer(self, request: HostRequest, path: str, bot: Bot) -> Reply:
        for name, (pattern, allowed, run) in _ROUTES.items():
            match = pattern.fullmatch(path)
            if match is None or request.method != ("POST" if name in _POSTED else "GET"):
                continue
            resource = path.split("/")[1] if path.startswith(("channels/", "guilds/")) else ""
            refusal, headers = self.limits.take(name, resource)
            if refusal is not None:
                return refusal
            query = request.params()
            if unknown := sorted(query.keys() - allowed):
                self.complaints.append(f"{name} has no parameter {', '.join(unknown)}")
            try:
                body = request.json() if request.method == "POST" else None
                answer = run(self, _Call(bot, query, body), *map(unquote, match.groups()))
            except DiscordError as error:
                reply = error.reply
            else:
                reply = json_reply(answer)
            return Reply(reply.status, reply.body, [*reply.fields, *headers.items()])
        self.complaints.append(f"there is no {request.method} {path}")
        return json_reply({"message": "404: Not Found", "code": 0}, 404)

    def _file(self, request: HostRequest) -> Reply:
        content, query = self.files.get(request.path), request.params()
        expires = query.get("ex", "")
        signature = sha256(f"{self._key}{request.path}{expires}".encode()).hexdigest()
        if content is None or query.get("hm") != signature or int(expires, 16) <= time():
            return Reply(404, b"This content is no longer available.", {"content-type": "text/plain"})
        return file_reply(request, content, "text/plain")

    # What a call is about.

    def guild(self, call: _Call, id_: str) -> Guild:
        """Return a server of the bot. Raises `DiscordError`."""
        guild = self.guilds.get(id_)
        if guild is None or call.bot.user.id not in guild.members:
            raise DiscordError(404, 10004, "Unknown Guild")
        return guild

    def channel(self, call: _Call, id_: str, needed: int = VIEW) -> tuple[Guild, Channel]:
        """Return a channel that the bot sees. Raises `DiscordError`."""
        for guild in self.guilds.values():
            if (channel := guild.channels.get(id_)) is not None:
                self._check(call, guild, channel, needed)
                return guild, channel
        raise DiscordError(404, 10003, "Unknown Channel")

    def _check(self, call: _Call, guild: Guild, channel: Channel, needed: int) -> None:
        allowed = guild.permissions(call.bot.user, channel)
        is_private = channel.type == PRIVATE_THREAD and call.bot.user not in channel.people
        if not allowed & VIEW or (is_private and not allowed & MANAGE_THREADS):
            raise DiscordError(403, 50001, "Missing Access")
        if allowed & needed != needed:
            raise DiscordError(403, 50013, "Missing Permissions")


Run = Callable[..., Any]
_POSTED: Final = frozenset({"attachments/refresh-urls"})
_ROUTES: dict[str, tuple[re.Pattern[str], frozenset[str], Run]] = {}


def _route(path: str, query: str = "") -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        pattern = re.compile(re.sub(r"\{\w+\}", "([^/]+)", path))
        _ROUTES[path] = (pattern, frozenset(query.split()), run)
        return run

    return register


@_route("users/@me")
def _me(api: DiscordApi, call: _Call) -> Json:
    return call.bot.user.shown()


@_route("applications/@me")
@_route("oauth2/applications/@me")
def _application(api: DiscordApi, call: _Call) -> Json:
    user = call.bot.user
    base = {"id": user.id, "name": user.username, "flags": call.bot.flags, "description": "", "icon": None}
    owner = {"owner": call.bot.owner.shown(), "team": None}
    return (
        base
        | owner
        | {"verify_key": "", "bot_public": False, "bot_require_code_grant": False, "rpc_origins": []}
    )


@_route("users/@me/guilds", "limit after before with_counts")
def _guilds(api: DiscordApi, call: _Call) -> list[Json]:
    mine = (guild for guild in api.guilds.values() if call.bot.user.id in guild.members)
    return [{"id": guild.id, "name": guild.name, "icon": None, "owner": False} for guild in mine]


@_route("guilds/{guild}", "with_counts")
def _guild(api: DiscordApi, call: _Call, guild: str) -> Json:
    return api.guild(call, guild).shown()


@_route("guilds/{guild}/channels")
def _channels(api: DiscordApi, call: _Call, guild: str) -> list[Json]:
    channels = api.guild(call, guild).channels.values()
    return [channel.shown() for channel in channels if channel.type not in THREADS]


@_route("guilds/{guild}/members", "limit after")
def _members(api: DiscordApi, call: _Call, guild: str) -> list[Json]:
    if not call.bot.flags & GUILD_MEMBERS:
        raise DiscordError(403, 50001, "Missing Access")
    found, limit = api.guild(call, guild), call.number("limit", 1, 1000)
    after = int(call.query.get("after", "0"))
    ids = sorted((id_ for id_ in found.members if int(id_) > after), key=int)
    return [found.member(found.members[id_][0]) for id_ in ids[:limit]]


@_route("guilds/{guild}/members/{member}")
def _member(api: DiscordApi, call: _Call, guild: str, member: str) -> Json:
    found = api.guild(call, guild)
    if member not in found.members:
        raise DiscordError(404, 10007, "Unknown Member")
    return found.member(found.members[member][0])


@_route("guilds/{guild}/threads/active")
def _active(api: DiscordApi, call: _Call, guild: str) -> Json:
    found = api.guild(call, guild)
    threads = [one for one in _visible(call, found) if one.archived_at is None]
    threads.sort(key=lambda thread: int(thread.id), reverse=True)
    return {"threads": [thread.shown() for thread in threads], "members": []}


def _visible(call: _Call, guild: Guild) -> Iterator[Channel]:
    """Yield the threads that the bot sees; it sees a private one if it is in it, or manages threads."""
    for thread in guild.channels.values():
        if thread.type not in THREADS:
            continue
        allowed = guild.permissions(call.bot.user, thread)
        is_open = thread.type != PRIVATE_THREAD or call.bot.user in thread.people
        if allowed & VIEW and (is_open or allowed & MANAGE_THREADS):
            yield thread


@_route("attachments/refresh-urls")
def _refreshed(api: DiscordApi, call: _Call) -> Json:
    """Sign addresses of files anew: at most 50, and only those of its own hosts for files."""
    urls = call.body.get("attachment_urls") if isinstance(call.body, dict) else None
    if not isinstance(urls, list) or not 1 <= len(urls) <= 50:
        raise DiscordError(400, 50035, "Invalid Form Body: Must be between 1 and 50 in length.")
    parts = [urlsplit(url) for url in urls]
    if any(one.hostname not in ("cdn.discordapp.com", "media.discordapp.net") for one in parts):
        raise DiscordError(400, 50035, "Invalid Form Body: Not a valid attachment URL.")
    signed = [api.signed(one.path, 86_400) for one in parts]
    return {
        "refreshed_urls": [{"original": old, "refreshed": new} for old, new in zip(urls, signed, strict=True)]
    }


@_route("channels/{channel}")
def _channel(api: DiscordApi, call: _Call, channel: str) -> Json:
    return api.channel(call, channel)[1].shown()


@_route("channels/{channel}/messages", "limit before after around")
def _messages(api: DiscordApi, call: _Call, channel: str) -> list[Json]:
    guild, found = api.channel(call, channel)
    limit = call.number("limit", 50, 100)
    if len(call.query.keys() & {"before", "after", "around"}) > 1:
        raise DiscordError(400, 50035, "Invalid Form Body: before, after and around exclude each other")
    if found.type == VOICE:
        api.channel(call, channel, VIEW | CONNECT)
    if found.type in (CATEGORY, FORUM):
        raise DiscordError(400, 50024, "Cannot execute action on this channel type")
    if not guild.permissions(call.bot.user, found) & HISTORY:
        return []
    messages = sorted(found.messages, key=lambda message: int(message.id))
    if "after" in call.query:
        messages = [one for one in messages if int(one.id) > int(call.query["after"])][:limit]
    elif "before" in call.query:
        messages = [one for one in messages if int(one.id) < int(call.query["before"])]
    has_content = bool(call.bot.flags & MESSAGE_CONTENT)
    newest = messages[-limit:][::-1]
    return [_with_thread(guild, one.shown(found, call.bot.user, has_content=has_content)) for one in newest]


def _with_thread(guild: Guild, shown: Json) -> Json:
    thread = guild.channels.get(shown["id"])
    is_started_here = thread is not None and thread.parent == shown["channel_id"]
    return shown | {"thread": thread.shown(), "flags": 32} if thread and is_started_here else shown


@_route("channels/{channel}/messages/{message}/reactions/{emoji}", "limit after type")
def _reactions(api: DiscordApi, call: _Call, channel: str, message: str, emoji: str) -> list[Json]:
    people = _message(api, call, channel, message).reactions.get(emoji)
    if people is None:
        raise DiscordError(400, 10014, "Unknown Emoji")
    limit, after = call.number("limit", 25, 100), int(call.query.get("after", "0"))
    if call.query.get("type", "0") == "1":
        return []
    ordered = sorted((one for one in people if int(one.id) > after), key=lambda one: int(one.id))
    return [one.shown() for one in ordered[:limit]]


def _message(api: DiscordApi, call: _Call, channel: str, message: str) -> Message:
    _, found = api.channel(call, channel, VIEW | HISTORY)
    for one in found.messages:
        if one.id == message:
            return one
    raise DiscordError(404, 10008, "Unknown Message")


@_route("channels/{channel}/threads/archived/public", "before limit")
def _public(api: DiscordApi, call: _Call, channel: str) -> Json:
    return _archived(api, call, channel, HISTORY, private=False)


@_route("channels/{channel}/threads/archived/private", "before limit")
def _private(api: DiscordApi, call: _Call, channel: str) -> Json:
    return _archived(api, call, channel, HISTORY | MANAGE_THREADS, private=True)


@_route("channels/{channel}/users/@me/threads/archived/private", "before limit")
def _joined(api: DiscordApi, call: _Call, channel: str) -> Json:
    guild, _ = api.channel(call, channel, VIEW | HISTORY)
    before = int(call.query.get("before", str(1 << 63)))
    threads = [
        one
        for one in _of(guild, channel, private=True)
        if call.bot.user in one.people and int(one.id) < before
    ]
    threads.sort(key=lambda thread: int(thread.id), reverse=True)
    return _thread_page(call, threads)


def _archived(api: DiscordApi, call: _Call, channel: str, needed: int, *, private: bool) -> Json:
    guild, _ = api.channel(call, channel, VIEW | needed)
    before = call.query.get("before", "9999")
    threads = [one for one in _of(guild, channel, private=private) if iso(one.archived_at or 0) < before]
    threads.sort(key=lambda thread: thread.archived_at or 0, reverse=True)
    return _thread_page(call, threads)


def _of(guild: Guild, channel: str, *, private: bool) -> Iterator[Channel]:
    """Yield the archived threads of a channel."""
    for thread in guild.channels.values():
        is_private = thread.type == PRIVATE_THREAD
        is_archived = thread.parent == channel and thread.archived_at is not None
        if is_archived and is_private is private:
            yield thread


def _thread_page(call: _Call, threads: list[Channel]) -> Json:
    limit = call.number("limit", 50, 100)
    shown = [thread.shown() for thread in threads[:limit]]
    return {"threads": shown, "members": [], "has_more": len(threads) > limit}
