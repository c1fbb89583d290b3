"""Where text may be cut without cutting a character that people see. Pure.

The rules are the common ones of Unicode's grapheme clusters (UAX #29): combining marks, joined emoji, skin
tones, flags, Hangul syllables.
"""

import unicodedata
from typing import Final

MAX_CLUSTER_CHARACTERS: Final = 64
"""A longer cluster is cut."""

_JOINER: Final = "\u200d"


def cluster_start(text: str, index: int) -> int:
    """Return the last position up to `index` that is between two clusters, or at an end of the text."""
    for position in range(index, max(0, index - MAX_CLUSTER_CHARACTERS), -1):
        if position >= len(text) or _is_between(text, position):
            return position
    return 0 if index <= MAX_CLUSTER_CHARACTERS else index


def first_cluster_end(text: str) -> int:
    """Return where the first cluster of a text ends. The text is not empty."""
    for position in range(1, min(len(text), MAX_CLUSTER_CHARACTERS)):
        if _is_between(text, position):
            return position
    return min(len(text), MAX_CLUSTER_CHARACTERS)


def _is_between(text: str, index: int) -> bool:
    last, character = text[index - 1], text[index]
    if character.isascii():
        return last != _JOINER
    if last == _JOINER or _extends(character):
        return False
    if _is_flag(character) and _is_flag(last):
        start = index
        while start and index - start < MAX_CLUSTER_CHARACTERS and _is_flag(text[start - 1]):
            start -= 1
        return (index - start) % 2 == 0
    return not ("\u1100" <= last <= "\u11ff" and "\u1100" <= character <= "\u11ff")


def _extends(character: str) -> bool:
    return (
        character == _JOINER
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
        or unicodedata.category(character)[0] == "M"
    )


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
