"""The table of event types: complete, each named once, and open for what producers really send."""

import re
from typing import Any

import orjson
import pytest
from jsonschema_rs import Draft202012Validator

from services.gateway.api.event_type_registry import NAME_PATTERN
from shared.contracts.event_type import EventType
from shared.contracts.event_types import EVENT_TYPES, canonical
from shared.wire.json_schema import BoundedSchema

CHAT = (
    *("message.created", "message.updated", "message.deleted", "message.reaction.added"),
    *("message.reaction.removed", "channel.created", "channel.updated", "channel.deleted"),
    *("channel.archived", "user.joined", "user.left", "user.updated", "user.status.changed"),
    *("thread.created", "thread.updated", "thread.resolved", "file.uploaded", "file.deleted"),
    *("call.started", "call.ended", "call.participant.joined", "call.participant.left"),
    *("integration.connected", "integration.disconnected", "webhook.test"),
)
SUPPORT = (
    *("conversation_created", "conversation_updated", "conversation_status_changed"),
    *("conversation_typing_on", "conversation_typing_off", "message_created", "message_updated"),
    *("contact_created", "contact_updated", "inbox_created", "inbox_updated", "webwidget_triggered"),
)
HISTORY = ("history.users", "history.channels", "history.messages", "history.withdrawn", "history.stored")
OWN = (
    *("inbound.message.created", "inbound.message.updated", "inbound.message.deleted"),
    *("inbound.message.reaction.added", "inbound.message.reaction.removed"),
    "inbound.message.status.changed",
    *("webhook.failing", "webhook.disabled", "incoming.message"),
    *("webhook.secret_rotated", "endpoint.secret_rotated"),
    *("integration.refreshed", "integration.reauth_required"),
    *("integration.error", "integration.recovered", "integration.taken_over"),
    "integration.expiring",
    *("mapping.failed", "mapping.recovered"),
)

ACCOUNT = {
    "integrationId": "int_1",
    "provider": "github",
    "user": "usr_1",
    "status": "connected",
    "reason": None,
    "account": {"id": "1", "label": "octocat"},
    "scopes": ["repo"],
    "expiresAt": "2026-01-01T00:00:00.000Z",
}

CONTACT = {
    "account": {"id": 1, "name": "Support"},
    "additional_attributes": {},
    "avatar": "",
    "custom_attributes": {},
    "email": None,
    "id": 7,
    "identifier": None,
    "name": "Bo",
    "phone_number": None,
    "thumbnail": "",
    "blocked": False,
}
CONVERSATION = {
    "additional_attributes": {},
    "can_reply": True,
    "channel": "Channel::Api",
    "contact_inbox": {"id": 5, "contact_id": 7, "inbox_id": 3, "source_id": "x", "hmac_verified": False},
    "id": 12,
    "inbox_id": 3,
    "messages": [],
    "labels": [],
    "meta": {"sender": CONTACT, "assignee": None, "team": None, "hmac_verified": False},
    "status": "open",
    "custom_attributes": {},
    "snoozed_until": None,
    "unread_count": 0,
    "first_reply_created_at": None,
    "priority": None,
    "waiting_since": 0,
    "created_at": 1767323045,
    "updated_at": 1767323045.25,
}
MESSAGE = {
    "account": {"id": 1, "name": "Support"},
    "additional_attributes": {},
    "content_attributes": {},
    "content_type": "text",
    "content": None,
    "conversation": CONVERSATION,
    "created_at": "2026-01-02T03:04:05.000Z",
    "id": 42,
    "inbox": {"id": 3, "name": "Api"},
    "message_type": "activity",
    "private": False,
    "sender": None,
    "source_id": None,
    "event": "message_created",
}
REAL: list[tuple[str, dict[str, Any]]] = [
    # as Chatwoot's presenters make them
    ("message_created", MESSAGE),
    ("message_updated", MESSAGE),
    ("conversation_created", CONVERSATION),
    ("conversation_updated", {**CONVERSATION, "changed_attributes": None}),
    (
        "conversation_status_changed",
        {
            **CONVERSATION,
            "changed_attributes": [{"status": {"previous_value": "open", "current_value": "resolved"}}],
        },
    ),
    ("conversation_typing_on", {"conversation": CONVERSATION, "user": CONTACT, "is_private": True}),
    ("contact_created", CONTACT),
    ("inbox_created", {"channel": {"id": 3}, "timezone": "UTC", "working_hours": []}),
    ("inbox_created", {"id": 3, "name": "Api"}),
    (
        "webwidget_triggered",
        {
            "id": 5,
            "contact": CONTACT,
            "inbox": {"id": 3, "name": "Website"},
            "account": {"id": 1, "name": "Support"},
            "current_conversation": None,
            "source_id": "x",
            "event_info": {"initiated_at": {"timestamp": "x"}, "referer": None},
        },
    ),
    # as nself-chat's guide and its types have them
    (
        "message.created",
        {"messageId": "1", "channelId": "2", "content": "", "author": {"id": "3", "username": "a", "x": 1}},
    ),
    (
        "message.created",
        {
            "message": {"id": "1", "channelId": "2", "content": "Hello!", "type": "text"},
            "channel": {"id": "2", "name": "general", "type": "public"},
            "user": {"id": "3", "username": "a", "displayName": "A"},
        },
    ),
    ("message.deleted", {"message": {"id": "1", "channelId": "2"}, "channel": {"id": "2"}}),
    ("reaction.added", {"messageId": "1", "channelId": "2", "emoji": "👍", "user": {"id": "3"}}),
    ("channel.updated", {"channel": {"id": "2", "name": "x", "type": "public"}, "actor": {"id": "3"}}),
    ("user.joined", {"user": {"id": "3", "username": "a"}, "channel": {"id": "2", "name": "x"}}),
    ("file.uploaded", {"file": {"id": "1", "name": "x", "type": "y", "size": 1}, "user": {"id": "3"}}),
    # as the hub tells of accounts
    ("integration.connected", ACCOUNT),
    ("integration.refreshed", ACCOUNT),
    ("integration.error", ACCOUNT | {"status": "error", "reason": "invalid_client"}),
    ("integration.recovered", ACCOUNT),
    ("integration.taken_over", ACCOUNT | {"user": "usr_2", "previousUser": "usr_1"}),
    ("integration.expiring", ACCOUNT | {"reconnectBy": "2026-12-07T09:30:00.000Z"}),
    ("integration.reauth_required", ACCOUNT | {"status": "reauth_required", "reason": "invalid_grant"}),
    ("integration.disconnected", ACCOUNT | {"status": "disconnected", "account": None, "expiresAt": None}),
]


def test_every_type_is_there() -> None:
    assert {canonical(name) for name in (*CHAT, *SUPPORT, *OWN, *HISTORY)} == set(EVENT_TYPES)
    assert set(CHAT) <= set(EVENT_TYPES)
    assert len(SUPPORT) == 12


def test_a_name_means_one_type() -> None:
    aliases = [alias for event_type in EVENT_TYPES.values() for alias in event_type.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(EVENT_TYPES)
    assert set(SUPPORT) <= set(aliases)
    for event_type in EVENT_TYPES.values():
        for name in (event_type.name, *event_type.aliases):
            assert re.fullmatch(NAME_PATTERN, name)
            assert canonical(name) == event_type.name
    assert canonical("order.paid") == "order.paid"


@pytest.mark.parametrize("event_type", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_an_example_fits_and_nothing_does_not(event_type: EventType) -> None:
    assert Draft202012Validator(event_type.schema).is_valid(dict(event_type.example))
    assert event_type.about.endswith(".")
    schema = BoundedSchema(orjson.dumps(event_type.schema))
    assert schema.first_error(dict(event_type.example), 100) is None
    wrong: Any
    for wrong in ({}, None, [dict(event_type.example)], "x"):
        assert schema.first_error(wrong, 100), wrong


def test_times_have_their_format() -> None:
    time = {"type": "string", "format": "date-time"}
    for name, field in (
        ("webhook.failing", "failing_since"),
        ("webhook.failing", "disables_at"),
        ("webhook.disabled", "failing_since"),
        ("incoming.message", "received_at"),
        ("integration.expiring", "reconnectBy"),
    ):
        schema = EVENT_TYPES[name].schema["properties"][field]
        found = [part for part in schema.get("anyOf", [schema]) if part != {"type": "null"}]
        assert [{key: part[key] for key in time} for part in found] == [time], (name, field)


@pytest.mark.parametrize("event_type", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_more_fields_are_welcome(event_type: EventType) -> None:
    more = {**event_type.example, "new_field": {"a": [1]}, "newField": None}
    assert BoundedSchema(orjson.dumps(event_type.schema)).first_error(more, 100) is None


@pytest.mark.parametrize(("name", "data"), REAL, ids=[f"{name}-{n}" for n, (name, _) in enumerate(REAL)])
def test_requests_of_the_providers_are_accepted(name: str, data: dict[str, Any]) -> None:
    schema = BoundedSchema(orjson.dumps(EVENT_TYPES[canonical(name)].schema))
    assert schema.first_error(data, 1000) is None
