"""The table of the shapes in which chats report their changes: where each has the canonical fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ShapeName = Literal["canonical", "nself-chat", "nself-chat nested", "chatwoot"]
Paths = tuple[tuple[str, ...], ...]


def paths(*places: str) -> Paths:
    """Return dotted paths as the names in them."""
    return tuple(tuple(place.split(".")) for place in places)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a shape has the canonical fields, the best place first."""

    name: ShapeName
    fields: Mapping[str, Paths]


AUTHOR: Final = {
    "id": paths("id", "userId", "user_id"),
    "name": paths("displayName", "display_name", "name", "username"),
    "user_id": paths("user_id", "userId"),
    "avatar_url": paths("avatar_url", "avatarUrl", "icon_url", "avatar", "thumbnail"),
}
FILE: Final = {
    "id": paths("id", "fileId", "file_id"),
    "url": paths("url", "data_url", "dataUrl"),
    "filename": paths("filename", "fileName", "name"),
    "content_type": paths("content_type", "contentType", "mimeType", "mime_type"),
}
SIZE: Final = paths("size", "file_size", "fileSize")

SHAPES: Final = (
    Shape(
        "canonical",
        {
            "message_id": paths("message_id"),
            "channel_id": paths("channel_id"),
            "text": paths("text"),
            "author": paths("author"),
            "thread_id": paths("thread_id"),
            "reply_to_id": paths("reply_to_id"),
            "attachments": paths("attachments"),
            "embeds": paths("embeds"),
            "origin": paths("origin"),
            "private": paths("private"),
            "created_at": paths("created_at", "sent_at"),
            "edited_at": paths("edited_at"),
            "deleted_at": paths("deleted_at"),
            "reacted_at": paths("reacted_at"),
            "emoji": paths("emoji"),
            "name": paths("name"),
            "user_id": paths("user_id"),
            "user_name": paths("name"),
            "email": paths("email"),
            "avatar_url": paths("avatar_url"),
        },
    ),
    Shape(
        "nself-chat",
        {
            "message_id": paths("messageId"),
            "channel_id": paths("channelId"),
            "text": paths("content", "text", "changed.content.current_value", "changed.content"),
            "author": paths("author", "user", "sender", "actor", "triggeredBy"),
            "thread_id": paths("threadId"),
            "reply_to_id": paths("replyToId", "parentId"),
            "attachments": paths("attachments", "files"),
            "embeds": paths("embeds"),
            "origin": paths("origin"),
            "created_at": paths("createdAt", "sentAt"),
            "edited_at": paths("editedAt", "updatedAt"),
            "deleted_at": paths("deletedAt"),
            "reacted_at": paths("reactedAt"),
            "emoji": paths("emoji", "reaction"),
            "name": paths("name"),
            "user_id": paths("userId"),
            "user_name": paths("displayName", "name", "username"),
            "email": paths("email"),
            "avatar_url": paths("avatarUrl"),
        },
    ),
    Shape(
        "nself-chat nested",
        {
            "message_id": paths("message.id"),
            "channel_id": paths("message.channelId", "channel.id"),
            "text": paths("message.content", "message.text", "content"),
            "author": paths("user", "author", "message.author", "message.user", "actor", "sender"),
            "thread_id": paths("message.threadId", "thread.id"),
            "reply_to_id": paths("message.replyToId", "message.parentId"),
            "attachments": paths("message.attachments", "attachments", "files"),
            "embeds": paths("message.embeds"),
            "origin": paths("message.origin", "origin"),
            "created_at": paths("message.createdAt"),
            "edited_at": paths("message.editedAt", "message.updatedAt"),
            "deleted_at": paths("message.deletedAt"),
            "reacted_at": paths("reaction.createdAt"),
            "emoji": paths("emoji", "reaction.emoji", "reaction"),
            "name": paths("channel.name"),
            "user_id": paths("user.id"),
            "user_name": paths("user.displayName", "user.name", "user.username"),
            "email": paths("user.email"),
            "avatar_url": paths("user.avatarUrl"),
        },
    ),
    Shape(
        "chatwoot",
        {
            "message_id": paths("id"),
            "channel_id": paths("inbox.id", "conversation.inbox_id", "conversation.id"),
            "text": paths("content"),
            "author": paths("sender"),
            "thread_id": paths("conversation.id"),
            "message_type": paths("message_type"),
            "reply_to_id": paths("content_attributes.in_reply_to"),
            "attachments": paths("attachments"),
            "private": paths("private"),
            "created_at": paths("created_at"),
        },
    ),
)
