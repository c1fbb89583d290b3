"""Store what imports bring: people, channels and messages of other chats, with their original times."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interlink.examples.minichat.history import MAX_REACTIONS, History

MAX_PEOPLE, MAX_CHANNELS = 20_000, 2_000
TEXTS = ("text", "author", "kind", "created_at", "origin", "pinned", "thread_id", "reply_to_id")
Data = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """The outcome of a batch: ids and reasons for `history.stored`, and the channels to show again."""

    duplicates: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    channels: set[str] = field(default_factory=set)


class Imports:
    """Applies batches to the chat's history. `channels` are those that imports created, by id."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._people: OrderedDict[str, Data] = OrderedDict()
        self.channels: OrderedDict[str, Data] = OrderedDict()

    def apply(self, event_type: str, batch: Data) -> Stored:
        """Apply an event of `chat.history`. Applying one again changes nothing."""
        stored = Stored()
        if event_type == "history.users":
            _remember(self._people, {user["id"]: user for user in batch["users"]}, MAX_PEOPLE)
        elif event_type == "history.channels":
            new = {item["channel_id"]: item for item in batch["channels"] if not item["existing"]}
            _remember(self.channels, new, MAX_CHANNELS)
            stored.channels.update(new)
        elif event_type == "history.messages":
            stored.channels.add(batch["channel_id"])
            for message in batch["messages"]:
                self._store(message, batch, stored)
        elif event_type == "history.withdrawn":
            stored.channels.add(batch["channel_id"])
            self._withdraw(batch, stored)
        return stored

    def shown(self, channel_id: str) -> dict[str, Any]:
        """Return a channel with its name, where it is from, and its last messages."""
        channel = self.channels.get(channel_id, {})
        return {
            "channel_id": channel_id,
            "name": channel.get("name", channel_id),
            "provider": (channel.get("origin") or {}).get("provider"),
            "messages": self._history.shown(channel_id),
        }

    def _store(self, message: Data, batch: Data, stored: Stored) -> None:
        """Store a message, unless the chat has it: live, from another import, or from this one.

        One that was edited since an earlier import gets its new text, if nobody has changed it here.
        """
        known = self._history.messages.get(message["message_id"])
        if known is not None:
            if message.get("changed") and not known.get("changed_here"):
                known.update(text=message["text"], edited=True)
            elif known.get("import_id") != batch["import_id"]:
                stored.duplicates.append(message["message_id"])
            return
        texts = {name: message.get(name) for name in TEXTS}
        own = {
            "message_id": message["message_id"],
            "channel_id": batch["channel_id"],
            "import_id": batch["import_id"],
            "attachments": message.get("attachments", []),
            "author": self._named(message["author"]),
            "edited": message.get("edited_at") is not None,
            "reactions": {
                reaction["emoji"]: {
                    author["id"]: self._named(author)["name"] for author in reaction["authors"]
                }
                for reaction in message.get("reactions", [])[:MAX_REACTIONS]
            },
        }
        self._history.store({**texts, **own, "embeds": [], "states": {}, "deleted": False})

    def _withdraw(self, batch: Data, stored: Stored) -> None:
        """Remove messages that an import added; those that others have answered may stay."""
        messages = self._history.messages
        added_by = batch.get("added_by") or batch["import_id"]
        answered = self._answered(added_by) if batch["keep_answered"] else set()
        for message_id in batch["message_ids"]:
            known = messages.get(message_id)
            if known is None or known.get("import_id") != added_by:
                continue
            if message_id in answered:
                stored.rejected[message_id] = "somebody has answered it"
            else:
                del messages[message_id]

    def _answered(self, import_id: str) -> set[str]:
        """Return the ids of messages that have answers which did not come with this import."""
        others = [item for item in self._history.messages.values() if item.get("import_id") != import_id]
        return {str(item[name]) for item in others for name in ("thread_id", "reply_to_id") if item.get(name)}

    def _named(self, author: Data) -> dict[str, Any]:
        """Return an author with name and picture of the person, where the message does not have them."""
        person = self._people.get(author["id"], {})
        picture = author.get("avatar_url") or person.get("avatar_url")
        return {
            **author,
            "name": author.get("name") or person.get("name") or author["id"],
            "avatar_url": picture,
        }


def _remember(known: OrderedDict[str, Data], new: Mapping[str, Data], limit: int) -> None:
    known.update(new)
    while len(known) > limit:
        known.popitem(last=False)
