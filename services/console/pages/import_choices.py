"""Describe the choices for each channel and person of an import, as rows of a form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.console.pages.import_words import match_in_words, reason_in_words

Json = Mapping[str, Any]
Options = Sequence[tuple[str, str]]
"""Values with their texts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The option that is selected, and its id or name. Both are empty without a choice."""

    option: str = ""
    detail: str = ""

    @property
    def text(self) -> str:
        """Return the choice as one value of a form."""
        return f"{self.option} {self.detail}".strip()


@dataclass(frozen=True, slots=True)
class Choices:
    """The form of channels, or of people.

    `field` is the field of the plan, `key` the field of an item that has its id. `options` returns the
    options of an item. `of` returns the choice of an entry of the plan, `entry` the entry of a choice.
    """

    path: str
    title: str
    intro: str
    field: str
    key: str
    filter: str
    filters: Options
    needs: str
    """The label of the text field of a row."""
    options: Callable[[Json], Options]
    of: Callable[[Json | None, Json], Choice]
    entry: Callable[[Choice, Json], Json | None]
    about: Callable[[Json], str]
    outcome: Callable[[Json], str]
    page_options: Options
    bulk: Mapping[str, tuple[str, Json]]
    """Changes of all items: title and change of the plan, by the name of the button."""


def _channel_options(item: Json) -> Options:
    mapped = item["mapped"]
    found = [("", "as the options say"), ("new", "a new channel"), ("existing", "an existing channel")]
    if mapped:
        found.append(("mapped", f"its mapped channel: {mapped['name'] or mapped['channel_id']}"))
    return [*found, ("leave_out", "left out")]


def _channel_choice(entry: Json | None, _: Json) -> Choice:
    if entry is None:
        return Choice()
    return Choice(entry["into"], entry.get("channel_id") or entry.get("name") or "")


def _channel_entry(choice: Choice, _: Json) -> Json | None:
    match choice.option:
        case "":
            return None
        case "existing":
            return {"into": "existing", "channel_id": choice.detail or None}
        case "new":
            return {"into": "new", "name": choice.detail or None}
    return {"into": choice.option}


def _channel_about(item: Json) -> str:
    parts = [str(item["kind"])]
    if item["archived"]:
        parts.append("archived")
    if item["members"]:
        parts.append(f"{item['members']:,} members")
    if item["first"]:
        parts.append(f"{item['first']} to {item['last']}")
    return ", ".join(parts)


def _channel_outcome(item: Json) -> str:
    if item["left_out"]:
        return f"left out: {reason_in_words(item['left_out'])}"
    return f"in channel {item['channel_id']}" if item["channel_id"] else ""


def _person_options(item: Json) -> Options:
    found = [("", "as the options say"), ("user", "a user of the chat")]
    if item["proposed_user_id"]:
        found.append(("name", f"the user of the same name: {item['proposed_user_id']}"))
    return [*found, ("guest", "a guest"), ("leave_out", "left out, with all messages")]


def _person_choice(entry: Json | None, item: Json) -> Choice:
    if entry is None:
        return Choice()
    if entry["as"] != "user":
        return Choice(entry["as"])
    if entry.get("by") == "name" and entry["user_id"] == item["proposed_user_id"]:
        return Choice("name")
    return Choice("user", entry["user_id"])


def _person_entry(choice: Choice, item: Json) -> Json | None:
    match choice.option:
        case "":
            return None
        case "user":
            return {"as": "user", "user_id": choice.detail or None}
        case "name":
            return {"as": "user", "user_id": item["proposed_user_id"], "by": "name"}
    return {"as": choice.option}


def _person_about(item: Json) -> str:
    parts = [item["email"] or ""]
    parts += ["bot"] if item["bot"] else []
    parts += [] if item["active"] else ["not active any more"]
    return ", ".join(part for part in parts if part)


def _person_outcome(item: Json) -> str:
    user = f": {item['user_id']}" if item["user_id"] else ""
    return match_in_words(item["matched_by"]) + user


_KINDS: Final = ("channel", "group", "direct")
CHANNELS: Final = Choices(
    "channels",
    "Channels",
    "Where each conversation goes. One without a choice of its own goes where the options say.",
    "channels",
    "conversation",
    "kind",
    [(kind, kind) for kind in _KINDS],
    "Id of the channel, or another name",
    _channel_options,
    _channel_choice,
    _channel_entry,
    _channel_about,
    _channel_outcome,
    [("", "as the options say"), ("new", "a new channel each"), ("leave_out", "left out")],
    {
        "all": ("Import all channels", {"channels": None, "other_channels": "mapped"}),
        "none": ("Leave all out but those I choose", {"channels": None, "other_channels": "leave_out"}),
    },
)
PEOPLE: Final = Choices(
    "people",
    "People",
    "Who each person is in the chat. Guests are created; nobody is invited.",
    "people",
    "id",
    "matched_by",
    [(name, match_in_words(name)) for name in ("link", "email", "manual", "name", "guest", "leave_out")],
    "Id of the user",
    _person_options,
    _person_choice,
    _person_entry,
    _person_about,
    _person_outcome,
    [("", "as the options say"), ("name", "the user of the same name"), ("guest", "guests")],
    {
        "all": ("Match all by link and e-mail", {"people": None, "match_people": True}),
        "none": ("Make all of them guests", {"people": None, "match_people": False}),
    },
)
