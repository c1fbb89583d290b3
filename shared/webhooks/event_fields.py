"""Event fields: actor, channel, content and others, read from any event. Used by filters and formats. Pure.

Producers write the same field in several ways; the tables below are the only place that knows them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

from shared.contracts.field_paths import id_text, value_at

_CHANNEL_PATHS: Final = ("channelId", "channel_id", "channel.id", "inbox.id", "inbox_id")
_CONVERSATION_PATHS: Final = ("conversationId", "conversation_id", "conversation.id", "threadId", "thread_id")
_ACTOR_FIELDS: Final = ("actor", "author", "sender", "user", "triggeredBy", "triggered_by")
_USER_ID_FIELDS: Final = ("userId", "user_id", "id")
_USER_NAME_FIELDS: Final = ("username", "name", "display_name", "displayName")
_CONTENT_PATHS: Final = ("content", "text", "message.content")
_ATTACHMENT_FIELDS: Final = ("attachments", "files")
_BOT_TYPES: Final = frozenset({"bot", "agent_bot", "captain_assistant", "app", "integration"})
_MENTION: Final = re.compile(r"mention://(user|team)/([0-9]{1,20})/([^)\s]{1,200})")
"""A mention inside a message's text, such as `[@Ada](mention://user/7/Ada)`."""
_LINKED_MENTION: Final = re.compile(r"\[@([^\[\]\n]{1,200})\]\(mention://user/([^()/\s]{1,300})\)")
"""A mention as the contract with the chat writes it, such as `[@Ada](mention://user/usr_7)`."""
_NAME_MENTION: Final = re.compile(r"(?<![\w@./:+\[-])@(\w{1,100}(?:[.-]\w{1,100}){0,5})")
"""A name after `@` inside a message's text. Not in an e-mail address, a URL or a link's label."""


@dataclass(frozen=True)
class EventFields:
    """One event, with its data parsed once for all filters and formats.

    `raw` is the data's JSON text as published. `sequence` grows along the event's topic partition, so also
    along its conversation; it is a text because it does not fit a JavaScript number.
    """

    id: str
    type: str
    workspace: str
    occurred_at: str
    subject: str
    sequence: str
    raw: bytes
    data: Any = field(repr=False)

    @cached_property
    def channel(self) -> str:
        """The id of the channel or inbox; empty if there is none."""
        return self._first(_CHANNEL_PATHS)

    @cached_property
    def conversation(self) -> str:
        """The id of the conversation or thread; without one, the event's subject."""
        return self._first(_CONVERSATION_PATHS) or self.subject

    @cached_property
    def actor(self) -> Mapping[str, Any] | None:
        """The object of who caused the event, as it is in the data; None if there is none."""
        for name in _ACTOR_FIELDS:
            value = value_at(self.data, name)
            if isinstance(value, Mapping):
                return value
        return None

    @cached_property
    def user(self) -> str:
        """The id of the actor; empty if the data does not have it."""
        if self.actor is not None:
            return next((text for name in _USER_ID_FIELDS if (text := id_text(self.actor.get(name)))), "")
        return self._first(("userId", "user_id"))

    @cached_property
    def user_name(self) -> str:
        """The name of the actor; empty if the data does not have it."""
        actor = self.actor or {}
        user_name = next((text for name in _USER_NAME_FIELDS if (text := id_text(actor.get(name)))), "")
        return user_name or self._first(("username",))

    @cached_property
    def is_bot(self) -> bool:
        """True if the actor is a program."""
        actor = self.actor or {}
        return any(actor.get(name) is True for name in ("bot", "isBot", "is_bot")) or (
            id_text(actor.get("type")).lower() in _BOT_TYPES
        )

    @cached_property
    def content(self) -> str:
        """The text of a message; empty if there is none."""
        return self._first(_CONTENT_PATHS)

    @cached_property
    def mentions(self) -> tuple[str, ...]:
        """The ids and names of mentioned users, from a list in the data and from the text."""
        mentions: list[str] = []
        for item in _list_or_empty(value_at(self.data, "mentions")):
            values = (
                [item.get(name) for name in ("id", *_USER_NAME_FIELDS)]
                if isinstance(item, Mapping)
                else [item]
            )
            mentions += [text for text in map(id_text, values) if text]
        return (*mentions, *_inline_mentions(self.content))

    @cached_property
    def attachments(self) -> Sequence[Any]:
        """The files of a message; empty if there are none."""
        return next(
            (files for name in _ATTACHMENT_FIELDS if (files := _list_or_empty(value_at(self.data, name)))), ()
        )

    @cached_property
    def origin(self) -> Any:
        """The integration or endpoint that the event came through; None for the chat's own events."""
        if not isinstance(self.data, Mapping):
            return None
        # A provider's event has no `origin`: its provider and endpoint are the origin.
        if "origin" in self.data:
            return self.data["origin"]
        through = {name: self.data[name] for name in ("provider", "endpoint_id") if name in self.data}
        return through or None

    @cached_property
    def origin_ids(self) -> frozenset[str]:
        """Every id in the origin, to check whether an integration is one of them."""
        values = self.origin.values() if isinstance(self.origin, Mapping) else (self.origin,)
        return frozenset(text for text in map(id_text, values) if text)

    @cached_property
    def changed(self) -> Any:
        """Change of an update, as the producer describes it; None if it does not."""
        if not isinstance(self.data, Mapping):
            return None
        return self.data.get("changed", self.data.get("changed_attributes"))

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The event as one document for a condition. It is shared by all conditions: never change it."""
        return {
            "id": self.id,
            "type": self.type,
            "workspace": self.workspace,
            "occurred_at": self.occurred_at,
            "sequence": self.sequence,
            "subject": self.subject,
            "origin": self.origin,
            "actor": self.actor,
            "data": self.data,
        }

    def _first(self, paths: Sequence[str]) -> str:
        return next((text for path in paths if (text := id_text(value_at(self.data, path)))), "")


def _list_or_empty(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _inline_mentions(text: str) -> Iterator[str]:
    """Yield the ids and names that a text mentions."""
    yield from _NAME_MENTION.findall(text)
    for kind, mentioned_id, name in _MENTION.findall(text):
        if kind == "user":  # a team's id would be taken for a user's
            yield mentioned_id
        yield unquote(name)
    for name, mentioned_id in _LINKED_MENTION.findall(text):
        yield name
        yield unquote(mentioned_id)
