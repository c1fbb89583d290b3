"""The strict Slack server's messages and reactions, called by Slack's own SDK."""

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.slack_state import Json
from tests.support.slack_setting import Setting, refused, rich, setting


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Setting]:
    with setting(tmp_path) as made:
        yield made


def test_a_message_is_posted_edited_and_deleted(at: Setting) -> None:
    client = at.client()
    me = client.auth_test()
    assert (me["bot_id"], me["user_id"], me["team_id"]) == (at.app.bot_id, at.app.user_id, at.team.id)
    blocks = [rich({"type": "text", "text": "hi"}, {"type": "user", "user_id": at.app.user_id})]
    posted = client.chat_postMessage(
        channel=at.channel.id,
        text="hi",
        blocks=blocks,
        metadata={"event_type": "e", "event_payload": {"a": 1}},
    )
    assert posted.headers["x-accepted-oauth-scopes"] == "chat:write"
    ts = posted["ts"]
    assert posted["message"]["bot_id"] == at.app.bot_id
    assert posted["message"]["blocks"][0]["block_id"]
    (seen,) = at.slack.visible(at.channel)
    assert (seen.author, seen.text, seen.edited) == ("Interlink", "hi@interlink", False)
    retained = client.chat_update(channel=at.channel.id, ts=ts, text="other")["message"]
    assert retained["blocks"] == posted["message"]["blocks"]
    client.chat_update(channel=at.channel.id, ts=ts, text="other", blocks=[])
    (seen,) = at.slack.visible(at.channel)
    assert (seen.text, seen.edited) == ("other", True)
    link = client.chat_getPermalink(channel=at.channel.id, message_ts=ts)["permalink"]
    assert link == f"https://example.slack.com/archives/{at.channel.id}/p{ts.replace('.', '')}"
    client.chat_delete(channel=at.channel.id, ts=ts)
    assert at.slack.visible(at.channel) == []
    changes = [one.get("subtype") for one in at.slack.events.of("message")]
    assert changes == [None, "message_changed", "message_changed", "message_deleted"]
    assert at.slack.complaints == []


def test_a_name_and_a_picture_need_a_scope(at: Setting) -> None:
    at.say(username="Bo", icon_url="https://example.com/bo.png")
    at.say(icon_emoji=":tada:")
    shown = [(one.author, one.icon) for one in at.slack.visible(at.channel)]
    assert shown == [("Bo", "https://example.com/bo.png"), ("Interlink", ":tada:")]
    event = at.slack.events.of("message", "bot_message")[0]
    assert (event["username"], event["app_id"], "user" in event) == ("Bo", at.app.id, False)
    at.app.scopes.discard("chat:write.customize")
    answer = refused(lambda: at.say(username="Bo"))
    assert (answer["error"], answer["needed"]) == ("missing_scope", "chat:write.customize")
    assert "chat:write" in answer["provided"].split(",")


def test_threads_and_broadcasts(at: Setting) -> None:
    client, root = at.client(), at.say("question")
    reply = at.say("answer", thread_ts=root)
    loud = at.say("for all", thread_ts=root, reply_broadcast=True)
    event = at.slack.events.of("message", "thread_broadcast")[0]
    assert (event["ts"], event["root"]["text"]) == (loud, "question")
    assert [one.thread for one in at.slack.visible(at.channel)] == [None, root, root]
    history = client.conversations_history(channel=at.channel.id)["messages"]
    assert [one["ts"] for one in history] == [loud, root]
    replies = client.conversations_replies(channel=at.channel.id, ts=root)["messages"]
    assert [one["ts"] for one in replies] == [root, reply, loud]
    assert replies[0]["reply_count"] == 2
    link = client.chat_getPermalink(channel=at.channel.id, message_ts=reply)["permalink"]
    assert link.endswith(f"?thread_ts={root}&cid={at.channel.id}")
    at.say("to a reply", thread_ts=reply)
    assert at.slack.complaints == [f"thread_ts {reply} is a reply's, not the thread's"]
    client.chat_delete(channel=at.channel.id, ts=root)
    changed = at.slack.events.of("message", "message_changed")[-1]
    assert changed["message"]["subtype"] == "tombstone"
    refusal = refused(lambda: client.conversations_replies(channel=at.channel.id, ts="1700000000.000001"))
    assert refusal["error"] == "thread_not_found"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"text": ""}, "no_text"),
        ({"text": "x" * 40_001}, "msg_too_long"),
        ({"text": "x", "thread_ts": "1"}, "invalid_thread_ts"),
        ({"text": "x", "thread_ts": "1700000000.000001"}, "thread_not_found"),
        ({"text": "x", "metadata": {"event_type": "e"}}, "invalid_metadata_format"),
        ({"text": "x", "attachments": [{"text": "a"}] * 101}, "too_many_attachments"),
        ({"text": "x", "attachments": "["}, "invalid_attachments"),
        ({"text": "x", "blocks": "{"}, "invalid_blocks_format"),
        ({"text": "x", "blocks": {}}, "invalid_blocks_format"),
        ({"text": "x", "channel": "C0"}, "channel_not_found"),
    ],
)
def test_a_message_is_refused(at: Setting, args: dict[str, Any], error: str) -> None:
    answer = refused(lambda: at.client().chat_postMessage(**({"channel": at.channel.id} | args)))
    assert answer["error"] == error
    assert at.slack.visible(at.channel) == []


def text(value: str) -> Json:
    return {"type": "mrkdwn", "text": value}


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "divider"}] * 51,
        ["text"],
        [{"type": "nothing"}],
        [{"type": "divider", "other": 1}],
        [{"type": "divider", "block_id": "x" * 256}],
        [{"type": "divider", "block_id": "a"}, {"type": "divider", "block_id": "a"}],
        [{"type": "section", "text": text("x" * 3001)}],
        [{"type": "section", "text": text("")}],
        [{"type": "section"}],
        [{"type": "section", "fields": [text("x")] * 11}],
        [{"type": "section", "text": {"type": "rich", "text": "x"}}],
        [{"type": "header", "text": text("no plain_text")}],
        [{"type": "markdown", "text": "x" * 12_001}],
        [{"type": "context", "elements": []}],
        [{"type": "context", "elements": [{"type": "image", "image_url": "https://example.com/a.png"}]}],
        [{"type": "image", "alt_text": "no picture"}],
        [{"type": "rich_text"}],
        [{"type": "rich_text", "elements": [{"type": "text", "text": "x"}]}],
        [{"type": "rich_text", "elements": [{"type": "rich_text_quote"}]}],
        [{"type": "rich_text", "elements": [{"type": "rich_text_list", "elements": []}]}],
        [
            {
                "type": "rich_text",
                "elements": [{"type": "rich_text_list", "style": "bullet", "indent": 9, "elements": []}],
            }
        ],
        [
            {
                "type": "rich_text",
                "elements": [
                    {"type": "rich_text_list", "style": "bullet", "elements": [{"type": "rich_text_quote"}]}
                ],
            }
        ],
        [rich({"type": "text", "text": ""})],
        [rich({"type": "text", "text": "x", "style": {"loud": True}})],
        [rich({"type": "text", "text": "x", "style": {"bold": 1}})],
        [rich({"type": "link", "text": "x"})],
        [rich({"type": "user", "user": "U1"})],
        [rich({"type": "broadcast", "range": "all"})],
        [rich({"type": "date", "timestamp": "1", "format": "{date}"})],
        [rich({"type": "spoiler", "text": "x"})],
    ],
)
def test_blocks_are_refused(at: Setting, blocks: list[Json]) -> None:
    answer = refused(lambda: at.say("x", blocks=blocks))
    assert answer["error"] == "invalid_blocks"
    assert answer["response_metadata"]["messages"][0].startswith("[ERROR] ")
    assert at.slack.visible(at.channel) == []


def test_blocks_are_seen_as_people_read_them(at: Setting) -> None:
    at.team.groups["S1"] = {"id": "S1", "handle": "team"}
    items = [{"type": "rich_text_section", "elements": [{"type": "text", "text": one}]} for one in ("a", "b")]
    parts = [
        {"type": "rich_text_list", "style": "ordered", "elements": items},
        {"type": "rich_text_list", "style": "bullet", "indent": 1, "elements": items},
        {"type": "rich_text_quote", "elements": [{"type": "link", "url": "https://example.com"}]},
        {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "code"}]},
    ]
    inline = rich(
        {"type": "channel", "channel_id": at.channel.id},
        {"type": "usergroup", "usergroup_id": "S1"},
        {"type": "broadcast", "range": "here"},
        {"type": "emoji", "name": "tada"},
        {"type": "date", "timestamp": 1, "format": "{date}", "fallback": "then"},
        {"type": "user", "user_id": "U0"},
    )
    others: list[Json] = [
        {"type": "header", "text": {"type": "plain_text", "text": "head"}},
        {"type": "section", "text": text("body")},
        {"type": "context", "elements": [text("small")]},
        {"type": "markdown", "text": "mark"},
        {"type": "image", "image_url": "https://example.com/a.png", "alt_text": "picture"},
        {"type": "divider"},
    ]
    at.say("x", blocks=[inline, {"type": "rich_text", "elements": parts}, *others])
    assert at.slack.visible(at.channel)[0].text.split("\n") == [
        "#general@team@here:tada:thenunknown user U0",
        *("1. a", "2. b", "• a", "• b", "> https://example.com", "code"),
        *("head", "body", "small", "mark", "picture"),
    ]
    long = [{"type": "section", "text": text("x" * 2900)}] * 5
    assert refused(lambda: at.say("x", blocks=long))["error"] == "msg_blocks_too_long"


def test_edits_and_deletions_are_refused(at: Setting) -> None:
    client, ts = at.client(), at.say()
    theirs = at.team.person("Ada Example").write(at.channel, "mine")

    def update(which: str, value: str = "x", channel: str = at.channel.id) -> str:
        error: str = refused(lambda: client.chat_update(channel=channel, ts=which, text=value))["error"]
        return error

    def delete(which: str) -> str:
        error: str = refused(lambda: client.chat_delete(channel=at.channel.id, ts=which))["error"]
        return error

    assert update("1700000000.000001") == delete("1700000000.000001") == "message_not_found"
    assert (update(theirs), delete(theirs)) == ("cant_update_message", "cant_delete_message")
    assert (update(ts, "x" * 4001), update(ts, "")) == ("msg_too_long", "no_text")
    assert update(ts, channel="C0") == "channel_not_found"
    permalink = refused(lambda: client.chat_getPermalink(channel=at.channel.id, message_ts="1"))
    assert permalink["error"] == "message_not_found"
    at.team.edit_window_s = 0
    assert update(ts) == "edit_window_closed"
    at.team.edit_window_s = None
    at.team.archive(at.channel, at.app.user_id)
    assert update(ts) == delete(ts) == "is_archived"


def test_where_an_app_may_write(at: Setting) -> None:
    client = at.client()
    outside, private = at.team.add_channel("outside"), at.team.add_channel("private", "group")

    def post(channel: str) -> str:
        error: str = refused(lambda: client.chat_postMessage(channel=channel, text="x"))["error"]
        return error

    assert (post(outside.id), post(private.id)) == ("not_in_channel", "channel_not_found")
    at.app.scopes.add("chat:write.public")
    client.chat_postMessage(channel=outside.id, text="x")
    assert post(private.id) == "channel_not_found"
    person = at.team.person("Ada Example")
    direct = client.chat_postMessage(channel=person.user_id, text="for you")["channel"]
    assert at.team.channels[direct].kind == "im"
    at.team.archive(outside, person.user_id)
    assert post(outside.id) == "is_archived"
    at.app.scopes.discard("chat:write.public")
    at.team.remove(at.channel, at.app.user_id)
    assert post(at.channel.id) == "not_in_channel"


def test_tokens_and_scopes(at: Setting) -> None:
    other = at.team.add_app("Other", "reactions:read")
    assert refused(at.client(token=None).auth_test)["error"] == "not_authed"
    assert refused(at.client(token="xoxb-nothing").auth_test)["error"] == "invalid_auth"
    missing_one = refused(
        lambda: at.client(token=other.token).chat_postMessage(channel=at.channel.id, text="x")
    )
    assert (missing_one["error"], missing_one["needed"], missing_one["provided"]) == (
        "missing_scope",
        "chat:write",
        "reactions:read",
    )
    at.app.revoke()
    assert refused(at.client().auth_test)["error"] == "token_revoked"


def test_what_no_client_may_send_is_a_complaint(at: Setting) -> None:
    client = at.client()
    assert refused(lambda: client.api_call("chat.shout"))["error"] == "unknown_method"
    unknown = refused(lambda: at.say(text="x", volume=11))
    assert unknown["error"] == "invalid_arguments"
    assert refused(lambda: client.api_call("users.info", json={"user": "U1"}))["error"] == "invalid_arguments"
    at.say("x", reply_broadcast=True)
    at.say("x", username="x" * 81, icon_url="file:///x")
    assert at.slack.complaints == [
        "there is no method chat.shout",
        "chat.postMessage has no argument volume",
        "users.info reads no JSON, only a form",
        "chat.postMessage: reply_broadcast without thread_ts",
        "username has more than 80 characters",
        "icon_url is file:///x",
    ]
    url = "https://slack.com/api/chat.postMessage"
    assert at.post(url, b"{", "application/json")["error"] == "invalid_json"
    assert at.post(url, b"[]", "application/json")["error"] == "json_not_object"
    assert at.post(url, b"x", "text/plain")["error"] == "invalid_post_type"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        at.post("https://slack.com/chat.postMessage", b"{}", "application/json")
    missing = at.post(url, b"text=x", "application/x-www-form-urlencoded")
    assert missing["response_metadata"]["messages"] == ["[ERROR] missing required field: channel"]


def test_reactions(at: Setting) -> None:
    client, ts = at.client(), at.say()
    at.team.emoji["parrot"] = "https://emoji.slack-edge.com/parrot.gif"
    where: dict[str, Any] = {"channel": at.channel.id, "timestamp": ts}
    for name in ("tada", "parrot", "wave::skin-tone-3"):
        client.reactions_add(name=name, **where)
    at.team.person("Ada Example").react(at.channel, ts, "tada")
    got = client.reactions_get(**where)["message"]["reactions"]
    assert [(one["name"], one["count"]) for one in got] == [
        ("tada", 2),
        ("parrot", 1),
        ("wave::skin-tone-3", 1),
    ]
    client.reactions_remove(name="tada", **where)
    assert at.slack.visible(at.channel)[0].reactions["tada"] == ("Ada Example",)
    events = [one["type"] for one in at.slack.events.of("reaction_removed")]
    assert (events, len(at.slack.events.of("reaction_added"))) == (["reaction_removed"], 4)

    def add(name: str, **other: str) -> str:
        error: str = refused(lambda: client.reactions_add(name=name, **(where | other)))["error"]
        return error

    assert add("parrot") == "already_reacted"
    assert add("nothing") == add("Ä") == "invalid_name"
    assert add("eyes", timestamp="1") == "bad_timestamp"
    assert add("eyes", timestamp="1700000000.000001") == "message_not_found"
    assert add("eyes", channel="C0") == "channel_not_found"
    assert add("eyes", channel=at.team.add_channel("outside").id) == "not_in_channel"
    assert refused(lambda: client.reactions_remove(name="tada", **where))["error"] == "no_reaction"
    assert refused(lambda: client.reactions_remove(name="tada"))["error"] == "no_item_specified"
    unknown = refused(lambda: client.reactions_get(channel=at.channel.id, timestamp="1"))
    assert unknown["error"] == "message_not_found"
    at.team.archive(at.channel, at.app.user_id)
    assert add("eyes") == "is_archived"


def test_reactions_have_limits(at: Setting) -> None:
    client, ts = at.client(), at.say()
    at.slack.emoji_names = frozenset(f"e{number}" for number in range(60))
    for number in range(23):
        client.reactions_add(channel=at.channel.id, timestamp=ts, name=f"e{number}")

    def one_more() -> str:
        error: str = refused(lambda: client.reactions_add(channel=at.channel.id, timestamp=ts, name="e59"))[
            "error"
        ]
        return error

    assert one_more() == "too_many_reactions"
    for number in range(23, 50):
        at.team.person(f"Person {number}").react(at.channel, ts, f"e{number}")
    assert one_more() == "too_many_emoji"
