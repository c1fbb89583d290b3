"""Convert records of an export into lines for the importer, with their texts rendered as Markdown.

This runs in the confined reader process, because texts are untrusted and rendering takes most of the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.contracts.chat import MAX_TEXT_CHARACTERS
from shared.manifests.channel_types import MessageWritten
from shared.manifests.history_types import Broken, HistoryMessage, HistoryRecord, Skipped
from shared.richtext.build import clean_line
from shared.richtext.markdown_render import render_markdown
from shared.richtext.mentions import has_mentions, resolve_mentions


@dataclass(frozen=True, slots=True)
class Names:
    """The chat's ids and the display names for ids of the export.

    `users` has the chat's user ids and `people` the names, by the ids of persons; `channels` has the chat's
    channel ids and `conversations` the names, by the ids of conversations.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    people: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)
    conversations: Mapping[str, str] = field(default_factory=dict)


def line_of(record: HistoryRecord, names: Names) -> dict[str, Any]:
    """Return the line of a record: an object with the key `m` (message), `s` (skipped) or `b` (broken)."""
    if isinstance(record, Skipped):
        return {"s": record.reason}
    if isinstance(record, Broken):
        return {
            "b": {
                "place": record.place,
                "reason": clean_line(record.reason),
                "record": clean_line(record.record),
            }
        }
    return {"m": _message(record, names)}


def _message(record: HistoryMessage, names: Names) -> dict[str, Any]:
    message = record.message
    author = message.author
    return {
        "id": message.external_id,
        "at": message.sent_at,
        "kind": record.kind,
        "author": author.id,
        "name": author.name or names.people.get(author.id, ""),
        "avatar": author.avatar_url,
        "bot": author.bot,
        "text": _text(message, names),
        "thread": message.place.thread,
        "reply_to": message.place.reply_to,
        "permalink": message.permalink,
        "edited_at": record.edited_at,
        "pinned": record.pinned,
        "reactions": [(reaction.emoji, reaction.people) for reaction in record.reactions],
        "files": [(file.id, file.ref, file.filename, file.content_type, file.size) for file in message.files],
        "lost_files": [(file.name, file.reason) for file in record.lost_files],
    }


def _text(message: MessageWritten, names: Names) -> str:
    """Return the text with ids of the chat. History notifies nobody: groups and everyone become text."""
    body = message.body
    if has_mentions(body):
        body = resolve_mentions(
            body,
            user=lambda node: (names.users.get(node.id, ""), node.label or names.people.get(node.id, "")),
            channel=lambda node: (
                names.channels.get(node.id, ""),
                node.label or names.conversations.get(node.id, ""),
            ),
            groups=False,
            mass_mentions=False,
        )
    return render_markdown(body).text[:MAX_TEXT_CHARACTERS]
