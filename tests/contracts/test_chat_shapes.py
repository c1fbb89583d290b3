"""The chat's events in every shape become one model, and what fits no shape is refused with the reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.chat import (
    MAX_ATTACHMENTS,
    UNKNOWN_AUTHOR,
    ChatChannel,
    ChatMessage,
    ChatMessageDeleted,
    ChatMessageRef,
    ChatReaction,
    ChatUser,
)
from shared.contracts.chat_shapes import CHAT_CHANGES, normalise, read_fields
from shared.contracts.errors import Invalid
from shared.contracts.event_types import EVENT_TYPES

URL = "https://a.example/x.png"
FILE = {
    "id": "f1",
    "url": "https://a.example/x.png",
    "filename": "x.png",
    "content_type": "image/png",
    "size": 5,
}
CANONICAL = {
    "message_id": "m1",
    "channel_id": "c1",
    "text": "Hi",
    "author": {"id": "u1", "name": "Ann", "avatar_url": "https://a.example/a.png", "bot": False},
    "thread_id": "m0",
    "reply_to_id": "m0",
    "attachments": [FILE],
    "origin": {"message_id": "msg_9"},
    "created_at": "2026-01-02T03:04:05.000Z",
}
FLAT = {
    "messageId": "m1",
    "channelId": "c1",
    "content": "Hi",
    "author": {"id": "u1", "username": "ann", "displayName": "Ann", "avatarUrl": "https://a.example/a.png"},
    "threadId": "m0",
    "replyToId": "m0",
    "attachments": [{"id": "f1", "url": URL, "fileName": "x.png", "contentType": "image/png", "fileSize": 5}],
    "origin": {"messageId": "msg_9"},
    "createdAt": "2026-01-02T03:04:05.000Z",
}
NESTED = {
    "message": {
        "id": "m1",
        "channelId": "c1",
        "content": "Hi",
        "threadId": "m0",
        "replyToId": "m0",
        "attachments": FLAT["attachments"],
        "origin": {"message_id": "msg_9"},
        "createdAt": "2026-01-02T03:04:05.000Z",
    },
    "channel": {"id": "c1", "name": "general"},
    "user": FLAT["author"],
}
CHATWOOT: dict[str, Any] = {
    "id": 42,
    "content": "Hello!",
    "message_type": "incoming",
    "conversation": {"id": 12, "inbox_id": 3, "status": "open"},
    "inbox": {"id": 3, "name": "Website"},
    "sender": {"id": 7, "name": "Bo", "type": "contact"},
    "private": False,
    "created_at": 1767323045,
    "attachments": [{"id": 5, "data_url": "https://a.example/x.png", "file_size": 9}],
}


@pytest.mark.parametrize("data", [CANONICAL, FLAT, NESTED], ids=["canonical", "flat", "nested"])
@pytest.mark.parametrize("event_type", ["message.created", "message.updated", "message_created"])
def test_every_shape_of_a_message_is_the_same_message(event_type: str, data: dict[str, Any]) -> None:
    assert normalise(event_type, data) == ChatMessage.model_validate(CANONICAL)


def test_a_message_of_chatwoot() -> None:
    message = normalise("message_created", CHATWOOT)
    assert isinstance(message, ChatMessage)
    assert (message.message_id, message.channel_id, message.thread_id) == ("42", "3", "12")
    assert (message.author.id, message.author.name, message.author.bot) == ("7", "Bo", False)
    assert message.created_at == "2026-01-02T03:04:05.000Z"
    [file] = message.attachments
    assert (file.id, file.url, file.size, file.filename) == ("5", "https://a.example/x.png", 9, "file")


def test_a_note_of_chatwoot_is_private_and_an_activity_is_of_no_person() -> None:
    note = normalise("message.created", {**CHATWOOT, "private": True})
    activity = normalise("message.created", {**CHATWOOT, "message_type": 2, "sender": None})
    assert isinstance(note, ChatMessage)
    assert isinstance(activity, ChatMessage)
    assert note.private
    assert (activity.author.id, activity.author.bot) == (UNKNOWN_AUTHOR, True)
    agent = normalise("message.created", {**CHATWOOT, "sender": {"id": 1, "type": "agent_bot"}})
    assert isinstance(agent, ChatMessage)
    assert agent.author.bot


def test_chatwoot_reports_a_deletion_by_an_update() -> None:
    data = {**CHATWOOT, "content": "This message was deleted", "content_attributes": {"deleted": True}}
    deleted = normalise("message_updated", data)
    assert deleted == ChatMessageDeleted(message_id="42", channel_id="3")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"content": "new"}, "new"),
        ({"changed": {"content": {"previous_value": "old", "current_value": "new"}}}, "new"),
        ({"changed": {"content": "new"}}, "new"),
        ({"content": ""}, ""),
    ],
)
def test_an_update_without_its_author(data: dict[str, Any], text: str) -> None:
    message = normalise("message.updated", {"messageId": "m1", "channelId": "c1", **data})
    assert isinstance(message, ChatMessage)
    assert (message.text, message.author.id, message.author.bot) == (text, UNKNOWN_AUTHOR, False)


def test_an_update_that_does_not_tell_the_text_changes_none() -> None:
    data = {"messageId": "m1", "channelId": "c1", "changed": {"pinned": {"current_value": True}}}
    assert normalise("message.updated", data) == ChatMessageRef(message_id="m1", channel_id="c1")


REF = ChatMessageDeleted(message_id="m1", channel_id="c1")
REACTION = ChatReaction.model_validate(
    {"message_id": "m1", "channel_id": "c1", "emoji": "👍", "author": {"id": "u1", "name": "Ann"}}
)
USER = {"id": "u1", "displayName": "Ann", "username": "ann"}


@pytest.mark.parametrize(
    ("event_type", "data", "expected"),
    [
        ("message.deleted", {"messageId": "m1", "channelId": "c1"}, REF),
        ("message.deleted", {"message": {"id": "m1"}, "channel": {"id": "c1"}}, REF),
        ("message.deleted", {"message_id": "m1", "channel_id": "c1"}, REF),
        (
            "message.reaction.added",
            {"messageId": "m1", "channelId": "c1", "emoji": "👍", "user": USER},
            REACTION,
        ),
        (
            "reaction.removed",
            {"message": {"id": "m1", "channelId": "c1"}, "reaction": {"emoji": "👍"}, "user": USER},
            REACTION,
        ),
        (
            "message.reaction.removed",
            {"message_id": "m1", "channel_id": "c1", "emoji": "👍", "author": {"id": "u1", "name": "Ann"}},
            REACTION,
        ),
        ("channel.deleted", {"channelId": 5, "name": "x"}, ChatChannel(channel_id="5", name="x")),
        ("channel.archived", {"channel": {"id": "c", "name": "x"}}, ChatChannel(channel_id="c", name="x")),
        ("channel.archived", {"channel_id": "c"}, ChatChannel(channel_id="c")),
        ("user.updated", {"userId": "u", "username": "ann"}, ChatUser(user_id="u", name="ann")),
        (
            "user.updated",
            {"user": {"id": "u", "displayName": "Ann", "email": "a@example.com"}},
            ChatUser(user_id="u", name="Ann", email="a@example.com"),
        ),
        (
            "user.updated",
            {"user_id": "u", "name": "Ann", "avatar_url": "https://a.example/a"},
            ChatUser(user_id="u", name="Ann", avatar_url="https://a.example/a"),
        ),
    ],
)
def test_other_changes(event_type: str, data: dict[str, Any], expected: Any) -> None:
    assert normalise(event_type, data) == expected


def test_a_reaction_without_channel_gets_that_of_its_event() -> None:
    data = {"messageId": "m1", "emoji": "👍"}
    reaction = normalise("reaction.added", data, channel_id="c1")
    assert isinstance(reaction, ChatReaction)
    assert (reaction.channel_id, reaction.author.id) == ("c1", UNKNOWN_AUTHOR)
    with pytest.raises(Invalid, match="nself-chat, the closest, needs channelId"):
        normalise("reaction.added", data)


@pytest.mark.parametrize(
    ("event_type", "data", "shape", "field"),
    [
        ("message.created", {k: v for k, v in CANONICAL.items() if k != "author"}, "canonical", "author.id"),
        ("message.created", {**CANONICAL, "author": {"name": "Ann"}}, "canonical", "author.id"),
        ("message.created", {**FLAT, "channelId": None}, "nself-chat", "channelId"),
        ("message.created", {"messageId": "m", "channel_id": "c", "content": "x"}, "nself-chat", "channelId"),
        (
            "message.created",
            {"message": {"id": "m", "content": "x"}},
            "nself-chat nested",
            "message.channelId",
        ),
        (
            "message.created",
            {k: v for k, v in CHATWOOT.items() if k != "message_type"},
            "chatwoot",
            "message_type",
        ),
        ("message.created", {}, "canonical", "message_id"),
        ("message.reaction.added", {"messageId": "m", "channelId": "c"}, "nself-chat", "emoji"),
        ("channel.deleted", {"id": "c"}, "canonical", "channel_id"),
    ],
)
def test_what_fits_no_shape_names_the_closest_and_what_it_needs(
    event_type: str, data: dict[str, Any], shape: str, field: str
) -> None:
    with pytest.raises(Invalid) as caught:
        normalise(event_type, data)
    assert caught.value.detail == f"{event_type}: fits no shape: {shape}, the closest, needs {field}"
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.parametrize(
    ("event_type", "data", "reason"),
    [
        ("message.created", [CANONICAL], "must be an object"),
        ("order.paid", CANONICAL, "not one of the chat's changes"),
        ("inbound.message.created", CANONICAL, "not one of the chat's changes"),
        ("message.created", {**CANONICAL, "text": "x" * 40_001}, "text: "),
        ("message.created", {**CANONICAL, "message_id": "x" * 257}, "message_id: "),
        ("message.created", {**CANONICAL, "embeds": [{"color": "red"}]}, "embeds.0.color: "),
    ],
)
def test_what_is_refused(event_type: str, data: Any, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        normalise(event_type, data)


def test_what_is_too_much_is_cut() -> None:
    data = {
        **CANONICAL,
        "author": {"id": "u", "name": "n" * 1000, "avatar_url": "x" * 5000},
        "attachments": [{"url": f"https://a.example/{number}"} for number in range(60)] + [1, {"url": ""}],
        "created_at": "x" * 1000,
    }
    message = normalise("message.created", data)
    assert isinstance(message, ChatMessage)
    assert (len(message.author.name), message.author.avatar_url) == (256, None)
    assert len({file.id for file in message.attachments}) == len(message.attachments) == MAX_ATTACHMENTS
    assert message.created_at is None


def test_a_file_alone_is_a_message() -> None:
    data = {name: value for name, value in FLAT.items() if name != "content"}
    message = normalise("message.created", data)
    assert isinstance(message, ChatMessage)
    assert message.text == ""
    with pytest.raises(Invalid, match="needs content"):
        normalise("message.created", {**data, "attachments": []})


@pytest.mark.parametrize("event_type", sorted(CHAT_CHANGES))
def test_every_example_is_normalised(event_type: str) -> None:
    normalise(event_type, dict(EVENT_TYPES[event_type].example))


def test_earlier_names_have_the_same_values() -> None:
    message = ChatMessage.model_validate({**CANONICAL, "created_at": None, "sent_at": "2026-01-01T00:00:00Z"})
    assert message.created_at == message.sent_at == "2026-01-01T00:00:00Z"
    assert message.author.icon_url == message.author.avatar_url == "https://a.example/a.png"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted({*CANONICAL, *FLAT, *NESTED, *CHATWOOT, "id", "url", "emoji", "name"})),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(st.sampled_from(sorted(EVENT_TYPES)), JSON)
def test_any_data_can_be_read(event_type: str, data: Any) -> None:
    read = read_fields(event_type, data)
    about_a_message = "message." in event_type and not event_type.startswith("incoming.")
    is_read = about_a_message and not event_type.endswith("status.changed") and isinstance(data, dict)
    assert (read is not None) is is_read


@given(st.sampled_from(sorted(CHAT_CHANGES)), JSON)
def test_any_data_is_normalised_or_refused(event_type: str, data: Any) -> None:
    try:
        change = normalise(event_type, data)
    except Invalid:
        return
    assert type(change).model_validate(change.model_dump()) == change
