"""The strict Slack server, called by Slack's own SDK: every method, every refusal, every fault."""

import io
import json
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import RetryHandler
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler, ServerErrorRetryHandler

from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_state import App, Channel, Json
from tests.support.provider_hosts import ProviderHosts

SCOPES = (
    "chat:write chat:write.customize channels:read channels:history channels:join groups:read groups:history"
    " im:read im:write im:history mpim:read mpim:write mpim:history reactions:read reactions:write files:read"
    " files:write users:read users:read.email users.profile:read usergroups:read emoji:read team:read"
)


@dataclass
class Setting:
    """One workspace with an app in one channel, and clients."""

    slack: SlackApi
    team: Workspace
    app: App
    channel: Channel
    hosts: ProviderHosts
    tls: ssl.SSLContext

    def client(self, *handlers: RetryHandler, token: str | None = "", base: str = "") -> WebClient:
        return WebClient(
            self.app.token if token == "" else token,
            proxy=self.hosts.proxy,
            ssl=self.tls,
            retry_handlers=list(handlers),
            **({"base_url": base} if base else {}),  # type: ignore[arg-type]
        )

    def get(self, url: str, token: str = "") -> tuple[str, bytes]:
        """The media type and the body of an address."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": self.hosts.proxy}),
            urllib.request.HTTPSHandler(context=self.tls),
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with opener.open(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 -- https only
            return answer.headers.get_content_type(), answer.read()

    def post(self, url: str, body: bytes, media_type: str, token: str = "") -> Any:
        """The JSON that is answered to a body."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": self.hosts.proxy}),
            urllib.request.HTTPSHandler(context=self.tls),
        )
        headers = {"Content-Type": media_type, "Authorization": f"Bearer {token or self.app.token}"}
        with opener.open(urllib.request.Request(url, body, headers)) as answer:  # noqa: S310 -- https only
            return json.loads(answer.read())

    def say(self, text: str = "hello", **more: Any) -> str:
        """Post as the app; the ts."""
        ts: str = self.client().chat_postMessage(channel=self.channel.id, text=text, **more)["ts"]
        return ts


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Setting]:
    slack = SlackApi()
    team = slack.workspace()
    app = team.add_app("Interlink", SCOPES)
    channel = team.add_channel("general", "channel", app, team.person("Ada Example"))
    with ProviderHosts(slack.hosts) as hosts:
        tls = ssl.create_default_context(cafile=str(hosts.authority(tmp_path)))
        yield Setting(slack, team, app, channel, hosts, tls)
        assert hosts.faults == []
    slack.close()


def refused(call: Callable[[], object]) -> Json:
    """What Slack answers to a call that it refuses."""
    with pytest.raises(SlackApiError) as caught:
        call()
    answer = caught.value.response.data
    assert isinstance(answer, dict)
    assert answer["ok"] is False
    return answer


def rich(*elements: Json, block_id: str = "") -> Json:
    section = {"type": "rich_text_section", "elements": list(elements)}
    return {"type": "rich_text", "elements": [section]} | ({"block_id": block_id} if block_id else {})


def test_a_message_is_posted_edited_and_deleted(at: Setting) -> None:
    client = at.client()
    assert (
        client.auth_test().data | {"bot_id": at.app.bot_id, "team_id": at.team.id} == client.auth_test().data
    )
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
    client.chat_update(channel=at.channel.id, ts=ts, text="other", blocks=[])
    (seen,) = at.slack.visible(at.channel)
    assert (seen.text, seen.edited) == ("other", True)
    link = client.chat_getPermalink(channel=at.channel.id, message_ts=ts)["permalink"]
    assert link == f"https://example.slack.com/archives/{at.channel.id}/p{ts.replace('.', '')}"
    client.chat_delete(channel=at.channel.id, ts=ts)
    assert at.slack.visible(at.channel) == []
    changes = [one.get("subtype") for one in at.slack.events.of("message")]
    assert changes == [None, "message_changed", "message_deleted"]
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
    lacking = refused(lambda: at.client(token=other.token).chat_postMessage(channel=at.channel.id, text="x"))
    assert (lacking["error"], lacking["needed"], lacking["provided"]) == (
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
    missing = at.post(url, b"text=x", "application/x-www-form-urlencoded")
    assert missing["response_metadata"]["messages"] == ["[ERROR] missing required field: channel"]


def test_reactions(at: Setting) -> None:
    client, ts = at.client(), at.say()
    at.team.emoji["parrot"] = "https://emoji.slack-edge.com/parrot.gif"
    where = {"channel": at.channel.id, "timestamp": ts}
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


def test_files_are_uploaded_shared_read_and_deleted(at: Setting) -> None:
    client, root = at.client(), at.say("root")
    shared = client.files_upload_v2(
        file_uploads=[
            {"content": b"\x00one", "filename": "one.bin", "title": "One"},
            {"file": io.BytesIO(b"two"), "filename": "two.txt", "alt_txt": "the second"},
        ],
        channel=at.channel.id,
        thread_ts=root,
        initial_comment="two files",
    )
    ids = [one["id"] for one in shared["files"]]
    seen = at.slack.visible(at.channel)[1]
    assert (seen.text, seen.thread) == ("two files", root)
    assert seen.files == (("one.bin", b"\x00one"), ("two.txt", b"two"))
    event = at.slack.events.of("message", "file_share")[0]
    assert [one["id"] for one in event["files"]] == ids
    info = client.files_info(file=ids[0])["file"]
    assert (info["title"], info["size"]) == ("One", 4)
    assert info["shares"]["public"][at.channel.id][0]["ts"] == seen.ts
    assert at.get(info["url_private"], at.app.token) == ("application/octet-stream", b"\x00one")
    assert at.get(info["url_private"])[0] == "text/html"
    client.files_delete(file=ids[0])
    assert at.slack.visible(at.channel)[1].files == (("two.txt", b"two"),)
    changed = at.slack.events.of("message", "message_changed")[0]["message"]
    assert (changed["files"][0]["mode"], "edited" in changed) == ("tombstone", False)
    assert refused(lambda: client.files_info(file=ids[0]))["error"] == "file_deleted"
    assert at.slack.complaints == []


def test_a_file_of_a_form_with_blocks_and_another_name(at: Setting) -> None:
    client = at.client()
    begun = client.files_getUploadURLExternal(filename="a.txt", length=3)
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nabc\r\n--b--\r\n'
    with pytest.raises(json.JSONDecodeError):  # it says OK, which is no JSON
        at.post(begun["upload_url"], part, "multipart/form-data; boundary=b")
    client.files_completeUploadExternal(
        files=[{"id": begun["file_id"], "title": "A"}],
        channel_id=at.channel.id,
        blocks=json.dumps([rich({"type": "text", "text": "look"})]),
        username="Bo",
    )
    (seen,) = at.slack.visible(at.channel)
    assert (seen.author, seen.text, seen.files) == ("Bo", "look", (("a.txt", b"abc"),))


def test_files_are_refused(at: Setting) -> None:
    client, ada = at.client(), at.team.person("Ada Example")
    theirs = ada.upload("theirs.txt", b"x")

    def error(call: Callable[[], object]) -> str:
        found: str = refused(call)["error"]
        return found

    def complete(file_id: str, **more: str) -> str:
        return error(
            lambda: client.files_completeUploadExternal(files=[{"id": file_id, "title": "x"}], **more)
        )

    assert error(lambda: client.files_getUploadURLExternal(filename="a", length=0)) == "invalid_arguments"
    begun = client.files_getUploadURLExternal(filename="a", length=3)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        at.post(begun["upload_url"], b"four", "application/octet-stream")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        at.post("https://files.slack.com/upload/v1/none", b"x", "application/octet-stream")
    assert complete(begun["file_id"]) == complete("F0") == complete(theirs.id) == "file_not_found"
    assert error(lambda: client.files_completeUploadExternal(files=[])) == "invalid_arguments"
    with pytest.raises(json.JSONDecodeError):
        at.post(begun["upload_url"], b"abc", "application/octet-stream")
    assert complete(begun["file_id"], channel_id="C0") == "channel_not_found"
    assert complete(begun["file_id"], thread_ts="1700000000.000001") == "invalid_arguments"
    outside = at.team.add_channel("outside")
    at.app.scopes.add("chat:write.public")
    assert complete(begun["file_id"], channel_id=outside.id) == "not_in_channel"
    assert error(lambda: client.files_info(file=theirs.id)) == "file_not_found"
    ada.write(at.channel, files=[theirs])
    assert client.files_info(file=theirs.id)["file"]["user"] == ada.user_id
    assert error(lambda: client.files_delete(file=theirs.id)) == "cant_delete_file"
    at.app.scopes.discard("files:read")
    assert at.get(theirs.url, at.app.token)[0] == "text/html"


def test_conversations(at: Setting) -> None:
    client, ada = at.client(), at.team.person("Ada Example")
    others = [at.team.add_channel(f"more-{number}") for number in range(3)]
    at.team.add_channel("secret", "group")
    mine = at.team.add_channel("mine", "group", at.app)
    at.team.archive(others[2], ada.user_id)
    pages = list(client.conversations_list(limit=2, exclude_archived=True))
    assert [[one["name"] for one in page["channels"]] for page in pages] == [
        ["general", "more-0"],
        ["more-1"],
    ]
    groups = client.conversations_list(types="private_channel,public_channel")["channels"]
    assert mine.id in [one["id"] for one in groups]
    assert "secret" not in [one["name"] for one in groups]
    assert client.conversations_info(channel=at.channel.id)["channel"]["is_member"] is True
    assert client.conversations_members(channel=at.channel.id)["members"] == [at.app.user_id, ada.user_id]
    assert client.conversations_join(channel=others[0].id)["channel"]["is_member"] is True
    assert at.slack.events.of("member_joined_channel")[0]["user"] == at.app.user_id
    opened = client.conversations_open(users=[ada.user_id])["channel"]["id"]
    assert client.conversations_open(users=ada.user_id, return_im=True)["channel"]["user"] == ada.user_id
    bo = at.team.person("Bo Example")
    many = client.conversations_open(users=[ada.user_id, bo.user_id])["channel"]["id"]
    assert (at.team.channels[opened].kind, at.team.channels[many].kind) == ("im", "mpim")


def test_history_is_paged_and_bounded(at: Setting) -> None:
    client = at.client()
    sent = [at.say(str(number)) for number in range(5)]
    assert len(set(sent)) == 5
    pages = list(client.conversations_history(channel=at.channel.id, limit=2))
    assert [[one["text"] for one in page["messages"]] for page in pages] == [["4", "3"], ["2", "1"], ["0"]]
    assert [page["has_more"] for page in pages] == [True, True, False]

    def between(**bounds: Any) -> list[str]:
        found = client.conversations_history(channel=at.channel.id, **bounds)["messages"]
        return [one["text"] for one in found]

    assert between(oldest=sent[1], latest=sent[3]) == ["2"]
    assert between(oldest=sent[1], latest=sent[3], inclusive=True) == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("method", "args", "error"),
    [
        ("conversations.list", {"types": "room"}, "invalid_types"),
        ("conversations.list", {"limit": "1001"}, "invalid_limit"),
        ("conversations.list", {"limit": "x"}, "invalid_arguments"),
        ("conversations.list", {"cursor": "?"}, "invalid_cursor"),
        ("conversations.history", {"channel": "C0"}, "channel_not_found"),
        ("conversations.history", {"channel": "outside"}, "not_in_channel"),
        ("conversations.history", {"channel": "general", "oldest": "x"}, "invalid_ts_oldest"),
        ("conversations.history", {"channel": "general", "latest": "x"}, "invalid_ts_latest"),
        ("conversations.join", {"channel": "group"}, "method_not_supported_for_channel_type"),
        ("conversations.join", {"channel": "archived"}, "is_archived"),
        ("conversations.open", {}, "users_list_not_supplied"),
        ("conversations.open", {"users": "U0"}, "user_not_found"),
        ("users.info", {"user": "U0"}, "user_not_found"),
        ("users.lookupByEmail", {"email": "nobody@example.com"}, "users_not_found"),
        ("team.info", {"team": "T0"}, "team_not_found"),
        ("bots.info", {"bot": "B0"}, "bot_not_found"),
    ],
)
def test_look_ups_are_refused(at: Setting, method: str, args: dict[str, str], error: str) -> None:
    made = {
        "general": at.channel,
        "outside": at.team.add_channel("outside"),
        "group": at.team.add_channel("group", "group", at.app),
        "archived": at.team.add_channel("archived"),
    }
    made["archived"].archived = True
    if args.get("channel") in made:
        args = args | {"channel": made[args["channel"]].id}
    assert refused(lambda: at.client().api_call(method, params=args))["error"] == error
    assert at.slack.complaints == []


def test_too_many_people_for_one_conversation(at: Setting) -> None:
    people = [at.team.person(f"Person {number}").user_id for number in range(9)]
    assert refused(lambda: at.client().conversations_open(users=people))["error"] == "too_many_users"


def test_people_and_the_workspace(at: Setting) -> None:
    client, ada = at.client(), at.team.person("Ada Example")
    at.team.groups["S1"] = {"id": "S1", "handle": "team", "name": "Team"}
    at.team.emoji["parrot"] = "https://emoji.slack-edge.com/parrot.gif"
    pages = list(client.users_list(limit=1))
    assert [page["members"][0]["is_bot"] for page in pages] == [True, False]
    shown = client.users_info(user=ada.user_id)["user"]
    assert (shown["real_name"], shown["profile"]["email"]) == ("Ada Example", "ada@example.com")
    assert shown["profile"]["image_72"] == ada.user.picture
    assert client.users_lookupByEmail(email="ada@example.com")["user"]["id"] == ada.user_id
    assert client.users_profile_get(user=ada.user_id)["profile"]["real_name"] == "Ada Example"
    assert client.users_profile_get()["profile"]["bot_id"] == at.app.bot_id
    assert client.usergroups_list()["usergroups"][0]["handle"] == "team"
    assert client.emoji_list()["emoji"] == at.team.emoji
    assert client.team_info()["team"]["domain"] == "example"
    assert client.bots_info(bot=at.app.bot_id)["bot"]["user_id"] == at.app.user_id
    at.app.scopes.discard("users:read.email")
    assert "email" not in client.users_info(user=ada.user_id)["user"]["profile"]
    assert at.slack.complaints == []


def test_the_kinds_of_conversations_have_scopes_of_their_own(at: Setting) -> None:
    client, group = at.client(), at.team.add_channel("mine", "group", at.app)
    at.app.scopes -= {"groups:read", "groups:history", "mpim:write"}
    people = [at.team.person(name).user_id for name in ("Ada Example", "Bo Example")]
    needed = [
        refused(call)["needed"]
        for call in (
            lambda: client.conversations_list(types="private_channel"),
            lambda: client.conversations_info(channel=group.id),
            lambda: client.conversations_members(channel=group.id),
            lambda: client.conversations_history(channel=group.id),
            lambda: client.conversations_replies(channel=group.id, ts="1"),
            lambda: client.conversations_open(users=people),
        )
    ]
    assert needed == [*["groups:read"] * 3, *["groups:history"] * 2, "mpim:write"]


def test_workspaces_are_apart(at: Setting) -> None:
    there = at.slack.workspace("Elsewhere")
    app = there.add_app("Interlink", SCOPES)
    answer = refused(lambda: at.client(token=app.token).conversations_info(channel=at.channel.id))
    assert answer["error"] == "channel_not_found"
    file = at.team.person("Ada Example").upload("a.txt", b"x")
    at.team.person("Ada Example").write(at.channel, files=[file])
    assert at.get(file.url, app.token)[0] == "text/html"


def test_rate_limits_are_obeyed_by_the_sdk(at: Setting) -> None:
    at.slack.faults.rate_limit("chat.postMessage", retry_after_s=1)
    with pytest.raises(SlackApiError) as caught:
        at.say()
    assert (caught.value.response.status_code, caught.value.response["error"]) == (429, "ratelimited")
    assert caught.value.response.headers["retry-after"] == "1"
    at.slack.faults.message_rate = (2, 1)
    client = at.client(RateLimitErrorRetryHandler(max_retry_count=2))
    started = time.monotonic()
    for number in range(2):
        client.chat_postMessage(channel=at.channel.id, text=str(number))
    assert time.monotonic() - started >= 1
    assert [one.text for one in at.slack.visible(at.channel)] == ["0", "1"]


def test_slack_fails_and_loses_answers(at: Setting) -> None:
    faults = at.slack.faults
    faults.fail("chat.postMessage", 503)
    at.client(ServerErrorRetryHandler()).chat_postMessage(channel=at.channel.id, text="second try")
    faults.lose_response("*")
    with pytest.raises(ConnectionError):
        at.say("lost")
    faults.cut("chat.postMessage")
    with pytest.raises(ConnectionError):
        at.say("cut")
    at.hosts.down.add("slack.com")
    with pytest.raises(OSError, match="502"):
        at.say("down")
    at.hosts.down.clear()
    faults.delay("auth.test", 0.3)
    started = time.monotonic()
    at.client().auth_test()
    assert time.monotonic() - started >= 0.3
    assert [one.text for one in at.slack.visible(at.channel)] == ["second try", "lost"]
    faults.fail("download", 500)
    faults.fail("upload", 500)
    for call in (
        lambda: at.get("https://files.slack.com/files-pri/T1-F1/a"),
        lambda: at.post("https://files.slack.com/upload/v1/x", b"x", "text/plain"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="500"):
            call()
