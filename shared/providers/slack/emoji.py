"""Slack's short names of emoji, and the characters of Unicode that they stand for (`emoji.txt`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from shared.richtext.tree import CustomEmoji, Emoji

_FIRST_TONE: Final = 0x1F3FB
_TONES: Final = {chr(_FIRST_TONE + number): number + 2 for number in range(5)}
"""Slack counts skin tones from 2 to 6."""
_ANY_TONE: Final = re.compile("[\U0001f3fb-\U0001f3ff]")
_VARIATION: Final = "\ufe0f"
_NAME: Final = re.compile(r"([a-z0-9_+'\-\u00c0-\uffff]{1,100})(?:::skin-tone-([2-6]))?", re.IGNORECASE)
_UNIFIED: Final = re.compile(r"[0-9a-f]{2,6}(?:-[0-9a-f]{2,6}){0,12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Table:
    character_by_name: Mapping[str, str]
    name_by_character: Mapping[str, str]


@cache
def _table() -> _Table:
    """Load the table on first use: lines of code points and names, the usual name first."""
    characters: dict[str, str] = {}
    names: dict[str, str] = {}
    for line in files(__package__).joinpath("emoji.txt").read_text("utf-8").splitlines():
        unified, *known = line.split()
        character = _from_unified(unified)
        names.setdefault(character.replace(_VARIATION, ""), known[0])
        for name in known:
            characters.setdefault(name, character)
    return _Table(characters, names)


def _from_unified(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split("-"))


def emoji_named(name: str, unified: str = "") -> Emoji | CustomEmoji | None:
    """Return the emoji with a name (`wave`, `wave::skin-tone-3`), or else with code points (`1f44b-1f3fc`).

    Any other name is an emoji of the workspace. None for what cannot be a name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    character = _table().character_by_name.get(match[1])
    if character is None and _UNIFIED.fullmatch(unified):
        try:
            character = _from_unified(unified)
        except ValueError:  # beyond Unicode
            character = None
    if character is None:
        return CustomEmoji(match[1], match[1])
    if match[2]:
        character = _with_tone(character, int(match[2]))
    return Emoji(character, name)


def _with_tone(character: str, tone: int) -> str:
    """Put a skin tone behind the first character, in the place of its variation selector."""
    rest = character[1:].removeprefix(_VARIATION)
    return character[0] + chr(_FIRST_TONE + tone - 2) + rest


def name_of(character: str) -> str | None:
    """Return Slack's name of a character, with its skin tone; None if Slack has none."""
    known = _table().name_by_character
    bare = character.replace(_VARIATION, "")
    if name := known.get(bare):
        return name
    tones = _ANY_TONE.findall(bare)
    name = known.get(_ANY_TONE.sub("", bare)) if tones else None
    return f"{name}::skin-tone-{_TONES[tones[0]]}" if name else None


def emoji_element(character: str) -> dict[str, Any] | None:
    """Return the element of `rich_text` for a character; None if Slack has no name for it."""
    name = name_of(character)
    if name is None:
        return None
    base, _, tone = name.partition("::skin-tone-")
    return {"type": "emoji", "name": base, **({"skin_tone": int(tone)} if tone else {})}


def reaction_name(emoji: str) -> str | None:
    """Return the name for a reaction with a character, or with `:name:` of the workspace; None if none."""
    if len(emoji) > 2 and emoji[0] == emoji[-1] == ":":
        name = emoji[1:-1]
        return name if _NAME.fullmatch(name) else None
    return name_of(emoji)


def reaction_emoji(name: str) -> str | None:
    """Return the character of a reaction's name, or `:name:` for one of the workspace; None if malformed."""
    emoji = emoji_named(name)
    if emoji is None:
        return None
    return emoji.text if isinstance(emoji, Emoji) else f":{emoji.name}:"
