"""What Discord writes about what somebody did, as sentences. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from shared.manifests.channel_types import Person
from shared.richtext.build import clean_line

FROM_PEOPLE: Final = frozenset({0, 19})
"""Types of messages that people and bots write: a message, and a reply."""
COMMANDS: Final = frozenset({20, 23})
"""Types of the answers of apps to commands."""
THREAD_STARTER: Final = 21
_REMOVED: Final = 2
_RENAMED: Final = 4
_THREAD: Final = 18
_ABOUT_OTHERS: Final[Mapping[int, str]] = {1: "added {} to the group", 2: "removed {} from the group"}
_DEEDS: Final[Mapping[int, str]] = {
    3: "started a call",
    5: "changed the icon of the group",
    6: "pinned a message",
    7: "joined the server",
    8: "boosted the server",
    9: "boosted the server to level 1",
    10: "boosted the server to level 2",
    11: "boosted the server to level 3",
    12: "added a channel whose news are shown here",
    24: "was stopped by an automatic rule",
    25: "bought a role",
    27: "started a stage",
    28: "ended a stage",
    29: "speaks on the stage",
    31: "changed the topic of the stage",
    32: "bought a subscription of an app",
    36: "switched security actions on",
    37: "switched security actions off",
    38: "reported a raid",
    39: "reported a false alarm",
    44: "bought something",
    46: "ended a poll",
}


def system_text(item: Mapping[str, Any], kind: int, author: Person, channels: Mapping[str, str]) -> str:
    """Return the text of a message of Discord's API of a type that is not in `FROM_PEOPLE` or `COMMANDS`.

    `channels` has names of channels and threads, by id.
    """
    content = item.get("content")
    detail = clean_line(content[:200]).strip() if isinstance(content, str) else ""
    who = author.name or author.id
    if kind == _RENAMED:
        return f"{who} changed the name to {detail}" if detail else f"{who} changed the name"
    if kind == _THREAD:
        reference = item.get("message_reference")
        thread = reference.get("channel_id") if isinstance(reference, dict) else None
        name = channels.get(thread, "") if isinstance(thread, str) else ""
        return f"{who} started the thread {name or detail}".rstrip()
    if kind in _ABOUT_OTHERS:
        return f"{who} {_about_other(item, kind, author)}"
    return f"{who} {_DEEDS[kind]}" if kind in _DEEDS else f"{who}: {detail or 'a message of Discord'}"


def _about_other(item: Mapping[str, Any], kind: int, author: Person) -> str:
    mentions = item.get("mentions")
    other = mentions[0] if isinstance(mentions, list) and mentions else None
    if not isinstance(other, dict):
        return _ABOUT_OTHERS[kind].format("somebody")
    if kind == _REMOVED and other.get("id") == author.id:
        return "left the group"
    name = other.get("global_name") or other.get("username")
    return _ABOUT_OTHERS[kind].format(clean_line(str(name)[:200]) if name else "somebody")
