"""Event fields of several producers' events, and of arbitrary data."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.webhooks.event_fields import EventFields

NCHAT = {
    "messageId": "m1",
    "channelId": "c7",
    "threadId": "t3",
    "content": "deploy **api** please",
    "author": {"id": "u1", "username": "ada", "displayName": "Ada"},
    "mentions": ["u2", {"id": "u3", "username": "grace"}, None, 4],
    "attachments": [{"url": "https://files.example/a.png"}],
}
CHATWOOT = {
    "account": {"id": 1, "name": "Acme"},
    "additional_attributes": {},
    "content_attributes": {},
    "content_type": "text",
    "content": "Hi [@Grace Hopper](mention://user/9/Grace%20Hopper), see [@Sales](mention://team/4/sales)",
    "conversation": {"id": 42, "inbox_id": 3, "channel": "Channel::WebWidget", "status": "open"},
    "created_at": "2026-01-02T03:04:05.678Z",
    "id": 1001,
    "inbox": {"id": 3, "name": "Website"},
    "message_type": "outgoing",
    "private": True,
    "sender": {"id": 5, "name": "Ada", "email": "ada@example.com", "type": "user"},
    "source_id": None,
    "event": "message_created",
}
PROVIDER = {
    "provider": "forge",
    "endpoint_id": "ep_1",
    "event": "push",
    "delivery_id": "d1",
    "payload": {"ref": "refs/heads/main", "sender": {"login": "ada"}},
}


def event_fields(data: Any, **attributes: str) -> EventFields:
    given = {
        "id": "e1",
        "type": "message.created",
        "workspace": "acme",
        "occurred_at": "2026-01-02T03:04:05Z",
        "subject": "general",
        "sequence": "17",
    }
    return EventFields(**(given | attributes), raw=orjson.dumps(data), data=data)


def test_a_message_of_the_chat() -> None:
    fields = event_fields(NCHAT)
    assert (fields.channel, fields.conversation) == ("c7", "t3")
    assert (fields.user, fields.user_name, fields.is_bot) == ("u1", "ada", False)
    assert fields.content == "deploy **api** please"
    assert fields.mentions == ("u2", "u3", "grace", "4")
    assert len(fields.attachments) == 1
    assert (fields.origin, fields.origin_ids) == (None, frozenset())


def test_a_message_of_a_support_desk() -> None:
    fields = event_fields(CHATWOOT)
    assert (fields.channel, fields.conversation) == ("3", "42")
    assert (fields.user, fields.user_name, fields.is_bot) == ("5", "Ada", False)
    assert fields.mentions == ("9", "Grace Hopper", "sales")
    assert fields.attachments == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@ann, look", ["ann"]),
        ("(@ann.lee) and @b_2!", ["ann.lee", "b_2"]),
        ("**@Änne** @x-y-", ["Änne", "x-y"]),
        ("ann@example.com, https://example.com/@ann, @@ann, [@ann](https://example.com), a@", []),
    ],
)
def test_a_name_in_the_text_is_mentioned(text: str, names: list[str]) -> None:
    assert list(event_fields({"content": text}).mentions) == names


def test_a_webhook_that_came_in() -> None:
    fields = event_fields(PROVIDER, type="forge.push", subject="ep_1")
    assert fields.origin == {"provider": "forge", "endpoint_id": "ep_1"}
    assert fields.origin_ids == {"forge", "ep_1"}
    assert (fields.channel, fields.user, fields.content, fields.actor) == ("", "", "", None)
    assert fields.conversation == "ep_1"


@pytest.mark.parametrize(
    ("data", "by_bot"),
    [
        ({"author": {"id": "b", "bot": True}}, True),
        ({"author": {"id": "b", "isBot": True}}, True),
        ({"author": {"id": "b", "is_bot": "yes"}}, False),
        ({"sender": {"id": 1, "type": "agent_bot"}}, True),
        ({"sender": {"id": 1, "type": "captain_assistant"}}, True),
        ({"sender": {"id": 1, "type": "user"}}, False),
        ({"sender": None}, False),
        ({}, False),
    ],
)
def test_bots_are_distinguished_from_people(data: Any, by_bot: bool) -> None:
    assert event_fields(data).is_bot is by_bot


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        ({"origin": "int_1"}, {"int_1"}),
        ({"origin": {"integration_id": "int_1", "endpoint_id": "ep_1", "hops": [1]}}, {"int_1", "ep_1"}),
        ({"origin": None, "provider": "forge"}, set()),
        ({"origin": ["int_1"]}, set()),
    ],
)
def test_the_ids_of_an_origin(data: Any, ids: set[str]) -> None:
    assert event_fields(data).origin_ids == ids


def test_the_document_of_a_condition_is_the_envelope() -> None:
    document = event_fields(NCHAT).document
    assert set(document) == {
        *("id", "type", "workspace", "occurred_at", "sequence", "subject", "origin", "actor", "data")
    }
    assert (document["sequence"], document["actor"], document["data"]) == ("17", NCHAT["author"], NCHAT)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["author", "sender", "id", "name", "type", "bot", "userId", "changed"])
                | st.sampled_from(["mentions", "attachments", "content", "message", "origin", "provider"])
                | st.sampled_from(["channel", "conversation", "inbox"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    )
)
def test_data_may_be_anything(data: Any) -> None:
    fields = EventFields("e", "t", "w", "now", "s", "1", b"", data)
    texts = (fields.channel, fields.conversation, fields.user, fields.user_name, fields.content)
    assert all(isinstance(text, str) for text in (*texts, *fields.mentions, *fields.origin_ids))
    assert isinstance(fields.is_bot, bool)
    assert isinstance(fields.attachments, list | tuple)
    assert fields.document["data"] is data
    assert fields.changed == (data.get("changed") if isinstance(data, dict) else None)


def test_a_mention_as_the_contract_with_the_chat_writes_it() -> None:
    text = "[@Ada L.](mention://user/usr_7) [@Bo](mention://user/slack%3AT1%3AU2) [@all](mention://everyone)"
    assert event_fields({"text": text}).mentions == ("Ada L.", "usr_7", "Bo", "slack:T1:U2")
