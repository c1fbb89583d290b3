"""What an outgoing webhook gets of what happens, and in which form: filters, formats, transformations."""

import json
from datetime import datetime
from itertools import pairwise
from secrets import token_hex
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.outgoing import ONCE, finished, in_turn, n_of, new_type, numbered, path_of, publish, read
from tests.support.subscriber import Subscriber

PREVIEW = "/api/outgoing-webhooks/preview"


hub = hub_with(services=("gateway", "delivery"), workspace="features")


# Filters. The last event of each list is wanted: once it is there, all before it were decided on.

ANN, BOT = {"id": "usr_1", "username": "ann"}, {"id": "usr_9", "username": "robot", "isBot": True}

FILTERS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[int]]] = {
    "channels": (
        {"channels": ["ch-1", "ch-2"]},
        [{"channelId": "ch-3"}, {"channel": {"id": "ch-2"}}, {}, {"channel_id": "ch-1"}],
        [1, 3],
    ),
    "conversations": (
        {"conversations": ["cv-1"]},
        [{"conversationId": "cv-2"}, {}, {"conversation_id": "cv-1"}],
        [2],
    ),
    "users": (
        {"users": ["ann", "usr_3"]},
        [{"author": BOT}, {}, {"author": {"id": "usr_3"}}, {"user": ANN}],
        [2, 3],
    ),
    "content": (
        {"content": r"(?i)\bdeploy(ed|s)?\b"},
        [{"content": "employed"}, {}, {"text": "DEPLOYS now"}, {"message": {"content": "deploy!"}}],
        [2, 3],
    ),
    "mentions": (
        {"mentions": ["ann", "7"]},
        [
            {"content": "ann"},
            {"mentions": [{"id": "8", "username": "bo"}]},
            {"content": "hi [@Bo](mention://user/7/Bo)"},
            {"mentions": [ANN]},
        ],
        [2, 3],
    ),
    "with attachments": (
        {"has_attachments": True},
        [{"attachments": []}, {}, {"attachments": [{"id": "f1"}]}],
        [2],
    ),
    "without attachments": (
        {"has_attachments": False},
        [{"files": [{"id": "f1"}]}, {"attachments": []}, {}],
        [1, 2],
    ),
    "exclude_bots": (
        {"exclude_bots": True},
        [{"author": BOT}, {"sender": {"id": 1, "type": "agent_bot"}}, {}, {"author": ANN}],
        [2, 3],
    ),
    "exclude_own": (
        {"exclude_own": True},
        [{"origin": {"integration_id": "int_own"}}, {"origin": "int_own"}, {"origin": "int_other"}, {}],
        [2, 3],
    ),
    "condition": (
        {"condition": "data.n > `3` && contains(data.labels, 'urgent')"},
        [{"n": 4}, {"n": 9, "labels": ["low"]}, {"n": "4", "labels": "x"}, {"n": 4, "labels": ["urgent"]}],
        [3],
    ),
    "all of them": (
        {"channels": ["ch-1"], "users": ["ann"], "condition": "actor.id == 'usr_1'"},
        [{"channelId": "ch-1"}, {"author": ANN}, {"channelId": "ch-1", "author": ANN}],
        [2],
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_lets_through_what_it_says_and_the_preview_says_the_same(hub: Hub, name: str) -> None:
    filter_settings, data, expected = FILTERS[name]
    assert expected[-1] == len(data) - 1, "the last one is the control"
    with Subscriber() as subscriber:
        kind = new_type()
        settings: dict[str, Any] = {"filter": filter_settings, "integration_id": "int_own"}
        hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict", **settings)
        publish(hub, kind, *data)
        got = subscriber.wait_for(len(expected))
    assert [json.loads(request.body)["data"] for request in got] == [data[index] for index in expected]

    previews = [hub.call("POST", PREVIEW, {"type": kind, "data": item, **settings}) for item in data]
    assert [index for index, preview in enumerate(previews) if preview["wanted"]] == expected
    for index, preview in enumerate(previews):
        assert preview["error"] is None
        if index in expected:
            assert preview["because"] == ""
        else:  # which criterion it was
            assert preview["because"].partition(":")[0] in filter_settings


def test_a_changed_filter_holds_for_the_next_event_and_a_cleared_one_no_more(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], ordering="strict", filter={"condition": "data.n == `1`"}
        )
        numbered(hub, kind, 2)
        subscriber.wait_for(1)
        changed = hub.call("PATCH", path_of(webhook), {"filter": {"condition": "data.n == `2`"}})
        assert changed["filter"]["condition"] == "data.n == `2`"
        numbered(hub, kind, 3)
        subscriber.wait_for(2)
        assert hub.call("PATCH", path_of(webhook), {"filter": None})["filter"] is None
        numbered(hub, kind, 2, first=10)
        got = subscriber.wait_for(4)
    assert [n_of(request) for request in got] == [1, 2, 10, 11]


@pytest.mark.parametrize(
    ("filter_settings", "field"),
    [
        ({"content": "(unclosed"}, "filter.content"),
        ({"content": r"(a)\1"}, "filter.content"),
        ({"condition": "data.["}, "filter.condition"),
        ({"channel": ["ch-1"]}, "filter.channel"),
        ({"users": [""]}, "filter.users.0"),
    ],
)
def test_a_filter_that_is_none_is_refused_when_it_is_given(
    hub: Hub, filter_settings: dict[str, Any], field: str
) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", events=[new_type()])
    for method, path, body in (
        ("POST", "/api/outgoing-webhooks", {"name": "x", "url": "http://127.0.0.1:9/", "events": ["*"]}),
        ("PATCH", path_of(webhook), {}),
        ("POST", PREVIEW, {}),
    ):
        problem = hub.call(method, path, {**body, "filter": filter_settings}, expect=422)
        assert [fault["field"] for fault in problem["errors"]] == [field]
    assert hub.call("GET", path_of(webhook))["filter"] is None


def test_the_preview_says_why_not(hub: Hub) -> None:
    def preview(**trial: Any) -> dict[str, Any]:
        return dict(hub.call("POST", PREVIEW, {"type": "chat.said", "data": {"n": 1}, **trial}))

    assert preview(events=["other.*"])["because"].startswith("events:")
    assert preview(filter={"channels": ["ch-1"]})["because"].startswith("channels:")
    assert preview(filter={"condition": "data.n > `5`"})["because"].startswith("condition:")
    assert preview(filter={"condition": "max(data.n)"})["because"].startswith("condition:")
    plain = preview()
    assert (plain["wanted"], plain["because"], plain["error"]) == (True, "", None)
    assert json.loads(plain["body"])["data"] == {"n": 1}
    made = preview(transform="{number: data.n, kind: type}")
    assert json.loads(made["body"]) == {"number": 1, "kind": "chat.said"}
    for transform in ("max(data.n)", "data.["):
        failed = preview(transform=transform)
        assert (failed["wanted"], failed["body"]) == (True, None)
        assert failed["error"].startswith("transform:")


# Formats


def body_of(hub: Hub, kind: str, data: Any, **fields: Any) -> dict[str, Any]:
    """What a subscriber gets of one event."""
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], **fields)
        publish(hub, kind, data)
        [got] = subscriber.wait_for(1)
        hub.call("DELETE", path_of(webhook), expect=204)
    assert got.headers["content-type"] == "application/json"
    return dict(json.loads(got.body))


def message_data(channel: str) -> dict[str, Any]:
    return {
        "messageId": "msg_1",
        "channelId": channel,
        "content": "Hello <!channel> & all",
        "author": ANN,
        "origin": {"integration_id": "int_7"},
        "changed": {"content": {"previous_value": "Hell", "current_value": "Hello"}},
    }


def test_the_envelope_and_its_growing_sequence(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict")
        [name] = publish(hub, kind, message_data("ch-1"), subject="ch-1")
        for batch in range(3):
            publish(hub, kind, *[{"batch": batch}] * 5, subject="ch-1")
        got = [json.loads(request.body) for request in subscriber.wait_for(16)]
    first = got[0]
    assert list(first) == [
        *(
            "id",
            "type",
            "version",
            "workspace",
            "occurred_at",
            "sequence",
            "origin",
            "actor",
            "data",
            "changed",
        )
    ]
    assert (first["id"], first["type"], first["version"], first["workspace"]) == (
        name,
        kind,
        "1",
        hub.workspace,
    )
    assert datetime.fromisoformat(first["occurred_at"]).tzinfo is not None
    assert (first["origin"], first["actor"]) == ({"integration_id": "int_7"}, ANN)
    assert (first["data"], first["changed"]) == (message_data("ch-1"), message_data("ch-1")["changed"])
    sequences = [item["sequence"] for item in got]
    assert all(isinstance(item, str) for item in sequences), "too large for a JavaScript number"
    assert all(int(earlier) < int(later) for earlier, later in pairwise(sequences))


def test_a_retry_sends_the_bytes_and_the_sequence_of_the_first_attempt(hub: Hub) -> None:
    with Subscriber(in_turn(500, 500, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [0, 0.1, 0.1]})
        publish(hub, kind, {"n": 1.10, "big": 2**63})
        [delivery] = finished(hub, webhook["id"])
    assert delivery["attempt_count"] == 3
    assert {request.body for request in subscriber.got} == {delivery["body"].encode()}


def test_the_formats_of_other_systems(hub: Hub) -> None:
    channel = f"ch-{token_hex(4)}"

    def of(format: str) -> dict[str, Any]:  # noqa: A002 -- the word of the API
        filter_settings = {"channels": [channel]}
        return body_of(hub, "message.created", message_data(channel), format=format, filter=filter_settings)

    nchat = of("nchat")
    assert nchat["event"] == "message.created"
    assert nchat["data"] == message_data(channel)
    assert nchat["triggeredBy"] == {"userId": "usr_1", "username": "ann"}
    assert {"id", "timestamp", "version"} <= nchat.keys()

    chatwoot = of("chatwoot")
    assert chatwoot["event"] == "message_created"
    assert (chatwoot["content"], chatwoot["message_type"]) == (message_data(channel)["content"], "incoming")
    assert chatwoot["inbox"]["id"] == channel
    assert chatwoot["sender"]["id"] == "usr_1"
    assert chatwoot["changed_attributes"] == [message_data(channel)["changed"]]
    assert "data" not in chatwoot

    slack = of("slack")
    assert slack.keys() == {"text", "blocks"}
    assert "ann" in slack["text"]
    assert "&lt;!channel&gt; &amp; all" in json.dumps(slack["blocks"])
    assert "<!channel>" not in json.dumps(slack)
    assert {block["type"] for block in slack["blocks"]} == {"section", "context"}


def test_a_body_in_chatwoots_own_shape_goes_out_as_it_is(hub: Hub) -> None:
    kind = new_type()
    own = {
        "event": "conversation_updated",
        "id": 12,
        "changed_attributes": [{"status": {"current_value": 1}}],
    }
    assert body_of(hub, kind, {"payload": own}, format="chatwoot") == own


def test_a_change_of_format_holds_for_the_next_event(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        numbered(hub, kind)
        subscriber.wait_for(1)
        hub.call("PATCH", path_of(webhook), {"format": "nchat"})
        numbered(hub, kind)
        first, second = (json.loads(request.body) for request in subscriber.wait_for(2))
    assert first["type"] == second["event"] == kind
    assert "event" not in first
    assert "type" not in second


# Transformations


def test_a_transformed_body_is_what_is_signed(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url,
            events=[kind],
            format="nchat",
            transform="{what: event, words: data.items[?price > `10`].name, all: length(data.items)}",
        )
        items = [{"name": "Tee", "price": 7}, {"name": "Käse", "price": 12}]
        publish(hub, kind, {"items": items})
        [got] = subscriber.wait_for(1)
        [delivery] = finished(hub, webhook["id"])
    assert json.loads(got.body) == {"what": kind, "words": ["Käse"], "all": 2}
    assert Webhook(webhook["secret"]).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook["secret"]).verify(delivery["body"].encode(), got.headers)


def test_a_transformation_that_fails_is_a_dead_letter_until_it_is_mended(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], transform="{most: max(data.numbers)}")
        subscriber.secret = webhook["secret"]
        publish(hub, kind, {"numbers": "none"})
        [dead] = finished(hub, webhook["id"])
        assert (dead["status"], dead["error"], dead["attempt_count"]) == (
            "dead_letter",
            "transform_failed",
            1,
        )
        [attempt] = dead["attempts"]
        assert (attempt["error"], attempt["status_code"], attempt["address"]) == (
            "transform_failed",
            None,
            None,
        )
        assert "max()" in attempt["detail"]

        publish(hub, kind, {"numbers": [1, 3]})
        subscriber.wait_for(1)
        hub.call("PATCH", path_of(webhook), {"transform": "{given: data.numbers}"})
        hub.call("POST", f"/api/deliveries/{dead['id']}/retry", expect=202)
        eventually(lambda: read(hub, dead["id"])["status"] == "delivered")
        bodies = [json.loads(request.body) for request in subscriber.wait_for(2)]
    assert bodies == [{"most": 3}, {"given": "none"}]
    assert subscriber.got[1].headers["webhook-id"] == dead["id"]


def test_a_transformation_without_end_costs_its_delivery_and_nobody_elses(hub: Hub) -> None:
    """Each `[@, @]` doubles what it is given: forty of them are beyond any memory."""
    with Subscriber() as subscriber, Subscriber() as neighbour:
        kind = new_type()
        grown = hub.outgoing_webhook(
            subscriber.url, events=[kind], retry=ONCE, transform=" | ".join(["[@, @]"] * 40)
        )
        hub.outgoing_webhook(neighbour.url, events=[kind])
        numbered(hub, kind, 5)
        neighbour.wait_for(5)
        dead = finished(hub, grown["id"], 5)
        assert subscriber.got == []
    assert {(delivery["status"], delivery["error"]) for delivery in dead} == {
        ("dead_letter", "transform_failed")
    }
