"""The methods of the Bot API that send, edit and delete messages, and react to them."""

from collections.abc import Mapping
from typing import Any, Final

from tests.support.fakes.telegram_chats import Method, find_chat
from tests.support.fakes.telegram_model import Chat, File, Message, Refusal
from tests.support.fakes.telegram_params import Params
from tests.support.fakes.telegram_people import Bot, People
from tests.support.fakes.telegram_text import formatted

_REACTIONS: Final = """
👍 👎 ❤ 🔥 🥰 👏 😁 🤔 🤯 😱 🤬 😢 🎉 🤩 🤮 💩 🙏 👌 🕊 🤡 🥱 🥴 😍 🐳 ❤\u200d🔥
🌚 🌭 💯 🤣 ⚡ 🍌 🏆 💔 🤨 😐 🍓 🍾 💋 🖕 😈 😴 😭 🤓 👻 👨\u200d💻 👀 🎃 🙈 😇 😨
🤝 ✍ 🤗 🫡 🎅 🎄 ☃ 💅 🤪 🗿 🆒 💘 🙉 🦄 😘 💊 🙊 😎 👾 🤷\u200d♂ 🤷 🤷\u200d♀ 😡
"""
REACTIONS: Final = frozenset(_REACTIONS.split())
FILES: Final = ("photo", "document", "video", "audio", "voice", "sticker")
_SEND: Final = (
    "chat_id message_thread_id disable_notification protect_content reply_parameters reply_markup"
    " allow_paid_broadcast message_effect_id"
)
_OF_FILE: Final = {
    "photo": "caption caption_entities show_caption_above_media has_spoiler",
    "document": "caption caption_entities thumbnail disable_content_type_detection",
    "video": "caption caption_entities duration width height thumbnail supports_streaming has_spoiler",
    "audio": "caption caption_entities duration performer title thumbnail",
    "voice": "caption caption_entities duration",
    "sticker": "emoji",
}
_SAME: Final = (
    "message is not modified: specified new message content and reply markup are exactly the same as a "
    "current content and reply markup of the message"
)


class MessageMethods:
    """Those methods; `table` has each with the names of its parameters."""

    def __init__(self, people: People) -> None:
        self.people = people

    @property
    def table(self) -> Mapping[str, tuple[Method, str]]:
        """Methods by name in lower case."""
        one = "chat_id message_id reply_markup"
        files = {f"send{kind}": (self._sender(kind), f"{_SEND} {kind} {_OF_FILE[kind]}") for kind in FILES}
        return {
            **files,
            "sendmessage": (self.send_text, f"{_SEND} text entities link_preview_options"),
            "sendmediagroup": (self.send_album, f"{_SEND} media"),
            "editmessagetext": (self.edit_text, f"{one} text entities link_preview_options"),
            "editmessagecaption": (
                self.edit_caption,
                f"{one} caption caption_entities show_caption_above_media",
            ),
            "editmessagemedia": (self.edit_media, f"{one} media"),
            "deletemessage": (self.delete, "chat_id message_id"),
            "deletemessages": (self.delete_several, "chat_id message_ids"),
            "setmessagereaction": (self.react, "chat_id message_id reaction is_big"),
        }

    def send_text(self, bot: Bot, params: Params) -> Any:
        """A message of text."""
        message = self._prepared(bot, params, "text messages")
        message.text, message.entities = self._formatted(params.values.get("text"), params.list("entities"))
        return self._send(message).document()

    def _sender(self, kind: str) -> Method:
        def send(bot: Bot, params: Params) -> Any:
            message = self._prepared(bot, params, f"{kind}s")
            message.file = self._file(kind, params.text(kind), params)
            self._set_caption(message, params.text("caption"), params.list("caption_entities"))
            return self._send(message).document()

        return send

    def send_album(self, bot: Bot, params: Params) -> Any:
        """2 to 10 files that are shown together; all are checked before one is sent."""
        media = params.list("media")
        if not 2 <= len(media) <= 10:
            raise Refusal.bad("wrong number of messages in the album: there must be 2 to 10")
        kinds = {item.get("type") for item in media}
        if not kinds <= {"photo", "video"} and kinds not in ({"document"}, {"audio"}):
            raise Refusal.bad("document and audio can't be mixed with other media types")
        made = []
        for item in media:
            message = self._prepared(bot, params, f"{item['type']}s")
            self._set_media(message, item, params)
            made.append(message)
        album = f"album{made[0].chat.last_id}-{made[0].chat.id}"
        for message in made:
            message.album = album
            self._send(message)
        return [message.document() for message in made]

    def edit_text(self, bot: Bot, params: Params) -> Any:
        """Another text of the bot's own message."""
        message = self._own(bot, params)
        if message.file is not None:
            raise Refusal.bad("there is no text in the message to edit")
        text, entities = self._formatted(params.values.get("text"), params.list("entities"))
        return self._edited(message, params, text, entities, message.file)

    def edit_caption(self, bot: Bot, params: Params) -> Any:
        """Another caption, or none."""
        message = self._own(bot, params)
        if message.file is None:
            raise Refusal.bad("there is no caption in the message to edit")
        text, entities = self._formatted(
            params.text("caption"), params.list("caption_entities"), caption=True
        )
        return self._edited(message, params, text, entities, message.file)

    def edit_media(self, bot: Bot, params: Params) -> Any:
        """Another file with its caption."""
        message = self._own(bot, params)
        new = Message(message.id, message.chat, message.sender)
        self._set_media(new, params.object("media", {}), params)
        return self._edited(message, params, new.text, new.entities, new.file)

    def delete(self, bot: Bot, params: Params) -> Any:
        """Delete a message: the bot's own, or another's where it may."""
        chat = find_chat(self.people, bot, params)
        message = chat.messages.get(params.integer("message_id") or 0)
        if message is None:
            raise Refusal.bad("message to delete not found")
        if not self._may_delete(bot, message):
            raise Refusal.bad("message can't be deleted")
        del chat.messages[message.id]
        return True

    def delete_several(self, bot: Bot, params: Params) -> Any:
        """Delete up to 100 messages; those that are not there are skipped."""
        chat = find_chat(self.people, bot, params)
        ids = params.list("message_ids")
        if not 1 <= len(ids) <= 100:
            raise Refusal.bad("there must be 1 to 100 message identifiers")
        found = [chat.messages[int(one)] for one in ids if int(one) in chat.messages]
        if not all(self._may_delete(bot, message) for message in found):
            raise Refusal.bad("message can't be deleted")
        for message in found:
            del chat.messages[message.id]
        return True

    def react(self, bot: Bot, params: Params) -> Any:
        """Set the bot's reaction to a message, at most one; no update says so."""
        chat = find_chat(self.people, bot, params)
        message = chat.messages.get(params.integer("message_id") or 0)
        if message is None:
            raise Refusal.bad("message to react not found")
        reactions = params.list("reaction")
        if len(reactions) > 1:
            raise Refusal.bad("REACTIONS_TOO_MANY")
        for one in reactions:
            if one.get("type") != "emoji" or one.get("emoji") not in REACTIONS:
                raise Refusal.bad("REACTION_INVALID")
        message.reactions[bot.user.id] = [{"type": "emoji", "emoji": one["emoji"]} for one in reactions]
        return True

    # What they share.

    def _prepared(self, bot: Bot, params: Params, what: str) -> Message:
        """A message that is not sent yet, where the bot may send it; Refusal."""
        chat = find_chat(self.people, bot, params)
        if chat.type == "channel" and not chat.is_administrator(bot.user):
            raise Refusal.bad("need administrator rights in the channel chat")
        if not chat.members[bot.user.id].can_send:
            raise Refusal.bad(f"not enough rights to send {what} to the chat")
        topic = params.integer("message_thread_id")
        if topic is not None and topic not in chat.topics:
            raise Refusal.bad("message thread not found")
        sender = None if chat.type == "channel" else bot.user
        reply = self._reply(chat, params.object("reply_parameters"))
        return Message(
            0, chat, sender, topic=topic, reply_to=reply, reply_markup=params.object("reply_markup")
        )

    def _reply(self, chat: Chat, wanted: Any) -> Message | None:
        if wanted is None:
            return None
        if unknown := wanted.keys() - {"message_id", "allow_sending_without_reply"}:
            self.people.complaints.append(f"reply_parameters has {sorted(unknown)}")
        found = chat.messages.get(wanted["message_id"])
        if found is None and not wanted.get("allow_sending_without_reply"):
            raise Refusal.bad("message to be replied not found")
        return found

    def _send(self, message: Message) -> Message:
        message.id = message.chat.next_id()
        message.chat.messages[message.id] = message
        self.people.posted(message)
        return message

    def _own(self, bot: Bot, params: Params) -> Message:
        """The message of a call that the bot may edit; Refusal."""
        chat = find_chat(self.people, bot, params)
        message = chat.messages.get(params.integer("message_id") or 0)
        if message is None:
            raise Refusal.bad("message to edit not found")
        may = chat.is_administrator(bot.user) if chat.type == "channel" else message.sender is bot.user
        if not may or message.service:
            raise Refusal.bad("message can't be edited")
        return message

    def _edited(
        self, message: Message, params: Params, text: str, entities: list[dict[str, Any]], file: File | None
    ) -> Any:
        markup = params.object("reply_markup")
        new = (text, entities, file, markup)
        if new == (message.text, message.entities, message.file, message.reply_markup):
            raise Refusal.bad(_SAME)
        message.text, message.entities, message.file, message.reply_markup = new
        self.people.edited(message)
        return message.document()

    def _may_delete(self, bot: Bot, message: Message) -> bool:
        chat = message.chat
        if message.sender is bot.user or chat.type == "private":
            return not message.service
        return chat.is_administrator(bot.user) and chat.members[bot.user.id].can_delete

    def _formatted(
        self, text: Any, entities: list[Any], *, caption: bool = False
    ) -> tuple[str, list[dict[str, Any]]]:
        if not isinstance(text, str):
            raise Refusal.bad("message text is empty")
        return formatted(text, entities, self.people.complaints.append, caption=caption)

    def _set_caption(self, message: Message, text: str, entities: list[Any]) -> None:
        message.text, message.entities = self._formatted(text, entities, caption=True)

    def _set_media(self, message: Message, item: Mapping[str, Any], params: Params) -> None:
        kind = item.get("type", "")
        if kind not in _OF_FILE or kind in {"voice", "sticker"}:
            raise Refusal.bad("can't parse InputMedia: Unsupported type specified")
        if unknown := item.keys() - {"type", "media", *_OF_FILE[kind].split()}:
            self.people.complaints.append(f"InputMedia {kind} has {sorted(unknown)}")
        message.file = self._file(kind, item.get("media", ""), params)
        self._set_caption(message, item.get("caption", ""), item.get("caption_entities", []))

    def _file(self, kind: str, named: str, params: Params) -> File:
        """An uploaded file, or one that Telegram has."""
        name = named.removeprefix("attach://") if named.startswith("attach://") else kind
        upload = params.files.get(name) if named.startswith("attach://") or not named else None
        if upload is not None:
            if not upload.content:
                raise Refusal.bad("file must be non-empty")
            return self.people.store(kind, upload.content, upload.name, upload.media_type)
        if named.startswith(("http://", "https://")):
            self.people.complaints.append(f"{kind} is a URL, which Telegram would fetch")
        if named in self.people.files and self.people.files[named].kind == kind:
            return self.people.files[named]
        raise Refusal.bad(
            "wrong file identifier/HTTP URL specified" if named else f"there is no {kind} in the request"
        )
