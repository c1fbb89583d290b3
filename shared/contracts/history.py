"""The events of `chat.history`: what an import adds to the chat, and what its undo takes away.

The ids of messages are those that sync derives for the same messages, so a chat that already has one of them
keeps it, and confirms it as a duplicate. `batch_id` is the same whenever a batch is published again.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.chat import ChatAttachment, ChatAuthor, ChatOrigin, Id, Name, Text
from shared.contracts.messages import Payload, TimeText

HISTORY: Final = "history."
"""The root of the types of `chat.history`, and of its confirmation."""
HISTORY_USERS: Final = "history.users"
HISTORY_CHANNELS: Final = "history.channels"
HISTORY_MESSAGES: Final = "history.messages"
HISTORY_WITHDRAWN: Final = "history.withdrawn"
HISTORY_STORED: Final = "history.stored"
"""The type, on `chat.events`, by which the chat confirms a batch."""
MAX_BATCH: Final = 200
MAX_BATCH_BYTES: Final = 512 * 1024


class _Batch(Payload):
    """A batch of an import: `number` counts those of the import from 1."""

    import_id: Id
    batch_id: Id
    number: int


class HistoryUser(Payload):
    """A person of an export. `user_id` is the user of the chat that the plan names; None for a guest."""

    id: Id
    name: Name = ""
    user_id: Id | None = None
    avatar_url: str | None = None
    bot: bool = False
    active: bool = True


class HistoryUsers(_Batch):
    """`history.users`: the people whose messages follow."""

    users: Annotated[tuple[HistoryUser, ...], Field(max_length=MAX_BATCH)]


class HistoryChannel(Payload):
    """A channel that messages follow for. `existing` is true for one that the chat has already."""

    channel_id: Id
    name: Name
    kind: Literal["channel", "private", "group", "direct"] = "channel"
    existing: bool = False
    archived: bool = False
    topic: Annotated[str, Field(max_length=1000)] = ""
    members: tuple[Id, ...] = ()
    created_at: TimeText | None = None
    origin: ChatOrigin | None = None


class HistoryChannels(_Batch):
    """`history.channels`: the channels of an import."""

    channels: Annotated[tuple[HistoryChannel, ...], Field(max_length=MAX_BATCH)]


class HistoryReaction(Payload):
    """One emoji on a message, with everybody who set it."""

    emoji: Annotated[str, Field(min_length=1, max_length=128)]
    authors: tuple[ChatAuthor, ...]


class HistoryMessage(Payload):
    """A message as it was written, with its original time and author. `thread_id` is that of its parent."""

    message_id: Id
    text: Text = ""
    author: ChatAuthor
    kind: Literal["message", "bot", "system"] = "message"
    thread_id: Id | None = None
    reply_to_id: Id | None = None
    attachments: tuple[ChatAttachment, ...] = ()
    reactions: tuple[HistoryReaction, ...] = ()
    pinned: bool = False
    origin: ChatOrigin
    created_at: TimeText
    edited_at: TimeText | None = None


class HistoryMessages(_Batch):
    """`history.messages`: messages of one channel in the order of time."""

    channel_id: Id
    messages: Annotated[tuple[HistoryMessage, ...], Field(max_length=MAX_BATCH)]


class HistoryWithdrawn(_Batch):
    """`history.withdrawn`: messages of one channel that an undo takes away.

    With `keep_answered`, the chat keeps those that were answered since.
    """

    channel_id: Id
    message_ids: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)]
    keep_answered: bool = False


class RejectedMessage(Payload):
    message_id: Id
    reason: Annotated[str, Field(max_length=500)]


class HistoryStored(Payload):
    """`history.stored`: the chat has stored a batch, except for the messages that it names.

    `duplicates` has the ids of messages that it had already, live or from another import, and left as they
    are: an undo of this import does not take them away. A message that it has from the same import is none.
    A batch of `history.withdrawn` is confirmed in the same way; `rejected` are the messages that it kept.
    """

    import_id: Id
    batch_id: Id
    duplicates: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)] = ()
    rejected: Annotated[tuple[RejectedMessage, ...], Field(max_length=MAX_BATCH)] = ()
