"""Files of Slack: the three steps of an upload, `files.*`, and the download of private addresses.

https://docs.slack.dev/messaging/working-with-files. What is answered to an upload of another length, and
which files cannot be completed, is from memory.
"""

import email
import email.policy
import secrets
from collections.abc import Iterable
from typing import Any, Final

from tests.support.fakes.ranges import file_reply
from tests.support.fakes.slack_blocks import check_blocks
from tests.support.fakes.slack_calls import Call, invalid, method
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_chat import author, thread, writable
from tests.support.fakes.slack_state import App, File, Json, SlackError
from tests.support.provider_hosts import HostRequest, Reply

UPLOAD: Final = "/upload/v1/"
PRIVATE: Final = "/files-pri/"
_LOGIN: Final = "<!doctype html><title>Slack</title><h1>Sign in to your workspace</h1>"


@method("files.getUploadURLExternal", "files:write", "filename length", "alt_txt snippet_type", reads=True)
def _upload_url(call: Call) -> Json:
    team, length = call.workspace, call.number("length", 0)
    if length < 1:
        raise invalid("[ERROR] must be greater than 0 [json-pointer:/length]")
    file = File(team.number("F"), team.id, call.app.user_id, call.text("filename"), length)
    file.alt_text, file.upload_key = call.text("alt_txt"), secrets.token_urlsafe(24)
    team.files[file.id] = file
    return {"upload_url": f"https://files.slack.com{UPLOAD}{file.upload_key}", "file_id": file.id}


@method(
    "files.completeUploadExternal",
    "files:write",
    "files",
    "channel_id channels thread_ts initial_comment blocks username icon_url icon_emoji",
)
def _complete(call: Call) -> Json:
    files = _uploaded(call)
    targets = [one for one in call.text("channels").split(",") if one]
    if call.text("channel_id"):
        targets = [call.text("channel_id")]
    blocks = call.value("blocks", "invalid_blocks_format")
    if blocks is not None and call.text("initial_comment"):
        call.complain("files.completeUploadExternal: blocks are ignored beside initial_comment")
    message: Json = {"text": call.text("initial_comment")}
    if blocks is not None and not call.text("initial_comment"):
        message["blocks"] = check_blocks(blocks)
    if call.text("thread_ts") and len(targets) != 1:
        raise invalid("[ERROR] thread_ts needs exactly one channel [json-pointer:/thread_ts]")
    channels = [writable(call.asking(channel=target)) for target in targets]
    for channel in channels:
        if call.app.user_id not in channel.members:
            raise SlackError("not_in_channel")
        if call.text("thread_ts"):
            message["thread_ts"] = thread(call, channel)
    for file in files:
        file.completed = True
    message = author(call) | {"subtype": "file_share", "upload": True} | message
    message["files"] = [file.in_message() for file in files]
    for channel in channels:
        call.workspace.post(channel, message)
    return {"files": [file.shown() for file in files]}


def _uploaded(call: Call) -> list[File]:
    listed: Any = call.value("files", "invalid_arguments")
    if not isinstance(listed, list) or not listed:
        raise invalid("[ERROR] must be a list of files [json-pointer:/files]")
    found: list[File] = []
    for one in listed:
        if not isinstance(one, dict) or not set(one) <= {"id", "title", "highlight_type"}:
            raise invalid("[ERROR] must have id and title [json-pointer:/files/0]")
        file = call.workspace.files.get(one.get("id", ""))
        if file is None or file.data is None or file.completed or file.owner != call.app.user_id:
            raise SlackError("file_not_found")
        file.title = one.get("title") or file.name
        found.append(file)
    return found


@method("files.info", "files:read", "file", "count page limit cursor", reads=True)
def _info(call: Call) -> Json:
    file = _file(call)
    shown = file.shown()
    shares: Json = {"public": {}, "private": {}}
    for channel_id, places in file.shares.items():
        channel = call.workspace.channels[channel_id]
        part = shares["public" if channel.kind == "channel" else "private"]
        part[channel_id] = [
            {"ts": ts, "channel_name": channel.name, "team_id": call.workspace.id} for ts in places
        ]
    shown["shares"] = {name: part for name, part in shares.items() if part}
    return {"file": shown, "comments": [], "response_metadata": {"next_cursor": ""}}


@method("files.delete", "files:write", "file")
def _delete(call: Call) -> Json:
    file = _file(call)
    if file.owner != call.app.user_id:
        raise SlackError("cant_delete_file")
    call.workspace.delete_file(file)
    return {}


def _file(call: Call) -> File:
    file = call.workspace.files.get(call.text("file"))
    if file is None or not _may_see(file, call.app, call.workspace):
        raise SlackError("file_not_found")
    if file.deleted:
        raise SlackError("file_deleted")
    return file


def _may_see(file: File, app: App, team: Workspace) -> bool:
    """Return whether an app sees a file: its own, or one in a conversation that its bot sees."""
    places = [team.channels[one] for one in file.shares]
    seen = any(one.kind == "channel" or app.user_id in one.members for one in places)
    return seen or file.owner == app.user_id


def upload(workspaces: Iterable[Workspace], request: HostRequest) -> Reply:
    """Take the bytes of a file: the body itself, or the only part of a form."""
    key = request.path.removeprefix(UPLOAD)
    for team in workspaces:
        with team.lock:
            for file in team.files.values():
                if file.upload_key == key and not file.completed:
                    data = _bytes(request)
                    if len(data) != file.length:
                        return Reply(400, b"Upload failed: the length is not as announced")
                    file.data = data
                    return Reply(200, f"OK - {len(data)}".encode())
    return Reply(404, b"there is no such upload")


def _bytes(request: HostRequest) -> bytes:
    if request.media_type != "multipart/form-data":
        return request.body
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = list(email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts())
    assert len(parts) == 1, f"the upload has {len(parts)} parts"
    data = parts[0].get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def download(workspaces: Iterable[Workspace], request: HostRequest, app: App | None) -> Reply:
    """Give a file to an app that may read it; the page for a login to everybody else."""
    file_id = request.path.removeprefix(PRIVATE).partition("/")[0].rpartition("-")[2]
    for team in workspaces:
        file = team.files.get(file_id)
        if file is None or file.deleted or file.data is None:
            continue
        if app is None or app.team != team.id or not app.live or "files:read" not in app.scopes:
            return Reply.html(_LOGIN)
        if not _may_see(file, app, team):
            return Reply.html(_LOGIN)
        return file_reply(request, file.data, file.media_type)
    return Reply.html("<!doctype html><title>Slack</title><h1>This file was not found</h1>", 404)
