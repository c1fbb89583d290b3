"""Mass mentions (`@everyone`, `<!here>`) in text of strangers: made plain text that notifies nobody."""

import re
from html import unescape
from typing import Final

_NAMES: Final = r"(?:everyone|here|channel|all|room)(?!_*[^\W_])"
"""Names of all people of a channel or chat. Underscores around them are Markdown's emphasis."""
_AT: Final = r"(?:[@\uff20\ufe6b]|&commat;|&#0*64;|&#[xX]0*40;)"
_MENTION: Final = re.compile(
    rf"(?P<url>https?://[^\s<>\"]+)|(?:<|&lt;)!(?P<special>{_NAMES})(?:\\?\|[^<>\n]{{0,100}}?)?\\?(?:>|&gt;)"
    rf"|(?:(?<![^\W_])|(?={_AT}{_NAMES}(?!\.\w)))(?P<at>{_AT})"  # not in an e-mail address
    rf"(?=[*_]*(?:{_NAMES}|(?P<encoded>[a-z]{{0,8}}&#[a-z0-9&#;]{{1,80}})))",
    re.IGNORECASE,
)
_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_IN_URL: Final = re.compile(rf"@(?={_NAMES})", re.IGNORECASE)
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
    if (encoded := match["encoded"]) and not _NAME.match(unescape(encoded)):  # `@bob&#39;s`
        return match[0]
    return match["at"] + _ZERO_WIDTH_SPACE
