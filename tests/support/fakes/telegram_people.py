"""What people do at Telegram, and which bots get an update for it."""

import itertools
import secrets
import threading
from collections.abc import Sequence
from typing import Any

from tests.support.fakes.telegram_model import PRESENT, Chat, ChatType, File, Member, Message, Status, User
from tests.support.fakes.telegram_webhook import Updates
from tests.support.recorded_secrets import record_secret


class Bot:
    """A bot with its token; with `privacy` it sees only commands, mentions and replies of groups."""

    def __init__(self, user: User, updates: Updates) -> None:
        self.user = user
        self.updates = updates
        self.privacy = True
        self.token = self.new_token()

    def new_token(self) -> str:
        """A new token, as @BotFather gives it; the old one is refused from now on."""
        self.token = f"{self.user.id}:{secrets.token_urlsafe(27)[:35]}"
        record_secret("a token of a Telegram bot", self.token)
        return self.token


class People:
    """Users, bots and chats, and the acts of people. Methods return what they made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.complaints: list[str] = []
        """What a client that is right does not send."""
        self.routes: dict[str, str] = {}
        """Where webhooks really are: an origin of this machine by the public origin."""
        self.bots: list[Bot] = []
        self.users: dict[int, User] = {}
        self.chats: dict[int, Chat] = {}
        self.files: dict[str, File] = {}
        self._numbers = itertools.count(1001)

    # Who is there.

    def user(self, name: str, username: str = "") -> User:
        """A new person."""
        user = User(next(self._numbers), name, username=username)
        self.users[user.id] = user
        return user

    def bot(self, username: str) -> Bot:
        """A new bot."""
        number = next(self._numbers)
        user = User(100_000 + number, username.title(), is_bot=True, username=username)
        bot = Bot(user, Updates(number * 1000, self.routes, self.complaints))
        self.users[user.id] = user
        self.bots.append(bot)
        return bot

    def chat(
        self, type_: ChatType, title: str, *members: User | Bot, username: str = "", is_forum: bool = False
    ) -> Chat:
        """A new group, supergroup or channel; its first member made it."""
        number = next(self._numbers)
        chat = Chat(
            -number if type_ == "group" else -1_000_000_000_000 - number, type_, title, username, is_forum
        )
        for index, member in enumerate(members):
            user = member.user if isinstance(member, Bot) else member
            chat.members[user.id] = Member(user, "member" if index else "creator")
        self.chats[chat.id] = chat
        return chat

    def private(self, user: User, bot: Bot) -> Chat:
        """The chat of a person with a bot, which the person started."""
        chat = Chat(user.id, "private", user.first_name, user.username)
        chat.members = {one.id: Member(one) for one in (user, bot.user)}
        self.chats[chat.id] = chat
        return chat

    def set_status(self, chat: Chat, bot: Bot, status: Status, by: User, *, can_send: bool = True) -> None:
        """A person adds, promotes, demotes, restricts or kicks a bot."""
        with self.lock:
            old = chat.members.get(bot.user.id) or Member(bot.user, "left")
            new = chat.members[bot.user.id] = Member(bot.user, status, can_send)
            shown = {"chat": chat.document(), "from": by.document(), "date": 1}
            changed = {"old_chat_member": old.document(), "new_chat_member": new.document()}
            bot.updates.add("my_chat_member", {**shown, **changed})

    # What is written.

    def topic(self, chat: Chat, name: str, by: User) -> int:
        """A new topic of a forum: its thread id."""
        assert chat.is_forum, f"{chat.title} has no topics"
        made = self._post(chat, by, service={"forum_topic_created": {"name": name, "icon_color": 7322096}})
        made.topic = made.id
        chat.topics[made.id] = name
        return made.id

    def write(
        self,
        chat: Chat,
        sender: User | None,
        text: str,
        entities: Sequence[dict[str, Any]] = (),
        *,
        reply_to: Message | None = None,
        topic: int | None = None,
    ) -> Message:
        """A message; in a channel the sender is None."""
        return self._post(chat, sender, text=text, entities=list(entities), reply_to=reply_to, topic=topic)

    def send_file(
        self,
        chat: Chat,
        sender: User | None,
        kind: str,
        content: bytes,
        name: str,
        *,
        caption: str = "",
        media_type: str = "application/octet-stream",
        album: str = "",
        topic: int | None = None,
    ) -> Message:
        """A photo, document, video, audio, voice message or sticker."""
        file = self.store(kind, content, name, media_type)
        return self._post(chat, sender, text=caption, file=file, album=album, topic=topic)

    def send_album(
        self, chat: Chat, sender: User | None, photos: Sequence[bytes], caption: str
    ) -> list[Message]:
        """Photos that are shown together: a message each, the caption at the first."""
        album = str(next(self._numbers))
        return [
            self.send_file(
                chat,
                sender,
                "photo",
                content,
                f"{index}.jpg",
                caption="" if index else caption,
                media_type="image/jpeg",
                album=album,
            )
            for index, content in enumerate(photos)
        ]

    def edit(self, message: Message, text: str, entities: Sequence[dict[str, Any]] = ()) -> None:
        """The sender edits a text or a caption."""
        with self.lock:
            message.text, message.entities = text, list(entities)
            self.edited(message)

    def delete(self, message: Message) -> None:
        """Somebody deletes a message; bots get no update."""
        with self.lock:
            del message.chat.messages[message.id]

    def react(self, message: Message, user: User, *emoji: str) -> None:
        """A person sets the reactions to a message; none removes them."""
        new = [{"type": "emoji", "emoji": one} for one in emoji]
        with self.lock:
            old = message.reactions.get(user.id, [])
            message.reactions[user.id] = new
            if message.chat.type == "channel":
                return  # Reactions there are anonymous: no update says whose they are.
            shown = {"chat": message.chat.document(), "message_id": message.id, "user": user.document()}
            shown |= {"date": message.date, "old_reaction": old, "new_reaction": new}
            for bot in self.bots:
                if message.chat.type != "private" and message.chat.is_administrator(bot.user):
                    bot.updates.add("message_reaction", shown)

    def migrate(self, chat: Chat) -> Chat:
        """A group becomes a supergroup, with another id and no old messages."""
        with self.lock:
            new = self.chat("supergroup", chat.title)
            new.members = dict(chat.members)
            self._post(chat, None, service={"migrate_to_chat_id": new.id})
            self._post(new, None, service={"migrate_from_chat_id": chat.id})
            chat.migrated_to = new
            return new

    # What they share with the methods of bots.

    def store(self, kind: str, content: bytes, name: str, media_type: str) -> File:
        """A new file."""
        file = File(f"F{kind}{next(self._numbers)}", kind, content, name, media_type)
        self.files[file.id] = file
        return file

    def posted(self, message: Message) -> None:
        """A message is there: the bots that see it get an update."""
        kind = "channel_post" if message.chat.type == "channel" else "message"
        for bot in self._who_see(message):
            bot.updates.add(kind, message.document())

    def edited(self, message: Message) -> None:
        """A message was edited."""
        message.edited_at = message.date + 1 if message.edited_at is None else message.edited_at + 1
        kind = "edited_channel_post" if message.chat.type == "channel" else "edited_message"
        for bot in self._who_see(message):
            bot.updates.add(kind, message.document())

    def close(self) -> None:
        """End the threads of all bots."""
        for bot in self.bots:
            bot.updates.close()

    def _post(self, chat: Chat, sender: User | None, **fields: Any) -> Message:
        assert (sender is None) == (chat.type == "channel") or fields.get("service"), "who writes there?"
        with self.lock:
            message = Message(chat.next_id(), chat, sender, **fields)
            chat.messages[message.id] = message
            self.posted(message)
            return message

    def _who_see(self, message: Message) -> list[Bot]:
        return [bot for bot in self.bots if self._sees(bot, message)]

    def _sees(self, bot: Bot, message: Message) -> bool:
        chat, sender = message.chat, message.sender
        member = chat.members.get(bot.user.id)
        if member is None or member.status not in PRESENT or (sender is not None and sender.is_bot):
            return False
        if chat.type == "channel":
            return chat.is_administrator(bot.user)
        if chat.type == "private" or message.service or not bot.privacy or chat.is_administrator(bot.user):
            return True
        answers = message.reply_to is not None and message.reply_to.sender is bot.user
        return answers or message.text.startswith("/") or f"@{bot.user.username}" in message.text
