"""Who and what the lines of a Mattermost bulk export name: teams, channels, people and their memberships."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from shared.manifests.channel_types import Person
from shared.manifests.history_order import UNKNOWN, plausible_time
from shared.manifests.history_types import ConversationKind, HistoryConversation, HistoryPerson
from shared.richtext.build import clean_line

_MAX_PEOPLE: Final = 200_000
_MAX_CHANNELS: Final = 200_000
_MAX_MEMBERSHIPS: Final = 2_000_000
_MAX_ID: Final = 200
_PAIR: Final = 2
_DIRECT: Final = "direct:"


def text_of(value: Any, limit: int = _MAX_ID) -> str:
    """Return a name or an id as one clean line; empty for what is no text."""
    return clean_line(value[:limit]).strip() if isinstance(value, str) else ""


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list; nothing for what is no list."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def seconds_of(value: Any) -> float | None:
    """Return a time in milliseconds as a Unix time; None if it is none of this century."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return plausible_time(value / 1000)
    except OverflowError:
        return None


def channel_id(post: Mapping[str, Any]) -> str:
    """Return the id of a post's channel, which is made of the names of team and channel; empty without."""
    name = text_of(post.get("channel"))
    return f"{text_of(post.get('team'))}/{name}" if name else ""


def direct_id(members: Any) -> str:
    """Return the id of a direct conversation, which is made of its people; empty without people."""
    names = sorted({text_of(name) for name in members} - {""}) if isinstance(members, list) else []
    joined = ",".join(names)
    if len(joined) > _MAX_ID:
        joined = blake2b(joined.encode(), digest_size=16).hexdigest()
    return f"{_DIRECT}{joined}" if joined else ""


class ExportNames:
    """Collects what the lines name, in bounded memory: what is beyond the limits is left out."""

    def __init__(self) -> None:
        self.people: dict[str, HistoryPerson] = {}
        self.unverified = 0
        """People whose e-mail address is left out."""
        self._channels: dict[str, HistoryConversation] = {}
        self._members: defaultdict[str, list[str]] = defaultdict(list)
        self._memberships = 0

    def add(self, kind: str, item: Mapping[str, Any]) -> None:
        """Take a line of one of the kinds `user`, `bot`, `channel` and `direct_channel`."""
        match kind:
            case "user" | "bot":
                self._add_person(kind, item)
            case "channel":
                self._add_channel(item)
            case "direct_channel":
                members = item.get("members")
                if not isinstance(members, list):
                    members = [one.get("username") for one in objects(item.get("participants"))]
                self.direct(members, text_of(item.get("header"), 1000))

    def direct(self, members: Any, topic: str = "") -> None:
        """Note a direct conversation of these people."""
        conversation = direct_id(members)
        if conversation and conversation not in self._channels and len(self._channels) < _MAX_CHANNELS:
            names = sorted({text_of(name) for name in members} - {""})
            kind: ConversationKind = "direct" if len(names) <= _PAIR else "group"
            name = ", ".join(names)[:_MAX_ID]
            self._channels[conversation] = HistoryConversation(
                conversation, name, kind, topic=topic, members=names
            )

    def conversations(self, used: Sequence[str]) -> list[HistoryConversation]:
        """Return the conversations that are listed, and those that only messages name."""
        found = [
            HistoryConversation(
                item.id,
                item.name,
                item.kind,
                item.archived,
                topic=item.topic,
                members=item.members or self._members.get(item.id, ()),
            )
            for item in self._channels.values()
        ]
        for conversation in used:
            if conversation == UNKNOWN.id:
                found.append(UNKNOWN)
            elif conversation not in self._channels:
                found.append(HistoryConversation(conversation, conversation.rpartition("/")[2], listed=False))
        return found

    def _add_person(self, kind: str, item: Mapping[str, Any]) -> None:
        username = text_of(item.get("username"))
        if not username or len(self.people) >= _MAX_PEOPLE:
            return
        full_name = f"{text_of(item.get('first_name'))} {text_of(item.get('last_name'))}".strip()
        names = (text_of(item.get("nickname")), text_of(item.get("display_name")), full_name, username)
        email = text_of(item.get("email"), 320)
        is_verified = bool(text_of(item.get("auth_service")))
        self.unverified += bool(email) and not is_verified
        person = Person(
            username,
            next(name for name in names if name),
            email=email if is_verified and "@" in email else None,
            bot=kind == "bot",
        )
        self.people[username] = HistoryPerson(person, active=not item.get("delete_at"))
        for team in objects(item.get("teams")):
            for channel in objects(team.get("channels")):
                self._memberships += 1
                if self._memberships <= _MAX_MEMBERSHIPS:
                    member_of = channel_id({"team": team.get("name"), "channel": channel.get("name")})
                    self._members[member_of].append(username)

    def _add_channel(self, item: Mapping[str, Any]) -> None:
        conversation = channel_id({"team": item.get("team"), "channel": item.get("name")})
        if conversation and len(self._channels) < _MAX_CHANNELS:
            self._channels[conversation] = HistoryConversation(
                conversation,
                text_of(item.get("display_name")) or text_of(item.get("name")),
                "private" if item.get("type") == "P" else "channel",
                archived=bool(item.get("deleted_at")),
                topic=text_of(item.get("header"), 1000) or text_of(item.get("purpose"), 1000),
            )
