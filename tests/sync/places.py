"""The three places of a mapping as people use them: what they do there, and what they see.

Every id is a text: a `ts` of Slack, a number of Telegram, an id of the chat.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_state import Channel, Json
from tests.support.fakes.telegram_api import TelegramApi
from tests.support.fakes.telegram_model import Chat, Message, User
from tests.support.fakes.telegram_people import Bot

ADA: Final = "Ada Example"
GRACE: Final = "Grace Example"


@dataclass(frozen=True)
class Shown:
    """A message as a person sees it.

    `thread` is the id of the message that it answers there, or of its thread's first message. `reactions`
    are names of people by emoji, `files` the files by name; the chat shows addresses instead of bytes.
    """

    id: str
    author: str
    text: str
    thread: str | None = None
    reactions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    edited: bool = False


class Place(ABC):
    """What all places have."""

    @abstractmethod
    def shown(self) -> list[Shown]:
        """The messages as people see them now, oldest first."""

    def texts(self) -> list[str]:
        """The texts of the messages."""
        return [one.text for one in self.shown()]

    def find(self, text: str) -> Shown:
        """The only message with this text."""
        [found] = [one for one in self.shown() if one.text == text]
        return found


class SlackPlace(Place):
    """A channel of Slack with two people and the app."""

    def __init__(self, api: SlackApi, team: Workspace, channel: Channel) -> None:
        self.api = api
        self.team = team
        self.channel = channel

    def shown(self) -> list[Shown]:
        """The messages of the channel and of its threads, oldest first."""
        return [
            Shown(one.ts, one.author, one.text, one.thread, one.reactions, dict(one.files), one.edited)
            for one in self.api.visible(self.channel)
        ]

    def write(self, text: str = "", *, by: str = ADA, thread: str | None = None, **more: Any) -> str:
        return self.team.person(by).write(self.channel, text, thread=thread, **more)

    def reply(self, message: str, text: str, *, by: str = ADA) -> str:
        return self.write(text, by=by, thread=message)

    def edit(self, message: str, text: str, *, by: str = ADA) -> None:
        self.team.person(by).edit(self.channel, message, text)

    def delete(self, message: str, *, by: str = ADA) -> None:
        self.team.person(by).delete(self.channel, message)

    def react(self, message: str, name: str, *, by: str = ADA) -> None:
        self.team.person(by).react(self.channel, message, name)

    def unreact(self, message: str, name: str, *, by: str = ADA) -> None:
        self.team.person(by).unreact(self.channel, message, name)

    def upload(self, name: str, data: bytes, text: str = "", *, by: str = ADA) -> str:
        """Write a message with a file."""
        return self.write(text, by=by, files=[self.team.person(by).upload(name, data, "text/plain")])

    def raw(self, message: str) -> Json:
        """The message with its blocks, as Slack stores it."""
        return self.channel.messages[message]


class TelegramPlace(Place):
    """A group of Telegram with two people and the bot, which is an administrator."""

    def __init__(self, api: TelegramApi, bot: Bot, chat: Chat, people: Mapping[str, User]) -> None:
        self.api = api
        self.bot = bot
        self.chat = chat
        self.people = people

    def shown(self) -> list[Shown]:
        """The messages, oldest first. A message of the bot is its author's whose name is its bold heading."""
        with self.api.lock:
            return [self._shown(one) for one in self.chat.visible()]

    def write(self, text: str, entities: Sequence[Json] = (), *, by: str = ADA) -> str:
        return str(self.api.write(self.chat, self.people[by], text, entities).id)

    def reply(self, message: str, text: str, *, by: str = ADA) -> str:
        return str(self.api.write(self.chat, self.people[by], text, reply_to=self.raw(message)).id)

    def edit(self, message: str, text: str) -> None:
        self.api.edit(self.raw(message), text)

    def delete(self, message: str) -> None:
        """Delete a message, which bots do not hear of."""
        self.api.delete(self.raw(message))

    def react(self, message: str, *emoji: str, by: str = ADA) -> None:
        """Set the reactions of a person; none removes them."""
        self.api.react(self.raw(message), self.people[by], *emoji)

    def upload(self, name: str, data: bytes, caption: str = "", *, by: str = ADA) -> str:
        """Write a message with a file."""
        sent = self.api.send_file(
            self.chat, self.people[by], "document", data, name, caption=caption, media_type="text/plain"
        )
        return str(sent.id)

    def raw(self, message: str) -> Message:
        """The message, as Telegram stores it."""
        return self.chat.messages[int(message)]

    def _shown(self, message: Message) -> Shown:
        author = message.sender.first_name if message.sender else self.chat.title
        text = message.text
        if message.sender is self.bot.user:
            author, text = _heading(message)
        names: dict[str, list[str]] = {}
        for user, given in message.emoji.items():
            for emoji in given:
                names.setdefault(emoji, []).append(self.api.users[user].first_name)
        return Shown(
            str(message.id),
            author,
            text,
            str(message.reply_to.id) if message.reply_to else None,
            {emoji: tuple(people) for emoji, people in names.items()},
            {message.file.name: message.file.content} if message.file else {},
            message.edited_at is not None,
        )


def _heading(message: Message) -> tuple[str, str]:
    """The author's name above a text of the bot, and the text; '' for a text without a heading."""
    first = message.entities[0] if message.entities else {}
    if first.get("type") != "bold" or first.get("offset") != 0:
        return "", message.text
    encoded = message.text.encode("utf-16-le")
    name, rest = encoded[: 2 * first["length"]], encoded[2 * first["length"] :]
    return name.decode("utf-16-le"), rest.decode("utf-16-le").removeprefix("\n")
