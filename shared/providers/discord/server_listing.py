"""Members, channels and private threads of a server of Discord, as a bot may list them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.contracts.errors import Malformed
from shared.manifests.channel_types import ChannelFailure, Operation, Page, Step
from shared.manifests.history_types import Contents, HistoryConversation, HistoryPerson
from shared.providers.discord.api_calls import call, json_list, json_object, read_step
from shared.providers.discord.messages import objects, person_of, snowflake, snowflake_time, text_of
from shared.providers.discord.permissions import (
    CONNECT,
    MANAGE_THREADS,
    READ_MESSAGE_HISTORY,
    VIEW_CHANNEL,
    Viewer,
    everybody,
    member,
)

if TYPE_CHECKING:  # a reader process of an import starts without pydantic
    from shared.manifests.history_models import HistorySpec

PUBLIC_THREADS: Final = frozenset({10, 11})
FORUMS: Final = frozenset({15, 16})
WITH_THREADS: Final = frozenset({0, 5, *FORUMS})
_PRIVATE_THREAD: Final = 12
_CATEGORY: Final = 4
_TEXT: Final = 0
_VOICE: Final = frozenset({2, 13})
_READ: Final = WITH_THREADS | _VOICE
_MEMBERS: Final = 1_000
_MAX_CHANNELS: Final = 1_000
_MAX_THREADS: Final = 1_000
_NEEDED: Final[Mapping[int, str]] = {
    VIEW_CHANNEL: "View Channel",
    READ_MESSAGE_HISTORY: "Read Message History",
    CONNECT: "Connect",
}


def members_step(guild: str, cursor: str | None) -> Step:
    """Return the step for a page of members."""
    return read_step("guilds.members", f"guilds/{guild}/members", limit=str(_MEMBERS), after=cursor or "")


def members_page(items: Sequence[Any]) -> Page:
    """Return a page of people with their names in the server."""
    people = []
    for item in objects(list(items), _MEMBERS):
        try:
            person = person_of(item.get("user"), {})
        except Malformed:
            continue
        nick = text_of(item.get("nick"))
        people.append(HistoryPerson(replace(person, name=nick or person.name)))
    is_full = len(items) >= _MEMBERS and bool(people)
    return Page(people, people[-1].person.id if is_full else None)


def channels_page(spec: "HistorySpec", contents: Contents, guild: Mapping[str, Any]) -> Operation[Page]:
    """Return the channels of a server and its active private threads.

    The cursor names the channels of which archived private threads have to be asked for.
    """
    guild_id, bot_id = contents.values["guild"], contents.values["bot"]
    item = yield from call(spec, read_step("guilds.members", f"guilds/{guild_id}/members/{bot_id}"))
    bot, public = member(guild, bot_id, item.json), everybody(guild)
    response = yield from call(spec, read_step("guilds.channels", f"guilds/{guild_id}/channels"))
    channels = [
        channel
        for channel in objects(json_list(spec, response), _MAX_CHANNELS)
        if snowflake(channel.get("id")) and isinstance(channel.get("type"), int)
    ]
    categories = {channel["id"]: channel for channel in channels if channel["type"] == _CATEGORY}
    readable = [channel for channel in channels if channel["type"] in _READ]
    readable.sort(key=lambda channel: _position(channel, categories))
    found = [_channel(channel, categories, bot, public) for channel in readable]
    response = yield from call(spec, read_step("guilds.threads", f"guilds/{guild_id}/threads/active"))
    found += _private_threads(json_object(spec, response))
    pending = [
        f"{'m' if bot.permissions(channel) & MANAGE_THREADS else 'j'}{channel['id']}"
        for channel, conversation in zip(readable, found, strict=False)
        if channel["type"] == _TEXT and not conversation.problem
    ]
    return Page(found, orjson.dumps([pending, ""]).decode() if pending else None)


def archived_page(spec: "HistorySpec", cursor: str) -> Operation[Page]:
    """Return a page of archived private threads: all, or those that the bot was added to."""
    pending, before = orjson.loads(cursor)
    (first, *others), rest = pending, [pending[1:], ""]
    may_manage, channel = first[0] == "m", first[1:]
    path = "threads/archived/private" if may_manage else "users/@me/threads/archived/private"
    step = read_step("channels.threads", f"channels/{channel}/{path}", limit="100", before=before)
    try:
        response = yield from call(spec, step)
    except ChannelFailure as failure:
        if failure.kind not in {"conversation", "gone"}:
            raise
        return Page((), orjson.dumps(rest).decode() if others else None)
    content = json_object(spec, response)
    found = _private_threads(content)
    last = last_archived(content) if may_manage else _last_id(content)
    if content.get("has_more") is True and last and last != before:
        rest = [pending, last]
    return Page(found, orjson.dumps(rest).decode() if rest[0] else None)


def last_archived(content: Mapping[str, Any]) -> str:
    """Return the time at which the last thread of a list was archived, as Discord writes it; '' without."""
    threads = list(objects(content.get("threads"), _MAX_THREADS))
    metadata = threads[-1].get("thread_metadata") if threads else None
    return text_of(metadata.get("archive_timestamp"), 64) if isinstance(metadata, dict) else ""


def _last_id(content: Mapping[str, Any]) -> str:
    threads = list(objects(content.get("threads"), _MAX_THREADS))
    return snowflake(threads[-1].get("id")) if threads else ""


def _private_threads(content: Mapping[str, Any]) -> list[HistoryConversation]:
    """Return the private threads of a list. Who was added to one takes a call for each, and is left out."""
    found = []
    for item in objects(content.get("threads"), _MAX_THREADS):
        thread, metadata = snowflake(item.get("id")), item.get("thread_metadata")
        if thread and item.get("type") == _PRIVATE_THREAD:
            found.append(
                HistoryConversation(
                    thread,
                    text_of(item.get("name")) or thread,
                    "private",
                    archived=isinstance(metadata, dict) and metadata.get("archived") is True,
                    created_at=snowflake_time(thread),
                    parent=snowflake(item.get("parent_id")) or None,
                )
            )
    return found


def _channel(
    channel: Mapping[str, Any], categories: Mapping[str, Mapping[str, Any]], bot: Viewer, public: Viewer
) -> HistoryConversation:
    category = categories.get(channel.get("parent_id") or "")
    return HistoryConversation(
        channel["id"],
        text_of(channel.get("name")) or channel["id"],
        "channel" if public.sees(channel) else "private",
        created_at=snowflake_time(channel["id"]),
        topic=text_of(channel.get("topic"), 1000),
        category=text_of(category.get("name")) if category else "",
        problem=_problem(bot.permissions(channel), is_voice=channel["type"] in _VOICE),
    )


def _problem(permissions: int, *, is_voice: bool) -> str:
    needed = VIEW_CHANNEL | READ_MESSAGE_HISTORY | (CONNECT if is_voice else 0)
    lacks = [name for permission, name in _NEEDED.items() if needed & permission & ~permissions]
    if not lacks:
        return ""
    return f"The bot may not read this channel: give it {' and '.join(lacks)} there, then import again."


def _position(
    channel: Mapping[str, Any], categories: Mapping[str, Mapping[str, Any]]
) -> tuple[int, int, int]:
    category = categories.get(channel.get("parent_id") or "")
    own = channel.get("position")
    of_category = category.get("position") if category else -1
    return (
        of_category if isinstance(of_category, int) else 0,
        own if isinstance(own, int) else 0,
        int(channel["id"]),
    )
