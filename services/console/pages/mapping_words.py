"""Describe a mapping: the form fields of its legs, their picture, and the sentences of a preview."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.console.pages.kinds import Field

Json = Mapping[str, Any]

CHAT: Final = "chat"
MAX_LEGS: Final = 10
DIRECTIONS: Final[Mapping[str, str]] = {
    "both": "sends and receives",
    "in": "sends only",
    "out": "receives only",
}
_ARROWS: Final[Mapping[str, str]] = {"both": "⇄", "in": "→", "out": "←"}
_STYLES: Final = {
    "override": "as the author, where the provider can",
    "prefix": "before the text",
    "none": "not at all",
}
_MENTIONS: Final = {
    "never": "nobody's stay mentions",
    "everyone": "everybody's stay mentions",
    "linked_users": "those of linked users stay mentions",
}
_CONFLICTS: Final = {
    "latest": "the latest edit",
    "source": "the edit where it was written",
    "target": "the edit where it was forwarded to",
    "manual": "what a person chooses",
}
FILTERS: Final = (
    Field("bots", "Forward messages of bots", "flag"),
    Field("include_people", "Only messages of these people", "lines", "Their ids, one a line."),
    Field("exclude_people", "No messages of these people", "lines", "Their ids, one a line."),
    Field("include_words", "Only messages with one of these words", "lines", "One a line."),
    Field("exclude_words", "No messages with one of these words", "lines", "One a line."),
)
OPTIONS: Final = (
    Field("name_style", "Author's name", "select", "", tuple(_STYLES), "override", labels=_STYLES),
    Field("prefix", "Text before the author's name"),
    *(
        Field(name, f"Forward {name}", "flag", default="yes")
        for name in ("files", "reactions", "edits", "deletions")
    ),
    Field("mass_mentions", "Mentions of everyone", "select", "", tuple(_MENTIONS), "never", labels=_MENTIONS),
    Field("conflicts", "If both sides edit", "select", "", tuple(_CONFLICTS), "latest", labels=_CONFLICTS),
    Field("retry_for_s", "Seconds for which a message is tried", "number", default="86400"),
    Field("failure_notice", "Say in the source conversation that a message cannot be sent", "flag"),
)
NAME: Final = Field("name", "Name")


def leg_fields(number: int, places: Mapping[str, str]) -> list[Field]:
    """Return the fields of a leg. `places` are the texts of accounts by provider and account."""
    where = Field(
        f"place-{number}", f"Conversation {number + 1}: where", "select", "", ("", *places), labels=places
    )
    hint = "Its id, as Find a conversation shows it; of the chat, the channel's id."
    conversation = Field(f"conversation-{number}", f"Conversation {number + 1}: id", hint=hint)
    title = f"Conversation {number + 1}: messages"
    names = tuple(DIRECTIONS)
    direction = Field(f"direction-{number}", title, "select", "", names, "both", labels=DIRECTIONS)
    return [where, conversation, direction]


def legs_picture(item: Json) -> list[Json]:
    """Return title, arrow, words and state of each leg, for the picture of a mapping."""
    return [
        {
            **leg,
            "title": leg["name"] or leg["conversation"],
            "arrow": _ARROWS.get(leg["direction"], ""),
            "words": DIRECTIONS.get(leg["direction"], leg["direction"]),
            "state": "error" if leg["problem"] else item["status"],
        }
        for leg in item["legs"]
    ]


def preview_sentences(preview: Json) -> list[str]:
    """Return sentences about a preview: capabilities, limitations and problems of each conversation."""
    legs: Sequence[Json] = preview["legs"]
    names = [f"{leg['provider']} {leg['name'] or leg['conversation']}" for leg in legs]
    sentences = ["It can be stored." if preview["ok"] else "It cannot be stored as it is."]
    sentences += [str(problem) for problem in preview["problems"]]
    for name, leg in zip(names, legs, strict=True):
        able = ", ".join(part["name"] for part in leg["capabilities"] if part["available"])
        words = DIRECTIONS.get(leg["direction"], leg["direction"])
        sentences.append(f"{name} {words}{f'; it can: {able}' if able else ''}.")
        sentences += [f"{name}: {problem}" for problem in leg["problems"]]
        for part in leg["capabilities"]:
            if not part["available"] and part["reason"]:
                sentences.append(f"{name} cannot: {part['name']}. {part['reason']}")
            elif part["note"]:
                sentences.append(f"{name}: {part['note']}")
    for found in preview["not_following"]:
        route = f"from {names[found['from_leg']]} to {names[found['to_leg']]}"
        sentences.append(f"Not forwarded {route}: {found['what']}. {found['reason']}")
    return sentences
