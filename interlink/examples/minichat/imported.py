"""Store what imports bring: people, channels and messages of other chats, with their original times."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
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
            # A person with a user id is in the chat already: others are guests.
            guests = {user["id"]: user for user in batch["users"] if not user.get("user_id")}
            _remember(self._people, guests, batch["import_id"], MAX_PEOPLE)
        elif event_type == "history.channels":
            new = {item["channel_id"]: item for item in batch["channels"] if not item["existing"]}
            _remember(self.channels, new, batch["import_id"], MAX_CHANNELS)
            stored.channels.update(new)
        elif event_type == "history.messages":
            stored.channels.add(batch["channel_id"])
            for message in batch["messages"]:
                self._store(message, batch, stored)
        elif event_type == "history.withdrawn":
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
        """Remove messages that imports added, and then the channels and people that nobody uses any more.

        Messages that others have answered may stay.
        """
        messages, added_by = self._history.messages, batch["added_by"]
        answered = self._answered(added_by) if batch["keep_answered"] else set()
        for message_id in batch.get("message_ids", []):
            known = messages.get(message_id)
            if known is None or known.get("import_id") not in added_by:
                continue
            if message_id in answered:
                stored.rejected[message_id] = "somebody has answered it"
            else:
                del messages[message_id]
        if channel_id := batch.get("channel_id"):
            stored.channels.add(channel_id)
        channel_ids, person_ids = batch.get("channel_ids", []), batch.get("person_ids", [])
        filled = {message["channel_id"] for message in messages.values()} if channel_ids else set()
        _forget(self.channels, channel_ids, added_by, filled, "it has messages", stored)
        stored.channels.update(channel_ids)
        authors = {message["author"].get("id") for message in messages.values()} if person_ids else set()
        _forget(self._people, person_ids, added_by, authors, "they have written messages", stored)

    def _answered(self, added_by: Collection[str]) -> set[str]:
        """Return the ids of messages that have answers which did not come with these imports."""
        others = [item for item in self._history.messages.values() if item.get("import_id") not in added_by]
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


def _remember(known: OrderedDict[str, Data], new: Mapping[str, Data], import_id: str, limit: int) -> None:
    """Store channels or people with the import that brought them first."""
    for key, item in new.items():
        known[key] = {**item, "import_id": known.get(key, {}).get("import_id", import_id)}
    while len(known) > limit:
        known.popitem(last=False)


def _forget(
    known: OrderedDict[str, Data],
    ids: Iterable[str],
    added_by: Collection[str],
    used: Collection[str],
    reason: str,
    stored: Stored,
) -> None:
    """Remove channels or people that these imports brought and that nobody uses; say why others stay."""
    for key in ids:
        if key not in known:
            continue
        if known[key]["import_id"] not in added_by:
            stored.rejected[key] = "it is from another import"
        elif key in used:
            stored.rejected[key] = reason
        else:
            del known[key]
