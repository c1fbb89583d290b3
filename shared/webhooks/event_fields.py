"""What can be read off an event whatever it is: who, where, which words. Filters and formats ask here.

Producers spell the same thing in several ways; the tables below are the one place that knows them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

_CHANNEL_PATHS: Final = ("channelId", "channel_id", "channel.id", "inbox.id", "inbox_id")
_CONVERSATION_PATHS: Final = ("conversationId", "conversation_id", "conversation.id", "threadId", "thread_id")
_ACTOR_FIELDS: Final = ("actor", "author", "sender", "user", "triggeredBy", "triggered_by")
_USER_ID_FIELDS: Final = ("userId", "user_id", "id")
_USER_NAME_FIELDS: Final = ("username", "name", "display_name", "displayName")
_CONTENT_PATHS: Final = ("content", "text", "message.content")
_ATTACHMENT_FIELDS: Final = ("attachments", "files")
_BOT_TYPES: Final = frozenset({"bot", "agent_bot", "captain_assistant", "app", "integration"})
_MENTION: Final = re.compile(r"mention://(user|team)/([0-9]{1,20})/([^)\s]{1,200})")
"""A mention written into the words, as `[@Ada](mention://user/7/Ada)`."""


@dataclass(frozen=True)
class EventFields:
    """One event with its data parsed once, for everything that asks.

    `raw` is the data's JSON text as it travels. `sequence` grows along the event's topic partition, so
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
        """The id of the channel or inbox; empty when there is none."""
        return self._first(_CHANNEL_PATHS)

    @cached_property
    def conversation(self) -> str:
        """The id of the conversation or thread, else the event's subject."""
        return self._first(_CONVERSATION_PATHS) or self.subject

    @cached_property
    def actor(self) -> Mapping[str, Any] | None:
        """Who did it, as the data says."""
        for name in _ACTOR_FIELDS:
            found = value_at(self.data, name)
            if isinstance(found, Mapping):
                return found
        return None

    @cached_property
    def user(self) -> str:
        """The id of who did it; empty when nobody is named."""
        if self.actor is not None:
            return next((found for name in _USER_ID_FIELDS if (found := id_text(self.actor.get(name)))), "")
        return self._first(("userId", "user_id"))

    @cached_property
    def user_name(self) -> str:
        """What they are called; empty when the data does not say."""
        actor = self.actor or {}
        found = next((found for name in _USER_NAME_FIELDS if (found := id_text(actor.get(name)))), "")
        return found or self._first(("username",))

    @cached_property
    def is_bot(self) -> bool:
        """Whether a program did it."""
        actor = self.actor or {}
        return any(actor.get(name) is True for name in ("bot", "isBot", "is_bot")) or (
            id_text(actor.get("type")).lower() in _BOT_TYPES
        )

    @cached_property
    def content(self) -> str:
        """The words of a message."""
        return self._first(_CONTENT_PATHS)

    @cached_property
    def mentions(self) -> tuple[str, ...]:
        """The ids and names of who is mentioned, in a list of the data or in the words."""
        found: list[str] = []
        for one in _list_or_empty(value_at(self.data, "mentions")):
            parts = (
                [one.get(name) for name in ("id", *_USER_NAME_FIELDS)] if isinstance(one, Mapping) else [one]
            )
            found += [text for text in map(id_text, parts) if text]
        return (*found, *_inline_mentions(self.content))

    @cached_property
    def attachments(self) -> Sequence[Any]:
        """The files of a message."""
        return next(
            (found for name in _ATTACHMENT_FIELDS if (found := _list_or_empty(value_at(self.data, name)))), ()
        )

    @cached_property
    def origin(self) -> Any:
        """The integration or endpoint that the event came through; None for one of the chat's own."""
        if not isinstance(self.data, Mapping):
            return None
        if "origin" in self.data:
            return self.data["origin"]
        through = {name: self.data[name] for name in ("provider", "endpoint_id") if name in self.data}
        return through or None

    @cached_property
    def origin_ids(self) -> frozenset[str]:
        """Every id in the origin, to tell whether it is a given integration."""
        values = self.origin.values() if isinstance(self.origin, Mapping) else (self.origin,)
        return frozenset(text for text in map(id_text, values) if text)

    @cached_property
    def changed(self) -> Any:
        """What an update changed, as the producer says; None when it does not."""
        if not isinstance(self.data, Mapping):
            return None
        return self.data.get("changed", self.data.get("changed_attributes"))

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The event as one document, for a condition. It is shared: nobody may change it."""
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
        return next((found for path in paths if (found := id_text(value_at(self.data, path)))), "")


def value_at(data: Any, path: str) -> Any:
    """The value at a dotted path of nested objects; None where it ends early."""
    for name in path.split("."):
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def id_text(value: Any) -> str:
    """An id or name as text: numbers are ids too; nothing for what is neither."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _list_or_empty(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _inline_mentions(words: str) -> Iterator[str]:
    for kind, number, name in _MENTION.findall(words):
        if kind == "user":  # a team's number would be taken for a user's
            yield number
        yield unquote(name)
