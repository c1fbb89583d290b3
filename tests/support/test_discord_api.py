"""The strict Discord server, read by discord.py: all that a bot may read, and its limits."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import discord
import pytest
from discord.http import Route

from tests.support.discord_setting import Setting, served, setting
from tests.support.fakes.discord_state import FORUM, PRIVATE_THREAD, THREADS

_UNSEEN = frozenset({"hidden", "now", "others"})


@pytest.fixture
def at() -> Setting:
    made = setting()
    made.discord.limits.overall.limit = 1_000_000
    return made


@asynccontextmanager
async def client(at: Setting, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[discord.Client]:
    """Yield a client that is logged in; it has no Gateway connection."""
    with served(at.discord) as url:
        monkeypatch.setattr(Route, "BASE", f"{url}/api/v10")
        found = discord.Client(intents=discord.Intents.all(), max_ratelimit_timeout=None)
        async with found:
            await found.login(at.bot.token)
            yield found
    assert at.discord.complaints == []


async def _read(channel: discord.abc.Messageable) -> dict[str, tuple[str, str, dict[str, int]]]:
    """Return text, author and the numbers of the people who reacted, by the message's id."""
    found = {}
    async for message in channel.history(limit=None, oldest_first=True):
        reactions = {}
        for reaction in message.reactions:
            reactions[str(reaction.emoji)] = len([user async for user in reaction.users()])
        found[str(message.id)] = message.content, str(message.author.id), reactions
    return found


async def test_the_client_reads_what_is_there(at: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    at.discord.limits.routes["channels/{channel}/messages/{message}/reactions/{emoji}"] = (1_000, 0.1)
    found: dict[str, tuple[str, str, dict[str, int]]] = {}
    async with client(at, monkeypatch) as reader:
        guild = await reader.fetch_guild(int(at.guild.id))
        assert {role.name for role in guild.roles} == {"@everyone", "Staff"}
        channels = await guild.fetch_channels()
        names = {member.display_name async for member in guild.fetch_members(limit=None)}
        threads = list(await guild.active_threads())
        for channel in channels:
            if channel.name in _UNSEEN:
                continue
            if isinstance(channel, discord.TextChannel | discord.ForumChannel):
                threads += [one async for one in channel.archived_threads(limit=None)]
            if isinstance(channel, discord.TextChannel):
                joined = channel.archived_threads(private=True, joined=True, limit=None)
                threads += [one async for one in joined]
            if isinstance(channel, discord.TextChannel | discord.VoiceChannel):
                found |= await _read(channel)
        for thread in threads:
            found |= await _read(thread)
    assert names == {"Ada", "Grace", "Alan T", "importer"}
    own = at.guild.channels.values()
    assert {channel.id for channel in channels} == {int(one.id) for one in own if one.type not in THREADS}
    listed = [one for one in own if one.type in THREADS and one.name != "others"]
    assert sorted(one.id for one in threads) == sorted(int(one.id) for one in listed)
    expected = {
        message.id: (
            message.content,
            message.author.id,
            {_shown(emoji): len(people) for emoji, people in message.reactions.items()},
        )
        for channel in own
        if channel.name not in _UNSEEN and channel.type != FORUM
        for message in channel.messages
    }
    assert found == expected
    assert len(found) > 600


def _shown(emoji: str) -> str:
    name, _, id_ = emoji.partition(":")
    return f"<:{name}:{id_}>" if id_ else name


async def test_closed_channels_and_unknown_ones_are_refused(
    at: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(at, monkeypatch) as reader:
        guild = await reader.fetch_guild(int(at.guild.id))
        channels = {channel.name: channel for channel in await guild.fetch_channels()}
        hidden, now = channels["hidden"], channels["now"]
        assert isinstance(hidden, discord.TextChannel)
        assert isinstance(now, discord.TextChannel)
        with pytest.raises(discord.Forbidden) as refused:
            await _read(hidden)
        assert (refused.value.status, refused.value.code) == (403, 50001)
        assert await _read(now) == {}
        with pytest.raises(discord.NotFound) as unknown:
            await reader.fetch_channel(1)
        assert (unknown.value.status, unknown.value.code) == (404, 10003)
        with pytest.raises(discord.Forbidden):
            await reader.fetch_channel(int(at.channels["others"].id))
        general = channels["general"]
        assert isinstance(general, discord.TextChannel)
        with pytest.raises(discord.Forbidden) as needs:
            async for _ in general.archived_threads(private=True):
                pass
        assert needs.value.code == 50013
    assert at.channels["others"].type == PRIVATE_THREAD


async def test_the_headers_tell_the_client_when_to_call_again(
    at: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that follows the headers is never refused, and needs as long as the limit says."""
    limits = at.discord.limits
    limits.routes["channels/{channel}/messages"] = (1, 0.5)
    async with client(at, monkeypatch) as reader:
        general = await reader.fetch_channel(int(at.channels["general"].id))
        assert isinstance(general, discord.TextChannel)
        started = time.monotonic()
        assert len([message async for message in general.history(limit=None)]) > 290
        assert time.monotonic() - started >= 1.5  # four pages
    assert limits.refused == 0


async def test_a_call_too_many_is_refused_and_repeated(at: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = at.discord.limits
    limits.overall.limit, limits.overall.window = 3, 1.0
    async with client(at, monkeypatch) as reader:
        ids = [int(at.channels[name].id) for name in ("general", "quiet", "staff", "voice", "help")]
        found = await asyncio.gather(*(reader.fetch_channel(id_) for id_ in ids))
        assert [channel.id for channel in found] == ids
    assert limits.refused > 0


async def test_a_wrong_token_is_refused(at: Setting) -> None:
    with served(at.discord) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Route, "BASE", f"{url}/api/v10")
        async with discord.Client(intents=discord.Intents.none()) as reader:
            with pytest.raises(discord.LoginFailure):
                await reader.login("not.a.token")
