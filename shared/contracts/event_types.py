"""The table of event types that the hub defines: name, description, data model, example, aliases.

It is the union of nself-chat's, Chatwoot's and the hub's own events. A type has one canonical name, with
dots; other names are aliases. A type that is not in the table may be published by anybody, with any data.
"""

from collections.abc import Mapping
from typing import Final

from shared.contracts.chat import INBOUND, SIGNAL, ChatChannel, ChatUser
from shared.contracts.event_payloads import (
    CallRef,
    ChannelRef,
    ChatwootContact,
    ChatwootConversation,
    ChatwootInbox,
    ChatwootTyping,
    ChatwootWidget,
    EndpointSecretRotated,
    FileRef,
    InboxRef,
    IntegrationExpiring,
    IntegrationRef,
    IntegrationTakenOver,
    MappingFailed,
    MappingRecovered,
    NestedCall,
    NestedChannel,
    NestedFile,
    NestedIntegration,
    NestedParticipant,
    NestedStatus,
    NestedThread,
    NestedUser,
    ParticipantRef,
    StatusRef,
    ThreadRef,
    UserRef,
    WebhookDisabled,
    WebhookFailing,
    WebhookSecretRotated,
    WebhookTest,
)
from shared.contracts.event_type import EventType
from shared.contracts.history_event_types import HISTORY_TYPES, PUBLISHED_HISTORY
from shared.contracts.message_event_types import ANN, CHAT_MESSAGES, INBOUND_MESSAGES, MESSAGE_EXAMPLE
from shared.contracts.messages import ProviderEvent

_ACCOUNT: Final = {"id": 1, "name": "Support"}
_INBOX: Final = {"id": 3, "name": "Website"}
_CONTACT: Final = {"id": 7, "name": "Bo", "email": "bo@example.com", "account": _ACCOUNT}
_CONVERSATION: Final = {
    "id": 12,
    "inbox_id": 3,
    "channel": "Channel::WebWidget",
    "status": "open",
    "labels": [],
    "meta": {"sender": {"id": 7, "name": "Bo"}, "assignee": None},
    "unread_count": 1,
    "created_at": 1767323045,
}
_NAME_CHANGE: Final = {"previous_value": "general", "current_value": "lobby"}
_STATUS_CHANGE: Final = [{"status": {"previous_value": "pending", "current_value": "open"}}]
_INBOX_SETTINGS: Final = {"channel": {"id": 3, "website_url": "https://example.com"}, "timezone": "UTC"}
_CALL: Final = {"callId": "call_1", "channelId": "general"}

_CHAT: Final = (
    EventType(
        "channel.created",
        "A channel was created.",
        ChannelRef | NestedChannel,
        {"channelId": "general", "name": "general", "actor": ANN},
    ),
    EventType(
        "channel.updated",
        "A channel was changed.",
        ChannelRef | NestedChannel,
        {"channelId": "general", "name": "lobby", "changed": {"name": _NAME_CHANGE}},
    ),
    EventType(
        "channel.deleted",
        "A channel was deleted.",
        ChannelRef | NestedChannel | ChatChannel,
        {"channelId": "general", "name": "general"},
    ),
    EventType(
        "channel.archived",
        "A channel was archived.",
        ChannelRef | NestedChannel | ChatChannel,
        {"channelId": "general", "name": "general"},
    ),
    EventType(
        "user.joined", "Somebody joined.", UserRef | NestedUser, {"userId": "usr_1", "username": "ann"}
    ),
    EventType("user.left", "Somebody left.", UserRef | NestedUser, {"userId": "usr_1", "username": "ann"}),
    EventType(
        "user.updated",
        "Somebody's profile was changed.",
        UserRef | NestedUser | ChatUser,
        {"userId": "usr_1", "username": "ann", "changed": {"title": {"current_value": "Editor"}}},
    ),
    EventType(
        "user.status.changed",
        "Somebody's status changed.",
        StatusRef | NestedStatus,
        {"userId": "usr_1", "username": "ann", "status": "away"},
    ),
    EventType(
        "thread.created",
        "A thread was started.",
        ThreadRef | NestedThread,
        {"threadId": "thr_1", "channelId": "general"},
    ),
    EventType(
        "thread.updated",
        "A thread was changed.",
        ThreadRef | NestedThread,
        {"threadId": "thr_1", "channelId": "general"},
    ),
    EventType(
        "thread.resolved",
        "A thread was resolved.",
        ThreadRef | NestedThread,
        {"threadId": "thr_1", "channelId": "general"},
    ),
    EventType(
        "file.uploaded",
        "A file was uploaded.",
        FileRef | NestedFile,
        {"fileId": "file_1", "name": "plan.pdf", "channelId": "general", "user": ANN},
    ),
    EventType(
        "file.deleted", "A file was deleted.", FileRef | NestedFile, {"fileId": "file_1", "name": "plan.pdf"}
    ),
    EventType("call.started", "A call was started.", CallRef | NestedCall, _CALL),
    EventType("call.ended", "A call was ended.", CallRef | NestedCall, _CALL),
    EventType(
        "call.participant.joined",
        "Somebody joined a call.",
        ParticipantRef | NestedParticipant,
        {**_CALL, "userId": "usr_1", "username": "ann"},
    ),
    EventType(
        "call.participant.left",
        "Somebody left a call.",
        ParticipantRef | NestedParticipant,
        {**_CALL, "userId": "usr_1", "username": "ann"},
    ),
    EventType(
        "integration.connected",
        "An integration was connected.",
        IntegrationRef | NestedIntegration,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1"},
    ),
    EventType(
        "integration.refreshed",
        "An integration got new tokens; they are not in the event.",
        IntegrationRef,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1"},
    ),
    EventType(
        "integration.reauth_required",
        "An integration's consent has ended: its owner has to connect it again.",
        IntegrationRef,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1", "reason": "invalid_grant"},
    ),
    EventType(
        "integration.error",
        "An integration cannot be used for now: its token has ended, and there is no new one.",
        IntegrationRef,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1", "reason": "invalid_client"},
    ),
    EventType(
        "integration.recovered",
        "An integration that could not be used works again.",
        IntegrationRef,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1"},
    ),
    EventType(
        "integration.taken_over",
        "An integration is another user's from now on: `user` has it, `previousUser` had it.",
        IntegrationTakenOver,
        {"integrationId": "int_1", "provider": "example", "user": "usr_2", "previousUser": "usr_1"},
    ),
    EventType(
        "integration.expiring",
        "An integration's consent ends at `reconnectBy`: its owner has to connect it again before.",
        IntegrationExpiring,
        {
            "integrationId": "int_1",
            "provider": "example",
            "user": "usr_1",
            "reconnectBy": "2026-12-07T09:30:00.000Z",
        },
    ),
    EventType(
        "integration.disconnected",
        "An integration was disconnected.",
        IntegrationRef | NestedIntegration,
        {"integrationId": "int_1", "provider": "example", "user": "usr_1"},
    ),
)

_SUPPORT: Final = (
    EventType(
        "conversation.created",
        "A conversation was started.",
        ChatwootConversation,
        _CONVERSATION,
        ("conversation_created",),
    ),
    EventType(
        "conversation.updated",
        "A conversation was changed.",
        ChatwootConversation,
        {**_CONVERSATION, "changed_attributes": _STATUS_CHANGE},
        ("conversation_updated",),
    ),
    EventType(
        "conversation.status.changed",
        "A conversation's status changed.",
        ChatwootConversation,
        {**_CONVERSATION, "changed_attributes": _STATUS_CHANGE},
        ("conversation_status_changed",),
    ),
    EventType(
        "conversation.typing.on",
        "Somebody started typing in a conversation.",
        ChatwootTyping,
        {"conversation": _CONVERSATION, "user": {"id": 7, "name": "Bo"}, "is_private": False},
        ("conversation_typing_on",),
    ),
    EventType(
        "conversation.typing.off",
        "Somebody stopped typing in a conversation.",
        ChatwootTyping,
        {"conversation": _CONVERSATION, "user": {"id": 7, "name": "Bo"}, "is_private": False},
        ("conversation_typing_off",),
    ),
    EventType("contact.created", "A contact was created.", ChatwootContact, _CONTACT, ("contact_created",)),
    EventType(
        "contact.updated",
        "A contact was changed.",
        ChatwootContact,
        {**_CONTACT, "changed_attributes": [{"name": {"previous_value": "B.", "current_value": "Bo"}}]},
        ("contact_updated",),
    ),
    EventType(
        "inbox.created",
        "An inbox was created.",
        ChatwootInbox | InboxRef,
        _INBOX_SETTINGS,
        ("inbox_created",),
    ),
    EventType(
        "inbox.updated",
        "An inbox was changed.",
        ChatwootInbox | InboxRef,
        {
            **_INBOX_SETTINGS,
            "changed_attributes": [{"timezone": {"previous_value": "CET", "current_value": "UTC"}}],
        },
        ("inbox_updated",),
    ),
    EventType(
        "webwidget.triggered",
        "A visitor opened the widget of a website.",
        ChatwootWidget,
        {
            "id": 5,
            "source_id": "7ba59b3f",
            "contact": {"id": 7, "name": "Bo"},
            "inbox": _INBOX,
            "account": _ACCOUNT,
            "current_conversation": None,
            "event_info": {"referer": "https://example.com/"},
        },
        ("webwidget_triggered",),
    ),
)

_WEBHOOK: Final = {"webhook_id": "wh_1", "name": "Archive", "metadata": {"customer": "c_7"}}
_ROTATION: Final = {
    "rotated_at": "2026-01-02T03:04:05.000Z",
    "old_secret_expires_at": "2026-01-03T03:04:05.000Z",
}
_MAPPING: Final = {
    "mapping_id": "map_1",
    "name": "General",
    "legs": [
        {"provider": "slack", "account": "T1", "conversation": "C1", "name": "general"},
        {"provider": "chat", "account": "default", "conversation": "general", "name": ""},
    ],
    "at": "2026-01-02T03:04:05.000Z",
}
_HUB: Final = (
    EventType(
        "incoming.message",
        "Somebody posted to an incoming webhook.",
        ProviderEvent,
        {
            "provider": "incoming",
            "endpoint_id": "ep_1",
            "event": "message",
            "delivery_id": "dlv_1",
            "triggers": [],
            "account": None,
            "received_at": "2026-03-01T09:00:00.000Z",
            "test": False,
            "replay_of": None,
            "payload": {"text": "Hello!"},
        },
    ),
    EventType("webhook.test", "A test of an outgoing webhook.", WebhookTest, {"message": "This is a test."}),
    EventType(
        "webhook.failing",
        "An outgoing webhook keeps failing and will be disabled.",
        WebhookFailing,
        {
            **_WEBHOOK,
            "failing_since": "2026-01-02T03:04:05.000Z",
            "disables_at": "2026-01-07T03:04:05.000Z",
            "last_error": "503",
            "delivery_id": "dlv_1",
            "event_id": "evt_1",
            "event_type": "message.created",
            "payload": {"id": "evt_1", "type": "message.created", "data": MESSAGE_EXAMPLE},
        },
    ),
    EventType(
        "webhook.disabled",
        "An outgoing webhook was disabled, because everything that was sent to it failed.",
        WebhookDisabled,
        {
            **_WEBHOOK,
            "reason": "nothing but failures",
            "failing_since": "2026-01-02T03:04:05.000Z",
            "last_error": "503",
        },
    ),
    EventType(
        "webhook.secret_rotated",
        "An outgoing webhook got a new secret, which is not in the event.",
        WebhookSecretRotated,
        {**_WEBHOOK, **_ROTATION},
    ),
    EventType(
        "endpoint.secret_rotated",
        "An inbound endpoint got a new secret, or an incoming webhook a new token; it is not in the event.",
        EndpointSecretRotated,
        {"endpoint_id": "ep_1", "provider": "github", "name": "Repositories", **_ROTATION},
    ),
    EventType(
        "mapping.failed",
        "A mapping forwards nothing until a person has done what `fix` says.",
        MappingFailed,
        {**_MAPPING, "reason": "The channel is archived", "fix": "unarchive it in Slack."},
    ),
    EventType("mapping.recovered", "A mapping that failed works again.", MappingRecovered, _MAPPING),
)

EVENT_TYPES: Final[Mapping[str, EventType]] = {
    event_type.name: event_type
    for event_type in (*CHAT_MESSAGES, *INBOUND_MESSAGES, *HISTORY_TYPES, *_CHAT, *_SUPPORT, *_HUB)
}
"""Every type by its canonical name."""

_PUBLISHED_HISTORY: Final = frozenset(event_type.name for event_type in PUBLISHED_HISTORY)
_CANONICAL: Final = {
    alias: event_type.name for event_type in EVENT_TYPES.values() for alias in event_type.aliases
}


def canonical(name: str) -> str:
    """Return the canonical name of a type. A name that is not an alias is returned as it is."""
    return _CANONICAL.get(name, name)


def is_published_by_hub(name: str) -> bool:
    """Return whether only the hub itself publishes events of this type: of `chat.inbound`, `chat.history`.

    True for a signal too: it has a topic of its own, and no outgoing webhook gets it.
    """
    return name.startswith(INBOUND) or name == SIGNAL or name in _PUBLISHED_HISTORY
