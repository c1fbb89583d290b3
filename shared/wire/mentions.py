"""Mass mentions (`@everyone`, `<!here>`) in text of strangers: made plain text that notifies nobody."""

import re
from typing import Final

_NAMES: Final = ("everyone", "here", "channel", "all", "room")
"""Names of all people of a channel or chat."""
_NAME_END: Final = r"(?!_*[^\W_])"
"""Underscores around a name are Markdown's emphasis."""


def _character_pattern(character: str) -> str:
    """Return the pattern of a letter as it is or as an HTML entity, in upper or lower case."""
    codes = sorted({ord(character), ord(character.upper())})
    decimal, hexadecimal = ("|".join(format(code, kind) for code in codes) for kind in "dx")
    return rf"(?:{character}|&#0*+(?:{decimal})(?:;|(?!\d))|&#x0*+(?:{hexadecimal})(?:;|(?![0-9a-f])))"


_NAME: Final = rf"(?:{'|'.join(_NAMES)}){_NAME_END}"
_ENCODED_NAME: Final = (
    rf"(?:{'|'.join(''.join(map(_character_pattern, name)) for name in _NAMES)}){_NAME_END}"
)
_AT: Final = r"(?:[@\uff20\ufe6b]|&commat;|&#0*64;|&#[xX]0*40;)"
_MENTION: Final = re.compile(
    rf"(?P<url>https?://[^\s<>\"]+)|(?:<|&lt;)!(?P<special>{_NAME})(?:\\?\|[^<>\n]{{0,100}}?)?\\?(?:>|&gt;)"
    rf"|(?:(?<![^\W_])|(?={_AT}{_NAME}(?!\.\w)))(?P<at>{_AT})"  # not in an e-mail address
    rf"(?=[*_]*{_ENCODED_NAME})",
    re.IGNORECASE,
)
_IN_URL: Final = re.compile(rf"@(?={_NAME})", re.IGNORECASE)
_MAX_CHARACTERS: Final = 40_000
_ZERO_WIDTH_SPACE: Final = "\u200b"
"""Put after the `@`: the text looks the same, and is no longer a name that a chat knows."""


def defuse_mentions(text: str) -> str:
    """Return the text with every mention of all people of a channel or chat made plain text.

    A URL keeps its meaning: in it, `@` becomes `%40`. A text over 40,000 characters is returned as it is,
    because it exceeds every limit of a message anyway.
    """
    return _MENTION.sub(_replace_mention, text) if len(text) <= _MAX_CHARACTERS else text


def _replace_mention(match: re.Match[str]) -> str:
    if url := match["url"]:
        return _IN_URL.sub("%40", url)
    if special := match["special"]:
        return f"@{_ZERO_WIDTH_SPACE}{special}"
    return match["at"] + _ZERO_WIDTH_SPACE
