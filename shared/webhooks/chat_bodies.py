"""Messages of the chat as the payloads of nself-chat and Chatwoot, from the canonical fields. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from shared.contracts.chat import INBOUND
from shared.contracts.chat_shapes import ReadFields, read_fields
from shared.contracts.event_types import canonical
from shared.contracts.field_paths import value_at
from shared.webhooks.event_fields import EventFields

_CHATWOOT_TYPES: Final = ("message.created", "message.updated")
_FILE_TYPES: Final = ("image", "audio", "video")


def nchat_data(fields: EventFields) -> dict[str, Any] | None:
    """Return the data of a message event as nself-chat writes it.

    None if it has that form already, is not about a message, or fits no shape: then it is sent as it is.
    """
    read = read_fields(fields.type, fields.data)
    if read is None or read.missing or read.shape not in ("canonical", "chatwoot"):
        return None
    message = read.fields
    data = {
        "messageId": message["message_id"],
        "channelId": message["channel_id"],
        "content": message.get("text"),
        "emoji": message.get("emoji"),
        "threadId": message.get("thread_id"),
        "replyToId": message.get("reply_to_id"),
        "attachments": [_nchat_file(file) for file in message.get("attachments", ())] or None,
        "embeds": message.get("embeds"),
        "origin": message.get("origin"),
        "createdAt": message.get("created_at"),
        "editedAt": message.get("edited_at"),
        "changed": fields.changed,
    }
    if author := message.get("author"):
        by = "user" if "emoji" in message else "author"
        data[by] = {"id": author["id"], "username": author["name"]} | _known(
            {
                "userId": author.get("user_id"),
                "avatarUrl": author.get("avatar_url"),
                "bot": author["bot"] or None,
            }
        )
    return _known(data)


def _nchat_file(file: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": file["id"],
        "url": file["url"],
        "filename": file["filename"],
        "contentType": file["content_type"],
        "size": file["size"],
    }


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def chatwoot_message(fields: EventFields) -> dict[str, Any] | None:
    """Return a message as Chatwoot's `webhook_data`; None if it is none, or has that form already.

    A person's message is `incoming`, a program's `outgoing`: bots answer only incoming messages. Fields that
    the message does not have are null.
    """
    if canonical(fields.type).removeprefix(INBOUND) not in _CHATWOOT_TYPES or "message_type" in fields.data:
        return None
    read = read_fields(fields.type, fields.data)
    if read is None:
        return None
    message = read.fields
    channel = message.get("channel_id")
    sender = _chatwoot_sender(read, fields)
    is_bot = sender is not None and sender["type"] == "agent_bot"
    body: dict[str, Any] = {
        "account": {"id": fields.workspace, "name": None},
        "additional_attributes": {},
        "content_attributes": {},
        "content_type": "text",
        "content": message.get("text") or None,
        "conversation": {
            "id": message.get("thread_id") or fields.conversation or channel,
            "inbox_id": channel,
            "account_id": fields.workspace,
            "status": None,
            "channel": None,
            "messages": [],
            "labels": [],
            "meta": {"sender": sender, "assignee": None, "team": None},
        },
        "created_at": fields.occurred_at,
        "id": message.get("message_id"),
        "inbox": {"id": channel, "name": value_at(fields.data, "channel.name")},
        "message_type": "outgoing" if is_bot else "incoming",
        "private": message.get("private", False),
        "sender": sender,
        "source_id": None,
    }
    if files := message.get("attachments"):
        body["attachments"] = [_chatwoot_file(file, body["id"], fields.workspace) for file in files]
    return body


def _chatwoot_sender(read: ReadFields, fields: EventFields) -> dict[str, Any] | None:
    author = read.fields.get("author")
    if author is None:
        return None
    return {
        "id": author.get("user_id") or author["id"],
        "name": author["name"] or None,
        "email": value_at(fields.actor, "email"),
        "type": "agent_bot" if author["bot"] else "contact",
    }


def _chatwoot_file(file: Mapping[str, Any], message_id: str | None, account_id: str) -> dict[str, Any]:
    media = (file["content_type"] or "").partition("/")[0]
    return {
        "id": file["id"],
        "message_id": message_id,
        "file_type": media if media in _FILE_TYPES else "file",
        "account_id": account_id,
        "data_url": file["url"],
        "thumb_url": None,
        "file_size": file["size"],
    }
