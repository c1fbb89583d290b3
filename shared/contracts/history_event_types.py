"""The event types of an import: those of `chat.history`, and the chat's confirmation."""

from typing import Final

from shared.contracts.event_type import EventType
from shared.contracts.history import (
    HISTORY_CHANNELS,
    HISTORY_MESSAGES,
    HISTORY_STORED,
    HISTORY_USERS,
    HISTORY_WITHDRAWN,
    HistoryChannels,
    HistoryMessages,
    HistoryStored,
    HistoryUsers,
    HistoryWithdrawn,
)

_BATCH: Final = {"import_id": "imp_1", "batch_id": "bat_1", "number": 1}
_AUTHOR: Final = {"id": "U1", "name": "Bo", "user_id": "usr_2"}

PUBLISHED_HISTORY: Final = (
    EventType(
        HISTORY_USERS,
        "The people of an import: those whose messages follow.",
        HistoryUsers,
        {**_BATCH, "users": [_AUTHOR]},
    ),
    EventType(
        HISTORY_CHANNELS,
        "The channels of an import.",
        HistoryChannels,
        {**_BATCH, "channels": [{"channel_id": "chn_1", "name": "general", "topic": "Everything"}]},
    ),
    EventType(
        HISTORY_MESSAGES,
        "Messages of one channel to add, in the order of time, as they were written.",
        HistoryMessages,
        {
            **_BATCH,
            "channel_id": "chn_1",
            "messages": [
                {
                    "message_id": "msg_1",
                    "text": "Hello **all**!",
                    "author": _AUTHOR,
                    "reactions": [{"emoji": "👍", "authors": [_AUTHOR]}],
                    "origin": {
                        "provider": "slack",
                        "account": "T1",
                        "conversation_id": "C1",
                        "external_id": "1767323045.000100",
                    },
                    "created_at": "2026-01-02T03:04:05.000Z",
                }
            ],
        },
    ),
    EventType(
        HISTORY_WITHDRAWN,
        "Messages of one channel, channels or people to take away again, because an import is undone.",
        HistoryWithdrawn,
        {
            **_BATCH,
            "channel_id": "chn_1",
            "message_ids": ["msg_1"],
            "keep_answered": False,
            "added_by": ["imp_1"],
        },
    ),
)
"""Types that only the hub publishes."""
HISTORY_TYPES: Final = (
    *PUBLISHED_HISTORY,
    EventType(
        HISTORY_STORED,
        "The chat has stored a batch of an import.",
        HistoryStored,
        {"import_id": "imp_1", "batch_id": "bat_1", "duplicates": ["msg_1"], "rejected": []},
    ),
)
