"""The strict Slack server's files, look-ups and faults, called by Slack's own SDK."""

import io
import json
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler, ServerErrorRetryHandler

from tests.support.fakes.slack_faults import OUTSIDE_MARKETPLACE
from tests.support.slack_setting import SCOPES, Setting, refused, rich, setting


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Setting]:
    with setting(tmp_path) as made:
        yield made


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
    started_upload = client.files_getUploadURLExternal(filename="a.txt", length=3)
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nabc\r\n--b--\r\n'
    with pytest.raises(json.JSONDecodeError):  # it says OK, which is no JSON
        at.post(started_upload["upload_url"], part, "multipart/form-data; boundary=b")
    client.files_completeUploadExternal(
        files=[{"id": started_upload["file_id"], "title": "A"}],
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

    def complete(file_id: str, **more: Any) -> str:
        return error(
            lambda: client.files_completeUploadExternal(files=[{"id": file_id, "title": "x"}], **more)
        )

    assert error(lambda: client.files_getUploadURLExternal(filename="a", length=0)) == "invalid_arguments"
    started_upload = client.files_getUploadURLExternal(filename="a", length=3)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        at.post(started_upload["upload_url"], b"four", "application/octet-stream")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        at.post("https://files.slack.com/upload/v1/none", b"x", "application/octet-stream")
    assert complete(started_upload["file_id"]) == complete("F0") == complete(theirs.id) == "file_not_found"
    assert error(lambda: client.files_completeUploadExternal(files=[])) == "invalid_arguments"
    odd: list[dict[str, str | None]] = [{"id": "F0", "name": "x"}]
    assert error(lambda: client.files_completeUploadExternal(files=odd)) == "invalid_arguments"
    with pytest.raises(json.JSONDecodeError):
        at.post(started_upload["upload_url"], b"abc", "application/octet-stream")
    assert complete(started_upload["file_id"], channel_id="C0") == "channel_not_found"
    blocks = json.dumps([{"type": "nothing"}])
    assert complete(started_upload["file_id"], channel_id=at.channel.id, blocks=blocks) == "invalid_blocks"
    assert complete(started_upload["file_id"], thread_ts="1700000000.000001") == "invalid_arguments"
    outside = at.team.add_channel("outside")
    at.app.scopes.add("chat:write.public")
    assert complete(started_upload["file_id"], channel_id=outside.id) == "not_in_channel"
    assert error(lambda: client.files_info(file=theirs.id)) == "file_not_found"
    ada.write(at.channel, files=[theirs])
    assert client.files_info(file=theirs.id)["file"]["user"] == ada.user_id
    assert error(lambda: client.files_delete(file=theirs.id)) == "cant_delete_file"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        at.get("https://files.slack.com/files-pri/T1-F0/none", at.app.token)
    client.files_completeUploadExternal(
        files=[{"id": started_upload["file_id"], "title": "x"}],
        channel_id=at.channel.id,
        initial_comment="x",
        blocks="[]",
    )
    assert at.slack.complaints == ["files.completeUploadExternal: blocks are ignored beside initial_comment"]
    at.app.scopes.discard("files:read")
    assert at.get(theirs.url, at.app.token)[0] == "text/html"


def test_conversations(at: Setting) -> None:
    client, ada = at.client(), at.team.person("Ada Example")
    others = [at.team.add_channel(f"more-{number}") for number in range(3)]
    at.team.add_channel("secret", "group")
    mine = at.team.add_channel("mine", "group", at.app)
    at.team.archive(others[2], ada.user_id)
    listed = client.conversations_list(limit=2, exclude_archived=True)
    pages = [[one["name"] for one in page["channels"]] for page in listed]
    assert pages == [["general", "more-0"], ["more-1"]]
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


def test_apps_outside_the_marketplace_read_15_messages_a_minute(at: Setting) -> None:
    client = at.client()
    for number in range(16):
        at.say(str(number))
    at.slack.faults.history_limit = OUTSIDE_MARKETPLACE
    listed = client.conversations_history(channel=at.channel.id, limit=200)
    assert (len(listed["messages"]), listed["has_more"]) == (15, True)
    root = listed["messages"][0]["ts"]
    for method, args, counted in (("history", {}, False), ("replies", {"ts": root}, True)):
        call = getattr(client, f"conversations_{method}")
        if counted:
            call(channel=at.channel.id, **args)
        with pytest.raises(SlackApiError) as caught:
            call(channel=at.channel.id, **args)
        assert caught.value.response.status_code == 429
        assert 50 <= int(caught.value.response.headers["Retry-After"]) <= 60


def test_history_is_paged_and_bounded(at: Setting) -> None:
    client = at.client()
    sent = [at.say(str(number)) for number in range(5)]
    assert len(set(sent)) == 5
    listed = client.conversations_history(channel=at.channel.id, limit=2)
    pages = [([one["text"] for one in page["messages"]], page["has_more"]) for page in listed]
    assert pages == [(["4", "3"], True), (["2", "1"], True), (["0"], False)]

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
    assert [page["members"][0]["is_bot"] for page in client.users_list(limit=1)] == [True, False]
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
    started = time.monotonic()
    with at.direct(RateLimitErrorRetryHandler(max_retry_count=2)) as client:
        for number in range(2):
            client.chat_postMessage(channel=at.channel.id, text=str(number))
    assert time.monotonic() - started >= 1
    assert [one.text for one in at.slack.visible(at.channel)] == ["0", "1"]


def test_slack_fails_and_loses_answers(at: Setting) -> None:
    faults = at.slack.faults
    faults.fail("chat.postMessage", 503)
    with at.direct(ServerErrorRetryHandler()) as client:
        client.chat_postMessage(channel=at.channel.id, text="second try")
    faults.lose_response("*")
    with pytest.raises(ConnectionError):
        at.say("lost")
    faults.cut("chat.postMessage")
    with pytest.raises(ConnectionError):
        at.say("cut")
    at.hosts.take_down("slack.com")
    with pytest.raises(OSError, match="502"):
        at.say("down")
    at.hosts.bring_up()
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
