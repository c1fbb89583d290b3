"""Body formats: what subscribers of each system read, and what strangers cannot forge."""

import json
import re
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed
from shared.contracts.event_types import EVENT_TYPES
from shared.webhooks.event_fields import EventFields
from shared.webhooks.formats import BodyFormat, render_body

AT = "2026-01-02T03:04:05.000Z"
MESSAGE = {
    "messageId": "msg_1",
    "channelId": "general",
    "content": "Hello!",
    "author": {"id": "usr_1", "username": "ann"},
}
CONVERSATION = {"id": 12, "status": "open", "inbox_id": 3, "meta": {"sender": {"id": 7, "name": "Bo"}}}


def _facts(kind: str, data: Any, raw: bytes | None = None) -> EventFields:
    text = orjson.dumps(data) if raw is None else raw
    return EventFields("evt_1", kind, "default", AT, "talk", "17", text, data)


def _body(format: BodyFormat, kind: str, data: Any) -> Any:  # noqa: A002
    return json.loads(render_body(format, _facts(kind, data)))


# envelope


def test_the_envelope() -> None:
    data = {**MESSAGE, "origin": {"integration": "int_1"}, "changed": {"content": {"previous_value": "x"}}}
    assert _body("envelope", "message.updated", data) == {
        "id": "evt_1",
        "type": "message.updated",
        "version": "1",
        "workspace": "default",
        "occurred_at": AT,
        "sequence": "17",
        "origin": {"integration": "int_1"},
        "actor": {"id": "usr_1", "username": "ann"},
        "data": data,
        "changed": {"content": {"previous_value": "x"}},
    }


@pytest.mark.parametrize("format", ["envelope", "nchat"])
@pytest.mark.parametrize(
    "raw", [b' { "a" : 12345678901234567890123, "b":1.10 , "a":2 } ', b"[]", b"null", b'"x"', b"1e400"]
)
def test_the_data_goes_out_byte_for_byte(format: BodyFormat, raw: bytes) -> None:  # noqa: A002
    data = None if raw == b"1e400" else orjson.loads(raw)
    body = render_body(format, _facts("order.paid", data, raw))
    assert b'"data":' + raw in body
    assert json.loads(body)["data"] == json.loads(raw)


def test_no_data_is_null() -> None:
    for format in ("envelope", "nchat"):  # noqa: A001
        assert json.loads(render_body(format, _facts("order.paid", None, b"")))["data"] is None


# nchat


def test_nchat() -> None:
    assert _body("nchat", "message.created", MESSAGE) == {
        "id": "evt_1",
        "event": "message.created",
        "timestamp": AT,
        "version": "1.0",
        "data": MESSAGE,
        "triggeredBy": {"userId": "usr_1", "username": "ann"},
    }


def test_nchat_of_what_nobody_did() -> None:
    assert "triggeredBy" not in _body("nchat", "channel.created", {"channelId": "general"})
    assert _body("nchat", "user.left", {"userId": 7})["triggeredBy"] == {"userId": "7", "username": None}


# chatwoot


@pytest.mark.parametrize(
    "kind",
    [name for name, event_type in EVENT_TYPES.items() if any("_" in alias for alias in event_type.aliases)],
)
def test_data_with_chatwoots_shape_goes_out_as_it_is(kind: str) -> None:
    [alias] = EVENT_TYPES[kind].aliases
    data = dict(EVENT_TYPES[kind].example)
    if kind.startswith("message."):
        data = {"id": 42, "content": "Hello!", "message_type": "incoming", "conversation": CONVERSATION}
    for name in (kind, alias):
        body = _body("chatwoot", name, data)
        assert body.pop("event") == alias
        changed = body.pop("changed_attributes", ...)
        assert changed == data.pop(
            "changed_attributes", None if kind.endswith(("updated", "changed")) else ...
        )
        assert body == data
        data = data if changed is ... else {**data, "changed_attributes": changed}


def test_a_message_of_the_chat_as_chatwoots() -> None:
    sender = {"id": "usr_1", "name": "ann", "email": None, "type": "contact"}
    assert _body("chatwoot", "message.created", MESSAGE) == {
        "event": "message_created",
        "id": "msg_1",
        "content": "Hello!",
        "content_type": "text",
        "content_attributes": {},
        "additional_attributes": {},
        "created_at": AT,
        "message_type": "incoming",
        "private": False,
        "source_id": None,
        "sender": sender,
        "account": {"id": "default", "name": None},
        "inbox": {"id": "general", "name": None},
        "conversation": {
            "id": "talk",
            "inbox_id": "general",
            "account_id": "default",
            "status": None,
            "channel": None,
            "messages": [],
            "labels": [],
            "meta": {"sender": sender, "assignee": None, "team": None},
        },
    }


def test_a_bots_message_is_outgoing_and_files_come_along() -> None:
    file = {"id": "f", "url": "https://example.com/a.png", "contentType": "image/png", "size": 5}
    author = {"id": "b", "name": "Helper", "bot": True}
    data = {**MESSAGE, "author": author, "content": "", "attachments": [file, {"url": "u"}, "no"]}
    body = _body("chatwoot", "message.created", data)
    assert (body["message_type"], body["sender"]["type"], body["content"]) == ("outgoing", "agent_bot", None)
    image, other = body["attachments"]
    assert (image["file_type"], image["data_url"], image["file_size"]) == ("image", file["url"], 5)
    assert (other["file_type"], other["message_id"]) == ("file", "msg_1")


def test_a_message_inside_its_event_as_chatwoots() -> None:
    data = {
        "message": {"id": "m", "channelId": "c", "content": "Hi"},
        "channel": {"id": "c", "name": "general"},
        "user": {"id": "u", "username": "ann"},
    }
    body = _body("chatwoot", "message.created", data)
    assert (body["id"], body["content"], body["inbox"]) == ("m", "Hi", {"id": "c", "name": "general"})
    assert body["sender"]["name"] == "ann"


@pytest.mark.parametrize(
    ("changed", "attributes"),
    [
        ({"content": {"previous_value": "a", "current_value": "b"}}, ...),
        ({"content": "b"}, [{"content": {"previous_value": None, "current_value": "b"}}]),
        ([{"content": {"previous_value": "a", "current_value": "b"}}], ...),
        (None, None),
    ],
)
def test_changed_attributes(changed: Any, attributes: Any) -> None:
    expected = (
        [{"content": {"previous_value": "a", "current_value": "b"}}] if attributes is ... else attributes
    )
    body = _body("chatwoot", "message.updated", {**MESSAGE, "changed": changed})
    assert body["changed_attributes"] == expected


def test_other_types_are_flat_with_the_types_name() -> None:
    assert _body("chatwoot", "call.participant.joined", {"callId": "c"}) == {
        "callId": "c",
        "event": "call_participant_joined",
    }
    assert _body("chatwoot", "order.paid", [1]) == {"data": [1], "event": "order_paid"}
    assert _body("chatwoot", "order.paid", {"event": "mine"})["event"] == "order_paid"


def test_what_came_from_chatwoot_through_an_endpoint_is_chatwoots_again() -> None:
    payload = {"event": "conversation_created", **CONVERSATION}
    data = {"provider": "p", "endpoint_id": "ep_1", "event": "x", "delivery_id": "d", "payload": payload}
    assert _body("chatwoot", "p.conversation_created", data) == payload
    other = _body("chatwoot", "p.push", {**data, "payload": {"event": "push"}})
    assert (other["event"], other["payload"]) == ("p_push", {"event": "push"})


# messages of chat.inbound

INBOUND = {
    "message_id": "msg_2",
    "channel_id": "general",
    "text": "Hi **all**",
    "author": {"id": "U1", "name": "Bo", "user_id": "usr_2", "avatar_url": "https://a.example/b.png"},
    "thread_id": "msg_0",
    "attachments": [
        {"id": "f", "url": "https://hub.example/f", "filename": "a.png", "content_type": "image/png"}
    ],
    "origin": {"provider": "slack", "mapping_id": "map_1"},
}


def test_an_inbound_message_as_nself_chats() -> None:
    body = _body("nchat", "inbound.message.created", INBOUND)
    assert body["event"] == "inbound.message.created"
    assert body["data"] == {
        "messageId": "msg_2",
        "channelId": "general",
        "content": "Hi **all**",
        "threadId": "msg_0",
        "author": {
            "id": "U1",
            "username": "Bo",
            "userId": "usr_2",
            "avatarUrl": "https://a.example/b.png",
        },
        "attachments": [
            {
                "id": "f",
                "url": "https://hub.example/f",
                "filename": "a.png",
                "contentType": "image/png",
                "size": None,
            }
        ],
        "origin": {"provider": "slack", "mapping_id": "map_1"},
    }
    assert body["triggeredBy"] == {"userId": "usr_2", "username": "Bo"}


def test_an_inbound_reaction_and_deletion_as_nself_chats() -> None:
    ref = {"message_id": "msg_2", "channel_id": "general"}
    reaction = {**ref, "emoji": "👍", "author": {"id": "U1", "name": "Bo"}}
    assert _body("nchat", "inbound.message.reaction.added", reaction)["data"] == {
        "messageId": "msg_2",
        "channelId": "general",
        "emoji": "👍",
        "user": {"id": "U1", "username": "Bo"},
    }
    deletion = _body("nchat", "inbound.message.deleted", ref)["data"]
    assert deletion == {"messageId": "msg_2", "channelId": "general"}


def test_an_inbound_message_as_chatwoots() -> None:
    body = _body("chatwoot", "inbound.message.created", INBOUND)
    assert (body["event"], body["id"], body["content"]) == (
        "inbound_message_created",
        "msg_2",
        "Hi **all**",
    )
    assert (body["inbox"]["id"], body["conversation"]["id"]) == ("general", "msg_0")
    assert (body["sender"]["id"], body["sender"]["name"], body["message_type"]) == (
        "usr_2",
        "Bo",
        "incoming",
    )
    [file] = body["attachments"]
    assert (file["file_type"], file["data_url"]) == ("image", "https://hub.example/f")


def test_chatwoots_message_for_a_subscriber_of_nself_chat() -> None:
    data = {
        "id": 42,
        "content": "Hello!",
        "message_type": "incoming",
        "conversation": CONVERSATION,
        "sender": {"id": 7, "name": "Bo"},
    }
    assert _body("nchat", "message_created", data)["data"] == {
        "messageId": "42",
        "channelId": "3",
        "content": "Hello!",
        "threadId": "12",
        "author": {"id": "7", "username": "Bo"},
    }


# slack


def _texts(body: Any) -> list[str]:
    """Every mrkdwn text, with what Slack's limits say of the body checked on the way."""
    blocks = body["blocks"]
    assert body.keys() == {"text", "blocks"}
    assert 0 < len(blocks) <= 50
    assert 0 < len(body["text"]) <= 4000
    texts = []
    for block in blocks:
        elements = [block["text"]] if block["type"] == "section" else block["elements"]
        assert block["type"] in ("section", "context")
        assert len(elements) <= 10
        for element in elements:
            assert element["type"] == "mrkdwn"
            assert element["verbatim"] is True
            assert 0 < len(element["text"].encode("utf-16-le")) // 2 <= 3000
            texts.append(element["text"])
    assert sum(map(len, texts)) < 13_000
    return texts


def test_a_message_on_slack() -> None:
    body = _body("slack", "message.created", MESSAGE)
    assert body["text"] == "ann wrote a message in general: Hello!"
    assert _texts(body) == [
        "*ann* wrote a message in *general*",
        "Hello!",
        f"`message.created` · general · {AT}",
    ]


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("channel.created", {"name": "a", "actor": {"username": "ann"}}, "A channel was created by ann: a"),
        ("user.joined", {"userId": "1", "username": "ann"}, "ann joined"),
        ("message.reaction.added", {"messageId": "1", "emoji": "👍"}, "Somebody reacted to a message: 👍"),
        ("conversation_status_changed", CONVERSATION, "A conversation's status changed: open"),
        ("github.push", {"payload": {}}, "Github push"),
        ("order.paid", None, "Order paid"),
    ],
)  # fmt: skip
def test_a_line_for_every_type(kind: str, data: Any, line: str) -> None:
    body = _body("slack", kind, data)
    assert body["text"] == line
    assert _texts(body)[0].replace("*", "") == line


FORGED = "<https://evil.example|our site> <!channel> <@U1> &lt;!here&gt; *bold* `code` \u202eevil"


@pytest.mark.parametrize(
    "data",
    [
        {**MESSAGE, "content": FORGED},
        {**MESSAGE, "author": {"id": "1", "username": FORGED}},
        {**MESSAGE, "channelId": FORGED},
        {**MESSAGE, "channel": {"name": FORGED}},
        {**MESSAGE, "emoji": FORGED},
    ],
)
def test_nobody_forges_a_link_or_a_mention(data: dict[str, Any]) -> None:
    body = _body("slack", "message.created", data)
    for text in (*_texts(body), body["text"]):
        assert not re.search(r"[<>\u202e]", text)
        assert not re.search(r"&(?!amp;|lt;|gt;)", text)
    assert "&amp;lt;!here" in "".join(_texts(body))
    assert _texts(_body("slack", FORGED, {}))


@pytest.mark.parametrize("character", ["a", "<", "&", "😀", "\n"])
def test_a_long_message_stays_within_slacks_limits(character: str) -> None:
    content = "x" + character * 40_000 + "x"
    texts = _texts(_body("slack", "message.created", {**MESSAGE, "content": content}))
    words = "".join(texts[1:-1])
    assert words == "x\n\nx" if character == "\n" else words.endswith("…")
    assert not re.search(r"&(?!amp;|lt;|gt;)", words)


# All of them

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "content",
                    "message",
                    "channel",
                    "author",
                    "user",
                    "id",
                    "name",
                    "event",
                    "payload",
                    "changed",
                    "attachments",
                    "message_type",
                    "channelId",
                    "origin",
                    "type",
                    "status",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
KINDS = st.sampled_from(sorted(EVENT_TYPES)) | st.sampled_from(["message_created", "github.push", "a.b.c"])


@given(KINDS, JSON)
def test_any_data_makes_a_body_and_always_the_same(kind: str, data: Any) -> None:
    for format in get_args(BodyFormat):  # noqa: A001
        body = render_body(format, _facts(kind, data))
        assert body == render_body(format, _facts(kind, data))
        parsed = json.loads(body)
        assert isinstance(parsed, dict)
        if format == "slack":
            _texts(parsed)
        elif format == "chatwoot":
            assert isinstance(parsed["event"], str)
        else:
            assert parsed["data"] == data


def test_what_can_be_read_but_not_written_is_malformed() -> None:
    raw = b'{"actor":{"a":' + b"[" * 500 + b"]" * 500 + b"}}"
    fields = _facts("order.paid", orjson.loads(raw), raw)
    for format in ("envelope", "chatwoot"):  # noqa: A001
        with pytest.raises(Malformed):
            render_body(format, fields)
    assert json.loads(render_body("nchat", fields))["event"] == "order.paid"
