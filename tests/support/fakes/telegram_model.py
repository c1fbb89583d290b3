"""What the Telegram fake knows: users, bots, chats with their members and messages, and files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

ChatType = Literal["private", "group", "supergroup", "channel"]
Status = Literal["creator", "administrator", "member", "restricted", "left", "kicked"]
PRESENT: Final = frozenset({"creator", "administrator", "member", "restricted"})
_RIGHTS: Final = (
    "can_manage_chat",
    "can_delete_messages",
    "can_manage_video_chats",
    "can_restrict_members",
    "can_promote_members",
    "can_change_info",
    "can_invite_users",
    "can_post_stories",
    "can_edit_stories",
    "can_delete_stories",
    "can_post_messages",
    "can_edit_messages",
    "can_pin_messages",
)
_PERMISSIONS: Final = (
    "can_send_messages",
    "can_send_audios",
    "can_send_documents",
    "can_send_photos",
    "can_send_videos",
    "can_send_video_notes",
    "can_send_voice_notes",
    "can_send_polls",
    "can_send_other_messages",
    "can_add_web_page_previews",
    "can_change_info",
    "can_invite_users",
    "can_pin_messages",
    "can_manage_topics",
)


class Refusal(Exception):
    """An error of the Bot API: its code, description and parameters."""

    def __init__(self, code: int, description: str, parameters: Mapping[str, int] | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = dict(parameters or {})

    @classmethod
    def bad(cls, problem: str) -> "Refusal":
        """400 with the words that Telegram puts before each problem."""
        return cls(400, f"Bad Request: {problem}")

    def envelope(self) -> dict[str, Any]:
        """The body of the response."""
        body = {"ok": False, "error_code": self.code, "description": self.description}
        return body | ({"parameters": self.parameters} if self.parameters else {})


@dataclass(eq=False)
class User:
    """A person or a bot."""

    id: int
    first_name: str
    is_bot: bool = False
    username: str = ""

    def document(self) -> dict[str, Any]:
        """The User of the Bot API."""
        shown = {"id": self.id, "is_bot": self.is_bot, "first_name": self.first_name}
        return shown | ({"username": self.username} if self.username else {})


@dataclass(eq=False)
class Member:
    """A user of a chat, with the status there; `can_send` and `can_delete` are its rights."""

    user: User
    status: Status = "member"
    can_send: bool = True
    can_delete: bool = True

    def document(self) -> dict[str, Any]:
        """The ChatMember of the Bot API."""
        shown: dict[str, Any] = {"status": self.status, "user": self.user.document()}
        if self.status == "administrator":
            shown |= {"can_be_edited": False, "is_anonymous": False} | dict.fromkeys(_RIGHTS, True)
            shown["can_delete_messages"] = self.can_delete
        elif self.status == "creator":
            shown["is_anonymous"] = False
        elif self.status == "restricted":
            shown |= {"is_member": True, "until_date": 0} | dict.fromkeys(_PERMISSIONS, self.can_send)
        elif self.status == "kicked":
            shown["until_date"] = 0
        return shown


@dataclass(eq=False)
class File:
    """A stored file; `kind` is the field of a message that has it."""

    id: str
    kind: str
    content: bytes
    name: str
    media_type: str

    @property
    def path(self) -> str:
        """Where it is downloaded, below `/file/bot<token>/`."""
        return f"{self.kind}s/{self.id}/{self.name}"

    def document(self) -> Any:
        """The value of the message's field."""
        shown: dict[str, Any] = {
            "file_id": self.id,
            "file_unique_id": f"u{self.id}",
            "file_size": len(self.content),
        }
        size = {"width": 640, "height": 480}
        if self.kind == "photo":
            return [{**shown, **size}]
        if self.kind == "sticker":
            return {**shown, **size, "type": "regular", "is_animated": False, "is_video": False}
        shown["mime_type"] = self.media_type
        if self.kind != "voice":
            shown["file_name"] = self.name
        if self.kind in {"audio", "voice", "video"}:
            shown["duration"] = 1
        return shown | (size if self.kind == "video" else {})


@dataclass(eq=False)
class Message:
    """A message of a chat; `text` is the caption when there is a file. `sender` is None for a channel's."""

    id: int
    chat: "Chat"
    sender: User | None
    text: str = ""
    entities: list[dict[str, Any]] = field(default_factory=list)
    file: File | None = None
    album: str = ""
    topic: int | None = None
    reply_to: "Message | None" = None
    service: dict[str, Any] = field(default_factory=dict)
    reactions: dict[int, list[dict[str, str]]] = field(default_factory=dict)
    reply_markup: Any = None
    date: int = field(default_factory=lambda: int(time.time()))
    edited_at: int | None = None

    def document(self, *, with_reply: bool = True) -> dict[str, Any]:
        """The Message of the Bot API; a message that is replied to is shown without its own reply."""
        shown: dict[str, Any] = {"message_id": self.id, "date": self.date, "chat": self.chat.document()}
        if self.sender is not None:
            shown["from"] = self.sender.document()
        else:
            shown["sender_chat"] = self.chat.document()
        prefix = "caption" if self.file else "text"
        if self.file is not None:
            shown[self.file.kind] = self.file.document()
        if self.text:
            shown[prefix] = self.text
        if self.entities:
            shown["caption_entities" if self.file else "entities"] = self.entities
        if self.topic is not None:
            shown |= {"message_thread_id": self.topic, "is_topic_message": True}
        if with_reply and self.reply_to is not None:
            shown["reply_to_message"] = self.reply_to.document(with_reply=False)
        optional = {
            "media_group_id": self.album,
            "edit_date": self.edited_at,
            "reply_markup": self.reply_markup,
        }
        return shown | {name: value for name, value in optional.items() if value} | self.service

    @property
    def emoji(self) -> dict[int, list[str]]:
        """The reactions that people see, by user."""
        return {user: [one["emoji"] for one in given] for user, given in self.reactions.items() if given}


@dataclass(eq=False)
class Chat:
    """A chat with everything in it; topics are names by thread id."""

    id: int
    type: ChatType
    title: str
    username: str = ""
    is_forum: bool = False
    members: dict[int, Member] = field(default_factory=dict)
    topics: dict[int, str] = field(default_factory=dict)
    messages: dict[int, Message] = field(default_factory=dict)
    migrated_to: "Chat | None" = None
    last_id: int = 0

    def document(self) -> dict[str, Any]:
        """The Chat of the Bot API."""
        shown: dict[str, Any] = {"id": self.id, "type": self.type}
        shown["first_name" if self.type == "private" else "title"] = self.title
        if self.username:
            shown["username"] = self.username
        return shown | ({"is_forum": True} if self.is_forum else {})

    def visible(self) -> list[Message]:
        """The messages as people see them now, in order, without those of the service."""
        return [message for message in self.messages.values() if not message.service]

    def next_id(self) -> int:
        """The id of the next message; ids are never used again."""
        self.last_id += 1
        return self.last_id

    def is_administrator(self, user: User) -> bool:
        """Whether a user may administrate it."""
        member = self.members.get(user.id)
        return member is not None and member.status in {"creator", "administrator"}

    def is_present(self, user: User) -> bool:
        """Whether a user is in it."""
        member = self.members.get(user.id)
        return member is not None and member.status in PRESENT
