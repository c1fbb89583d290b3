"""Turn a reader's lines into messages of `chat.history`, as the plan says, and tell what is left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from zoneinfo import ZoneInfo

from services.importer.jobs.plan import Plan
from services.importer.store.units import MARK_BYTES
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import provider_message_id_for

_MAX_ADDRESS: Final = 2_048
"""Characters of an address; a longer one is left out."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a conversation of the export: `channel_id` is a channel of the chat.

    `position` is its own in the export. `source` is the conversation with provider and account: all imports
    of the same one have it.
    """

    conversation: str
    position: int
    source: str
    channel_id: str


class Selection:
    """Selects messages of an export by a plan. `targets` are the conversations that are imported, by id.

    `users` are the users of the chat by the export's ids of persons, and `left_out` the persons that are left
    out with their messages.
    """

    def __init__(
        self,
        plan: Plan,
        provider: str,
        account: str,
        targets: Mapping[str, Target],
        users: Mapping[str, str],
        left_out: Collection[str],
    ) -> None:
        self.plan = plan
        self.targets = targets
        self.users = users
        self._provider = provider
        self._account = account
        self._left_out = left_out
        self._since, self._until = plan.span()
        self._zone = None if plan.time_zone == "UTC" else ZoneInfo(plan.time_zone)
        self._days: dict[int, str] = {}

    def day_of(self, unix: float) -> str:
        """Return the day of a Unix time in the plan's time zone."""
        if self._zone is not None:
            return datetime.fromtimestamp(unix, self._zone).date().isoformat()
        number = int(unix // 86_400)
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = datetime.fromtimestamp(number * 86_400, UTC).date().isoformat()
        return day

    def refusal(self, line: Mapping[str, Any]) -> str | None:
        """Return why a message is left out; None if it is imported."""
        if not self._since <= line["at"] < self._until:
            return "outside_time_range"
        if line["kind"] == "bot" and not self.plan.bots:
            return "bot"
        if line["kind"] == "system" and not self.plan.system_messages:
            return "system_message"
        if line["thread"] and not self.plan.threads:
            return "thread"
        return "person_left_out" if line["author"] in self._left_out else None

    def message_id(self, conversation: str, external_id: str) -> str:
        """Return the id of a message of the export: the one that sync derives, too."""
        return provider_message_id_for(self._provider, self._account, conversation, external_id)

    def message(self, line: Mapping[str, Any], message_id: str, conversation: str) -> dict[str, Any]:
        """Return a message as `history.messages` has it (`shared.contracts.history.HistoryMessage`)."""
        found: dict[str, Any] = {
            "message_id": message_id,
            "text": line["text"],
            "author": self.author(line["author"], line["name"], line["avatar"], bot=line["bot"]),
            "kind": line["kind"],
            "origin": self.origin(conversation, line["id"], line["permalink"]),
            "created_at": moment(line["at"]),
        }
        if line["thread"]:
            found["thread_id"] = self.message_id(conversation, line["thread"])
        if line["reply_to"]:
            found["reply_to_id"] = self.message_id(conversation, line["reply_to"])
        if line["edited_at"] is not None:
            found["edited_at"] = moment(line["edited_at"])
        if line["pinned"] and self.plan.pins:
            found["pinned"] = True
        if line["reactions"] and self.plan.reactions:
            found["reactions"] = [
                {
                    "emoji": emoji,
                    "authors": [self.author(person, name) for person, name in people],
                    "count": count,
                }
                for emoji, people, count in line["reactions"]
            ]
        return found

    def author(self, person: str, name: str, avatar: str | None = None, *, bot: bool = False) -> Any:
        """Return a person as an author of `chat.history`."""
        found: dict[str, Any] = {"id": (person or "unknown")[:256], "name": name[:256]}
        if user_id := self.users.get(person):
            found["user_id"] = user_id
        if avatar and len(avatar) <= _MAX_ADDRESS:
            found["avatar_url"] = avatar
        if bot:
            found["bot"] = True
        return found

    def origin(self, conversation: str, external_id: str = "", permalink: str | None = None) -> Any:
        """Return where a channel or a message is from."""
        origin = {
            "provider": self._provider,
            "account": self._account,
            "conversation_id": conversation[:256],
        }
        if external_id:
            origin["external_id"] = external_id[:256]
        if permalink and len(permalink) <= _MAX_ADDRESS:
            origin["permalink"] = permalink
        return origin


def mark_of(line: Mapping[str, Any]) -> bytes:
    """Return a mark of a message's content, in 4 bytes: another one after it was edited."""
    content = f"{line['edited_at'] or ''}\0{line['text']}".encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=MARK_BYTES).digest()


def moment(unix: float) -> str | None:
    """Return a Unix time as text; None for 0, which is unknown."""
    return rfc3339(datetime.fromtimestamp(unix, UTC)) if unix else None
