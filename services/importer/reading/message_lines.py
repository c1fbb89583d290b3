"""Convert records of an export into lines for the importer, with their texts rendered as Markdown.

This runs in the confined reader process, because texts are untrusted and rendering takes most of the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared.contracts.chat_limits import MAX_TEXT_CHARACTERS
from shared.manifests.channel_types import MessageWritten, Person
from shared.manifests.history_types import HistoryMessage, HistoryRecord, Skipped
from shared.richtext.build import clean_line, only_text
from shared.richtext.markdown_render import cut_markdown, render_line, render_markdown
from shared.richtext.mentions import Mentioned, mentioned, resolve_mentions
from shared.richtext.tree import ChannelMention, UserMention

MAX_REACTIONS: Final = 1_000
"""People in the reactions of one message; further ones are only counted."""
_TEXT_CUT: Final = "text_cut"


@dataclass(frozen=True, slots=True)
class Names:
    """What the ids of an export are in the chat, and how they are shown.

    `users` has the chat's user ids, and `people` the persons, by the ids of persons; `channels` has the
    chat's channel ids and `conversations` the names, by the ids of conversations.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    people: Mapping[str, Person] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)
    conversations: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, person: str) -> str:
        """Return the name of a person; an empty text if it is unknown."""
        known = self.people.get(person)
        return known.name if known else ""

    def user_of(self, mention: UserMention) -> tuple[str, str]:
        """Return the user of the chat whom an export mentions, '' if there is none, and the name."""
        return self.users.get(mention.id, ""), mention.label or self.name_of(mention.id)

    def channel_of(self, mention: ChannelMention) -> tuple[str, str]:
        """Return the channel of the chat that an export mentions, '' if there is none, and the name."""
        return self.channels.get(mention.id, ""), mention.label or self.conversations.get(mention.id, "")


def line_of(record: HistoryRecord, names: Names, day: str | None = None) -> dict[str, Any]:
    """Return the line of a record: an object with the key `m` (message), `s` (skipped) or `b` (broken).

    The last two have the `day` of their unit, if it is known.
    """
    if isinstance(record, HistoryMessage):
        return {"m": _message(record, names)}
    if isinstance(record, Skipped):
        return {"s": record.reason, "day": day}
    return {
        "b": {
            "place": record.place,
            "reason": clean_line(record.reason),
            "record": clean_line(record.record),
        },
        "day": day,
    }


def _message(record: HistoryMessage, names: Names) -> dict[str, Any]:
    """Return a message's line. What has nothing to say is left out: most have text, time and author only."""
    message = record.message
    author = message.author
    known = names.people.get(author.id, author)
    text, losses = _text(message, names)
    line: dict[str, Any] = {
        "id": message.external_id,
        "at": message.sent_at,
        "author": author.id,
        "text": text,
    }
    if name := author.name or known.name:
        line["name"] = name
    if avatar := author.avatar_url or known.avatar_url:
        line["avatar"] = avatar
    if author.bot or known.bot:
        line["bot"] = True
    if losses:
        line["losses"] = losses
    if message.place.thread:
        line["thread"] = message.place.thread
    _add_rare(line, record, names)
    return line


def _add_rare(line: dict[str, Any], record: HistoryMessage, names: Names) -> None:
    """Add what few messages have."""
    message = record.message
    if record.kind != "message":
        line["kind"] = record.kind
    if message.place.reply_to:
        line["reply_to"] = message.place.reply_to
    if message.permalink:
        line["permalink"] = message.permalink
    if record.edited_at is not None:
        line["edited_at"] = record.edited_at
    if record.pinned:
        line["pinned"] = True
    if record.reactions:
        line["reactions"], line["reacted"] = _reactions(record, names)
    if message.files:
        line["files"] = [
            (file.id, file.ref, file.filename, file.content_type, file.size) for file in message.files
        ]
    if record.lost_files:
        line["lost_files"] = [(file.name, file.reason) for file in record.lost_files]


def _reactions(record: HistoryMessage, names: Names) -> tuple[list[Any], int]:
    """Return emoji with the people who set them and their names, and the number of all of these people."""
    found: list[Any] = []
    total = 0
    for reaction in record.reactions:
        room = max(0, MAX_REACTIONS - total)
        total += len(reaction.people)
        people = [
            (person, names.name_of(person) or reaction.names.get(person, ""))
            for person in reaction.people[:room]
        ]
        found.append((reaction.emoji, people, len(reaction.people)))
    return found, total


def _text(message: MessageWritten, names: Names) -> tuple[str, list[str]]:
    """Return the text with ids of the chat, and what it lost. History notifies nobody.

    Mentions of groups, of everyone and of people who are no users of the chat become text.
    """
    body = message.body
    losses: list[str] = []
    if (only := only_text(body)) is not None:
        text = render_line(only)
    else:
        if found := mentioned(body):
            losses = _lost(found, names)
            body = resolve_mentions(
                body, user=names.user_of, channel=names.channel_of, groups=False, mass_mentions=False
            )
        rendered = render_markdown(body)
        text = rendered.text
        if rendered.losses:
            losses = list(dict.fromkeys([*losses, *(loss.node for loss in rendered.losses)]))
    if len(text) > MAX_TEXT_CHARACTERS:
        losses.append(_TEXT_CUT)
        text = cut_markdown(body, MAX_TEXT_CHARACTERS)
    return text, losses


def _lost(found: Mentioned, names: Names) -> list[str]:
    """Return which kinds of mentions become text."""
    lost = (
        ("user_mention", found.users and set(found.users) - names.users.keys()),
        ("channel_mention", found.channels and set(found.channels) - names.channels.keys()),
        ("group_mention", found.groups),
        ("everyone_mention", found.everyone),
    )
    return [name for name, ids in lost if ids]
