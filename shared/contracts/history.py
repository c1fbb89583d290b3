"""The events of `chat.history`, by which an import adds messages to the chat, and its undo removes them.

A message has the id that sync derives for it, so a chat that has the message already keeps it, and confirms
it as a duplicate. A batch that is published again has the same `batch_id`.
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
"""The type of the event on `chat.events` with which the chat confirms a batch."""
MAX_BATCH: Final = 200
MAX_BATCH_BYTES: Final = 512 * 1024
MAX_ADDED_BY: Final = 50
"""Imports that a batch of `history.withdrawn` names at most."""


class _Batch(Payload):
    """A batch of an import. `number` is its position in the import, from 1."""

    import_id: Id
    batch_id: Id
    number: int


class HistoryUser(Payload):
    """A person of an export. `user_id` is the chat's user by the import's plan; None for a guest."""

    id: Id
    name: Name = ""
    user_id: Id | None = None
    avatar_url: str | None = None
    bot: bool = False
    active: bool = True


class HistoryUsers(_Batch):
    """The data of `history.users`: authors of messages, published before their messages."""

    users: Annotated[tuple[HistoryUser, ...], Field(max_length=MAX_BATCH)]


class HistoryChannel(Payload):
    """A channel of the import. `existing` is true if the chat has it already.

    A channel with many members comes several times, each time with other members.
    """

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
    """The data of `history.channels`: channels of an import, published before their messages."""

    channels: Annotated[tuple[HistoryChannel, ...], Field(max_length=MAX_BATCH)]


class HistoryReaction(Payload):
    """One emoji on a message, and the authors who set it.

    `count` is the number of all who did: a message has at most 1,000 authors in all of its reactions.
    """

    emoji: Annotated[str, Field(min_length=1, max_length=128)]
    authors: tuple[ChatAuthor, ...]
    count: int | None = None


class HistoryMessage(Payload):
    """A message with its original time and author. `thread_id` is the message id of its thread's parent.

    The parent may be missing. `changed` is true for a message that the chat has from an earlier import, and
    that was edited since.
    """

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
    changed: bool = False


class HistoryMessages(_Batch):
    """The data of `history.messages`: messages of one channel, ordered by time."""

    channel_id: Id
    messages: Annotated[tuple[HistoryMessage, ...], Field(max_length=MAX_BATCH)]


class HistoryWithdrawn(_Batch):
    """The data of `history.withdrawn`, which an undo publishes: messages of one channel, channels or people.

    The chat removes what it first stored by one of the imports `added_by`, and nothing else. With
    `keep_answered`, it keeps messages that have got replies since the import. Of channels and people, which
    come after all messages, it removes those that nobody needs any more: channels without a message, and
    people who have written no message. It names the others as rejected, with the reason.
    """

    channel_id: Id | None = None
    message_ids: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)] = ()
    channel_ids: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)] = ()
    person_ids: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)] = ()
    """The `id` of guests in `history.users`, never of a person who is a user of the chat."""
    keep_answered: bool = False
    added_by: Annotated[tuple[Id, ...], Field(min_length=1, max_length=MAX_ADDED_BY)]


class RejectedMessage(Payload):
    """What the chat has not stored: a message, or by its own id a person or a channel."""

    message_id: Id
    reason: Annotated[str, Field(max_length=500)]


class HistoryStored(Payload):
    """The data of `history.stored`: the chat has stored a batch, except for the messages that it names.

    `duplicates` has the ids of messages that it had already, live or from another import. It left them as
    they are, and an undo of this import does not remove them. A message that it has from the same import is
    no duplicate. A batch of `history.withdrawn` is confirmed in the same way; `rejected` is what it did not
    remove. What it does not have, or no longer has, is not rejected.
    """

    import_id: Id
    batch_id: Id
    duplicates: Annotated[tuple[Id, ...], Field(max_length=MAX_BATCH)] = ()
    rejected: Annotated[tuple[RejectedMessage, ...], Field(max_length=MAX_BATCH)] = ()
