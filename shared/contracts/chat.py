"""The canonical model of the chat's messages: `chat.events` and `chat.inbound` have the same objects.

All names are in snake case, all ids are texts, all times RFC 3339. `text` is the Markdown of the contract
(docs/reference/chat-contract.md): a subset of CommonMark, mentions as links to `mention://`, custom emoji as
images with an `emoji:` address.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.chat_limits import MAX_TEXT_CHARACTERS
from shared.contracts.messages import Embed, Payload, TimeText

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[str, StringConstraints(max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)]
MAX_ATTACHMENTS = 50

INBOUND: Final = "inbound."
"""The root of the types of `chat.inbound`. The chat's own `message.*` report the same changes again."""
MESSAGE_CREATED: Final = "inbound.message.created"
MESSAGE_UPDATED: Final = "inbound.message.updated"
MESSAGE_DELETED: Final = "inbound.message.deleted"
REACTION_ADDED: Final = "inbound.message.reaction.added"
REACTION_REMOVED: Final = "inbound.message.reaction.removed"
STATUS_CHANGED: Final = "inbound.message.status.changed"
SIGNAL: Final = "chat.signal"
"""The type of every event of `chat.signals`."""
UNKNOWN_AUTHOR: Final = "unknown"
"""The id of an author whom the event does not name: of an update, or of what no person did."""


class ChatAuthor(Payload):
    """Who wrote: `id` in the author's own system, and `user_id`, the linked user of the chat, if any.

    `icon_url` is `avatar_url` under its earlier name.
    """

    id: Id
    name: Name = ""
    user_id: Id | None = None
    avatar_url: str | None = None
    icon_url: str | None = None
    bot: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_earlier_name(cls, data: Any) -> Any:
        return _with_earlier_name(data, "avatar_url", "icon_url")


class ChatAttachment(Payload):
    """A file of a message. `url` of a provider's file is a signed, expiring address of the hub."""

    id: Id
    url: str
    filename: Name = "file"
    content_type: Name | None = None
    size: int | None = None


class ChatOrigin(Payload):
    """Where a message or change comes from.

    A chat that stored a message of `chat.inbound` repeats that message's id in `message_id`.
    """

    message_id: Id | None = None
    provider: str | None = None
    account: str | None = None
    integration_id: str | None = None
    mapping_id: str | None = None
    conversation_id: str | None = None
    external_id: str | None = None
    permalink: str | None = None
    endpoint_id: str | None = None
    event: str | None = None
    delivery_id: str | None = None
    occurred_at: TimeText | None = None


class ChatMessage(Payload):
    """A message as it is now; `message.created` and `.updated` have all of it.

    `private` is true for a note among the chat's own people, which is never forwarded. `sent_at` is
    `created_at` under its earlier name.
    """

    message_id: Id
    channel_id: Id
    text: Text = ""
    author: ChatAuthor
    thread_id: Id | None = None
    reply_to_id: Id | None = None
    attachments: Annotated[tuple[ChatAttachment, ...], Field(max_length=MAX_ATTACHMENTS)] = ()
    embeds: tuple[Embed, ...] = ()
    origin: ChatOrigin | None = None
    private: bool = False
    created_at: TimeText | None = None
    sent_at: TimeText | None = None
    edited_at: TimeText | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_earlier_name(cls, data: Any) -> Any:
        return _with_earlier_name(data, "created_at", "sent_at")


class ChatMessageRef(Payload):
    """A message that was updated in something that the model does not have, such as a pin."""

    message_id: Id
    channel_id: Id
    origin: ChatOrigin | None = None


class ChatMessageDeleted(Payload):
    message_id: Id
    channel_id: Id
    origin: ChatOrigin | None = None
    deleted_at: TimeText | None = None


class ChatReaction(Payload):
    """One person's reaction with one emoji: the character itself, or `:name:` for a custom one."""

    message_id: Id
    channel_id: Id
    emoji: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    author: ChatAuthor
    origin: ChatOrigin | None = None
    reacted_at: TimeText | None = None


class ChatChannel(Payload):
    channel_id: Id
    name: Name | None = None


class ChatUser(Payload):
    user_id: Id
    name: Name | None = None
    email: Name | None = None
    avatar_url: str | None = None


class ChatStatusChanged(Payload):
    """`inbound.message.status.changed`: what became of a message of the chat at one target.

    `target` is the id of the mapping's leg. `conversation_name` is for people; None for one without a name.
    """

    message_id: Id
    channel_id: Id
    mapping_id: Id
    target: str
    provider: str | None = None
    conversation_id: str | None = None
    conversation_name: str | None = None
    state: Literal["waiting", "sent", "failed", "unknown", "skipped", "deleted"]
    reason: str | None = None
    fix: str | None = None
    permalink: str | None = None


class ChatSignal(Payload):
    """`chat.signals`: somebody types, or is present. It is dropped when older than ten seconds."""

    kind: Literal["typing", "presence"]
    channel_id: Id
    author: ChatAuthor
    state: Literal["started", "stopped", "online", "away", "offline"]
    origin: ChatOrigin | None = None
    at: TimeText


def _with_earlier_name(data: Any, name: str, earlier: str) -> Any:
    """Return data in which both names of a field have its value."""
    if not isinstance(data, dict):
        return data
    value = data.get(name) or data.get(earlier)
    return {**data, name: value, earlier: value} if value else data
