"""Turn a reader's lines into messages of `chat.history`, as the plan says, and count what is left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from services.importer.accounts.walk import Walk
from services.importer.files.attachments import UnitFiles
from services.importer.jobs.plan import ChannelPlan, Plan
from services.importer.store.units import add_digest, packed
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import derive, provider_message_id_for
from shared.manifests.history_types import Contents, HistoryConversation

FOUND, SELECTED, IMPORTED, DUPLICATE, SKIPPED, FAILED = (
    *("found", "selected", "imported", "duplicate", "skipped", "failed"),
)
UNKNOWN_DAY: Final = ""
"""The day of a record whose time cannot be read."""
_CLOSED_KINDS: Final = ("group", "direct")


@dataclass(slots=True)
class Target:
    """Where a conversation of the export goes: the id of a channel of the chat."""

    conversation: HistoryConversation
    source: str
    channel_id: str
    existing: bool
    name: str


class Selection:
    """What a plan selects of an export."""

    def __init__(self, plan: Plan, contents: Contents, workspace: str) -> None:
        self.plan = plan
        self._contents = contents
        self._workspace = workspace
        self._since, self._until = plan.span()
        self._zone = None if plan.time_zone == "UTC" else ZoneInfo(plan.time_zone)
        self._people = {item.person.id: item.person for item in contents.people}
        self._left_out = {person for person, choice in plan.people.items() if choice.as_ == "leave_out"}
        self._users = {
            person: choice.user_id for person, choice in plan.people.items() if choice.as_ == "user"
        }
        self._days: dict[int, str] = {}
        self.targets: Mapping[str, Target] = {
            item.id: target for item in contents.conversations if (target := self._target(item)) is not None
        }
        """The conversations that are imported, by the export's id."""

    @property
    def users(self) -> Mapping[str, str]:
        """The users of the chat by the export's ids of the people."""
        return {person: user for person, user in self._users.items() if user}

    def user_items(self) -> list[dict[str, Any]]:
        """Return the people of the import as `history.users` has them."""
        return [
            {
                **self._author(item.person.id, item.person.name, item.person.avatar_url, bot=item.person.bot),
                "active": item.active,
            }
            for item in self._contents.people
            if item.person.id not in self._left_out
        ]

    def channel_items(self) -> list[dict[str, Any]]:
        """Return the channels of the import as `history.channels` has them."""
        return [
            {
                "channel_id": target.channel_id,
                "name": target.name[:256],
                "kind": target.conversation.kind,
                "existing": target.existing,
                "archived": target.conversation.archived,
                "topic": target.conversation.topic[:1000],
                "members": list(target.conversation.members),
                "created_at": _moment(target.conversation.created_at),
                "origin": self._origin(target.conversation.id),
            }
            for target in self.targets.values()
        ]

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
        return "person_left_out" if line["author"] in self._left_out else None

    def message_id(self, conversation: str, external_id: str) -> str:
        """Return the id of a message of the export: the one that sync derives, too."""
        return provider_message_id_for(
            self._contents.provider, self._contents.account, conversation, external_id
        )

    def message(self, line: Mapping[str, Any], message_id: str, conversation: str) -> dict[str, Any]:
        """Return a message as `history.messages` has it (`shared.contracts.history.HistoryMessage`)."""
        found: dict[str, Any] = {
            "message_id": message_id,
            "text": line["text"],
            "author": self._author(line["author"], line["name"], line["avatar"], bot=line["bot"]),
            "kind": line["kind"],
            "origin": self._origin(conversation, line["id"], line["permalink"]),
            "created_at": _moment(line["at"]),
        }
        if line["thread"]:
            found["thread_id"] = self.message_id(conversation, line["thread"])
        if line["reply_to"]:
            found["reply_to_id"] = self.message_id(conversation, line["reply_to"])
        if line["edited_at"] is not None:
            found["edited_at"] = _moment(line["edited_at"])
        if line["pinned"] and self.plan.pins:
            found["pinned"] = True
        if line["reactions"] and self.plan.reactions:
            found["reactions"] = [
                {"emoji": emoji, "authors": [self._author(person) for person in people]}
                for emoji, people in line["reactions"]
            ]
        return found

    def _author(self, person: str, name: str = "", avatar: str | None = None, *, bot: bool = False) -> Any:
        known = self._people.get(person)
        if known is not None:
            name, avatar, bot = name or known.name, avatar or known.avatar_url, bot or known.bot
        author: dict[str, Any] = {"id": (person or "unknown")[:256], "name": name[:256]}
        if user_id := self._users.get(person):
            author["user_id"] = user_id
        if avatar:
            author["avatar_url"] = avatar
        if bot:
            author["bot"] = True
        return author

    def _origin(self, conversation: str, external_id: str = "", permalink: str | None = None) -> Any:
        origin = {
            "provider": self._contents.provider,
            "account": self._contents.account,
            "conversation_id": conversation,
        }
        if external_id:
            origin["external_id"] = external_id
        if permalink:
            origin["permalink"] = permalink
        return origin

    def _target(self, item: HistoryConversation) -> Target | None:
        choice = self.plan.channels.get(item.id) or self._by_rule(item)
        if item.problem or choice.into == "leave_out":
            return None
        account = self._contents.provider, self._contents.account
        return Target(
            conversation=item,
            source=":".join((*account, item.id)),
            channel_id=choice.channel_id or f"chn_{derive(self._workspace, *account, item.id)}",
            existing=choice.into == "existing",
            name=choice.name or item.name or item.id,
        )

    def _by_rule(self, item: HistoryConversation) -> ChannelPlan:
        left_out = (
            self.plan.other_channels == "leave_out"
            or (item.kind in _CLOSED_KINDS and not self.plan.direct_messages)
            or (item.archived and not self.plan.archived_channels)
        )
        return ChannelPlan(into="leave_out" if left_out else "new")


@dataclass(slots=True)
class UnitResult:
    """What was done with a unit: its counts, the messages that it added, and what failed."""

    position: int
    target: Target
    files: UnitFiles
    days: dict[str, Counter[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    added: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Day and Unix time of the messages that are to be added, by id."""
    issues: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, reason and record of what failed."""
    batches: list[str] = field(default_factory=list)
    next_number: int = 0
    walk: Walk | None = None
    """The place of the next page of a connected account."""
    read_at: float = 0.0
    """The time up to which its conversation is read, if it is the last unit of a connected one; else 0."""

    def count(self, what: str, day: str = UNKNOWN_DAY, by: int = 1) -> None:
        """Count a record of a day."""
        self.days.setdefault(day, Counter())[what] += by

    def skip(self, reason: str, day: str = UNKNOWN_DAY) -> None:
        """Count a record that is left out."""
        self.count(SKIPPED, day)
        self.skipped[reason] += 1

    def fail(self, place: str, reason: str, record: str, day: str = UNKNOWN_DAY) -> None:
        """Count a record that failed, and list it."""
        self.count(FAILED, day)
        self.issues.append((place, reason, record))

    def settle(self, duplicates: Sequence[str], rejected: Sequence[tuple[str, str]]) -> None:
        """Take the chat's confirmation into account: messages that it had already, or rejects."""
        self.files.settle(duplicates, [message_id for message_id, _ in rejected])
        for message_id in duplicates:
            if (known := self.added.pop(message_id, None)) is not None:
                self.count(DUPLICATE, known[0])
        for message_id, reason in rejected:
            if (known := self.added.pop(message_id, None)) is not None:
                self.fail(message_id, f"the chat rejected it: {reason}", "", known[0])
        by_day: dict[str, list[bytes]] = {}
        for message_id, (day, _) in self.added.items():
            by_day.setdefault(day, []).append(packed(message_id))
        for day, ids in by_day.items():
            self.count(IMPORTED, day, len(ids))
            self.digests[day] = add_digest("", ids)


def _moment(unix: float) -> str | None:
    return rfc3339(datetime.fromtimestamp(unix, UTC)) if unix else None
