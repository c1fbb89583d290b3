"""What people do in a Slack workspace, and what they see there."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.fakes.slack_blocks import visible_text
from tests.support.fakes.slack_state import Channel, File, Json, Team, User

if TYPE_CHECKING:
    from tests.support.fakes.slack_changes import Workspace


@dataclass(frozen=True)
class Visible:
    """A message as people see it. `thread` is the ts of the thread's first message, for replies."""

    ts: str
    author: str
    icon: str
    text: str
    thread: str | None
    reactions: dict[str, tuple[str, ...]]
    """The names of those who reacted, by emoji."""
    files: tuple[tuple[str, bytes], ...]
    edited: bool
    broadcast: bool


class Person:
    """Somebody in a workspace. Acts return the ts of the message that they are about, or the file."""

    def __init__(self, workspace: "Workspace", user: User) -> None:
        self._workspace = workspace
        self.user = user
        self.user_id = user.id

    def write(
        self,
        channel: Channel,
        text: str = "",
        *,
        blocks: list[Json] | None = None,
        thread: str | None = None,
        broadcast: bool = False,
        files: Sequence[File] = (),
    ) -> str:
        """Write a message. Plain text becomes a rich_text block, as Slack's clients make it."""
        message = self._content(text, blocks) | {"user": self.user_id, "client_msg_id": str(uuid.uuid4())}
        if thread:
            message["thread_ts"] = thread
        if files:
            shown = [file.in_message() for file in files]
            message |= {"subtype": "file_share", "files": shown, "upload": False}
        ts: str = self._workspace.post(channel, message, broadcast=broadcast)["ts"]
        return ts

    def me(self, channel: Channel, text: str) -> str:
        """Write `/me text`."""
        ts: str = self._workspace.post(
            channel, {"subtype": "me_message", "user": self.user_id, "text": escaped(text)}
        )["ts"]
        return ts

    def edit(self, channel: Channel, ts: str, text: str = "", blocks: list[Json] | None = None) -> None:
        """Edit an own message."""
        self._workspace.edit(channel, ts, self.user_id, self._content(text, blocks))

    def delete(self, channel: Channel, ts: str) -> None:
        """Delete a message."""
        self._workspace.delete(channel, ts)

    def react(self, channel: Channel, ts: str, name: str) -> None:
        """Add a reaction."""
        self._workspace.react(channel, ts, self.user_id, name, added=True)

    def unreact(self, channel: Channel, ts: str, name: str) -> None:
        """Take an own reaction away."""
        self._workspace.react(channel, ts, self.user_id, name, added=False)

    def upload(self, name: str, data: bytes, media_type: str = "", *, check_info: bool = False) -> File:
        """Upload a file, for `write`."""
        workspace = self._workspace
        with workspace.lock:
            file = File(workspace.number("F"), workspace.id, self.user_id, name, len(data), data)
            file.media_type = media_type or file.media_type
            file.completed, file.check_info = True, check_info
            workspace.files[file.id] = file
            return file

    def join(self, channel: Channel) -> None:
        """Join a channel."""
        self._workspace.join(channel, self.user_id)

    def invite(self, channel: Channel, user_id: str) -> None:
        """Bring somebody, or the bot of an app, into a channel."""
        self._workspace.join(channel, user_id, inviter=self.user_id)

    def change(self, *, real_name: str = "", picture: str = "") -> None:
        """Change the own profile."""
        with self._workspace.lock:
            self.user.real_name = real_name or self.user.real_name
            self.user.picture = picture or self.user.picture
            self._workspace.emit({"type": "user_change", "user": self.user.shown()})

    def _content(self, text: str, blocks: list[Json] | None) -> Json:
        if blocks is not None:
            return {"text": escaped(text), "blocks": blocks}
        if not text:
            return {"text": ""}
        section: dict[str, Any] = {
            "type": "rich_text_section",
            "elements": [{"type": "text", "text": text}],
        }
        return {"text": escaped(text), "blocks": [{"type": "rich_text", "elements": [section]}]}


def escaped(text: str) -> str:
    """Return text as the `text` of messages has it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def visible(team: Team, channel: Channel) -> list[Visible]:
    """Return the messages of a channel and of its threads as people see them, oldest first."""
    with team.lock:
        ordered = sorted(channel.messages.values(), key=lambda one: tuple(map(int, one["ts"].split("."))))
        return [_visible(team, one) for one in ordered]


def _visible(team: Team, message: Json) -> Visible:
    user = team.users.get(message.get("user", ""))
    app = next((one for one in team.apps.values() if one.bot_id == message.get("bot_id")), None)
    author = message.get("username") or (user.real_name if user else app.name if app else "Slackbot")
    icons = message.get("icons", {})
    icon = icons.get("emoji") or icons.get("image_48") or (user.picture if user else "")
    blocks = message.get("blocks")
    text = message["text"]
    thread = message.get("thread_ts")
    return Visible(
        ts=message["ts"],
        author=author,
        icon=icon,
        text=visible_text(blocks, team.name_of) if blocks else _unescaped(text),
        thread=thread if thread != message["ts"] else None,
        reactions={
            one["name"]: tuple(team.users[user_id].real_name for user_id in one["users"])
            for one in message.get("reactions", [])
        },
        files=tuple(
            (file.name, file.data or b"")
            for file in (team.files[one["id"]] for one in message.get("files", []))
            if not file.deleted
        ),
        edited="edited" in message,
        broadcast=message.get("subtype") == "thread_broadcast",
    )


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
