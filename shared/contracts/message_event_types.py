"""The event types of messages: those that the chat publishes, and those of `chat.inbound`."""

from typing import Final

from shared.contracts.chat import (
    MESSAGE_CREATED,
    MESSAGE_DELETED,
    MESSAGE_UPDATED,
    REACTION_ADDED,
    REACTION_REMOVED,
    STATUS_CHANGED,
    ChatMessage,
    ChatMessageDeleted,
    ChatMessageRef,
    ChatReaction,
    ChatStatusChanged,
)
from shared.contracts.event_payloads import (
    ChatwootMessage,
    MessageRef,
    NestedMessage,
    NestedReaction,
    Reaction,
)
from shared.contracts.event_type import EventType
from shared.contracts.messages import MessageCreated

ANN: Final = {"id": "usr_1", "username": "ann"}
MESSAGE_EXAMPLE: Final = {"messageId": "msg_1", "channelId": "general", "content": "Hello!", "author": ANN}
_CONTENT_CHANGE: Final = {"content": {"previous_value": "Helo!", "current_value": "Hello!"}}

CHAT_MESSAGES: Final = (
    EventType(
        "message.created",
        "Somebody wrote a message.",
        MessageCreated | ChatwootMessage | NestedMessage | ChatMessage,
        MESSAGE_EXAMPLE,
        ("message_created",),
    ),
    EventType(
        "message.updated",
        "A message was changed.",
        MessageRef | ChatwootMessage | NestedMessage | ChatMessage | ChatMessageRef,
        {**MESSAGE_EXAMPLE, "changed": _CONTENT_CHANGE},
        ("message_updated",),
    ),
    EventType(
        "message.deleted",
        "A message was deleted.",
        MessageRef | NestedMessage | ChatMessageDeleted,
        {"messageId": "msg_1", "channelId": "general"},
    ),
    EventType(
        "message.reaction.added",
        "Somebody reacted to a message.",
        Reaction | NestedReaction | ChatReaction,
        {"messageId": "msg_1", "channelId": "general", "emoji": "👍", "user": ANN},
        ("reaction.added",),
    ),
    EventType(
        "message.reaction.removed",
        "Somebody took a reaction back.",
        Reaction | NestedReaction | ChatReaction,
        {"messageId": "msg_1", "channelId": "general", "emoji": "👍", "user": ANN},
        ("reaction.removed",),
    ),
)

_ORIGIN: Final = {
    "provider": "slack",
    "account": "T1",
    "integration_id": "int_1",
    "mapping_id": "map_1",
    "conversation_id": "C1",
    "external_id": "1767323045.000100",
    "permalink": "https://example.slack.com/archives/C1/p1767323045000100",
}
_INBOUND_AUTHOR: Final = {"id": "U1", "name": "Bo", "user_id": "usr_2", "bot": False}
_INBOUND_REF: Final = {"message_id": "msg_2", "channel_id": "general", "origin": _ORIGIN}
_INBOUND_MESSAGE: Final = {
    **_INBOUND_REF,
    "text": "Hello **all**!",
    "author": _INBOUND_AUTHOR,
    "created_at": "2026-01-02T03:04:05.000Z",
}
_INBOUND_REACTION: Final = {**_INBOUND_REF, "emoji": "👍", "author": _INBOUND_AUTHOR}

INBOUND_MESSAGES: Final = (
    EventType(
        MESSAGE_CREATED,
        "Somebody wrote a message outside that the chat has to show.",
        ChatMessage,
        _INBOUND_MESSAGE,
    ),
    EventType(
        MESSAGE_UPDATED,
        "Somebody edited a message outside that the chat shows.",
        ChatMessage,
        {**_INBOUND_MESSAGE, "text": "Hello!", "edited_at": "2026-01-02T03:05:00.000Z"},
    ),
    EventType(
        MESSAGE_DELETED,
        "Somebody deleted a message outside that the chat shows.",
        ChatMessageDeleted,
        {**_INBOUND_REF, "deleted_at": "2026-01-02T03:06:00.000Z"},
    ),
    EventType(
        REACTION_ADDED,
        "Somebody reacted outside to a message that the chat shows.",
        ChatReaction,
        _INBOUND_REACTION,
    ),
    EventType(
        REACTION_REMOVED,
        "Somebody took back outside a reaction to a message that the chat shows.",
        ChatReaction,
        _INBOUND_REACTION,
    ),
    EventType(
        STATUS_CHANGED,
        "The state of a message of the chat at one target of its mapping changed.",
        ChatStatusChanged,
        {
            "message_id": "msg_1",
            "channel_id": "general",
            "mapping_id": "map_1",
            "target": "slack:T1:C1",
            "state": "failed",
            "reason": "is_archived",
            "fix": "Unarchive the channel, or end the mapping.",
        },
    ),
)
