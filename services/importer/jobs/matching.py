"""Match the people of an export with the users of the chat, and conversations with its channels. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from services.importer.jobs.plan import ChannelPlan, Plan
from services.importer.store.chat_directory import MappedChannel
from services.importer.store.chat_users import ChatUserRecord
from services.importer.store.contents import ChannelRecord, PersonRecord

CLOSED_KINDS: Final = ("group", "direct")

MatchedBy = Literal["manual", "name", "link", "email", "guest", "leave_out"]


@dataclass(frozen=True, slots=True)
class Match:
    """The user of the chat that a person of the export is, None for a guest, and the rule that matched."""

    by: MatchedBy
    user_id: str | None = None


class Users:
    """The chat's users by link, e-mail address and name. An address or name of two users matches neither."""

    def __init__(self, links: Mapping[str, str | None], users: Iterable[ChatUserRecord]) -> None:
        """Take the links of the account's persons, and the users of the chat."""
        known = list(users)
        self._links = links
        self._by_email = _unique((user.email, user.user_id) for user in known if user.email)
        self._by_name = _unique((user.name.casefold(), user.user_id) for user in known if user.name)

    def match(self, person: PersonRecord, plan: Plan) -> Match:
        """Return the match of a person by the plan."""
        choice = plan.people.get(person.person_id)
        if choice is not None:
            if choice.as_ == "user":
                return Match(choice.by, choice.user_id)
            return Match("leave_out" if choice.as_ == "leave_out" else "guest")
        if not plan.match_people:
            return Match("guest")
        if person.person_id in self._links:
            user_id = self._links[person.person_id]
            return Match("link", user_id) if user_id else Match("guest")
        user_id = self._by_email.get(person.email.casefold()) if person.email else None
        return Match("email", user_id) if user_id else Match("guest")

    def proposal(self, person: PersonRecord) -> str | None:
        """Return the user with the same name, for a person to review."""
        return self._by_name.get(person.name.casefold()) if person.name and not person.bot else None


@dataclass(frozen=True, slots=True)
class Place:
    """The channel for a conversation. `reason` says why it is left out; otherwise `channel_id` is set."""

    channel_id: str = ""
    existing: bool = False
    name: str = ""
    reason: str | None = None


def place_of(record: ChannelRecord, plan: Plan, mapped: MappedChannel | None, new_id: str) -> Place:
    """Return where a conversation goes by the plan. `new_id` is the id of a new channel for it.

    Raises `LookupError` if the plan wants the mapped channel of a conversation that has none.
    """
    if record.problem:
        return Place(reason="not_readable")
    choice = plan.channels.get(record.conversation)
    if choice is None:
        if (reason := _rule(record, plan)) is not None:
            return Place(reason=reason)
        choice = ChannelPlan(into="mapped" if plan.other_channels == "mapped" and mapped else "new")
    name = choice.name or record.name or record.conversation
    match choice.into:
        case "leave_out":
            return Place(reason="left_out")
        case "existing":
            return Place(choice.channel_id or "", existing=True, name=name)
        case "mapped":
            if mapped is None:
                raise LookupError
            return Place(mapped.channel_id, existing=True, name=mapped.name or name)
        case "new":
            return Place(new_id, name=name)


def name_conflicts(names: Iterable[tuple[str, str]], known: Mapping[str, str]) -> list[str]:
    """Return the names of new channels that several have, or that a channel of the chat has.

    `names` has name and channel id of each new channel, `known` the ids of the chat's channels by name in
    lower case.
    """
    seen: dict[str, str] = {}
    found: dict[str, None] = {}
    for name, channel_id in names:
        key = name.casefold()
        others = {seen.setdefault(key, channel_id), known.get(key, channel_id)} - {channel_id}
        if others:
            found[name] = None
    return list(found)


def _rule(record: ChannelRecord, plan: Plan) -> str | None:
    """Return why a conversation that the plan does not name is left out; None if it is imported."""
    if plan.other_channels == "leave_out":
        return "left_out"
    if record.kind in CLOSED_KINDS and not plan.direct_messages:
        return "direct_messages"
    if record.archived and not plan.archived_channels:
        return "archived"
    return None


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the values by key, without keys that have different values."""
    found: dict[str, str | None] = {}
    for key, value in pairs:
        found[key] = value if found.setdefault(key, value) == value else None
    return {key: value for key, value in found.items() if value is not None}
