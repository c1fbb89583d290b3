"""The methods `chat.*` and `reactions.*`.

https://docs.slack.dev/reference/methods/chat.postMessage and its neighbours. That an unknown thread is
`thread_not_found` is from memory.
"""

import re
from typing import Any

from tests.support.fakes.slack_blocks import check_blocks
from tests.support.fakes.slack_calls import Call, method
from tests.support.fakes.slack_changes import too_old
from tests.support.fakes.slack_state import Channel, Json, SlackError

MAX_TEXT = 40_000
MAX_UPDATE_TEXT = 4_000
_TS = re.compile(r"\d{10}\.\d{6}")
_EMOJI = re.compile(r"[a-z0-9_'+-]{1,100}")
_SKIN = re.compile(r"::skin-tone-[2-6]$")


@method(
    "chat.postMessage",
    "chat:write",
    "channel",
    "text blocks attachments username icon_url icon_emoji thread_ts reply_broadcast unfurl_links unfurl_media"
    " metadata mrkdwn parse link_names markdown_text",
)
def _post(call: Call) -> Json:
    channel = writable(call)
    message = _content(call, MAX_TEXT)
    if message is None:
        raise SlackError("no_text")
    message |= author(call) | {"app_id": call.app.id}
    if call.text("thread_ts"):
        message["thread_ts"] = thread(call, channel)
    elif call.flag("reply_broadcast"):
        call.complain("chat.postMessage: reply_broadcast without thread_ts")
    if call.args.get("metadata") is not None:
        message["metadata"] = _metadata(call)
    if wait := call.faults.wait_for_message(channel.id):
        raise SlackError("ratelimited", retry_after_s=wait)
    made = call.workspace.post(channel, message, broadcast=call.flag("reply_broadcast"))
    return {"channel": channel.id, "ts": made["ts"], "message": made}


@method(
    "chat.update",
    "chat:write",
    "channel ts",
    "text blocks attachments metadata parse link_names reply_broadcast file_ids markdown_text",
)
def _update(call: Call) -> Json:
    channel, message = _own(call, "cant_update_message")
    if too_old(message["ts"], call.workspace.edit_window_s):
        raise SlackError("edit_window_closed")
    changes = _content(call, MAX_UPDATE_TEXT)
    if changes is None:
        raise SlackError("no_text")
    if call.args.get("metadata") is not None:
        changes["metadata"] = _metadata(call)
    made = call.workspace.edit(channel, message["ts"], call.app.bot_id, changes)
    return {"channel": channel.id, "ts": made["ts"], "text": made["text"], "message": made}


@method("chat.delete", "chat:write", "channel ts")
def _delete(call: Call) -> Json:
    channel, message = _own(call, "cant_delete_message")
    call.workspace.delete(channel, message["ts"])
    return {"channel": channel.id, "ts": message["ts"]}


@method("chat.getPermalink", "", "channel message_ts", reads=True)
def _permalink(call: Call) -> Json:
    team = call.workspace
    channel = team.readable(call.text("channel"), call.app.user_id)
    message = channel.messages.get(call.text("message_ts"))
    if message is None:
        raise SlackError("message_not_found")
    link = f"https://{team.domain}.slack.com/archives/{channel.id}/p{message['ts'].replace('.', '')}"
    root = message.get("thread_ts", message["ts"])
    if root != message["ts"]:
        link += f"?thread_ts={root}&cid={channel.id}"
    return {"channel": channel.id, "permalink": link}


@method("reactions.add", "reactions:write", "channel timestamp name")
def _react(call: Call) -> Json:
    return _reaction(call, added=True)


@method("reactions.remove", "reactions:write", "name", "channel timestamp file file_comment")
def _unreact(call: Call) -> Json:
    return _reaction(call, added=False)


@method("reactions.get", "reactions:read", "", "channel timestamp full file file_comment", reads=True)
def _reactions(call: Call) -> Json:
    channel = call.workspace.joined(call.text("channel"), call.app.user_id)
    message = channel.messages.get(call.text("timestamp"))
    if message is None:
        raise SlackError("message_not_found")
    return {"type": "message", "channel": channel.id, "message": message}


def _reaction(call: Call, *, added: bool) -> Json:
    if not call.text("channel") or not call.text("timestamp"):
        raise SlackError("no_item_specified")
    if not _TS.fullmatch(call.text("timestamp")):
        raise SlackError("bad_timestamp")
    name = call.text("name")
    base = _SKIN.sub("", name)
    known = base in call.emoji_names or base in call.workspace.emoji
    if not _EMOJI.fullmatch(base) or not known:
        raise SlackError("invalid_name")
    channel = call.workspace.joined(call.text("channel"), call.app.user_id)
    if channel.archived:
        raise SlackError("is_archived")
    call.workspace.react(channel, call.text("timestamp"), call.app.user_id, name, added=added)
    return {}


def writable(call: Call, name: str = "channel") -> Channel:
    """Return the conversation that the call writes to; a user's id is the direct conversation."""
    team, bot = call.workspace, call.app.user_id
    asked = call.text(name)
    if asked in team.users:
        return team.direct(sorted({asked, bot}))[0]
    channel = team.readable(asked, bot)
    if channel.archived:
        raise SlackError("is_archived")
    if bot not in channel.members and "chat:write.public" not in call.app.scopes:
        raise SlackError("not_in_channel")
    return channel


def thread(call: Call, channel: Channel) -> str:
    """Return the ts of the thread that the call replies in; `invalid_thread_ts`, `thread_not_found`."""
    ts = call.text("thread_ts")
    if not _TS.fullmatch(ts):
        raise SlackError("invalid_thread_ts")
    root = channel.messages.get(ts)
    if root is None:
        raise SlackError("thread_not_found")
    first: str = root.get("thread_ts", ts)
    if first != ts:
        call.complain(f"thread_ts {ts} is a reply's, not the thread's")
    return first


def author(call: Call) -> Json:
    """Return the fields of the author: the bot, or the name and picture that the call gives it."""
    bot: Json = {"bot_id": call.app.bot_id}
    name, url, emoji = (call.text(each) for each in ("username", "icon_url", "icon_emoji"))
    if not (name or url or emoji):
        return bot | {"user": call.app.user_id, "bot_profile": call.app.bot_profile()}
    call.need("chat:write.customize")
    if len(name) > 80:
        call.complain("username has more than 80 characters")
    if url and not url.startswith(("https://", "http://")):
        call.complain(f"icon_url is {url[:80]}")
    icons = {"emoji": emoji} if emoji else {"image_48": url} if url else {}
    custom = {"subtype": "bot_message", "username": name or call.app.name}
    return bot | custom | ({"icons": icons} if icons else {})


def _content(call: Call, limit: int) -> Json | None:
    """Return text, blocks and attachments; None when there is nothing."""
    text = call.text("text") or call.text("markdown_text")
    if len(text) > limit:
        raise SlackError("msg_too_long")
    message: Json = {"text": text}
    blocks: Any = call.value("blocks", "invalid_blocks_format")
    if blocks is not None:
        message["blocks"] = check_blocks(blocks)
    attachments = call.value("attachments", "invalid_attachments")
    if attachments is not None:
        if not isinstance(attachments, list) or len(attachments) > 100:
            raise SlackError("too_many_attachments")
        message["attachments"] = attachments
    return message if text.strip() or blocks or attachments else None


def _metadata(call: Call) -> Json:
    metadata = call.value("metadata", "invalid_metadata_format")
    if not isinstance(metadata, dict) or set(metadata) != {"event_type", "event_payload"}:
        raise SlackError("invalid_metadata_format")
    return metadata


def _own(call: Call, error: str) -> tuple[Channel, Json]:
    """Return a message of the app's bot and its channel."""
    channel = call.workspace.readable(call.text("channel"), call.app.user_id)
    message = channel.messages.get(call.text("ts"))
    if message is None or message.get("subtype") == "tombstone":
        raise SlackError("message_not_found")
    if message.get("bot_id") != call.app.bot_id:
        raise SlackError(error)
    if channel.archived:
        raise SlackError("is_archived")
    return channel, message
