"""Histories of servers of Discord, read page by page with the API, as a bot sees them.

A channel is read from its oldest message on. Behind its messages are those of its public threads, the active
ones first. Discord gives the number of a reaction's people with a message, and the people by a call for each
reaction: a page ends when it has made `_MAX_REACTION_CALLS` of them, and the next one goes on behind it.
"""

from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from shared.contracts.errors import Malformed
from shared.manifests.channel_failures import history_failure
from shared.manifests.channel_types import Account, CallResponse, ChannelFailure, Operation, Page, Step
from shared.manifests.history_types import (
    EARLIEST,
    Broken,
    Contents,
    HistoryConversation,
    HistoryPage,
    HistoryRecord,
    ObservedRate,
    Option,
    choice,
)
from shared.providers.discord import server_listing
from shared.providers.discord.api_calls import call, json_list, json_object, observed_rate, read_step
from shared.providers.discord.dialect import parse
from shared.providers.discord.messages import (
    MAX_REACTIONS,
    Names,
    Source,
    objects,
    parse_message,
    snowflake,
    snowflake_time,
    text_of,
    time_of,
)
from shared.providers.discord.server_listing import FORUMS, PUBLIC_THREADS, WITH_THREADS

if TYPE_CHECKING:  # a reader process of an import starts without pydantic
    from shared.manifests.history_models import HistorySpec

_MESSAGES: Final = 100
_USERS: Final = 100
_MAX_REACTION_CALLS: Final = 50
_MAX_USER_PAGES: Final = 10
"""Calls for one reaction: those of 1,000 people."""
_MAX_GUILDS: Final = 200
_MAX_THREADS: Final = 1_000
_LISTED: Final = 50
"""Threads that a cursor holds at a time."""
_MAX_ROLES: Final = 250
_CONTENT_INTENT: Final = 1 << 18 | 1 << 19
_MEMBERS_INTENT: Final = 1 << 14 | 1 << 15
_SERVER: Final = "server"
_EXCERPT: Final = 500


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The position of the next page: messages of the first of `threads`, or else what `stage` names.

    `type` is that of the channel. `after` is the last message of the channel or thread that was read.
    `threads` are ids and titles. `active` are threads that were listed as active, because those that are
    archived meanwhile are listed again. `before` is the time from which the next archived threads are.
    """

    type: int
    stage: str = "messages"
    after: str = ""
    threads: tuple[tuple[str, str], ...] = ()
    active: tuple[str, ...] = ()
    before: str = ""
    reached: float = 0.0

    @property
    def text(self) -> str | None:
        is_last = self.stage == "end" and not self.threads
        return None if is_last else orjson.dumps(asdict(self)).decode()


@dataclass(slots=True)
class _Calls:
    """The calls for reactions of a page, and the rate that their responses have shown."""

    made: int = 0
    rate: ObservedRate | None = None


class PageReader:
    """Reads what a bot may read of a server."""

    KIND = "a Discord server"
    NEWEST_FIRST = False

    def __init__(self, spec: "HistorySpec") -> None:
        self._spec = spec
        parse("> - *a*")  # loads the parser of blocks

    def contents(self, account: Account, answers: Mapping[str, str]) -> Operation[Contents]:
        """Return what the bot may read of one of its servers. Raises `ChannelFailure`, and `Unreadable`."""
        response = yield from self._call(read_step("applications.me", "applications/@me"))
        flags = json_object(self._spec, response).get("flags")
        flags = flags if isinstance(flags, int) else 0
        if not flags & _CONTENT_INTENT:
            raise history_failure(self._spec, "no_message_content")
        response = yield from self._call(read_step("users.guilds", "users/@me/guilds"))
        guilds = {
            guild_id: text_of(guild.get("name")) or guild_id
            for guild in objects(json_list(self._spec, response), _MAX_GUILDS)
            if (guild_id := snowflake(guild.get("id")))
        }
        if not guilds:
            raise history_failure(self._spec, "no_server")
        options = [Option(guild_id, name) for guild_id, name in guilds.items()]
        only = options[0].value if len(options) == 1 else None
        server = choice(_SERVER, "Which server is imported?", options, answers, proposed=only)
        values = {"bot": account.id, "members": "1" if flags & _MEMBERS_INTENT else ""}
        if server.answer is not None:
            guild = yield from self._guild(server.answer)
            values |= {"guild": server.answer, "roles": _roles(guild)}
        notes = ["Of a reaction of more than 1,000 people, the first 1,000 are imported"]
        if not values["members"]:
            notes.append(
                "Only people who wrote are known: to have all, switch Server Members Intent on at "
                "https://discord.com/developers/applications, Bot"
            )
        return Contents(
            kind=self.KIND,
            provider="discord",
            account="",  # as in exports
            values=values,
            missing=("direct messages",),
            notes=notes,
            choices=[server],
        )

    def people(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return a page of members of the server; none if the bot may not list them."""
        if not contents.values["members"]:
            return Page(())
        step = server_listing.members_step(contents.values["guild"], cursor)
        response = yield from self._call(step)
        return server_listing.members_page(json_list(self._spec, response))

    def conversations(self, contents: Contents, cursor: str | None) -> Operation[Page]:
        """Return the channels and active private threads, then archived private threads by channel."""
        if cursor is not None:
            return (yield from server_listing.archived_page(self._spec, cursor))
        guild = yield from self._guild(contents.values["guild"])
        return (yield from server_listing.channels_page(self._spec, contents, guild))

    def page(
        self,
        contents: Contents,
        conversation: HistoryConversation,
        cursor: str | None,
        *,
        since: float,
        until: float,
    ) -> Operation[HistoryPage]:
        """Return a page of messages of a channel or of one of its threads; an empty one for a list."""
        place = _cursor(cursor)
        if place is None:
            place = yield from self._start(conversation, since)
        if place.threads:
            return (yield from self._thread_page(contents, conversation, place, since, until))
        if place.stage == "messages":
            source = Source(contents.values["guild"], conversation.id, conversation.id)
            following = "active" if place.type in WITH_THREADS else "end"
            rest = replace(place, stage=following, after="")
            return (yield from self._messages(contents, source, place, rest, until))
        found = yield from self._listed(contents.values["guild"], conversation.id, place, since, until)
        return HistoryPage((), found.text, found.reached)

    def _start(
        self, conversation: HistoryConversation, since: float
    ) -> Generator[Step, CallResponse, _Cursor]:
        step = read_step("channels.get", f"channels/{conversation.id}")
        channel = json_object(self._spec, (yield from self._call(step)))
        kind = channel.get("type")
        kind = kind if isinstance(kind, int) else 0
        return _Cursor(kind, "active" if kind in FORUMS else "messages", _id_before(since))

    def _thread_page(
        self,
        contents: Contents,
        conversation: HistoryConversation,
        place: _Cursor,
        since: float,
        until: float,
    ) -> Operation[HistoryPage]:
        """Return a page of the first thread; an empty one if the thread was deleted meanwhile."""
        (thread, title), *others = place.threads
        source = Source(contents.values["guild"], thread, conversation.id, thread, title)
        rest = replace(place, threads=tuple(others), after=_id_before(since))
        try:
            return (yield from self._messages(contents, source, place, rest, until))
        except ChannelFailure as failure:
            if failure.code != "unknown_channel":
                raise
            return HistoryPage((), rest.text, place.reached)

    def _messages(
        self, contents: Contents, source: Source, place: _Cursor, rest: _Cursor, until: float
    ) -> Operation[HistoryPage]:
        """Return the messages of a channel or thread behind a place. `rest` is what follows its last page."""
        path = f"channels/{source.channel}/messages"
        step = read_step("channels.messages", path, after=place.after or "0", limit=str(_MESSAGES))
        response = yield from self._call(step)
        items = json_list(self._spec, response)[:_MESSAGES]
        items = sorted(items, key=lambda item: int(_id(item) or "0"))
        names = Names(roles=_names(contents.values.get("roles", "")))
        records: list[HistoryRecord] = []
        calls, after = _Calls(), place.after
        is_last = len(items) < _MESSAGES
        for item in items:
            if snowflake_time(_id(item)) >= until:
                is_last = True
                break
            if calls.made >= _MAX_REACTION_CALLS:
                is_last = False
                break
            try:
                yield from self._add_people(source.channel, item, calls)
            except ChannelFailure as failure:
                if failure.kind != "later" or not records:
                    raise
                is_last = False  # the next page begins with this message, when it is its turn
                break
            records.append(_record(item, source, names))
            after = _id(item) or after
        reached = snowflake_time(after) or place.reached
        # Without a new id, the same page would come again and again.
        if not is_last and after == place.after:
            is_last = True
        following = replace(rest if is_last else replace(place, after=after), reached=reached)
        rate = calls.rate or observed_rate(response, "channels.messages")
        return HistoryPage(records, following.text, reached, rate)

    def _add_people(self, channel: str, item: Any, calls: "_Calls") -> Generator[Step, CallResponse, None]:
        """Put the people of its reactions into a message."""
        if not isinstance(item, dict) or not (message_id := _id(item)):
            return
        for reaction in objects(item.get("reactions"), MAX_REACTIONS):
            emoji = reaction.get("emoji")
            if not isinstance(emoji, dict) or not isinstance(reaction, dict):
                continue
            path = f"channels/{channel}/messages/{message_id}/reactions/{_emoji_path(emoji)}"
            details = reaction.get("count_details")
            has_burst = isinstance(details, dict) and bool(details.get("burst"))
            users: list[Any] = []
            for kind in ("", "1") if has_burst else ("",):
                users += yield from self._users(path, kind, calls)
            reaction["users"] = users

    def _users(self, path: str, kind: str, calls: "_Calls") -> Generator[Step, CallResponse, list[Any]]:
        """Return the people of a reaction; those so far, if it was removed meanwhile."""
        users: list[Any] = []
        after = ""
        for _ in range(_MAX_USER_PAGES):
            step = read_step("channels.reactions", path, limit=str(_USERS), after=after, type=kind)
            calls.made += 1
            try:
                response = yield from self._call(step)
            except ChannelFailure as failure:
                if failure.code not in {"unknown_message", "unknown_emoji"}:
                    raise
                break
            calls.rate = calls.rate or observed_rate(response, step.method)
            found = json_list(self._spec, response)[:_USERS]
            users += found
            following = _id(found[-1]) if found else ""
            if len(found) < _USERS or not following or following == after:
                break
            after = following
        return users

    def _listed(
        self, guild: str, channel: str, place: _Cursor, since: float, until: float
    ) -> Generator[Step, CallResponse, _Cursor]:
        """Return the cursor behind a list of threads: first the active ones, then archived ones by page."""
        if place.stage == "active":
            step = read_step("guilds.threads", f"guilds/{guild}/threads/active")
            response = yield from self._call(step)
            threads = _threads(json_object(self._spec, response), channel, place, since, until)
            listed = threads[:_LISTED]
            return replace(
                place,
                stage="active" if len(threads) > _LISTED else "archived",
                threads=listed,
                active=(*place.active, *(thread for thread, _ in listed)),
                after=_id_before(since),
            )
        path = f"channels/{channel}/threads/archived/public"
        step = read_step("channels.threads", path, limit=str(_LISTED), before=place.before)
        content = json_object(self._spec, (yield from self._call(step)))
        before = server_listing.last_archived(content)
        has_more = content.get("has_more") is True and bool(before) and before != place.before
        # The last one to be archived comes first, and a message takes a thread out of the archive.
        has_more = has_more and (time_of(before) or since) >= since
        threads = _threads(content, channel, place, since, until)
        return replace(
            place,
            stage="archived" if has_more else "end",
            threads=threads,
            before=before,
            after=_id_before(since),
        )

    def _guild(self, guild: str) -> Generator[Step, CallResponse, Mapping[str, Any]]:
        response = yield from self._call(read_step("guilds.get", f"guilds/{guild}"))
        return json_object(self._spec, response)

    def _call(self, step: Step) -> Generator[Step, CallResponse, CallResponse]:
        return call(self._spec, step)


def _threads(
    content: Mapping[str, Any], channel: str, place: _Cursor, since: float, until: float
) -> tuple[tuple[str, str], ...]:
    """Return the public threads of a channel in a list that have messages of the time, with titles."""
    found = [
        (thread, text_of(item.get("name"), 100) if place.type in FORUMS else "")
        for item in objects(content.get("threads"), _MAX_THREADS)
        if (thread := snowflake(item.get("id")))
        and thread not in place.active
        and item.get("parent_id") == channel
        and item.get("type") in PUBLIC_THREADS
        and snowflake_time(thread) < until
        and snowflake_time(snowflake(item.get("last_message_id")) or thread) >= since
    ]
    return tuple(sorted(found, key=lambda pair: int(pair[0])))


def _record(item: Any, source: Source, names: Names) -> HistoryRecord:
    try:
        return parse_message(item, source, names)
    except Malformed as error:
        place = f"channel {source.channel}, message {_id(item) or 'without an id'}"
        return Broken(place, str(error), str(item)[:_EXCERPT])


def _id(item: Any) -> str:
    return snowflake(item.get("id")) if isinstance(item, dict) else ""


def _emoji_path(emoji: Mapping[str, Any]) -> str:
    """Return an emoji as it stands in an address. One that was deleted has no name, but still its id."""
    name, emoji_id = emoji.get("name"), snowflake(emoji.get("id"))
    text = name if isinstance(name, str) and name else "_"
    return quote(f"{text}:{emoji_id}" if emoji_id else text, safe="")


def _id_before(since: float) -> str:
    """Return an id before all that are made at a time or later; '' for the beginning."""
    milliseconds = int(since * 1000) - 1_420_070_400_000 if since > EARLIEST else 0
    return str((milliseconds << 22) - 1) if milliseconds > 0 else ""


def _roles(guild: Mapping[str, Any]) -> str:
    names = {
        role: text_of(item.get("name"))
        for item in objects(guild.get("roles"), _MAX_ROLES)
        if (role := snowflake(item.get("id")))
    }
    return orjson.dumps(names).decode()


def _names(text: str) -> Mapping[str, str]:
    names: Mapping[str, str] = orjson.loads(text) if text else {}
    return names


def _cursor(text: str | None) -> _Cursor | None:
    if text is None:
        return None
    values = orjson.loads(text)
    threads = tuple((thread, title) for thread, title in values["threads"])
    return _Cursor(**values | {"threads": threads, "active": tuple(values["active"])})
