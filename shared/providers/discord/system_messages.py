"""Write Discord's system messages as sentences. Pure."""

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
_ABOUT_OTHERS: Final[Mapping[int, str]] = {1: "Added {} to the group", 2: "Removed {} from the group"}
_DEEDS: Final[Mapping[int, str]] = {
    3: "Started a call",
    5: "Changed the icon of the group",
    6: "Pinned a message",
    7: "Joined the server",
    8: "Boosted the server",
    9: "Boosted the server to level 1",
    10: "Boosted the server to level 2",
    11: "Boosted the server to level 3",
    12: "Added a channel whose news are shown here",
    24: "Was stopped by an automatic rule",
    25: "Bought a role",
    27: "Started a stage",
    28: "Ended a stage",
    29: "Speaks on the stage",
    31: "Changed the topic of the stage",
    32: "Bought a subscription of an app",
    36: "Switched security actions on",
    37: "Switched security actions off",
    38: "Reported a raid",
    39: "Reported a false alarm",
    44: "Bought something",
    46: "Ended a poll",
}


def system_text(item: Mapping[str, Any], kind: int, author: Person, channels: Mapping[str, str]) -> str:
    """Return the text of a message of Discord's API of a type that is not in `FROM_PEOPLE` or `COMMANDS`.

    Its subject is the author, who is not named in it. `channels` has names of channels and threads, by id.
    """
    content = item.get("content")
    detail = clean_line(content[:200]).strip() if isinstance(content, str) else ""
    if kind == _RENAMED:
        return f"Changed the name to {detail}" if detail else "Changed the name"
    if kind == _THREAD:
        reference = item.get("message_reference")
        thread = reference.get("channel_id") if isinstance(reference, dict) else None
        name = channels.get(thread, "") if isinstance(thread, str) else ""
        return f"Started the thread {name or detail}".rstrip()
    if kind in _ABOUT_OTHERS:
        return _about_other(item, kind, author)
    return _DEEDS.get(kind) or detail or "A message of Discord"


def _about_other(item: Mapping[str, Any], kind: int, author: Person) -> str:
    mentions = item.get("mentions")
    other = mentions[0] if isinstance(mentions, list) and mentions else None
    if not isinstance(other, dict):
        return _ABOUT_OTHERS[kind].format("somebody")
    if kind == _REMOVED and other.get("id") == author.id:
        return "Left the group"
    name = other.get("global_name") or other.get("username")
    return _ABOUT_OTHERS[kind].format(clean_line(str(name)[:200]) if name else "somebody")
