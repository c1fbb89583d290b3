"""What a server of Discord has: people, roles, channels, threads and messages, as its API shows them.

Facts are from https://discord.com/developers/docs; times and ids are made, so that a test can choose them.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from tests.support.recorded_secrets import record_secret

Json = dict[str, Any]

TEXT, VOICE, CATEGORY, NEWS, FORUM = 0, 2, 4, 5, 15
NEWS_THREAD, PUBLIC_THREAD, PRIVATE_THREAD = 10, 11, 12
THREADS: Final = (NEWS_THREAD, PUBLIC_THREAD, PRIVATE_THREAD)
VIEW, HISTORY, CONNECT, MANAGE_THREADS, ADMIN = 0x400, 0x10000, 0x100000, 0x400000000, 0x8
MESSAGE_CONTENT, GUILD_MEMBERS = 1 << 19, 1 << 15
_EPOCH_MS: Final = 1_420_070_400_000
_numbers: Final = count(1)


def snowflake(unix: float) -> str:
    """Return a new id that was made at a Unix time."""
    return str((int(unix * 1000) - _EPOCH_MS << 22) + next(_numbers) % (1 << 12))


def unix_of(id_: str) -> float:
    """Return the Unix time of an id."""
    return ((int(id_) >> 22) + _EPOCH_MS) / 1000


def iso(unix: float) -> str:
    """Return a time as Discord writes it."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds")


@dataclass
class User:
    """A person or a bot. `nicks` are the names in servers, by the server's id."""

    id: str
    username: str
    global_name: str | None
    bot: bool = False
    nicks: dict[str, str] = field(default_factory=dict)

    def shown(self) -> Json:
        """Return the user object."""
        shown: Json = {"id": self.id, "username": self.username, "global_name": self.global_name}
        shown |= {"discriminator": "1234" if self.bot else "0", "avatar": None, "public_flags": 0}
        return shown | ({"bot": True} if self.bot else {})


@dataclass
class Bot:
    """An application with its bot and its owner. `flags` are the application's, which have the intents."""

    user: User
    owner: User
    flags: int = MESSAGE_CONTENT | GUILD_MEMBERS
    token: str = field(default_factory=lambda: f"{secrets.token_hex(12)}.abcdef.{secrets.token_hex(14)}")

    def __post_init__(self) -> None:
        record_secret("a bot's token", self.token)


@dataclass
class Message:
    """A message. `reactions` has the people by the emoji: a character, or `name:id` of one of the server."""

    id: str
    author: User
    content: str
    type: int = 0
    fields: Json = field(default_factory=dict)
    reactions: dict[str, list[User]] = field(default_factory=dict)
    webhook: str | None = None

    def shown(self, channel: "Channel", viewer: User, *, has_content: bool) -> Json:
        """Return the message object; without the intent, texts of others are not in it."""
        base: Json = {
            "id": self.id,
            "channel_id": channel.id,
            "type": self.type,
            "content": self.content,
            "author": self.author.shown(),
            "timestamp": iso(unix_of(self.id)),
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": "@everyone" in self.content,
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [],
            "pinned": False,
            "flags": 0,
            "components": [],
        }
        base |= self.fields
        if self.webhook:
            name = {"username": self.webhook, "global_name": None, "bot": True, "discriminator": "0000"}
            base |= {"webhook_id": self.author.id, "author": self.author.shown() | name}
        if self.reactions:
            base["reactions"] = [
                {
                    "emoji": emoji_of(emoji),
                    "count": len(people),
                    "count_details": {"burst": 0, "normal": len(people)},
                    "burst_colors": [],
                    "me_burst": False,
                    "burst_me": False,
                    "burst_count": 0,
                    "me": viewer in people,
                }
                for emoji, people in self.reactions.items()
            ]
        if not has_content and self.author is not viewer:
            base |= {"content": "", "embeds": [], "attachments": []}
        return base


def emoji_of(emoji: str) -> Json:
    """Return the emoji object of a reaction."""
    name, _, id_ = emoji.partition(":")
    return {"id": id_ or None, "name": name}


@dataclass
class Channel:
    """A channel, a category or a thread. `overwrites` have allow and deny by the id of role or person."""

    id: str
    guild: str
    type: int
    name: str
    parent: str | None = None
    topic: str | None = None
    position: int = 0
    overwrites: dict[str, tuple[int, int]] = field(default_factory=dict)
    archived_at: float | None = None
    people: list[User] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def shown(self) -> Json:
        """Return the channel object."""
        last = self.messages[-1].id if self.messages else None
        base: Json = {"id": self.id, "guild_id": self.guild, "type": self.type, "name": self.name}
        base |= {"parent_id": self.parent, "last_message_id": last, "flags": 0}
        if self.type in THREADS:
            metadata: Json = {
                "archived": self.archived_at is not None,
                "auto_archive_duration": 1440,
                "locked": False,
            }
            moment = self.archived_at if self.archived_at is not None else unix_of(self.id)
            metadata["archive_timestamp"] = iso(moment)
            return base | {
                "owner_id": self.messages[0].author.id if self.messages else "1",
                "thread_metadata": metadata,
                "message_count": len(self.messages),
                "member_count": len(self.people),
                "rate_limit_per_user": 0,
                "total_message_sent": len(self.messages),
            }
        overwrites = [
            {"id": id_, "type": 0, "allow": str(allow), "deny": str(deny)}
            for id_, (allow, deny) in self.overwrites.items()
        ]
        more: Json = {"topic": self.topic, "position": self.position, "permission_overwrites": overwrites}
        if self.type == VOICE:
            more |= {"bitrate": 64_000, "user_limit": 0, "rtc_region": None}
        return base | more | {"nsfw": False, "rate_limit_per_user": 0}

    def say(self, author: User, content: str, at: float, **fields: Any) -> Message:
        """Add a message of a Unix time; messages are added in the order of time."""
        kind, webhook = fields.pop("type", 0), fields.pop("webhook", None)
        made = Message(snowflake(at), author, content, kind, fields, webhook=webhook)
        self.messages.append(made)
        return made


@dataclass
class Guild:
    """A server. `roles` have names and permissions by id; that of everybody has the server's id."""

    id: str
    name: str
    owner: User
    roles: dict[str, tuple[str, int]] = field(default_factory=dict)
    members: dict[str, tuple[User, list[str]]] = field(default_factory=dict)
    """By id, with the ids of their roles."""
    channels: dict[str, Channel] = field(default_factory=dict)

    def join(self, user: User, *roles: str, nick: str | None = None) -> User:
        """Add a member."""
        self.members[user.id] = (user, list(roles))
        if nick:
            user.nicks[self.id] = nick
        return user

    def add_channel(self, name: str, at: float, type_: int = TEXT, **fields: Any) -> Channel:
        """Add a channel that was made at a Unix time."""
        made = Channel(snowflake(at), self.id, type_, name, **fields)
        self.channels[made.id] = made
        return made

    def add_thread(self, parent: Channel, name: str, id_: str, type_: int = PUBLIC_THREAD) -> Channel:
        """Add a thread; its id is that of the message that it began with, if there is one."""
        made = Channel(id_, self.id, type_, name, parent.id)
        self.channels[made.id] = made
        return made

    def permissions(self, user: User, channel: Channel) -> int:
        """Return what a member may do in a channel, or in the channel of a thread."""
        member = self.members.get(user.id)
        if member is None:
            return 0
        channel = self.channels[channel.parent or ""] if channel.type in THREADS else channel
        mine = [self.id, *member[1]]
        allowed = 0
        for role in mine:
            allowed |= self.roles[role][1]
        if allowed & ADMIN or user is self.owner:
            return -1
        everybody = channel.overwrites.get(self.id, (0, 0))
        allowed = allowed & ~everybody[1] | everybody[0]
        for number in (1, 0):  # what roles deny, then what they allow
            for role in mine[1:]:
                bits = channel.overwrites.get(role, (0, 0))[number]
                allowed = allowed | bits if number == 0 else allowed & ~bits
        own = channel.overwrites.get(user.id, (0, 0))
        return allowed & ~own[1] | own[0]

    def shown(self) -> Json:
        """Return the guild object, as far as clients read it."""
        roles = [
            {
                "id": id_,
                "name": name,
                "permissions": str(bits),
                "position": number,
                "color": 0,
                "hoist": False,
                "managed": False,
                "mentionable": True,
                "flags": 0,
            }
            for number, (id_, (name, bits)) in enumerate(self.roles.items())
        ]
        return {"id": self.id, "name": self.name, "owner_id": self.owner.id, "icon": None, "roles": roles}

    def member(self, user: User) -> Json:
        """Return the member object."""
        roles = self.members[user.id][1]
        return {
            "user": user.shown(),
            "nick": user.nicks.get(self.id),
            "roles": roles,
            "joined_at": iso(unix_of(self.id)),
            "deaf": False,
            "mute": False,
            "flags": 0,
        }
