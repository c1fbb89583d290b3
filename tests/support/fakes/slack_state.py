"""What a Slack workspace has: people, apps, channels and files, in the shapes in which its API shows them."""

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.support.recorded_secrets import record_secret

Json = dict[str, Any]
ChannelKind = Literal["channel", "group", "im", "mpim"]

READ_SCOPE: Final = {"channel": "channels:read", "group": "groups:read", "im": "im:read", "mpim": "mpim:read"}
HISTORY_SCOPE: Final = {kind: scope.replace(":read", ":history") for kind, scope in READ_SCOPE.items()}
LIST_TYPE: Final = {"channel": "public_channel", "group": "private_channel", "im": "im", "mpim": "mpim"}


class SlackError(Exception):
    """A refusal: `{"ok": false, "error": code}` with further fields."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(code)
        self.code = code
        self.more = more


@dataclass
class User:
    """A person or a bot of a workspace."""

    id: str
    team: str
    name: str
    real_name: str
    email: str
    picture: str
    is_bot: bool = False
    deleted: bool = False
    bot_id: str = ""
    email_confirmed: bool = True

    def profile(self, *, with_email: bool = True) -> Json:
        """Return the profile as Slack shows it; the e-mail only to those who may read it."""
        shown: Json = {
            "real_name": self.real_name,
            "real_name_normalized": self.real_name,
            "display_name": self.name,
            "display_name_normalized": self.name,
            "avatar_hash": hashlib.sha256(self.picture.encode()).hexdigest()[:12],
            "team": self.team,
        }
        shown |= {f"image_{size}": self.picture for size in (24, 32, 48, 72, 192, 512)}
        if self.bot_id:
            shown["bot_id"] = self.bot_id
        elif with_email:
            shown["email"] = self.email
        return shown

    def shown(self, *, with_email: bool = True) -> Json:
        """Return the user object."""
        return {
            "id": self.id,
            "team_id": self.team,
            "name": self.name,
            "real_name": self.real_name,
            "deleted": self.deleted,
            "is_bot": self.is_bot,
            "is_restricted": False,
            "is_ultra_restricted": False,
            "updated": 1795000000,
            "profile": self.profile(with_email=with_email),
            **({} if self.is_bot else {"is_email_confirmed": self.email_confirmed}),
        }


@dataclass
class App:
    """An app that is installed in one workspace, with its bot. `events_url` gets its events, signed."""

    id: str
    team: str
    name: str
    bot_id: str
    user_id: str
    token: str
    scopes: set[str]
    signing_secret: str
    events_url: str | None = None
    live: bool = True
    """False: the token was revoked."""

    def revoke(self) -> None:
        """End the token, at Slack."""
        self.live = False

    def bot_profile(self) -> Json:
        """Return what messages of the bot say about it."""
        return {
            "id": self.bot_id,
            "app_id": self.id,
            "user_id": self.user_id,
            "name": self.name,
            "team_id": self.team,
            "deleted": False,
            "icons": {"image_48": f"https://avatars.slack-edge.com/{self.bot_id}_48.png"},
        }


@dataclass
class Channel:
    """A conversation. `messages` are by their ts, as `conversations.history` shows them."""

    id: str
    name: str
    kind: ChannelKind
    members: list[str] = field(default_factory=list)
    archived: bool = False
    shared: bool = False
    """Whether another organization is in it (Slack Connect)."""
    created: int = 1795000000
    messages: dict[str, Json] = field(default_factory=dict)

    def shown(self, reader: str) -> Json:
        """Return the conversation object, as a user sees it."""
        shown: Json = {
            "id": self.id,
            "created": self.created,
            "is_channel": self.kind == "channel",
            "is_group": self.kind == "group",
            "is_im": self.kind == "im",
            "is_mpim": self.kind == "mpim",
            "is_private": self.kind != "channel",
            "is_archived": self.archived,
            "is_ext_shared": self.shared,
            "is_member": reader in self.members,
        }
        if self.kind == "im":
            return shown | {"user": next((one for one in self.members if one != reader), reader)}
        return shown | {"name": self.name, "name_normalized": self.name, "num_members": len(self.members)}


@dataclass
class File:
    """A file. Before `data` was uploaded it is None."""

    id: str
    team: str
    owner: str
    name: str
    length: int
    data: bytes | None = None
    title: str = ""
    media_type: str = "application/octet-stream"
    alt_text: str = ""
    upload_key: str = ""
    completed: bool = False
    deleted: bool = False
    shares: dict[str, list[str]] = field(default_factory=dict)
    """The ts of the messages with it, by channel."""
    check_info: bool = False
    """Events show only its id: the rest has to be asked for (`file_access`)."""

    @property
    def url(self) -> str:
        """The private address, which wants the token of an app."""
        return f"https://files.slack.com/files-pri/{self.team}-{self.id}/{self.name}"

    def shown(self) -> Json:
        """Return the file object."""
        if self.deleted:
            return {"id": self.id, "mode": "tombstone"}
        shown: Json = {
            "id": self.id,
            "created": 1795000000,
            "name": self.name,
            "title": self.title or self.name,
            "mimetype": self.media_type,
            "filetype": self.name.rpartition(".")[2],
            "user": self.owner,
            "user_team": self.team,
            "mode": "hosted",
            "size": self.length,
            "is_external": False,
            "file_access": "visible",
            "url_private": self.url,
            "url_private_download": self.url.replace(f"-{self.id}/", f"-{self.id}/download/"),
        }
        return shown | ({"alt_txt": self.alt_text} if self.alt_text else {})

    def in_message(self) -> Json:
        """Return the file object as messages and events have it."""
        if self.check_info and not self.deleted:
            return {"id": self.id, "mode": "file_access", "file_access": "check_file_info"}
        return self.shown()


class Team:
    """The state of one workspace, and look-ups in it. Whoever changes or reads it holds `lock`."""

    def __init__(self, number: int, name: str) -> None:
        self.id = f"T{number:04d}TEST"
        self.name = name
        self.domain = name.lower().replace(" ", "-")
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.apps: dict[str, App] = {}
        self.channels: dict[str, Channel] = {}
        self.files: dict[str, File] = {}
        self.groups: dict[str, Json] = {}
        self.emoji: dict[str, str] = {}
        """Custom emoji: the address of the picture by name."""
        self.edit_window_s: float | None = None
        """How long a message can be edited; None: for ever."""
        self._count = 0
        self._last_ts = 0

    def ts(self) -> str:
        """Return a new ts, later than all before it."""
        with self.lock:
            self._last_ts = max(time.time_ns() // 1000, self._last_ts + 1)
            return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def number(self, prefix: str) -> str:
        """Return a new id with Slack's letter for its kind."""
        with self.lock:
            self._count += 1
            return f"{prefix}{self.id[1:5]}{self._count:05d}"

    def add_user(self, real_name: str, name: str = "", email: str = "", *, bot_id: str = "") -> User:
        """Add a person, or with `bot_id` a bot."""
        name = name or real_name.partition(" ")[0].lower()
        user_id = self.number("U")
        picture = f"https://avatars.slack-edge.com/{user_id}.png"
        email = email or f"{name}@example.com"
        user = User(user_id, self.id, name, real_name, email, picture, is_bot=bool(bot_id), bot_id=bot_id)
        self.users[user.id] = user
        return user

    def add_app(self, name: str, scopes: str, events_url: str | None = None) -> App:
        """Install an app with these scopes, separated by spaces."""
        bot_id = self.number("B")
        user = self.add_user(name, name.lower().replace(" ", ""), bot_id=bot_id)
        token, secret = f"xoxb-{secrets.token_hex(24)}", secrets.token_hex(16)
        record_secret("a token of a Slack app", token)
        record_secret("a signing secret of a Slack app", secret)
        app = App(
            self.number("A"),
            self.id,
            name,
            bot_id,
            user.id,
            token,
            set(scopes.split()),
            secret,
            events_url,
        )
        self.apps[app.id] = app
        return app

    def readable(self, channel_id: str, user_id: str) -> Channel:
        """Return a conversation that the user may know of; `channel_not_found`."""
        channel = self.channels.get(channel_id)
        if channel is None or (channel.kind != "channel" and user_id not in channel.members):
            raise SlackError("channel_not_found")
        return channel

    def joined(self, channel_id: str, user_id: str) -> Channel:
        """Return a conversation that the user is in; `channel_not_found`, `not_in_channel`."""
        channel = self.readable(channel_id, user_id)
        if user_id not in channel.members:
            raise SlackError("not_in_channel")
        return channel

    def direct(self, members: list[str]) -> tuple[Channel, bool]:
        """Return the direct conversation of these users, and whether it was there already."""
        kind: ChannelKind = "im" if len(members) == 2 else "mpim"
        for channel in self.channels.values():
            if channel.kind == kind and set(channel.members) == set(members):
                return channel, True
        made = Channel(self.number("D" if kind == "im" else "G"), "-".join(members), kind, members)
        self.channels[made.id] = made
        return made, False

    def name_of(self, kind: str, thing_id: str) -> str:
        """Return how people see a mention of a user, channel or group."""
        if kind == "user" and thing_id in self.users:
            return f"@{self.users[thing_id].name}"
        if kind == "channel" and thing_id in self.channels:
            return f"#{self.channels[thing_id].name}"
        if kind == "usergroup" and thing_id in self.groups:
            return f"@{self.groups[thing_id]['handle']}"
        return f"unknown {kind} {thing_id}"
