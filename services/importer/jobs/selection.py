"""Turn a reader's lines into messages of `chat.history`, as the plan says, and tell what is left out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from zlib import crc32
from zoneinfo import ZoneInfo

import orjson

from services.importer.jobs.plan import Plan
from services.importer.store.unit_record import MARK_BYTES, unpacked
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import ProviderMessageIds
from shared.manifests.history_types import LATEST

_MAX_ADDRESS: Final = 2_048
"""Characters of an address; a longer one is left out."""
_MAX_AUTHORS: Final = 1_000
_DAY_S: Final = 86_400
_MICROSECONDS: Final = 1_000_000
_UNEDITED: Final = crc32(b"\0")
_HOURS: Final = tuple(f"T{hour:02d}:" for hour in range(24))
_SECONDS: Final = tuple(f"{second // 60:02d}:{second % 60:02d}." for second in range(3_600))
"""Minutes and seconds, by the second of an hour."""
_MILLISECONDS: Final = tuple(f"{millisecond:03d}Z" for millisecond in range(1_000))


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
        self._authors: dict[tuple[str, str, str | None, bool], orjson.Fragment] = {}

    def day_of(self, unix: float) -> str:
        """Return the day of a Unix time in the plan's time zone."""
        if self._zone is not None:
            return datetime.fromtimestamp(unix, self._zone).date().isoformat()
        return _day_text(int(unix // _DAY_S))

    def refusal(self, line: Mapping[str, Any]) -> str | None:
        """Return why a message is left out; None if it is imported."""
        if not self._since <= line["at"] < self._until:
            return "outside_time_range"
        if "kind" in line:
            if line["kind"] == "bot" and not self.plan.bots:
                return "bot"
            if line["kind"] == "system" and not self.plan.system_messages:
                return "system_message"
        if "thread" in line and not self.plan.threads:
            return "thread"
        return "person_left_out" if line["author"] in self._left_out else None

    def ids_of(self, conversation: str) -> Callable[[str], bytes]:
        """Return what derives the ids of a conversation's messages, as sync does, in 16 bytes."""
        return ProviderMessageIds(self._provider, self._account, conversation).packed

    def message(
        self, line: Mapping[str, Any], message_id: str, conversation: str, parents: Mapping[str, bytes]
    ) -> dict[str, Any]:
        """Return a message as `history.messages` has it (`shared.contracts.history.HistoryMessage`).

        `parents` has the ids of threads by those of the export. The author is encoded already.
        """
        found: dict[str, Any] = {
            "message_id": message_id,
            "text": line["text"],
            "author": self._encoded_author(line),
            "kind": line.get("kind", "message"),
            "origin": self.origin(conversation, line["id"], line.get("permalink")),
            "created_at": moment(line["at"]),
        }
        if "thread" in line:
            found["thread_id"] = unpacked(parents[line["thread"]])
        if "reply_to" in line:
            found["reply_to_id"] = unpacked(self.ids_of(conversation)(line["reply_to"]))
        if "edited_at" in line:
            found["edited_at"] = moment(line["edited_at"])
        if "pinned" in line and self.plan.pins:
            found["pinned"] = True
        if "reactions" in line and self.plan.reactions:
            found["reactions"] = [
                {
                    "emoji": emoji,
                    "authors": [self.author(person, name) for person, name in people],
                    "count": count,
                }
                for emoji, people, count in line["reactions"]
            ]
        return found

    def _encoded_author(self, line: Mapping[str, Any]) -> orjson.Fragment:
        """Return the author of a message, which most often has written others."""
        described = line["author"], line.get("name", ""), line.get("avatar"), "bot" in line
        found = self._authors.get(described)
        if found is None:
            if len(self._authors) >= _MAX_AUTHORS:
                self._authors.clear()
            person, name, avatar, bot = described
            encoded = orjson.dumps(self.author(person, name, avatar, bot=bot))
            found = self._authors[described] = orjson.Fragment(encoded)
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
    """Return a mark of a message's content, in 4 bytes: most probably another one after it was edited."""
    before = crc32(f"{line['edited_at'] or ''}\0".encode()) if "edited_at" in line else _UNEDITED
    return crc32(line["text"].encode("utf-8", "surrogatepass"), before).to_bytes(MARK_BYTES)


def moment(unix: float) -> str | None:
    """Return a Unix time as text (`rfc3339`); None for 0, which is unknown."""
    if not unix:
        return None
    if not 0 < unix < LATEST:
        return rfc3339(datetime.fromtimestamp(unix, UTC))
    # As `datetime` rounds, but sooner.
    seconds = int(unix)
    microseconds = round((unix - seconds) * 1e6)
    if microseconds == _MICROSECONDS:
        seconds, microseconds = seconds + 1, 0
    day, second = divmod(seconds, _DAY_S)
    hour, second = divmod(second, 3_600)
    return _day_text(day) + _HOURS[hour] + _SECONDS[second] + _MILLISECONDS[microseconds // 1_000]


@lru_cache(maxsize=4_096)
def _day_text(number: int) -> str:
    """Return a day, counted from 1970, as text."""
    return datetime.fromtimestamp(number * _DAY_S, UTC).date().isoformat()
