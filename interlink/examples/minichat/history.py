"""The "database" of this chat: the present state of its messages, in memory."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

MAX_MESSAGES, MAX_REACTIONS = 20_000, 50
"""Of more messages, those that were stored first go. A chat with a database forgets none."""
MAX_SHOWN = 200
"""The last messages of a channel, which a page shows."""

STATUS = ("provider", "conversation_name", "state", "reason", "fix", "permalink")
"""The fields of `inbound.message.status.changed` that are stored for each target."""

Message = dict[str, Any]


class History:
    """The messages by id. Every change returns the message to show; None if there is nothing new to show."""

    def __init__(self) -> None:
        self.messages: OrderedDict[str, Message] = OrderedDict()

    def shown(self, channel_id: str) -> list[Message]:
        """Return the last messages of a channel in the order of time."""
        found = [message for message in self.messages.values() if message["channel_id"] == channel_id]
        return sorted(found, key=_time)[-MAX_SHOWN:]

    def channels(self) -> list[str]:
        """Return the ids of all channels that have messages."""
        return list(dict.fromkeys(message["channel_id"] for message in self.messages.values()))

    def apply(self, event_type: str, data: Mapping[str, Any]) -> Message | None:
        """Apply an event of `chat.inbound` or of this chat: the changes are the same, whoever made them."""
        change = event_type.removeprefix("inbound.")
        if change == "message.created":
            return self._create(data)
        message = self.messages.get(data["message_id"])
        if message is None:
            return None
        if change == "message.updated":
            changed = {name: data[name] for name in ("text", "attachments", "embeds") if name in data}
            message.update(changed, edited=True, changed_here=True)
        elif change == "message.deleted":
            message.update(text="", attachments=[], embeds=[], reactions={}, deleted=True)
        elif change in {"message.reaction.added", "message.reaction.removed"}:
            self._react(message, data, added=change.endswith("added"))
        elif change == "message.status.changed":
            message["states"][data["target"]] = {name: data.get(name) for name in STATUS}
        else:
            return None
        return message

    def _create(self, data: Mapping[str, Any]) -> Message | None:
        if data["message_id"] in self.messages:
            return None
        empty: Message = {
            "embeds": [],
            "attachments": [],
            "origin": None,
            "thread_id": None,
            "reply_to_id": None,
        }
        message = {
            **empty,
            **data,
            "channel_id": str(data["channel_id"]),
            "reactions": {},
            "states": {},
            "edited": False,
            "deleted": False,
        }
        self.store(message)
        return message

    def store(self, message: Message) -> None:
        """Store a new message."""
        self.messages[message["message_id"]] = message
        if len(self.messages) > MAX_MESSAGES:
            self.messages.popitem(last=False)

    def _react(self, message: Message, data: Mapping[str, Any], *, added: bool) -> None:
        people = message["reactions"].setdefault(data["emoji"], {})
        if added:
            people[data["author"]["id"]] = data["author"].get("name") or data["author"]["id"]
        else:
            people.pop(data["author"]["id"], None)
        if not people or len(message["reactions"]) > MAX_REACTIONS:
            del message["reactions"][data["emoji"]]


def _time(message: Message) -> str:
    """Return when a message was written, as a text that sorts by time."""
    return str(message.get("created_at") or message.get("sent_at") or "")
